//! Production's memory with one ordering relaxed. Miri must report it.

use crate::scenario::doubles::{Access, Interpose, Interposed};
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use std::sync::OnceLock;

static RELAXED: OnceLock<Site> = OnceLock::new();

/// Relaxes a site from now on.
pub fn relax(site: Site) {
    RELAXED.set(site).expect("one site in a run");
}

/// A region in which one site is relaxed.
pub type Weakened = Interposed<Region, Relaxing>;

#[derive(Clone)]
pub struct Relaxing;

impl Interpose<Region> for Relaxing {
    fn before(&self, region: &Region, at: usize, access: Access<'_>) -> bool {
        let is_relaxed = |site| RELAXED.get() == Some(&site);
        match access {
            Access::Load(site, value) if is_relaxed(site) => {
                *value = region.load(at, Site::RingRead);
            }
            Access::Store(site, value) if is_relaxed(site) => {
                region.store(at, value, Site::CommitFill);
            }
            Access::Fence(site) if is_relaxed(site) => {}
            _ => return true,
        }
        false
    }
}

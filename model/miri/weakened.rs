//! Production's memory with one ordering relaxed. Miri must report it.

use llmp::core::memory::{Intent, Memory, Offset, Region};
use llmp::core::order::{Kind, Site};
use std::sync::OnceLock;

static RELAXED: OnceLock<Site> = OnceLock::new();

/// Relaxes a site from now on.
pub fn relax(site: Site) {
    RELAXED.set(site).expect("one site in a run");
}

/// A region in which one site is relaxed.
#[derive(Clone)]
pub struct Weakened(pub Region);

/// Returns the site whose ordering this one has in this run.
fn ordered_as(site: Site) -> Option<Site> {
    if RELAXED.get() != Some(&site) {
        return Some(site);
    }
    match site.access() {
        Kind::Load => Some(Site::RingRead),
        Kind::Store => Some(Site::CommitFill),
        Kind::Fence => None,
    }
}

impl Memory for Weakened {
    type Part<'a> = Offset<'a, Self>;

    fn region_len(&self) -> usize {
        self.0.region_len()
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        self.0.load(at, ordered_as(site).expect("a load is no fence"))
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.0.store(at, value, ordered_as(site).expect("a store is no fence"));
    }

    fn fence(&self, site: Site) {
        if let Some(site) = ordered_as(site) {
            self.0.fence(site);
        }
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        self.0.read_words(at)
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        self.0.write_words(at, words);
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        self.0.read_bytes(at, into);
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        self.0.write_bytes(at, from);
    }
}

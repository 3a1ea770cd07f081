//! Views of a bus's regions: those of correct processes unchanged, those of one client forged.

use super::chain::View;
use super::forgery::{ForgedRegion, Script};
use super::hostile::Hostile;
use super::input::Input;
use llmp::core::memory::Region;
use std::sync::{Arc, Mutex, MutexGuard};

/// Pseudo page id of the hostile client's control region. Its pages have their own ids.
pub const CONTROL: u32 = 7;

/// A [`View`] of the hostile client's regions and of all others.
pub trait World: View {
    /// Returns a region whose words are never forged.
    fn honest(&self, region: Region) -> Self::Memory;

    /// Adds one more forgery from now on.
    fn forge(&self, input: &mut Input);
}

/// Memory whose words change between any two reads, by a script. The same input has the same
/// effect.
#[derive(Default)]
pub struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    pub fn new(script: Script) -> Self {
        Scripted(Arc::new(Mutex::new(script)))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no oracle panics while it looks")
    }

    fn region(&self, number: usize, region: Region) -> Hostile<Region, ForgedRegion> {
        let forged = ForgedRegion { region: number, script: self.0.clone() };
        Hostile::new(region, Arc::new(Mutex::new(forged)))
    }
}

impl View for Scripted {
    type Memory = Hostile<Region, ForgedRegion>;

    fn see(&self, id: u32, region: Region) -> Self::Memory {
        self.region(id as usize, region)
    }

    fn is_tampered(&self) -> bool {
        self.script().tampered
    }

    fn accesses(&self) -> u64 {
        self.script().accesses
    }
}

impl World for Scripted {
    fn honest(&self, region: Region) -> Self::Memory {
        self.region(usize::MAX, region)
    }

    fn forge(&self, input: &mut Input) {
        self.script().add(input);
    }
}

//! How a bus sees its regions: the honest ones as they are, those of one client as it likes.

use super::chain::View;
use super::hostile::Hostile;
use super::input::Input;
use super::lies::{Liar, Script};
use llmp::core::memory::Region;
use std::sync::{Arc, Mutex, MutexGuard};

/// As what the liar's control region counts; its pages count by their ids.
pub const CONTROL: u32 = 7;

/// A [`View`] of the liar's regions, and of everybody else's.
pub trait World: View {
    /// A region about which nobody lies.
    fn honest(&self, region: Region) -> Self::Memory;

    /// From now on there is one more lie.
    fn lie(&self, input: &mut Input);
}

/// Memory whose words change between any two reads, as a script says. An input always does the
/// same.
#[derive(Default)]
pub struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    pub fn new(script: Script) -> Self {
        Scripted(Arc::new(Mutex::new(script)))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no oracle panics while it looks")
    }

    fn region(&self, number: usize, region: Region) -> Hostile<Region, Liar> {
        let liar = Liar { region: number, script: self.0.clone() };
        Hostile::new(region, Arc::new(Mutex::new(liar)))
    }
}

impl View for Scripted {
    type Memory = Hostile<Region, Liar>;

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

    fn lie(&self, input: &mut Input) {
        self.script().add(input);
    }
}

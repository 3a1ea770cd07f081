//! A chain whose words change under its reader: before it reads, and between any two reads (P12).

use super::chain::{Chain, View, limits};
use super::input::Input;
use super::lies::{Liar, Script};
use super::seen::Seen;
use llmp::memory::{Hostile, Region};
use std::sync::{Arc, Mutex, MutexGuard};

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let limits = limits(&mut input);
    let mut script = Script::default();
    for _ in 0..input.below(5) {
        script.add(&mut input);
    }
    let mut chain = Chain::new(Lying(Arc::new(Mutex::new(script))), limits);
    chain.run(&mut input);
    chain.seen
}

/// Pages as the script shows them.
pub struct Lying(Arc<Mutex<Script>>);

impl Lying {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no oracle panics while it looks")
    }
}

impl View for Lying {
    type Memory = Hostile<Region, Liar>;

    fn see(&self, id: u32, page: Region) -> Self::Memory {
        let liar = Liar { region: id as usize, script: self.0.clone() };
        Hostile::new(page, Arc::new(Mutex::new(liar)))
    }

    fn is_tampered(&self) -> bool {
        self.script().tampered
    }

    fn accesses(&self) -> u64 {
        self.script().accesses
    }
}

//! Seeds, one for each interesting state. `tests/fuzz_replay.rs` writes them to `fuzz/seeds` and
//! checks that they equal what this module makes.

mod buses;
mod chains;
pub mod command_line;
mod controls;
mod handshakes;
mod pages;

use super::input::Seed;

/// A target's seeds by name.
pub type Seeds = Vec<(String, Vec<u8>)>;

/// Returns all targets with their seeds.
pub fn all() -> [(&'static str, Seeds); 8] {
    [
        ("page_bytes", pages::seeds()),
        ("page_mutate", chains::seeds()),
        ("control_region", controls::seeds()),
        ("handshake", handshakes::seeds()),
        ("live_bus", buses::live_bus()),
        ("live_page", buses::live_page()),
        ("end_of_page", buses::end_of_page()),
        ("command_line", command_line::seeds()),
    ]
}

fn named<const N: usize>(seeds: [(&str, Seed); N]) -> Seeds {
    seeds.into_iter().map(|(name, seed)| (name.to_owned(), seed.0)).collect()
}

/// The operations of a sender. All oracles with a sender use the same bytes.
impl Seed {
    fn send(self, len: u16, kind: u8) -> Seed {
        self.byte(0).half(len).byte(kind)
    }

    fn append(self, len: u16, kind: u8) -> Seed {
        self.byte(1).half(len).byte(kind)
    }

    fn publish(self) -> Seed {
        self.byte(2)
    }

    fn abort(self) -> Seed {
        self.byte(3)
    }
}

/// The operations of a chain's only receiver.
impl Seed {
    fn read(self, steps: u8) -> Seed {
        self.byte(4).byte(steps - 1)
    }

    fn release(self) -> Seed {
        self.byte(5)
    }

    fn announces(self) -> Seed {
        self.byte(6)
    }

    fn has_room(self, len: u16) -> Seed {
        self.byte(7).half(len)
    }

    fn repeat(self, times: usize, step: impl Fn(Seed) -> Seed) -> Seed {
        (0..times).fold(self, |seed, _| step(seed))
    }
}

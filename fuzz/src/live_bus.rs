//! A bus with one client whose pages, cursors and parked words return any value at any access
//! (P12).

use super::bus::{Bus, Forged};
use super::input::Input;
use super::seen::Seen;
use super::world::Scripted;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    Bus::new(Scripted::default(), Forged::Words, &mut input).run(&mut input)
}

//! A chain whose words change under its reader: before it reads, and between any two reads (P12).

use super::chain::{Chain, limits};
use super::forgery::Script;
use super::input::Input;
use super::seen::Seen;
use super::world::Scripted;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let limits = limits(&mut input);
    let mut script = Script::default();
    let forgeries = input.below(10);
    for _ in 0..forgeries % 5 {
        script.add(&mut input);
    }
    let mut chain = Chain::new(Scripted::new(script), limits, forgeries >= 5);
    chain.run(&mut input);
    chain.seen
}

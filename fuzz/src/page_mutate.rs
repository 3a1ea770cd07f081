//! A chain whose words change under its reader: before it reads, and between any two reads (P12).

use super::chain::{Chain, limits};
use super::input::Input;
use super::lies::Script;
use super::seen::Seen;
use super::world::Scripted;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let limits = limits(&mut input);
    let mut script = Script::default();
    let lies = input.below(10);
    for _ in 0..lies % 5 {
        script.add(&mut input);
    }
    let mut chain = Chain::new(Scripted::new(script), limits, lies >= 5);
    chain.run(&mut input);
    chain.seen
}

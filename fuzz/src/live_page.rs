//! Pages, and a whole bus, that another thread writes while they are read. (P12)
//!
//! The oracle checks only invariants: typed faults, payloads within their pages and limits, a
//! bounded number of steps. On the bus it also checks that the correct clients' traffic arrives
//! exactly.

use super::bus::{Bus, Forged};
use super::chain::{Chain, limits};
use super::input::Input;
use super::scribbled::Scribbled;
use super::seen::Seen;
use super::world::World;
use llmp::Limits;
use llmp::core::layout::OS_PAGE;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let kind = input.below(6);
    let (kind, by_ref) = (kind % 3, kind >= 3);
    let world = Scribbled::new(kind == 1);
    for _ in 0..1 + input.below(4) {
        world.forge(&mut input);
    }
    let _scribbling = world.begin();
    match kind {
        0 => {
            let chain = Chain::new(world, limits(&mut input), by_ref);
            run_chain(chain, &mut input, "live heap")
        }
        1 => {
            let chain = Chain::new(world, of_the_kernel(&mut input), by_ref);
            run_chain(chain, &mut input, "live mapping")
        }
        _ => {
            let mut seen = Bus::new(world, Forged::Words, &mut input).run(&mut input);
            seen.mark("live bus");
            seen
        }
    }
}

fn run_chain(mut chain: Chain<Scribbled>, input: &mut Input, what: &str) -> Seen {
    chain.run(input);
    chain.seen.mark(what);
    chain.seen
}

/// Returns limits for memory that comes in whole pages.
fn of_the_kernel(input: &mut Input) -> Limits {
    Limits::new(OS_PAGE, 400, OS_PAGE * (2 + input.below(3))).expect("these fit together")
}

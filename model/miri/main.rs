//! The protocol over production's memory on the heap, for Miri. Miri detects data races, aliased
//! references, accesses out of bounds and reads of uninitialized memory.
//!
//! ```text
//! MIRIFLAGS="-Zmiri-strict-provenance -Zmiri-many-seeds=0..8" \
//!     cargo +nightly miri test --no-default-features --features std --test miri
//! ```
//!
//! A seed decides the order of the threads and which of the permitted values a load returns. The
//! scenarios are the models'. Those of [`lengths`] add payload lengths that the models lack.
//! Without Miri this is a stress test of a moment.
//!
//! With the name of a mutant and of a scenario, as in `-- 'CommitRead as Relaxed' lengths`, it makes
//! that mistake. [`judge`] runs Miri with each of them.

#[path = "../scenario/broker.rs"]
mod broker;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
mod judge;
mod lengths;
mod mutant;
#[path = "../../tests/common/regions.rs"]
mod regions;
#[path = "../scenario/mod.rs"]
mod scenario;
mod scenarios;
mod source;

use lengths::Lengths;
use llmp::core::memory::Region;
use mutant::Mutant;
use scenario::protocol::Protocol;
use scenario::{Runtime, mailbox};

mailbox!(StdMailbox, std);

/// Threads and the heap.
#[derive(Clone)]
struct Heap;

impl Runtime for Heap {
    type Memory = Region;
    type Mailbox<T: Send + 'static> = StdMailbox<T>;

    fn memory(&self, len: usize) -> Region {
        regions::heap(len)
    }

    fn mailbox<T: Send + 'static>(&self) -> StdMailbox<T> {
        StdMailbox::default()
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        spawn(thread)
    }
}

/// Starts a thread. The result waits for it.
fn spawn<T: Send + 'static>(thread: impl FnOnce() -> T + Send + 'static) -> Box<dyn FnOnce() -> T> {
    let thread = std::thread::spawn(thread);
    Box::new(move || thread.join().unwrap())
}

/// The end of a run with a mistake that Miri has not noticed.
const NO_MISTAKE: &str = ": Miri has noticed no mistake";

/// Runs one scenario. Production's protocol is a mistake if the source has one.
fn judged(protocol: Protocol, scenario: &str) {
    fn of<R: Runtime>(runtime: &R, scenario: &str, lengths: impl FnOnce()) {
        match scenarios::all().into_iter().find(|(name, _)| *name == scenario) {
            Some((_, scenario)) => scenario(runtime),
            None if scenario == "lengths" => lengths(),
            None => panic!("no scenario {scenario}"),
        }
    }
    // The other threads could wait for one that panics.
    std::panic::set_hook(Box::new(|panic| {
        // In one piece, because Miri runs several seeds at once.
        let said = format!("{panic}\n");
        eprint!("{said}");
        std::process::exit(1);
    }));
    if protocol == Protocol::Production {
        of(&Heap, scenario, || lengths::copied(Lengths::WholeWords));
    } else {
        let mutant = Mutant::of(protocol).expect("a mistake that Miri can judge");
        of(&mutant, scenario, || lengths::seen_by(&mutant));
    }
    println!("{protocol}{NO_MISTAKE}");
}

/// Runs production's protocol, which has no mistake.
fn everything(lengths: Lengths) {
    let scenarios = scenarios::all::<Heap>();
    for (_, scenario) in &scenarios {
        scenario(&Heap);
    }
    lengths::copied(lengths);
    lengths::borrowed(lengths);
    println!("miri: {} scenarios of the models, payloads of {lengths}", scenarios.len());
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let named = |name: &str| {
        let mut protocols = Protocol::mutants().chain([Protocol::Production]);
        protocols.find(|protocol| protocol.to_string() == name)
    };
    match arguments[..] {
        ["judge"] => judge::judge(false),
        ["judge-all"] => judge::judge(true),
        [name, scenario] => judged(named(name).expect("a mistake of this name"), scenario),
        ["words"] => everything(Lengths::WholeWords),
        _ => {
            if !cfg!(miri) {
                judge::check_tables();
            }
            everything(Lengths::All);
        }
    }
}

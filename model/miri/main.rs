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
//! With `-- CommitRead` and `-Zmiri-disable-weak-memory-emulation`, that site is relaxed and Miri
//! must report a data race. The same holds for the other sites that pass messages and pages on.

#[path = "../scenario/doorbell.rs"]
mod doorbell;
mod lengths;
#[path = "../../tests/common/regions.rs"]
mod regions;
#[path = "../scenario/mod.rs"]
mod scenario;
mod weakened;

use doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use lengths::Lengths;
use llmp::core::memory::Region;
use llmp::core::order::Site;
use scenario::by_ref::{self, Lives, by_reference};
use scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse, limits,
};
use scenario::{Runtime, mailbox, removed};
use weakened::{Relaxing, Weakened};

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
        let thread = std::thread::spawn(thread);
        Box::new(move || thread.join().unwrap())
    }
}

const SHORT: Size = Size { messages_per_page: 2, pages: 3, messages: 20, receivers: 2, steps: 40 };
const REF_SIZE: by_ref::Size =
    by_ref::Size { by_ref: 2, messages: 6, tries: 4, cycles: 4, steps: 4 };

/// Runs all scenarios and returns their number.
fn scenarios() -> usize {
    let heap = &Heap;
    let one = Size { receivers: 1, ..SHORT };
    let scenarios: [&dyn Fn(); 9] = [
        &|| deliver(heap, SHORT),
        &|| drop_claims(heap, one),
        &|| join_during_reuse(heap, SHORT, 4),
        &|| leave_during_reuse(heap, SHORT),
        &|| batch(heap, Size { messages: 6, steps: 20, ..one }),
        &|| both_sleep(heap, limits(2, 2), 10, Waiting::Sleeps, Polling::Never),
        &|| sender_sleeps(heap, limits(2, 2), 1, Polling::Never),
        &|| assert!(!by_reference(heap, REF_SIZE, &Lives::endless()), "all live"),
        &|| removed::reads_in_place(heap, 6, 10),
    ];
    for scenario in scenarios {
        scenario();
    }
    scenarios.len()
}

fn main() {
    let asked = std::env::args().nth(1).unwrap_or_default();
    if let Some(site) = Site::ALL.iter().find(|site| site.name() == asked) {
        weakened::relax(*site);
        lengths::seen_through(|region| Weakened::new(region, Relaxing));
        println!("{asked} as Relaxed: no race is seen");
        std::process::exit(1);
    }
    let models = scenarios();
    let lengths = if asked == "words" { Lengths::WholeWords } else { Lengths::All };
    lengths::copied(lengths);
    lengths::borrowed(lengths);
    println!("miri: {models} scenarios of the models, payloads of {lengths}");
}

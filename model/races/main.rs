//! The models' scenarios on real threads, with plainly accessed payloads. So ThreadSanitizer
//! reports a race if an ordering is too weak.
//!
//! ```text
//! RUSTFLAGS=-Zsanitizer=thread cargo +nightly test -Zbuild-std --no-default-features --features std \
//!     --target x86_64-unknown-linux-gnu --test races
//! ```
//!
//! With `-- --canary` every acquire and release is weakened in turn, each in its own process, which
//! must report a race. Without ThreadSanitizer this is a stress test of one second.
//!
//! The standard library is built with the sanitizer, because `Arc` and libtest give false alarms
//! otherwise. There is no harness, so that nothing else runs.

#[path = "../scenario/bus/mod.rs"]
mod bus;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
mod memory;
#[path = "../scenario/mod.rs"]
mod scenario;

use crate::scenario::doubles::CrashBudget;
use bus::Script;
use doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use llmp::core::order::{Kind, Orders, Site};
use memory::{Orderings, PlainMemory};
use scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse, limits,
};
use scenario::{Runtime, mailbox};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

mailbox!(StdMailbox, std);

#[derive(Clone)]
struct Threads {
    orders: Arc<Orders>,
}

impl Runtime for Threads {
    type Memory = PlainMemory;
    type Mailbox<T: Send + 'static> = StdMailbox<T>;

    fn memory(&self, len: usize) -> PlainMemory {
        PlainMemory::zeroed(len, Orderings(self.orders.clone()))
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

const LONG: Size =
    Size { messages_per_page: 5, pages: 4, messages: 20_000, receivers: 3, steps: 60_000 };
const SHORT: Size = Size { messages_per_page: 2, pages: 3, messages: 40, receivers: 2, steps: 60 };

/// Runs of each short scenario.
const RUNS: usize = 300;

fn run(orders: Orders) {
    let threads = Threads { orders: Arc::new(orders) };
    let timed = |name: &str, scenario: &dyn Fn()| {
        let start = Instant::now();
        scenario();
        println!("{name}: {:.2} s", start.elapsed().as_secs_f64());
    };
    timed("three receivers", &|| deliver(&threads, LONG));
    timed("both sleep", &|| {
        both_sleep(&threads, limits(3, 3), 5_000, Waiting::Sleeps, Polling::Never)
    });
    timed("a sender sleeps", &|| {
        (0..RUNS).for_each(|_| sender_sleeps(&threads, limits(2, 2), 1, Polling::Never))
    });
    timed("dropped claims", &|| drop_claims(&threads, Size { receivers: 1, ..LONG }));
    timed("joining", &|| (0..RUNS).for_each(|_| join_during_reuse(&threads, SHORT, 9)));
    timed("leaving", &|| (0..RUNS).for_each(|_| leave_during_reuse(&threads, SHORT)));
    timed("batches", &|| {
        let size = Size { messages: 6, receivers: 1, steps: 20, ..SHORT };
        (0..RUNS).for_each(|_| batch(&threads, size));
    });
    timed("a bus", &|| {
        let stays = Script { sends: 2_000, dies_after: None, leaves: false };
        let scripts = [stays, stays, Script { leaves: true, ..stays }];
        let stats = bus::run(&threads, &scripts, CrashBudget::endless()).stats;
        assert!(stats.reuses > 0, "no page was ever written again");
    });
}

/// Returns the sites that order something for ThreadSanitizer, which ignores fences. The consumed
/// position of a broker orders no plain access.
fn ordering_sites() -> impl Iterator<Item = Site> {
    let sites = Site::ALL.iter().copied();
    let sites = sites.filter(|s| !matches!(s, Site::ConsumedPublish | Site::ConsumedRead));
    sites.filter(|s| s.access() != Kind::Fence && s.ordering() != Ordering::Relaxed)
}

/// Checks that every weakened ordering is a race.
fn canary() {
    let this = std::env::current_exe().expect("Linux says so");
    for site in ordering_sites() {
        let run = Command::new(&this).arg(format!("{site:?}")).output().expect("it runs again");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(
            said.contains("ThreadSanitizer: data race"),
            "{site:?} as Relaxed: no race is seen"
        );
        println!("{site:?} as Relaxed: a race is seen");
    }
}

fn main() {
    let asked = std::env::args().nth(1).unwrap_or_default();
    if asked == "--canary" {
        return canary();
    }
    let weakened = ordering_sites().find(|site| format!("{site:?}") == asked);
    run(weakened.map_or(Orders::production(), |site| Orders::weakened(site, Ordering::Relaxed)));
}

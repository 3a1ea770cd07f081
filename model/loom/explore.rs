//! Runs a scenario under loom and says how far it was explored.

use crate::scenario::{Runtime, mailbox};
use llmp::memory::LoomMemory;
use llmp::order::{Orders, Site};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

mailbox!(LoomMailbox, loom);

/// loom's threads and memory, with the orderings of this run.
#[derive(Clone)]
pub struct Loom {
    orders: Arc<Orders>,
}

impl Runtime for Loom {
    type Memory = LoomMemory;
    type Mailbox<T: Send + 'static> = LoomMailbox<T>;

    fn memory(&self, len: usize) -> LoomMemory {
        LoomMemory::new(len, &self.orders)
    }

    fn mailbox<T: Send + 'static>(&self) -> LoomMailbox<T> {
        LoomMailbox::default()
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        let thread = loom::thread::spawn(thread);
        Box::new(move || thread.join().unwrap())
    }
}

/// How far a scenario was explored.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    pub executions: usize,
    pub time: Duration,
}

/// Explores all executions with at most `bound` preemptions, or really all. Panics when one fails.
pub fn explore(
    bound: Option<usize>,
    orders: Orders,
    scenario: impl Fn(&Loom) + Send + Sync + 'static,
) -> Explored {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let runtime = Loom { orders: Arc::new(orders) };
    let mut builder = loom::model::Builder::new();
    // Neither time nor number cuts the exploration off: loom would report success.
    (builder.max_duration, builder.max_permutations) = (None, None);
    builder.preemption_bound = bound;
    builder.max_branches = 20_000;
    let start = Instant::now();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        scenario(&runtime);
    });
    Explored { executions: executions.load(Ordering::Relaxed), time: start.elapsed() }
}

/// Explores a model as `cargo test` does and prints how far it came.
pub fn model(name: &str, bound: Option<usize>, scenario: impl Fn(&Loom) + Send + Sync + 'static) {
    let Explored { executions, time } = explore(bound, orders_from_environment(), scenario);
    let extent = match bound {
        None => "exhaustive".to_string(),
        Some(bound) => format!("at most {bound} preemptions"),
    };
    report(&format!(
        "model {name}: {extent}, {executions} executions in {:.2} s",
        time.as_secs_f64()
    ));
}

/// Prints a line that the test harness does not swallow.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Production's orderings, or those that `LLMP_WEAKEN=Site:Ordering` asks for.
fn orders_from_environment() -> Orders {
    let Ok(weaken) = std::env::var("LLMP_WEAKEN") else { return Orders::production() };
    let parse = || {
        let (site, ordering) = weaken.split_once(':')?;
        let site = *Site::ALL.iter().find(|s| format!("{s:?}") == site)?;
        let ordering = *site.weaker().iter().find(|o| format!("{o:?}") == ordering)?;
        Some(Orders::weakened(site, ordering))
    };
    parse().unwrap_or_else(|| {
        let known = Site::ALL.iter().flat_map(|s| s.weaker().iter().map(move |o| (s, o)));
        let known: Vec<_> = known.map(|(site, o)| format!("{site:?}:{o:?}")).collect();
        panic!("LLMP_WEAKEN={weaken} is none of: {}", known.join(" "))
    })
}

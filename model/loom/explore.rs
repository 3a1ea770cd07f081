//! Explores a scenario under loom and reports how far it came.

use crate::grouped::grouped;
pub use crate::report::report;
use crate::scenario::doubles::{KEPT_VALUES, Reordered, Reordering, SawPolling, Values};
pub use crate::scenario::protocol::{Process, Protocol};
use crate::scenario::{Bounds, Runtime, Who, mailbox};
use llmp::core::order::{Orders, Site};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

mailbox!(Mailbox, loom);

/// loom's memory, with the orderings and the order of steps of this run.
pub type LoomMemory = Reordered<crate::scenario::doubles::LoomMemory>;

/// loom's threads and memory in one execution.
#[derive(Clone)]
pub struct Loom {
    orders: Arc<Orders>,
    /// Orderings of one process, if they differ from those of all others.
    orders_of: Option<(Process, Arc<Orders>)>,
    order_of_steps: Arc<Reordering<crate::scenario::doubles::LoomMemory>>,
    /// Whether only brokers make this run's mistake in the order of steps. In other scenarios a
    /// process that only sends would delay for ever an access that waits for a cursor.
    only_brokers: bool,
    in_order: Arc<Reordering<crate::scenario::doubles::LoomMemory>>,
    bounds: Bounds,
    /// Whether headers may be read while they are written. `Some(true)`: payloads, too.
    racing: Option<bool>,
    /// For each process: whether it has seen that its peer polls.
    saw_polling: Arc<[Arc<SawPolling>; 2]>,
}

impl Runtime for Loom {
    type Memory = LoomMemory;
    type Mailbox<T: Send + 'static> = Mailbox<T>;

    fn memory(&self, len: usize) -> LoomMemory {
        let memory = crate::scenario::doubles::LoomMemory::new(len, &self.orders);
        let memory = match self.racing {
            Some(bytes) => memory.racing(bytes),
            None => memory,
        };
        self.order_of_steps.reordered(memory)
    }

    fn seen_by(&self, memory: &LoomMemory, who: Who) -> LoomMemory {
        let memory = match &self.orders_of {
            Some((process, orders)) if process.is(who) => {
                memory.map(|memory| memory.with_orders(orders))
            }
            _ if !Process::Broker.is(who) && self.only_brokers => memory.in_run(&self.in_order),
            _ => memory.clone(),
        };
        match self.saw_polling.get(usize::from(who)) {
            Some(saw_polling) => memory.map(|memory| memory.noting_polling(saw_polling)),
            None => memory,
        }
    }

    fn racing(&self, bytes: bool) -> Self {
        Loom { racing: Some(bytes), ..self.clone() }
    }

    fn has_left_out_a_fence(&self, who: Who) -> bool {
        self.saw_polling[usize::from(who)].saw.swap(false, Ordering::Relaxed)
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn mailbox<T: Send + 'static>(&self) -> Mailbox<T> {
        Mailbox::default()
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        Values::thread_begins();
        let thread = loom::thread::spawn(thread);
        Box::new(move || {
            let result = thread.join().unwrap();
            Values::thread_has_ended();
            result
        })
    }
}

/// Returns the runtime of a run with this protocol.
fn begin(protocol: Protocol) -> Loom {
    let (mut orders, mut orders_of, mut swap) = (Orders::production(), None, None);
    let mut bounds = Bounds::All;
    match protocol {
        Protocol::Production | Protocol::PollingHidesFence => {}
        Protocol::Weakened(site, ordering) => orders = Orders::weakened(site, ordering),
        Protocol::WeakenedIn(process, site, ordering) => {
            orders_of = Some((process, Arc::new(Orders::weakened(site, ordering))));
        }
        Protocol::Swapped(swapped) => swap = Some(swapped),
        Protocol::Unbounded(bounded) => bounds = bounded,
    }
    let hides_fence = protocol == Protocol::PollingHidesFence;
    let saw_polling = || Arc::new(SawPolling { hides_fence, ..SawPolling::default() });
    let thread = || format!("{:?}", loom::thread::current().id());
    let only_brokers = swap.is_some_and(|swap| swap.then.contains(&Site::ConsumedPublish));
    Loom {
        orders: Arc::new(orders),
        orders_of,
        order_of_steps: Reordering::new(swap, thread),
        only_brokers,
        in_order: Reordering::new(None, thread),
        bounds,
        racing: None,
        saw_polling: Arc::new([saw_polling(), saw_polling()]),
    }
}

/// How far a scenario was explored.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    pub executions: usize,
    pub time: Duration,
    /// The most values that a word had while several threads ran.
    pub most_values: usize,
}

/// An execution that failed.
pub struct Failure {
    /// The executions up to and including the failed one.
    pub explored: Explored,
    pub panic: Box<dyn Any + Send>,
}

/// Explores all executions until one fails. With `bound`, those with at most that many preemptions.
pub fn explore(
    bound: Option<usize>,
    protocol: Protocol,
    scenario: impl Fn(&Loom) + Send + Sync + 'static,
) -> Result<Explored, Failure> {
    explore_from(None, usize::MAX, bound, protocol, scenario)
}

/// Like [`explore`], but begins at the execution in `checkpoint`, if the file exists. Otherwise it
/// stores execution number `kept` there.
pub fn explore_from(
    checkpoint: Option<PathBuf>,
    kept: usize,
    bound: Option<usize>,
    protocol: Protocol,
    scenario: impl Fn(&Loom) + Send + Sync + 'static,
) -> Result<Explored, Failure> {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    Values::begin();
    let mut builder = loom::model::Builder::new();
    // Neither time nor number may cut the exploration off: loom would report success.
    (builder.max_duration, builder.max_permutations) = (None, None);
    builder.preemption_bound = bound;
    builder.max_branches = 20_000;
    (builder.checkpoint_file, builder.checkpoint_interval) = (checkpoint, kept);
    let start = Instant::now();
    let check = || {
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Values::begin_execution();
            scenario(&begin(protocol));
        });
    };
    let result = catch_unwind(AssertUnwindSafe(check));
    let executions = executions.load(Ordering::Relaxed);
    let explored = Explored { executions, time: start.elapsed(), most_values: Values::most() };
    result.map(|()| explored).map_err(|panic| Failure { explored, panic })
}

/// A scenario with its limit of preemptions, if it has one.
pub struct Model {
    pub name: &'static str,
    pub bound: Option<usize>,
    pub scenario: fn(&Loom),
}

impl Explored {
    /// Returns whether a word had more values than loom keeps, so that executions are missing.
    pub fn forgets(&self) -> bool {
        self.most_values > KEPT_VALUES
    }

    /// Returns `exhaustive` or the bound, with the number of executions and the time.
    pub fn says(&self, bound: Option<usize>) -> String {
        let extent = match bound {
            None => "exhaustive".to_string(),
            Some(bound) => format!("at most {bound} preemptions"),
        };
        let Explored { executions, time, most_values } = *self;
        let executions = grouped(executions);
        let forgets = match self.forgets() {
            true => format!(", loom keeps {KEPT_VALUES} of {most_values} values of a word"),
            false => String::new(),
        };
        format!("{extent}, {executions} executions in {:.2} s{forgets}", time.as_secs_f64())
    }
}

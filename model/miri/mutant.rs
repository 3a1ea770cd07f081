//! Production's memory with one mistake of the protocol. Miri must report it.

use crate::StdMailbox;
use crate::regions;
use crate::scenario::doubles::{Access, Interpose, Interposed, Reordered, Reordering};
use crate::scenario::protocol::{Process, Protocol};
use crate::scenario::{Runtime, Who};
use llmp::core::memory::{Memory, Region};
use llmp::core::order::{Orders, Site};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Production's memory in a run with a mistake.
pub type Mutated = Reordered<Ordered>;

/// Production's memory with other orderings.
type Ordered = Interposed<Region, Orderings>;

/// The orderings of one process.
#[derive(Clone)]
pub struct Orderings(Arc<Orders>);

impl Interpose<Region> for Orderings {
    fn before(&self, region: &Region, at: usize, access: Access<'_>) -> bool {
        let is_weaker = |site: Site| self.0.of(site) != site.ordering();
        match access {
            // Production's code, at a site that is relaxed.
            Access::Load(site, value) if is_weaker(site) => {
                *value = region.load(at, Site::RingRead);
            }
            Access::Store(site, value) if is_weaker(site) => {
                region.store(at, value, Site::CommitFill);
            }
            Access::Fence(site) if is_weaker(site) => match self.0.of(site) {
                Ordering::Relaxed => {}
                weaker => fence(weaker),
            },
            _ => return true,
        }
        false
    }
}

/// Threads, and the heap with a mistake.
#[derive(Clone)]
pub struct Mutant {
    orders: Arc<Orders>,
    /// The orderings of one kind of process, if they differ from those of the other.
    orders_of: Option<(Process, Arc<Orders>)>,
    order_of_steps: Arc<Reordering<Ordered>>,
}

impl Mutant {
    /// Returns `None` for a mistake that is none in an ordering, and none in the order of steps.
    pub fn of(protocol: Protocol) -> Option<Self> {
        let (mut orders, mut orders_of, mut swap) = (Orders::production(), None, None);
        match protocol {
            Protocol::Weakened(site, ordering) => orders = Orders::weakened(site, ordering),
            Protocol::WeakenedIn(process, site, ordering) => {
                orders_of = Some((process, Arc::new(Orders::weakened(site, ordering))));
            }
            Protocol::Swapped(swapped) => swap = Some(swapped),
            Protocol::Production => {}
            Protocol::Unbounded(_) | Protocol::PollingHidesFence => return None,
        }
        let thread = || format!("{:?}", std::thread::current().id());
        let order_of_steps = Reordering::new(swap, thread);
        Some(Mutant { orders: Arc::new(orders), orders_of, order_of_steps })
    }

    /// Returns a region as it is in this run.
    pub fn see(&self, region: Region) -> Mutated {
        let orderings = Orderings(self.orders.clone());
        self.order_of_steps.reordered(Interposed::new(region, orderings))
    }
}

impl Runtime for Mutant {
    type Memory = Mutated;
    type Mailbox<T: Send + 'static> = StdMailbox<T>;

    fn memory(&self, len: usize) -> Mutated {
        self.see(regions::heap(len))
    }

    fn seen_by(&self, memory: &Mutated, who: Who) -> Mutated {
        match &self.orders_of {
            Some((process, orders)) if process.is(who) => memory
                .map(|memory| Interposed::new(memory.memory().clone(), Orderings(orders.clone()))),
            _ => memory.clone(),
        }
    }

    fn mailbox<T: Send + 'static>(&self) -> StdMailbox<T> {
        StdMailbox::default()
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        crate::spawn(thread)
    }
}

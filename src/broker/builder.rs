//! The settings of a broker.

use super::roster::{Roster, record_len};
use super::slow::Policy;
use super::succession::{GRACE_PERIOD, Succession};
use super::{
    Broker, BrokerStats, DESCRIPTORS_PER_CLIENT, FIRST_NEWCOMER, LISTENER, STOP, StopHandle, WATCH,
};
use crate::bus_addr::BusAddr;
use crate::core::broker::hook::Hook;
use crate::core::broker::policy::SlowReceiver;
use crate::core::broker::{Core, Quota, ZERO_COPY_THRESHOLD};
use crate::core::failpoint::effect;
use crate::core::limits::{Limits, LimitsError};
use crate::core::memory::Region;
use crate::error::BindError;
use crate::handshake::control_region;
use crate::peer_filter::PeerFilter;
use crate::place::{Bound, Watch};
use crate::sys::fork::Owner;
use crate::sys::socket::MAX_DESCRIPTORS;
use crate::sys::system::os_page;
use crate::wait::SleepBound;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The default limit of clients.
const DEFAULT_CLIENTS: usize = 1024;
/// The largest limit of clients. Each has a cursor, so it bounds the length of the control region.
const MOST_CLIENTS: usize = 100_000;
/// Descriptors that are not for connections: standard streams, our own regions, the broadcast
/// chain's pages (32 by default), and some for the rest of the process.
const SPARE_DESCRIPTORS: usize = 64;

/// Builds a [`Broker`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let bus = dir.path().join("bus");
/// let broker = llmp::Broker::builder().max_message_len(16 << 20).max_clients(100).bind(&bus)?;
/// # assert!(bus.exists());
/// # drop(broker);
/// # Ok(()) }
/// ```
#[derive(Default)]
pub struct BrokerBuilder {
    page_len: Option<usize>,
    max_message_len: Option<usize>,
    budget: Option<usize>,
    max_clients: Option<usize>,
    access: PeerFilter,
    quota: Quota,
    policy: Policy,
    zero_copy_threshold: Option<usize>,
    hook: Option<Box<dyn Hook>>,
    grace_period: Option<Duration>,
}

impl std::fmt::Debug for BrokerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerBuilder")
            .field("page_len", &self.page_len)
            .field("max_message_len", &self.max_message_len)
            .field("budget", &self.budget)
            .field("max_clients", &self.max_clients)
            .field("access", &self.access)
            .field("quota", &self.quota)
            .field("policy", &self.policy)
            .field("zero_copy_threshold", &self.zero_copy_threshold)
            .field("hook", &self.hook.is_some())
            .field("grace_period", &self.grace_period)
            .finish()
    }
}

impl BrokerBuilder {
    /// Sets the length of an ordinary page in bytes: a multiple of 16, at least 96 and at most
    /// 64 MiB. The broker rounds it up to the kernel's page size. On most machines it is thus
    /// rounded up to a multiple of 4096. The default is 256 KiB.
    #[must_use]
    pub fn page_len(mut self, bytes: usize) -> Self {
        self.page_len = Some(bytes);
        self
    }

    /// Sets the longest payload in bytes. The default is 3 MiB.
    #[must_use]
    pub fn max_message_len(mut self, bytes: usize) -> Self {
        self.max_message_len = Some(bytes);
        self
    }

    /// Sets the shared memory of each chain in bytes. The default is 8 MiB, or the need of two
    /// messages of the longest kind if that is more.
    #[must_use]
    pub fn chain_budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// Sets the most clients at a time: 1024 by default, at most 100,000. The broker admits fewer
    /// if its process cannot open two descriptors for each client (`ulimit -n`). By default it also
    /// admits fewer if its process cannot map their pages (`vm.max_map_count`). If the number is
    /// set, [`bind`](BrokerBuilder::bind) makes pages longer instead, or returns an error.
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = Some(clients);
        self
    }

    /// Sets which users are admitted. The default is the user of the broker.
    #[must_use]
    pub fn access(mut self, access: PeerFilter) -> Self {
        self.access = access;
        self
    }

    /// Sets how much one client may send in a cycle before the next client is served.
    #[must_use]
    pub fn quota(mut self, budget: Quota) -> Self {
        self.quota = budget;
        self
    }

    /// Sets what happens when a receiver is too slow, so that the broadcast chain is full. The
    /// default is [`SlowReceiver::Block`]: the bus waits for it. A receiver may ask for something
    /// else by [`ClientBuilder::when_slow`](crate::ClientBuilder::when_slow).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// use llmp::{Broker, SlowReceiver};
    ///
    /// let broker = Broker::builder().when_slow(SlowReceiver::Skip).bind(&bus)?;
    /// # drop(broker);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn when_slow(mut self, policy: SlowReceiver) -> Self {
        self.policy.when_slow = policy;
        self
    }

    /// Sets how long the bus waits for a slow receiver that leaves no page, before it skips or
    /// disconnects that receiver. The default is zero: a receiver that is a whole
    /// [budget](BrokerBuilder::chain_budget) behind is too slow. The time has no effect on receivers
    /// for which the bus waits anyway.
    #[must_use]
    pub fn slow_after(mut self, time: Duration) -> Self {
        self.policy.after = time;
        self
    }

    /// Sets the payload length in bytes from which messages are forwarded by reference. Receivers
    /// then read such a message in the sender's page, without a copy in between. The default is 4
    /// KiB. With 0 every message is forwarded by reference, with `usize::MAX` none. A message that
    /// can't be forwarded by reference is copied. With a [hook](BrokerBuilder::hook), all messages
    /// are copied.
    ///
    /// Each page that is forwarded takes a descriptor of this process. A quarter of the descriptors
    /// that it may open (`ulimit -n`) is kept for them.
    #[must_use]
    pub fn zero_copy_threshold(mut self, bytes: usize) -> Self {
        self.zero_copy_threshold = Some(bytes);
        self
    }

    /// Sets how long a broker that follows a dead one waits for clients that
    /// [outlive](crate::ClientBuilder::outlive_broker) their broker. The default is 5 seconds. No
    /// message is forwarded meanwhile, so that no such client misses one. Clients that have died are
    /// not waited for.
    #[must_use]
    pub fn grace_period(mut self, time: Duration) -> Self {
        self.grace_period = Some(time);
        self
    }

    /// Passes every message to `hook`, which may drop or replace it.
    #[must_use]
    pub fn hook(mut self, hook: impl Hook + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Makes the bus. Clients can connect from now on, and [`Broker::run`] serves them.
    ///
    /// # Errors
    ///
    /// Returns [`BindError`] if the bus cannot be made. Its text says what to do.
    pub fn bind(self, bus: impl Into<BusAddr>) -> Result<Broker, BindError> {
        let (limits, most_clients) = self.limits()?;
        let zero_copy_threshold = self.zero_copy_threshold.unwrap_or(ZERO_COPY_THRESHOLD);
        let forwards_by_ref =
            self.hook.is_none() && zero_copy_threshold <= limits.max_message_len();
        let descriptors = descriptors();
        let max_shared_pages = if forwards_by_ref { descriptors / 4 } else { 0 };
        let affordable =
            ((descriptors - max_shared_pages) / DESCRIPTORS_PER_CLIENT).clamp(1, MOST_CLIENTS);
        let max_clients = most_clients.min(affordable);

        let mut bound = Bound::at(&bus.into(), &self.access, record_len(max_clients))?;
        let (roster, expected, limits) = Roster::open(bound.lock(), &limits, max_clients)
            .map_err(system("read the lock file"))?;
        let succession = Succession::new(expected, self.grace_period.unwrap_or(GRACE_PERIOD));
        let first = Region::shared("llmp-page", limits.page_len())?;
        let mut core = Core::new(limits, control_region(max_clients)?, max_clients, first);
        core.set_quota(self.quota);
        core.set_zero_copy_threshold(zero_copy_threshold);
        core.set_reuse_distance(limits.reuse_distance());
        core.set_first_id(roster.first_id());
        if let Some(hook) = self.hook {
            core.set_hook(hook);
        }
        let mut id = [0; 8];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
            .map_err(system("get a random number"))?;
        effect("make an epoll");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll"))?;
        effect("make an eventfd");
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(system("make an eventfd"))?;
        effect("make the listener non-blocking");
        bound.listener.set_nonblocking().map_err(system("make the listener non-blocking"))?;
        let add = |fd: &dyn AsFd, token| {
            effect("watch");
            epoll::add(&epoll, fd.as_fd(), EventData::new_u64(token), EventFlags::IN)
        };
        add(&bound.listener, LISTENER).map_err(system("watch the listener"))?;
        add(&stop, STOP).map_err(system("watch the eventfd"))?;
        // Without the watch, the broker does not detect the removal of its socket or lock file.
        let watch = Watch::new(bound.path()).filter(|watch| add(watch, WATCH).is_ok());
        let owner = Owner::here();
        // From now on its end is the end of the bus.
        bound.stay(false);
        let is_watched = watch.as_ref().is_none_or(|watch| watch.add(bound.lock_path()));
        Ok(Broker {
            owner,
            id: u64::from_le_bytes(id),
            core,
            access: self.access,
            max_clients,
            policy: self.policy,
            stalled: None,
            max_shared_pages,
            // The kernel limits the descriptors in flight per user, in all sockets together, to the
            // number that a process may open (`ETOOMANYREFS`, unix(7)).
            max_in_flight: descriptors / 2,
            roomy: descriptors.saturating_sub(max_shared_pages + MAX_DESCRIPTORS),
            bound,
            roster,
            succession,
            epoll,
            stop: StopHandle { owner, event: Arc::new(stop), asked: Arc::default() },
            watch,
            held_up: None,
            accept_again: None,
            accept_failed: false,
            // The lock file may be gone already.
            rebind_again: (!is_watched).then(Instant::now),
            place_lost: false,
            connections: BTreeMap::new(),
            candidates: BTreeMap::new(),
            next_newcomer: FIRST_NEWCOMER,
            newest_own_page: 0,
            send_pending: false,
            stuck_again: None,
            unread_again: None,
            retired: Default::default(),
            allowance: Default::default(),
            parked: false,
            sleep_bound: SleepBound::new(),
            report: BrokerStats::default(),
        })
    }
}

impl BrokerBuilder {
    /// Returns the limits of the bus and the most clients whose pages this process may map. If the
    /// page length was not set, it grows with the number of clients that was set.
    fn limits(&self) -> Result<(Limits, usize), BindError> {
        let max_message_len = self.max_message_len.unwrap_or(Limits::DEFAULT_MAX_MESSAGE_LEN);
        let maps = mappings();
        let mut page_len = self.page_len.unwrap_or(Limits::DEFAULT_PAGE_LEN);
        loop {
            let rounded = page_len.min(1 << 31).next_multiple_of(os_page());
            let least = Limits::least_budget(rounded, max_message_len);
            let budget = self.budget.unwrap_or(Limits::DEFAULT_BUDGET.max(least));
            let limits = Limits::new(page_len, max_message_len, budget)?.in_pages_of(os_page())?;
            // Each client's control region takes one mapping more.
            let pages = limits.most_pages() + 1;
            let affordable = (maps / pages).max(1);
            match self.max_clients {
                None => return Ok((limits, DEFAULT_CLIENTS.min(affordable))),
                Some(clients) if clients.min(MOST_CLIENTS) <= affordable => {
                    return Ok((limits, clients));
                }
                Some(clients) => {
                    let longer = Limits::new(2 * page_len, max_message_len, budget);
                    if self.page_len.is_some() || longer.is_err() {
                        return Err(LimitsError::Mappings { clients, pages, maps }.into());
                    }
                    page_len *= 2;
                }
            }
        }
    }
}

/// Returns the mappings for clients' pages, half of those that a process may have. The others are
/// for the rest of the process.
fn mappings() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    // The fallback is the kernel's default.
    limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(65530) / 2
}

/// Returns the descriptors for connections and forwarded pages. The rest is for the broker's own
/// pages and for descriptors that arrive. A descriptor that arrives without room is lost, and a
/// well-behaved client would be disconnected.
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit.saturating_sub(SPARE_DESCRIPTORS)
}

pub(super) fn system<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> BindError {
    move |error| BindError::System { step, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;

    // P12
    #[test]
    fn all_clients_pages_take_half_of_the_mappings_and_not_one_more() {
        let row = bound("mappings (`vm.max_map_count`)");
        assert_eq!(row, "all clients' pages together: half of the limit");
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let half = limit.trim().parse::<usize>().unwrap() / 2;
        let with = |clients| Broker::builder().max_clients(clients);
        let set = |clients| with(clients).page_len(1 << 20).chain_budget(8 << 20);
        let (limits, _) = set(1).limits().unwrap();
        // The pages of the budget, one longest page, one for shorter ones, and the control region.
        let each = limits.most_pages() + 1;
        assert_eq!(each, (8 << 20) / (1 << 20) + 4 + 1 + 1);
        let most = half / each;
        let (same, clients) = set(most).limits().unwrap();
        assert_eq!((same, clients), (limits, most));
        let refused = set(most + 1).limits().unwrap_err().to_string();
        assert!(refused.contains("vm.max_map_count"), "{refused}");
        // A page length that was not set is doubled.
        let (limits, _) = with(1).limits().unwrap();
        assert_eq!(limits.page_len(), Limits::DEFAULT_PAGE_LEN);
        let most = half / (limits.most_pages() + 1);
        for (clients, page_len) in
            [(most, Limits::DEFAULT_PAGE_LEN), (most + 1, 2 * Limits::DEFAULT_PAGE_LEN)]
        {
            let (limits, found) = with(clients).limits().unwrap();
            assert_eq!((limits.page_len(), found), (page_len, clients));
        }
        // If the number of clients was not set, the mappings bound it.
        let short = || Broker::builder().page_len(4096);
        let each = short().limits().unwrap().0.most_pages() + 1;
        assert_eq!(short().limits().unwrap().1, (half / each).clamp(1, 1024));
    }
}

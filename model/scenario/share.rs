//! Several senders that have more to send than the broker has room for. The broadcast chain has two
//! pages, so that the broker blocks again and again, in the middle of a sender's share.

use super::{Broker, Size, check};
use crate::scenario::Runtime;
use crate::scenario::chain::{PAYLOAD, payload};
use crate::scenario::doubles::CrashBudget;
use llmp::Message;
use llmp::core::broker::Quota;
use llmp::core::broker::hook::Verdict;
use llmp::core::wire::Roles;
use std::sync::{Arc, Mutex};

const SENDERS: usize = 3;

/// Messages of one sender that a cycle takes at most. A page rollover may count as one.
const SHARE: u64 = 4;

/// Messages of other senders that the broker takes at most while one waits: their shares in the rest
/// of one cycle, in the one after it, and in one more in which the broker asks for its next page.
const MOST: u64 = 3 * (SENDERS as u64 - 1) * SHARE;

const SIZE: Size = Size {
    messages_per_page: 2,
    pages: 2,
    messages: 40,
    roles: &[Roles::SEND, Roles::SEND, Roles::SEND, Roles::RECEIVE],
    cycles: 80,
    steps: 80,
};

/// How a quota is set.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Messages,
    Bytes,
}

/// The messages of each sender that were committed for certain, and those that the broker took.
#[derive(Clone, Copy, Default)]
struct Counts {
    committed: [u64; SENDERS],
    taken: [u64; SENDERS],
}

/// The oracle: counts each sender's share.
struct Oracle<R: Runtime> {
    broker: Broker<R>,
    counts: Arc<Mutex<Counts>>,
    /// For each sender that waits: the messages of others that were taken meanwhile.
    passed_over: [u64; SENDERS],
    /// Cycles that ended for lack of room.
    blocked: u64,
}

/// Runs the bus to its end. No cycle takes more than its share from a sender, and no sender starves.
/// Returns the number of cycles that ended for lack of room. [P3 P9]
pub fn share<R: Runtime>(runtime: &R, by: By) -> u64 {
    let life = CrashBudget::endless();
    let (mut broker, members) = Broker::with_clients(runtime, SIZE, &life).unwrap();
    broker.core.set_quota(match by {
        By::Messages => Quota::new(SHARE as usize, usize::MAX),
        By::Bytes => Quota::new(usize::MAX, SHARE as usize * PAYLOAD),
    });
    let counts = Arc::new(Mutex::new(Counts::default()));
    let takes = counts.clone();
    broker.core.set_hook(Box::new(move |message: &Message<'_>| {
        let mut counts = takes.lock().unwrap();
        let taken = &mut counts.taken[message.sender.0 as usize - 1];
        assert_eq!(message.payload, payload(*taken), "torn, mixed up, or shown twice");
        *taken += 1;
        Verdict::Forward
    }));
    let mut oracle =
        Oracle { broker, counts: counts.clone(), passed_over: [0; SENDERS], blocked: 0 };
    let threads: Vec<_> = members
        .into_iter()
        .enumerate()
        .map(|(i, mut member)| {
            let counts = counts.clone();
            runtime.spawn(move || {
                for _ in 0..SIZE.steps {
                    member.step();
                    if let Some(committed) = counts.lock().unwrap().committed.get_mut(i) {
                        *committed = member.sent;
                    }
                }
                member
            })
        })
        .collect();
    for _ in 0..SIZE.cycles {
        oracle.cycle();
    }
    let mut members: Vec<_> = threads.into_iter().map(|join| join()).collect();
    loop {
        let mut worked = oracle.cycle();
        for (i, member) in members.iter_mut().enumerate() {
            worked |= member.step();
            if let Some(committed) = counts.lock().unwrap().committed.get_mut(i) {
                *committed = member.sent;
            }
        }
        if !worked {
            break;
        }
    }
    check(&mut members, &oracle.broker);
    oracle.blocked
}

impl<R: Runtime> Oracle<R> {
    /// Runs one cycle and judges it. Returns whether there was anything to do.
    fn cycle(&mut self) -> bool {
        let before = *self.counts.lock().unwrap();
        let worked = self.broker.cycle();
        let after = *self.counts.lock().unwrap();
        self.blocked += u64::from(self.broker.core.is_blocked());
        let taken: [u64; SENDERS] = std::array::from_fn(|i| after.taken[i] - before.taken[i]);
        for i in 0..SENDERS {
            assert!(taken[i] <= SHARE, "{} messages of one sender in a cycle", taken[i]);
            let waits = before.committed[i] > before.taken[i] && taken[i] == 0;
            self.passed_over[i] += taken.iter().sum::<u64>();
            if !waits {
                self.passed_over[i] = 0;
            }
            assert!(self.passed_over[i] <= MOST, "a sender starves");
        }
        worked
    }
}

//! Two halves of a connection that sleep in two threads, and a peer that publishes for both.
//!
//! The rules are those of `llmp::core::parking`. All interleavings are explored, under sequential
//! consistency; loom explores the weak memory of one sleeper. Each break of a rule must lose a
//! wake-up.
//!
//! The peer publishes messages for the receiving half and room for the sending half. It also sends
//! packets that one half waits for, such as a receiver count. The half that reads such a packet keeps
//! it for both. A half takes what is there, or sleeps. It may also read the socket while it is awake. A wake-up is lost if
//! the peer has ended, something is there for a half, and that half sleeps without an end.

mod live;

use crate::grouped::grouped;
use crate::report::report;
use std::collections::{BTreeSet, VecDeque};

/// What happens at most.
#[derive(Clone, Copy)]
struct Setup {
    /// Things that the peer publishes for each half.
    published: u8,
    /// Packets that the peer sends for each half.
    packets: u8,
    /// Times that each half reads the socket without a sleep.
    reads: u8,
}

const SETUPS: [Setup; 2] =
    [Setup { published: 2, packets: 0, reads: 2 }, Setup { published: 1, packets: 1, reads: 1 }];

/// The parked word of a half that polls. A sleep's number is smaller.
const POLLING: u8 = u8::MAX;

/// A rule that a broken program leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// Does not wake the other half after it has read a packet.
    NoWake,
    /// Clears the parked word while the other half sleeps.
    ClearsAlways,
    /// Starts to poll while the other half sleeps.
    PollsBesideASleeper,
    /// Sleeps under the number of the other half's sleep.
    SameNumber,
    /// Does not check again after it has stored the number.
    NoSecondLook,
    /// Parks although the other half has kept a packet since it looked.
    IgnoresPackets,
    /// Wakes the other half if that sleeps, and sleeps on. Loses no wake-up.
    HandsOver,
}

const BREAKS: [Break; 6] = [
    Break::NoWake,
    Break::ClearsAlways,
    Break::PollsBesideASleeper,
    Break::SameNumber,
    Break::NoSecondLook,
    Break::IgnoresPackets,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// Looks for something to take.
    Awake,
    /// Has found nothing and waits for the lock.
    Parks,
    /// Holds the lock, has stored a number, and looks again.
    LooksAgain,
    Sleeps,
    /// Was woken and waits for the lock.
    Wakes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Half {
    at: At,
    /// What the peer has published for it and it has not taken.
    there: u8,
    /// Packets for it that a half has read and that it has not taken.
    kept: u8,
    /// The version at which it has looked at what is kept.
    seen: u8,
    is_parked: bool,
    /// Its waker was written.
    is_woken: bool,
    reads: u8,
}

/// The next step of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Peer {
    Publishes,
    Looks,
    Rings,
}

/// A step, and the half that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The peer begins to publish or sends a packet, which it need never do.
    Begins,
    /// The peer looks or rings after it has published.
    GoesOn,
    /// A half takes a step that needs no lock.
    Free(usize),
    /// A half takes a step for which it acquires the lock.
    Locks(usize),
    /// The sleep of a half ends by itself.
    TimesOut(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct State {
    word: u8,
    sleeps: u8,
    /// Whether sleeps are bounded, because the word has said that a half polls.
    is_bounded: bool,
    /// Rings in the socket.
    rings: u8,
    /// Packets in the socket for each half.
    packets: [u8; 2],
    /// Packets that were read.
    version: u8,
    locked_by: Option<usize>,
    /// The sending half and the receiving half.
    halves: [Half; 2],
    peer: Peer,
    left: [u8; 2],
    unsent: [u8; 2],
    rung: u8,
}

/// The half that reads pages and may poll.
const RECEIVER: usize = 1;

impl State {
    fn new(setup: Setup) -> Self {
        let Setup { published, packets, reads } = setup;
        let (is_parked, is_woken) = (false, false);
        let half = Half { at: At::Awake, there: 0, kept: 0, seen: 0, is_parked, is_woken, reads };
        State {
            word: 0,
            sleeps: 0,
            is_bounded: false,
            rings: 0,
            packets: [0; 2],
            version: 0,
            locked_by: None,
            halves: [half; 2],
            peer: Peer::Publishes,
            left: [published; 2],
            unsent: [packets; 2],
            rung: 0,
        }
    }

    fn unpark(&mut self, half: usize, broken: Option<Break>) {
        self.halves[half].is_parked = false;
        self.halves[half].is_woken = false;
        let other = self.halves[1 - half].is_parked;
        if !other || broken == Some(Break::ClearsAlways) {
            self.word = 0;
        }
    }

    fn is_readable(&self) -> bool {
        self.rings > 0 || self.packets != [0; 2]
    }

    /// Reads the socket until it is empty, under the lock.
    fn read(&mut self, half: usize, broken: Option<Break>) {
        if !self.is_readable() {
            return;
        }
        self.rings = 0;
        for owner in 0..2 {
            let read = std::mem::take(&mut self.packets[owner]);
            self.halves[owner].kept += read;
            self.version += read;
        }
        let other = &mut self.halves[1 - half];
        other.is_woken |= other.is_parked && broken != Some(Break::NoWake);
    }

    /// Returns whether a wake-up is lost: a half sleeps for ever beside what it waits for.
    fn is_lost(&self) -> bool {
        let nothing_left = self.left == [0; 2] && self.unsent == [0; 2];
        let peer_has_ended = nothing_left && self.peer == Peer::Publishes;
        let sleeps = |half: &Half| half.at == At::Sleeps && !half.is_woken && !self.is_readable();
        // A half that is awake has taken everything, and need not do anything ever again.
        let rests = |half: &Half| half.at == At::Awake && half.there == 0 && half.kept == 0;
        peer_has_ended
            && self.halves.iter().all(|half| sleeps(half) || rests(half))
            && self.halves.iter().any(|half| sleeps(half) && (half.there > 0 || half.kept > 0))
    }

    fn next(&self, broken: Option<Break>) -> Vec<(Step, State)> {
        let mut next = Vec::new();
        let mut step = |what: Step, act: &dyn Fn(&mut State)| {
            let mut state = self.clone();
            act(&mut state);
            next.push((what, state));
        };
        match self.peer {
            Peer::Publishes => {
                for half in 0..2 {
                    if self.left[half] > 0 {
                        step(Step::Begins, &|s| {
                            s.left[half] -= 1;
                            s.halves[half].there += 1;
                            s.peer = Peer::Looks;
                        });
                    }
                    if self.unsent[half] > 0 {
                        step(Step::Begins, &|s| {
                            s.unsent[half] -= 1;
                            s.packets[half] += 1;
                        });
                    }
                }
            }
            Peer::Looks => step(Step::GoesOn, &|s| {
                let rings = s.word != 0 && s.word != POLLING && s.word != s.rung;
                if rings {
                    s.rung = s.word;
                }
                s.peer = if rings { Peer::Rings } else { Peer::Publishes };
            }),
            Peer::Rings => step(Step::GoesOn, &|s| {
                s.rings += 1;
                s.peer = Peer::Publishes;
            }),
        }
        for half in 0..2 {
            let Half { at, there, kept, seen, is_woken, reads, .. } = self.halves[half];
            let is_free = self.locked_by.is_none();
            let (free, locks) = (Step::Free(half), Step::Locks(half));
            match at {
                At::Awake if there > 0 => {
                    step(free, &|s| s.halves[half].there = 0);
                    if half == RECEIVER && is_free {
                        // It enters another page, and polls from now on.
                        step(locks, &|s| {
                            let is_alone = !s.halves[1 - half].is_parked;
                            s.halves[half].there = 0;
                            if is_alone || broken == Some(Break::PollsBesideASleeper) {
                                s.word = POLLING;
                            }
                        });
                    }
                }
                At::Awake if kept > 0 => {
                    if is_free {
                        step(locks, &|s| s.halves[half].kept = 0);
                    }
                }
                At::Awake => {
                    if is_free {
                        step(locks, &|s| {
                            s.halves[half].seen = s.version;
                            s.halves[half].at = At::Parks;
                        });
                    }
                    if reads > 0 && is_free {
                        step(locks, &|s| {
                            s.halves[half].reads -= 1;
                            s.read(half, broken);
                        });
                    }
                }
                At::Parks if seen != self.version && broken != Some(Break::IgnoresPackets) => {
                    if is_free {
                        step(locks, &|s| s.halves[half].at = At::Awake);
                    }
                }
                At::Parks if is_free => step(locks, &|s| {
                    s.locked_by = Some(half);
                    s.halves[half].at = At::LooksAgain;
                    s.halves[half].is_parked = true;
                    s.is_bounded |= s.word == POLLING;
                    let shares = broken == Some(Break::SameNumber) && s.halves[1 - half].is_parked;
                    if !shares {
                        s.sleeps += 1;
                    }
                    s.word = s.sleeps;
                }),
                At::LooksAgain => step(free, &|s| {
                    s.locked_by = None;
                    let is_ready = there > 0 && broken != Some(Break::NoSecondLook);
                    s.halves[half].at = if is_ready { At::Awake } else { At::Sleeps };
                    if is_ready {
                        s.unpark(half, broken);
                    }
                }),
                At::Sleeps if self.is_readable() || is_woken => {
                    step(free, &|s| s.halves[half].at = At::Wakes);
                }
                // A half that has polled bounds its sleeps.
                At::Sleeps if self.is_bounded => {
                    step(Step::TimesOut(half), &|s| s.halves[half].at = At::Wakes);
                }
                At::Wakes if is_free => step(locks, &|s| {
                    if broken == Some(Break::HandsOver) && s.halves[1 - half].is_parked {
                        (s.halves[half].at, s.halves[half].is_woken) = (At::Sleeps, false);
                        (s.rings, s.halves[1 - half].is_woken) = (0, true);
                        return;
                    }
                    s.halves[half].at = At::Awake;
                    s.unpark(half, broken);
                    s.read(half, broken);
                }),
                At::Parks | At::Sleeps | At::Wakes => {}
            }
        }
        next
    }
}

/// Returns the number of states, and whether a wake-up is lost in one of them.
fn explore(setup: Setup, broken: Option<Break>) -> (usize, bool) {
    let mut known = BTreeSet::from([State::new(setup)]);
    let mut queue = VecDeque::from([State::new(setup)]);
    while let Some(state) = queue.pop_front() {
        if state.is_lost() {
            return (known.len(), true);
        }
        if state.is_bounded {
            // Every sleep ends by itself from now on.
            continue;
        }
        for (_, next) in state.next(broken) {
            if known.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    (known.len(), false)
}

// P10
#[test]
fn two_halves_that_sleep_lose_no_wake_up() {
    for (name, setup) in ["two_sleepers", "two_sleepers_with_packets"].iter().zip(SETUPS) {
        let (states, is_lost) = explore(setup, None);
        report(&format!("spec {name}: exhaustive, {} states", grouped(states)));
        assert!(!is_lost, "{name}");
    }
}

// P10
#[test]
fn each_rule_of_two_sleepers_is_needed() {
    for broken in BREAKS {
        let found = SETUPS.iter().find_map(|setup| {
            let (states, is_lost) = explore(*setup, Some(broken));
            is_lost.then_some(states)
        });
        println!("spec two_sleepers, {broken:?}: found after {found:?} states");
        assert!(found.is_some(), "{broken:?} loses no wake-up");
    }
}

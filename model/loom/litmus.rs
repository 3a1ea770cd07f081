//! The protocol's three edges in isolation: the exact set of outcomes that each permits.
//!
//! A missing outcome fails like an additional one. So the tests also show that loom explores what
//! it should.

use crate::explore::{Explored, Loom, LoomMemory, Protocol, explore, report};
use crate::scenario::Runtime;
use crate::scenario::doubles::KEPT_VALUES;
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const DATA: usize = 0;
const WORD: usize = 8;

/// The outcomes of two threads over two words: the value that each thread saw.
type Outcomes = BTreeSet<(u64, u64)>;

/// Explores two threads and collects what they saw. Returns `None` if loom found a race.
fn outcomes(
    protocol: Protocol,
    first: fn(&LoomMemory) -> u64,
    second: fn(&LoomMemory) -> u64,
) -> Option<(Outcomes, Explored)> {
    let seen: Arc<Mutex<Outcomes>> = Arc::default();
    let collect = seen.clone();
    let explored = explore(None, protocol, move |runtime: &Loom| {
        let memory = runtime.memory(16);
        let other = memory.clone();
        let thread = runtime.spawn(move || first(&other));
        let second = second(&memory);
        collect.lock().unwrap().insert((thread(), second));
    });
    let outcomes = seen.lock().unwrap().clone();
    explored.ok().map(|explored| (outcomes, explored))
}

fn litmus(
    name: &str,
    first: fn(&LoomMemory) -> u64,
    second: fn(&LoomMemory) -> u64,
    permitted: &[(u64, u64)],
) {
    let (found, explored) =
        outcomes(Protocol::Production, first, second).expect("no race with production's orderings");
    assert_eq!(found, permitted.iter().copied().collect(), "outcomes of {name}");
    report(&format!(
        "litmus {name}: exactly {} outcomes, {}",
        permitted.len(),
        explored.says(None)
    ));
}

/// Message passing over a commit word. The payload is written plainly and read only once committed.
/// The reader returns 2 if it found no commit.
fn commit(memory: &LoomMemory) -> u64 {
    memory.write_words(DATA, [1]);
    memory.store(WORD, 1, Site::CommitPublish);
    0
}

fn take(memory: &LoomMemory) -> u64 {
    match memory.load(WORD, Site::CommitRead) {
        0 => 2,
        _ => memory.read_words::<1>(DATA)[0],
    }
}

#[test]
fn the_commit_edge_permits_nothing_or_the_whole_message() {
    litmus("commit", commit, take, &[(0, 1), (0, 2)]);
    for site in [Site::CommitPublish, Site::CommitRead] {
        let weak = outcomes(Protocol::Weakened(site, Ordering::Relaxed), commit, take);
        assert!(weak.is_none(), "a relaxed {site:?} races");
    }
}

/// Message passing in reverse over a cursor. The page is read plainly, then released. It is written
/// again only after the release.
fn leave(memory: &LoomMemory) -> u64 {
    let [seen] = memory.read_words(DATA);
    memory.store(WORD, 1, Site::CursorPublish);
    seen
}

fn reuse(memory: &LoomMemory) -> u64 {
    let released = memory.load(WORD, Site::CursorRead);
    if released == 1 {
        memory.write_words(DATA, [7]);
    }
    released
}

#[test]
fn the_cursor_edge_permits_no_reader_to_see_a_page_written_again() {
    litmus("cursor", leave, reuse, &[(0, 0), (0, 1)]);
    for site in [Site::CursorPublish, Site::CursorRead] {
        let weak = outcomes(Protocol::Weakened(site, Ordering::Relaxed), leave, reuse);
        assert!(weak.is_none(), "a relaxed {site:?} races");
    }
}

/// Store buffering: the sleeper parks and checks for a message, the sender publishes and checks for
/// a sleeper.
fn park(memory: &LoomMemory) -> u64 {
    memory.store(DATA, 1, Site::ParkStore);
    memory.fence(Site::ParkFence);
    memory.load(WORD, Site::CommitRead)
}

fn publish(memory: &LoomMemory) -> u64 {
    memory.store(WORD, 1, Site::CommitPublish);
    memory.fence(Site::RingFence);
    memory.load(DATA, Site::RingRead)
}

#[test]
fn the_park_edge_forbids_that_neither_sees_the_other() {
    litmus("park", park, publish, &[(0, 1), (1, 0), (1, 1)]);
    for site in [Site::ParkFence, Site::RingFence] {
        for ordering in site.weaker() {
            let weak = outcomes(Protocol::Weakened(site, *ordering), park, publish);
            let (found, _) = weak.expect("nothing plain, no race");
            assert!(found.contains(&(0, 0)), "{ordering:?} at {site:?} loses a wake-up");
        }
    }
}

/// Returns the values of a word that a process finds after `stores` stores of it. It has
/// learned of the last one without an order.
fn found_after(stores: u64) -> (BTreeSet<u64>, bool) {
    let found: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let collect = found.clone();
    let explored = explore(None, Protocol::Production, move |runtime: &Loom| {
        let memory = runtime.memory(16);
        let other = memory.clone();
        let thread = runtime.spawn(move || {
            (1..=stores).for_each(|value| other.store(DATA, value, Site::ParkStore));
            other.store(WORD, 1, Site::ParkStore);
        });
        if memory.load(WORD, Site::RingRead) == 1 {
            collect.lock().unwrap().insert(memory.load(DATA, Site::RingRead));
        }
        thread();
    });
    let forgets = explored.ok().expect("nothing can fail").forgets();
    (found.lock().unwrap().clone(), forgets)
}

#[test]
fn loom_keeps_the_last_values_of_a_word_and_no_older_one() {
    let kept = KEPT_VALUES as u64;
    assert_eq!(found_after(kept - 1), ((0..kept).collect(), false));
    assert_eq!(found_after(kept), ((1..=kept).collect(), true), "zero was possible, too");
}

//! A whole bus: a broker and its clients, which join, send, receive, sleep, leave and die.
//!
//! The handshake, the broker's [`Core`] and the clients' [`Link`]s are production's. This module
//! replaces sockets by mailboxes of packets, and a packet's descriptor by its region.

mod broker;
mod client;

use self::broker::Brokering;
use self::client::Clienting;
use crate::scenario::doubles::CrashBudget;
use crate::scenario::{Mailbox, Note, Runtime, Who};
use llmp::core::chain::{Start, Stats};
use llmp::core::wire::Packet;
use llmp::{ClientId, Limits};
use std::collections::BTreeMap;

/// The broker in a recorded run. A client's number is its id.
const BROKER: Who = 0;

fn who(client: ClientId) -> Who {
    client.0 as Who
}

/// The behaviour of a client.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Messages that it sends.
    pub sends: u64,
    /// Number of writes to shared memory after which it dies; `None`: it lives to the end.
    pub dies_after: Option<usize>,
    /// Whether it hangs up after its messages instead of staying to the end.
    pub leaves: bool,
}

/// The history of a client.
#[derive(Debug)]
pub struct Life {
    pub id: ClientId,
    script: Script,
    /// Where it began to receive.
    start: Start,
    /// Pages that the broker took back before the client began to receive.
    forgets: u64,
    /// Messages that it had certainly committed, and how many of them the broker had consumed when
    /// the client ended.
    committed: u64,
    consumed: u64,
    /// Whether it died.
    died: bool,
    /// Number on the bus, sender, number in the sender's chain.
    received: Vec<(u64, ClientId, u64)>,
}

/// The process that died while a client joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dead {
    Client,
    Broker,
}

/// The number of a connection, which the broker knows before the client has an id.
type Token = usize;

enum ToBroker<R: Runtime> {
    Connect { token: Token, mailbox: R::Mailbox<ToClient<R>> },
    Packet { token: Token, packet: Packet, region: Option<R::Memory> },
    HangUp(Token),
    Stop,
}

enum ToClient<R: Runtime> {
    Packet(Packet, Option<R::Memory>),
    /// The broker is dead.
    HangUp,
}

/// Returns a payload. Lengths are around the boundaries of words, slots and pages.
fn payload(number: u64) -> Vec<u8> {
    let len = [8, 9, 15, 16, 17, 40, 64][number as usize % 7];
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len, number as u8);
    payload
}

/// Small pages, and a budget that is soon used up.
pub fn limits() -> Limits {
    Limits::new(192, 64, Limits::least_budget(192, 64)).unwrap()
}

/// The result of a bus.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "not every target asks for it")]
pub struct Outcome {
    pub stats: Stats,
    /// Whether a process died.
    pub died: bool,
    /// Pages that were taken back while a client joined.
    pub forgets: u64,
}

/// Runs a bus to its end and checks what all clients have seen. The broker dies at the end of
/// `broker_life`.
pub fn run<R: Runtime>(runtime: &R, scripts: &[Script], broker_life: CrashBudget) -> Outcome {
    run_by_ref(runtime, scripts, broker_life, usize::MAX)
}

/// Like [`run`], with messages of at least `zero_copy_threshold` bytes by reference.
pub fn run_by_ref<R: Runtime>(
    runtime: &R,
    scripts: &[Script],
    broker_life: CrashBudget,
    zero_copy_threshold: usize,
) -> Outcome {
    let to_broker = runtime.mailbox::<ToBroker<R>>();
    let broker = {
        let (runtime, inbox, clients) = (runtime.clone(), to_broker.clone(), scripts.len());
        let life = broker_life.clone();
        runtime.clone().spawn(move || {
            Brokering::new(&runtime, inbox, clients, life, zero_copy_threshold).run()
        })
    };
    let done = runtime.mailbox::<()>();
    let clients: Vec<_> = scripts
        .iter()
        .enumerate()
        .map(|(token, script)| {
            let (runtime, script) = (runtime.clone(), *script);
            let (to_broker, done) = (to_broker.clone(), done.clone());
            runtime.clone().spawn(move || {
                let client = Clienting::connect(&runtime, script, token, to_broker);
                let client = client.map(|mut client| {
                    client.play();
                    client
                });
                done.put(());
                client.map(Clienting::live_on)
            })
        })
        .collect();
    for _ in scripts {
        done.wait();
    }
    to_broker.put(ToBroker::Stop);
    let lives: Vec<Result<Life, Dead>> = clients.into_iter().map(|join| join()).collect();
    let (stats, last) = broker();
    let is_late = |life: &Life| life.died && last.contains(&life.id);
    if lives.iter().flatten().any(is_late) {
        // The broker had sent `Bye` before, and is gone itself.
        runtime.note(Note::Ended { who: BROKER });
    }
    runtime.note(Note::Finished);
    let broker_died = broker_life.is_over();
    let is_death = |life: &Result<Life, Dead>| life.as_ref().map_or(true, |life| life.died);
    let died = broker_died || lives.iter().any(is_death);
    for life in &lives {
        assert!(broker_died || !matches!(life, Err(Dead::Broker)));
    }
    // A client that never joined has seen nothing.
    let lives: Vec<Life> = lives.into_iter().flatten().collect();
    check(&lives, broker_died);
    let forgets = lives.iter().map(|life| life.forgets).sum();
    Outcome { stats, died, forgets }
}

/// The oracle: checks what the clients have seen. [P1 P2 P3 P4 P5]
fn check(lives: &[Life], broker_died: bool) {
    // One order: all clients saw the same message under a number of the bus.
    let mut order: BTreeMap<u64, (ClientId, u64)> = BTreeMap::new();
    for life in lives {
        for (i, (number, sender, message)) in life.received.iter().enumerate() {
            assert_eq!(*number, life.start.message + i as u64, "a gap for client {}", life.id);
            let known = *order.entry(*number).or_insert((*sender, *message));
            assert_eq!(known, (*sender, *message), "two orders");
        }
    }
    let end = lives.iter().filter(|l| !l.script.leaves && !l.died);
    let ends: Vec<u64> = end.map(|l| l.start.message + l.received.len() as u64).collect();
    assert!(ends.windows(2).all(|w| w[0] == w[1]), "they don't end together: {ends:?}");
    // Per sender: in order, once each, from the first message that a receiver could see.
    for life in lives {
        let mut next: BTreeMap<ClientId, u64> = BTreeMap::new();
        for (_, sender, message) in &life.received {
            let expected = next.entry(*sender).or_insert(*message);
            assert_eq!(message, expected, "from client {sender} to client {}", life.id);
            *expected += 1;
        }
    }
    for life in lives {
        let messages = order.values().filter(|(sender, _)| *sender == life.id);
        // A client that was there from beginning to end has seen everything that was committed. If
        // the broker died, it has seen at least what the broker had consumed.
        let witness = lives.iter().any(|l| l.start.message == 0 && !l.script.leaves && !l.died);
        if witness {
            let most = life.committed + u64::from(life.died);
            let least = if broker_died { life.consumed } else { life.committed };
            let seen = messages.count() as u64;
            assert!((least..=most).contains(&seen), "{seen} of {life:?}");
        }
    }
}

//! A client dies at each of its steps. One broker and two other clients stay for all of the deaths.

use crate::common::TIMEOUT;
use crate::common::bus::{Place, listener};
use crate::common::child::Child;
use crate::common::content::{END, Ear, SMALL, send};
use crate::common::proc::{holdings, wait_until};
use crate::every_step::{End, LIMITS, Step, Victim, alone, at_every_step, ours};
use crate::victims::milestones;
use std::sync::mpsc::{Receiver, Sender, channel};

/// More than a chain's budget: after this many messages, pages have been reused.
const BURST: u32 = 30;

/// A client that sends messages on request and waits until they are consumed. It then reports its
/// total. It blocks when there is no room.
struct Speaker {
    id: u32,
    asked: Sender<(u32, Option<u32>)>,
    said: Receiver<u32>,
    unheard: usize,
}

impl Speaker {
    fn new(place: &Place) -> Self {
        let mut client = place.sender();
        let id = client.id().0;
        let (asked, asks) = channel::<(u32, Option<u32>)>();
        let (says, said) = channel();
        std::thread::spawn(move || {
            let mut next = 0;
            for (count, end) in asks {
                for _ in 0..count {
                    send(&mut client, SMALL, next);
                    next += 1;
                }
                if let Some(round) = end {
                    client.send(END | round, b"").unwrap();
                }
                client.flush().unwrap();
                says.send(next).unwrap();
            }
        });
        Speaker { id, asked, said, unheard: 0 }
    }

    fn ask(&mut self, count: u32, end: Option<u32>) {
        self.asked.send((count, end)).unwrap();
        self.unheard += 1;
    }

    /// Waits until all requested messages are consumed. Returns their total number.
    #[track_caller]
    fn wait(&mut self) -> u32 {
        let mut sent = 0;
        for _ in 0..std::mem::take(&mut self.unheard) {
            sent = self.said.recv_timeout(TIMEOUT).expect("the sender hangs");
        }
        sent
    }
}

struct LivingBus {
    place: Place,
    broker: Child,
    speaker: Speaker,
    listener: Receiver<Ear>,
    sockets: usize,
    round: u32,
}

impl LivingBus {
    fn new() -> Self {
        let place = Place::new();
        let broker = place.broker(&LIMITS);
        let listener = listener(&place);
        let mut speaker = Speaker::new(&place);
        speaker.ask(1, None);
        speaker.wait();
        let sockets = holdings(broker.pid()).sockets;
        LivingBus { place, broker, speaker, listener, sockets, round: 0 }
    }

    /// Lets a client run up to this step on this bus. [P1 P3 P4 P7 P8 P9 P10]
    fn die(&mut self, role: &str, step: &Step) -> End {
        // Some messages arrive while it joins.
        self.speaker.ask(4, None);
        let mut victim = Victim::start(&self.place, role, step);
        let (mut id, mut sent) = (None, 0);
        while let Some((word, number)) = victim.word() {
            match word.as_str() {
                "id" => {
                    id = Some(number);
                    // It holds the messages that it does not receive, until it is dead.
                    self.speaker.ask(2 * BURST, None);
                }
                "sent" => sent = number,
                other => panic!("{other}"),
            }
        }
        let end = victim.end();
        self.speaker.ask(BURST, None);
        self.speaker.wait();
        // All resources of the dead client are released: connection, mappings, descriptors.
        wait_until("the broker has let go of everything", || {
            let held = holdings(self.broker.pid());
            let ours = ours().own;
            // All regions of the others are pages that may be referred to, except for two control
            // regions.
            let memfds = held.own.0 + ours.0 - 2;
            (held.sockets, held.foreign, held.memfds) == (self.sockets, ours, memfds)
        });
        self.speaker.ask(0, Some(self.round));
        let spoken = self.speaker.wait();
        self.round += 1;
        // Each message was verified when it was received. Neither the numbers on the bus nor those
        // of any sender have a gap.
        let heard = self.listener.recv_timeout(TIMEOUT).expect("the receiver hangs");
        assert_eq!(heard.heard_of(self.speaker.id), spoken);
        if let Some(id) = id {
            let possible: Vec<u32> = milestones().skip_while(|n| *n < sent).take(2).collect();
            let heard = heard.heard_of(id);
            assert!(possible.contains(&heard), "said {sent}, heard {heard}");
        }
        end
    }
}

/// Steps that every client makes.
const JOINING: &[&str] = &[
    "make a socket",
    "connect",
    "ask who is there",
    "send Hello",
    "receive",
    "wait for a connection",
    "has received",
    "ask for seals",
    "ask for the length",
    "map what came",
    "create a memfd",
    "set its length",
    "allocate it",
    "map it",
    "keep it from forks",
    "seal it",
    "send Join",
    "write a word",
    "read words",
    "CommitRead",
    "read bytes",
    "CursorPublish",
    "RingFence",
    "RingRead",
    "send Bye",
    "shut a connection down",
    "is anything left",
    "close a connection",
    "unmap",
];

// P1, P3, P4, P7, P8, P9, P10
#[test]
fn p4_p7_a_client_killed_at_any_step_harms_no_other_client() {
    let _alone = alone();
    let mut bus = LivingBus::new();
    let sending = [
        "write in place",
        "write bytes",
        "CommitClear",
        "CommitPublish",
        "CommitFill",
        "CursorRead",
        "send Page",
    ];
    let steps = [JOINING, &sending].concat();
    at_every_step("client", &steps, [|step: &Step| bus.die("dying-client", step)]);
}

// P3, P4, P7, P8, P9, P10
#[test]
fn p4_p8_a_receiver_killed_at_any_step_delays_no_other_client() {
    let _alone = alone();
    let mut bus = LivingBus::new();
    at_every_step("receiver", JOINING, [|step: &Step| bus.die("dying-receiver", step)]);
}

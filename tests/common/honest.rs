//! Two honest clients that exchange messages while a test attacks their bus. They lose nothing (P3)
//! and record the messages of strangers.

use super::TIMEOUT;
use super::bus::Bus;
use super::content::{END, SMALL, payload};
use llmp::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

pub struct Honest {
    over: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    threads: Vec<JoinHandle<Vec<Stranger>>>,
}

/// A message of a stranger: its id, the tag, the payload.
pub type Stranger = (u32, u32, Vec<u8>);

impl Honest {
    /// Two clients begin to exchange messages.
    pub fn pair(bus: &Bus) -> Self {
        let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let clients = [bus.connect(), bus.connect()];
        let [a, b] = [clients[0].id().0, clients[1].id().0];
        let threads = clients
            .into_iter()
            .zip([b, a])
            .map(|(client, other)| {
                let (over, rounds) = (Arc::clone(&over), Arc::clone(&rounds));
                std::thread::spawn(move || exchange(client, other, &over, &rounds))
            })
            .collect();
        Honest { over, rounds, threads }
    }

    /// Waits until they have exchanged `count` more messages.
    pub fn go_on(&self, count: u32) {
        let begin = self.rounds.load(Ordering::Relaxed);
        let deadline = Instant::now() + TIMEOUT;
        while self.rounds.load(Ordering::Relaxed).wrapping_sub(begin) < count {
            assert!(Instant::now() < deadline, "the bus stands still");
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "an honest client failed");
            std::thread::yield_now();
        }
    }

    /// Ends the exchange. Everything that one sent the other must have received.
    pub fn finish(self) -> Vec<Stranger> {
        self.go_on(10);
        self.over.store(true, Ordering::Relaxed);
        let mut heard: Vec<_> = self.threads.into_iter().map(|t| t.join().unwrap()).collect();
        let strangers = heard.pop().unwrap();
        assert_eq!(heard.pop().unwrap(), strangers, "both hear the same");
        strangers
    }
}

/// Sends a message and waits for one of the other's, until it is over and the other says so, too.
fn exchange(mut me: Client, other: u32, over: &AtomicBool, rounds: &AtomicU32) -> Vec<Stranger> {
    let mut strangers = Vec::new();
    let mut said_end = false;
    for number in 0.. {
        if !said_end {
            said_end = over.load(Ordering::Relaxed);
            let tag = if said_end { END } else { SMALL | number };
            me.send(tag, &payload(me.id().0, tag)).unwrap();
        }
        loop {
            let message = me.recv_timeout(TIMEOUT).unwrap().expect("a message");
            let (sender, tag) = (message.sender.0, message.tag.0);
            if sender != other {
                strangers.push((sender, tag, message.payload.to_vec()));
                continue;
            }
            assert!(message.payload == payload(sender, tag), "torn");
            if tag == END {
                if !said_end {
                    me.send(END, &[]).unwrap();
                }
                me.flush().unwrap();
                return strangers;
            }
            assert_eq!(tag, SMALL | number);
            break;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    strangers
}

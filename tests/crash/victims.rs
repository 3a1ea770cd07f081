//! The scripts of the processes that die. Each script reports a fact as soon as it is certain, so
//! that every report before its death is true.

use crate::common::child::ROLE;
use crate::common::content::{STEADY, check, payload};
use crate::common::roles::{self, say, told};
use crate::every_step::LIMITS;
use llmp::{Broker, Client, Envelope, Limits, Receiver, RecvError, SendError, Sender, crash};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::time::Duration;

/// Messages that are sent one by one, and then as many in a batch as fill a page and more.
pub const SINGLE: u32 = 7;
pub const BATCH: u32 = 5;
/// The message that is written in place.
const IN_PLACE: u32 = 1;
/// Messages of the others that a client receives.
const RECEIVES: u32 = 12;
/// Messages that a client receives which does nothing else.
const RECEIVES_ONLY: u32 = 30;

pub fn play() {
    let Ok(words) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = words.lines().collect();
    let script: fn(&str) = match words[0] {
        "dying-client" => client,
        "dying-receiver" => receiver,
        "dying-broker" => broker,
        "dying-channel-sender" => channel_sender,
        "dying-channel-receiver" => channel_receiver,
        "dying-own-channel" => own_channel,
        _ => return roles::play(),
    };
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    crash::arm(words[2], words[3].parse().unwrap(), || say("dies"));
    script(words[1]);
    for (kind, _) in crash::steps() {
        say(format_args!("made {kind}"));
    }
}

/// Returns the possible numbers of messages of a sender's script: its batch arrives whole.
pub fn milestones() -> impl Iterator<Item = u32> {
    (0..=SINGLE).chain([SINGLE + BATCH])
}

/// Sends and receives, and leaves.
fn client(path: &str) {
    let mut client = Client::connect(path).unwrap();
    let id = client.id().0;
    say(format_args!("id {id}"));
    for number in 0..SINGLE {
        let payload = payload(id, STEADY | number);
        match number {
            IN_PLACE => {
                let envelope = Envelope::tagged(STEADY | number);
                let fill = |bytes: &mut [u8]| {
                    bytes.copy_from_slice(&payload);
                    Ok::<(), ()>(())
                };
                client.send_with(envelope, payload.len(), fill).unwrap().unwrap();
            }
            _ => client.send(STEADY | number, &payload).unwrap(),
        }
        say(format_args!("sent {}", number + 1));
    }
    client.flush().unwrap();
    let batch: Vec<_> = (SINGLE..SINGLE + BATCH).map(|n| STEADY | n).collect();
    let mut received = 0;
    // All messages are consumed, but some may still be referred to, also by this client.
    while !send_at_once(&mut client, &batch) {
        if let Some(message) = client.recv_timeout(Duration::from_millis(1)).unwrap() {
            check(&message);
            received += 1;
        }
    }
    say(format_args!("sent {}", SINGLE + BATCH));
    for _ in received..RECEIVES {
        check(&client.recv().unwrap());
    }
}

/// Sends these in one batch. Returns whether there was room for it.
fn send_at_once(client: &mut Client, tags: &[u32]) -> bool {
    let id = client.id().0;
    let mut batch = client.batch();
    for tag in tags {
        match batch.try_send(*tag, &payload(id, *tag)) {
            Err(SendError::Full { .. }) => return false,
            sent => sent.unwrap(),
        }
    }
    batch.commit();
    true
}

/// Receives, and leaves.
fn receiver(path: &str) {
    let mut client = Client::connect_receiver(path).unwrap();
    say(format_args!("id {}", client.id()));
    for _ in 0..RECEIVES_ONLY {
        check(&client.recv().unwrap());
    }
}

/// Serves a bus until it is stopped.
fn broker(path: &str) {
    let [page_len, max_message_len, budget, zero_copy_threshold] = LIMITS;
    let builder = Broker::builder().page_len(page_len).max_message_len(max_message_len);
    let broker =
        builder.chain_budget(budget).zero_copy_threshold(zero_copy_threshold).bind(path).unwrap();
    let stop = broker.stop_handle();
    std::thread::spawn(move || {
        told();
        stop.stop();
    });
    say("ready");
    broker.run().unwrap();
}

fn channel_sender(path: &str) {
    let mut sender = Sender::connect(path).unwrap();
    // The only sender of a channel is client 1.
    for number in 0..SINGLE {
        sender.send(STEADY | number, &payload(1, STEADY | number)).unwrap();
        say(format_args!("sent {}", number + 1));
    }
    sender.flush().unwrap();
    let mut batch = sender.batch();
    for number in SINGLE..SINGLE + BATCH {
        batch.try_send(STEADY | number, &payload(1, STEADY | number)).unwrap();
    }
    batch.commit();
    say(format_args!("sent {}", SINGLE + BATCH));
}

fn channel_receiver(path: &str) {
    let [page_len, max_message_len, budget, _] = LIMITS;
    let limits = Limits::new(page_len, max_message_len, budget).unwrap();
    let listener = Receiver::listen_with(path, limits).unwrap();
    say("ready");
    let mut receiver = listener.accept().unwrap();
    for number in 0.. {
        match receiver.recv() {
            Ok(message) => {
                check(&message);
                assert_eq!(message.tag.0, STEADY | number);
            }
            Err(RecvError::Disconnected(_)) => return,
            Err(error) => panic!("{error}"),
        }
        // The message is released in the next call at the earliest.
        say(format_args!("heard {}", number + 1));
    }
}

/// A channel whose ends are both in this process.
fn own_channel(_: &str) {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    for number in 0..SINGLE {
        sender.send(STEADY | number, b"to myself").unwrap();
        assert_eq!(receiver.recv().unwrap().payload, b"to myself");
        say(format_args!("heard {}", number + 1));
    }
}

//! Each of the two ends of a channel dies at each of its steps.

use crate::common::TIMEOUT;
use crate::common::bus::Place;
use crate::common::content::{END, STEADY, check, payload};
use crate::every_step::{
    End, LIMITS, Step, Victim, alone, at_every_step, wait_until_nothing_is_left, within_timeout,
};
use crate::victims::{BATCH, SINGLE, milestones};
use llmp::{ConnectError, Disconnected, Limits, Listener, Receiver, RecvError, SendError, Sender};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

fn limits() -> Limits {
    let [page_len, max_message_len, budget, _] = LIMITS;
    Limits::new(page_len, max_message_len, budget).unwrap()
}

/// The result of one channel.
#[derive(Debug)]
enum Heard {
    /// The channel was never made.
    Nothing,
    /// This many messages, whole and in order, and then the end.
    Messages(u32, Disconnected),
    /// The test's own mark after all of them.
    Mark,
}

/// Receives from one sender until its end.
fn hear(listener: &Listener) -> Heard {
    let mut receiver = match listener.accept() {
        Ok(receiver) => receiver,
        Err(ConnectError::Disconnected(Disconnected::PeerDied)) => return Heard::Nothing,
        Err(error) => panic!("{error}"),
    };
    let mut number = 0;
    loop {
        match receiver.recv_timeout(TIMEOUT) {
            Ok(Some(message)) if message.tag.0 == END => return Heard::Mark,
            Ok(message) => {
                let message = message.expect("a message or an end");
                check(&message);
                assert_eq!(message.tag.0, STEADY | number);
                number += 1;
            }
            Err(RecvError::Disconnected(ended)) => return Heard::Messages(number, ended),
            Err(error) => panic!("{error}"),
        }
    }
}

// P1, P3, P4, P7
#[test]
fn p4_p7_the_sender_of_a_channel_killed_at_each_of_its_steps() {
    let _alone = alone();
    let place = Place::new();
    let listener = Receiver::listen_with(place.path(), limits()).unwrap();
    let (heard, hears) = channel();
    // Only this test ends it.
    std::thread::spawn(move || while heard.send(hear(&listener)).is_ok() {});
    let steps = [
        "connect",
        "send Hello",
        "refuse descriptors",
        "send Join",
        "send Page",
        "CommitPublish",
        "CommitFill",
    ];
    at_every_step(
        "channel sender",
        &steps,
        [move |step: &Step| {
            let mut victim = Victim::start(&place, "dying-channel-sender", step);
            let sent = victim.last("sent").unwrap_or(0);
            let end = victim.end();
            // Another sender follows, whether or not this one has connected.
            let path = place.path();
            within_timeout(move || Sender::connect(path).unwrap().send(END, b"").unwrap());
            let mut from_victim = Heard::Nothing;
            loop {
                match hears.recv_timeout(TIMEOUT).expect("the receiver hangs or has failed") {
                    Heard::Mark => break,
                    other => from_victim = other,
                }
            }
            let possible: Vec<u32> = milestones().skip_while(|n| *n < sent).take(2).collect();
            match &from_victim {
                Heard::Messages(heard, Disconnected::PeerDied) => {
                    assert!(possible.contains(heard), "said {sent}, heard {heard}");
                    assert!(end.is_death());
                }
                Heard::Messages(heard, Disconnected::Closed) => assert_eq!(*heard, SINGLE + BATCH),
                Heard::Nothing => assert_eq!(sent, 0),
                other => panic!("{other:?}"),
            }
            wait_until_nothing_is_left();
            end
        }],
    );
}

/// The progress of a sender before its end, if it began: messages sent, and messages that were
/// certainly consumed.
fn speak(path: &Path) -> (u32, u32, Option<Disconnected>) {
    let mut sender = match Sender::connect(path) {
        Ok(sender) => sender,
        Err(ConnectError::Disconnected(Disconnected::PeerDied) | ConnectError::NoBus { .. }) => {
            return (0, 0, Some(Disconnected::PeerDied));
        }
        Err(error) => panic!("{error}"),
    };
    let (mut sent, mut taken) = (0, 0);
    let mut speak = || {
        for number in 0..2 * (SINGLE + BATCH) {
            sender.send(STEADY | number, &payload(1, STEADY | number))?;
            sent += 1;
            if number % 5 == 4 {
                sender.flush()?;
                taken = sent;
            }
        }
        sender.flush()?;
        taken = sent;
        Ok(())
    };
    match speak() {
        Ok(()) => (sent, taken, None),
        Err(SendError::Disconnected(ended)) => (sent, taken, Some(ended)),
        Err(error) => panic!("{error}"),
    }
}

/// Lets the receiving end of a channel run up to this step. [P5 P7 P9]
fn receiver_dies(place: &Place, step: &Step) -> End {
    let path: PathBuf = place.path();
    // It finds the socket of a dead predecessor.
    drop(UnixListener::bind(&path).unwrap());
    let mut victim = Victim::start(place, "dying-channel-receiver", step);
    let mut spoken = (0, 0, Some(Disconnected::PeerDied));
    if victim.word().is_some_and(|(word, _)| word == "ready") {
        let path = path.clone();
        spoken = within_timeout(move || speak(&path));
    }
    let heard = victim.last("heard").unwrap_or(0);
    let (sent, taken, ended) = spoken;
    assert!((taken..=sent).contains(&heard), "sent {sent}, taken {taken}, heard {heard}");
    assert!(matches!(ended, None | Some(Disconnected::PeerDied)), "{ended:?}");
    let end = victim.end();
    if !end.is_death() {
        assert_eq!((heard, ended), (2 * (SINGLE + BATCH), None));
    }
    wait_until_nothing_is_left();
    // The next one starts at the same place.
    drop(Receiver::listen_with(&path, limits()).unwrap());
    end
}

// P5, P7, P9
#[test]
fn p5_p7_the_receiver_of_a_channel_killed_at_each_of_its_steps() {
    let _alone = alone();
    let place = Place::new();
    let steps = [
        "bind",
        "remove a stale socket",
        "listen",
        "accept",
        "send Welcome",
        "send Start",
        "map what came",
        "CommitRead",
        "read bytes",
        "CursorPublish",
        "ParkStore",
        "send Ring",
        "remove our socket",
        "lock the lock file",
        "remove the lock file",
    ];
    at_every_step("channel receiver", &steps, [|step: &Step| receiver_dies(&place, step)]);
}

// P7
#[test]
fn p7_a_process_killed_at_any_step_of_a_channel_leaks_nothing() {
    let _alone = alone();
    let place = Place::new();
    let steps = ["make a pair of sockets", "send Welcome", "CommitPublish", "close a connection"];
    at_every_step(
        "own channel",
        &steps,
        [|step: &Step| {
            let mut victim = Victim::start(&place, "dying-own-channel", step);
            let heard = victim.last("heard");
            let end = victim.end();
            assert!(end.is_death() || heard == Some(SINGLE), "{heard:?}");
            end
        }],
    );
}

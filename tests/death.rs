//! A bus of real processes that are killed, by `SIGKILL`.

mod common;

use common::TIMEOUT;
use common::bus::{Place, listener};
use common::child::Child;
use common::content::{END, Ear, MEDIUM, random, seed, send};
use common::proc::{holdings, left_behind, maps, wait_asleep, wait_until};
use llmp::{Client, Disconnected, RecvError, SendError};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// Returns how many messages a killed sender has reported as sent.
fn reported(sender: &mut Child) -> u32 {
    let sent = |line: &String| line.strip_prefix("sent ")?.parse::<u32>().ok();
    sender.last_words().iter().filter_map(sent).max().map_or(0, |last| last + 1)
}

// P4, P7
#[test]
fn a_client_killed_while_sending_loses_no_committed_message() {
    const ROUNDS: u32 = 14;
    let mut seed = seed();
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let listener = listener(&place);
    let mut marker = place.sender();
    let mut sockets = None;
    for round in 0..ROUNDS {
        let mut senders =
            ["only", "both", "only", "both"].map(|how| place.child("sender", &[&how]));
        let ids = senders.each_mut().map(|sender| sender.says_number("id"));
        for sender in &mut senders {
            // Up to 6 MB, and not at the beginning or the end of a message.
            let last = random(&mut seed) % 150;
            sender.says(&format!("sent {last}"));
            for _ in 0..random(&mut seed) % 100_000 {
                std::hint::spin_loop();
            }
            sender.kill();
        }
        for id in ids {
            broker.says(&format!("log client {id} has left"));
        }
        marker.send(END | round, b"").unwrap();
        let heard = listener.recv_timeout(TIMEOUT).unwrap();
        for (sender, id) in senders.iter_mut().zip(ids) {
            // Each message was verified when it was received, and the numbers have no gap.
            let reported = reported(sender);
            assert!(heard.heard_of(id) >= reported, "{reported} reported, {heard:?}");
        }
        // The broadcast chain keeps its own pages. Each of the two remaining clients has one page,
        // which may be referred to. The dead client's resources are released as soon as the
        // listener has passed the messages that refer to its pages.
        let mut held = holdings(broker.pid());
        let sockets = *sockets.get_or_insert(held.sockets);
        let living = (4, 2 * (4096 + marker.limits().page_len()));
        wait_until("the broker has let go of the dead", || {
            held = holdings(broker.pid());
            (held.sockets, held.foreign, held.memfds) == (sockets, living, held.own.0 + 2)
        });
        assert!(
            held.own.1 <= marker.limits().budget() + (128usize + 1024 * 64).next_multiple_of(4096)
        );
    }
}

// P4
#[test]
fn a_client_that_sends_and_exits_at_once_loses_nothing() {
    const COUNT: u32 = 50;
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let listener = listener(&place);
    let mut marker = place.sender();
    for round in 0..10 {
        let mut burst = place.child("burst", &[&COUNT]);
        let id = burst.says_number("id");
        // Half of the time the broker finds messages, pages and the end at once.
        let surprise = round % 2 == 1;
        if surprise {
            broker.stop();
        }
        burst.tell("go");
        burst.says("sent");
        burst.wait();
        if surprise {
            broker.go_on();
        }
        broker.says(&format!("log client {id} has left"));
        marker.send(END | round, b"").unwrap();
        assert_eq!(listener.recv_timeout(TIMEOUT).unwrap().heard_of(id), COUNT);
    }
}

// P4: unread packets of a dead client do not hide the messages that it had sent.
#[test]
fn a_client_that_dies_with_unread_packets_loses_nothing() {
    const COUNT: u32 = 50;
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let listener = listener(&place);
    let mut marker = place.sender();
    let mut burst = place.child("burst", &[&COUNT]);
    let id = burst.says_number("id");
    // New pages of the broadcast chain are announced to the burst, which does not read.
    for number in 0..COUNT {
        send(&mut marker, MEDIUM, number);
    }
    marker.flush().unwrap();
    wait_asleep(broker.pid());
    broker.stop();
    burst.tell("go");
    burst.says("sent");
    burst.wait();
    broker.go_on();
    broker.says(&format!("log client {id} has left"));
    marker.send(END, b"").unwrap();
    assert_eq!(listener.recv_timeout(TIMEOUT).unwrap().heard_of(id), COUNT);
}

// P5
#[test]
fn a_killed_broker_leaves_all_committed_messages() {
    const COUNT: u32 = 60;
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut blocked = place.child("receiver", &[]);
    blocked.says("id");
    let (mut late, mut sender) = (place.connect(), place.connect());
    for number in 0..COUNT {
        send(&mut sender, MEDIUM, number);
    }
    sender.flush().unwrap();
    sender.send(END, b"").unwrap();
    sender.flush().unwrap();
    assert_eq!(blocked.says_number("heard"), COUNT);
    wait_asleep(blocked.pid());
    // It dies with packets that it has not read.
    wait_asleep(broker.pid());
    broker.stop();
    late.send(0, b"unread").unwrap();
    broker.kill();
    assert_eq!(blocked.says("ended"), format!("PeerDied after {COUNT}"));
    let mut ear = Ear::default();
    ear.hear_until_end(&mut late, 0);
    assert_eq!(ear.heard(), COUNT);
    assert_eq!(late.recv().unwrap_err(), RecvError::Disconnected(Disconnected::PeerDied));
    assert!(matches!(late.send(0, b""), Err(SendError::Disconnected(Disconnected::PeerDied))));
    assert!(matches!(
        sender.flush(),
        Ok(()) | Err(SendError::Disconnected(Disconnected::PeerDied))
    ));
}

// P5, P7
#[test]
fn no_client_hangs_after_a_kill_and_the_next_broker_starts() {
    let place = Place::new();
    let mut broker_ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut broker = place.broker(&[]);
        let mut receiver = place.child("receiver", &[]);
        let mut full = place.child("stuck", &[]);
        receiver.says("id");
        full.says("id");
        assert!(broker_ids.insert(place.connect().broker_id()));
        broker.stop();
        full.tell("go");
        full.says("full");
        wait_asleep(full.pid());
        wait_asleep(receiver.pid());
        broker.kill();
        assert_eq!(full.says("ended"), "PeerDied");
        assert_eq!(receiver.says("ended"), "PeerDied after 0");
        assert!(place.path().exists(), "the socket of the dead broker is still there");
    }
    let _broker = place.broker(&[]);
    let _works = place.connect();
}

// P7
#[test]
fn a_bus_whose_processes_are_all_killed_leaks_nothing() {
    let place = Place::new();
    for _ in 0..3 {
        let mut broker = place.broker(&[]);
        let mut receiver = place.child("receiver", &[]);
        receiver.says("id");
        let mut senders = ["only", "both"].map(|how| place.child("sender", &[&how]));
        senders.iter_mut().for_each(|sender| drop(sender.says("sent 20")));
        let [a, b] = senders;
        let mut all = [broker, receiver, a, b];
        for child in &all {
            // All their shared memory is in memfds, which the kernel frees with the process.
            let maps = maps(child.pid());
            assert!(maps.contains("memfd:llmp") && !maps.contains("/dev/shm"), "{maps}");
            assert!(!maps.contains("/SYSV"), "{maps}");
        }
        all.iter_mut().for_each(Child::kill);
        let pids = all.each_ref().map(Child::pid);
        assert_eq!(left_behind(&pids), Vec::<String>::new());
        broker = place.broker(&[]);
        let (mut a, mut b) = (place.connect(), place.connect());
        a.send(1, b"on it goes").unwrap();
        assert_eq!(b.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"on it goes");
        broker.kill();
    }
}

// P4, P7
#[test]
fn a_channel_delivers_committed_messages_of_a_killed_sender() {
    let mut seed = seed();
    for _ in 0..10 {
        let place = Place::new();
        let mut receiver = place.child("channel-receiver", &[]);
        receiver.says("ready");
        let mut sender = place.child("channel-sender", &[]);
        sender.says(&format!("sent {}", random(&mut seed) % 100));
        sender.kill();
        let ended = receiver.says("ended PeerDied after");
        let received: u32 = ended.parse().unwrap();
        assert!(received >= reported(&mut sender));
    }
}

// P5, P7
#[test]
fn a_sender_that_waits_for_room_notices_its_killed_receiver() {
    let place = Place::new();
    for round in 0..6 {
        // Takes the place of the dead one's socket.
        let mut receiver = place.child("channel-receiver", &[]);
        receiver.says("ready");
        let mut sender = place.child("channel-sender", &[]);
        sender.says("sent 30");
        if round % 2 == 1 {
            receiver.stop();
            wait_asleep(sender.pid());
        }
        receiver.kill();
        assert_eq!(sender.says("ended"), "PeerDied");
    }
}

#[test]
fn an_iterator_returns_an_end_that_is_not_orderly_once() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut receiver = Client::connect_receiver(place.path()).unwrap();
    let mut messages = receiver.iter();
    broker.kill();
    let died = RecvError::Disconnected(Disconnected::PeerDied);
    assert_eq!(messages.next(), Some(Err(died)));
    assert_eq!(messages.next(), None);
}

// P4, P7: its connections and ids come and go while others stay.
#[test]
fn clients_killed_while_they_wait_leave_no_trace_in_the_broker() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    // It has no chain of its own, whose first page the broker might admit later.
    let watcher = Client::builder().track_receivers();
    let mut watcher = watcher.connect_receiver(place.path()).unwrap();
    assert!(watcher.wait_for_receivers(1, None).unwrap());
    let before = holdings(broker.pid());
    for _ in 0..5 {
        let mut receivers = [(); 4].map(|()| place.child("receiver", &[]));
        let ids = receivers.each_mut().map(|receiver| receiver.says_number("id"));
        assert!(watcher.wait_for_receivers(5, None).unwrap());
        receivers.iter_mut().for_each(Child::kill);
        for id in ids {
            broker.says(&format!("log client {id} has left"));
        }
        assert_eq!(holdings(broker.pid()), before);
        wait_until("the watcher hears of it", || watcher.receivers() == Some(1));
    }
}

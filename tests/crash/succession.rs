//! The broker dies at each of its steps, and its clients outlive it. Each time they go on with the
//! next broker: every message arrives once, in one order, and no client's program notices.

use crate::common::TIMEOUT;
use crate::common::bus::Place;
use crate::common::content::{STEADY, check, payload};
use crate::every_step::{
    End, Step, Victim, alone, at_every_step, wait_until_nothing_is_left, within_timeout,
};
use llmp::{Broker, BrokerStats, Client, ClientBuilder, Receiver, Sender, StopHandle, Vacancy};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than the budget of any chain, for each sender.
const MESSAGES: u32 = 16;

/// How long the next broker waits for a client that has died while it joined. A client that lives
/// comes in less.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

fn outliving() -> ClientBuilder {
    Client::builder().outlive_broker(TIMEOUT).wait_for_bus(TIMEOUT)
}

/// What a client has received: each message's sender and tag, in order.
type Heard = Vec<(u32, u32)>;

fn note(heard: &mut Heard, message: &llmp::Message<'_>) {
    check(message);
    heard.push((message.sender.0, message.tag.0 & !STEADY));
}

fn listen(mut receiver: Receiver) -> JoinHandle<Heard> {
    std::thread::spawn(move || {
        let mut heard = Heard::new();
        while heard.len() < 2 * MESSAGES as usize {
            note(&mut heard, &receiver.recv_timeout(TIMEOUT).unwrap().expect("a message"));
        }
        heard
    })
}

/// Sends all messages, and waits every few ones until the broker has consumed them. A broker that
/// sleeps is woken then.
fn speak(mut sender: Sender) {
    let id = sender.id().0;
    for number in 0..MESSAGES {
        sender.send(STEADY | number, &payload(id, STEADY | number)).unwrap();
        if number % 3 == 2 {
            assert!(sender.flush_timeout(TIMEOUT).unwrap());
        }
    }
    assert!(sender.flush_timeout(TIMEOUT).unwrap());
}

/// Runs a receiver, a sender, and a client that does both. Returns what the client and the receiver
/// have received.
fn live(path: &Path) -> [Heard; 2] {
    let ear = listen(outliving().connect_receiver(path).unwrap());
    let mut client = outliving().own_messages().connect(path).unwrap();
    let sender = outliving().connect_sender(path).unwrap();
    let ids = [sender.id().0, client.id().0];
    let speaking = std::thread::spawn(move || speak(sender));
    let mut heard = Heard::new();
    for number in 0..MESSAGES {
        let tag = STEADY | number;
        client.send(tag, &payload(ids[1], tag)).unwrap();
        while let Some(message) = client.try_recv().unwrap() {
            note(&mut heard, &message);
        }
    }
    while heard.len() < 2 * MESSAGES as usize {
        note(&mut heard, &client.recv_timeout(TIMEOUT).unwrap().expect("a message"));
    }
    speaking.join().unwrap();
    for id in ids {
        let numbers: Vec<_> = heard.iter().filter(|(from, _)| *from == id).collect();
        let numbers: Vec<u32> = numbers.into_iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "from {id}");
    }
    [heard, ear.join().unwrap()]
}

/// A broker in a thread.
type Running = (StopHandle, JoinHandle<std::io::Result<BrokerStats>>);

/// Serves the bus once the victim has died.
fn serve_next(path: PathBuf) -> JoinHandle<Option<Running>> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + TIMEOUT;
        if Broker::wait_until_free(&path, Some(deadline)).unwrap() != Vacancy::Free {
            return None;
        }
        // Its own limits are the defaults. The last broker's clients have others.
        let broker = Broker::builder().grace_period(GRACE_PERIOD).bind(&path).unwrap();
        let stop = broker.stop_handle();
        Some((stop, std::thread::spawn(move || broker.run())))
    })
}

/// Lets a broker run up to this step. [P1 P2 P3]
fn die(place: &Place, step: &Step) -> End {
    let path = place.path();
    let mut broker = Victim::start(place, "dying-broker", step);
    let is_ready = broker.word().is_some_and(|(word, _)| word == "ready");
    let next = serve_next(path.clone());
    if is_ready {
        let [client, receiver] = within_timeout(move || live(&path));
        assert_eq!(client, receiver, "two orders");
    }
    drop(broker.child.take_stdin());
    let end = broker.end();
    if let Some((next, running)) = next.join().unwrap() {
        next.stop();
        running.join().unwrap().unwrap();
    }
    end
}

// P1, P2, P3
#[test]
fn p1_p2_p3_clients_outlive_a_broker_killed_at_any_step() {
    let _alone = alone();
    let steps = [
        "write the record",
        "send Welcome",
        "send Session",
        "send Page",
        "send ForeignPage",
        "send Start",
        "send Ring",
        "IntentBegin",
        "IntentConsumed",
        "CommitFill",
        "CommitPublish",
        "CursorPublish",
        "RingFence",
    ];
    // They wait most of the time.
    let workers = [(); 6].map(|()| {
        let place = Place::new();
        move |step: &Step| die(&place, step)
    });
    at_every_step("succession", &steps, workers);
    wait_until_nothing_is_left();
}

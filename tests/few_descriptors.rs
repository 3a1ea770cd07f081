//! Clients and channels in a process without free descriptors when a page arrives.

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::roles::{say, told};
use llmp::{Broker, Client, Receiver, RecvError, Sender};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::File;
use std::time::Duration;

const LEN: usize = 1000;
const MANY: u32 = 1000;

/// Not a test: the child processes begin here.
#[test]
fn child() {
    let words = std::env::var(common::child::ROLE).unwrap_or_default();
    match words.lines().collect::<Vec<_>>()[..] {
        ["starved-client", path] => starved_client(path, false),
        ["waiting-client", path] => starved_client(path, true),
        ["starved-receiver", path] => starved_receiver(path),
        ["starved-connection", path] => starved_connection(path),
        _ => common::roles::play(),
    }
}

/// Opens all files that this process may. The limit lies above every open descriptor, those that
/// the process inherited included: a descriptor above the limit that is closed makes no room.
fn use_up() -> Vec<File> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let highest = open.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let highest: u64 = highest.map(|number| number.parse().unwrap()).max().unwrap();
    let limit = Some(highest + 1);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Receives with all descriptors in use, by calls that block or in an event loop of its own.
fn starved_client(path: &str, polls: bool) {
    let mut client = Client::connect_receiver(path).unwrap();
    let _files = use_up();
    say("starved");
    // Now there are pages whose descriptors can't be received. The event loop of the other client
    // has not requested its own yet.
    told();
    for tag in 0..MANY {
        let message = match polls {
            false => client.recv_timeout(TIMEOUT).unwrap().expect("a message"),
            true => {
                while !client.wait_for_message(Some(std::time::Instant::now())).unwrap() {
                    if let llmp::Wait::Readable { timeout } = client.prepare_wait() {
                        let timeout = timeout.map(|timeout| timeout.try_into().unwrap());
                        let mut fds =
                            [rustix::event::PollFd::new(&client, rustix::event::PollFlags::IN)];
                        rustix::event::poll(&mut fds, timeout.as_ref()).unwrap();
                    }
                }
                client.try_recv().unwrap().expect("a message")
            }
        };
        assert_eq!((message.tag.0, message.payload), (tag, &[7; LEN][..]));
    }
    say("heard all");
}

fn starved_receiver(path: &str) {
    let limits = llmp::Limits::new(4096, LEN, 64 * 4096).unwrap();
    let listener = Receiver::listen_with(path, limits).unwrap();
    say("ready");
    let mut receiver = listener.accept().unwrap();
    let _files = use_up();
    say("starved");
    for tag in 0..MANY {
        let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
        assert_eq!(message.tag.0, tag);
    }
    assert!(matches!(receiver.recv(), Err(RecvError::Disconnected(_))));
    say("heard all");
}

fn starved_connection(path: &str) {
    let mut files = use_up();
    // Leaves one descriptor, for the socket.
    files.pop();
    let error = Client::connect_receiver(path).unwrap_err();
    say(format_args!("error {error}"));
}

fn broker(place: &Place) -> llmp::StopHandle {
    let builder = Broker::builder().page_len(4096).max_message_len(LEN).chain_budget(64 * 4096);
    let broker = builder.zero_copy_threshold(usize::MAX).bind(place.path()).unwrap();
    let stop = broker.stop_handle();
    std::thread::spawn(move || broker.run().unwrap());
    stop
}

// P3
#[test]
fn a_client_without_a_free_descriptor_receives_all() {
    for role in ["starved-client", "waiting-client"] {
        let place = Place::new();
        let stop = broker(&place);
        let mut receiver = place.child(role, &[]);
        receiver.says("starved");
        let mut sender = Client::connect_sender(place.path()).unwrap();
        for tag in 0..MANY {
            if tag == 100 {
                sender.flush().unwrap();
                receiver.tell("go on");
            }
            sender.send_timeout(tag, &[7; LEN], TIMEOUT).unwrap();
        }
        receiver.says("heard all");
        stop.stop();
    }
}

// P3
#[test]
fn a_channels_receiver_without_a_free_descriptor_receives_all() {
    let place = Place::new();
    let mut receiver = place.child("starved-receiver", &[]);
    receiver.says("ready");
    let mut sender = Sender::connect(place.path()).unwrap();
    receiver.says("starved");
    for tag in 0..MANY {
        sender.send_timeout(tag, &[7; LEN], TIMEOUT).unwrap();
    }
    // It requests its pages again while it only waits.
    while !sender.flush_timeout(Duration::from_millis(100)).unwrap() {}
    drop(sender);
    receiver.says("heard all");
}

#[test]
fn a_lack_of_descriptors_is_reported_when_connecting() {
    let place = Place::new();
    let stop = broker(&place);
    let mut client = place.child("starved-connection", &[]);
    let error = client.says("error");
    assert!(error.contains("ulimit -n"), "{error}");
    stop.stop();
}

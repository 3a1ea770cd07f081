//! The roles of child processes. Each role reports by lines that begin with `@`.

use super::TIMEOUT;
use super::child::ROLE;
use super::content::{END, Ear, MEDIUM, SMALL, WIDE, check, payload, send};
use llmp::{Broker, Client, Disconnected, Message, Receiver, RecvError, SendError, Sender, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fmt::Display;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::time::Duration;

pub fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

pub fn told() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Plays the role that this process was started for, if it is a child.
pub fn play() {
    let Ok(words) = std::env::var(ROLE) else { return };
    // Whatever becomes of the test, its children don't outlive it.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let words: Vec<&str> = words.lines().collect();
    match words[..] {
        ["broker", path, limits] => broker(path, limits),
        ["restless-broker", path, cpu, limits] => {
            restless_broker(path, cpu.parse().unwrap(), limits)
        }
        ["exchange", path, count] => exchange(path, count.parse().unwrap()),
        ["sender", path, how] => sender(path, how),
        ["mixture", path, count] => mixture(path, count.parse().unwrap()),
        ["burst", path, count] => burst(path, count.parse().unwrap()),
        ["receiver", path] => receiver(path),
        ["stuck", path] => stuck(path),
        ["echo", path] => echo(path),
        ["storm", path, count] => storm(path, count.parse().unwrap()),
        ["member", path] => member(path),
        ["channel-receiver", path] => channel_receiver(path),
        ["channel-sender", path] => channel_sender(path),
        _ => panic!("no such role: {words:?}"),
    }
}

/// Joins a bus without a broker of its own. Sends a message for each number that it is told, and
/// reports what it receives, until `leave`.
fn member(path: &str) {
    let mut client = llmp::join(path).unwrap();
    let (commands, told_to) = std::sync::mpsc::channel();
    std::thread::spawn(move || while commands.send(told()).is_ok() {});
    say("joined");
    loop {
        match told_to.try_recv().ok().map(|command| command.parse::<u32>()) {
            Some(Ok(number)) => client.send(number, b"").unwrap(),
            Some(Err(_)) => break,
            None => {}
        }
        if let Some(message) = client.recv_timeout(Duration::from_millis(2)).unwrap() {
            say(format_args!("heard {}", message.tag.0));
        }
    }
    drop(client);
    say("left");
}

struct SayLog;

impl log::Log for SayLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("log {}", record.args()));
    }
    fn flush(&self) {}
}

/// Serves the bus and prints its log, until the first command.
fn broker(path: &str, limits: &str) {
    log::set_logger(&SayLog).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let limits: Vec<usize> =
        limits.trim_matches(['[', ']']).split(", ").filter_map(|n| n.parse().ok()).collect();
    let mut builder = Broker::builder();
    if let [page_len, max_message_len, budget, ..] = limits[..] {
        builder = builder.page_len(page_len).max_message_len(max_message_len).chain_budget(budget);
    }
    if let [_, _, _, zero_copy_threshold, ..] = limits[..] {
        builder = builder.zero_copy_threshold(zero_copy_threshold);
    }
    if let [_, _, _, _, descriptors] = limits[..] {
        let limit = Some(descriptors as u64);
        setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    }
    let broker = builder.bind(path).unwrap();
    let stop = broker.stop_handle();
    std::thread::spawn(move || {
        told();
        stop.stop();
    });
    say("ready");
    let report = broker.run().unwrap();
    say(format_args!("ended {} {}", report.clients, report.faults));
}

/// The processors on which this process may run.
pub fn processors() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
}

/// Keeps the calling thread on this processor.
pub fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// Serves the bus on this processor, on which other threads of this process start and end.
fn restless_broker(path: &str, cpu: usize, limits: &str) {
    pin(cpu);
    std::thread::spawn(|| {
        loop {
            // It inherits the processor.
            std::thread::spawn(|| {}).join().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    broker(path, limits);
}

/// Sends `count` messages on a bus of three clients and receives the messages of all. Prints a hash
/// of their order.
fn exchange(path: &str, count: u32) {
    let mut client = Client::builder().own_messages().connect(path).unwrap();
    say(format_args!("id {}", client.id()));
    told();
    let (mut ear, mut order) = (Ear::default(), DefaultHasher::new());
    let mut heard = 0;
    let mut hear = |message: &Message<'_>| {
        ear.hear(message);
        // All machines have to compute the same hash.
        order.write(&message.seq.to_le_bytes());
        order.write(&message.sender.0.to_le_bytes());
        order.write(&message.tag.0.to_le_bytes());
        ear.heard()
    };
    for number in 0..count {
        send(&mut client, WIDE, number);
        while let Some(message) = client.try_recv().unwrap() {
            heard = hear(&message);
        }
    }
    // Everything may have arrived already.
    while heard < 3 * count {
        heard = hear(&client.recv_timeout(TIMEOUT).unwrap().expect("a message"));
    }
    assert!(client.try_recv().unwrap().is_none(), "more than was sent");
    say(format_args!("order {:x}", order.finish()));
    told();
}

/// Sends until it is killed, and prints the number of each sent message.
fn sender(path: &str, how: &str) {
    let mut only = None;
    let mut both = None;
    let id = match how {
        "only" => only.insert(Client::connect_sender(path).unwrap()).id().0,
        _ => both.insert(Client::connect(path).unwrap()).id().0,
    };
    say(format_args!("id {id}"));
    let mut number = 0;
    loop {
        let tag = MEDIUM | number;
        let payload = payload(id, tag);
        let sent = match (&mut only, &mut both) {
            (Some(sender), _) => sender.send(tag, &payload),
            (None, Some(client)) => client.send(tag, &payload),
            (None, None) => unreachable!("it has connected"),
        };
        match (sent, &mut both) {
            (Ok(()), _) => {
                say(format_args!("sent {number}"));
                number += 1;
            }
            (Err(SendError::InboxFull { .. }), Some(client)) => {
                while client.try_recv().unwrap().is_some() {}
            }
            (Err(SendError::Disconnected(ended)), _) => {
                return say(format_args!("ended {ended:?}"));
            }
            (Err(error), _) => panic!("{error}"),
        }
    }
}

/// Waits for a command, and sends `count` messages of all lengths. Reports them when the broker has
/// consumed all.
fn mixture(path: &str, count: u32) {
    let mut sender = Client::connect_sender(path).unwrap();
    say(format_args!("id {}", sender.id()));
    told();
    for number in 0..count {
        send(&mut sender, [SMALL, MEDIUM, WIDE][number as usize % 3], number);
    }
    sender.flush().unwrap();
    say("sent");
}

/// Waits for a command, sends `count` messages and exits without closing the connection.
fn burst(path: &str, count: u32) {
    let mut client = Client::connect(path).unwrap();
    say(format_args!("id {}", client.id()));
    told();
    for number in 0..count {
        send(&mut client, MEDIUM, number);
    }
    say("sent");
    std::process::exit(0);
}

/// Receives everything. Prints the number of messages at each end of a round, and at last how the
/// connection ended.
fn receiver(path: &str) {
    let mut client = Client::connect(path).unwrap();
    say(format_args!("id {}", client.id()));
    let mut ear = Ear::default();
    let ended = loop {
        match client.recv() {
            Err(RecvError::Disconnected(ended)) => break ended,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                ear.hear(&message);
                if message.tag.0 & END == END {
                    say(format_args!("heard {}", ear.heard()));
                }
            }
        }
    };
    say(format_args!("ended {ended:?} after {}", ear.heard()));
}

/// Waits for a command, sends until the chain is full, reports that, and then waits for room.
fn stuck(path: &str) {
    let mut client = Client::connect(path).unwrap();
    say(format_args!("id {}", client.id()));
    told();
    let id = client.id().0;
    let mut number = 0;
    loop {
        let tag = MEDIUM | number;
        match client.try_send(tag, &payload(id, tag)) {
            Ok(()) => number += 1,
            Err(SendError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    say("full");
    let tag = MEDIUM | number;
    match client.send(tag, &payload(id, tag)) {
        Err(SendError::Disconnected(ended)) => say(format_args!("ended {ended:?}")),
        other => say(format_args!("sent {other:?}")),
    }
}

/// Sends back what it gets, in an event loop of its own.
fn echo(path: &str) {
    let mut client = Client::connect(path).unwrap();
    say(format_args!("id {}", client.id()));
    loop {
        if let Wait::Readable { timeout } = client.prepare_wait() {
            let timeout = timeout.map(|timeout| timeout.try_into().unwrap());
            poll(&mut [PollFd::new(&client, PollFlags::IN)], timeout.as_ref()).unwrap();
        }
        loop {
            let tag = match client.try_recv() {
                Ok(Some(message)) => message.tag,
                Ok(None) => break,
                Err(RecvError::Disconnected(Disconnected::Closed)) => return say("closed"),
                Err(error) => panic!("{error}"),
            };
            client.send(tag, b"echo").unwrap();
        }
    }
}

/// Comes, sends one message and leaves, `count` times.
fn storm(path: &str, count: u32) {
    for _ in 0..count {
        let mut client = Client::connect(path).unwrap();
        send(&mut client, MEDIUM, 0);
        say(format_args!("id {}", client.id()));
    }
}

fn channel_receiver(path: &str) {
    let listener = Receiver::listen(path).unwrap();
    say("ready");
    let mut receiver = listener.accept().unwrap();
    for number in 0.. {
        match receiver.recv() {
            Ok(message) => {
                check(&message);
                assert_eq!(message.tag.0, MEDIUM | number);
            }
            Err(RecvError::Disconnected(ended)) => {
                return say(format_args!("ended {ended:?} after {number}"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn channel_sender(path: &str) {
    let mut sender = Sender::connect(path).unwrap();
    for number in 0.. {
        let tag = MEDIUM | number;
        // The only sender of a channel is client 1.
        match sender.send(tag, &payload(1, tag)) {
            Ok(()) => say(format_args!("sent {number}")),
            Err(SendError::Disconnected(ended)) => return say(format_args!("ended {ended:?}")),
            Err(error) => panic!("{error}"),
        }
    }
}

//! Handles of every kind, and their state in the kernel.

use crate::common::TIMEOUT;
use crate::common::regions::shared;
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use llmp::{Broker, Client, Listener, Receiver, Sender, StopHandle, Wait};
use std::path::{Path, PathBuf};

/// Handles of every kind, in use.
pub struct Handles {
    pub a: Client,
    pub b: Client,
    pub sender: Sender,
    pub receiver: Receiver,
    pub channel: (Sender, Receiver),
    pub listener: Listener,
    pub broker: Option<Broker>,
    pub stop: StopHandle,
    region: Region,
    /// Where the listener and the broker of this process listen.
    pub places: [PathBuf; 2],
    sent: u32,
}

impl Handles {
    pub fn new(path: &Path) -> Self {
        let places = ["listener", "broker"].map(|name| path.with_file_name(name));
        let broker = Broker::bind(&places[1]).unwrap();
        let mut handles = Handles {
            a: Client::builder().track_receivers().connect(path).unwrap(),
            b: Client::connect(path).unwrap(),
            sender: Client::connect_sender(path).unwrap(),
            receiver: Client::connect_receiver(path).unwrap(),
            channel: llmp::channel().unwrap(),
            listener: Receiver::listen(&places[0]).unwrap(),
            stop: broker.stop_handle(),
            broker: Some(broker),
            region: shared("llmp-test", 1 << 20).unwrap(),
            places,
            sent: 0,
        };
        assert!(handles.sender.wait_for_receivers(3, None).unwrap());
        handles.exchange();
        handles
    }

    fn tags(&self) -> [u32; 2] {
        [2 * self.sent, 2 * self.sent + 1]
    }

    /// Sends by each handle that can.
    pub fn send(&mut self) {
        let [first, second] = self.tags();
        self.a.send(first, &[1; 5000]).unwrap();
        self.a.flush().unwrap();
        self.sender.send(second, b"by the sender").unwrap();
        self.sender.flush().unwrap();
        self.channel.0.send(first, b"over the channel").unwrap();
        self.region.store(8, u64::from(first), Site::CommitPublish);
    }

    /// Receives that by each handle that can: once, and nothing else.
    pub fn receive(&mut self) {
        let [first, second] = self.tags();
        self.sent += 1;
        for expected in [first, second] {
            let message = self.b.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!(message.tag.0, expected);
            let message = self.receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!(message.tag.0, expected);
        }
        let message = self.a.recv_timeout(TIMEOUT).unwrap().expect("a message");
        assert_eq!((message.tag.0, message.payload), (second, &b"by the sender"[..]));
        let message = self.channel.1.recv_timeout(TIMEOUT).unwrap().expect("a message");
        assert_eq!((message.tag.0, message.payload), (first, &b"over the channel"[..]));
        assert_eq!(self.region.load(8, Site::CommitRead), u64::from(first));
        // They read their sockets, which report no end.
        assert!(matches!(self.channel.1.prepare_wait(), Wait::Readable { .. }));
        assert!(self.channel.1.try_recv().unwrap().is_none());
        assert_eq!(self.b.ended(), None);
        assert!(self.b.try_recv().unwrap().is_none());
    }

    pub fn exchange(&mut self) {
        self.send();
        self.receive();
    }

    /// The listener and the broker of this process serve.
    pub fn serve(mut self) {
        let place = self.places[0].clone();
        let sender = std::thread::spawn(move || Sender::connect(place).unwrap());
        let mut receiver = self.listener.accept().unwrap();
        let mut sender = sender.join().unwrap();
        sender.send(1, b"after the fork").unwrap();
        assert_eq!(receiver.recv().unwrap().payload, b"after the fork");
        let broker = self.broker.take().unwrap();
        let thread = std::thread::spawn(move || broker.run());
        let mut client = Client::builder().own_messages().connect(&self.places[1]).unwrap();
        client.send(1, b"after the fork").unwrap();
        assert_eq!(client.recv().unwrap().payload, b"after the fork");
        self.stop.stop();
        assert_eq!(thread.join().unwrap().unwrap().clients, 1);
    }
}

/// The state of descriptors that are shared with children: the descriptors and events of an epoll,
/// and whether an eventfd was written.
pub fn of_the_kernel() -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // The descriptor of this directory is closed by then.
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let telling = |line: &&str| line.starts_with("tfd:") || line.starts_with("eventfd-count:");
        lines.extend(info.lines().filter(telling).map(str::to_owned));
    }
    lines.sort();
    assert!(lines.len() >= 4, "an epoll watches three, and there is an eventfd: {lines:?}");
    lines
}

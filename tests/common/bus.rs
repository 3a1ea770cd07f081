//! A bus at a path of its own, with its broker in a thread or in a child process.

use super::TIMEOUT;
use super::child::Child;
use super::content::Ear;
use super::logs;
use llmp::{BrokerBuilder, BrokerStats, Client, StopHandle};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// A place for a bus's socket.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("bus.sock")
    }

    /// Starts a broker process there. `limits` are page length, longest message and budget. The
    /// length from which messages pass by reference and the number of descriptors may follow.
    pub fn broker(&self, limits: &[usize]) -> Child {
        let mut broker = self.child("broker", &[&format!("{limits:?}")]);
        broker.says("ready");
        broker
    }

    /// Starts another process whose first argument is this place.
    pub fn child(&self, role: &str, arguments: &[&dyn Display]) -> Child {
        let path = self.path().display().to_string();
        let mut all: Vec<&dyn Display> = vec![&path];
        all.extend(arguments);
        Child::start(role, &all)
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.path()).unwrap()
    }

    pub fn sender(&self) -> llmp::Sender {
        Client::connect_sender(self.path()).unwrap()
    }
}

/// Starts a client that receives all messages. At the end of each round it reports what it has
/// received.
pub fn listener(place: &Place) -> Receiver<Ear> {
    let mut client = place.connect();
    let (heard, receiver) = channel();
    std::thread::spawn(move || {
        let mut ear = Ear::default();
        for round in 0.. {
            ear.hear_until_end(&mut client, round);
            // The test may be over already.
            let _ = heard.send(ear.clone());
        }
    });
    receiver
}

/// A bus whose broker is a thread and whose log can be read.
pub struct Bus {
    place: Place,
    path: PathBuf,
    name: String,
    stop: StopHandle,
    thread: Option<JoinHandle<std::io::Result<BrokerStats>>>,
}

impl Bus {
    pub fn new(builder: BrokerBuilder) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        logs::install();
        let place = Place::new();
        let path = place.path();
        let broker = builder.bind(&path).unwrap();
        let stop = broker.stop_handle();
        // The log knows a broker by its thread.
        let name = format!("broker {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let thread = std::thread::Builder::new().name(name.clone());
        let thread = Some(thread.spawn(move || broker.run()).unwrap());
        Bus { place, path, name, stop, thread }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn connect(&self) -> Client {
        self.place.connect()
    }

    /// Waits until the broker has logged a line that contains `text`.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        logs::wait_for(&self.name, &[text], TIMEOUT);
    }

    /// Waits until the broker has disconnected a client for this fault.
    #[track_caller]
    pub fn disconnects(&self, client: u32, fault: &str) {
        let client = format!("client {client} is disconnected: ");
        logs::wait_for(&self.name, &[&client, fault], TIMEOUT);
    }

    /// Waits until the broker has taken everything of a client that has hung up.
    #[track_caller]
    pub fn has_left(&self, client: u32) {
        self.logs(&format!("client {client} has left"));
    }

    pub fn stop(&self) {
        self.stop.stop();
    }

    pub fn end(mut self) -> BrokerStats {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

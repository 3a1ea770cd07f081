//! Removed receivers that read on: their connection has ended, and their process lives.

#[path = "common/connection.rs"]
mod connection;

use connection::connection_of;
use llmp::core::memory::TrustPeers;
use llmp::{
    Broker, BrokerBuilder, Client, ConnectError, Disconnected, Receiver, RecvError, SendError,
    Sender,
};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BUDGET: usize = 64 * 1024;
const LEN: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Bus {
    path: PathBuf,
    stop: llmp::StopHandle,
    thread: Option<JoinHandle<llmp::BrokerStats>>,
    _dir: tempfile::TempDir,
}

impl Bus {
    /// A bus with small pages, whose messages are all copied or all passed by reference.
    fn new(by_reference: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let builder: BrokerBuilder = Broker::builder().page_len(4096).max_message_len(LEN);
        let builder = builder.zero_copy_threshold(if by_reference { 0 } else { usize::MAX });
        let broker = builder.chain_budget(BUDGET).bind(&path).unwrap();
        let stop = broker.stop_handle();
        let thread = Some(std::thread::spawn(move || broker.run().unwrap()));
        Bus { path, stop, thread, _dir: dir }
    }

    /// Sends the messages `numbers`, each filled with its number, to a receiver that consumes all.
    fn send(&self, sender: &mut Sender, reader: &mut Receiver, numbers: std::ops::Range<u32>) {
        let deadline = Instant::now() + TIMEOUT;
        for number in numbers {
            while let Err(error) = sender.try_send(number, &payload(number)) {
                assert!(matches!(error, SendError::Full { .. }), "{error}");
                assert!(Instant::now() < deadline, "message {number} finds no room");
                while reader.try_recv().unwrap().is_some() {}
            }
        }
        while !sender.flush_timeout(Duration::from_millis(1)).unwrap() {
            assert!(Instant::now() < deadline, "the broker finds no room");
            while reader.try_recv().unwrap().is_some() {}
        }
        while reader.try_recv().unwrap().is_some() {}
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn payload(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(LEN / 4)
}

#[allow(unsafe_code)]
fn promise() -> TrustPeers {
    // SAFETY: every process of these buses is this one, which uses the library alone.
    unsafe { TrustPeers::assume() }
}

/// Ends a client's connection without its knowledge.
fn shut_down(connection: &OwnedFd) {
    rustix::net::shutdown(connection, rustix::net::Shutdown::Both).unwrap();
}

// P8
#[test]
fn a_borrowed_payload_stays_when_its_receiver_is_removed() {
    for by_reference in [false, true] {
        let bus = Bus::new(by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = Client::connect_receiver(&bus.path).unwrap();
        // So that pages are announced and messages can pass by reference.
        bus.send(&mut sender, &mut reader, 0..100);
        let mut borrower =
            Client::builder().borrow_payloads(promise()).connect_receiver(&bus.path).unwrap();
        let connection = connection_of(&borrower);
        bus.send(&mut sender, &mut reader, 100..108);
        for number in 100..107 {
            assert_eq!(borrower.recv().unwrap().payload, payload(number));
        }
        let borrowed = borrower.recv().unwrap();
        assert_eq!(borrowed.payload, payload(107));
        shut_down(&connection);
        // Far more than all pages hold.
        bus.send(&mut sender, &mut reader, 108..2000);
        assert_eq!(borrowed.payload, payload(107), "by reference: {by_reference}");
        assert!(sender.stats().page_bytes_peak <= BUDGET as u64);
    }
}

// P8, P12
#[test]
fn a_removed_receiver_gets_sent_bytes_or_an_error() {
    for by_reference in [false, true] {
        let bus = Bus::new(by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = Client::connect_receiver(&bus.path).unwrap();
        bus.send(&mut sender, &mut reader, 0..100);
        let mut removed = Client::connect_receiver(&bus.path).unwrap();
        let connection = connection_of(&removed);
        bus.send(&mut sender, &mut reader, 100..120);
        assert_eq!(removed.recv().unwrap().payload, payload(100));
        shut_down(&connection);
        bus.send(&mut sender, &mut reader, 120..2000);
        let error = (101..).find_map(|number| match removed.recv() {
            Ok(message) => {
                assert_eq!(message.payload, payload(number), "by reference: {by_reference}");
                None
            }
            Err(error) => Some(error),
        });
        assert_eq!(
            error,
            Some(RecvError::Disconnected(Disconnected::Removed)),
            "by reference: {by_reference}"
        );
    }
}

// P6
#[test]
fn a_process_that_may_keep_pages_may_not_borrow_again() {
    let bus = Bus::new(false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = Client::connect_receiver(&bus.path).unwrap();
    let borrow = || Client::builder().borrow_payloads(promise()).connect_receiver(&bus.path);
    // A receiver that leaves in order has announced that it reads no further.
    for _ in 0..8 {
        let mut borrower = borrow().unwrap();
        bus.send(&mut sender, &mut reader, 0..1);
        borrower.recv().unwrap();
    }
    let borrower = borrow().unwrap();
    bus.send(&mut sender, &mut reader, 1..2);
    shut_down(&connection_of(&borrower));
    let deadline = Instant::now() + TIMEOUT;
    let refused = loop {
        match borrow() {
            // The broker may not have seen the hang-up yet.
            Ok(client) => drop(client),
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "it is let in for ever");
    };
    assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("connect without `borrow_payloads`"), "{refused}");
    Client::connect_receiver(&bus.path).unwrap();
}

// P8
#[test]
fn a_removed_borrower_gets_no_later_message() {
    for by_reference in [false, true] {
        let bus = Bus::new(by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = Client::connect_receiver(&bus.path).unwrap();
        bus.send(&mut sender, &mut reader, 0..100);
        let mut borrower =
            Client::builder().borrow_payloads(promise()).connect_receiver(&bus.path).unwrap();
        bus.send(&mut sender, &mut reader, 100..101);
        assert_eq!(borrower.recv().unwrap().payload, payload(100));
        // It has left everything, and announces that.
        for _ in 0..200 {
            assert!(borrower.try_recv().unwrap().is_none());
        }
        shut_down(&connection_of(&borrower));
        let (mut next, deadline) = (101, Instant::now() + TIMEOUT);
        let error = loop {
            assert!(Instant::now() < deadline, "it reads on");
            bus.send(&mut sender, &mut reader, next..next + 1);
            match borrower.try_recv() {
                Err(error) => break error,
                Ok(None) => {}
                Ok(Some(borrowed)) => {
                    assert_eq!(borrowed.payload, payload(borrowed.tag.0));
                    bus.send(&mut sender, &mut reader, next + 1..next + 1000);
                    let tag = borrowed.tag.0;
                    assert_eq!(borrowed.payload, payload(tag), "by reference: {by_reference}");
                    next += 1000;
                    continue;
                }
            }
            next += 1;
        };
        assert_eq!(
            error,
            RecvError::Disconnected(Disconnected::Removed),
            "by reference: {by_reference}"
        );
    }
}

// P8
#[test]
fn a_receiver_of_a_bus_borrows_only_if_its_broker_knows() {
    let bus = Bus::new(false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = Client::connect_receiver(&bus.path).unwrap();
    let mut receiver = Client::connect_receiver(&bus.path).unwrap();
    receiver.borrow_payloads(promise());
    bus.send(&mut sender, &mut reader, 0..1);
    let before = receiver.recv().unwrap().payload.as_ptr();
    bus.send(&mut sender, &mut reader, 1..2);
    assert_eq!(receiver.recv().unwrap().payload.as_ptr(), before, "the same buffer: a copy");
}

//! Receivers that are too slow: the bus waits for them, skips them, or disconnects them.

#[path = "common/connection.rs"]
mod connection;

use connection::connection_of;
use llmp::core::memory::TrustPeers;
use llmp::{
    Broker, BrokerStats, Client, ClientBuilder, ConnectError, Disconnected, Receiver, RecvError,
    SendError, Sender, SlowReceiver, Wait,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BUDGET: usize = 64 * 1024;
const LEN: usize = 1000;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Bus {
    path: PathBuf,
    stop: llmp::StopHandle,
    thread: Option<JoinHandle<BrokerStats>>,
    _dir: tempfile::TempDir,
}

fn asks(policy: SlowReceiver, in_place: bool) -> ClientBuilder {
    let builder = Client::builder().when_slow(policy);
    if in_place { builder.borrow_payloads(promise()) } else { builder }
}

/// How messages and receivers are: passed by reference, and read in place.
type Kind = (bool, bool);
const KINDS: [Kind; 4] = [(false, false), (false, true), (true, false), (true, true)];

impl Bus {
    fn new(policy: SlowReceiver, by_reference: bool) -> Self {
        Self::with(policy, by_reference, Duration::ZERO)
    }

    fn with(policy: SlowReceiver, by_reference: bool, after: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let builder = Broker::builder().page_len(4096).max_message_len(LEN).chain_budget(BUDGET);
        let builder = builder.zero_copy_threshold(if by_reference { 0 } else { usize::MAX });
        let broker = builder.when_slow(policy).slow_after(after).bind(&path).unwrap();
        let stop = broker.stop_handle();
        let thread = Some(std::thread::spawn(move || broker.run().unwrap()));
        Bus { path, stop, thread, _dir: dir }
    }

    /// A receiver for which the bus waits.
    fn reader(&self) -> Receiver {
        Client::connect_receiver(&self.path).unwrap()
    }

    /// A receiver that asks for a policy.
    fn slow(&self, policy: SlowReceiver, in_place: bool) -> Receiver {
        asks(policy, in_place).connect_receiver(&self.path).unwrap()
    }

    fn end(mut self) -> BrokerStats {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(unsafe_code)]
fn promise() -> TrustPeers {
    // SAFETY: every process of these buses is this one, which uses the library alone.
    unsafe { TrustPeers::assume() }
}

fn payload(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(LEN / 4)
}

/// Sends the messages `numbers`, each filled with its number, to a receiver that keeps up.
fn send(sender: &mut Sender, reader: &mut Receiver, numbers: std::ops::Range<u32>) {
    let deadline = Instant::now() + TIMEOUT;
    let drain = |reader: &mut Receiver| while reader.try_recv().unwrap().is_some() {};
    for number in numbers {
        while let Err(error) = sender.try_send(number, &payload(number)) {
            assert!(matches!(error, SendError::Full { .. }), "{error}");
            assert!(Instant::now() < deadline, "message {number} finds no room");
            drain(reader);
        }
        drain(reader);
    }
    while !sender.flush_timeout(Duration::from_millis(1)).unwrap() {
        assert!(Instant::now() < deadline, "the broker finds no room");
        drain(reader);
    }
    drain(reader);
}

/// What a slow receiver has got of a stream of numbered messages.
#[derive(Default)]
struct Got {
    next: u64,
    received: u64,
    missed: u64,
    gaps: u64,
}

impl Got {
    /// Checks what a receiver returns. Returns whether the connection goes on.
    fn check(&mut self, result: Result<Option<llmp::Message<'_>>, RecvError>) -> bool {
        match result {
            Ok(None) => {}
            Ok(Some(message)) => {
                assert_eq!(message.seq, self.next, "every missed message is reported");
                assert_eq!(message.payload, payload(message.tag.0));
                assert_eq!(u64::from(message.tag.0), message.seq);
                (self.next, self.received) = (self.next + 1, self.received + 1);
            }
            Err(RecvError::Gap { missed }) => {
                assert!(missed > 0, "an empty gap");
                self.next += missed;
                self.missed += missed;
                self.gaps += 1;
            }
            Err(RecvError::Disconnected(Disconnected::Closed)) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }
}

// P3, P6, P8
#[test]
fn a_skipped_receiver_learns_exactly_what_it_has_missed() {
    for (by_reference, in_place) in KINDS {
        let bus = Bus::new(SlowReceiver::Block, by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = bus.reader();
        let mut slow = bus.slow(SlowReceiver::Skip, in_place);
        let mut got = Got::default();
        send(&mut sender, &mut reader, 0..10);
        for _ in 0..5 {
            assert!(got.check(slow.recv().map(Some)));
        }
        for round in 1..4 {
            // Far more than the broadcast chain holds, and the sender never waits.
            send(&mut sender, &mut reader, 1000 * round - 990..1000 * round);
            while got.gaps < u64::from(round) {
                assert!(got.check(slow.recv().map(Some)));
            }
            send(&mut sender, &mut reader, 1000 * round..1000 * round + 10);
            while got.next < u64::from(1000 * round + 10) {
                assert!(got.check(slow.recv_timeout(TIMEOUT)));
            }
        }
        assert_eq!(got.received + got.missed, 3010, "{by_reference} {in_place}");
        assert!(sender.stats().page_bytes_peak <= BUDGET as u64);
        let stats = bus.end();
        assert!(stats.skipped >= 3 && stats.evicted == 0, "{stats:?}");
        assert!(stats.broadcast.page_bytes_peak <= BUDGET as u64);
    }
}

// P3, P10
#[test]
fn slow_receivers_beside_a_fast_one_miss_nothing_that_is_not_reported() {
    const COUNT: u32 = 15_000;
    for (by_reference, in_place) in KINDS {
        let bus = Bus::new(SlowReceiver::Skip, by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let is_over = AtomicBool::new(false);
        let receive = |mut slow: Receiver, pause: u64, sleeps: bool| {
            let mut got = Got::default();
            while got.next < u64::from(COUNT) {
                let result = match sleeps {
                    true => slow.recv_timeout(Duration::from_millis(50)),
                    false => slow.try_recv(),
                };
                assert!(got.check(result));
                if pause > 0 && got.received % pause == pause - 1 {
                    std::thread::sleep(Duration::from_millis(3));
                }
                // The last messages may be among those that it misses, with none after them.
                if is_over.load(Ordering::Relaxed) && got.gaps > 0 && pause > 0 {
                    break;
                }
            }
            got
        };
        let receivers: Vec<_> = [(0, true), (50, true), (77, false)]
            .map(|it| (bus.slow(SlowReceiver::Skip, in_place), it))
            .into();
        let results: Vec<_> = std::thread::scope(|scope| {
            let receive = &receive;
            let threads: Vec<_> = receivers
                .into_iter()
                .map(|(slow, (pause, sleeps))| scope.spawn(move || receive(slow, pause, sleeps)))
                .collect();
            for number in 0..COUNT {
                sender.send(number, &payload(number)).unwrap();
            }
            sender.flush().unwrap();
            is_over.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // Messages by reference wait for a receiver that moves.
        let is_skipped = results[1..].iter().any(|got| got.gaps > 0);
        assert!(is_skipped || by_reference, "none was ever skipped");
    }
}

// P3, P4
#[test]
fn an_evicted_client_is_told_why_and_its_messages_are_forwarded() {
    for (by_reference, in_place) in KINDS {
        let bus = Bus::new(SlowReceiver::Block, by_reference);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = bus.reader();
        let mut slow = asks(SlowReceiver::Evict, in_place).connect(&bus.path).unwrap();
        slow.send(7u32, &payload(7)).unwrap();
        slow.flush().unwrap();
        assert_eq!(reader.recv().unwrap().payload, payload(7));
        slow.send(8u32, &payload(8)).unwrap();
        let mut seen = 0;
        let deadline = Instant::now() + TIMEOUT;
        let mut number = 0;
        while number < 1000 {
            assert!(Instant::now() < deadline);
            number += u32::from(sender.try_send(number, &payload(number)).is_ok());
            while let Some(message) = reader.try_recv().unwrap() {
                seen += u32::from(message.sender == slow.id());
            }
        }
        assert_eq!(seen, 1, "what it had committed");
        let evicted = RecvError::Disconnected(Disconnected::Evicted);
        let error = loop {
            if let Err(error) = slow.recv() {
                break error;
            }
        };
        assert_eq!(error, evicted, "{by_reference} {in_place}");
        assert_eq!(slow.recv().unwrap_err(), evicted, "it stays");
        let error = slow.send(9u32, b"late").unwrap_err();
        assert!(matches!(error, SendError::Disconnected(Disconnected::Evicted)), "{error}");
        // It is welcome again.
        drop(slow);
        let mut again = bus.reader();
        sender.send(1u32, b"again").unwrap();
        assert_eq!(again.recv().unwrap().payload, b"again");
        assert_eq!(bus.end().evicted, 1);
    }
}

// P9
#[test]
fn a_client_that_is_evicted_at_any_time_is_told_why() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    let end = Instant::now() + Duration::from_secs(2);
    let sending = std::thread::spawn(move || {
        for number in (0..u32::MAX).take_while(|_| Instant::now() < end) {
            let _ = sender.try_send(number, &payload(number));
            while reader.try_recv().unwrap().is_some() {}
        }
    });
    // While it connects, while it reads, and between two reads.
    let evicted = |round: u32| -> Result<(), ConnectError> {
        let mut slow = asks(SlowReceiver::Evict, false).connect_receiver(&bus.path)?;
        loop {
            match slow.recv_timeout(Duration::from_millis(10)) {
                Ok(_) if Instant::now() > end => return Err(Disconnected::Evicted.into()),
                Ok(_) => std::thread::sleep(Duration::from_micros((100 + round % 10 * 100).into())),
                Err(RecvError::Disconnected(ended)) => return Err(ended.into()),
                Err(error) => panic!("{error}"),
            }
        }
    };
    for round in (0..).take_while(|_| Instant::now() < end) {
        let error = evicted(round).unwrap_err();
        let is_told = matches!(error, ConnectError::Disconnected(Disconnected::Evicted));
        assert!(is_told, "round {round}: {error}");
    }
    sending.join().unwrap();
    assert!(bus.end().evicted > 0);
}

#[test]
fn a_receiver_may_ask_to_be_skipped_on_a_bus_that_waits() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    let mut observer = bus.slow(SlowReceiver::Skip, false);
    send(&mut sender, &mut reader, 0..1000);
    let mut got = Got::default();
    while got.gaps == 0 {
        assert!(got.check(observer.recv().map(Some)));
    }
    // Skipping it would make no room while the bus waits for the other one.
    send(&mut sender, &mut reader, 1000..1001);
    while got.next < 1001 {
        assert!(got.check(observer.recv().map(Some)));
    }
    let mut number = 1001;
    while let Ok(()) = sender.send_timeout(number, &payload(number), Duration::from_millis(100)) {
        number += 1;
    }
    for _ in 0..10 {
        assert!(got.check(observer.try_recv()));
    }
    assert_eq!((got.gaps, got.next), (1, 1011), "skipping it made no room");
}

// P3
#[test]
fn a_receiver_that_is_skipped_when_the_bus_ends_is_told_that_messages_are_lost() {
    for in_place in [false, true] {
        let bus = Bus::new(SlowReceiver::Block, false);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = bus.reader();
        let mut slow = bus.slow(SlowReceiver::Skip, in_place);
        send(&mut sender, &mut reader, 0..1000);
        drop((sender, reader));
        assert_eq!(bus.end().skipped, 1);
        let error = slow.recv().unwrap_err();
        assert_eq!(error, RecvError::Disconnected(Disconnected::Removed));
    }
}

// P3
#[test]
fn an_iterator_goes_on_after_a_gap() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    let mut slow = bus.slow(SlowReceiver::Skip, false);
    send(&mut sender, &mut reader, 0..1000);
    let mut messages = slow.iter();
    assert_eq!(messages.next().unwrap().unwrap_err(), RecvError::Gap { missed: 1000 });
    send(&mut sender, &mut reader, 1000..1001);
    assert_eq!(messages.next().unwrap().unwrap().tag.0, 1000);
}

// P3
#[test]
fn a_gap_is_no_reason_for_a_timeout() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    for round in 1..20 {
        let mut slow = bus.slow(SlowReceiver::Skip, false);
        send(&mut sender, &mut reader, 0..100 * round);
        let error = slow.recv_timeout(TIMEOUT).unwrap_err();
        assert_eq!(error, RecvError::Gap { missed: u64::from(100 * round) });
        assert_eq!(slow.recv_timeout(Duration::from_millis(1)), Ok(None));
    }
}

// P3, P9
#[test]
fn a_slow_client_that_sends_takes_its_gap_at_its_place() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    let mut both = asks(SlowReceiver::Skip, false).connect(&bus.path).unwrap();
    send(&mut sender, &mut reader, 0..1000);
    // It takes in messages while it waits, and a flush ends.
    for number in 0..10 {
        both.send(number, &payload(number)).unwrap();
        both.flush().unwrap();
    }
    send(&mut sender, &mut reader, 1000..1005);
    let error = both.recv().unwrap_err();
    let RecvError::Gap { missed } = error else { panic!("{error}") };
    // Its own messages count if they were sent before it received again.
    assert!((1000..=1010).contains(&missed), "{missed}");
    for number in 1000..1005 {
        assert_eq!(both.recv().unwrap().tag.0, number);
    }
}

// P3, P12
#[test]
fn an_idle_burst_of_long_messages_skips_no_receiver() {
    let bus = Bus::new(SlowReceiver::Skip, true);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut receivers = [false, true].map(|in_place| bus.slow(SlowReceiver::Evict, in_place));
    // Half of the budget waits for them, and no message follows.
    for number in 0..35 {
        sender.send(number, &payload(number)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(30));
    for receiver in &mut receivers {
        for number in 0..35 {
            assert_eq!(receiver.recv().unwrap().tag.0, number);
        }
    }
    drop(receivers);
    let stats = bus.end();
    assert_eq!((stats.skipped, stats.evicted), (0, 0));
}

#[test]
fn the_longest_time_to_wait_is_no_limit() {
    let bus = Bus::with(SlowReceiver::Evict, false, Duration::MAX);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let slow = bus.reader();
    let mut number = 0;
    while sender.send_timeout(number, &payload(number), Duration::from_millis(200)).is_ok() {
        number += 1;
    }
    drop(slow);
    sender.send(number, &payload(number)).unwrap();
    assert_eq!(bus.end().evicted, 0);
}

// P10
#[test]
fn a_skipped_receiver_in_an_event_loop_is_woken() {
    for in_place in [false, true] {
        let bus = Bus::new(SlowReceiver::Block, false);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = bus.reader();
        let mut slow = bus.slow(SlowReceiver::Skip, in_place);
        // It sleeps, is rung for the first message and does not come.
        while matches!(slow.prepare_wait(), Wait::Ready) {}
        send(&mut sender, &mut reader, 0..1000);
        let mut got = Got::default();
        let deadline = Instant::now() + TIMEOUT;
        while got.next < 1000 {
            assert!(Instant::now() < deadline, "it is not woken");
            if let Wait::Readable { timeout } = slow.prepare_wait() {
                let timeout = timeout.unwrap_or(TIMEOUT).try_into().unwrap();
                let mut fds = [PollFd::new(&slow, PollFlags::IN)];
                poll(&mut fds, Some(&timeout)).unwrap();
            }
            assert!(got.check(slow.try_recv()));
        }
        assert_eq!((got.gaps, got.missed), (1, 1000));
        send(&mut sender, &mut reader, 1000..1001);
        assert!(got.check(slow.recv_timeout(TIMEOUT)));
        assert_eq!(got.received, 1);
    }
}

#[test]
fn a_bus_waits_first_if_it_is_told_to() {
    const AFTER: Duration = Duration::from_millis(300);
    for policy in [SlowReceiver::Skip, SlowReceiver::Evict] {
        let bus = Bus::with(policy, false, AFTER);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let slow = bus.reader();
        let began = Instant::now();
        for number in 0..1000 {
            sender.send(number, &payload(number)).unwrap();
        }
        let took = began.elapsed();
        assert!((AFTER..AFTER * 20).contains(&took), "{took:?}");
        drop(slow);
        let stats = bus.end();
        assert_eq!(stats.skipped + stats.evicted, 1);
    }
}

// P6
#[test]
fn a_fifth_skipped_receiver_that_reads_in_place_is_evicted() {
    let bus = Bus::new(SlowReceiver::Block, false);
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut reader = bus.reader();
    let mut slow = [(); 5].map(|()| bus.slow(SlowReceiver::Skip, true));
    send(&mut sender, &mut reader, 0..1000);
    let errors = slow.each_mut().map(|slow| slow.recv().unwrap_err());
    let evicted = RecvError::Disconnected(Disconnected::Evicted);
    assert_eq!(errors.iter().filter(|error| **error == evicted).count(), 1, "{errors:?}");
    let gap = RecvError::Gap { missed: 1000 };
    assert_eq!(errors.iter().filter(|error| **error == gap).count(), 4, "{errors:?}");
    // All have asked to receive again. But one may still read, and is of the same process.
    let borrow = asks(SlowReceiver::Skip, true).connect_receiver(&bus.path);
    assert!(borrow.is_err());
}

// P7
#[test]
fn a_receiver_that_is_skipped_and_dies_leaves_nothing() {
    for in_place in [false, true] {
        let bus = Bus::new(SlowReceiver::Block, false);
        let mut sender = Client::connect_sender(&bus.path).unwrap();
        let mut reader = bus.reader();
        for round in 0..8 {
            let slow = bus.slow(SlowReceiver::Skip, in_place);
            send(&mut sender, &mut reader, 0..200);
            if round % 2 == 0 && !in_place {
                // Without its knowledge. One that reads in place would count until its process ends.
                let connection = connection_of(&slow);
                rustix::net::shutdown(&connection, rustix::net::Shutdown::Both).unwrap();
                send(&mut sender, &mut reader, 0..1);
            }
        }
        assert_eq!(bus.end().skipped, 8);
    }
}

//! Broker and clients in one process, as threads.

use llmp::{Broker, Client, Disconnected, RecvError, SendError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Bus {
    path: std::path::PathBuf,
    stop: llmp::StopHandle,
    thread: Option<std::thread::JoinHandle<std::io::Result<llmp::BrokerStats>>>,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn new(builder: llmp::BrokerBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock");
        let broker = builder.bind(&path).unwrap();
        let stop = broker.stop_handle();
        let thread = Some(std::thread::spawn(move || broker.run()));
        Bus { path, stop, thread, _dir: dir }
    }

    fn end(&mut self) -> llmp::BrokerStats {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    fn connect(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// Compiles only if the types keep their auto traits.
const _: () = {
    const fn send<T: Send + Unpin>() {}
    const fn send_and_sync<T: Send + Sync + Unpin>() {}
    // Handles move to another thread. Methods that need `&mut` exclude two threads at once.
    send::<Broker>();
    send::<llmp::BrokerBuilder>();
    send_and_sync::<Client>();
    send_and_sync::<llmp::ClientBuilder>();
    send_and_sync::<llmp::Sender>();
    send_and_sync::<llmp::Receiver>();
    send_and_sync::<llmp::Listener>();
    send_and_sync::<llmp::StopHandle>();
    send_and_sync::<llmp::Batch<'static>>();
    send_and_sync::<llmp::Claim<'static>>();
    send_and_sync::<llmp::Messages<'static>>();
    send_and_sync::<llmp::MessageBuf>();
    send_and_sync::<llmp::Message<'static>>();
    send_and_sync::<llmp::Envelope>();
    send_and_sync::<llmp::Verdict>();
    send_and_sync::<llmp::BusAddr>();
    send_and_sync::<llmp::PeerFilter>();
    send_and_sync::<llmp::Limits>();
    send_and_sync::<llmp::Stats>();
    send_and_sync::<llmp::BrokerStats>();
    send_and_sync::<llmp::Wait>();
    send_and_sync::<llmp::TrustPeers>();
    send_and_sync::<llmp::HeldUp>();
    send_and_sync::<llmp::BindError>();
    send_and_sync::<llmp::ConnectError>();
    send_and_sync::<SendError>();
    send_and_sync::<RecvError>();
    send_and_sync::<llmp::WaitError>();
    send_and_sync::<Disconnected>();
    send_and_sync::<llmp::Fault>();
};

#[test]
fn debug_output_names_the_settings_and_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let builder =
        Broker::builder().max_clients(3).hook(|_: &llmp::Message<'_>| llmp::Verdict::Forward);
    let text = format!("{builder:?}");
    assert!(text.contains("max_clients: Some(3)") && text.contains("hook: true"), "{text}");
    let broker = builder.bind(dir.path().join("bus")).unwrap();
    let text = format!("{broker:?}");
    assert!(text.contains("/bus\"") && text.contains("connections: 0"), "{text}");
    assert!(text.len() < 1000, "{text}");
}

#[test]
fn every_client_receives_the_others_messages_in_one_order() {
    let bus = Bus::new(Broker::builder());
    let mut a = bus.connect();
    let mut b = bus.connect();
    let mut all = Client::builder().own_messages().connect(&bus.path).unwrap();
    for i in 0..1000u32 {
        a.send(1, &i.to_le_bytes()).unwrap();
        b.send(2, &i.to_le_bytes()).unwrap();
    }
    all.send(3, b"end").unwrap();
    let mut order = Vec::new();
    let mut next = [0u32; 3];
    while next[1] < 1000 || next[2] < 1000 || next[0] == 0 {
        let message = all.recv_timeout(TIMEOUT).unwrap().expect("a message");
        order.push((message.seq, message.sender, message.payload.to_vec()));
        if message.tag.0 == 3 {
            assert_eq!(message.sender, all.id());
            next[0] = 1;
            continue;
        }
        let expected = &mut next[message.tag.0 as usize];
        assert_eq!(message.payload, expected.to_le_bytes());
        *expected += 1;
    }
    for client in [&mut a, &mut b] {
        let own = client.id();
        for (seq, sender, payload) in order.iter().filter(|(_, sender, _)| *sender != own) {
            let message = client.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!(
                (&message.seq, &message.sender, message.payload),
                (seq, sender, &payload[..])
            );
        }
        assert!(client.try_recv().unwrap().is_none());
    }
}

#[test]
fn clients_that_all_send_before_receiving_do_not_deadlock() {
    // The budget is four pages on every kernel.
    let budget = 4 * rustix::param::page_size();
    let bus = Bus::new(Broker::builder().page_len(4096).max_message_len(2000).chain_budget(budget));
    let clients: Vec<_> = (0..3).map(|_| bus.connect()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for i in 0..2000usize {
                    client.send(i as u32, &vec![i as u8; i % 1999]).unwrap();
                }
                let mut bytes = 0;
                for _ in 0..4000 {
                    let message = client.recv_timeout(TIMEOUT).unwrap().expect("a message");
                    assert!(message.payload.iter().all(|b| *b == message.tag.0 as u8));
                    bytes += message.payload.len();
                }
                bytes
            })
        })
        .collect();
    let expected: usize = 2 * (0..2000).map(|i| i % 1999).sum::<usize>();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn only_messages_above_the_limit_are_refused() {
    let mut bus = Bus::new(Broker::builder().page_len(4096).max_message_len(1 << 20));
    let mut a = bus.connect();
    let mut b = bus.connect();
    let large: Vec<u8> = (0..1 << 20).map(|i| (i * 7 / 3) as u8).collect();
    for len in [0, 1, 7, 8, 9, 127, 128, 129, 3999, 4000, 4001, 4096, 100_000, 1 << 20] {
        a.send(5, &large[..len]).unwrap();
        let message = b.recv_timeout(TIMEOUT).unwrap().expect("a message");
        assert!(message.payload == &large[..len], "{len}");
    }
    let error = a.send(5, &vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(matches!(error, SendError::TooLong { len: 1_048_577, max: 1_048_576 }));
    a.send(6, b"after").unwrap();
    assert_eq!(b.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"after");
    drop((a, b));
    let report = bus.end();
    assert_eq!((report.clients, report.faults), (2, 0));
}

#[test]
fn clients_receive_everything_before_the_end_of_the_broker() {
    let mut bus = Bus::new(Broker::builder());
    let mut a = bus.connect();
    let mut b = bus.connect();
    a.send(1, b"last words").unwrap();
    a.flush().unwrap();
    bus.end();
    assert_eq!(b.recv().unwrap().payload, b"last words");
    assert_eq!(b.recv().unwrap_err(), RecvError::Disconnected(Disconnected::Closed));
    assert!(matches!(b.send(1, b"x"), Err(SendError::Disconnected(Disconnected::Closed))));
}

#[test]
fn an_iterator_ends_with_the_bus_after_every_message() {
    let mut bus = Bus::new(Broker::builder());
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let mut receiver = Client::connect_receiver(&bus.path).unwrap();
    for i in 0..1000u32 {
        sender.send(i, &i.to_le_bytes()).unwrap();
    }
    sender.flush().unwrap();
    bus.end();
    let mut messages = receiver.iter();
    let all: Vec<_> = messages.by_ref().map(Result::unwrap).collect();
    assert!(messages.next().is_none());
    assert_eq!(all.len(), 1000);
    for (message, i) in all.iter().zip(0u32..) {
        assert_eq!(message.payload, i.to_le_bytes());
        assert_eq!((message.seq, message.sender), (all[0].seq + u64::from(i), sender.id()));
    }
}

#[test]
fn a_batch_is_visible_at_once_or_never() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    let mut batch = sender.batch();
    for i in 0..100_000u32 {
        batch.try_send(i, &[i as u8; 10]).unwrap();
    }
    assert!(receiver.try_recv().unwrap().is_none());
    drop(batch);
    assert!(receiver.try_recv().unwrap().is_none());
    let mut batch = sender.batch();
    for i in 0..100_000u32 {
        batch.try_send(i, &[i as u8; 11]).unwrap();
    }
    batch.commit();
    for i in 0..100_000u32 {
        let message = receiver.try_recv().unwrap().expect("a message");
        assert_eq!((message.tag.0, message.payload), (i, &[i as u8; 11][..]));
    }
    assert!(receiver.try_recv().unwrap().is_none());
}

#[test]
fn a_busy_client_reports_the_orderly_end() {
    let mut bus = Bus::new(Broker::builder());
    let mut a = bus.connect();
    let mut b = bus.connect();
    assert_eq!(b.prepare_wait(), llmp::Wait::Readable { timeout: None });
    let mut send = |i: u32| {
        a.send(i, b"").unwrap();
        a.flush().unwrap();
    };
    send(0);
    while b.try_recv().unwrap().is_none() {}
    // More than its socket has room for, if each of them rang.
    (1..2000).for_each(&mut send);
    bus.end();
    for i in 1..2000 {
        assert_eq!(b.try_recv().unwrap().expect("a message").tag.0, i);
    }
    assert_eq!(b.recv().unwrap_err(), RecvError::Disconnected(Disconnected::Closed));
}

// P1
#[test]
fn a_claim_that_was_shortened_is_followed_by_the_next_message() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    // Over many page rollovers.
    for i in 0..2000usize {
        let (len, kept) = (i * 37 % 3000, i * 11 % 3000);
        let mut claim = sender.claim(llmp::Envelope::tagged(i as u32), len).unwrap();
        claim.payload_mut().fill(0xee);
        claim.truncate(kept);
        let kept = kept.min(len);
        assert_eq!((claim.len(), claim.payload_mut().len()), (kept, kept));
        claim.payload_mut().fill(i as u8);
        claim.commit().unwrap();
        sender.send(7, &[7; 40]).unwrap();
        let message = receiver.try_recv().unwrap().expect("the claim");
        assert_eq!((message.tag.0, message.payload), (i as u32, &vec![i as u8; kept][..]));
        assert_eq!(receiver.try_recv().unwrap().expect("the next").payload, [7; 40]);
        assert!(receiver.try_recv().unwrap().is_none());
    }
    assert!(sender.stats().rollovers > 5);
}

#[test]
fn a_claim_is_refused_like_a_message() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    let max = sender.limits().max_message_len();
    let envelope = llmp::Envelope::tagged(1u32);
    assert!(matches!(sender.claim(envelope, max + 1), Err(SendError::TooLong { .. })));
    while sender.try_send(1, &[1; 4096]).is_ok() {}
    assert!(matches!(sender.try_claim(envelope, 4096), Err(SendError::Full { .. })));
    while receiver.try_recv().unwrap().is_some() {}
    receiver.prepare_wait();
    sender.claim(envelope, 4096).unwrap().commit().unwrap();
    assert_eq!(receiver.recv().unwrap().payload.len(), 4096);
}

// P3
#[test]
fn a_forgotten_or_unwound_batch_publishes_nothing() {
    let long = [7; 200_000];
    type Leave = fn(&mut llmp::Sender, &[u8]);
    let leave: [Leave; 5] = [
        |sender, _| {
            let mut batch = sender.batch();
            batch.try_send(1, b"never").unwrap();
            std::mem::forget(batch);
        },
        // Across a page advance.
        |sender, long| {
            let mut batch = sender.batch();
            for _ in 0..3 {
                batch.try_send(1, long).unwrap();
            }
            std::mem::forget(batch);
        },
        |sender, long| {
            let mut claim = sender.claim(llmp::Envelope::tagged(1u32), long.len()).unwrap();
            claim.payload_mut().fill(1);
            std::mem::forget(claim);
        },
        |sender, long| {
            let mut claim = sender.try_claim(llmp::Envelope::tagged(1u32), long.len()).unwrap();
            claim.payload_mut().fill(1);
            claim.truncate(9);
        },
        |sender, long| {
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let envelope = llmp::Envelope::tagged(1u32);
                let _ = sender
                    .send_with(envelope, long.len(), |_| -> Result<(), ()> { panic!("unwinds") });
            }));
            assert!(unwound.is_err());
        },
    ];
    for leave in leave {
        let (mut sender, mut receiver) = llmp::channel().unwrap();
        sender.send(2, &long).unwrap();
        leave(&mut sender, &long);
        assert_eq!(receiver.recv().unwrap().tag.0, 2);
        assert!(receiver.try_recv().unwrap().is_none(), "never published");
        // It publishes its cursor.
        receiver.prepare_wait();
        assert!(sender.flush_timeout(std::time::Duration::from_secs(20)).unwrap());
        leave(&mut sender, &long);
        sender.send(3, &long).unwrap();
        leave(&mut sender, &long);
        let mut batch = sender.batch();
        batch.try_send(4, &long).unwrap();
        batch.commit();
        for tag in [3, 4] {
            let message = receiver.recv().unwrap();
            assert!((message.tag.0, message.payload) == (tag, &long[..]));
        }
        assert!(receiver.try_recv().unwrap().is_none());
    }
}

// P9
#[test]
fn a_flood_delays_another_clients_message_by_at_most_three_shares() {
    const SHARE: u64 = 64;
    const ROUNDS: usize = 2000;
    let flooded = Arc::new(AtomicU64::new(0));
    let counted = flooded.clone();
    let (tell, told) = std::sync::mpsc::channel();
    // The hook sees each message where the broker takes it.
    let hook = move |message: &llmp::Message<'_>| {
        match message.tag.0 {
            0 => _ = counted.fetch_add(1, Ordering::SeqCst),
            _ => tell.send(counted.load(Ordering::SeqCst)).unwrap(),
        }
        llmp::Verdict::Forward
    };
    let quota = llmp::Quota::new(SHARE as usize, usize::MAX);
    let mut bus = Bus::new(Broker::builder().quota(quota).hook(hook));
    let mut flood = Client::connect_sender(&bus.path).unwrap();
    let mut sender = Client::connect_sender(&bus.path).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let flooding = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) {
                flood.send(0, b"flood").unwrap();
            }
        }
    });
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        sender.send(1, b"hello").unwrap();
        let before = flooded.load(Ordering::SeqCst);
        delays.push(told.recv_timeout(TIMEOUT).unwrap().saturating_sub(before));
    }
    is_over.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    delays.sort_unstable();
    let (median, longest) = (delays[ROUNDS / 2], delays[ROUNDS - 1]);
    assert!(longest <= 3 * SHARE, "{longest} messages, median {median}");
    assert!(longest >= SHARE / 2, "there was no flood: {longest}");
    bus.end();
}

//! Processes that fork, and whose children do as they should.

use crate::children::{in_child, is_forked, split, start};
use crate::handles::{Handles, of_the_kernel};
use crate::misuse::RUN_ELSEWHERE;
use llmp::core::broker::hook::Verdict;
use llmp::core::memory::TrustPeers;
use llmp::{Broker, Client, Envelope, Message, SendError, Wait};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn inbox(path: &Path) {
    let slow = Client::connect(path).unwrap();
    let mut client = Client::connect(path).unwrap();
    let mut other = Client::connect_sender(path).unwrap();
    for number in 0..5 {
        other.send(number, b"").unwrap();
    }
    other.flush().unwrap();
    // While it waits for room, it receives.
    let full = loop {
        if let Err(error) = client.send_timeout(9, &[9; 1 << 20], Duration::from_millis(20)) {
            break error;
        }
    };
    assert!(matches!(full, SendError::Full { .. }), "{full}");
    for way in ["fork", "clone"] {
        in_child(way, || is_forked(client.try_recv()));
        in_child(way, || is_forked(client.recv()));
        in_child(way, || is_forked(client.wait_for_message(None)));
        in_child(way, || assert_eq!(client.prepare_wait(), Wait::Ready));
    }
    drop(slow);
    for number in 0..5 {
        assert_eq!(client.recv().unwrap().tag.0, number);
    }
}

/// The promise that every process of a test is honest.
fn promise() -> TrustPeers {
    // SAFETY: all processes are of this test, and use the library.
    unsafe { TrustPeers::assume() }
}

pub fn guards(path: &Path) {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    type End = fn(llmp::Batch<'_>);
    let ends: [End; 4] = [
        |batch| batch.commit(),
        |batch| drop(batch),
        |mut batch| is_forked(batch.try_send(9, b"")),
        |batch| std::mem::forget(batch),
    ];
    for way in ["fork", "clone"] {
        for end in ends {
            let mut batch = Some(sender.batch());
            batch.as_mut().unwrap().try_send(1, &[1; 100]).unwrap();
            in_child(way, || end(batch.take().unwrap()));
            assert!(receiver.try_recv().unwrap().is_none(), "a child has committed it");
            let mut batch = batch.unwrap();
            batch.try_send(2, &[2; 100]).unwrap();
            batch.commit();
            assert_eq!(receiver.recv().unwrap().tag.0, 1);
            assert_eq!(receiver.recv().unwrap().tag.0, 2);
        }
        // A claim: a child writes to memory of its own.
        let mut claim = Some(sender.claim(Envelope::tagged(3), 300).unwrap());
        claim.as_mut().unwrap().payload_mut().fill(3);
        in_child(way, || {
            let mut claim = claim.take().unwrap();
            claim.payload_mut().fill(4);
            is_forked(claim.commit());
        });
        claim.unwrap().commit().unwrap();
        assert_eq!(receiver.recv().unwrap().payload, [3; 300]);
        assert!(receiver.try_recv().unwrap().is_none());
        // A message that is filled in place. After a bare `clone`, a child has no such place.
        let mut child = None;
        let sent = sender.send_with(Envelope::tagged(3), 300, |place| {
            let split = child.insert(split(way));
            match split {
                Ok(_) => place.fill(3),
                Err(_) if way == "fork" => place.fill(4),
                Err(_) => {}
            }
            Ok::<(), ()>(())
        });
        match child.unwrap() {
            Err(child) => child.ends(|| is_forked(sent)),
            Ok(child) => child.has_ended_well(),
        }
        assert_eq!(sent.unwrap(), Ok(()));
        assert_eq!(receiver.recv().unwrap().payload, [3; 300]);
        assert!(receiver.try_recv().unwrap().is_none());
    }
    // A message that is read where it was written, by this process or by the broker.
    receiver.borrow_payloads(promise());
    let mut client = Client::builder().borrow_payloads(promise()).connect(path).unwrap();
    let mut other = Client::connect(path).unwrap();
    for way in ["fork", "clone"] {
        sender.send(4, &[4; 3000]).unwrap();
        // From this length on, the broker passes messages by reference.
        other.send(5, &[5; 30_000]).unwrap();
        let messages = [receiver.recv().unwrap(), client.recv().unwrap()];
        in_child(way, || {
            // The child allocates no memory at the addresses of the messages.
            let memory: Vec<_> = (0..50).map(|_| vec![255u8; 130 << 10]).collect();
            assert_eq!(messages[0].payload, [4; 3000]);
            assert_eq!(messages[1].payload, [5; 30_000]);
            assert!(memory.iter().flatten().all(|byte| *byte == 255));
        });
        assert_eq!(messages[1].payload, [5; 30_000]);
    }
}

pub fn generations(path: &Path) {
    const COUNT: u32 = 100;
    let mut parent = Client::connect(path).unwrap();
    // A handle that is not touched before the child makes one of its own.
    let mut untouched = Client::connect_sender(path).unwrap();
    for way in ["fork", "clone"] {
        let running = start(way, || {
            is_forked(parent.try_recv());
            let mut child = Client::connect(path).unwrap();
            is_forked(untouched.try_send(0, b""));
            child.send(COUNT, b"hello").unwrap();
            for number in 0..COUNT {
                let message = child.recv().unwrap();
                assert_eq!(message.tag.0, number);
                child.send(number, b"echo").unwrap();
            }
            in_child(way, || {
                is_forked(parent.try_send(0, b""));
                is_forked(child.try_send(0, b""));
                let mut grandchild = Client::connect(path).unwrap();
                grandchild.send(COUNT + 1, b"grandchild").unwrap();
                // It exits without a drop. Its committed messages arrive.
                std::mem::forget(grandchild);
            });
        });
        assert_eq!(parent.recv().unwrap().tag.0, COUNT);
        for number in 0..COUNT {
            parent.send(number, b"").unwrap();
            assert_eq!(parent.recv().unwrap().tag.0, number);
        }
        let message = parent.recv().unwrap();
        assert_eq!((message.tag.0, message.payload), (COUNT + 1, &b"grandchild"[..]));
        running.has_ended_well();
    }
}

pub fn daemon(path: &Path) {
    let bus = path.with_file_name("daemon");
    for way in ["fork", "clone"] {
        let mut broker = Some(Broker::bind(&bus).unwrap());
        in_child(way, || {
            let error = broker.take().unwrap().run().unwrap_err().to_string();
            assert_eq!(error, RUN_ELSEWHERE);
            // Follows the broker's documentation: bound here, it runs here.
            let bus = path.with_file_name("its own");
            let broker = Broker::bind(&bus).unwrap();
            let stop = broker.stop_handle();
            let thread = std::thread::spawn(|| broker.run());
            Client::connect(&bus).unwrap().send(1, b"hello").unwrap();
            stop.stop();
            assert_eq!(thread.join().unwrap().unwrap().clients, 1);
        });
        let broker = broker.unwrap();
        let stop = broker.stop_handle();
        let thread = std::thread::spawn(|| broker.run());
        drop(Client::connect(&bus).unwrap());
        stop.stop();
        assert_eq!(thread.join().unwrap().unwrap().clients, 1);
    }
}

pub fn hook(path: &Path) {
    const COUNT: u32 = 10;
    let bus = path.with_file_name("hook");
    let child = Arc::new(Mutex::new(None));
    let forked = Arc::clone(&child);
    let forks = move |message: &Message<'_>| {
        if message.tag.0 == 0 {
            *forked.lock().unwrap() = Some(split("fork"));
        }
        Verdict::Forward
    };
    // Longer than a page: a page advance after the fork would announce another page.
    const LEN: usize = 6000;
    let broker = Broker::builder().page_len(4096).hook(forks).bind(&bus).unwrap();
    let stop = broker.stop_handle();
    let clients = std::thread::spawn(move || {
        let mut receiver = Client::connect_receiver(&bus).unwrap();
        let mut sender = Client::connect_sender(&bus).unwrap();
        for number in 0..COUNT {
            sender.send(number, &[1; LEN]).unwrap();
            assert_eq!(receiver.recv().unwrap().tag.0, number);
        }
        stop.stop();
    });
    let result = broker.run();
    let child = child.lock().unwrap().take().expect("it has forked");
    match child {
        Err(child) => child.ends(|| assert_eq!(result.unwrap_err().to_string(), RUN_ELSEWHERE)),
        Ok(child) => child.has_ended_well(),
    }
    clients.join().unwrap();
    assert_eq!(result.unwrap().broadcast.messages, u64::from(COUNT));
}

pub fn programs(path: &Path) {
    let mut handles = Handles::new(path);
    let before = of_the_kernel();
    for _ in 0..3 {
        // By `vfork` or an equivalent.
        assert!(Command::new("true").status().unwrap().success());
        handles.exchange();
        let mut command = Command::new("true");
        // SAFETY: it does nothing. With it, the library forks.
        let command = unsafe { command.pre_exec(|| Ok(())) };
        assert!(command.status().unwrap().success());
        handles.exchange();
    }
    assert_eq!(of_the_kernel(), before);
    handles.serve();
}

pub fn threads(path: &Path) {
    let is_over = AtomicBool::new(false);
    let mut client = Some(Client::connect(path).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let (mut sender, mut receiver) = llmp::channel().unwrap();
                    for number in 0..20 {
                        sender.send(number, &[7; 20_000]).unwrap();
                        let message = receiver.recv().unwrap();
                        assert_eq!((message.tag.0, message.payload), (number, &[7; 20_000][..]));
                    }
                }
            });
        }
        for _ in 0..50 {
            in_child("fork", || {
                let mut client = client.take().unwrap();
                is_forked(client.try_recv());
                drop(client);
                let (mut sender, mut receiver) = llmp::channel().unwrap();
                sender.send(1, b"anew").unwrap();
                assert_eq!(receiver.recv().unwrap().payload, b"anew");
                Client::connect(path).unwrap().send(1, b"hello").unwrap();
            });
            assert_eq!(client.as_mut().unwrap().recv().unwrap().payload, b"hello");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

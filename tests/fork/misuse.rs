//! A child that uses, or drops, the handles of its parent.

use crate::children::{in_child, is_forked};
use crate::common::proc::maps;
use crate::handles::{Handles, of_the_kernel};
use llmp::{Disconnected, Envelope, Wait};
use std::path::Path;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(1)
}

const MS: Duration = Duration::from_millis(1);

/// The operations on handles. Each is the first that a child performs.
const OPERATIONS: &[fn(&mut Handles)] = &[
    |h| is_forked(h.a.try_send(1, b"")),
    |h| is_forked(h.a.try_send(1, &[1; 1 << 20])),
    |h| is_forked(h.a.send(1, b"")),
    |h| is_forked(h.a.send_deadline(1, b"", soon())),
    |h| is_forked(h.a.send_timeout(1, b"", MS)),
    |h| is_forked(h.a.try_send_envelope(Envelope::tagged(1), b"")),
    |h| is_forked(h.a.send_envelope(Envelope::tagged(1), b"")),
    |h| is_forked(h.a.send_envelope_timeout(Envelope::tagged(1), b"", MS)),
    |h| is_forked(h.a.send_with(Envelope::tagged(1), 1, |_| -> Result<(), ()> { panic!("it is") })),
    |h| is_forked(h.a.claim(Envelope::tagged(1), 1).map(drop)),
    |h| is_forked(h.a.try_claim(Envelope::tagged(1), 1).map(drop)),
    |h| is_forked(h.a.batch().try_send(1, b"")),
    |h| h.a.batch().commit(),
    |h| is_forked(h.a.flush()),
    |h| is_forked(h.a.flush_timeout(MS)),
    |h| is_forked(h.a.wait_for_receivers(1, None)),
    |h| assert_eq!(h.a.receivers(), None),
    |h| assert_eq!(h.a.ended(), Some(Disconnected::Forked)),
    |h| assert_eq!(h.a.prepare_wait(), Wait::Ready),
    |h| is_forked(h.b.try_recv()),
    |h| is_forked(h.b.recv()),
    |h| is_forked(h.b.recv_deadline(soon())),
    |h| is_forked(h.b.recv_timeout(MS)),
    |h| is_forked(h.b.wait_for_message(None)),
    |h| assert_eq!(h.b.ended(), Some(Disconnected::Forked)),
    |h| assert_eq!(h.b.prepare_wait(), Wait::Ready),
    |h| is_forked(h.sender.try_send(1, b"")),
    |h| is_forked(h.sender.flush()),
    |h| is_forked(h.sender.wait_for_receivers(1, None)),
    |h| is_forked(h.receiver.try_recv()),
    |h| assert_eq!(h.receiver.prepare_wait(), Wait::Ready),
    |h| is_forked(h.channel.0.try_send(1, b"")),
    |h| is_forked(h.channel.0.flush()),
    |h| is_forked(h.channel.1.try_recv()),
    |h| is_forked(h.channel.1.recv()),
    |h| {
        let error = h.listener.accept().unwrap_err().to_string();
        assert_eq!(error, "this listener belongs to the process that forked; listen in the child");
    },
    |h| h.stop.stop(),
    |h| {
        let broker = h.broker.as_mut().unwrap();
        assert_eq!(broker.prepare_wait(), Wait::Ready);
        assert_eq!(broker.poll_once(None).unwrap_err().to_string(), RUN_ELSEWHERE);
    },
    |h| {
        let error = h.broker.take().unwrap().run().unwrap_err().to_string();
        assert_eq!(error, RUN_ELSEWHERE);
    },
];

pub const RUN_ELSEWHERE: &str =
    "this broker was bound before a fork; bind in the process that runs it";

pub fn answers(path: &Path, way: &str) {
    let mut handles = Handles::new(path);
    let before = of_the_kernel();
    // Messages that have arrived, and a client with a parked receiver.
    handles.send();
    while handles.receiver.prepare_wait() != Wait::Ready {}
    for operation in OPERATIONS {
        in_child(way, || operation(&mut handles));
    }
    in_child(way, || OPERATIONS.iter().for_each(|operation| operation(&mut handles)));
    handles.receive();
    handles.exchange();
    assert_eq!(handles.b.prepare_wait(), Wait::Readable { timeout: None });
    in_child(way, || is_forked(handles.b.try_recv()));
    handles.exchange();
    assert_eq!(of_the_kernel(), before);
    handles.serve();
}

/// Where this process has writable shared memory: beginnings and ends.
fn written() -> Vec<(usize, usize)> {
    let maps = maps(std::process::id() as i32);
    let lines = maps.lines().filter(|l| l.contains(" rw-s ") && l.contains("memfd:llmp"));
    let at = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
    lines
        .map(|line| line.split_once(' ').unwrap().0.split_once('-').unwrap())
        .map(|(start, end)| (at(start), at(end)))
        .collect()
}

pub fn drops(path: &Path, way: &str) {
    let mut handles = Some(Handles::new(path));
    let before = of_the_kernel();
    let written = written();
    assert!(written.len() >= 12, "{written:?}");
    // Some handles were not used since the fork, so they have not detected it.
    in_child(way, || drop(handles.take()));
    in_child(way, || {
        // The allocator maps each of these lengths separately, where there is a hole.
        let memory: Vec<_> = (0..100).map(|i| vec![i; 130 << 10]).collect();
        let is_within = |v: &&Vec<u8>| {
            let at = v.as_ptr().addr();
            written.iter().any(|(start, end)| (start..end).contains(&&at))
        };
        let within = memory.iter().filter(is_within).count();
        match way {
            "fork" => assert_eq!(within, 0, "{within} vectors lie where the parent writes"),
            _ => assert!(within > 0, "else this shows nothing"),
        }
        let mut handles = handles.take().unwrap();
        let _ = handles.a.try_send(1, &[255; 1024]);
        let _ = handles.channel.0.try_send(1, &[255; 1024]);
        let _ = handles.channel.1.try_recv();
        drop(handles);
        for (i, vector) in memory.iter().enumerate() {
            assert!(vector.iter().all(|byte| *byte == i as u8), "vector {i} was changed");
        }
    });
    let mut handles = handles.unwrap();
    assert_eq!(of_the_kernel(), before);
    assert!(handles.places.iter().all(|place| place.exists()), "a socket was removed");
    handles.exchange();
    handles.serve();
}

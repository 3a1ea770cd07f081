//! Brokers and senders in an event loop of the caller.

use llmp::{Broker, Client, StopHandle, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits for any of the descriptors. Returns which are readable.
fn readable(fds: &[&dyn AsFd], timeout: Option<Duration>) -> Vec<bool> {
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap());
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    poll(&mut polled, timeout.as_ref()).unwrap();
    polled.iter().map(|fd| !fd.revents().is_empty()).collect()
}

/// Serves brokers in this thread until one of them is told to stop. Returns how often it has slept.
fn serve(brokers: &mut [Broker]) -> usize {
    let mut sleeps = 0;
    while !brokers.iter().any(Broker::is_stopping) {
        let mut timeout = None;
        let mut is_ready = false;
        for broker in &mut *brokers {
            match broker.prepare_wait() {
                Wait::Ready => is_ready = true,
                Wait::Readable { timeout: bound } => {
                    timeout = timeout.into_iter().chain(bound).min();
                }
            }
        }
        if !is_ready {
            let fds: Vec<&dyn AsFd> = brokers.iter().map(|broker| broker as &dyn AsFd).collect();
            readable(&fds, timeout);
            sleeps += 1;
        }
        for broker in &mut *brokers {
            broker.poll_once(Some(Duration::ZERO)).unwrap();
        }
    }
    sleeps
}

struct Buses {
    paths: [PathBuf; 2],
    stops: Vec<StopHandle>,
    thread: JoinHandle<(usize, u64)>,
    _dir: tempfile::TempDir,
}

/// Starts two brokers in one thread.
fn two_buses() -> Buses {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| dir.path().join(name));
    let mut brokers: Vec<_> = paths.iter().map(|path| Broker::bind(path).unwrap()).collect();
    assert_ne!(brokers[0].as_raw_fd(), brokers[1].as_raw_fd());
    let stops = brokers.iter().map(Broker::stop_handle).collect();
    let thread = std::thread::spawn(move || {
        let sleeps = serve(&mut brokers);
        let stats = brokers.into_iter().map(|broker| {
            broker.stop_handle().stop();
            broker.run().unwrap()
        });
        (sleeps, stats.map(|stats| stats.broadcast.messages).sum())
    });
    Buses { paths, stops, thread, _dir: dir }
}

#[test]
fn one_thread_serves_two_brokers_with_poll() {
    const COUNT: u32 = 2000;
    let buses = two_buses();
    let mut ends = Vec::new();
    for path in &buses.paths {
        let receiver = Client::connect_receiver(path).unwrap();
        ends.push((Client::connect_sender(path).unwrap(), receiver));
    }
    for i in 0..COUNT {
        for (bus, (sender, receiver)) in ends.iter_mut().enumerate() {
            sender.send(bus as u32, &i.to_le_bytes()).unwrap();
            // Now and then both brokers sleep before the next message.
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!((message.tag.0, message.payload), (bus as u32, &i.to_le_bytes()[..]));
        }
    }
    buses.stops[1].stop();
    let (sleeps, messages) = buses.thread.join().unwrap();
    assert_eq!(messages, 2 * u64::from(COUNT));
    assert!(sleeps > 5, "{sleeps} sleeps");
    for (_, receiver) in &mut ends {
        assert!(receiver.iter().next().is_none(), "the end is in order");
    }
}

// P11
#[test]
fn an_idle_broker_in_a_loop_of_the_caller_is_not_woken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let mut broker = Broker::bind(&path).unwrap();
    let client = std::thread::spawn(move || Client::connect(path).unwrap());
    while !client.is_finished() {
        broker.poll_once(Some(Duration::from_millis(10))).unwrap();
    }
    let _client = client.join().unwrap();
    while broker.poll_once(Some(Duration::ZERO)).unwrap() {}
    // The time of a bounded sleep grows until there is no bound.
    let idle = std::time::Instant::now();
    let mut sleeps = 0;
    while idle.elapsed() < Duration::from_millis(300) {
        assert!(!broker.poll_once(Some(Duration::from_millis(300))).unwrap());
        sleeps += 1;
    }
    assert!(sleeps < 50, "{sleeps} sleeps of an idle broker");
}

#[test]
fn a_sender_is_readable_when_the_receiver_ends() {
    let (mut sender, receiver) = llmp::channel().unwrap();
    assert_eq!(sender.ended(), None);
    assert_eq!(readable(&[&sender], Some(Duration::ZERO)), [false]);
    drop(receiver);
    assert_eq!(readable(&[&sender], Some(TIMEOUT)), [true]);
    assert_eq!(sender.ended(), Some(llmp::Disconnected::Closed));
}

//! P10 on the real kernel and the real processors: a sleeping process is woken, although other
//! threads start and end beside it.
//!
//! Models assume a correct kernel. An earlier version left out the publisher's fence and relied on
//! a barrier of the kernel's (`membarrier(2)`), which does not reach a processor on which a thread
//! of the process has ended. So these tests let threads end there. `LLMP_WAKEUPS_SECONDS` makes
//! each of them run longer than the default.

mod common;

use common::bus::Place;
use common::child::Child;
use common::regions::heap;
use common::roles;
use llmp::core::control::{Control, Doorbell};
use llmp::core::layout::control_len;
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::{Broker, Client, Receiver, Sender, Tag, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A receiver without progress for this time has lost a wake-up.
const STALL: Duration = Duration::from_secs(10);
/// Messages sent at once: they fill three pages, so that their receiver polls before it sleeps.
const BATCH: u32 = 192;
const PAGE_LEN: usize = 4096;
/// Batches on one bus.
const BATCHES: u64 = 2000;

#[test]
fn child() {
    roles::play();
}

fn seconds() -> Duration {
    let seconds = std::env::var("LLMP_WAKEUPS_SECONDS").ok();
    Duration::from_secs(seconds.map_or(4, |seconds| seconds.parse().expect("a number")))
}

/// Two processors, for a publisher and for a sleeper.
fn processors() -> Option<[usize; 2]> {
    let found = roles::processors();
    if found.len() < 2 {
        println!("SKIPPED: this needs two processors, and there is one");
    }
    found.get(..2).map(|two| [two[0], two[1]])
}

/// Runs `work` in a thread until it returns. `work` reports progress now and then.
///
/// # Panics
///
/// If it reports none for [`STALL`]. The message names what each thread waits for.
fn watched(work: impl FnOnce(&dyn Fn()) + Send + 'static) {
    let (got_on, progress) = channel();
    let worker = std::thread::spawn(move || work(&|| got_on.send(()).unwrap_or_default()));
    let mut times = 0u64;
    loop {
        match progress.recv_timeout(STALL) {
            Ok(()) => times += 1,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let threads = common::proc::threads(std::process::id() as i32);
                panic!("no progress for {STALL:?} after {times} steps; the threads:\n{threads}");
            }
        }
    }
    worker.join().unwrap();
}

/// Sends batches and receives them, in this thread alone. Between the two it does something else for
/// a random time, so that it begins to sleep at the moment in which the broker publishes.
fn exchange(sender: &mut Sender, receiver: &mut Receiver, batches: u64) {
    let mut random = 1u64;
    for _ in 0..batches {
        let mut batch = sender.batch();
        for number in 0..BATCH {
            batch.try_send(number, &[7; 64]).unwrap();
        }
        batch.commit();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (began, busy) = (Instant::now(), Duration::from_nanos((random >> 33) % 20_000));
        while began.elapsed() < busy {}
        for number in 0..BATCH {
            let tag = if random >> 63 == 0 {
                receiver.recv().unwrap().tag
            } else {
                recv_in_own_loop(receiver)
            };
            assert_eq!(tag.0, number);
        }
    }
}

/// As [`Receiver::recv`], but it does not spin before it sleeps.
fn recv_in_own_loop(receiver: &mut Receiver) -> Tag {
    loop {
        if let Some(message) = receiver.try_recv().unwrap() {
            return message.tag;
        }
        if let Wait::Readable { timeout } = receiver.prepare_wait() {
            let timeout = timeout.map(|timeout| timeout.try_into().unwrap());
            poll(&mut [PollFd::new(receiver, PollFlags::IN)], timeout.as_ref()).unwrap();
        }
    }
}

fn clients(place: &Place) -> (Sender, Receiver) {
    let receiver = Client::connect_receiver(place.path()).unwrap();
    (place.sender(), receiver)
}

// P10
#[test]
fn a_receiver_is_woken_by_a_broker_whose_threads_come_and_go() {
    let Some([publisher, sleeper]) = processors() else { return };
    let end = Instant::now() + seconds();
    watched(move |got_on| {
        roles::pin(sleeper);
        while Instant::now() < end {
            let place = Place::new();
            let builder = Broker::builder().page_len(PAGE_LEN).max_message_len(1000);
            let broker = builder.bind(place.path()).unwrap();
            let stop = broker.stop_handle();
            let broker = std::thread::spawn(move || {
                roles::pin(publisher);
                std::thread::spawn(move || roles::pin(publisher)).join().unwrap();
                broker.run().unwrap()
            });
            let (mut sender, mut receiver) = clients(&place);
            for _ in 0..10 {
                exchange(&mut sender, &mut receiver, BATCHES / 10);
                got_on();
            }
            stop.stop();
            broker.join().unwrap();
        }
    });
}

// P10
#[test]
fn a_process_with_changing_threads_wakes_its_receiver() {
    let Some([publisher, sleeper]) = processors() else { return };
    let end = Instant::now() + seconds();
    watched(move |got_on| {
        roles::pin(sleeper);
        let place = Place::new();
        let path = place.path().display().to_string();
        let mut broker = Child::start(
            "restless-broker",
            &[&path, &publisher, &format!("[{PAGE_LEN}, 1000, 1000000]")],
        );
        broker.says("ready");
        let (mut sender, mut receiver) = clients(&place);
        while Instant::now() < end {
            exchange(&mut sender, &mut receiver, BATCHES / 10);
            got_on();
        }
        broker.kill();
    });
}

/// A sleeper and a publisher of one word that run as closely as possible: many stores fall into the
/// moment in which the sleeper clears its flag. An unbounded sleep never ends here, within a
/// second. A sleep that relied on the kernel's barrier did not end either, since a thread has ended
/// on the publisher's processor.
// P10
#[test]
fn a_store_without_a_fence_is_found_by_a_bounded_sleep() {
    const WORD: usize = 0;
    let Some([publisher, sleeper]) = processors() else { return };
    let end = Instant::now() + seconds();
    watched(move |got_on| {
        let (control, page) = (heap(control_len(1)), heap(4096));
        let (rung, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let ready = Arc::new(AtomicU64::new(0));
        let mut owner = Control::create(control.clone(), 1);
        let publishing = {
            let (page, rung, over, ready) =
                (page.clone(), rung.clone(), over.clone(), ready.clone());
            let mut bell = Doorbell::new(Control::check(control.clone(), 0).unwrap());
            let ours = Control::create(heap(control_len(1)), 1);
            std::thread::spawn(move || {
                roles::pin(publisher);
                let mut random = 1u64;
                for number in 1.. {
                    if number % 500_000 == 1 {
                        // It leaves the processor at the next tick.
                        std::thread::spawn(|| {}).join().unwrap();
                        let began = Instant::now();
                        while began.elapsed() < Duration::from_millis(20) {}
                    }
                    while ready.load(Ordering::Acquire) < number {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    // Sees the flag, so that it leaves out the next fence.
                    bell.must_ring();
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (0..random >> 57).for_each(|_| std::hint::spin_loop());
                    page.store(WORD, number, Site::CommitPublish);
                    if bell.is_polling() {
                        continue;
                    }
                    ours.ring_fence();
                    if bell.must_ring() {
                        rung.store(number, Ordering::Release);
                    }
                }
            })
        };
        roles::pin(sleeper);
        let mut bounded = 0u64;
        for number in 1.. {
            if Instant::now() > end {
                break;
            }
            owner.poll();
            ready.store(number, Ordering::Release);
            (0..number % 64).for_each(|_| std::hint::spin_loop());
            while page.load(WORD, Site::CommitRead) < number {
                owner.park();
                let is_there = page.load(WORD, Site::CommitRead) >= number;
                if !is_there {
                    assert!(owner.first_bounded_sleep().is_some(), "it has polled");
                    let bound = Instant::now() + Duration::from_micros(100);
                    while rung.load(Ordering::Acquire) < number {
                        if Instant::now() > bound {
                            bounded += 1;
                            break;
                        }
                    }
                }
                owner.unpark();
            }
            if number % 100_000 == 0 {
                got_on();
            }
        }
        over.store(true, Ordering::Relaxed);
        publishing.join().unwrap();
        println!("{bounded} stores were found by a bounded sleep");
    });
}

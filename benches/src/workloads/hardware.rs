//! The limits of the machine, with which every figure is compared.

use super::pingpong;
use crate::clock::work;
use crate::measure::{Cell, Figures, Plan};
use crate::peer::RING;
use crate::placement::{cpus, pin, round_trip_ns};
use anyhow::{Result, bail};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::futex;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Source and destination fit into a core's second cache together.
const IN_L2: usize = 128 << 10;
/// Bytes sent at once, and the length of their ring, see `peer::RING`.
const MESSAGE: usize = 64 << 10;
const OS_PAGE: usize = 4096;
/// Larger than every cache.
const IN_MEMORY: usize = 128 << 20;
const WAKE_UPS: u32 = 2000;
const LATE_WAKE_UPS: u32 = 400;

pub const NAME: &str = "hardware";
/// The peer that stands for a limit among others.
pub const BARE: &str = "bare sockets";
/// Cases that other figures are compared with.
pub const ONE_LINE: &str = "one cache line there and back";
pub const L2_COPY: &str = "copy in the second cache";
pub const RING_COPY: &str = "copy of 64 KiB into a ring of 4 MiB";
pub const MEMORY_COPY: &str = "copy in memory";
pub const SOCKET: &str = "wake up over a SOCK_SEQPACKET socket";
pub const LATE_SOCKET: &str = "wake up over a SOCK_SEQPACKET socket, late answers";

pub fn cells(_: &Plan) -> Vec<Cell> {
    vec![
        Cell::new(NAME, ONE_LINE.into(), NAME, |_| Ok(vec![("ns_p50", round_trip_ns(1)?)])),
        Cell::new(NAME, "two cache lines there and back".into(), NAME, |_| {
            Ok(vec![("ns_p50", round_trip_ns(2)?)])
        }),
        Cell::new(NAME, L2_COPY.into(), NAME, |_| copy(IN_L2, IN_L2)).anywhere(),
        Cell::new(NAME, RING_COPY.into(), NAME, |_| copy(MESSAGE, RING)).anywhere(),
        Cell::new(NAME, MEMORY_COPY.into(), NAME, |_| copy(IN_MEMORY, IN_MEMORY)).anywhere(),
        Cell::new(NAME, SOCKET.into(), NAME, |_| wake_by_socket(Duration::ZERO)),
        Cell::new(NAME, LATE_SOCKET.into(), NAME, |_| wake_by_socket(pingpong::LATE)),
        Cell::new(NAME, "wake up over an eventfd".into(), NAME, |_| {
            let (there, back) =
                (eventfd(0, EventfdFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
            let heard = [there.try_clone()?, back.try_clone()?];
            const RING: [u8; 8] = 1u64.to_ne_bytes();
            wake([there, back], heard, &RING, Duration::ZERO)
        }),
        Cell::new(NAME, "wake up over a futex".into(), NAME, |_| wake_by_futex()),
    ]
}

/// Copies `len` bytes again and again on one pinned thread, each time to the next place in `ring`
/// bytes.
fn copy(len: usize, ring: usize) -> Result<Figures> {
    let on = cpus()?[0];
    let copying = std::thread::spawn(move || {
        pin(on)?;
        let (source, mut to) = (vec![1u8; len + OS_PAGE], vec![2u8; ring]);
        // Half a page apart: some processors take twenty times as long where the target lies a
        // little behind the source within their pages.
        let apart = (to.as_ptr().addr() + OS_PAGE / 2).wrapping_sub(source.as_ptr().addr());
        let from = &source[apart % OS_PAGE..][..len];
        let rounds = ((512 << 20) / len).max(2);
        let start = Instant::now();
        for at in (0..rounds).map(|round| round * len % ring) {
            black_box(&mut to[at..at + len]).copy_from_slice(black_box(from));
        }
        let bytes = (rounds * len) as f64;
        anyhow::Ok(bytes / (1u64 << 30) as f64 / start.elapsed().as_secs_f64())
    });
    match copying.join() {
        Ok(rate) => Ok(vec![("gib_per_s", rate?)]),
        Err(_) => bail!("the copying thread has failed"),
    }
}

/// Measures the time to wake another thread over a socket like ours, and to be woken.
pub fn wake_by_socket(late: Duration) -> Result<Figures> {
    let kind = SocketType::SEQPACKET;
    let pair = || socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let (there, heard) = pair()?;
    let (back, answered) = pair()?;
    wake([there, back], [heard, answered], &[0; 1], late)
}

/// Two pinned threads that sleep in `read` wake each other after this time of work.
fn wake(
    [there, back]: [OwnedFd; 2],
    [heard, answered]: [OwnedFd; 2],
    ring: &'static [u8],
    late: Duration,
) -> Result<Figures> {
    two_threads(
        move || {
            read(&heard, &mut [0; 8])?;
            work(late);
            write(&back, ring)?;
            Ok(())
        },
        move || {
            write(&there, ring)?;
            read(&answered, &mut [0; 8])?;
            Ok(())
        },
        late,
    )
}

fn wake_by_futex() -> Result<Figures> {
    static BALL: AtomicU32 = AtomicU32::new(0);
    BALL.store(0, Ordering::SeqCst);
    let pass = |mine: u32, theirs: u32, first: bool| {
        let wait = || {
            while BALL.load(Ordering::SeqCst) == theirs {
                // Woken, or passed already: the loop looks again.
                let _ = futex::wait(&BALL, futex::Flags::PRIVATE, theirs, None);
            }
        };
        if !first {
            wait();
        }
        BALL.store(theirs, Ordering::SeqCst);
        let _ = futex::wake(&BALL, futex::Flags::PRIVATE, 1);
        if first {
            wait();
        }
        let _ = mine;
        anyhow::Ok(())
    };
    two_threads(move || pass(1, 0, false), move || pass(0, 1, true), Duration::ZERO)
}

fn two_threads(
    mut answer: impl FnMut() -> Result<()> + Send + 'static,
    mut ask: impl FnMut() -> Result<()> + Send + 'static,
    late: Duration,
) -> Result<Figures> {
    let cpus = cpus()?;
    let wake_ups = if late.is_zero() { WAKE_UPS } else { LATE_WAKE_UPS };
    let answering = std::thread::spawn(move || {
        pin(cpus[1])?;
        (0..wake_ups).try_for_each(|_| answer())
    });
    let asking = std::thread::spawn(move || {
        pin(cpus[0])?;
        let mut times = Vec::new();
        for _ in 0..wake_ups {
            work(late);
            let start = Instant::now();
            ask()?;
            times.push(start.elapsed().saturating_sub(late).as_nanos() as u64);
        }
        anyhow::Ok(times)
    });
    match (answering.join(), asking.join()) {
        (Ok(Ok(())), Ok(times)) => {
            let times = super::quantiles(times?).into_iter();
            Ok(times.map(|(name, ns)| (name, ns as f64)).collect())
        }
        _ => bail!("a thread of the wake-up has failed"),
    }
}

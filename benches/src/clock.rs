//! Clocks: a cheap one for short times, the one that all processes share, and processor time.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::{Duration, Instant};

/// Counts the processor's own ticks, because a system call takes as long as the measured operation.
pub struct Ticks {
    started: Instant,
    first: u64,
}

impl Ticks {
    pub fn new() -> Self {
        Ticks { started: Instant::now(), first: ticks() }
    }

    /// Nanoseconds a tick, as far as known.
    pub fn tick_ns(&self) -> f64 {
        let count = ticks().wrapping_sub(self.first).max(1);
        self.started.elapsed().as_nanos() as f64 / count as f64
    }
}

#[inline]
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has this instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[inline]
#[cfg(not(target_arch = "x86_64"))]
pub fn ticks() -> u64 {
    monotonic_ns()
}

/// Nanoseconds on the clock that all processes of the machine share.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Processor time that this process has used so far, in nanoseconds.
pub fn processor_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Keeps the processor busy for this time, as work would.
pub fn work(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

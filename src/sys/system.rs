//! System values from the C library.
//!
//! rustix reads these values from the auxiliary vector and the vDSO. A program under Valgrind does
//! not have them at the addresses given there.

#[cfg(miri)]
use super::miri::libc;
use crate::core::layout::OS_PAGE;
use std::time::Duration;

/// Returns the length of a memory page of the kernel, in bytes: at least 4096.
pub(crate) fn os_page() -> usize {
    // SAFETY: the call has no preconditions.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).unwrap_or(OS_PAGE).max(OS_PAGE)
}

/// Returns the clock ticks per second, the unit of times in `/proc`.
pub(crate) fn clock_ticks() -> u64 {
    // SAFETY: as above.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Returns the time since boot.
pub(crate) fn since_boot() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable, and the kernel writes a `timespec`.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    match (answer, seconds, nanos) {
        (0, Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_its_page_its_ticks_and_its_time() {
        assert!(os_page().is_power_of_two());
        assert!((1..=1_000_000).contains(&clock_ticks()));
        let before = since_boot();
        assert!(before > Duration::ZERO);
        assert!(since_boot() >= before);
    }
}

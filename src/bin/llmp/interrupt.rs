//! The signals that end a command, and the inherited settings for them.

use super::failure::Failure;
use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// The longest time from the first signal to the end of the command, even in a blocked write.
const GRACE: Duration = Duration::from_millis(900);

/// Reports whether a signal has asked this process to end. The first signal asks it, and the second
/// one ends it.
pub struct Interrupt {
    signal: Arc<AtomicI32>,
    asked: Arc<OwnedFd>,
}

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP. Ignores SIGHUP if it was ignored before, as under
    /// `nohup`. Calls `then` with the first signal when it arrives.
    pub fn catch(then: impl FnOnce(i32) + Send + 'static) -> Result<Self, Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::other(format!("cannot catch signals: {error}"))
        };
        // With SIGXFSZ caught, a limit on file sizes becomes an error of the write.
        let unused = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGXFSZ, unused).map_err(|error| cannot(&error))?;
        let mut interest = vec![SIGINT, SIGTERM];
        if !is_ignored(SIGHUP) {
            interest.push(SIGHUP);
        }
        let mut signals = Signals::new(&interest).map_err(|error| cannot(&error))?;
        unblock_these(&interest);
        let asked = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let asked = Arc::new(asked.map_err(|error| cannot(&error))?);
        let signal = Arc::new(AtomicI32::new(0));
        let interrupt = Interrupt { signal: signal.clone(), asked: asked.clone() };
        let catching = move || {
            let Some(first) = signals.forever().next() else { return };
            // Relaxed: only the number itself is read.
            signal.store(first, Ordering::Relaxed);
            let _ = rustix::io::write(&asked, &1u64.to_ne_bytes());
            then(first);
            let end = Instant::now() + GRACE;
            while Instant::now() < end && signals.pending().next().is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::process::exit(128 + first);
        };
        // The limit on processes (`ulimit -u`) counts threads.
        std::thread::Builder::new().name("llmp-signals".into()).spawn(catching).map_err(
            |error| {
                Failure::other(format!(
                    "cannot start a thread: {error}; raise the limit on processes (`ulimit -u`)"
                ))
            },
        )?;
        Ok(interrupt)
    }

    /// Returns the signal that has asked this process to end.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
    }

    /// Returns whether a signal has arrived.
    pub fn is_there(&self) -> bool {
        self.signal().is_some()
    }
}

impl AsFd for Interrupt {
    /// Returns a descriptor that becomes readable once a signal has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

/// Returns whether this process has inherited that the signal is ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Unblocks the signals that end a command, because a supervisor may have started us with them
/// blocked.
pub fn unblock() {
    unblock_these(&[SIGINT, SIGTERM, SIGHUP]);
}

fn unblock_these(signals: &[i32]) {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    for signal in signals.iter().filter_map(|&signal| Signal::try_from(signal).ok()) {
        set.add(signal);
    }
    // If that fails, only SIGKILL ends the process.
    let _ = set.thread_unblock();
}

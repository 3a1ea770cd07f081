//! Failpoints: the steps before which a test kills this process by `SIGKILL`.
//!
//! Every access to shared memory and every system call for the bus passes `effect` or
//! `observation` first. Without the feature `crash` both functions are empty and compile to
//! nothing. With it, they count the steps of an armed process. The process kills itself before the
//! chosen step.
//!
//! A waiting process polls the same few places repeatedly. A second observation of a place, without
//! an effect since the first, does not count as a new step. Other processes cannot tell a death
//! before the second observation from a death before the first. So a waiting process makes no
//! steps, and the number of steps of a script hardly depends on timing.

/// A step that other processes may notice: a store, a fence, a system call.
#[inline(always)]
pub(crate) fn effect(step: &'static str) {
    #[cfg(feature = "crash")]
    armed::step(step, None);
    #[cfg(not(feature = "crash"))]
    let _ = step;
}

/// A step that other processes cannot notice: a load, or a query to the kernel. `place` is an
/// address or a descriptor.
#[inline(always)]
pub(crate) fn observation(step: &'static str, place: usize) {
    #[cfg(feature = "crash")]
    armed::step(step, Some(place));
    #[cfg(not(feature = "crash"))]
    let _ = (step, place);
}

/// A field that makes the step when it is dropped, before the fields that follow it.
#[derive(Debug)]
pub(crate) struct AtDrop(#[cfg(feature = "crash")] &'static str);

impl AtDrop {
    #[cfg(feature = "crash")]
    pub const fn new(step: &'static str) -> Self {
        AtDrop(step)
    }

    #[cfg(not(feature = "crash"))]
    pub const fn new(_: &'static str) -> Self {
        AtDrop()
    }
}

#[cfg(feature = "crash")]
impl Drop for AtDrop {
    fn drop(&mut self) {
        effect(self.0);
    }
}

#[cfg(feature = "crash")]
pub use armed::{arm, steps};

#[cfg(feature = "crash")]
mod armed {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Keeps a process that is not armed from taking the lock.
    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static COUNTS: Mutex<Counts> =
        Mutex::new(Counts { made: Vec::new(), seen: Vec::new(), end: None });

    struct Counts {
        /// Steps of each kind.
        made: Vec<(&'static str, u64)>,
        /// The observations since the last effect.
        seen: Vec<(&'static str, usize)>,
        end: Option<End>,
    }

    struct End {
        kind: String,
        number: u64,
        last_words: fn(),
    }

    fn counts() -> MutexGuard<'static, Counts> {
        COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms this process. It counts its steps from now on and kills itself before step `number` of
    /// this kind, counted from 0. It calls `last_words` first.
    ///
    /// Steps are counted by kind, so one step more or less during a wait does not shift the later
    /// steps of other kinds.
    pub fn arm(kind: &str, number: u64, last_words: fn()) {
        let end = Some(End { kind: kind.to_owned(), number, last_words });
        *counts() = Counts { made: Vec::new(), seen: Vec::new(), end };
        // Relaxed: the lock orders the rest, and steps of other threads may begin to count later.
        IS_ARMED.store(true, Ordering::Relaxed);
    }

    /// Returns the kinds of steps made since this process was armed, and the number of each.
    pub fn steps() -> Vec<(&'static str, u64)> {
        counts().made.clone()
    }

    #[inline(always)]
    pub(super) fn step(kind: &'static str, place: Option<usize>) {
        // Relaxed: the thread that arms also makes the steps.
        if IS_ARMED.load(Ordering::Relaxed) {
            count(kind, place);
        }
    }

    #[cold]
    fn count(kind: &'static str, place: Option<usize>) {
        let mut counts = counts();
        match place {
            None => counts.seen.clear(),
            Some(place) if counts.seen.contains(&(kind, place)) => return,
            Some(place) => counts.seen.push((kind, place)),
        }
        let known = counts.made.iter().position(|(known, _)| *known == kind);
        let known = known.unwrap_or(counts.made.len());
        if known == counts.made.len() {
            counts.made.push((kind, 0));
        }
        let number = counts.made[known].1;
        if let Some(end) =
            counts.end.as_ref().filter(|end| end.kind == kind && end.number == number)
        {
            (end.last_words)();
            // The held lock keeps other threads from making a step meanwhile. No instruction of
            // ours follows the signal.
            let _ = kill_process(getpid(), Signal::KILL);
            unreachable!("a process does not survive SIGKILL");
        }
        counts.made[known].1 += 1;
    }
}

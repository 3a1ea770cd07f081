//! The steps between which a test lets this process die, by `SIGKILL`.
//!
//! Every access of shared memory and every call that is made to the kernel for the bus passes
//! `acts` or `looks` first. Without the feature `crash` both are empty, and nothing is left
//! of them. With it, they count in a process that was armed, and the process kills itself
//! in front of the step that it was told.
//!
//! A process that waits looks at the same few places again and again. A second look at a place,
//! with no act since the first, is no new step: to everybody else, a process that dies before the
//! second look is one that has died before the first. So a process that waits makes no steps, and
//! a script has a number of them that hardly depends on who was how fast.

/// A step that others may come to notice: a store, a fence, a call to the kernel.
#[inline(always)]
pub(crate) fn effect(step: &'static str) {
    #[cfg(feature = "crash")]
    armed::step(step, None);
    #[cfg(not(feature = "crash"))]
    let _ = step;
}

/// A step that nobody else can notice: a load, or asking the kernel what there is. `place` is an
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

    /// So that a process that is not armed does not pay for the lock.
    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static COUNTS: Mutex<Counts> =
        Mutex::new(Counts { made: Vec::new(), seen: Vec::new(), end: None });

    struct Counts {
        /// Steps of each kind.
        made: Vec<(&'static str, u64)>,
        /// The looks since the last act.
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

    /// From now on this process counts its steps, and kills itself in front of step `number` of
    /// this kind, the first being 0, after it has said its `last_words`.
    ///
    /// By kinds, so that a step more or less while it waits does not shift all that follow.
    pub fn arm(kind: &str, number: u64, last_words: fn()) {
        let end = Some(End { kind: kind.to_owned(), number, last_words });
        *counts() = Counts { made: Vec::new(), seen: Vec::new(), end };
        // Relaxed: the lock orders the rest, and steps of other threads may begin to count later.
        IS_ARMED.store(true, Ordering::Relaxed);
    }

    /// The kinds of steps made since it was armed, and how many of each.
    pub fn steps() -> Vec<(&'static str, u64)> {
        counts().made.clone()
    }

    #[inline(always)]
    pub(super) fn step(kind: &'static str, place: Option<usize>) {
        // Relaxed: whoever arms makes the steps, too.
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
            // The lock is held, so that no other thread makes a step meanwhile. No instruction of
            // ours comes after the signal.
            let _ = kill_process(getpid(), Signal::KILL);
            unreachable!("a process does not survive SIGKILL");
        }
        counts.made[known].1 += 1;
    }
}

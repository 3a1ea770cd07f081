//! The steps between which a test lets this process die, by `SIGKILL`.
//!
//! Every access of shared memory and every call that is made to the kernel for the bus passes
//! [`acts`] or [`looks`] first. Without the feature `crash` both are empty, and nothing is left
//! of them. With it, they count in a process that was [armed](arm), and the process kills itself
//! in front of the step that it was told.
//!
//! A process that waits looks at the same few places again and again. A second look at a place,
//! with no act since the first, is no new step: to everybody else, a process that dies before the
//! second look is one that has died before the first. So a process that waits makes no steps, and
//! a script has a number of them that hardly depends on who was how fast.

/// A step that others may come to notice: a store, a fence, a call to the kernel.
#[inline(always)]
pub(crate) fn acts(step: &'static str) {
    #[cfg(feature = "crash")]
    armed::step(step, None);
    #[cfg(not(feature = "crash"))]
    let _ = step;
}

/// A step that nobody else can notice: a load, or asking the kernel what there is. `place` is an
/// address or a descriptor.
#[inline(always)]
pub(crate) fn looks(step: &'static str, place: usize) {
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
        acts(self.0);
    }
}

#[cfg(feature = "crash")]
pub use armed::{arm, steps};

#[cfg(feature = "crash")]
mod armed {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// So that a process that is not armed does not pay for the lock.
    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static COUNT: Mutex<Count> =
        Mutex::new(Count { made: 0, lives_for: u64::MAX, last_words: None, seen: Vec::new() });

    struct Count {
        made: u64,
        lives_for: u64,
        last_words: Option<fn(&str)>,
        /// The looks since the last act.
        seen: Vec<(&'static str, usize)>,
    }

    /// This process makes so many more steps and then kills itself. Before it does, it tells
    /// `last_words` in front of which step.
    pub fn arm(lives_for: u64, last_words: fn(&str)) {
        let mut count = COUNT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *count = Count { made: 0, lives_for, last_words: Some(last_words), seen: Vec::new() };
        // Relaxed: the lock orders the rest, and steps of other threads may begin to count later.
        IS_ARMED.store(true, Ordering::Relaxed);
    }

    /// Steps made since it was armed.
    pub fn steps() -> u64 {
        COUNT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).made
    }

    #[inline(always)]
    pub(super) fn step(step: &'static str, place: Option<usize>) {
        // Relaxed: whoever arms makes the steps, too.
        if IS_ARMED.load(Ordering::Relaxed) {
            count(step, place);
        }
    }

    #[cold]
    fn count(step: &'static str, place: Option<usize>) {
        let mut count = COUNT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match place {
            None => count.seen.clear(),
            Some(place) if count.seen.contains(&(step, place)) => return,
            Some(place) => count.seen.push((step, place)),
        }
        if count.made >= count.lives_for {
            if let Some(last_words) = count.last_words {
                last_words(step);
            }
            // The lock is held, so that no other thread makes a step meanwhile. No instruction of
            // ours comes after the signal.
            let _ = kill_process(getpid(), Signal::KILL);
            unreachable!("a process does not survive SIGKILL");
        }
        count.made += 1;
    }
}

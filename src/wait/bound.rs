//! Bounds the sleeps of a process that publishers may have missed, see
//! [`control`](crate::core::control#polling).

use std::time::{Duration, Instant};

/// The first bounded sleep. A store becomes visible to other processors far sooner. The resolution
/// of the kernel's timers is similar.
const SHORTEST: Duration = Duration::from_micros(100);

/// Bounds the sleeps of one process.
#[derive(Debug)]
pub(crate) struct SleepBound {
    /// The sleep that cleared the polling flag, and the time when it began.
    first: u64,
    began: Instant,
}

impl SleepBound {
    pub fn new() -> Self {
        SleepBound { first: 0, began: Instant::now() }
    }

    /// Returns the longest sleep that may begin now, or `None` for no limit. `first` is
    /// [`first_bounded_sleep`](crate::core::control::Control::first_bounded_sleep).
    pub fn at_most(&mut self, first: Option<u64>) -> Option<Duration> {
        let first = first?;
        let now = Instant::now();
        if self.first != first {
            (self.first, self.began) = (first, now);
        }
        Some(now.duration_since(self.began).max(SHORTEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_lasts_at_most_the_time_since_the_flag_was_cleared() {
        let mut bound = SleepBound::new();
        assert_eq!(bound.at_most(None), None);
        let before = Instant::now();
        assert_eq!(bound.at_most(Some(3)), Some(SHORTEST));
        let began = Instant::now();
        while began.elapsed() < 5 * SHORTEST {}
        let later = bound.at_most(Some(3)).unwrap();
        assert!((5 * SHORTEST..=before.elapsed()).contains(&later), "{later:?}");
        assert_eq!(bound.at_most(Some(4)), Some(SHORTEST), "another flag, cleared just now");
    }
}

//! Adaptive spinning: spin before blocking only while spinning has recently succeeded.
//!
//! A sleep and a wake-up cost system calls on both sides and take far longer than a message in
//! flight. If messages are rare, however, spinning never finds one. So a process suspends spinning
//! after a few failures and retries it now and then.

/// Failed spins in a row before spinning is suspended.
const MAX_FAILED: u32 = 4;
/// While suspended, spinning is retried at every 64th wait.
const RETRY_EVERY: u32 = 64;

/// Decides whether to spin or to sleep.
#[derive(Debug)]
pub(crate) struct SpinPolicy {
    /// Polls with a spin hint, followed by polls that yield to other threads. On two processors,
    /// the awaited process may need ours.
    spins: u32,
    yields: u32,
    /// Polls since the last sleep or the last success.
    polls: u32,
    /// Sleeps since a poll last succeeded.
    failed: u32,
}

impl SpinPolicy {
    /// The policy of a client or a channel.
    pub fn of_client() -> Self {
        Self::new(200, 10)
    }

    /// The policy of a wait that does not spin.
    pub fn none() -> Self {
        Self::new(0, 0)
    }

    pub fn new(spins: u32, yields: u32) -> Self {
        SpinPolicy { spins, yields, polls: 0, failed: 0 }
    }

    /// Called after an empty poll. Pauses and returns true if another poll is due. Returns false if
    /// it is time to sleep.
    pub fn again(&mut self) -> bool {
        let pays = self.failed < MAX_FAILED || self.failed.is_multiple_of(RETRY_EVERY);
        if !pays || self.polls == self.spins + self.yields {
            self.failed = self.failed.wrapping_add(1);
            self.polls = 0;
            return false;
        }
        if self.polls < self.spins {
            std::hint::spin_loop()
        } else {
            std::thread::yield_now()
        }
        self.polls += 1;
        true
    }

    /// Called after a successful poll.
    pub fn found(&mut self) {
        if self.polls > 0 {
            self.failed = 0;
            self.polls = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of polls until a sleep.
    fn observation(spin: &mut SpinPolicy) -> u32 {
        let mut looks = 0;
        while spin.again() {
            looks += 1;
        }
        looks
    }

    #[test]
    fn failed_spins_suspend_spinning_until_a_retry() {
        let mut spin = SpinPolicy::new(3, 2);
        let sleeps: Vec<u32> = (0..129).map(|_| observation(&mut spin)).collect();
        let tries: Vec<usize> = (0..129).filter(|i| sleeps[*i] > 0).collect();
        assert_eq!(tries, [0, 1, 2, 3, 64, 128]);
        assert!(tries.iter().all(|i| sleeps[*i] == 5));
    }

    #[test]
    fn a_successful_spin_resumes_spinning() {
        let mut spin = SpinPolicy::new(3, 2);
        for _ in 0..RETRY_EVERY {
            observation(&mut spin);
        }
        // Found at once, so this says nothing about spinning.
        spin.found();
        assert!(spin.again());
        spin.found();
        let sleeps: Vec<u32> = (0..5).map(|_| observation(&mut spin)).collect();
        assert_eq!(sleeps, [5, 5, 5, 5, 0]);
    }
}

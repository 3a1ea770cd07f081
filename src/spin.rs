//! How often to look before one sleeps: as long as that has paid off lately.
//!
//! To sleep and be woken takes system calls on both sides and far longer than a message that is on
//! its way. Where messages come rarely, though, no short look ever finds one. So who has looked in
//! vain a few times sleeps at once, and tries it again now and then.

/// So often in a row it may be in vain.
const VAIN: u32 = 4;
/// Then every so many times it is tried again.
const AGAIN: u32 = 64;

/// The looks before a sleep.
#[derive(Debug)]
pub(crate) struct SpinPolicy {
    /// Looks that keep the processor, and those behind them that let others run. Where there are
    /// two processors, the one we wait for may need ours.
    spins: u32,
    yields: u32,
    /// Looks since the last sleep or the last time that something was found.
    looked: u32,
    /// Sleeps since a look has found something.
    vain: u32,
}

impl SpinPolicy {
    pub fn new(spins: u32, yields: u32) -> Self {
        SpinPolicy { spins, yields, looked: 0, vain: 0 }
    }

    /// After a look in vain: pauses and returns true if another one is due, or false if it is time
    /// to sleep.
    pub fn again(&mut self) -> bool {
        let pays = self.vain < VAIN || self.vain.is_multiple_of(AGAIN);
        if !pays || self.looked == self.spins + self.yields {
            self.vain = self.vain.wrapping_add(1);
            self.looked = 0;
            return false;
        }
        if self.looked < self.spins {
            std::hint::spin_loop()
        } else {
            std::thread::yield_now()
        }
        self.looked += 1;
        true
    }

    /// A look has found something.
    pub fn found(&mut self) {
        if self.looked > 0 {
            self.vain = 0;
            self.looked = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks until it sleeps.
    fn observation(spin: &mut SpinPolicy) -> u32 {
        let mut looks = 0;
        while spin.again() {
            looks += 1;
        }
        looks
    }

    #[test]
    fn who_looks_in_vain_sleeps_at_once_and_tries_again_now_and_then() {
        let mut spin = SpinPolicy::new(3, 2);
        let sleeps: Vec<u32> = (0..129).map(|_| observation(&mut spin)).collect();
        let tries: Vec<usize> = (0..129).filter(|i| sleeps[*i] > 0).collect();
        assert_eq!(tries, [0, 1, 2, 3, 64, 128]);
        assert!(tries.iter().all(|i| sleeps[*i] == 5));
    }

    #[test]
    fn who_has_found_something_by_looking_goes_on_looking() {
        let mut spin = SpinPolicy::new(3, 2);
        for _ in 0..AGAIN {
            observation(&mut spin);
        }
        // There at once: says nothing about looking.
        spin.found();
        assert!(spin.again());
        spin.found();
        let sleeps: Vec<u32> = (0..5).map(|_| observation(&mut spin)).collect();
        assert_eq!(sleeps, [5, 5, 5, 5, 0]);
    }
}

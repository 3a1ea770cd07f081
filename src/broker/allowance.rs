//! Limits the joins of each user, so that client ids last for years (P12).
//!
//! There are 2³² ids. Each user may use a sixteenth of them at once, more than a million joins an
//! hour for ten days. After that, a user may use 32 a second. So one user needs four years for all
//! of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The ids that a user may use at once.
const AT_ONCE: u64 = 1 << 28;
/// After this time, a user may use one more id.
const ONE_MORE: Duration = Duration::from_nanos(1_000_000_000 / 32);
/// With more users than this, users without recent joins are forgotten.
const USERS: usize = 1024;

/// The remaining allowance of each user.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// When the user's full allowance is restored.
    paid_back: HashMap<u32, Instant>,
}

impl Allowance {
    /// Returns whether another client of this user may join.
    pub fn admits(&self, user: u32, now: Instant) -> bool {
        let used = self.paid_back.get(&user).map(|at| at.saturating_duration_since(now));
        used.is_none_or(|used| used + ONE_MORE <= all())
    }

    /// Records that a client of this user has joined.
    pub fn joined(&mut self, user: u32, now: Instant) {
        if self.paid_back.len() >= USERS {
            self.paid_back.retain(|_, at| *at > now);
        }
        let at = self.paid_back.entry(user).or_insert(now);
        *at = (*at).max(now) + ONE_MORE;
    }
}

#[cfg(test)]
impl Allowance {
    /// Leaves this user one id.
    pub fn use_up_all_but_one(&mut self, user: u32, now: Instant) {
        self.paid_back.insert(user, now + all() - ONE_MORE);
    }
}

/// Returns the time in which a spent allowance is fully restored.
fn all() -> Duration {
    Duration::from_nanos((ONE_MORE.as_nanos() as u64).saturating_mul(AT_ONCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;

    const YEAR: u64 = 365 * 24 * 3600;

    // P12
    #[test]
    fn one_user_needs_years_for_all_ids() {
        let ids = u64::from(u32::MAX) - AT_ONCE;
        let years = ONE_MORE.as_nanos() as u64 * ids / 1_000_000_000 / YEAR;
        assert!(years >= 3, "{years} years");
    }

    #[test]
    fn a_user_who_has_used_up_all_gets_one_id_at_a_time() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for _ in 0..1000 {
            assert!(allowance.admits(7, now));
            allowance.joined(7, now);
        }
        // Set directly, because counting up to it takes long.
        allowance.paid_back.insert(7, now + all());
        assert!(!allowance.admits(7, now));
        assert!(allowance.admits(8, now), "another user");
        for i in 1..10 {
            let later = now + ONE_MORE * i;
            assert!(allowance.admits(7, later));
            allowance.joined(7, later);
            assert!(!allowance.admits(7, later));
        }
        // Joins count, not greetings. A user gains nothing by greeting with many clients first.
        for _ in 0..100 {
            allowance.joined(7, now);
        }
        assert!(!allowance.admits(7, now + 100 * ONE_MORE));
    }

    // P12
    #[test]
    fn the_last_id_of_a_users_share_is_given_and_no_other() {
        let bound = bound("client ids (2³²)");
        assert!(bound.starts_with("a sixteenth for each user at once, then 32 a second: 4 years;"));
        assert_eq!((AT_ONCE, ONE_MORE * 32), ((1 << 32) / 16, Duration::from_secs(1)));
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        allowance.joined(7, now);
        assert_eq!(allowance.paid_back[&7], now + ONE_MORE, "what one id takes of the share");
        allowance.use_up_all_but_one(7, now);
        assert_eq!(allowance.paid_back[&7], now + ONE_MORE * (AT_ONCE as u32 - 1));
        assert!(allowance.admits(7, now));
        allowance.joined(7, now);
        assert!(!allowance.admits(7, now));
        let next = now + ONE_MORE;
        assert!(!allowance.admits(7, next - Duration::from_nanos(1)));
        assert!(allowance.admits(7, next));
    }

    #[test]
    fn users_who_have_not_joined_lately_are_forgotten() {
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for user in 0..10 * USERS as u32 {
            allowance.joined(user, now + user * 2 * ONE_MORE);
        }
        assert!(allowance.paid_back.len() <= USERS);
    }
}

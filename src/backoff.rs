//! How far a receiver stays behind a sender that writes without a break.
//!
//! Who reads faster than the other side writes catches up with it after every few messages. Then
//! both want the same lines: the look for the next message takes its line away from the sender, and
//! what the processor fetches ahead takes the lines behind it, a whole page of the kernel's at worst.
//! Both get several times slower. So who has caught up again and again lets the sender get ahead, a
//! little longer each time.
//!
//! A pause comes only after many messages in a row, and grows only as long as others are there when
//! it ends, and not so many that the sender may have had to wait for room. Where messages come one at a
//! time, or rarely, there is none.

/// Messages between two empty looks that are a stream.
const STREAM: u64 = 4;
/// The longest pause in spins, some microseconds.
const LONGEST: u32 = 255;

/// The pauses of one receiver.
#[derive(Debug)]
pub(crate) struct CatchUpBackoff {
    /// So many bytes may the sender get ahead.
    room: u64,
    /// The number of the next message when nothing was there last, and its position.
    caught_up_at: u64,
    position: u64,
    /// The last pause, in spins.
    pause: u32,
}

impl CatchUpBackoff {
    /// A receiver whose sender may get so many bytes ahead.
    pub fn new(room: u64) -> Self {
        CatchUpBackoff { room, caught_up_at: 0, position: 0, pause: 0 }
    }

    /// Nothing is there; `next` is the number of the next message, and `position` its position. Leaves
    /// the sender alone for a while if it is better left. Returns whether nothing has come since the
    /// last look, either.
    #[inline(always)]
    pub fn caught_up(&mut self, next: u64, position: u64) -> bool {
        if next == self.caught_up_at {
            self.pause = 0;
            true
        } else {
            self.fall_behind(next, position);
            false
        }
    }

    #[inline(never)]
    fn fall_behind(&mut self, next: u64, position: u64) {
        let taken = next - std::mem::replace(&mut self.caught_up_at, next);
        let bytes = position - std::mem::replace(&mut self.position, position);
        let longer = (2 * self.pause + 1).min(LONGEST);
        let is_better = taken >= STREAM && bytes <= self.room;
        self.pause = if is_better { longer } else { self.pause / 2 };
        for _ in 0..self.pause {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 64;

    /// The pause after each of these numbers of messages taken between two looks in vain.
    fn pauses(consumed: impl IntoIterator<Item = u64>) -> Vec<u32> {
        let (mut backoff, mut next) = (CatchUpBackoff::new(8 * LEN), 0);
        let pause = |taken| {
            next += taken;
            backoff.caught_up(next, next * LEN);
            backoff.pause
        };
        consumed.into_iter().map(pause).collect()
    }

    #[test]
    fn who_catches_up_with_a_stream_again_and_again_falls_behind() {
        assert_eq!(pauses([STREAM; 4]), [1, 3, 7, 15]);
        assert_eq!(pauses([STREAM; 20]).last(), Some(&LONGEST));
        assert_eq!(pauses([STREAM, STREAM, 1, 1, 1]), [1, 3, 1, 0, 0], "it dries up");
    }

    #[test]
    fn whose_sender_may_have_waited_for_room_falls_behind_no_further() {
        assert_eq!(pauses([STREAM, STREAM, 8, 9, 9, 8]), [1, 3, 7, 3, 1, 3]);
    }

    #[test]
    fn who_waits_for_single_messages_never_pauses() {
        assert!(pauses([1, 0, 1, 1, STREAM - 1, 0, 0, 1]).iter().all(|pause| *pause == 0));
        assert_eq!(pauses([STREAM, STREAM, 0, STREAM]), [1, 3, 0, 1], "the stream has ended");
    }
}

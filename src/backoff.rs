//! Keeps a receiver behind a sender that writes continuously.
//!
//! A receiver that reads faster than the sender writes catches up after every few messages. Then
//! both contend for the same cache lines. The poll for the next message takes its line away from
//! the sender. The hardware prefetcher takes the following lines, at worst a whole memory page. Both
//! sides become several times slower. So a receiver that keeps catching up backs off, a little
//! longer each time.
//!
//! A pause requires several messages in a row. It grows only while more messages are there when it
//! ends, and only while the sender cannot have waited for room. There is no pause where messages
//! are single or rare.

/// Messages between two empty polls that count as a stream.
const STREAM: u64 = 4;
/// The longest pause in spins, a few microseconds.
const LONGEST: u32 = 255;

/// The pauses of one receiver.
#[derive(Debug)]
pub(crate) struct CatchUpBackoff {
    /// The bytes by which the sender may get ahead.
    room: u64,
    /// The number of the next message at the last empty poll, and its position.
    caught_up_at: u64,
    position: u64,
    /// The last pause, in spins.
    pause: u32,
}

impl CatchUpBackoff {
    /// Makes the pauses of a receiver whose sender may get `room` bytes ahead.
    pub fn new(room: u64) -> Self {
        CatchUpBackoff { room, caught_up_at: 0, position: 0, pause: 0 }
    }

    /// Called when the chain is empty. `next` is the number of the next message and `position` its
    /// position. Pauses if that helps the sender. Returns whether the previous poll was empty, too.
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
        let consumed = next - std::mem::replace(&mut self.caught_up_at, next);
        let bytes = position - std::mem::replace(&mut self.position, position);
        let longer = (2 * self.pause + 1).min(LONGEST);
        let is_better = consumed >= STREAM && bytes <= self.room;
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

    /// Returns the pause after each of these numbers of messages between two empty polls.
    fn pauses(consumed: impl IntoIterator<Item = u64>) -> Vec<u32> {
        let (mut backoff, mut next) = (CatchUpBackoff::new(8 * LEN), 0);
        let pause = |count| {
            next += count;
            backoff.caught_up(next, next * LEN);
            backoff.pause
        };
        consumed.into_iter().map(pause).collect()
    }

    #[test]
    fn a_receiver_that_keeps_catching_up_backs_off() {
        assert_eq!(pauses([STREAM; 4]), [1, 3, 7, 15]);
        assert_eq!(pauses([STREAM; 20]).last(), Some(&LONGEST));
        assert_eq!(pauses([STREAM, STREAM, 1, 1, 1]), [1, 3, 1, 0, 0], "it dries up");
    }

    #[test]
    fn the_pause_shrinks_if_the_sender_may_have_waited_for_room() {
        assert_eq!(pauses([STREAM, STREAM, 8, 9, 9, 8]), [1, 3, 7, 3, 1, 3]);
    }

    #[test]
    fn single_messages_cause_no_pause() {
        assert!(pauses([1, 0, 1, 1, STREAM - 1, 0, 0, 1]).iter().all(|pause| *pause == 0));
        assert_eq!(pauses([STREAM, STREAM, 0, STREAM]), [1, 3, 0, 1], "the stream has ended");
    }
}

//! Judges what the processes of a soak have reported: nothing lost, repeated or reordered.
//!
//! One receiver is the *witness*: it is never killed and never slow. Its messages are the order that all
//! other receivers must see from their first message on.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Number of messages whose order is kept. A receiver can't be as late as that.
const KEPT: usize = 1 << 22;

/// A sender that is killed may lose what it has sent if a broker ends this long before or after.
pub const BESIDE: Duration = Duration::from_secs(5);

/// A message: the number of its sender's process, and the sender's number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    pub sender: u32,
    pub number: u64,
}

/// What is wrong.
pub type Wrong = String;

/// How a sender has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has flushed before.
    Left,
    /// It was killed, or its connection has ended.
    Killed(Instant),
}

#[derive(Default)]
struct Sender {
    /// How many of its messages the witness has received.
    received: u64,
    sent: u64,
    flushed: u64,
    end: Option<End>,
}

impl Sender {
    /// Returns whether its last messages may be lost, because it was killed beside a broker.
    fn may_lose(&self, brokers: &[Instant]) -> bool {
        let Some(End::Killed(at)) = self.end else { return false };
        brokers.iter().any(|broker| at.max(*broker) - at.min(*broker) < BESIDE)
    }
}

/// What a receiver has reported and was not compared yet.
enum Item {
    Got(Id),
    Missed(u64),
}

struct Receiver {
    /// The position of its next message, once that is known.
    at: Option<u64>,
    /// Where to look for its next message otherwise.
    from: u64,
    waiting: VecDeque<Item>,
    /// Once it has joined, the number of the next process that was started. What such a process sends
    /// must arrive.
    must_hear: Option<u32>,
    has_ended: bool,
}

/// The numbers of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub senders: u64,
    pub sent: u64,
    pub received: u64,
    /// Messages that receivers were told that they had missed.
    pub missed: u64,
    /// How often a receiver was told that.
    pub gaps: u64,
    /// Messages that a sender lost because it was killed beside its broker.
    pub lost_beside: u64,
}

/// Judges the reports.
pub struct Oracle {
    witness: u32,
    /// The order of the messages from position `begin` on.
    order: VecDeque<Id>,
    begin: u64,
    senders: HashMap<u32, Sender>,
    receivers: HashMap<u32, Receiver>,
    totals: Totals,
}

impl Oracle {
    /// Makes an oracle with this witness.
    pub fn new(witness: u32) -> Self {
        Oracle {
            witness,
            order: VecDeque::new(),
            begin: 0,
            senders: HashMap::new(),
            receivers: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// Returns the number of messages that the witness has received.
    pub fn messages(&self) -> u64 {
        self.begin + self.order.len() as u64
    }

    /// A process is started, which may receive.
    pub fn starts(&mut self, process: u32) {
        // The broker had published everything before that the witness has received.
        let receiver = Receiver {
            at: None,
            from: self.messages(),
            waiting: VecDeque::new(),
            must_hear: None,
            has_ended: false,
        };
        self.receivers.insert(process, receiver);
    }

    /// A receiver has joined. It must receive what processes with this number or a higher one send.
    pub fn joined(&mut self, process: u32, next: u32) {
        if let Some(receiver) = self.receivers.get_mut(&process) {
            receiver.must_hear = Some(next);
        }
    }

    /// A receiver has received a message.
    pub fn got(&mut self, process: u32, id: Id) -> Result<(), Wrong> {
        self.totals.received += 1;
        if process == self.witness {
            return self.witnessed(id);
        }
        self.report(process, Item::Got(id))
    }

    /// A receiver was told that it has missed messages. Zero: it is not known how many.
    pub fn missed(&mut self, process: u32, count: u64) -> Result<(), Wrong> {
        if process == self.witness {
            return Err(format!("the witness has missed {count} messages, but it was never slow"));
        }
        self.totals.gaps += 1;
        self.totals.missed += count;
        self.report(process, Item::Missed(count))
    }

    /// A sender has sent as many messages.
    pub fn sent(&mut self, process: u32, count: u64) {
        self.sender(process).sent = count;
    }

    /// The broker has consumed as many messages.
    pub fn flushed(&mut self, process: u32, count: u64) {
        let sender = self.sender(process);
        (sender.flushed, sender.sent) = (count, count);
    }

    /// A process has ended.
    pub fn ended(&mut self, process: u32, end: End) {
        // What the witness has not received is compared later.
        match self.receivers.get_mut(&process) {
            Some(receiver) if !receiver.waiting.is_empty() => receiver.has_ended = true,
            _ => _ = self.receivers.remove(&process),
        }
        if let Some(sender) = self.senders.get_mut(&process) {
            sender.end = Some(end);
        }
    }

    /// Compares what waits for the witness.
    pub fn compare(&mut self) -> Result<(), Wrong> {
        let Oracle { order, begin, receivers, .. } = self;
        let mut all = receivers.iter_mut().filter(|(_, receiver)| !receiver.waiting.is_empty());
        all.try_for_each(|(process, receiver)| receiver.compare(*process, order, *begin))?;
        receivers.retain(|_, receiver| !receiver.has_ended || !receiver.waiting.is_empty());
        Ok(())
    }

    /// Returns what some process has not received, though it must.
    pub fn missing(&self, brokers: &[Instant]) -> Option<Wrong> {
        let lacks = |(process, sender): (&u32, &Sender)| {
            let left = sender.sent.saturating_sub(sender.received);
            (left > 0 && !sender.may_lose(brokers))
                .then(|| format!("the last {left} messages of process {process} do not arrive"))
        };
        if let Some(wrong) = self.senders.iter().find_map(lacks) {
            return Some(wrong);
        }
        let end = self.messages();
        self.receivers.iter().find_map(|(process, receiver)| {
            let waiting = receiver.waiting.len();
            if waiting > 0 {
                return Some(format!(
                    "process {process} has received {waiting} messages that the witness has not"
                ));
            }
            let left = end - receiver.at?;
            (left > 0)
                .then(|| format!("process {process} has not received the last {left} messages"))
        })
    }

    /// Judges the senders, once all messages were received. `brokers` are the times when brokers ended.
    pub fn finish(&self, brokers: &[Instant]) -> Result<Totals, Wrong> {
        let mut totals = self.totals;
        for (process, sender) in &self.senders {
            let Sender { received, sent, flushed, end } = *sender;
            totals.senders += 1;
            totals.sent += sent;
            if received < flushed {
                return Err(format!(
                    "process {process} has flushed {flushed} messages, but {received} were received"
                ));
            }
            let lost = sent.saturating_sub(received);
            if lost > 0 && !sender.may_lose(brokers) {
                return Err(format!(
                    "process {process} has sent {sent} messages, but {received} were received, \
                     and no broker ended near its end ({end:?})"
                ));
            }
            totals.lost_beside += lost;
        }
        Ok(totals)
    }

    fn sender(&mut self, process: u32) -> &mut Sender {
        self.senders.entry(process).or_default()
    }

    fn witnessed(&mut self, id: Id) -> Result<(), Wrong> {
        let sender = self.sender(id.sender);
        if id.number != sender.received {
            let what = if id.number < sender.received { "repeated or late" } else { "early" };
            return Err(format!(
                "the witness has received message {} of process {}, but expected {}: it is {what}",
                id.number, id.sender, sender.received
            ));
        }
        sender.received += 1;
        self.order.push_back(id);
        if self.order.len() > KEPT {
            self.order.pop_front();
            self.begin += 1;
        }
        Ok(())
    }

    fn report(&mut self, process: u32, item: Item) -> Result<(), Wrong> {
        let receiver = self.receivers.get_mut(&process);
        let receiver = receiver.ok_or_else(|| format!("process {process} is not known"))?;
        receiver.waiting.push_back(item);
        receiver.compare(process, &self.order, self.begin)
    }
}

impl Receiver {
    /// Compares what it has reported with the order, as far as that is known.
    fn compare(&mut self, process: u32, order: &VecDeque<Id>, begin: u64) -> Result<(), Wrong> {
        let end = begin + order.len() as u64;
        let index = |at: u64| at.checked_sub(begin).map(|at| at as usize);
        while let Some(item) = self.waiting.front() {
            match (item, self.at) {
                (Item::Missed(0), Some(at)) => {
                    (self.at, self.from, self.must_hear) = (None, at, None);
                }
                (Item::Missed(count), Some(at)) => self.at = Some(at + count),
                // Where it was before is not known.
                (Item::Missed(count), None) => {
                    (self.from, self.must_hear) = (self.from + count, None);
                }
                (Item::Got(_), Some(at)) if at >= end => break,
                (Item::Got(id), Some(at)) => {
                    let expected = index(at).and_then(|at| order.get(at));
                    let expected =
                        expected.ok_or_else(|| format!("process {process} is too far behind"))?;
                    if expected != id {
                        return Err(format!(
                            "process {process} has received message {} of process {} at position \
                             {at}, where the witness has received message {} of process {}",
                            id.number, id.sender, expected.number, expected.sender
                        ));
                    }
                    self.at = Some(at + 1);
                }
                (Item::Got(id), None) => {
                    let from = index(self.from).unwrap_or(0);
                    let order = order.range(from.min(order.len())..);
                    let found = order.clone().position(|it| it == id);
                    let passed = order.take(found.unwrap_or(usize::MAX));
                    if let Some(next) = self.must_hear
                        && let Some(lost) = passed.clone().find(|it| it.sender >= next)
                    {
                        return Err(format!(
                            "process {process} has not received message {} of process {}, which was \
                             started after it had joined",
                            lost.number, lost.sender
                        ));
                    }
                    let Some(found) = found else {
                        self.from = self.from.max(end);
                        break;
                    };
                    self.at = Some(begin + (from + found) as u64 + 1);
                }
            }
            self.waiting.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITNESS: u32 = 0;
    const SENDER: u32 = 7;

    fn id(number: u64) -> Id {
        Id { sender: SENDER, number }
    }

    /// An oracle whose witness has received as many messages of one sender, with a second receiver.
    fn oracle(count: u64) -> Oracle {
        let mut oracle = Oracle::new(WITNESS);
        oracle.starts(WITNESS);
        oracle.starts(1);
        oracle.sent(SENDER, count);
        (0..count).for_each(|number| oracle.got(WITNESS, id(number)).unwrap());
        oracle
    }

    fn hear(oracle: &mut Oracle, numbers: &[u64]) -> Result<(), Wrong> {
        numbers.iter().try_for_each(|number| oracle.got(1, id(*number)))
    }

    #[test]
    fn the_same_order_is_right_before_and_behind_the_witness() {
        let mut oracle = oracle(4);
        hear(&mut oracle, &[1, 2, 3, 4, 5]).unwrap();
        assert!(oracle.missing(&[]).is_some());
        (4..6).for_each(|number| oracle.got(WITNESS, id(number)).unwrap());
        oracle.compare().unwrap();
        oracle.sent(SENDER, 6);
        assert_eq!(oracle.missing(&[]), None);
        let totals = oracle.finish(&[]).unwrap();
        assert_eq!((totals.sent, totals.received, totals.lost_beside), (6, 11, 0));
    }

    #[test]
    fn lost_repeated_and_reordered_messages_are_wrong() {
        for numbers in [&[1, 3][..], &[1, 1], &[1, 2, 1], &[2, 1]] {
            assert!(hear(&mut oracle(4), numbers).is_err(), "{numbers:?}");
        }
        for numbers in [&[1][..], &[0, 2], &[0, 0], &[0, 1, 0]] {
            let mut oracle = Oracle::new(WITNESS);
            let all = numbers.iter().try_for_each(|number| oracle.got(WITNESS, id(*number)));
            assert!(all.is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn a_gap_must_have_the_number_that_was_reported() {
        for (missed, is_right) in [(1, false), (2, true), (3, false), (0, true)] {
            let mut oracle = oracle(6);
            hear(&mut oracle, &[0, 1]).unwrap();
            oracle.missed(1, missed).unwrap();
            assert_eq!(hear(&mut oracle, &[4, 5]).is_ok(), is_right, "{missed}");
        }
        assert!(oracle(1).missed(WITNESS, 1).is_err());
    }

    #[test]
    fn what_a_receiver_or_the_witness_lacks_at_the_end_is_missing() {
        let mut oracle = oracle(4);
        assert_eq!(oracle.missing(&[]), None);
        hear(&mut oracle, &[1, 2]).unwrap();
        assert!(oracle.missing(&[]).unwrap().starts_with("process 1 has not received the last 1"));
        oracle.ended(1, End::Left);
        assert_eq!(oracle.missing(&[]), None);
        oracle.flushed(SENDER, 6);
        assert!(oracle.missing(&[]).unwrap().starts_with("the last 2 messages of process 7"));
    }

    #[test]
    fn what_only_a_receiver_has_got_is_missing_also_when_it_has_ended() {
        let mut oracle = oracle(4);
        hear(&mut oracle, &[2, 3, 4]).unwrap();
        oracle.ended(1, End::Left);
        oracle.compare().unwrap();
        assert!(oracle.missing(&[]).unwrap().contains("1 messages that the witness has not"));
        oracle.got(WITNESS, Id { sender: 8, number: 0 }).unwrap();
        assert!(oracle.compare().is_err());
    }

    #[test]
    fn a_receiver_gets_all_of_a_sender_that_was_started_after_it_had_joined() {
        for (next, is_right) in [(SENDER + 1, true), (SENDER, false)] {
            let mut oracle = oracle(0);
            oracle.joined(1, next);
            (0..3).for_each(|number| oracle.got(WITNESS, id(number)).unwrap());
            assert_eq!(hear(&mut oracle, &[1, 2]).is_ok(), is_right);
        }
    }

    #[test]
    fn only_a_sender_that_is_killed_beside_a_broker_may_lose_what_it_has_not_flushed() {
        let now = Instant::now();
        let killed = End::Killed(now);
        let long_ago = now - 2 * BESIDE;
        for (end, flushed, brokers, is_right) in [
            (Some(End::Left), 3, &[now][..], false),
            (None, 3, &[now], false),
            (Some(killed), 3, &[], false),
            (Some(killed), 3, &[long_ago], false),
            (Some(killed), 3, &[long_ago, now], true),
            (Some(killed), 4, &[now], true),
            (Some(killed), 5, &[now], false),
        ] {
            let mut oracle = oracle(4);
            oracle.flushed(SENDER, flushed);
            oracle.sent(SENDER, 5);
            end.into_iter().for_each(|end| oracle.ended(SENDER, end));
            assert_eq!(oracle.finish(brokers).is_ok(), is_right, "{end:?} {flushed} {brokers:?}");
        }
    }
}

//! What must never happen, and what must hold when no process can do anything.

use super::moves::has_place;
use super::state::*;
use crate::protocol::Violation;
use crate::state::Id;

fn violation(promise: u8, why: &str) -> Option<Violation> {
    Some(Violation { promise, why: why.into() })
}

/// Returns the harm done by what is published, if any: each client's messages come once and in
/// order, in all chains together.
pub fn harm(bus: &Bus) -> Option<Violation> {
    for id in bus.ids() {
        let mut next = 0;
        for number in published(bus, id) {
            if number < next {
                return violation(3, "a message was published twice, or out of order");
            }
            if (next..number).any(|lost| !bus.client(id).dropped.has(lost)) {
                return violation(3, "a message was lost, and a later one was not");
            }
            next = number + 1;
        }
    }
    None
}

fn published(bus: &Bus, id: Id) -> impl Iterator<Item = u8> {
    let logs = bus.brokers.iter().flat_map(|broker| &broker.log);
    logs.filter(move |(from, _)| *from == id).map(|(_, number)| *number)
}

/// Returns what is still to be done, or was lost, when no process will do anything any more.
pub fn unmet(bus: &Bus) -> Option<Violation> {
    bus.ids().find_map(|id| undelivered(bus, id).or_else(|| missed(bus, bus.client(id))))
}

fn undelivered(bus: &Bus, id: Id) -> Option<Violation> {
    let client = bus.client(id);
    if client.link == Link::Over {
        let why = "a client that no broker disconnected has ended";
        return if client.was_cut { None } else { violation(5, why) };
    }
    let has_place = bus.last().waits_for.has(id) || has_place(bus, id);
    if client.lives && client.link != Link::Member(bus.epoch()) {
        // There are too many clients. It reports that.
        if !bus.is_known(id) && !has_place {
            return None;
        }
        return violation(10, "a client waits for a broker for ever");
    }
    // A message is lost with its sender and the broker that had its chain. A broker drops what a
    // client has sent that it disconnects.
    let is_cut = matches!(client.link, Link::Cut(_));
    let has_judge = client.judge > 0 && bus.broker(client.judge).lives && !is_cut;
    let is_out = |number: u8| published(bus, id).any(|it| it == number);
    let is_due = |number: &u8| !client.dropped.has(*number) && !is_out(*number);
    if (client.lives || has_judge) && (0..client.sent).any(|number| is_due(&number)) {
        return violation(4, "a committed message was never published");
    }
    None
}

/// Returns whether a client misses messages without being told, or is told without a reason.
fn missed(bus: &Bus, client: &Client) -> Option<Violation> {
    if !client.lives || !client.receives {
        return None;
    }
    let begins = client.segments.iter().position(Option::is_some)?;
    let mut is_missing = false;
    for (broker, segment) in bus.brokers.iter().zip(&client.segments).skip(begins + 1) {
        let Some(segment) = segment else {
            is_missing |= !broker.log.is_empty();
            continue;
        };
        is_missing |= segment.from > 0;
        if is_missing && !segment.has_gap {
            return violation(3, "a receiver misses messages and is not told");
        }
        if segment.has_gap && !client.was_late && !client.was_cut {
            return violation(3, "a receiver that came in time is told of a gap");
        }
        is_missing = false;
    }
    None
}

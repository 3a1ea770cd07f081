//! What must never happen, whatever the rules say, and what must hold when no process has anything
//! to do.
//!
//! [`harm`] does not know the rules in [`protocol`](crate::protocol). It examines memory and the
//! positions of the readers. So a program that breaks a rule is detected by the harm it does, and
//! not by the rule.

use crate::protocol::Violation;
use crate::state::*;

fn violation(promise: u8, why: &str) -> Option<Violation> {
    Some(Violation { promise, why: why.into() })
}

/// Returns the harm done, if any.
pub fn harm(bus: &Bus) -> Option<Violation> {
    for held in &bus.held {
        if bus.process(held.from).is_hostile || !bus.is_unread(held) {
            continue;
        }
        if bus.foreign_page(held.foreign_page).is_none() {
            return violation(8, "a page was taken back that receivers have still to read");
        }
        let Held { from, number, foreign_page, at, .. } = *held;
        if !bus.stands(Word::Reference { from, number, units: 0, foreign_page, at }) {
            return violation(8, "a page was written again to which a message refers");
        }
    }
    for removed in &bus.removed {
        if removed.is_deceived {
            return violation(8, "a removed receiver takes bytes for a message that were not sent");
        }
        if removed.reader.has_in_hand && !bus.is_as_found(removed) {
            return violation(8, "a page was written again that a removed receiver reads in place");
        }
        if removed.kept.max(removed.kept_foreign) > bus.sizes.budget {
            return violation(6, "a removed receiver keeps more than a budget");
        }
    }
    if bus.foreign_pages.iter().map(|foreign_page| foreign_page.len).sum::<u32>() > bus.sizes.budget
    {
        return violation(6, "foreign pages exceed the budget");
    }
    for id in bus.ids().filter(|id| !bus.process(*id).is_hostile) {
        let chain = bus.chain(id);
        if chain.len() > bus.sizes.budget {
            return violation(6, "a chain takes more memory than its budget");
        }
        let taken = chain.reader(BROKER).filter(|reader| reader.cursor == reader.place.position);
        if taken.is_some_and(|reader| id != BROADCAST && reader.next > chain.forwarded) {
            return violation(3, "what was given up was not sent on, and may be lost");
        }
        for reader in &chain.readers {
            // A dead or hostile reader may see anything.
            if !bus.lives(reader.by) || bus.process(reader.by).is_hostile {
                continue;
            }
            let Some(word) = chain.word(reader.place) else {
                return violation(8, "a page was written again under its reader");
            };
            if reader.place == chain.tail {
                if word != Word::Zero {
                    return violation(3, "a reader finds what was never committed");
                }
                continue;
            }
            match word {
                Word::Message { .. } | Word::Reference { .. } => {
                    if chain.message(reader.next) != word.message() {
                        return violation(2, "a reader finds another message than the others");
                    }
                    if let Word::Reference { foreign_page, .. } = word
                        && !bus
                            .foreign_page(foreign_page)
                            .is_some_and(|foreign_page| foreign_page.sent.has(reader.by))
                    {
                        return violation(
                            3,
                            "a message refers to a page that its reader does not have",
                        );
                    }
                }
                Word::EndOfPage { next } => {
                    if !chain.page(next).is_some_and(|page| page.sent.has(reader.by)) {
                        return violation(3, "a reader is led to a page that it does not have");
                    }
                }
                Word::Zero => return violation(3, "a committed message can't be found"),
                Word::Other => return violation(8, "a reader finds bytes without meaning"),
            }
        }
    }
    None
}

/// Returns what is still to be done when no process will do anything any more.
pub fn unmet(bus: &Bus) -> Option<Violation> {
    let broker_lives = bus.lives(BROKER);
    // A hostile receiver may never advance. Then the bus waits for it, by its policy.
    let waits_for_hostile = is_held_by_hostile(bus);
    if broker_lives && !waits_for_hostile {
        let passed = bus.chain(BROADCAST).passed_by_all();
        if bus.held.iter().any(|held| bus.is_held_back(held) && held.until <= passed) {
            return violation(9, "what everybody has passed is still held back");
        }
        if bus.foreign_pages.iter().any(|foreign_page| foreign_page.rest.is_some()) {
            return violation(7, "a page is held that its owner has let go of");
        }
    }
    if !bus.removed.is_empty() {
        return violation(10, "it was removed or skipped, and does not find out");
    }
    if broker_lives && bus.processes.iter().any(|process| process.asks) {
        return violation(10, "it asked to receive again, and is not admitted");
    }
    for id in bus.ids().filter(|id| !bus.process(*id).is_hostile) {
        let chain = bus.chain(id);
        for reader in chain.readers.iter().filter(|reader| bus.lives(reader.by)) {
            let is_done = reader.place == chain.tail || bus.process(reader.by).is_hostile;
            let is_held = waits_for_hostile && reader.by == BROKER;
            if !is_done && !is_held {
                return violation(10, "it sleeps, and a message for it is there");
            }
        }
        if !broker_lives || id == BROKER || waits_for_hostile {
            continue;
        }
        if chain.forwarded != chain.published {
            let promise = if bus.lives(id) { 3 } else { 4 };
            return violation(promise, "a committed message was never sent on");
        }
        if !bus.lives(id) && (chain.is_open() || bus.chain(BROADCAST).reader(id).is_some()) {
            return violation(7, "memory of a dead process is held");
        }
    }
    None
}

/// Returns whether a hostile receiver holds the pages of the broadcast chain.
pub fn is_held_by_hostile(bus: &Bus) -> bool {
    let chain = bus.chain(BROADCAST);
    let hostiles = chain.readers.iter().filter(|r| bus.lives(r.by) && bus.process(r.by).is_hostile);
    hostiles.into_iter().any(|hostile| {
        let mut others = chain.pages.iter().filter(|page| page.id != chain.tail.page);
        bus.held.iter().any(|held| held.until > hostile.seen)
            || others.any(|page| page.end().is_some_and(|end| end > hostile.seen))
    })
}

//! The steps that are taken together, and why nothing is lost by it.
//!
//! A *fine* model takes every step separately, as [`client`](crate::client) and
//! [`broker`](crate::broker) define them. It has several times the states, so the larger buses are
//! *coarse*. There a process continues at once
//!
//! * **after an invisible step**: writing beyond the tail, passing a message, deciding.
//! * **after a step whose result stays true**: a found message is there until its reader releases
//!   it, and a page that all have left stays left. Finding it later makes no difference.
//! * **from one client to the next**: the broker handles one client's words and then the other's.
//!   Clients share no word with each other, so whatever they do in between can be ordered
//!   differently: first the second client's part, then the broker's, then the first's.
//! * **from seeing a sleeping peer to ringing it, and from waking to clearing the parked word.**
//!   This alone loses runs: those in which a ring arrives so late that it wakes for nothing. The
//!   fine models have them.
//! * **from a read to the load of the member word** of a receiver that may be removed: from the end
//!   of a copy, or, in place, from the commit word. The word of a removed
//!   receiver stays as it is, until that receiver itself asks to receive again. So if the removal
//!   comes in between, the receiver acts as if it had come earlier.
//!
//! A message that can be received is received before anything else happens, because it is found
//! unchanged at any later time. A message by reference is different: the model must show that its
//! client's page does not change until then. So receiving it is a step of its own.
//!
//! Deaths are not merged: a process can die after any of the accesses that are taken together
//! ([`Move::Death`](crate::explore::Move)).
//!
//! [`settle`] forgets what no process can ever read again, in both kinds of models.

use crate::broker::{self, Blocked};
use crate::client;
use crate::reading::{Reads, is_reading};
use crate::run::{Run, Setup};
use crate::state::*;
use smallvec::SmallVec;

/// Returns whether a client at `pc` continues at once.
pub fn client_goes_on(run: &Run, id: Id) -> bool {
    match run.clients[usize::from(id) - 1].pc {
        client::Pc::Written(_) | client::Pc::Ringing { .. } | client::Pc::Waking => true,
        client::Pc::Going => finds_message(run, id),
        client::Pc::Copied => true,
        client::Pc::Found => run.removal == Some(Reads::InPlace),
        _ => false,
    }
}

/// Returns whether a client that continues would find a message that is neither by reference nor
/// the end of a page.
pub fn finds_message(run: &Run, id: Id) -> bool {
    let chain = run.bus.chain(BROADCAST);
    let place = chain.reader(id).map(|reader| reader.place);
    let is_message = |place| matches!(chain.word(place), Some(Word::Message { .. }));
    !run.may_be_removed(id)
        && run.bus.lives(id)
        && run.clients[usize::from(id) - 1].pc == client::Pc::Going
        && place.is_some_and(is_message)
}

/// Returns whether the broker, which was at `before`, continues at once.
pub fn broker_goes_on(run: &Run, before: broker::Pc) -> bool {
    use broker::Pc::*;
    let me = &run.broker;
    match (before, me.pc) {
        (Taking(a), Taking(b)) => a != b,
        (Asking(..), Asking(..) | Taking(_))
        | (GivingUp(_), GivingUp(_))
        | (LookingAgain(_), LookingAgain(_))
        | (AskingAgain(_), AskingAgain(_))
        | (Returning(_), Returning(_))
        | (Looking, Looking)
        | (_, Ringing | Waking) => true,
        (_, Finishing) => me.worked && me.blocked != Blocked::NeedsPage,
        (_, Draining) => before == Finishing && nothing_to_drain(run),
        (Draining, Taking(_) | Returning(_)) => nothing_to_drain(run),
        _ => false,
    }
}

/// Returns whether no client has come or gone since the broker last checked.
fn nothing_to_drain(run: &Run) -> bool {
    run.bus.ids().skip(1).all(|id| {
        let is_known = run.bus.chain(BROADCAST).reader(id).is_some();
        match run.bus.process(id).life {
            Life::Lives => {
                let Process { is_skipped, asks, .. } = *run.bus.process(id);
                is_known || run.bus.chain(id).is_orphan || is_skipped && !asks
            }
            Life::Ended => !run.bus.chain(id).is_open(),
            Life::Unborn => true,
        }
    })
}

/// Forgets what no process can ever read again. States that differ in nothing else become one.
pub fn settle(setup: &Setup, run: &mut Run) {
    for (i, me) in run.clients.iter().enumerate() {
        // Before it parks it reads everything in its socket.
        let will_drain = match me.pc {
            client::Pc::Looking { to_sleep } | client::Pc::Ringing { to_sleep } => !to_sleep,
            client::Pc::Going | client::Pc::Written(_) => true,
            _ if is_reading(me) => true,
            client::Pc::Turned | client::Pc::Drowsy | client::Pc::Over => true,
            client::Pc::Rejoining => true,
            _ => false,
        };
        if will_drain {
            run.bus.process_mut(i as Id + 1).bell = false;
        }
    }
    let is_asking = matches!(
        run.broker.pc,
        broker::Pc::Asking(..) | broker::Pc::AskingAgain(_) | broker::Pc::Returning(_)
    );
    settle_foreign_pages(run);
    let by_ref = setup.by_ref && run.broker.run.is_some();
    let has_found = |by: Id| {
        let me = usize::from(by).checked_sub(1).and_then(|by| run.clients.get(by));
        me.is_some_and(is_reading)
    };
    let removed = places_of_removed(&run.bus);
    let Bus { processes, chains, held, .. } = &mut run.bus;
    for (i, chain) in chains.iter_mut().enumerate() {
        let lives = |reader: &&Reader| processes[usize::from(reader.by)].life == Life::Lives;
        // Messages by reference in the broker's pending batch are not visible to any receiver yet.
        let is_by_ref = |by| by_ref && by == BROKER && i > 0;
        let place = |r: &Reader| if is_by_ref(r.by) { r.cursor } else { r.place.position };
        let readers = chain.readers.iter().filter(lives).map(place);
        let referenced = held.iter().filter(|held| usize::from(held.from) == i);
        let removed = removed.iter().filter(|(id, _)| usize::from(*id) == i);
        let kept =
            referenced.map(|held| held.position).chain(removed.map(|(_, position)| *position));
        let first = readers.chain(kept).min();
        let first = first.unwrap_or(chain.tail.position);
        for page in &mut chain.pages {
            let Some((base, _)) = page.header else { continue };
            let read = first.saturating_sub(base).min(page.len) as usize;
            page.words[..read].fill(Word::Other);
        }
        // A faulty client is bound by its earlier values, and what a process is reading is still
        // needed.
        if setup.has_faults > 0 || is_asking {
            continue;
        }
        for reader in &mut chain.readers {
            // A sender reads the cursor again before it decides anything, and a reader polls again.
            // A reader without a stored cursor is where it was admitted, and so beyond earlier
            // messages by reference.
            if !(setup.by_ref && reader.cursor == 0) {
                reader.seen = 0;
            }
            if i > 0 || !has_found(reader.by) {
                reader.found = None;
            }
        }
    }
}

/// Returns where removed receivers read while nothing has changed there: chain and position.
fn places_of_removed(bus: &Bus) -> SmallVec<[(Id, u32); 2]> {
    let mut places = SmallVec::new();
    for removed in &bus.removed {
        let place = removed.reader.place;
        if bus.chain(BROADCAST).word(place).is_some() {
            places.push((BROADCAST, place.position));
        }
        let reference = removed.reference.and_then(|(of, page, at)| {
            let (base, _) = bus.chain(of).page(page)?.header?;
            Some((of, base + u32::from(at)))
        });
        places.extend(reference);
    }
    places
}

/// Settles foreign pages.
fn settle_foreign_pages(run: &mut Run) {
    let bus = &mut run.bus;
    if bus.foreign_pages.is_empty() {
        return;
    }
    bus.forget_released_pages();
    let Bus { processes, chains, foreign_pages, held, .. } = bus;
    let broker_lives = processes[usize::from(BROKER)].life == Life::Lives;
    // Without the broker no process asks what can be released.
    foreign_pages.retain(|foreign_page| {
        broker_lives || held.iter().any(|held| held.foreign_page == foreign_page.id)
    });
    let passed = chains[usize::from(BROADCAST)].readers.iter().map(|reader| reader.cursor).min();
    for foreign_page in foreign_pages.iter_mut() {
        if foreign_page.until <= passed.unwrap_or(u32::MAX) {
            foreign_page.until = 0;
        }
        if let Some(page) = &mut foreign_page.rest {
            for (unit, word) in page.words.iter_mut().enumerate() {
                let is_by_ref = |held: &Held| {
                    held.foreign_page == foreign_page.id && usize::from(held.at) == unit
                };
                if !held.iter().any(is_by_ref) {
                    *word = Word::Other;
                }
            }
        }
    }
}

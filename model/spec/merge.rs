//! Which steps are taken together, and why nothing is lost by it.
//!
//! A *fine* model takes every step alone, as [`client`](crate::client) and
//! [`broker`](crate::broker) cut them. It has several times the states, so that the larger buses
//! are *coarse*. There a process goes straight on
//!
//! * **after what nobody sees**: writing beyond the tail, passing a message, deciding;
//! * **after what stays true**: a message that was found is there until its reader gives it up,
//!   and a page that all have left stays left. To find it later makes no difference;
//! * **from one client to the next**: what the broker does with one client's words and then with
//!   the other's. Clients share no word with each other, so whatever they do in between can be
//!   told in another order: first the second client's part, then the broker's, then the first's;
//! * **from seeing that somebody sleeps to ringing, and from being woken to clearing the parked
//!   word.** This alone loses runs: those in which a ring arrives so late that it wakes for
//!   nothing. The fine models have them;
//! * **from a read to the look at the member word** of a receiver that may be struck: from the end of a
//!   copy, or, in place, from the commit word. A word that is zero stays zero. So where the strike comes
//!   in between, the receiver does what it does where the strike came before.
//!
//! A message that can be received is received before anything else happens, as it is found the
//! same at any later time. Not so one that is lent: that its client's page stays as it is until
//! then is what is to be shown, and so to receive it is a step of its own.
//!
//! Death takes no part in this: who dies does so after any of the accesses that are taken
//! together ([`Move::Death`](crate::explore::Move)).
//!
//! [`settle`] forgets what nobody can ever read again, in both.

use crate::broker::{self, Blocked};
use crate::client;
use crate::reading::{Reads, is_reading};
use crate::run::{Run, Setup};
use crate::state::*;
use smallvec::SmallVec;

/// Whether a client at `pc` goes straight on.
pub fn client_goes_on(run: &Run, id: Id) -> bool {
    match run.clients[usize::from(id) - 1].pc {
        client::Pc::Written(_) | client::Pc::Ringing { .. } | client::Pc::Waking => true,
        client::Pc::Going => finds_message(run, id),
        client::Pc::Copied => true,
        client::Pc::Found => run.strikes == Some(Reads::InPlace),
        _ => false,
    }
}

/// Whether a client that goes on would find a message that is not lent, and not the end of a page.
pub fn finds_message(run: &Run, id: Id) -> bool {
    let chain = run.bus.chain(BROADCAST);
    let place = chain.reader(id).map(|reader| reader.place);
    let is_message = |place| matches!(chain.word(place), Some(Word::Message { .. }));
    !run.may_be_struck(id)
        && run.bus.lives(id)
        && run.clients[usize::from(id) - 1].pc == client::Pc::Going
        && place.is_some_and(is_message)
}

/// Whether the broker, which was at `before`, goes straight on.
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

/// Nobody has come or gone since the broker looked.
fn nothing_to_drain(run: &Run) -> bool {
    run.bus.ids().skip(1).all(|id| {
        let is_known = run.bus.chain(BROADCAST).reader(id).is_some();
        match run.bus.process(id).life {
            Life::Lives => is_known || run.bus.chain(id).is_orphan,
            Life::Ended => !run.bus.chain(id).is_open(),
            Life::Unborn => true,
        }
    })
}

/// Forgets what nobody can ever read again, so that states which differ in nothing else are one.
pub fn settle(setup: &Setup, run: &mut Run) {
    for (i, me) in run.clients.iter().enumerate() {
        // Before it parks it takes in whatever its socket holds.
        let will_drain = match me.pc {
            client::Pc::Looking { to_sleep } | client::Pc::Ringing { to_sleep } => !to_sleep,
            client::Pc::Going | client::Pc::Written(_) => true,
            _ if is_reading(me) => true,
            client::Pc::Turned | client::Pc::Drowsy | client::Pc::Over => true,
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
    let struck = places_of_struck(&run.bus);
    let Bus { processes, chains, held, .. } = &mut run.bus;
    for (i, chain) in chains.iter_mut().enumerate() {
        let lives = |reader: &&Reader| processes[usize::from(reader.by)].life == Life::Lives;
        // What the broker lends in its run is nobody's yet.
        let is_lent = |by| by_ref && by == BROKER && i > 0;
        let place = |r: &Reader| if is_lent(r.by) { r.cursor } else { r.place.position };
        let readers = chain.readers.iter().filter(lives).map(place);
        let lent = held.iter().filter(|held| usize::from(held.from) == i);
        let struck = struck.iter().filter(|(id, _)| usize::from(*id) == i);
        let kept = lent.map(|held| held.position).chain(struck.map(|(_, position)| *position));
        let first = readers.chain(kept).min();
        let first = first.unwrap_or(chain.tail.position);
        for page in &mut chain.pages {
            let Some((base, _)) = page.header else { continue };
            let read = first.saturating_sub(base).min(page.len) as usize;
            page.words[..read].fill(Word::Other);
        }
        // What a liar said first binds it; what is being asked is still needed.
        if setup.has_faults > 0 || is_asking {
            continue;
        }
        for reader in &mut chain.readers {
            // A sender asks again before it decides anything, a reader looks again. Who has said
            // nothing yet is where it was admitted, and so beyond what was lent before.
            if !(setup.by_ref && reader.cursor == 0) {
                reader.seen = 0;
            }
            if i > 0 || !has_found(reader.by) {
                reader.found = None;
            }
        }
    }
}

/// Where those read that were struck, as long as nothing has changed there: chain and position.
fn places_of_struck(bus: &Bus) -> SmallVec<[(Id, u32); 2]> {
    let mut places = SmallVec::new();
    for struck in &bus.struck {
        let place = struck.reader.place;
        if bus.chain(BROADCAST).word(place).is_some() {
            places.push((BROADCAST, place.position));
        }
        let lent = struck.lent.and_then(|(of, page, at)| {
            let (base, _) = bus.chain(of).page(page)?.header?;
            Some((of, base + u32::from(at)))
        });
        places.extend(lent);
    }
    places
}

/// The same of what is lent.
fn settle_foreign_pages(run: &mut Run) {
    let bus = &mut run.bus;
    if bus.foreign_pages.is_empty() {
        return;
    }
    bus.forget_released_pages();
    let Bus { processes, chains, foreign_pages, held, .. } = bus;
    let broker_lives = processes[usize::from(BROKER)].life == Life::Lives;
    // With the broker go all who ask what they may take back.
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
                let is_lent = |held: &Held| {
                    held.foreign_page == foreign_page.id && usize::from(held.at) == unit
                };
                if !held.iter().any(is_lent) {
                    *word = Word::Other;
                }
            }
        }
    }
}

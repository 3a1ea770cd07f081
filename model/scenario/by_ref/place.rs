//! A client's entry in the broker's control region that is given to another client. The broker has
//! removed the first client, whose process still runs and sends.

use super::{COPIED, Client, Lives, RECEIVER, SENDER, refer_to};
use crate::scenario::chain::{PAYLOAD, payload};
use crate::scenario::doubles::CrashBudget;
use crate::scenario::{Runtime, Who};
use llmp::ClientId;
use llmp::core::chain::Event;
use llmp::core::wire::Roles;

/// The client that gets the entry.
const NEXT: Who = 3;

/// A receiver reads in place in the first client's pages, and is removed. So these are retired, until
/// the broker resets the word that says so. [P8]
pub fn removed_reader<R: Runtime>(runtime: &R) {
    let receives = Roles::RECEIVE.and(Roles::IN_PLACE);
    given(&runtime.racing(false), COPIED, receives, 3);
}

/// A receiver reads by reference in the first client's page. The broker's cursor in the chain of the
/// next client passes the position after that page. [P3 P8]
pub fn reader<R: Runtime>(runtime: &R) {
    given(runtime, 1, Roles::RECEIVE, 4);
}

/// The receiver reads its message to the end of the run, in the broker's thread. loom reports a write
/// meanwhile as a race, whichever comes first. The next client sends `messages`.
fn given<R: Runtime>(runtime: &R, referred: u64, receives: Roles, messages: u64) {
    let (mut sender, mut broker, mut receiver) =
        refer_to(runtime, referred, &Lives::endless(), receives).unwrap();
    let in_place = receives.has(Roles::IN_PLACE);
    receiver.take_in();
    let inbound = receiver.link.inbound_mut().unwrap();
    let Ok(Event::Message(slot)) = inbound.poll() else { panic!("it was sent before") };
    assert!(inbound.is_member());
    let sends = runtime.spawn(move || {
        sender.send();
        if in_place {
            return;
        }
        sender.send();
        // One page is free. The receiver reads in the other one.
        assert!(sender.next <= COPIED + referred + 1, "it writes what is still read");
        let is_consumed = sender.link.outbound_mut().unwrap().is_consumed();
        assert!(!is_consumed || sender.next == COPIED + referred, "no process has read it");
    });
    if in_place {
        broker.core.end_membership(ClientId(RECEIVER.into()));
        broker.cycle();
    }
    broker.core.disconnect(ClientId(SENDER.into()), None);
    broker.core.set_zero_copy_threshold(usize::MAX);
    let mut next = broker.admit(NEXT, &CrashBudget::endless(), Roles::SEND).unwrap();
    for _ in 0..messages {
        assert!(next.send(), "every page was read");
        assert!(!is_consumed(&mut next), "a word of the client before it");
        while broker.cycle() {}
        assert!(is_consumed(&mut next));
    }
    assert_eq!(next.pages, 2, "its pages are not retired");
    let mut copy = [0; PAYLOAD];
    inbound.read(&slot, &mut copy);
    assert_eq!(copy, payload(receiver.next), "written while it is read");
    sends();
}

fn is_consumed<R: Runtime>(client: &mut Client<R>) -> bool {
    let outbound = client.link.outbound_mut().unwrap();
    let is_consumed = outbound.is_consumed();
    assert_eq!(outbound.take_fault(), None, "an honest broker");
    is_consumed
}

use super::*;
use crate::core::chain::{Announcement, Event};
use crate::core::layout::{control_bytes, control_len};
use crate::core::memory::Region;
use crate::core::message::Envelope;

const BOTH: Roles = Roles(Roles::SEND.0 | Roles::RECEIVE.0);

fn limits() -> Limits {
    Limits::new(192, 64, Limits::least_budget(192, 64)).unwrap()
}

fn control() -> Region {
    Region::heap(control_len(1))
}

fn page() -> Region {
    Region::heap(limits().page_len())
}

fn core() -> Core<Region> {
    Core::new(limits(), Region::heap(control_bytes(2)), 2, page())
}

/// Attaches this region, as the kernel would.
fn attach(region: &Region) -> impl FnOnce(Attach<'_>) -> Result<Region, Fault> {
    let region = region.clone();
    move |_| Ok(region)
}

/// A packet brings no region that may be attached.
fn never(_: Attach<'_>) -> Result<Region, Fault> {
    panic!("attached before the packet was checked")
}

fn welcomed(roles: Roles, core: &mut Core<Region>) -> (Accepting, Welcomed<Region>) {
    let (mut accepting, connecting) = (Accepting::default(), Connecting::new(roles, 16));
    let welcome = accepting.greet(connecting.hello(), Roles(15), 7, core).unwrap();
    let welcomed = connecting.take(welcome, attach(core.control())).unwrap();
    assert_eq!(accepting.phase, Phase::Greeted(welcomed.client));
    (accepting, welcomed)
}

/// Joins up to `Start`, which is returned with the broker's pages announced.
fn joining(roles: Roles, core: &mut Core<Region>) -> (Accepting, Joining<Region>, Packet) {
    let (mut accepting, welcomed) = welcomed(roles, core);
    let client = welcomed.client;
    let mut joining = welcomed.join(control());
    let start = accepting.join(client, Packet::Join, attach(joining.control()), core).unwrap();
    assert_eq!(accepting.phase, Phase::Joined(client));
    while let Some(announcement) = core.announcement(client) {
        let Announcement::Page(id) = announcement else { panic!("nothing is forgotten") };
        let done = joining.take(Packet::Page { id }, attach(core.page(id).unwrap()));
        assert!(done.unwrap().is_none());
        core.mark_sent(client);
    }
    (accepting, joining, start)
}

#[test]
fn a_client_joins_a_broker_and_receives_what_it_sends() {
    let mut core = core();
    let (accepting, mut joining, start) = joining(BOTH, &mut core);
    assert_eq!(joining.first_page_len(), Some(192));
    let first = page();
    assert_eq!(joining.begin_chain(first.clone()), Packet::Page { id: 0 });
    for news in [Packet::Ring, Packet::ReceiverCount { receivers: 1 }] {
        assert!(joining.take(news, never).unwrap().is_none());
    }
    let mut joined = joining.take(start, never).unwrap().expect("this was the start");
    assert_eq!((joined.broker, joined.receivers), (7, Some(1)));
    assert_eq!(accepting.client(), Some(joined.client));
    assert_eq!(joined.link.announcement(), None, "the first page was sent");
    core.page_arrived(joined.client, 0, first).unwrap();
    joined.link.send(Envelope::tagged(3), b"to myself").unwrap();
    core.cycle();
    let (Event::Message(slot), _) = joined.link.poll().unwrap() else { panic!("no message") };
    assert_eq!(joined.link.inbound().unwrap().envelope(&slot).sender, joined.client);
}

#[test]
fn a_sender_joins_a_channel_with_its_first_page() {
    let connecting = Connecting::new(Roles::SEND, 16);
    Receiving::<Region>::hello(&connecting.hello()).unwrap();
    let (mut receiving, welcome) = Receiving::welcome(control(), limits());
    let welcomed = connecting.take(welcome, attach(receiving.control())).unwrap();
    assert_eq!((welcomed.client, welcomed.broker), (ClientId(1), 0));
    let mut joining = welcomed.join(control());
    assert!(receiving.take(Packet::Join, attach(joining.control())).unwrap().is_none());
    let first = page();
    let packet = joining.begin_chain(first.clone());
    let (mut link, start) = receiving.take(packet, attach(&first)).unwrap().expect("the end");
    let mut joined = joining.take(start, never).unwrap().expect("the start");
    assert!(joined.link.inbound().is_none() && link.outbound().is_none());
    joined.link.send(Envelope::tagged(3), b"over a channel").unwrap();
    assert!(matches!(link.poll(), Ok((Event::Message(_), _))));
}

#[test]
fn a_greeting_that_does_not_fit_is_refused() {
    let (mut core, mut accepting) = (core(), Accepting::default());
    let mut greet = |packet, offered| accepting.greet(packet, offered, 7, &mut core);
    let old = Packet::Hello { version: VERSION + 1, roles: Roles::SEND };
    let version = Refusal::Version { broker: VERSION };
    assert_eq!(greet(old, BOTH), Err(version.into()));
    let hello = |roles| Packet::Hello { version: VERSION, roles };
    assert_eq!(greet(hello(BOTH.and(Roles::TRACK)), BOTH), Err(Refusal::Roles.into()));
    assert!(matches!(greet(Packet::Join, BOTH), Err(Rejected::Fault(Fault::Wire(_)))));
    assert_eq!(accepting.client(), None);
    for roles in [Roles(0), Roles::RECEIVE, BOTH] {
        let refused = Receiving::<Region>::hello(&hello(roles));
        assert_eq!(refused, Err(Refusal::Roles.into()));
    }
    for _ in 0..2 {
        welcomed(BOTH, &mut core);
    }
    let crowded = Accepting::default().greet(hello(BOTH), BOTH, 7, &mut core);
    assert_eq!(crowded, Err(Refusal::Crowded.into()));
}

#[test]
fn a_welcome_that_does_not_fit_ends_the_handshake() {
    let raw = (&limits()).into();
    let welcome = |version, cursor, limits| {
        let (client, broker) = (1, 7);
        Packet::Welcome { version, client, cursor, broker, limits }
    };
    let take = |packet| Connecting::new(BOTH, 16).take(packet, never).unwrap_err();
    let version = Refusal::Version { broker: VERSION + 1 };
    assert_eq!(take(welcome(VERSION + 1, 0, raw)), version.into());
    assert_eq!(take(Packet::Refused(Refusal::User)), Refusal::User.into());
    let small = crate::core::wire::RawLimits { budget: 1, ..raw };
    let fault = take(welcome(VERSION, 0, small));
    assert!(matches!(fault, Rejected::Fault(Fault::Wire(WireError::Limits(_)))), "{fault:?}");
    assert!(matches!(take(Packet::Ring), Rejected::Fault(Fault::Wire(_))));
    let theirs = Control::create(control(), 1).memory().clone();
    let beyond = Connecting::new(BOTH, 16).take(welcome(VERSION, 1000, raw), attach(&theirs));
    assert!(matches!(beyond, Err(Rejected::Fault(Fault::NoCursor { cursor_index: 1000, .. }))));
}

#[test]
fn a_page_before_the_start_is_admitted_once_within_budget() {
    let mut core = core();
    let (_, mut joining, start) = joining(BOTH, &mut core);
    let mut again = |id, len| joining.take(Packet::Page { id }, attach(&Region::heap(len))).err();
    assert_eq!(again(0, 192), Some(Fault::PageTwice { page: 0 }));
    let budget = limits().broadcast_receiver_budget();
    let found = budget + 192;
    assert_eq!(again(1, budget), Some(Fault::OverBudget { found, budget }));
    assert_eq!(again(1, budget - 192), None);
    let unknown = joining.take(Packet::Forget { id: 2 }, never);
    assert!(matches!(unknown, Err(Fault::Wire(_))));
    assert!(joining.take(Packet::Forget { id: 0 }, never).unwrap().is_none());
    let forgotten = joining.take(start, never).unwrap_err();
    assert_eq!(forgotten, Fault::UnknownPage { page: 0, at: 0, next: 0 });
}

#[test]
fn a_client_without_the_receiver_role_is_sent_no_page() {
    let mut core = core();
    let (_, mut joining, start) = joining(Roles::SEND, &mut core);
    assert!(joining.take(Packet::Page { id: 0 }, never).is_err());
    let joined = joining.take(start, never).unwrap().expect("the start");
    assert!(joined.link.inbound().is_none());
}

#[test]
fn a_client_that_is_skipped_before_its_start_takes_what_was_sent_between() {
    let mut core = core();
    let (_, mut joining, start) = joining(BOTH, &mut core);
    assert!(core.skip(ClientId(1)));
    // The chain has gone on, and another message begins in the page.
    core.page(0).unwrap().write_words(0, [0; 2]);
    assert!(joining.take(start, never).unwrap().is_none());
    // The broker had announced that before it skipped the client.
    let more = page();
    assert!(joining.take(Packet::Page { id: 1 }, attach(&more)).unwrap().is_none());
    assert!(joining.take(Packet::Forget { id: 0 }, never).unwrap().is_none());
    assert!(!joining.must_rejoin());
    assert!(joining.take(Packet::Skipped, never).unwrap().is_none());
    assert!(joining.must_rejoin());
    assert!(joining.take(Packet::Forget { id: 1 }, never).is_err());
}

#[test]
fn a_client_removed_before_its_start_learns_that() {
    let mut core = core();
    let (_, mut joining, start) = joining(BOTH, &mut core);
    core.hung_up(ClientId(1));
    // The chain has gone on, and another message begins in the page.
    core.page(0).unwrap().write_words(0, [0; 2]);
    assert_eq!(joining.take(start, never).unwrap_err(), Fault::Removed);
}

#[test]
fn a_join_without_room_for_its_region_is_taken_again() {
    let mut core = core();
    let (mut accepting, welcomed) = welcomed(BOTH, &mut core);
    let client = welcomed.client;
    let joining = welcomed.join(control());
    let source = crate::core::fault::InvalidMemfd::Lack("no memory".into());
    let lack = Fault::Descriptor { what: "a control region", source };
    let failed = accepting.join(client, Packet::Join, |_| Err(lack.clone()), &mut core);
    assert_eq!((failed, accepting.phase), (Err(lack), Phase::Greeted(client)));
    let done = accepting.join(client, Packet::Join, attach(joining.control()), &mut core);
    assert!(matches!(done, Ok(Packet::Start(_))));
}

#[test]
fn a_channel_takes_nothing_out_of_order() {
    let joined = || {
        let (mut receiving, _) = Receiving::welcome(control(), limits());
        let theirs = Control::create(control(), 1).memory().clone();
        receiving.take(Packet::Join, attach(&theirs)).unwrap();
        receiving
    };
    let (mut fresh, _) = Receiving::welcome(control(), limits());
    for packet in [Packet::Page { id: 0 }, Packet::Ring, Packet::Forget { id: 0 }] {
        assert!(matches!(fresh.take(packet, never), Err(Fault::Wire(_))));
    }
    for packet in [Packet::Join, Packet::Ring] {
        assert!(matches!(joined().take(packet, never), Err(Fault::Wire(_))));
    }
    let other = joined().take(Packet::Page { id: 3 }, never).unwrap_err();
    assert_eq!(other, Fault::UnknownPage { page: 0, at: 0, next: 3 });
    let blank = joined().take(Packet::Page { id: 0 }, attach(&page())).unwrap_err();
    assert!(matches!(blank, Fault::PageMagic { .. }));
}

//! Any packets with any regions, against the handshake's states without sockets.
//!
//! The input is that of a hostile session. What production's sockets refuse ends it here, too. A
//! state attaches a region only when a packet may bring one, a client that has not joined leaves
//! nothing behind, and another client joins afterwards.

use super::descriptors::{self, KINDS, limits};
use super::handshake::{BROKER, CHANNEL_RECEIVER, CLIENT};
use super::input::Input;
use super::packets::{LONGEST_PAGE, packet};
use super::regions::heap;
use super::seen::Seen;
use llmp::core::broker::{Action, Core};
use llmp::core::chain::{Announcement, Blocked, Event};
use llmp::core::handshake::{Accepting, Attach, Connecting, Joined, Phase, Receiving, Rejected};
use llmp::core::layout::{OS_PAGE, VERSION, control_len};
use llmp::core::link::Link;
use llmp::core::memory::{Memory, Region};
use llmp::core::wire::{Packet, Roles};
use llmp::{Envelope, Fault, InvalidMemfd, Limits};
use std::collections::BTreeMap;

const BOTH: Roles = Roles(Roles::SEND.0 | Roles::RECEIVE.0);

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let mut input = Input::new(bytes);
    match input.below(4) as u8 {
        CLIENT => hostile_client(&mut input, seen),
        BROKER => hostile_broker(&mut input, BOTH, seen),
        CHANNEL_RECEIVER => hostile_broker(&mut input, Roles::SEND, seen),
        _ => hostile_sender(&mut input, seen),
    }
}

/// Returns the next packet and its region. `None` is the end, as after any invalid packet.
fn next(input: &mut Input, owner: u32) -> Option<(Packet, Option<Region>)> {
    if input.is_over() {
        return None;
    }
    let bytes = packet(input);
    let count = usize::from(input.byte());
    let mut regions = Vec::new();
    for _ in 0..count.min(3) {
        let kind = input.below(KINDS) as u8;
        regions.push(descriptors::region(kind, input, owner));
    }
    let packet = Packet::decode(&bytes, count).ok()?;
    let asks_for_memory =
        matches!(packet, Packet::Welcome { limits, .. } if limits.page_len > LONGEST_PAGE);
    (!asks_for_memory).then(|| (packet, regions.into_iter().next().flatten()))
}

/// Attaches a region as production does: if there is one, and it has the right length. Counts it in
/// `attached`.
fn attach(
    region: Option<Region>,
    attached: &mut usize,
) -> impl FnOnce(Attach<'_>) -> Result<Region, Fault> {
    move |what| {
        *attached += 1;
        let least = match what {
            Attach::Control => control_len(1),
            Attach::Page(limits) => limits.page_len(),
        };
        let region = region.filter(|region| region.region_len() >= least);
        region.ok_or(Fault::Descriptor { what: "a region", source: InvalidMemfd::NoMemfd })
    }
}

fn rejected(rejected: &Rejected, seen: &mut Seen) {
    match rejected {
        Rejected::Refused(_) => seen.mark("states refused"),
        Rejected::Fault(fault) => seen.fault(fault),
    }
}

fn hostile_client(input: &mut Input, seen: &mut Seen) {
    let first = heap(limits().page_len());
    let mut core = Core::new(limits(), heap(control_len(1)), 1, first);
    let mut accepting = Accepting::default();
    while let Some((packet, region)) = next(input, 1) {
        let mut attached = 0;
        let done = match accepting.phase {
            Phase::Fresh => accepting.greet(packet, BOTH, 7, &mut core).map(|welcome| {
                assert!(matches!(welcome, Packet::Welcome { .. }) && BOTH.has(accepting.roles));
            }),
            Phase::Greeted(client) => {
                let attach = attach(region, &mut attached);
                let start = accepting.join(client, packet, attach, &mut core);
                start.map_err(Rejected::from).map(|start| {
                    assert!(matches!(start, Packet::Start(_)));
                    seen.mark("states joined a client");
                })
            }
            Phase::Joined(client) => match (packet, region) {
                (Packet::Page { id }, Some(page)) => core.page_arrived(client, id, page),
                (Packet::Forget { id }, _) => core.page_forgotten(client, id),
                _ => break,
            }
            .map_err(Rejected::from),
        };
        assert!(attached == 0 || packet == Packet::Join);
        if let Err(why) = done {
            rejected(&why, seen);
            break;
        }
        assert_eq!(core.clients(), 1);
        settle(&mut core, 4);
    }
    if let Some(client) = accepting.client() {
        core.hung_up(client);
    }
    settle(&mut core, 1000);
    assert_eq!(core.clients(), 0, "a client is left");
    honest_client(&mut core);
}

/// Lets the broker work for at most that many cycles.
fn settle(core: &mut Core<Region>, cycles: usize) {
    for _ in 0..cycles {
        if let Some(Blocked::NeedPage(len)) = core.cycle().blocked {
            core.add_page(heap(len));
        }
        for action in core.take_actions() {
            if let Action::Drain(client) = action {
                core.drained(client);
            }
        }
        if core.clients() == 0 {
            return;
        }
    }
}

fn honest_client(core: &mut Core<Region>) {
    let (mut accepting, connecting) = (Accepting::default(), Connecting::new(BOTH, OS_PAGE));
    let welcome = accepting.greet(connecting.hello(), BOTH, 7, core).expect("a free place");
    let control = core.control().clone();
    let welcomed = connecting.take(welcome, |_| Ok(control)).expect("an honest broker");
    let client = welcomed.client;
    let mut joining = welcomed.join(heap(control_len(1)));
    let theirs = joining.control().clone();
    let start = accepting.join(client, Packet::Join, |_| Ok(theirs), core);
    let start = start.expect("an honest client");
    let first = heap(limits().page_len());
    joining.begin_chain(first.clone());
    core.page_arrived(client, 0, first).expect("an honest page");
    while let Some(announcement) = core.announcement(client) {
        let (packet, page) = match announcement {
            Announcement::Page(id) => (Packet::Page { id }, core.page(id).cloned()),
            Announcement::Forget(id) => (Packet::Forget { id }, None),
        };
        core.mark_sent(client);
        let taken = joining.take(packet, |_| Ok(page.expect("a page of the pool")));
        assert!(taken.expect("an honest broker").is_none());
    }
    let never = |_: Attach<'_>| -> Result<Region, Fault> { panic!("a start has no region") };
    let joined = joining.take(start, never).expect("an honest start");
    let mut link = joined.expect("the start").link;
    link.send(Envelope::tagged(9), b"after it").expect("an empty chain has room");
    core.cycle();
    let message = (0..4).any(|_| matches!(link.poll(), Ok((Event::Message(_), _))));
    assert!(message, "the bus does not go on");
}

fn hostile_broker(input: &mut Input, roles: Roles, seen: &mut Seen) {
    let connecting = Connecting::new(roles, OS_PAGE);
    let Some((welcome, region)) = next(input, 0) else { return };
    let mut attached = 0;
    let welcomed = match connecting.take(welcome, attach(region, &mut attached)) {
        Ok(welcomed) => welcomed,
        Err(why) => {
            let may = matches!(welcome, Packet::Welcome { version: VERSION, .. });
            assert!(attached == 0 || may);
            return rejected(&why, seen);
        }
    };
    let limits = welcomed.limits;
    let mut joining = welcomed.join(heap(control_len(1)));
    if let Some(len) = joining.first_page_len() {
        assert!(len.is_multiple_of(OS_PAGE));
        joining.begin_chain(heap(len));
    }
    let mut pages = BTreeMap::new();
    while let Some((packet, region)) = next(input, 0) {
        let len = region.as_ref().map_or(0, Region::region_len);
        let mut attached = 0;
        let taken = joining.take(packet, attach(region, &mut attached));
        let may = matches!(packet, Packet::Page { .. }) && roles.has(Roles::RECEIVE);
        assert!(attached == usize::from(may));
        match (taken, packet) {
            (Err(fault), _) => return seen.fault(&fault),
            (Ok(Some(joined)), packet) => {
                assert!(matches!(packet, Packet::Start(_)));
                seen.mark(if may_receive(&joined, roles) {
                    "states joined a broker"
                } else {
                    "states joined a channel"
                });
                return use_link(joined.link, seen);
            }
            (Ok(None), Packet::Page { id }) => {
                assert_eq!(pages.insert(id, len), None, "a page arrived twice");
            }
            (Ok(None), Packet::Forget { id }) => {
                assert!(pages.remove(&id).is_some(), "a page that never arrived was forgotten");
            }
            (Ok(None), _) => {}
        }
        let longest = Limits::least_budget(limits.page_len(), limits.max_message_len()) / 2;
        let most = limits.budget().saturating_mul(2).saturating_add(longest);
        assert!(pages.values().sum::<usize>() <= most, "more pages than the budget admits");
    }
}

fn may_receive(joined: &Joined<Region>, roles: Roles) -> bool {
    let receives = joined.link.inbound().is_some();
    assert_eq!(receives, roles.has(Roles::RECEIVE));
    receives
}

fn hostile_sender(input: &mut Input, seen: &mut Seen) {
    let Some((hello, _)) = next(input, 1) else { return };
    if let Err(why) = Receiving::<Region>::hello(&hello) {
        return rejected(&why, seen);
    }
    let (mut receiving, _) = Receiving::welcome(heap(control_len(1)), Limits::default());
    while let Some((packet, region)) = next(input, 1) {
        let mut attached = 0;
        let taken = receiving.take(packet, attach(region, &mut attached));
        let may = matches!(packet, Packet::Join | Packet::Page { id: 0 });
        assert!(attached == 0 || may);
        match taken {
            Ok(None) => {}
            Ok(Some((link, start))) => {
                assert!(matches!(start, Packet::Start(_)));
                seen.mark("states received a sender");
                return use_link(link, seen);
            }
            Err(fault) => return seen.fault(&fault),
        }
    }
}

/// Uses an end of a connection whose peer is hostile.
fn use_link(mut link: Link<Region>, seen: &mut Seen) {
    for _ in 0..64 {
        if link.outbound().is_some() {
            let _ = link.send(Envelope::tagged(1), &[0; 100]);
        }
        match link.poll() {
            Ok((Event::Message(slot), _)) => {
                if let Some(inbound) = link.inbound_mut() {
                    let mut payload = vec![0; slot.payload_len()];
                    inbound.read(&slot, &mut payload);
                    inbound.advance(&slot);
                }
            }
            Ok((Event::PageAdvanced, _)) => {}
            Ok((Event::Empty | Event::Unknown(_), _)) => return,
            Err(fault) => return seen.fault(&fault),
        }
    }
}

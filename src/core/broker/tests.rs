//! Decisions of the broker's core, on heap memory.

use super::*;
use crate::core::broker::Reserved;
use crate::core::broker::hook::Verdict;
use crate::core::chain::ChainReader;
use crate::core::chain::{Blocked, FIRST_PAGE, Refused};
use crate::core::layout::*;
use crate::core::memory::Region;
use crate::core::message::Message;
use crate::core::order::Site;
use crate::core::wire::Roles;

fn core() -> Core<Region> {
    let limits = Limits::new(256, 64, 4096).unwrap();
    Core::new(limits, Region::heap(control_len(4)), 4, Region::heap(256))
}

fn join(core: &mut Core<Region>, roles: Roles) -> ClientId {
    let Reserved { client, .. } = core.reserve(roles).unwrap();
    let control = Control::create(Region::heap(control_len(1)), 1);
    core.join(client, control.memory().clone()).unwrap();
    client
}

/// Writes a page that holds nothing but its end-of-page message.
fn only_an_end(page: &Region, id: u32, base: u64) {
    let version = halves(VERSION, PAGE_HEADER as u32);
    page.write_words(0, [PAGE_MAGIC, version, 256, halves(id, 1), base, 0]);
    let end = commit_word(0, KIND_EOP, 0, 0);
    page.write_words(PAGE_HEADER, [end, halves(1 - id, 0)]);
}

#[test]
fn a_gone_client_with_endless_page_rollovers_is_removed() {
    let mut core = core();
    core.set_quota(Quota { messages: 1, bytes: 1 });
    let client = join(&mut core, Roles::SEND);
    let pages = [Region::heap(256), Region::heap(256)];
    only_an_end(&pages[0], FIRST_PAGE, 0);
    only_an_end(&pages[1], 1, 256);
    for (id, page) in pages.iter().enumerate() {
        core.page_arrived(client, id as u32, page.clone()).unwrap();
    }
    core.hung_up(client);
    let mut turns = 0;
    while core.clients() > 0 {
        core.cycle();
        turns += 1;
        let next = (turns + 1) % 2;
        only_an_end(&pages[next], next as u32, 256 * (turns as u64 + 1));
    }
    assert_eq!(turns, 512 / SLOT_HEADER + 1);
    assert_eq!(core.take_actions(), [Action::Remove(client, Some(Fault::Endless))]);
}

#[test]
fn a_client_that_left_is_removed_while_the_bus_is_blocked() {
    let limits = Limits::new(256, 64, 4096).unwrap();
    let control = Region::heap(control_len(3));
    let mut core = Core::new(limits, control.clone(), 3, Region::heap(256));
    let slow = join(&mut core, Roles::RECEIVE);
    let busy = join(&mut core, Roles::SEND);
    let leaver = join(&mut core, Roles::SEND);
    let first = Region::heap(256);
    let mut sender = ChainWriter::new(busy.0, limits, first.clone());
    core.page_arrived(busy, FIRST_PAGE, first).unwrap();
    sender.admit(0, Control::check(control, 1).unwrap(), 1);
    sender.mark_sent(0);
    let mut pages = 1;
    // The slow receiver consumes nothing until it holds the whole budget.
    while core.cycle().blocked != Some(Blocked::Full) {
        while let Err(Refused::Blocked(Blocked::NeedPage(len))) =
            sender.send(Default::default(), &[7; 64])
        {
            let page = Region::heap(len);
            sender.add_page(page.clone());
            sender.mark_sent(0);
            core.page_arrived(busy, pages, page).unwrap();
            pages += 1;
        }
        if let Some(Blocked::NeedPage(len)) = core.cycle().blocked {
            core.add_page(Region::heap(len));
        }
        while core.announcement(slow).is_some() {
            core.mark_sent(slow);
        }
    }
    assert_eq!(core.cycle().blocked, Some(Blocked::Full));
    core.hung_up(leaver);
    assert_eq!(core.cycle().blocked, Some(Blocked::Full));
    assert_eq!(core.take_actions(), [Action::Remove(leaver, None)]);
    assert_eq!(core.clients(), 2);
}

#[test]
fn an_id_of_a_joined_client_is_never_reused() {
    let limits = Limits::new(256, 64, 4096).unwrap();
    let (control, first) = (Region::heap(control_len(1)), Region::heap(256));
    let mut core = Core::new(limits, control, 1, first);
    core.exhaust_ids();
    let last = core.reserve(Roles::SEND).unwrap().client;
    assert_eq!(last, ClientId(u32::MAX - 1));
    core.join(last, peer_control()).unwrap();
    core.disconnect(last, None);
    core.take_actions();
    assert!(!core.has_ids());
    assert_eq!(core.reserve(Roles::SEND), None);
}

#[test]
fn an_id_that_never_joined_is_reused_after_its_removal() {
    let limits = Limits::new(256, 64, 4096).unwrap();
    let (control, first) = (Region::heap(control_len(2)), Region::heap(256));
    let mut core = Core::new(limits, control.clone(), 2, first);
    let first = core.reserve(Roles::SEND).unwrap().client;
    // Far more greetings than there are ids do not use them up.
    core.exhaust_ids();
    for _ in 0..10 {
        let silent = core.reserve(Roles::SEND).unwrap().client;
        assert_ne!(silent, first);
        core.hung_up(silent);
        core.cycle();
        // Its removal is still pending and would hit the next client with this id.
        assert!(!core.has_ids());
        assert_eq!(core.take_actions(), [Action::Remove(silent, None)]);
    }
    let next = core.reserve(Roles::SEND).unwrap();
    assert_eq!(next.client, ClientId(u32::MAX - 1));
    let member = cursor_offset(next.cursor) + crate::core::layout::CONTROL_MEMBER;
    assert_eq!(control.load(member, Site::MemberRead), u64::from(next.client.0));
}

/// Returns the control region of a client.
fn peer_control() -> Region {
    Control::create(Region::heap(control_len(1)), 1).memory().clone()
}

// P3
#[test]
fn a_client_finds_no_word_of_the_previous_client_in_its_place() {
    let limits = Limits::new(256, 64, 4096).unwrap();
    let (control, first) = (Region::heap(control_len(1)), Region::heap(256));
    let mut core = Core::new(limits, control.clone(), 1, first);
    let Reserved { client, cursor } = core.reserve(Roles::SEND).unwrap();
    let page = Region::heap(256);
    let mut sender = ChainWriter::new(client.0, limits, page.clone());
    core.page_arrived(client, 0, page).unwrap();
    sender.send(Default::default(), b"known").unwrap();
    core.cycle();
    // A broker that passes by reference also stores these two.
    core.control.publish_consumed(cursor, sender.tail());
    core.control.retire(cursor, sender.tail());
    let words = || control.read_words::<4>(cursor_offset(cursor));
    let tail = sender.tail();
    assert_eq!(words(), [tail, tail, client.0.into(), tail]);
    core.disconnect(client, None);
    let next = core.reserve(Roles::SEND).unwrap();
    assert_eq!(next.cursor, cursor);
    assert_eq!(words(), [0, 0, next.client.0.into(), 0]);
}

/// A client that sends. The broker gets its pages at once.
struct Sending {
    client: ClientId,
    sender: ChainWriter<Region>,
}

impl Sending {
    fn join(core: &mut Core<Region>) -> Self {
        let client = join(core, Roles::SEND);
        let first = Region::heap(256);
        let mut sender = ChainWriter::new(client.0, core.limits, first.clone());
        core.page_arrived(client, FIRST_PAGE, first).unwrap();
        let cursor = core.members.get_mut(client).unwrap().cursor;
        let control = Control::check(core.control().clone(), cursor).unwrap();
        sender.admit(0, control, cursor);
        sender.mark_sent(0);
        Sending { client, sender }
    }

    fn send(&mut self, core: &mut Core<Region>, payload: &[u8]) {
        while let Err(Refused::Blocked(Blocked::NeedPage(len))) =
            self.sender.send(Default::default(), payload)
        {
            let page = Region::heap(len);
            self.sender.add_page(page.clone());
            while let Some(Announcement::Page(id)) = self.sender.announcement(0) {
                core.page_arrived(self.client, id, page.clone()).unwrap();
                self.sender.mark_sent(0);
            }
        }
    }
}

/// Returns the number of the broker's sleep, or zero while it is awake.
fn sleep(core: &Core<Region>) -> u64 {
    core.control().load(CONTROL_PARKED, Site::RingRead)
}

fn is_parked(core: &Core<Region>) -> bool {
    sleep(core) != 0
}

#[test]
fn it_parks_only_when_no_work_is_left() {
    let mut core = core();
    let mut sending = Sending::join(&mut core);
    assert!(core.park() && is_parked(&core));
    core.unpark();
    assert!(!is_parked(&core));
    sending.send(&mut core, b"something");
    assert!(!core.park() && !is_parked(&core), "there is a message");
    core.cycle();
    assert!(core.park());
    core.unpark();
    core.hung_up(sending.client);
    assert!(!core.park() && !is_parked(&core), "a client must be removed");
    core.cycle();
    assert!(!core.park() && !is_parked(&core), "an action is pending");
    assert_eq!(core.take_actions(), [Action::Remove(sending.client, None)]);
    assert!(core.park());
}

// P10
#[test]
fn a_sleep_of_the_broker_that_finds_a_message_uses_up_its_number() {
    let mut core = core();
    let mut sending = Sending::join(&mut core);
    sending.send(&mut core, b"something");
    // A client that saw this number has rung for it.
    assert!(!core.park());
    core.cycle();
    assert!(core.park());
    assert_eq!(sleep(&core), 2);
}

#[test]
fn it_sleeps_while_a_page_is_under_way_and_polls_once_drained() {
    let mut core = core();
    let client = join(&mut core, Roles::SEND);
    let page = Region::heap(256);
    only_an_end(&page, FIRST_PAGE, 0);
    core.page_arrived(client, FIRST_PAGE, page).unwrap();
    for _ in 0..2 {
        core.cycle();
        assert_eq!(core.take_actions(), [Action::Drain(client)]);
        assert!(core.park(), "only its socket can help");
        core.unpark();
        core.not_drained(client);
        assert!(!core.park(), "its socket is not drained");
    }
    core.cycle();
    core.take_actions();
    core.drained(client);
    assert!(!core.park(), "it names a page that it has not sent");
    core.cycle();
    let fault = Fault::UnknownPage { page: FIRST_PAGE, at: PAGE_HEADER, next: 1 };
    assert_eq!(core.take_actions(), [Action::Remove(client, Some(fault))]);
}

#[test]
fn a_client_gets_at_most_its_quota_in_a_cycle() {
    let row = crate::broker::tests::bound("a turn of the broker, for one client");
    let Quota { messages, bytes } = Quota::default();
    assert!(row.starts_with(&format!("{messages} messages or {} KiB (`quota`)", bytes >> 10)));
    for (budget, share) in [
        (Quota { messages: 3, bytes: usize::MAX }, 3),
        (Quota { messages: usize::MAX, bytes: 9 }, 2),
        (Quota { messages: usize::MAX, bytes: 8 }, 1),
    ] {
        let mut core = core();
        core.set_quota(budget);
        let mut sending = Sending::join(&mut core);
        (0..6).for_each(|_| sending.send(&mut core, &[7; 8]));
        for _ in 0..6 / share {
            assert_eq!(core.cycle().consumed, share);
        }
        assert_eq!(core.cycle().consumed, 0);
    }
}

#[test]
fn each_client_has_its_share_of_each_turn_whoever_comes_first() {
    let mut core = core();
    core.set_quota(Quota { messages: 1, bytes: usize::MAX });
    let mut clients = [(); 3].map(|()| Sending::join(&mut core));
    for client in &mut clients {
        (0..3).for_each(|_| client.send(&mut core, b""));
    }
    for cycle in 1..=3 {
        core.cycle();
        let consumed =
            |member: &Member<Region>| member.inbound.as_ref().map(ChainReader::next_message);
        assert!(core.members.all.iter().all(|member| consumed(member) == Some(cycle)));
    }
}

#[test]
fn a_client_that_only_sends_is_not_rung_for_broadcasts() {
    let mut core = core();
    let mut sending = Sending::join(&mut core);
    let mut sleeper = |roles| {
        let Reserved { client, .. } = core.reserve(roles).unwrap();
        let mut control = Control::create(Region::heap(control_len(1)), 1);
        core.join(client, control.memory().clone()).unwrap();
        control.park();
        client
    };
    let receiver = sleeper(Roles::RECEIVE);
    sleeper(Roles::SEND);
    sending.send(&mut core, b"something");
    core.cycle();
    assert_eq!(core.take_actions(), [Action::Ring(receiver)]);
}

#[test]
fn a_removal_does_not_change_which_member_is_next() {
    let mut core = core();
    let clients = [(); 3].map(|()| join(&mut core, Roles::SEND));
    core.cycle();
    core.cycle();
    assert_eq!(core.members.all[core.members.begin].id, clients[2]);
    core.disconnect(clients[0], None);
    assert_eq!(core.members.all[core.members.begin].id, clients[2]);
}

#[test]
fn receivers_are_counted_when_they_have_joined() {
    let mut core = core();
    assert_eq!(core.receivers(), 0);
    join(&mut core, Roles::SEND);
    core.reserve(Roles::RECEIVE).unwrap();
    assert_eq!(core.receivers(), 0);
    join(&mut core, Roles::RECEIVE);
    join(&mut core, Roles::SEND.and(Roles::RECEIVE));
    assert_eq!(core.receivers(), 2);
}

#[test]
fn a_message_waiting_for_room_has_the_length_the_hook_gave_it() {
    let mut core = core();
    core.set_hook(Box::new(|_: &Message<'_>| Verdict::Replace(vec![9; 64])));
    let mut sending = Sending::join(&mut core);
    // A page has room for two of them.
    (0..3).for_each(|_| sending.send(&mut core, &[7; 8]));
    assert!(!core.is_blocked());
    assert_eq!(core.cycle().blocked, Some(Blocked::NeedPage(256)));
    assert!(core.is_blocked());
    assert_eq!(core.waiting, Some(SLOT_HEADER + 64));
}

#[test]
fn a_gone_client_that_sends_without_end_is_removed() {
    let mut core = core();
    // So that there is always room.
    core.set_hook(Box::new(|_: &Message<'_>| Verdict::Drop));
    core.set_quota(Quota { messages: 2, bytes: usize::MAX });
    let client = join(&mut core, Roles::SEND);
    let pages = [Region::heap(256), Region::heap(256)];
    for (id, page) in pages.iter().enumerate() {
        let version = halves(VERSION, PAGE_HEADER as u32);
        let ids = halves(id as u32, 1);
        page.write_words(0, [PAGE_MAGIC, version, 256, ids, 256 * id as u64, id as u64]);
        let message = commit_word(64, KIND_MESSAGE, 0, 0);
        page.write_words(PAGE_HEADER, [message, 0]);
        let end = [commit_word(0, KIND_EOP, 0, 0), halves(1 - id as u32, 0)];
        page.write_words(PAGE_HEADER + SLOT_HEADER + 64, end);
        core.page_arrived(client, id as u32, page.clone()).unwrap();
    }
    core.hung_up(client);
    let mut turns = 0;
    while core.clients() > 0 {
        core.cycle();
        turns += 1;
        // The page that was left begins again where the current one ends.
        let next = turns + 1;
        pages[next % 2].write_words(PAGE_BASE, [256 * next as u64, next as u64]);
    }
    assert_eq!(turns, 512 / (SLOT_HEADER + 64 + SLOT_HEADER) + 1);
    assert_eq!(core.take_actions(), [Action::Remove(client, Some(Fault::Endless))]);
}

/// Returns the id of a client's page in the broadcast chain, if it is a foreign page.
fn foreign_id(core: &Core<Region>, page: &Region) -> Option<u32> {
    (0..16).find(|id| core.page(*id).is_some_and(|found| found.is_same(page)))
}

#[test]
fn only_a_forgotten_page_is_dropped_when_all_have_passed_it() {
    let mut core = core();
    core.set_zero_copy_threshold(8);
    let Reserved { client: receiver, .. } = core.reserve(Roles::RECEIVE).unwrap();
    let control = Control::create(Region::heap(control_len(1)), 1);
    core.join(receiver, control.memory().clone()).unwrap();
    let mut sending = Sending::join(&mut core);
    [0, 1, 5].into_iter().for_each(|page| core.may_share(sending.client, page));
    assert_eq!(core.shareable_pages(), 3);
    for _ in 0..11 {
        sending.send(&mut core, &[7; 8]);
        while let Some(Blocked::NeedPage(len)) = core.cycle().blocked {
            core.add_page(Region::heap(len));
        }
        while core.announcement(receiver).is_some() {
            core.mark_sent(receiver);
        }
    }
    core.cycle();
    // All but the very first, and the last, whose page may not be shared. When the client's second
    // page begins, the broadcast chain waits until a page of its own is announced. Until then the
    // second page is a foreign page, too.
    assert_eq!((core.stats().messages, core.stats().by_ref), (11, 9));
    let member = core.members.get_mut(sending.client).unwrap();
    let [first, second] =
        [0, 1].map(|page| member.inbound.as_ref().unwrap().page(page).unwrap().clone());
    assert!(foreign_id(&core, &first).is_some());

    assert!(core.park(), "nothing is released");
    core.unpark();
    // After the first message and the second, which is by reference.
    control.publish_cursor(0, (PAGE_HEADER + 2 * 32) as u64);
    assert!(!core.park(), "a message is released");
    core.cycle();
    assert!(core.park());
    core.unpark();

    core.page_forgotten(sending.client, 1).unwrap();
    core.cycle();
    assert!(foreign_id(&core, &second).is_some(), "it is still being read");
    assert_eq!(core.shareable_pages(), 3);
    control.publish_cursor(0, core.broadcast.tail());
    assert!(!core.park(), "all is released");
    core.cycle();
    assert_eq!(foreign_id(&core, &second), None);
    assert!(foreign_id(&core, &first).is_some());
    assert_eq!(core.shareable_pages(), 2);
}

#[test]
fn a_client_that_could_not_be_rung_has_one_pending_ring() {
    let mut core = core();
    let [first, second] = [Roles::RECEIVE, Roles::SEND].map(|roles| join(&mut core, roles));
    for _ in 0..3 {
        core.not_rung(first);
        core.not_rung(second);
        core.not_rung(first);
    }
    assert_eq!(core.take_actions(), [Action::Ring(first), Action::Ring(second)]);
    assert_eq!(core.take_actions(), []);
}

/// A receiver that moves its cursor only on request.
struct Slow {
    client: ClientId,
    control: Control<Region>,
}

impl Slow {
    fn join(core: &mut Core<Region>) -> Self {
        let Reserved { client, .. } = core.reserve(Roles::RECEIVE).unwrap();
        let control = Control::create(Region::heap(control_len(1)), 1);
        core.join(client, control.memory().clone()).unwrap();
        Slow { client, control }
    }
}

/// Runs cycles and adds the pages that they need, until the bus is full.
fn fill(core: &mut Core<Region>) {
    loop {
        match core.cycle().blocked {
            Some(Blocked::NeedPage(len)) => core.add_page(Region::heap(len)),
            Some(Blocked::Full) => return,
            Some(Blocked::Announce) => {}
            None => panic!("all is consumed"),
        }
        for client in core.has_unsent().collect::<Vec<_>>() {
            while core.announcement(client).is_some() {
                core.mark_sent(client);
            }
        }
    }
}

/// Two clients that together send more than the bus has room for.
fn two_who_fill(core: &mut Core<Region>) {
    for mut sender in [(); 2].map(|()| Sending::join(core)) {
        (0..60).for_each(|_| sender.send(core, &[7; 24]));
    }
}

#[test]
fn a_client_refused_for_room_keeps_its_used_quota() {
    let mut core = core();
    // More than a page holds: the receiver leaves one page after the other.
    core.set_quota(Quota { messages: 5, bytes: usize::MAX });
    let slow = Slow::join(&mut core);
    two_who_fill(&mut core);
    fill(&mut core);
    let consumed = |core: &Core<Region>| {
        let of = |member: &Member<Region>| Some(member.inbound.as_ref()?.next_message());
        core.members.all.iter().filter_map(of).collect::<Vec<_>>()
    };
    let before = consumed(&core);
    for page in 1..=8 {
        slow.control.publish_cursor(0, 256 * page + PAGE_HEADER as u64);
        fill(&mut core);
    }
    let got: Vec<u64> =
        consumed(&core).iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(got.iter().sum::<u64>() >= 20 && got[0].abs_diff(got[1]) <= 5, "{got:?}");
}

#[test]
fn a_broker_that_finds_an_invalid_cursor_does_not_sleep() {
    let mut core = core();
    let (_slow, faulty) = (Slow::join(&mut core), Slow::join(&mut core));
    two_who_fill(&mut core);
    fill(&mut core);
    assert!(core.park());
    core.unpark();
    faulty.control.publish_cursor(0, 1 << 40);
    assert!(!core.park());
    core.cycle();
    assert!(
        matches!(core.take_actions()[..], [Action::Remove(who, Some(_))] if who == faulty.client)
    );
}

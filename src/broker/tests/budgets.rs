//! The budgets of the broker's process: what happens at the number, and one beyond.

use super::*;
use crate::broker::hold_up::HELD_UP;
use crate::core::layout::VERSION;
use tempfile::TempDir;

const JUST_BEFORE: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

/// A broker with short pages.
fn bus(place: &TempDir, set: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Broker {
    set(short_pages(64)).bind(place.path().join("bus")).unwrap()
}

fn connect(broker: &mut Broker) -> Socket {
    let (before, deadline) = (broker.next_newcomer, Instant::now() + HANDSHAKE_TIMEOUT);
    let socket = Socket::connect(broker.path(), deadline).unwrap();
    while broker.next_newcomer == before {
        assert!(Instant::now() < deadline, "it is not accepted");
        serve(broker);
    }
    socket
}

/// Connects and says hello. The answer is in the socket.
fn greet(broker: &mut Broker, roles: Roles) -> Socket {
    let socket = connect(broker);
    assert_eq!(socket.send(&Packet::Hello { version: VERSION, roles }, None), Sent::Yes);
    serve(broker);
    socket
}

/// A client that has joined. All that it was sent is in its socket.
fn join(broker: &mut Broker, roles: Roles) -> Socket {
    let socket = greet(broker, roles);
    let control = crate::handshake::control_region(1).unwrap();
    let control = crate::core::control::Control::create(control, 1);
    assert_eq!(socket.send(&Packet::Join, control.memory().descriptor()), Sent::Yes);
    serve(broker);
    socket
}

/// What the client has been sent.
fn heard(socket: &Socket) -> Vec<Packet> {
    let next = || match socket.receive() {
        Received::Packet(packet, _) => Some(packet),
        _ => None,
    };
    std::iter::from_fn(next).collect()
}

fn is_open(socket: &Socket) -> bool {
    heard(socket);
    matches!(socket.receive(), Received::Nothing)
}

/// Sends `count` messages. The receiver consumes each before the next is sent.
fn exchange(broker: &mut Broker, sender: &mut Sender, receiver: &mut Receiver, count: u32) {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    for tag in 0..count {
        sender.send(tag, &message()).unwrap();
        loop {
            assert!(Instant::now() < deadline, "message {tag} does not arrive");
            serve(broker);
            if let Some(message) = receiver.try_recv().unwrap() {
                break assert_eq!(message.tag.0, tag);
            }
        }
    }
}

fn pair(broker: &mut Broker) -> (Sender, Receiver) {
    let sender = connecting(broker, Client::connect_sender);
    let sender = let_in(broker, sender);
    let receiver = connecting(broker, Client::connect_receiver);
    (sender, let_in(broker, receiver))
}

// P12
#[test]
fn a_connection_has_ten_seconds_to_join() {
    assert!(bound("connections that have not joined").starts_with("10 seconds; "));
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder);
    let silent = connect(&mut broker);
    let greeted = greet(&mut broker, Roles::SEND);
    let joined = join(&mut broker, Roles::SEND);
    let mut began: Vec<Instant> = broker.connections.values().map(|c| c.began).collect();
    began.sort();
    broker.expire(began[0] + 10 * SECOND - JUST_BEFORE);
    assert!(is_open(&silent) && is_open(&greeted));
    broker.expire(began[0] + 10 * SECOND);
    assert!(!is_open(&silent) && is_open(&greeted));
    broker.expire(began[1] + 10 * SECOND - JUST_BEFORE);
    broker.cycle();
    assert!(is_open(&greeted));
    broker.expire(began[1] + 10 * SECOND);
    broker.cycle();
    assert!(!is_open(&greeted));
    broker.expire(began[2] + 100 * SECOND);
    assert!(is_open(&joined));
    assert_eq!((broker.report.refused, broker.report.faults), (2, 0));
}

// P12
#[test]
fn a_lack_of_memory_is_retried_every_10_ms_for_10_s() {
    let bound = bound("address space, memory and memory maps for what clients send");
    assert!(bound.starts_with("the broker tries again every 10 ms; "));
    let ten_ms = Duration::from_millis(10);
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder);
    let newcomer = greet(&mut broker, Roles::SEND);
    let control = crate::handshake::control_region(1).unwrap();
    assert_eq!(newcomer.send(&Packet::Join, control.descriptor()), Sent::Yes);
    kernel::refusing(libc::SYS_mmap, libc::ENOMEM, || {
        is_stuck(&mut broker);
        let at = broker.stuck_again.unwrap();
        assert!(at <= Instant::now() + ten_ms);
        broker.retry_stuck(at - JUST_BEFORE);
        assert_eq!(broker.stuck_again, Some(at));
        let before = Instant::now();
        broker.retry_stuck(at);
        assert!(broker.stuck_again.unwrap() >= before + ten_ms);
    });
    let began = broker.connections[&FIRST_NEWCOMER].began;
    broker.expire(began + 10 * SECOND - JUST_BEFORE);
    assert!(is_open(&newcomer));
    broker.expire(began + 10 * SECOND);
    broker.cycle();
    assert!(!is_open(&newcomer));
    assert_eq!((broker.report.refused, broker.report.faults), (1, 0));
}

// P12
#[test]
fn a_full_broker_makes_room_for_one_newcomer_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder.max_clients(3));
    let silent: Vec<Socket> = (0..3).map(|_| connect(&mut broker)).collect();
    assert!(silent.iter().all(is_open), "there is a place for each");
    let newcomer = connect(&mut broker);
    assert_eq!(heard(&silent[0]), [Packet::Refused(Refusal::Crowded)]);
    assert!(!is_open(&silent[0]));
    assert!(silent[1..].iter().chain([&newcomer]).all(is_open));
    // The oldest one is of another process than the two others.
    let keys: Vec<Key> = broker.connections.keys().copied().collect();
    broker.connections.get_mut(&keys[0]).unwrap().process = 1;
    let another = connect(&mut broker);
    assert!(is_open(&silent[1]) && !is_open(&silent[2]) && is_open(&newcomer));
    assert!(is_open(&another));
    assert_eq!(broker.report.refused, 2);
}

// P12
#[test]
fn a_receiver_that_holds_up_the_bus_is_rung_after_1_2_4_seconds() {
    let bound = bound("a half of a connection that is shut down");
    assert!(bound.ends_with("while the bus is held up, a ring after 1, 2, 4 … seconds"));
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder.zero_copy_threshold(usize::MAX));
    let slow = join(&mut broker, Roles::RECEIVE);
    let sender = connecting(&broker, Client::connect_sender);
    let mut sender = let_in(&mut broker, sender);
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    while broker.held_up.is_none() {
        assert!(Instant::now() < deadline, "the bus is not held up");
        let _ = sender.try_send(1, &message());
        serve(&mut broker);
    }
    let since = Instant::now();
    broker.held_up = Some(HeldUp { since, next: HELD_UP });
    heard(&slow);
    for seconds in [1, 2, 4, 8] {
        broker.report_hold_up(since + seconds * SECOND - JUST_BEFORE);
        assert_eq!(heard(&slow), [], "before {seconds} s");
        broker.report_hold_up(since + seconds * SECOND);
        assert_eq!(heard(&slow), [Packet::Ring], "after {seconds} s");
    }
}

/// A bus with two clients, and one that has taken nothing out of its socket: that holds `all` but
/// `missing` of the descriptors for it.
fn unread(place: &TempDir, missing: usize) -> (Broker, (Sender, Receiver), Socket, usize) {
    let mut broker = bus(place, |builder| builder.zero_copy_threshold(usize::MAX));
    let (mut sender, mut receiver) = pair(&mut broker);
    exchange(&mut broker, &mut sender, &mut receiver, 60);
    let is_page = |packet: &&Packet| matches!(packet, Packet::Page { .. });
    let first = join(&mut broker, Roles::RECEIVE);
    // And the broker's control region.
    let all = heard(&first).iter().filter(is_page).count() + 1;
    assert!(all > 10, "{all} descriptors");
    // Each of the four clients has the same share.
    broker.max_in_flight = 4 * (all - missing) + 3;
    let unread = join(&mut broker, Roles::RECEIVE);
    assert_eq!(in_flight(&unread), all - missing);
    assert_eq!(broker.connections.len(), 4);
    drop(first);
    // The share of three, from now on.
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    while broker.connections.len() > 3 {
        assert!(Instant::now() < deadline, "a client stays");
        broker.max_in_flight = 3 * (all - missing) + 2;
        serve(&mut broker);
    }
    (broker, (sender, receiver), unread, all)
}

fn last(broker: &mut Broker) -> &mut ClientConnection {
    broker.connections.last_entry().unwrap().into_mut()
}

// P12
#[test]
fn a_socket_holds_its_share_of_descriptors_and_one_more_waits() {
    let place = tempfile::tempdir().unwrap();
    let (mut broker, _clients, socket, all) = unread(&place, 0);
    assert_eq!(last(&mut broker).full_since, None);
    assert!(matches!(heard(&socket).last(), Some(Packet::Start(_))), "{all} have room");
    drop(broker);

    let place = tempfile::tempdir().unwrap();
    let (mut broker, _clients, socket, all) = unread(&place, 1);
    assert!(last(&mut broker).full_since.is_some() && broker.unread_again.is_some());
    let packets = heard(&socket);
    assert_eq!(packets.len(), all - 1);
    assert!(packets.iter().all(|packet| !matches!(packet, Packet::Start(_))), "one waits");
}

// P12
#[test]
fn a_page_that_is_sent_again_counts_as_one_that_waits() {
    let place = tempfile::tempdir().unwrap();
    let (mut broker, _clients, socket, all) = unread(&place, 0);
    let pages = (0..u32::MAX).filter(|id| broker.core.page(*id).is_some());
    let pages: Vec<u32> = pages.take(2).collect();
    // Room for one more.
    broker.max_in_flight = 3 * (all + 1);
    for (id, expected) in pages.iter().zip([all + 1, all + 1]) {
        assert_eq!(socket.send(&Packet::Again { id: *id }, None), Sent::Yes);
        serve(&mut broker);
        assert_eq!(in_flight(&socket), expected);
    }
    assert!(last(&mut broker).full_since.is_some());
    heard(&socket);
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut again = Vec::new();
    while again.is_empty() {
        assert!(Instant::now() < deadline, "it is not told");
        serve(&mut broker);
        again = heard(&socket);
    }
    assert_eq!(again, [Packet::Page { id: pages[1] }]);
}

// P9, P12
#[test]
fn a_full_socket_has_ten_seconds_while_others_wait() {
    assert!(bound("a full socket that the client does not read").starts_with("10 seconds while"));
    let place = tempfile::tempdir().unwrap();
    let (mut broker, _clients, socket, _) = unread(&place, 1);
    let since = last(&mut broker).full_since.unwrap();
    broker.held_up = None;
    broker.disconnect_unread(since + 100 * SECOND);
    broker.apply_actions();
    assert_eq!(broker.report.faults, 0, "no other client waits");
    // They have waited for as long as the socket is full, or not as long.
    for later in [0, 1] {
        let from = since + later * SECOND;
        broker.held_up = Some(HeldUp { since: from, next: HELD_UP });
        broker.disconnect_unread(from + 10 * SECOND - JUST_BEFORE);
        broker.apply_actions();
        assert_eq!(broker.report.faults, 0);
    }
    broker.disconnect_unread(since + 11 * SECOND);
    broker.apply_actions();
    assert_eq!(broker.report.faults, 1);
    assert!(!is_open(&socket));
}

#[test]
fn descriptors_are_shared_out_as_the_table_says() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap();
    let all = limit as usize - 64;
    let rows = [
        bound("descriptors (`ulimit -n`)"),
        bound("descriptors that wait in sockets (`ETOOMANYREFS`)"),
    ];
    assert!(rows[0].starts_with("64 for the process itself; of the others, a quarter for pages"));
    assert!(rows[0].ends_with("two for each client, its connection and its process"));
    assert!(rows[1].starts_with("half of those that are not for the process itself"));
    let place = tempfile::tempdir().unwrap();
    let broker = bus(&place, |builder| builder.zero_copy_threshold(0));
    assert_eq!((broker.max_shared_pages, broker.max_in_flight), (all / 4, all / 2));
    assert!(broker.max_clients <= (all - all / 4) / 2);
}

// P12
#[test]
fn pages_are_kept_to_be_lent_up_to_the_number_and_no_more() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder.zero_copy_threshold(0));
    broker.max_shared_pages = 3;
    let (mut sender, mut receiver) = pair(&mut broker);
    let mut kept = Vec::new();
    for _ in 0..40 {
        exchange(&mut broker, &mut sender, &mut receiver, 1);
        kept.push(broker.core.shareable_pages());
    }
    kept.dedup();
    assert_eq!(kept, [1, 2, 3]);
}

// P12
#[test]
fn a_greeting_beyond_all_ids_is_refused_with_its_reason() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder);
    broker.core.exhaust_ids();
    let last = join(&mut broker, Roles::SEND);
    assert!(matches!(heard(&last)[..], [Packet::Welcome { .. }, Packet::Start(_)]));
    let refused = greet(&mut broker, Roles::SEND);
    assert_eq!(heard(&refused), [Packet::Refused(Refusal::NoIds)]);
    assert!(is_open(&last) && !is_open(&refused));
}

// P12
#[test]
fn a_greeting_beyond_a_users_share_is_refused_with_its_reason() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = bus(&place, |builder| builder);
    let user = rustix::process::geteuid().as_raw();
    let before = join(&mut broker, Roles::SEND);
    // More than one id from now on would be the user's again in no time.
    broker.allowance.use_up_all_but_one(user, Instant::now() + HANDSHAKE_TIMEOUT);
    let refused = greet(&mut broker, Roles::SEND);
    assert_eq!(heard(&refused), [Packet::Refused(Refusal::TooOften)]);
    assert!(is_open(&before) && !is_open(&refused));
}

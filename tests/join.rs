//! Buses without a broker of their own: each member can serve.

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::child::Child;
use common::proc::wait_until;
use llmp::{
    BindError, Broker, BrokerBuilder, Client, ConnectError, ErrorKind, PeerFilter, Vacancy,
};
use std::time::{Duration, Instant};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

fn member(place: &Place) -> Child {
    let mut member = place.child("member", &[]);
    member.says("joined");
    member
}

/// Returns the process that serves the bus.
fn server(place: &Place) -> Option<i32> {
    match Broker::bind(place.path()) {
        Err(BindError::InUse { process, .. }) => process.map(|id| id as i32),
        other => panic!("{other:?}"),
    }
}

/// Each member sends a message, and all others receive it once.
fn talk(members: &mut [Child], number: &mut u32) {
    for sender in 0..members.len() {
        *number += 1;
        members[sender].tell(&number.to_string());
        for (at, member) in members.iter_mut().enumerate() {
            if at != sender {
                // In order, and nothing twice: the next line is this one.
                assert_eq!(member.line().as_deref(), Some(&*format!("heard {number}")));
            }
        }
    }
}

// P2, P3
#[test]
fn a_bus_goes_on_whichever_member_is_killed() {
    let place = Place::new();
    let mut members: Vec<_> = (0..4).map(|_| member(&place)).collect();
    let mut number = 0;
    for round in 0..12 {
        talk(&mut members, &mut number);
        let serving = server(&place);
        let is_serving = |member: &Child| Some(member.pid()) == serving;
        let at = members.iter().position(is_serving).expect("a member serves");
        // The one that serves, or another one.
        let victim = if round % 3 == 2 { (at + 1) % members.len() } else { at };
        members.remove(victim).kill();
        members.push(member(&place));
    }
    talk(&mut members, &mut number);
}

// P7, P15
#[test]
fn a_bus_ends_with_its_last_member() {
    let place = Place::new();
    let mut members: Vec<_> = (0..4).map(|_| member(&place)).collect();
    let mut number = 0;
    while !members.is_empty() {
        talk(&mut members, &mut number);
        let serving = server(&place);
        let at = members.iter().position(|member| Some(member.pid()) == serving).unwrap();
        let mut leaver = members.remove(at);
        leaver.tell("leave");
        leaver.says("left");
    }
    assert!(!place.path().exists());
    let left: Vec<_> = std::fs::read_dir(place.path().parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

// P15
#[test]
fn a_stopped_bus_ends_for_all_members() {
    let place = Place::new();
    let mut members = [(); 3].map(|()| llmp::join(place.path()).unwrap());
    Broker::request_stop(place.path(), TIMEOUT).unwrap();
    for member in &mut members {
        let error = member.recv_timeout(TIMEOUT).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    let now = Instant::now();
    assert_eq!(Broker::wait_until_free(place.path(), Some(now)).unwrap(), Vacancy::Free);
    // A new member begins a new bus.
    drop(members);
    assert!(llmp::join(place.path()).is_ok());
}

// P3
#[test]
fn members_that_leave_together_leave_the_bus_to_the_rest() {
    let place = Place::new();
    let mut members: Vec<_> = (0..2).map(|_| member(&place)).collect();
    let mut number = 0;
    for _ in 0..5 {
        let mut leavers: Vec<_> = (0..3).map(|_| member(&place)).collect();
        // The one that serves is among them.
        leavers.extend(members.drain(..1));
        members.push(member(&place));
        leavers.iter_mut().for_each(|leaver| leaver.tell("leave"));
        leavers.iter_mut().for_each(|leaver| _ = leaver.says("left"));
        drop(leavers);
        talk(&mut members, &mut number);
    }
}

// P3
#[test]
fn a_bus_of_members_is_handed_over_on_request() {
    let place = Place::new();
    let mut members = [(); 2].map(|()| llmp::join(place.path()).unwrap());
    for number in 0..5 {
        Broker::request_hand_over(place.path(), TIMEOUT).unwrap();
        let [sender, receiver] = &mut members;
        sender.send(number, b"").unwrap();
        let began = Instant::now();
        // Both go on in their calls.
        while receiver.recv_timeout(Duration::from_millis(5)).unwrap().is_none() {
            assert_eq!(sender.try_recv().unwrap(), None);
            assert!(began.elapsed() < TIMEOUT, "{number} does not come");
        }
    }
}

// P7
#[test]
fn a_member_that_leaves_keeps_no_thread_and_no_descriptor() {
    let place = Place::new();
    let of_this_process = || {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        (count("task"), count("fd"))
    };
    drop(llmp::join(place.path()).unwrap());
    let before = of_this_process();
    for _ in 0..20 {
        let first = llmp::join(place.path()).unwrap();
        let second = llmp::join(place.path()).unwrap();
        drop(first);
        let (sender, receiver) = second.into_split();
        drop(sender);
        drop(receiver);
    }
    wait_until("the threads have ended", || of_this_process() <= before);
}

#[test]
fn a_bus_that_can_not_be_served_is_an_error() {
    let error = llmp::join("/nonexistent/bus").unwrap_err();
    assert!(matches!(error, ConnectError::CannotServe(BindError::Lock { .. })), "{error}");
    let place = Place::new();
    let bad = || BrokerBuilder::default().page_len(1);
    let error = Client::builder().serve(bad).connect(place.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidLimits);
    // Another process serves, and does not admit us.
    let strict = Broker::builder().access(PeerFilter::Users(vec![])).bind(place.path()).unwrap();
    let handle = strict.stop_handle();
    let running = std::thread::spawn(move || strict.run());
    let error = llmp::join(place.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAdmitted);
    handle.stop();
    running.join().unwrap().unwrap();
}

//! Two halves of a connection that sleep in two threads beside one parked word and one socket.
//!
//! The sending half waits for room and the receiving half for a message. The peer gives both. A
//! lost wake-up is a deadlock, which the checker reports. The halves use production's
//! [`Parking`], [`Outbound`] and [`Inbound`]. The lock, the socket and the wakers are mailboxes.
//!
//! A half that blocks waits for the socket *or* its waker, as `poll` does. A byte in its mailbox
//! means that one of the two may be readable, and the half then looks at both.

use crate::scenario::chain::control_memory;
use crate::scenario::{Descriptors, Mailbox, Note, Runtime};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::link::{Ends, Inbound, Interest, Link, Outbound};
use llmp::core::parking::{Half, Parking};
use llmp::{Envelope, Limits};

/// What may be readable.
enum Readable {
    Socket,
    Waker,
}

/// The halves' common part.
struct Shared<R: Runtime> {
    /// Holds the parking while no half has the lock.
    lock: R::Mailbox<Parking<R::Memory>>,
    /// One ring each.
    socket: R::Mailbox<()>,
    /// For the sending and the receiving half.
    polls: [R::Mailbox<Readable>; 2],
}

impl<R: Runtime> Clone for Shared<R> {
    fn clone(&self) -> Self {
        let Shared { lock, socket, polls } = self;
        Shared { lock: lock.clone(), socket: socket.clone(), polls: polls.clone() }
    }
}

impl<R: Runtime> Shared<R> {
    fn poll_of(&self, half: Half) -> &R::Mailbox<Readable> {
        &self.polls[half as usize - 1]
    }

    /// The peer rings: the socket becomes readable for both halves.
    fn ring(&self, must_ring: bool) {
        if must_ring {
            self.socket.put(());
            self.polls.iter().for_each(|poll| poll.put(Readable::Socket));
        }
    }

    /// As a half of production's connection: parks, blocks, and reads what is there.
    fn sleep(&self, half: Half, ends: &mut Ends<'_, R::Memory>, interest: Interest) {
        let mut parking = self.lock.wait();
        let (may_sleep, _) = parking.park(half, ends, interest);
        self.lock.put(parking);
        if !may_sleep {
            return;
        }
        loop {
            match self.poll_of(half).wait() {
                Readable::Waker => break,
                // The other half may have emptied it meanwhile.
                Readable::Socket if self.socket.is_empty() => {}
                Readable::Socket => break,
            }
        }
        let mut parking = self.lock.wait();
        parking.unpark(half);
        if self.socket.take().is_some() && parking.is_parked(half.other()) {
            self.poll_of(half.other()).put(Readable::Waker);
        }
        self.lock.put(parking);
    }
}

/// Which half gets what it waits for first.
#[derive(Clone, Copy, Debug)]
pub enum First {
    Room,
    Message,
}

fn send<M: llmp::core::memory::Memory>(outbound: &mut Outbound<M>) -> Result<bool, Refused> {
    outbound.send(Envelope::default(), &[7; 8])
}

/// Both halves sleep until the peer has released a page and sent a message. [P10]
pub fn two_sleepers<R: Runtime>(runtime: &R, limits: Limits, first: First) {
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    let [our_control, their_control] = [&ours, &theirs].map(|memory| {
        let control = Control::create(memory.clone(), 1);
        control.give_place(0, 1);
        control
    });
    let [us, them] = [&ours, &theirs].map(|memory| Control::check(memory.clone(), 0).unwrap());
    let [our_page, their_page] = [(); 2].map(|()| runtime.memory(limits.page_len()));
    let our_writer = ChainWriter::new(1, limits, our_page.clone());
    let their_writer = ChainWriter::new(1, limits, their_page.clone());
    let reader = |page: &R::Memory, control: &Control<R::Memory>| {
        ChainReader::from_beginning(limits, 1, page.clone(), control.clone(), 0).unwrap()
    };
    let (our_reader, their_reader) =
        (reader(&their_page, &our_control), reader(&our_page, &their_control));
    let link = Link::new(our_control, them, Some((our_writer, 0)), Some(our_reader));
    let mut peer = Link::new(their_control, us, Some((their_writer, 0)), Some(their_reader));
    let Link { mut parking, outbound, inbound } = link;
    parking.never_poll();
    let (mut outbound, mut inbound) = (outbound.unwrap(), inbound.unwrap());
    outbound.mark_sent();
    peer.mark_sent();
    let descriptors = Descriptors::default();
    // Until there is no room.
    let mut sent = 0;
    loop {
        match send(&mut outbound) {
            Ok(_) => sent += 1,
            Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                let page = runtime.memory(len);
                outbound.chain.add_page(page.clone());
                let Some(Announcement::Page(id)) = outbound.announcement() else {
                    panic!("a page to announce")
                };
                descriptors.send(id, page);
                outbound.mark_sent();
            }
            Err(_) => break,
        }
    }
    let shared = Shared::<R> {
        lock: runtime.mailbox(),
        socket: runtime.mailbox(),
        polls: [runtime.mailbox(), runtime.mailbox()],
    };
    shared.lock.put(parking);
    let sending = {
        let shared = shared.clone();
        runtime.spawn(move || send_one(&shared, &mut outbound))
    };
    let receiving = {
        let shared = shared.clone();
        runtime.spawn(move || receive_one(&shared, &mut inbound))
    };
    let make_room = |peer: &mut Link<R::Memory>| {
        let mut left = sent;
        loop {
            let (event, must_ring) = peer.poll().unwrap();
            shared.ring(must_ring);
            match event {
                Event::Message(slot) => {
                    peer.inbound_mut().unwrap().advance(&slot);
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
                Event::Unknown(_) => {
                    let (id, page) = descriptors.receive().expect("sent before it was named");
                    peer.inbound_mut().unwrap().add_page(id, page).unwrap();
                }
                Event::PageAdvanced => {}
                Event::Empty => panic!("all was sent before"),
            }
        }
    };
    let give_message = |peer: &mut Link<R::Memory>| {
        let must_ring = peer.send(Envelope::default(), &[7; 8]).unwrap();
        shared.ring(must_ring);
    };
    match first {
        First::Room => {
            make_room(&mut peer);
            give_message(&mut peer);
        }
        First::Message => {
            give_message(&mut peer);
            make_room(&mut peer);
        }
    }
    sending();
    receiving();
    runtime.note(Note::Finished);
}

/// Sends one message and sleeps while there is no room.
fn send_one<R: Runtime>(shared: &Shared<R>, outbound: &mut Outbound<R::Memory>) {
    let room = ChainWriter::<R::Memory>::room_for(&Envelope::default(), 8);
    while send(outbound).is_err() {
        let mut ends = Ends { outbound: Some(outbound), inbound: None };
        let interest = Interest { room: Some(room), ..Interest::default() };
        shared.sleep(Half::Sender, &mut ends, interest);
    }
}

/// Receives one message and sleeps while there is none.
fn receive_one<R: Runtime>(shared: &Shared<R>, inbound: &mut Inbound<R::Memory>) {
    while !inbound.chain.has_message() {
        let mut ends = Ends { outbound: None, inbound: Some(inbound) };
        let interest = Interest { message: true, ..Interest::default() };
        shared.sleep(Half::Receiver, &mut ends, interest);
    }
}

//! One end of a connection: a chain that it sends, a chain that it receives, or both, and how it
//! sleeps. What a client is made of, and both ends of a channel.
//!
//! An endpoint does no input or output. Its owner moves packets and descriptors, rings the
//! doorbell when told to, and blocks when [`park`](Endpoint::park) says that it may.

use crate::chain::{Event, Glance, Receiver, Refused, Sender};
use crate::control::{Control, Doorbell};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::message::{Alleged, Envelope, Slot};

/// One end of a connection.
#[derive(Debug)]
pub struct Endpoint<M> {
    control: Control<M>,
    doorbell: Doorbell<M>,
    outbound: Option<Sender<M>>,
    inbound: Option<Receiver<M>>,
}

/// The only receiver of an endpoint's own chain.
const PEER: u32 = 0;

/// What an endpoint wants to sleep for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Something to receive.
    pub message: bool,
    /// Room to send a message that takes so many bytes in a page ([`Sender::room_for`]).
    pub room: Option<usize>,
    /// The peer has taken everything.
    pub taken: bool,
}

impl<M: Memory> Endpoint<M> {
    /// An endpoint with a control region of its own and its peer's. If it sends, `cursor` is the
    /// number of its chain's cursor in the peer's region, and is admitted as its only receiver.
    pub fn new(
        control: Control<M>,
        peer: Control<M>,
        outbound: Option<(Sender<M>, usize)>,
        inbound: Option<Receiver<M>>,
    ) -> Self {
        let outbound = outbound.map(|(mut sender, cursor)| {
            sender.admit_in_place(PEER, peer.clone(), cursor);
            sender
        });
        Endpoint { control, doorbell: Doorbell::new(peer), outbound, inbound }
    }

    /// The chain that it sends.
    pub fn outbound(&self) -> Option<&Sender<M>> {
        self.outbound.as_ref()
    }

    /// The chain that it sends.
    pub fn outbound_mut(&mut self) -> Option<&mut Sender<M>> {
        self.outbound.as_mut()
    }

    /// The chain that it receives.
    pub fn inbound(&self) -> Option<&Receiver<M>> {
        self.inbound.as_ref()
    }

    /// The chain that it receives.
    pub fn inbound_mut(&mut self) -> Option<&mut Receiver<M>> {
        self.inbound.as_mut()
    }

    /// Gives it the chain that it receives.
    pub fn receive_from(&mut self, inbound: Receiver<M>) {
        self.inbound = Some(inbound);
    }

    /// Sends one message. Returns whether the peer must be rung.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written. An endpoint without a chain of its own is full.
    #[inline(always)]
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<bool, Refused> {
        let Some(outbound) = &mut self.outbound else {
            return Err(Refused::Blocked(crate::chain::Blocked::Full));
        };
        outbound.send(envelope, payload)?;
        Ok(self.must_ring())
    }

    /// Makes visible what was appended. Returns whether the peer must be rung.
    pub fn publish(&mut self) -> bool {
        self.outbound.as_mut().is_some_and(Sender::publish) && self.must_ring()
    }

    /// Looks for a message. Returns also whether the peer must be rung, since it may be waiting
    /// for the page that was just given up.
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    #[inline]
    pub fn poll(&mut self) -> Result<(Event, bool), Fault> {
        let Some(inbound) = &mut self.inbound else { return Ok((Event::Empty, false)) };
        let owes = inbound.owes();
        let event = inbound.poll()?;
        if event == Event::Turned {
            self.control.turned();
        }
        let ring = (owes || event == Event::Turned) && self.give_up();
        Ok((event, ring))
    }

    /// What stands at its place in the chain that it receives, if there is one.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Option<Glance> {
        self.inbound.as_ref().map(Receiver::glance)
    }

    /// What a [`glance`](Endpoint::glance) has left open, if it is a lent message that can be taken
    /// without anything else.
    pub(crate) fn glance_at_lent(&self, alleged: Alleged) -> Option<Slot> {
        self.inbound.as_ref()?.glance_at_lent(alleged)
    }

    /// Gives up what was received. Returns whether the peer must be rung.
    pub fn give_up(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(Receiver::give_up) && self.must_ring()
    }

    /// Says that it is about to sleep and looks again. Returns whether it may block until it is rung,
    /// and whether the peer must be rung before.
    /// [`first_bounded_sleep`](Endpoint::first_bounded_sleep) says how long it may block.
    pub fn park(&mut self, wanted: Wanted) -> (bool, bool) {
        let gave_up = self.inbound.as_mut().is_some_and(Receiver::give_up);
        self.control.park();
        let ring = gave_up && self.must_ring();
        let may_sleep = !self.has(wanted);
        if !may_sleep {
            self.control.unpark();
        }
        (may_sleep, ring)
    }

    /// See [`Control::first_bounded_sleep`].
    pub fn first_bounded_sleep(&self) -> Option<u64> {
        self.control.first_bounded_sleep()
    }

    /// See [`Control::poll`].
    pub fn poll_from_now(&mut self) {
        self.control.poll();
    }

    /// See [`Control::never_poll`].
    pub fn never_poll(&mut self) {
        self.control.never_poll();
    }

    /// The peer could not be rung.
    pub fn not_rung(&mut self) {
        self.doorbell.not_rung();
    }

    /// It is awake again.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    /// Whether any of what is wanted is there.
    pub fn has(&mut self, wanted: Wanted) -> bool {
        let message = wanted.message && self.inbound.as_ref().is_some_and(Receiver::has_something);
        message
            || self.outbound.as_mut().is_some_and(|outbound| {
                // To look for room may show a liar, and who waits for room has to hear of that.
                wanted
                    .room
                    .is_some_and(|slot_len| outbound.has_room(slot_len) || outbound.has_liar())
                    || wanted.taken && outbound.is_taken()
            })
    }

    /// After something was published: whether the peer sleeps.
    #[inline(always)]
    fn must_ring(&mut self) -> bool {
        if self.doorbell.is_polling() {
            return false;
        }
        self.control.ring_fence();
        self.doorbell.must_ring()
    }

    /// What the peer must be told about our pages next, see [`Sender::notice`].
    pub fn notice(&self) -> Option<crate::chain::Notice> {
        self.outbound.as_ref()?.notice(PEER)
    }

    /// The peer has been told.
    pub fn told(&mut self) {
        if let Some(outbound) = &mut self.outbound {
            outbound.told(PEER);
        }
    }

    /// Whether the peer waits for what this end reads, see [`Receiver::is_whole`].
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.inbound.as_ref().is_none_or(Receiver::is_whole)
    }

    /// The fault of the peer if its cursor lied.
    pub fn lie(&mut self) -> Option<Fault> {
        self.outbound.as_mut()?.take_liar().map(|(_, fault)| fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::control_len;
    use crate::limits::Limits;
    use crate::memory::Region;

    const MESSAGE: Wanted = Wanted { message: true, room: None, taken: false };

    /// A page holds two messages of a word, a chain two pages.
    fn channel() -> (Endpoint<Region>, Endpoint<Region>) {
        let limits = Limits::new(144, 16, 288).unwrap();
        let control = || Control::create(Region::heap(control_len(1)), 1);
        let peers =
            |control: &Control<Region>| Control::check(control.memory().clone(), 0).unwrap();
        let (ours, theirs) = (control(), control());
        theirs.give_place(0, 1);
        let (to_us, to_them) = (peers(&ours), peers(&theirs));
        let first = Region::heap(limits.page_len());
        let sender = Sender::new(1, limits, first.clone());
        let receiver = Receiver::from_beginning(limits, 1, first, theirs.clone(), 0).unwrap();
        let mut sending = Endpoint::new(ours, to_them, Some((sender, 0)), None);
        sending.told();
        (sending, Endpoint::new(theirs, to_us, None, Some(receiver)))
    }

    /// Sends, into a new page if need be, which the other end gets.
    fn send(sending: &mut Endpoint<Region>, receiving: &mut Endpoint<Region>) -> bool {
        match sending.send(Envelope::default(), &[7; 8]) {
            Ok(must_ring) => must_ring,
            Err(Refused::Blocked(crate::chain::Blocked::NeedPage(len))) => {
                let page = Region::heap(len);
                sending.outbound_mut().unwrap().add_page(page.clone());
                sending.told();
                receiving.inbound_mut().unwrap().add_page(1, page).unwrap();
                send(sending, receiving)
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn receive(receiving: &mut Endpoint<Region>) {
        let (Event::Message(slot), false) = receiving.poll().unwrap() else {
            panic!("a message, and nobody to ring")
        };
        receiving.inbound_mut().unwrap().advance(&slot);
    }

    #[test]
    fn who_sleeps_is_rung_once_by_what_is_published_and_who_is_awake_never() {
        let (mut sending, mut receiving) = channel();
        assert!(!send(&mut sending, &mut receiving), "it is awake");
        receive(&mut receiving);
        assert_eq!(receiving.park(MESSAGE), (true, false), "nobody waits for what it gave up");
        assert!(!sending.publish(), "nothing was appended");
        assert!(send(&mut sending, &mut receiving));
        assert!(!send(&mut sending, &mut receiving), "it was rung for this sleep");
        receiving.unpark();
        assert_eq!(receiving.park(MESSAGE), (false, false), "there is a message");
        sending.outbound_mut().unwrap().append(Envelope::default(), &[7; 8]).unwrap();
        assert!(!sending.publish(), "it is awake");
        receive(&mut receiving);
        assert_eq!(receiving.poll().unwrap(), (Event::Turned, false), "nobody waits for it");
        receive(&mut receiving);
        receive(&mut receiving);
        assert_eq!(receiving.park(MESSAGE), (true, false));
        receiving.unpark();
        assert!(!send(&mut sending, &mut receiving), "it is awake before anybody has looked");
    }

    #[test]
    fn who_sleeps_for_room_is_rung_by_what_is_given_up_and_who_is_awake_never() {
        for sleeps in [false, true] {
            let (mut sending, mut receiving) = channel();
            while sending.has(Wanted { room: Some(32), ..Wanted::default() }) {
                send(&mut sending, &mut receiving);
            }
            let room = Wanted { room: Some(32), ..Wanted::default() };
            if sleeps {
                assert_eq!(sending.park(room), (true, false));
            }
            receive(&mut receiving);
            receive(&mut receiving);
            assert_eq!(receiving.poll().unwrap(), (Event::Turned, sleeps), "a page is given up");
            assert!(!receiving.give_up(), "nothing more was received");
            receive(&mut receiving);
            assert!(!receiving.give_up(), "it was rung for this sleep, or is awake");
            receive(&mut receiving);
            sending.unpark();
            if sleeps {
                assert_eq!(
                    sending.park(Wanted { taken: true, ..Wanted::default() }),
                    (true, false)
                );
                assert_eq!(receiving.park(MESSAGE), (true, true), "all is taken now");
            }
        }
    }

    #[test]
    fn a_cursor_that_lies_is_the_peers_fault() {
        use crate::order::Site;
        let (mut sending, mut receiving) = channel();
        send(&mut sending, &mut receiving);
        assert_eq!(sending.lie(), None);
        let tail = sending.outbound().unwrap().tail();
        let cursor = crate::layout::cursor_offset(0);
        receiving.control.memory().store(cursor, tail + 1, Site::CursorPublish);
        assert!(sending.has(Wanted { room: Some(4096), ..Wanted::default() }), "there is a fault");
        // What it has lent others may still read.
        send(&mut sending, &mut receiving);
        let full = Err(Refused::Blocked(crate::chain::Blocked::Full));
        assert_eq!(sending.send(Envelope::default(), &[7; 8]), full);
        assert_eq!(sending.lie(), Some(Fault::CursorAhead { found: tail + 1, tail }));
    }
}

//! One end of a connection: a chain that it sends, a chain that it receives, or both, and its
//! control region. A client has one link. A channel has one at each end.
//!
//! A link does no I/O. Its owner moves packets and descriptors, rings the doorbell when a method
//! asks for it, and blocks only after [`park`](Link::park) has allowed it.

use crate::core::chain::{ChainReader, ChainWriter, Event, Peek, Refused};
use crate::core::control::{Control, Doorbell};
use crate::core::fault::Fault;
use crate::core::memory::Memory;
use crate::core::message::{Envelope, RawHeader, Slot};

/// One end of a connection.
#[derive(Debug)]
pub struct Link<M> {
    control: Control<M>,
    doorbell: Doorbell<M>,
    outbound: Option<ChainWriter<M>>,
    inbound: Option<ChainReader<M>>,
}

/// Id of the only receiver of a link's own chain.
const PEER: u32 = 0;

/// The events that a link wants to sleep for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// A message can be received.
    pub message: bool,
    /// A message that takes this many bytes in a page ([`ChainWriter::room_for`]) can be sent.
    pub room: Option<usize>,
    /// The peer has consumed everything.
    pub consumed: bool,
}

impl<M: Memory> Link<M> {
    /// Returns a link with its own control region and its peer's. `outbound` is the chain that it
    /// sends, with the index of that chain's cursor in the peer's region. The peer is admitted as
    /// its only receiver.
    pub fn new(
        control: Control<M>,
        peer: Control<M>,
        outbound: Option<(ChainWriter<M>, usize)>,
        inbound: Option<ChainReader<M>>,
    ) -> Self {
        let outbound = outbound.map(|(mut sender, cursor)| {
            sender.admit_in_place(PEER, peer.clone(), cursor);
            sender
        });
        Link { control, doorbell: Doorbell::new(peer), outbound, inbound }
    }

    /// Returns the chain that this end sends.
    pub fn outbound(&self) -> Option<&ChainWriter<M>> {
        self.outbound.as_ref()
    }

    /// Returns the chain that this end sends.
    pub fn outbound_mut(&mut self) -> Option<&mut ChainWriter<M>> {
        self.outbound.as_mut()
    }

    /// Returns the chain that this end receives.
    pub fn inbound(&self) -> Option<&ChainReader<M>> {
        self.inbound.as_ref()
    }

    /// Returns the chain that this end receives.
    pub fn inbound_mut(&mut self) -> Option<&mut ChainReader<M>> {
        self.inbound.as_mut()
    }

    /// Sets the chain that this end receives.
    pub fn receive_from(&mut self, inbound: ChainReader<M>) {
        self.inbound = Some(inbound);
    }

    /// Sends one message. Returns whether the peer must be rung.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written. A link without a chain of its own is always full.
    #[inline(always)]
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<bool, Refused> {
        let Some(outbound) = &mut self.outbound else {
            return Err(Refused::Blocked(crate::core::chain::Blocked::Full));
        };
        outbound.send(envelope, payload)?;
        Ok(self.must_ring())
    }

    /// Publishes the appended messages. Returns whether the peer must be rung.
    pub fn publish(&mut self) -> bool {
        self.outbound.as_mut().is_some_and(ChainWriter::publish) && self.must_ring()
    }

    /// Polls for a message. Also returns whether the peer must be rung, because it may be waiting
    /// for the page that was just released.
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    #[inline]
    pub fn poll(&mut self) -> Result<(Event, bool), Fault> {
        let Some(inbound) = &mut self.inbound else { return Ok((Event::Empty, false)) };
        let must_release = inbound.must_release();
        let event = inbound.poll()?;
        if event == Event::PageAdvanced {
            self.control.page_advanced();
        }
        let ring = (must_release || event == Event::PageAdvanced) && self.release();
        Ok((event, ring))
    }

    /// Returns what the receiving chain has at its position, without advancing.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<Peek> {
        self.inbound.as_ref().map(ChainReader::peek)
    }

    /// Returns the message that a [`peek`](Link::peek) left open, if it is a message by reference
    /// that needs no other step first.
    pub(crate) fn peek_ref(&self, raw: RawHeader) -> Option<Slot> {
        self.inbound.as_ref()?.peek_ref(raw)
    }

    /// Releases what was received. Returns whether the peer must be rung.
    pub fn release(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(ChainReader::release) && self.must_ring()
    }

    /// Announces a sleep and checks again. Returns whether it may block until it is rung, and
    /// whether the peer must be rung first. [`first_bounded_sleep`](Link::first_bounded_sleep) says
    /// how long it may block.
    pub fn park(&mut self, interest: Interest) -> (bool, bool) {
        let has_released = self.inbound.as_mut().is_some_and(ChainReader::release);
        self.control.park();
        let ring = has_released && self.must_ring();
        let may_sleep = !self.is_ready(interest);
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

    /// Records that the peer could not be rung.
    pub fn not_rung(&mut self) {
        self.doorbell.not_rung();
    }

    /// Announces that this end is awake.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    /// Returns whether any of the events in `interest` has happened.
    pub fn is_ready(&mut self, interest: Interest) -> bool {
        let message =
            interest.message && self.inbound.as_ref().is_some_and(ChainReader::has_message);
        message
            || self.outbound.as_mut().is_some_and(|outbound| {
                // Checking for room may reveal an invalid cursor; report it to the waiting sender.
                interest
                    .room
                    .is_some_and(|slot_len| outbound.has_room(slot_len) || outbound.has_fault())
                    || interest.consumed && outbound.is_consumed()
            })
    }

    /// Returns whether the peer must be rung after a publish.
    #[inline(always)]
    fn must_ring(&mut self) -> bool {
        if self.doorbell.is_polling() {
            return false;
        }
        self.control.ring_fence();
        self.doorbell.must_ring()
    }

    /// Returns the next announcement of our pages that the peer must be sent, see
    /// [`ChainWriter::announcement`].
    pub fn announcement(&self) -> Option<crate::core::chain::Announcement> {
        self.outbound.as_ref()?.announcement(PEER)
    }

    /// Records that the announcement was sent.
    pub fn mark_sent(&mut self) {
        if let Some(outbound) = &mut self.outbound {
            outbound.mark_sent(PEER);
        }
    }

    /// Returns whether the peer still waits for this end's cursor, see [`ChainReader::is_whole`].
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.inbound.as_ref().is_none_or(ChainReader::is_whole)
    }

    /// Returns the peer's fault if its cursor was invalid.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.outbound.as_mut()?.take_fault().map(|(_, fault)| fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::layout::control_len;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;

    const MESSAGE: Interest = Interest { message: true, room: None, consumed: false };

    /// Returns both ends of a channel. A page holds two messages of one word, a chain two pages.
    fn channel() -> (Link<Region>, Link<Region>) {
        let limits = Limits::new(144, 16, 288).unwrap();
        let control = || Control::create(Region::heap(control_len(1)), 1);
        let peers =
            |control: &Control<Region>| Control::check(control.memory().clone(), 0).unwrap();
        let (ours, theirs) = (control(), control());
        theirs.give_place(0, 1);
        let (to_us, to_them) = (peers(&ours), peers(&theirs));
        let first = Region::heap(limits.page_len());
        let sender = ChainWriter::new(1, limits, first.clone());
        let receiver = ChainReader::from_beginning(limits, 1, first, theirs.clone(), 0).unwrap();
        let mut sending = Link::new(ours, to_them, Some((sender, 0)), None);
        sending.mark_sent();
        (sending, Link::new(theirs, to_us, None, Some(receiver)))
    }

    /// Sends a message, into a new page if necessary, which the other end gets.
    fn send(sending: &mut Link<Region>, receiving: &mut Link<Region>) -> bool {
        match sending.send(Envelope::default(), &[7; 8]) {
            Ok(must_ring) => must_ring,
            Err(Refused::Blocked(crate::core::chain::Blocked::NeedPage(len))) => {
                let page = Region::heap(len);
                sending.outbound_mut().unwrap().add_page(page.clone());
                sending.mark_sent();
                receiving.inbound_mut().unwrap().add_page(1, page).unwrap();
                send(sending, receiving)
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn receive(receiving: &mut Link<Region>) {
        let (Event::Message(slot), false) = receiving.poll().unwrap() else {
            panic!("expected a message and no ring")
        };
        receiving.inbound_mut().unwrap().advance(&slot);
    }

    #[test]
    fn a_publish_rings_a_sleeping_peer_once_and_an_awake_one_never() {
        let (mut sending, mut receiving) = channel();
        assert!(!send(&mut sending, &mut receiving), "it is awake");
        receive(&mut receiving);
        assert_eq!(
            receiving.park(MESSAGE),
            (true, false),
            "the peer does not wait for the release"
        );
        assert!(!sending.publish(), "nothing was appended");
        assert!(send(&mut sending, &mut receiving));
        assert!(!send(&mut sending, &mut receiving), "it was rung for this sleep");
        receiving.unpark();
        assert_eq!(receiving.park(MESSAGE), (false, false), "there is a message");
        sending.outbound_mut().unwrap().append(Envelope::default(), &[7; 8]).unwrap();
        assert!(!sending.publish(), "it is awake");
        receive(&mut receiving);
        assert_eq!(
            receiving.poll().unwrap(),
            (Event::PageAdvanced, false),
            "the peer does not wait for it"
        );
        receive(&mut receiving);
        receive(&mut receiving);
        assert_eq!(receiving.park(MESSAGE), (true, false));
        receiving.unpark();
        assert!(!send(&mut sending, &mut receiving), "it is awake again before the peer checks");
    }

    #[test]
    fn a_release_rings_a_peer_sleeping_for_room_and_no_awake_one() {
        for sleeps in [false, true] {
            let (mut sending, mut receiving) = channel();
            while sending.is_ready(Interest { room: Some(32), ..Interest::default() }) {
                send(&mut sending, &mut receiving);
            }
            let room = Interest { room: Some(32), ..Interest::default() };
            if sleeps {
                assert_eq!(sending.park(room), (true, false));
            }
            receive(&mut receiving);
            receive(&mut receiving);
            assert_eq!(
                receiving.poll().unwrap(),
                (Event::PageAdvanced, sleeps),
                "a page is released"
            );
            assert!(!receiving.release(), "nothing more was received");
            receive(&mut receiving);
            assert!(!receiving.release(), "it was rung for this sleep, or is awake");
            receive(&mut receiving);
            sending.unpark();
            if sleeps {
                assert_eq!(
                    sending.park(Interest { consumed: true, ..Interest::default() }),
                    (true, false)
                );
                assert_eq!(receiving.park(MESSAGE), (true, true), "all is consumed now");
            }
        }
    }

    #[test]
    fn an_invalid_cursor_is_the_peers_fault() {
        use crate::core::order::Site;
        let (mut sending, mut receiving) = channel();
        send(&mut sending, &mut receiving);
        assert_eq!(sending.take_fault(), None);
        let tail = sending.outbound().unwrap().tail();
        let cursor = crate::core::layout::cursor_offset(0);
        receiving.control.memory().store(cursor, tail + 1, Site::CursorPublish);
        assert!(
            sending.is_ready(Interest { room: Some(4096), ..Interest::default() }),
            "there is a fault"
        );
        // Receivers may still read messages that were forwarded by reference.
        send(&mut sending, &mut receiving);
        let full = Err(Refused::Blocked(crate::core::chain::Blocked::Full));
        assert_eq!(sending.send(Envelope::default(), &[7; 8]), full);
        assert_eq!(sending.take_fault(), Some(Fault::CursorAhead { found: tail + 1, tail }));
    }
}

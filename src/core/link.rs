//! One end of a connection: a chain that it sends, a chain that it receives, or both, and how it
//! sleeps. What a client is made of, and both ends of a channel.
//!
//! An endpoint does no input or output. Its owner moves packets and descriptors, rings the
//! doorbell when told to, and blocks when [`park`](Link::park) says that it may.

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

/// The only receiver of an endpoint's own chain.
const PEER: u32 = 0;

/// What an endpoint wants to sleep for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Something to receive.
    pub message: bool,
    /// Room to send a message that takes so many bytes in a page ([`ChainWriter::room_for`]).
    pub room: Option<usize>,
    /// The peer has taken everything.
    pub consumed: bool,
}

impl<M: Memory> Link<M> {
    /// An endpoint with a control region of its own and its peer's. If it sends, `cursor` is the
    /// number of its chain's cursor in the peer's region, and is admitted as its only receiver.
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

    /// The chain that it sends.
    pub fn outbound(&self) -> Option<&ChainWriter<M>> {
        self.outbound.as_ref()
    }

    /// The chain that it sends.
    pub fn outbound_mut(&mut self) -> Option<&mut ChainWriter<M>> {
        self.outbound.as_mut()
    }

    /// The chain that it receives.
    pub fn inbound(&self) -> Option<&ChainReader<M>> {
        self.inbound.as_ref()
    }

    /// The chain that it receives.
    pub fn inbound_mut(&mut self) -> Option<&mut ChainReader<M>> {
        self.inbound.as_mut()
    }

    /// Gives it the chain that it receives.
    pub fn receive_from(&mut self, inbound: ChainReader<M>) {
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
            return Err(Refused::Blocked(crate::core::chain::Blocked::Full));
        };
        outbound.send(envelope, payload)?;
        Ok(self.must_ring())
    }

    /// Makes visible what was appended. Returns whether the peer must be rung.
    pub fn publish(&mut self) -> bool {
        self.outbound.as_mut().is_some_and(ChainWriter::publish) && self.must_ring()
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
        let must_release = inbound.must_release();
        let event = inbound.poll()?;
        if event == Event::PageAdvanced {
            self.control.page_advanced();
        }
        let ring = (must_release || event == Event::PageAdvanced) && self.release();
        Ok((event, ring))
    }

    /// What stands at its place in the chain that it receives, if there is one.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<Peek> {
        self.inbound.as_ref().map(ChainReader::peek)
    }

    /// What a [`peek`](Link::peek) has left open, if it is a lent message that can be taken
    /// without anything else.
    pub(crate) fn peek_ref(&self, raw: RawHeader) -> Option<Slot> {
        self.inbound.as_ref()?.peek_ref(raw)
    }

    /// Gives up what was received. Returns whether the peer must be rung.
    pub fn release(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(ChainReader::release) && self.must_ring()
    }

    /// Says that it is about to sleep and looks again. Returns whether it may block until it is rung,
    /// and whether the peer must be rung before.
    /// [`first_bounded_sleep`](Link::first_bounded_sleep) says how long it may block.
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

    /// The peer could not be rung.
    pub fn not_rung(&mut self) {
        self.doorbell.not_rung();
    }

    /// It is awake again.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    /// Whether any of what is interest is there.
    pub fn is_ready(&mut self, interest: Interest) -> bool {
        let message =
            interest.message && self.inbound.as_ref().is_some_and(ChainReader::has_message);
        message
            || self.outbound.as_mut().is_some_and(|outbound| {
                // To look for room may show a liar, and who waits for room has to hear of that.
                interest
                    .room
                    .is_some_and(|slot_len| outbound.has_room(slot_len) || outbound.has_fault())
                    || interest.consumed && outbound.is_consumed()
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

    /// What the peer must be told about our pages next, see [`ChainWriter::notice`].
    pub fn announcement(&self) -> Option<crate::core::chain::Announcement> {
        self.outbound.as_ref()?.announcement(PEER)
    }

    /// The peer has been told.
    pub fn mark_sent(&mut self) {
        if let Some(outbound) = &mut self.outbound {
            outbound.mark_sent(PEER);
        }
    }

    /// Whether the peer waits for what this end reads, see [`ChainReader::is_whole`].
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.inbound.as_ref().is_none_or(ChainReader::is_whole)
    }

    /// The fault of the peer if its cursor lied.
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

    /// A page holds two messages of a word, a chain two pages.
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

    /// Sends, into a new page if need be, which the other end gets.
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
        assert_eq!(receiving.poll().unwrap(), (Event::PageAdvanced, false), "nobody waits for it");
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
                "a page is given up"
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
                assert_eq!(receiving.park(MESSAGE), (true, true), "all is taken now");
            }
        }
    }

    #[test]
    fn a_cursor_that_lies_is_the_peers_fault() {
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
        // What it has lent others may still read.
        send(&mut sending, &mut receiving);
        let full = Err(Refused::Blocked(crate::core::chain::Blocked::Full));
        assert_eq!(sending.send(Envelope::default(), &[7; 8]), full);
        assert_eq!(sending.take_fault(), Some(Fault::CursorAhead { found: tail + 1, tail }));
    }
}

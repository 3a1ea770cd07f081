//! One end of a connection: a chain that it sends, a chain that it receives, or both, and its
//! control region. A client has both halves. A channel has one at each end.
//!
//! These types do no I/O. Their owner moves packets and descriptors, rings the doorbell when a
//! method asks for it, and blocks only after [`Parking::park`] has allowed it.

use crate::core::chain::{Announcement, ChainReader, ChainWriter, Event, Peek, Refused};
use crate::core::control::{Control, Doorbell};
use crate::core::fault::Fault;
use crate::core::memory::Memory;
use crate::core::message::{Envelope, RawHeader, Slot};
use crate::core::parking::{Half, Parking};

/// Id of the only receiver of an end's own chain.
const PEER: u32 = 0;

/// The events that an end sleeps for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// A message can be received.
    pub message: bool,
    /// A message that takes this many bytes in a page ([`ChainWriter::room_for`]) can be sent.
    pub room: Option<usize>,
    /// The peer has consumed everything.
    pub consumed: bool,
}

/// The sending half: our chain, and the doorbell of the peer that reads it.
#[derive(Debug)]
pub struct Outbound<M> {
    /// The chain that we write.
    pub chain: ChainWriter<M>,
    doorbell: Doorbell<M>,
    progress: Progress<M>,
}

/// How far the peer has come in our chain.
#[derive(Clone, Debug)]
pub struct Progress<M> {
    peer: Control<M>,
    cursor: usize,
}

impl<M: Memory> Progress<M> {
    /// Returns the peer's cursor and its consumed position.
    pub fn get(&self) -> (u64, u64) {
        (self.peer.cursor(self.cursor), self.peer.consumed(self.cursor))
    }
}

impl<M: Memory> Outbound<M> {
    /// Admits the peer as the only receiver of our chain. `cursor` is the index of the chain's
    /// cursor in the peer's control region.
    pub fn new(mut chain: ChainWriter<M>, peer: Control<M>, cursor: usize) -> Self {
        chain.admit_in_place(PEER, peer.clone(), cursor);
        Outbound {
            chain,
            doorbell: Doorbell::new(peer.clone()),
            progress: Progress { peer, cursor },
        }
    }

    /// Like [`new`](Outbound::new), for a peer that begins with the first message of the chain.
    pub fn from_first(mut chain: ChainWriter<M>, peer: Control<M>, cursor: usize) -> Self {
        chain.admit_from_first(PEER, peer.clone(), cursor);
        Outbound {
            chain,
            doorbell: Doorbell::new(peer.clone()),
            progress: Progress { peer, cursor },
        }
    }

    /// Returns how far the peer has come in our chain.
    pub fn progress(&self) -> &Progress<M> {
        &self.progress
    }

    /// Sends one message. Returns whether the peer must be rung.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    #[inline(always)]
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<bool, Refused> {
        self.chain.send(envelope, payload)?;
        Ok(self.doorbell.must_ring_after_publish())
    }

    /// Publishes the appended messages. Returns whether the peer must be rung.
    pub fn publish(&mut self) -> bool {
        self.chain.publish() && self.doorbell.must_ring_after_publish()
    }

    /// Returns whether an event in `interest` has happened.
    pub(crate) fn is_ready(&mut self, interest: Interest) -> bool {
        let is_ready = interest.room.is_some_and(|slot_len| self.chain.has_room(slot_len))
            || interest.consumed && self.chain.is_consumed();
        // The check may reveal an invalid cursor; report it to the waiting sender.
        is_ready || (interest.room.is_some() || interest.consumed) && self.chain.has_fault()
    }

    /// Returns the next announcement of our pages that the peer must be sent, see
    /// [`ChainWriter::announcement`].
    pub fn announcement(&self) -> Option<Announcement> {
        self.chain.announcement(PEER)
    }

    /// Records that the announcement was sent.
    pub fn mark_sent(&mut self) {
        self.chain.mark_sent(PEER);
    }

    /// Records that the peer could not be rung.
    pub fn not_rung(&mut self) {
        self.doorbell.not_rung();
    }

    /// Returns the peer's fault if its cursor was invalid.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.chain.take_fault().map(|(_, fault)| fault)
    }
}

/// The receiving half: the peer's chain, and the doorbell of the peer that writes it.
#[derive(Debug)]
pub struct Inbound<M> {
    /// The chain that we read.
    pub chain: ChainReader<M>,
    doorbell: Doorbell<M>,
}

impl<M: Memory> Inbound<M> {
    /// Returns the half that receives `chain` from `peer`.
    pub fn new(chain: ChainReader<M>, peer: Control<M>) -> Self {
        Inbound { chain, doorbell: Doorbell::new(peer) }
    }

    /// Polls for a message. Also returns whether the peer must be rung, because it may be waiting
    /// for the page that was just released.
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    #[inline]
    pub fn poll(&mut self, parking: &mut Parking<M>) -> Result<(Event, bool), Fault> {
        let must_release = self.chain.must_release();
        let event = self.chain.poll()?;
        if event == Event::PageAdvanced {
            parking.page_advanced();
        }
        let ring = (must_release || event == Event::PageAdvanced) && self.release();
        Ok((event, ring))
    }

    /// Returns what the chain has at its position, without advancing.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Peek {
        self.chain.peek()
    }

    /// Returns the message that a [`peek`](Inbound::peek) left open, if it is a message by reference
    /// that needs no other step first.
    pub(crate) fn peek_ref(&self, raw: RawHeader) -> Option<Slot> {
        self.chain.peek_ref(raw)
    }

    /// Releases what was received. Returns whether the peer must be rung.
    pub fn release(&mut self) -> bool {
        self.chain.release() && self.doorbell.must_ring_after_publish()
    }

    /// Records that the peer could not be rung.
    pub fn not_rung(&mut self) {
        self.doorbell.not_rung();
    }
}

/// The halves that a caller has in hand and may sleep for.
#[derive(Debug)]
pub struct Ends<'a, M> {
    /// The sending half.
    pub outbound: Option<&'a mut Outbound<M>>,
    /// The receiving half.
    pub inbound: Option<&'a mut Inbound<M>>,
}

impl<M: Memory> Ends<'_, M> {
    /// Returns whether any of the events in `interest` has happened.
    pub fn is_ready(&mut self, interest: Interest) -> bool {
        interest.message && self.inbound.as_ref().is_some_and(|half| half.chain.has_message())
            || self.outbound.as_mut().is_some_and(|half| half.is_ready(interest))
    }

    /// Releases what was received. Returns whether the cursor has moved.
    pub(crate) fn release(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(|half| half.chain.release())
    }

    /// Records that the peer could not be rung after a release.
    pub(crate) fn not_rung(&mut self) {
        if let Some(half) = &mut self.inbound {
            half.not_rung();
        }
    }

    /// Returns whether the peer must be rung after a release.
    pub(crate) fn must_ring(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(|half| half.doorbell.must_ring_after_publish())
    }
}

/// Both halves with their parked word, for an owner with one thread.
#[derive(Debug)]
pub struct Link<M> {
    /// The parked word.
    pub parking: Parking<M>,
    /// The sending half, unless this end only receives.
    pub outbound: Option<Outbound<M>>,
    /// The receiving half, unless this end only sends.
    pub inbound: Option<Inbound<M>>,
}

impl<M: Memory> Link<M> {
    /// Returns a link with its own control region and its peer's. `outbound` is the chain that it
    /// sends, with the index of that chain's cursor in the peer's region.
    pub fn new(
        control: Control<M>,
        peer: Control<M>,
        outbound: Option<(ChainWriter<M>, usize)>,
        inbound: Option<ChainReader<M>>,
    ) -> Self {
        let outbound = outbound.map(|(chain, cursor)| Outbound::new(chain, peer.clone(), cursor));
        let inbound = inbound.map(|chain| Inbound::new(chain, peer));
        Link { parking: Parking::new(control), outbound, inbound }
    }

    /// Returns the chain that this end sends.
    pub fn outbound(&self) -> Option<&ChainWriter<M>> {
        self.outbound.as_ref().map(|half| &half.chain)
    }

    /// Returns the chain that this end sends.
    pub fn outbound_mut(&mut self) -> Option<&mut ChainWriter<M>> {
        self.outbound.as_mut().map(|half| &mut half.chain)
    }

    /// Returns the chain that this end receives.
    pub fn inbound(&self) -> Option<&ChainReader<M>> {
        self.inbound.as_ref().map(|half| &half.chain)
    }

    /// Returns the chain that this end receives.
    pub fn inbound_mut(&mut self) -> Option<&mut ChainReader<M>> {
        self.inbound.as_mut().map(|half| &mut half.chain)
    }

    /// Sends one message. Returns whether the peer must be rung.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written. A link without a chain of its own is always full.
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<bool, Refused> {
        let full = Refused::Blocked(crate::core::chain::Blocked::Full);
        self.outbound.as_mut().ok_or(full)?.send(envelope, payload)
    }

    /// Publishes the appended messages. Returns whether the peer must be rung.
    pub fn publish(&mut self) -> bool {
        self.outbound.as_mut().is_some_and(Outbound::publish)
    }

    /// See [`Inbound::poll`].
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    pub fn poll(&mut self) -> Result<(Event, bool), Fault> {
        let inbound = self.inbound.as_mut();
        inbound.map_or(Ok((Event::Empty, false)), |half| half.poll(&mut self.parking))
    }

    /// Releases what was received. Returns whether the peer must be rung.
    pub fn release(&mut self) -> bool {
        self.inbound.as_mut().is_some_and(Inbound::release)
    }

    fn ends(&mut self) -> Ends<'_, M> {
        Ends { outbound: self.outbound.as_mut(), inbound: self.inbound.as_mut() }
    }

    /// Announces a sleep and checks again, see [`Parking::park`].
    pub fn park(&mut self, interest: Interest) -> (bool, bool) {
        let mut ends = Ends { outbound: self.outbound.as_mut(), inbound: self.inbound.as_mut() };
        self.parking.park(Half::Receiver, &mut ends, interest)
    }

    /// Announces that this end is awake.
    pub fn unpark(&mut self) {
        self.parking.unpark(Half::Receiver);
    }

    /// Returns whether any of the events in `interest` has happened.
    pub fn is_ready(&mut self, interest: Interest) -> bool {
        self.ends().is_ready(interest)
    }

    /// Returns the next announcement of our pages that the peer must be sent.
    pub fn announcement(&self) -> Option<Announcement> {
        self.outbound.as_ref()?.announcement()
    }

    /// Records that the announcement was sent.
    pub fn mark_sent(&mut self) {
        if let Some(half) = &mut self.outbound {
            half.mark_sent();
        }
    }

    /// Returns the peer's fault if its cursor was invalid.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.outbound.as_mut()?.take_fault()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::layout::{CONTROL_PARKED, control_len};
    use crate::core::limits::Limits;
    use crate::core::memory::Region;
    use crate::core::order::Site;

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

    // P10
    #[test]
    fn a_sleep_that_finds_a_message_uses_up_its_number() {
        let (mut sending, mut receiving) = channel();
        let word = |end: &Link<Region>| {
            end.parking.control().memory().load(CONTROL_PARKED, Site::RingRead)
        };
        send(&mut sending, &mut receiving);
        // A peer that saw this number has rung for it.
        assert_eq!(receiving.park(MESSAGE), (false, false));
        receive(&mut receiving);
        assert_eq!(receiving.park(MESSAGE), (true, false));
        assert_eq!(word(&receiving), 2);
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
        let (mut sending, mut receiving) = channel();
        send(&mut sending, &mut receiving);
        assert_eq!(sending.take_fault(), None);
        let tail = sending.outbound().unwrap().tail();
        let cursor = crate::core::layout::cursor_offset(0);
        receiving.parking.control().memory().store(cursor, tail + 1, Site::CursorPublish);
        assert!(
            sending.is_ready(Interest { room: Some(4096), ..Interest::default() }),
            "there is a fault"
        );
        // Receivers may still read messages that were forwarded by reference.
        send(&mut sending, &mut receiving);
        let full = Err(Refused::Blocked(crate::core::chain::Blocked::Full));
        assert_eq!(sending.send(Envelope::default(), &[7; 8]), full);
        let consumed = Interest { consumed: true, ..Interest::default() };
        assert_eq!(sending.park(consumed), (false, false), "there is a fault");
        assert_eq!(sending.take_fault(), Some(Fault::CursorAhead { found: tail + 1, tail }));
        assert!(!sending.is_ready(consumed), "the peer has not consumed the messages");
    }
}

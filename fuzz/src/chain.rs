//! A sender, a receiver and the expected messages, driven by an input.

use super::foreign_pages::ForeignPages;
use super::input::Input;
use super::regions::heap;
use super::seen::Seen;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::{Memory, Region};
use llmp::{ClientId, Envelope, Flags, Limits, Origin, Slot};
use std::num::NonZeroU64;

pub const PAGE_LEN: usize = 256;
/// The longest message with an origin fills the longest page, which is two ordinary ones.
pub const MAX_MESSAGE_LEN: usize = 384;
const RECEIVER: u32 = 1;
pub const BROKER: u32 = 0;

/// Returns small limits, so that pages and the budget are soon used up. The budget has 2 to 5 large
/// pages.
pub fn limits(input: &mut Input) -> Limits {
    let least = Limits::least_budget(PAGE_LEN, MAX_MESSAGE_LEN);
    let budget = least + input.below(7) * PAGE_LEN;
    Limits::new(PAGE_LEN, MAX_MESSAGE_LEN, budget).expect("these fit together")
}

/// A message as it must arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub envelope: Envelope,
    pub payload: Vec<u8>,
}

impl Sent {
    /// Returns the message of that number. The input decides its length and envelope.
    pub fn arbitrary(input: &mut Input, number: usize) -> Sent {
        let len = input.half() as usize % (MAX_MESSAGE_LEN + 9);
        let kind = input.byte();
        let is = |bit: u8| kind & bit != 0;
        let id = number as u64;
        let envelope = Envelope::tagged(if is(4) { u32::MAX } else { number as u32 })
            .with_flags(Flags(if is(2) { u16::MAX } else { 0 }))
            .with_sender(ClientId(u32::from(kind) << 20))
            .with_origin(is(1).then(|| origin(id)));
        Sent { envelope, payload: (0..len).map(|i| (i * 7 + number) as u8).collect() }
    }

    /// Returns whether it is by reference where that is possible.
    pub fn is_by_ref(&self) -> bool {
        self.envelope.sender.0 >> 20 & 8 != 0
    }
}

fn origin(id: u64) -> Origin {
    Origin::new(NonZeroU64::MAX, ClientId(id as u32), u64::MAX - id).in_epoch(!id as u32)
}

/// The receiver's own control region, instead of a page's id.
pub const OWN: u32 = u32::MAX;

/// How the receiver sees the sender's pages.
pub trait View {
    type Memory: Memory;
    /// Returns the page with this id as the receiver sees it.
    fn see(&self, id: u32, page: Region) -> Self::Memory;
    /// Returns a region of `len` bytes.
    fn make(&self, len: usize) -> Region {
        heap(len)
    }
    /// Returns whether any forged word was shown yet.
    fn is_tampered(&self) -> bool;
    /// Returns the number of words read until now, if they are counted.
    fn accesses(&self) -> u64;
}

pub struct Chain<V: View> {
    view: V,
    limits: Limits,
    pub sender: ChainWriter<Region>,
    pub receiver: ChainReader<V::Memory>,
    /// The foreign pages of a broker's chain.
    foreign_pages: Option<ForeignPages>,
    /// Messages appended and not published yet.
    run: Vec<Sent>,
    published: Vec<Sent>,
    /// The number of the next message that must arrive.
    next: usize,
    /// Whether the receiver has found a fault, after which it reads nothing more.
    pub is_over: bool,
    pub seen: Seen,
}

impl<V: View> Chain<V> {
    /// Returns a client's chain, or a broker's, which has messages by reference.
    pub fn new(view: V, limits: Limits, by_ref: bool) -> Self {
        let first = view.make(limits.page_len());
        let owner = if by_ref { BROKER } else { 3 };
        let mut sender = ChainWriter::new(owner, limits, first.clone());
        let control = heap(control_len(1));
        sender.admit(RECEIVER, Control::create(control.clone(), 1), 0);
        // The handshake sent the page.
        sender.mark_sent(RECEIVER);
        let control = Control::create(view.see(OWN, control), 1);
        let receiver = ChainReader::from_beginning(limits, owner, view.see(0, first), control, 0);
        let mut seen = Seen::default();
        let (receiver, is_over) = match receiver {
            Ok(receiver) => (receiver, false),
            Err(fault) => {
                assert!(view.is_tampered(), "{fault}");
                seen.fault(&fault);
                let (spare, control) = (heap(PAGE_LEN), heap(control_len(1)));
                let _ = ChainWriter::new(0, limits, spare.clone());
                let spare = view.see(OWN, spare);
                let control = Control::create(view.see(OWN, control), 1);
                let receiver = ChainReader::from_beginning(limits, 0, spare, control, 0);
                (receiver.expect("an honest page"), true)
            }
        };
        let (run, published) = (Vec::new(), Vec::new());
        let foreign_pages = by_ref.then(ForeignPages::default);
        Chain {
            view,
            limits,
            sender,
            receiver,
            foreign_pages,
            run,
            published,
            next: 0,
            is_over,
            seen,
        }
    }

    /// Performs all operations of the input, then reads the rest.
    pub fn run(&mut self, input: &mut Input) {
        while !input.is_over() && !self.is_over {
            match input.below(8) {
                0 => {
                    self.append(input);
                    self.publish();
                }
                1 => self.append(input),
                2 => self.publish(),
                3 => {
                    self.sender.abort();
                    if !self.run.is_empty() {
                        self.seen.mark("abort");
                    }
                    self.run.clear();
                }
                4 => self.read(1 + input.below(16)),
                5 => drop(self.receiver.release()),
                6 => self.announce(),
                _ => drop(self.sender.has_room(input.half() as usize)),
            }
            let (took, budget) = (self.sender.stats().page_bytes_peak, self.limits.budget());
            assert!(took <= budget as u64, "{took} bytes of pages, the budget is {budget}");
        }
        self.publish();
        self.read(usize::MAX);
        if !self.view.is_tampered() {
            assert_eq!(self.next, self.published.len(), "messages were lost");
            let id = self.receiver.next_message();
            assert_eq!(id, self.sender.next_message());
        }
        if self.sender.stats().reuses > 0 {
            self.seen.mark("reuse");
        }
    }

    fn append(&mut self, input: &mut Input) {
        let sent = Sent::arbitrary(input, self.published.len() + self.run.len());
        // Reading and releasing everything makes room, unless the pending batch fills the chain.
        for attempt in 0..8 {
            match self.append_by_copy_or_ref(&sent) {
                Ok(()) => {
                    if sent.envelope.origin.is_some() {
                        self.seen.mark("extension");
                    }
                    return self.run.push(sent);
                }
                Err(Refused::TooLong { len, max }) => {
                    assert!(len > max && len == sent.payload.len());
                    return self.seen.mark("too long");
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    self.sender.add_page(self.view.make(len));
                }
                Err(Refused::Blocked(Blocked::Announce)) => self.announce(),
                Err(Refused::Blocked(Blocked::Full)) => {
                    self.seen.mark("full");
                    if attempt > 2 {
                        self.publish();
                    }
                    self.announce();
                    self.read(usize::MAX);
                    self.receiver.release();
                }
            }
            if self.is_over {
                return;
            }
        }
        assert!(self.view.is_tampered(), "an idle chain has no room");
        self.is_over = true;
    }

    fn append_by_copy_or_ref(&mut self, sent: &Sent) -> Result<(), Refused> {
        let is_long = sent.is_by_ref() && sent.payload.len() <= MAX_MESSAGE_LEN;
        if let Some(foreign_pages) = self.foreign_pages.as_mut().filter(|_| is_long)
            && let Some(done) =
                foreign_pages.send_ref(&mut self.sender, sent, |len| self.view.make(len))
        {
            return done.inspect(|()| self.seen.mark("by reference in a chain"));
        }
        self.sender.append(sent.envelope, &sent.payload)
    }

    fn publish(&mut self) {
        assert_eq!(self.sender.publish(), !self.run.is_empty());
        if self.run.len() > 1 {
            self.seen.mark("batch");
        }
        self.published.append(&mut self.run);
    }

    /// Sends the receiver all announcements.
    fn announce(&mut self) {
        while let Some(announcement) = self.sender.announcement(RECEIVER) {
            let done = match announcement {
                Announcement::Page(id) => {
                    let page = self.sender.page(id).expect("a page in the pool").clone();
                    self.receiver.add_page(id, self.view.see(id, page))
                }
                Announcement::Forget(id) => {
                    self.seen.mark("forget");
                    self.receiver.forget_page(id)
                }
            };
            if let Err(fault) = done {
                assert!(self.view.is_tampered(), "{fault}");
                self.is_over = true;
            }
            self.sender.mark_sent(RECEIVER);
        }
    }

    /// Takes up to `steps` steps.
    fn read(&mut self, steps: usize) {
        // More steps than the chain's budget has room for, to detect an endless loop.
        let most = 2 + self.limits.budget() / 8;
        for step in 0..steps {
            assert!(step < most || self.view.is_tampered(), "more steps than there are slots");
            if self.is_over || step > most {
                return;
            }
            let before = (self.receiver.position(), self.receiver.next_message());
            let accesses = self.view.accesses();
            let event = self.receiver.poll();
            assert!(self.view.accesses() - accesses <= 8, "one step reads a few words");
            match event {
                Ok(event) => {
                    self.seen.event(&event);
                    match event {
                        Event::Empty => return,
                        Event::PageAdvanced => {}
                        Event::Message(slot) => self.take(&slot),
                        Event::Unknown(_) => {
                            assert!(
                                self.view.is_tampered(),
                                "no page is used before its announcement"
                            );
                            return;
                        }
                    }
                }
                Err(fault) => {
                    assert!(self.view.is_tampered(), "{fault}");
                    self.seen.fault(&fault);
                    let after = (self.receiver.position(), self.receiver.next_message());
                    assert_eq!(before, after, "after a fault the receiver stays where it is");
                    let _ = self.receiver.poll();
                    self.is_over = true;
                }
            }
        }
    }

    fn take(&mut self, slot: &Slot) {
        let len = slot.payload_len();
        assert!(len <= self.limits.max_message_len());
        let (page, at) = self.receiver.payload(slot);
        assert!(at + len <= page.region_len(), "a payload lies within its page");
        let mut payload = vec![0; len];
        self.receiver.read(slot, &mut payload);
        let envelope = self.receiver.envelope(slot);
        let id = self.receiver.next_message();
        self.receiver.advance(slot);
        if !self.view.is_tampered() {
            assert_eq!(id, self.next as u64);
            let expected = self.published.get(self.next).expect("a sent message");
            assert_eq!(&Sent { envelope, payload }, expected);
            self.next += 1;
        }
    }
}

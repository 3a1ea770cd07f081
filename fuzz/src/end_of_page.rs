//! End-of-page messages whose pages arrive correctly or not: late, never, twice, out of order, with
//! another page's header, forgotten while in use, beyond the budget.
//!
//! One oracle runs at the broker, with correct clients. The other predicts every answer of a
//! receiver: a page is added or refused for its reason; an end of page is followed, waits for its
//! page, or is a fault (P12). In a broker's chain the oracle also predicts messages by reference,
//! whose pages may be invalid.

use super::bus::{Bus, Forged};
use super::chain::{BROKER, MAX_MESSAGE_LEN, PAGE_LEN, Sent, limits};
use super::foreign_pages::ForeignPages;
use super::input::Input;
use super::regions::heap;
use super::seen::Seen;
use super::world::Scripted;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::*;
use llmp::core::memory::{Memory, Region};
use llmp::{Fault, Limits, Slot};
use std::collections::VecDeque;

const OWNER: u32 = 3;
const RECEIVER: u32 = 1;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let kind = input.below(4);
    match kind % 2 {
        0 => Bus::new(Scripted::default(), Forged::Mail, &mut input).run(&mut input),
        _ => Chain::new(limits(&mut input), kind == 3).run(&mut input),
    }
}

/// The words of a page's header, in the order in which they are validated, and a bit of each.
const HEADER: [(usize, u64); 7] = [
    (0, 1 << 7),
    (PAGE_VERSION, 1 << 3),
    (PAGE_LENGTH, 1 << 4),
    (PAGE_ID, 1),
    (PAGE_ID, 1 << 32),
    (PAGE_BASE, 1 << 5),
    (PAGE_FIRST, 1),
];

/// Instead of a word: another page.
const ANOTHER: usize = HEADER.len();

/// Returns whether `fault` is right for a page in which that word is forged.
fn deserves(word: usize, fault: &Fault) -> bool {
    match word {
        0 => matches!(fault, Fault::PageMagic { .. }),
        1 => matches!(fault, Fault::PageVersion { .. }),
        2 => matches!(fault, Fault::PageLength { .. }),
        3 => matches!(fault, Fault::PageId { .. }),
        4 => matches!(fault, Fault::PageOwner { .. }),
        5 => matches!(fault, Fault::PageBase { .. }),
        6 => matches!(fault, Fault::PageFirst { .. }),
        // The other page may not have been written yet.
        _ => matches!(fault, Fault::PageId { .. } | Fault::PageMagic { .. }),
    }
}

/// A page as it arrives.
#[derive(Clone)]
struct Arrival {
    id: u32,
    page: Region,
    /// The forged word of [`HEADER`], or [`ANOTHER`].
    forged: Option<usize>,
}

/// The words of a message by reference.
#[derive(Clone, Copy)]
struct RefMessage {
    page: u32,
    offset: usize,
    len: usize,
}

#[derive(Clone)]
enum Packet {
    Page(Arrival),
    Forget(u32),
}

struct Chain {
    limits: Limits,
    sender: ChainWriter<Region>,
    receiver: ChainReader<Region>,
    /// The foreign pages of a broker's chain.
    foreign_pages: Option<ForeignPages>,
    /// Packets that were sent and have not arrived.
    socket: VecDeque<Packet>,
    /// Pages that have arrived, as the receiver must see them.
    pool: Vec<Arrival>,
    current: Arrival,
    published: Vec<Sent>,
    next: usize,
    /// Whether packets were lost, changed or reordered.
    tampered: bool,
    is_over: bool,
    seen: Seen,
}

impl Chain {
    fn new(limits: Limits, by_ref: bool) -> Self {
        let first = heap(PAGE_LEN);
        let owner = if by_ref { BROKER } else { OWNER };
        let mut sender = ChainWriter::new(owner, limits, first.clone());
        let control = Control::create(heap(control_bytes(1)), 1);
        sender.admit(RECEIVER, control.clone(), 0);
        sender.mark_sent(RECEIVER);
        let receiver = ChainReader::from_beginning(limits, owner, first.clone(), control, 0);
        let current = Arrival { id: 0, page: first, forged: None };
        Chain {
            limits,
            sender,
            receiver: receiver.expect("an honest page"),
            foreign_pages: by_ref.then(ForeignPages::default),
            socket: VecDeque::new(),
            pool: vec![current.clone()],
            current,
            published: Vec::new(),
            next: 0,
            tampered: false,
            is_over: false,
            seen: Seen::default(),
        }
    }

    fn run(mut self, input: &mut Input) -> Seen {
        while !input.is_over() && !self.is_over {
            match input.below(8) {
                0 | 1 => self.send(input),
                2 => self.arrive(),
                3 => self.forge(input),
                4 => self.read(input),
                5 => drop(self.receiver.release()),
                6 => {
                    self.tampered = true;
                    self.socket.rotate_left(1.min(self.socket.len()));
                }
                _ => {
                    self.tampered = true;
                    self.socket.pop_front();
                }
            }
        }
        if !self.is_over {
            self.read(&mut Input::new(&[]));
        }
        assert!(self.tampered || self.is_over || self.next == self.published.len(), "lost");
        self.seen
    }

    /// Sends a message and the page that it needs.
    fn send(&mut self, input: &mut Input) {
        let sent = Sent::arbitrary(input, self.published.len());
        for _ in 0..4 {
            match self.send_by_copy_or_ref(&sent) {
                Ok(()) => return self.published.push(sent),
                Err(Refused::TooLong { .. } | Refused::Blocked(Blocked::Full)) => return,
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    self.sender.add_page(heap(len));
                }
                Err(Refused::Blocked(Blocked::Announce)) => {}
            }
            while let Some(announcement) = self.sender.announcement(RECEIVER) {
                self.socket.push_back(match announcement {
                    Announcement::Forget(id) => Packet::Forget(id),
                    Announcement::Page(id) => {
                        let page = self.sender.page(id).expect("a page in the pool").clone();
                        Packet::Page(Arrival { id, page, forged: None })
                    }
                });
                // The sender takes it as delivered.
                self.sender.mark_sent(RECEIVER);
            }
        }
    }

    fn send_by_copy_or_ref(&mut self, sent: &Sent) -> Result<(), Refused> {
        let is_long = sent.is_by_ref() && sent.payload.len() <= MAX_MESSAGE_LEN;
        if let Some(foreign_pages) = self.foreign_pages.as_mut().filter(|_| is_long)
            && let Some(done) = foreign_pages.send_ref(&mut self.sender, sent, heap)
        {
            self.sender.publish();
            return done;
        }
        self.sender.send(sent.envelope, &sent.payload)
    }

    /// Delivers the next packet.
    fn arrive(&mut self) {
        match self.socket.pop_front() {
            None => {}
            Some(Packet::Page(arrival)) => self.add(arrival),
            Some(Packet::Forget(id)) => self.forget(id),
        }
    }

    fn add(&mut self, arrival: Arrival) {
        let total = |pool: &[Arrival]| pool.iter().map(|a| a.page.region_len()).sum::<usize>();
        let found = total(&self.pool) + arrival.page.region_len();
        // While a large page is under way, the pages that it replaces still exist.
        let longest = Limits::least_budget(PAGE_LEN, MAX_MESSAGE_LEN) / 2;
        let foreign = if self.foreign_pages.is_some() { self.limits.budget() } else { 0 };
        let budget = self.limits.budget() + longest + foreign;
        let is_known = self.pool.iter().any(|known| known.id == arrival.id);
        let expected = match () {
            () if is_known => Err(Fault::PageTwice { page: arrival.id }),
            () if found > budget => Err(Fault::OverBudget { found, budget }),
            () => Ok(()),
        };
        let found = self.receiver.add_page(arrival.id, arrival.page.clone());
        if found.is_ok() {
            self.pool.push(arrival);
        }
        self.is(found, expected);
    }

    fn forget(&mut self, id: u32) {
        let at = (self.receiver.position() - self.base()) as usize;
        let expected = match self.pool.iter().position(|known| known.id == id) {
            _ if id == self.current.id => Err(Fault::PageInUse { page: id }),
            None => Err(Fault::UnknownPage { page: self.current.id, at, next: id }),
            Some(i) => {
                self.pool.swap_remove(i);
                Ok(())
            }
        };
        let found = self.receiver.forget_page(id);
        self.is(found, expected);
    }

    fn is(&mut self, found: Result<(), Fault>, expected: Result<(), Fault>) {
        assert_eq!(found, expected);
        if let Err(fault) = found {
            self.seen.fault(&fault);
        }
        let pool: usize = self.pool.iter().map(|arrival| arrival.page.region_len()).sum();
        assert_eq!(self.receiver.pages_len(), pool);
    }

    /// Sends something that a correct sender does not send.
    fn forge(&mut self, input: &mut Input) {
        let (kind, id) = (input.below(5), u32::from(input.byte() % 8));
        self.tampered = true;
        match (kind, self.socket.front().cloned()) {
            (0, Some(packet)) => self.socket.push_back(packet),
            (1, _) => self.socket.push_front(Packet::Forget(id)),
            (2, Some(Packet::Page(arrival))) if arrival.forged.is_none() => {
                let word = usize::from(input.byte()) % HEADER.len();
                self.socket[0] = Packet::Page(arrival.with_a_forged(word));
            }
            (3, _) => {
                let page = heap(PAGE_LEN * (1 + input.below(4)));
                // Only zeroes, without a magic number.
                self.socket.push_front(Packet::Page(Arrival { id, page, forged: Some(0) }));
            }
            (4, Some(Packet::Page(arrival))) if arrival.forged.is_none() => {
                let forged = (id != arrival.id).then_some(ANOTHER);
                self.socket[0] = Packet::Page(Arrival { id, forged, ..arrival });
            }
            _ => {}
        }
    }

    fn base(&self) -> u64 {
        let [base] = self.current.page.read_words(PAGE_BASE);
        base
    }

    /// Reads everything. Each step is predicted.
    fn read(&mut self, input: &mut Input) {
        let mut is_drained = false;
        // More than a chain can have slots and page rollovers.
        let steps = 4 + self.limits.budget() / SLOT_HEADER;
        for _ in 0..steps {
            let place = (self.receiver.position(), self.receiver.next_message());
            let at = (place.0 - self.base()) as usize;
            let [commit, tag] = self.current.page.read_words(at);
            let kind = high(commit).to_le_bytes()[0];
            let found = self.receiver.poll();
            if let Ok(event) = &found {
                self.seen.event(event);
            }
            match (kind, found) {
                (KIND_NONE, Ok(Event::Empty)) => return,
                (KIND_MESSAGE, Ok(Event::Message(slot))) => {
                    let mut payload = vec![0; slot.payload_len()];
                    self.receiver.read(&slot, &mut payload);
                    let envelope = self.receiver.envelope(&slot);
                    assert_eq!(Sent { envelope, payload }, self.published[self.next]);
                    self.receiver.advance(&slot);
                    self.next += 1;
                }
                (KIND_EOP | KIND_REF, found) => {
                    let reference = (kind == KIND_REF).then(|| self.reference(at));
                    let next = reference.map_or(low(tag), |reference| reference.page);
                    let page = self.pool.iter().find(|arrival| arrival.id == next).cloned();
                    match (page, found) {
                        (None, Ok(Event::Unknown(named))) => {
                            assert_eq!((named, self.place()), (next, place));
                            if is_drained || input.below(4) == 3 {
                                return self.give_in(next, at);
                            }
                            // Everything in the socket, then once more.
                            while !self.socket.is_empty() {
                                self.arrive();
                            }
                            is_drained = true;
                        }
                        (Some(page), Ok(Event::Message(slot))) => {
                            self.read_ref(
                                &slot,
                                reference.expect("no end of page is a message"),
                                &page,
                            );
                        }
                        (Some(page), Err(Fault::RefMessage { .. })) => {
                            let reference = reference.expect("a message by reference");
                            // Another page in its place may be shorter.
                            let is_beyond =
                                reference.offset + reference.len > page.page.region_len();
                            assert!(page.forged.is_some() && is_beyond);
                            self.seen.mark("by reference to another page");
                            self.is_over = true;
                            return;
                        }
                        (Some(page), Ok(Event::PageAdvanced)) => {
                            assert_eq!(reference.map(|reference| reference.page), None);
                            assert_eq!(page.forged, None, "a forged page was followed");
                            self.current = page;
                            is_drained = false;
                        }
                        (Some(page), Err(fault)) => {
                            let forged = page.forged.expect("an honest page was refused");
                            assert!(deserves(forged, &fault), "{fault} for the word {forged}");
                            assert_eq!(
                                (self.receiver.poll(), self.place()),
                                (Err(fault.clone()), place)
                            );
                            self.seen.fault(&fault);
                            self.is_over = true;
                            return;
                        }
                        (page, found) => panic!("{found:?}, and the page is {}", page.is_some()),
                    }
                }
                (kind, found) => panic!("{found:?} for a slot of kind {kind}"),
            }
        }
        panic!("{steps} steps did not come to an end");
    }

    /// Returns the reference at `at`.
    fn reference(&self, at: usize) -> RefMessage {
        let [commit, _] = self.current.page.read_words(at);
        let is_extended = high(commit).to_le_bytes()[1] & FLAG_EXTENDED != 0;
        let head = SLOT_HEADER + if is_extended { SLOT_EXTENSION } else { 0 };
        let [page, offset] = self.current.page.read_words(at + head);
        RefMessage { page: low(page), offset: offset as usize, len: low(commit) as usize }
    }

    /// Takes a message by reference: its payload is in the page that has arrived under that id.
    fn read_ref(&mut self, slot: &Slot, reference: RefMessage, page: &Arrival) {
        let mut payload = vec![0; slot.payload_len()];
        self.receiver.read(slot, &mut payload);
        let mut there = vec![0; reference.len];
        page.page.read_bytes(reference.offset, &mut there);
        assert_eq!(payload, there);
        let envelope = self.receiver.envelope(slot);
        let expected = &self.published[self.next];
        assert_eq!((envelope, payload.len()), (expected.envelope, expected.payload.len()));
        // Only the id identifies the page, and the sender must keep ids in order.
        assert!(
            page.forged.is_some() || payload == expected.payload,
            "a payload by reference changed"
        );
        self.seen.mark("read by reference");
        self.receiver.advance(slot);
        self.next += 1;
    }

    fn place(&self) -> (u64, u64) {
        (self.receiver.position(), self.receiver.next_message())
    }

    /// The page did not arrive.
    fn give_in(&mut self, next: u32, at: usize) {
        let fault = self.receiver.unknown_page(next);
        assert_eq!(fault, Fault::UnknownPage { page: self.current.id, at, next });
        self.seen.fault(&fault);
        self.is_over = true;
    }
}

impl Arrival {
    /// Returns a copy of the page with one forged word in the header.
    fn with_a_forged(self, word: usize) -> Arrival {
        let len = self.page.region_len();
        let page = heap(len);
        let mut bytes = vec![0; len];
        self.page.read_bytes(0, &mut bytes);
        page.write_bytes(0, &bytes);
        let (offset, bit) = HEADER[word];
        let [honest] = page.read_words(offset);
        page.write_words(offset, [honest ^ bit]);
        // A page that was never written has no magic number.
        let is_empty = self.page.read_words(0) == [0];
        Arrival { page, forged: Some(if is_empty { 0 } else { word }), ..self }
    }
}

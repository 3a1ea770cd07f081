//! Receivers that forge words in their control regions, and correct ones.
//!
//! A forged word disconnects only its owner (P12). The correct receivers get everything, and no
//! page changes while one of them holds it (P8). A receiver that publishes a false consumed
//! position affects no other receiver and is not removed for it, because no page is reused for
//! that.

use super::chain::{PAGE_LEN, Sent, limits};
use super::hostile::{Hostile, Mischief};
use super::input::Input;
use super::regions::heap;
use super::seen::Seen;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::{Control, Doorbell};
use llmp::core::layout::*;
use llmp::core::memory::{Memory, Region};
use llmp::{Fault, Limits};
use std::sync::{Arc, Mutex};

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let mut seen = Seen::default();
    any_region(&mut input, &mut seen);
    let limits = limits(&mut input);
    let mut bus = Bus::new(limits, seen);
    bus.admit(true);
    bus.admit(false);
    while !input.is_over() {
        bus.step(&mut input);
    }
    bus.end()
}

/// Takes any bytes as a control region, with any cursor index in it.
fn any_region(input: &mut Input, seen: &mut Seen) {
    let region = heap(WORD * (input.below(40) + 2));
    for word in 0..2.min(region.region_len() / WORD) {
        region.write_words(WORD * word, [input.word()]);
    }
    let slot = input.word() as usize;
    match Control::check(region, slot) {
        Ok(control) => {
            assert!(!Doorbell::new(control).must_ring(), "nothing is written there");
            seen.mark("control");
        }
        Err(fault) => seen.fault(&fault),
    }
}

/// The words that a hostile receiver shows instead of its own.
#[derive(Debug, Default)]
struct ForgedWords {
    /// Reads until the forgery begins, and the value shown from then on.
    shown: Option<(u8, u64)>,
    /// The only forged word, if there is one.
    only: Option<usize>,
    has_forged: bool,
    /// The highest cursor that was shown, at least the position of admission.
    highest: u64,
    ran_backwards: bool,
}

impl Mischief for ForgedWords {
    fn word(&mut self, at: usize, honest: u64) -> u64 {
        let applies = self.only.is_none_or(|only| only == at);
        let word = match self.shown.as_mut().filter(|_| applies) {
            None => honest,
            Some((0, value)) => *value,
            Some((reads, _)) => {
                *reads -= 1;
                honest
            }
        };
        if at == CONTROL_CURSORS {
            self.has_forged |= word != honest;
            self.ran_backwards |= word != 0 && word < self.highest;
            self.highest = self.highest.max(word);
        }
        word
    }
}

type Words = Hostile<Region, ForgedWords>;

fn words(region: Region) -> Words {
    Hostile::new(region, Arc::default())
}

struct Party {
    id: u32,
    /// The reader of a correct receiver.
    receiver: Option<ChainReader<Words>>,
    start: u64,
    /// The number of the next message that must arrive.
    next: usize,
    /// Payloads that were read and are not released yet, with their location.
    held: Vec<(Words, usize, Vec<u8>)>,
    control: Control<Words>,
    forged: Arc<Mutex<ForgedWords>>,
}

struct Bus {
    limits: Limits,
    sender: ChainWriter<Words>,
    parties: Vec<Party>,
    next_id: u32,
    run: Vec<Sent>,
    published: Vec<Sent>,
    /// Whether a receiver was removed for an invalid cursor.
    has_had_fault: bool,
    seen: Seen,
}

impl Bus {
    fn new(limits: Limits, seen: Seen) -> Self {
        let sender = ChainWriter::new(0, limits, words(heap(PAGE_LEN)));
        let (parties, run, published) = (Vec::new(), Vec::new(), Vec::new());
        Bus { limits, sender, parties, next_id: 1, run, published, has_had_fault: false, seen }
    }

    fn step(&mut self, input: &mut Input) {
        match input.below(10) {
            0 => {
                self.append(input);
                self.publish();
            }
            1 => self.append(input),
            2 => self.publish(),
            3 => {
                self.sender.abort();
                self.run.clear();
            }
            4 => {
                let (i, steps) = (input.below(4), input.byte());
                if let Some(party) = self.parties.get_mut(i) {
                    party.read(&self.published, steps.into(), &mut self.seen);
                }
            }
            5 => {
                let i = input.below(4);
                if let Some(party) = self.parties.get_mut(i) {
                    party.release();
                }
            }
            6 => self.forge(input),
            7 if self.parties.len() < 4 => self.admit(input.below(2) == 0),
            8 => {
                let i = input.below(4);
                if i < self.parties.len() {
                    let party = self.parties.swap_remove(i);
                    self.sender.remove_receiver(party.id);
                }
            }
            _ => {
                self.sender.has_room(input.half() as usize);
                self.look();
                self.is_consumed();
            }
        }
        self.look();
    }

    /// Checks that the sender takes no message of a correct receiver as consumed before its
    /// release.
    fn is_consumed(&mut self) {
        let (is_consumed, end) = (self.sender.is_consumed(), self.sender.position());
        let is_behind = |party: &Party| party.receiver.is_some() && party.released() < end;
        let (behind, hostile) =
            (self.parties.iter().any(is_behind), self.parties.iter().any(Party::is_hostile));
        // Without receivers everything counts as consumed, published or not.
        let is_published = end == self.sender.tail();
        assert!(!(is_consumed && behind), "not all have consumed everything");
        // A receiver with an invalid cursor may not have consumed what was sent before.
        assert!(!(is_consumed && self.has_had_fault), "a removed receiver counts");
        let is_due = is_published && !(behind || hostile || self.has_had_fault);
        assert!(is_consumed || !is_due, "all have consumed everything");
        if is_consumed && hostile {
            self.seen.mark("a hostile receiver has consumed everything");
        }
    }

    fn admit(&mut self, honest: bool) {
        let (id, forged) = (self.next_id, Arc::<Mutex<ForgedWords>>::default());
        self.next_id += 1;
        let region = Hostile::new(heap(control_len(1)), forged.clone());
        let control = Control::create(region, 1);
        let start = self.sender.admit(id, control.clone(), 0);
        forged.lock().expect("no panic").highest = start.position;
        let mut pages = Vec::new();
        while let Some(announcement) = self.sender.announcement(id) {
            let Announcement::Page(page) = announcement else { panic!("nothing to forget yet") };
            pages.push((page, self.sender.page(page).expect("a page in the pool").clone()));
            self.sender.mark_sent(id);
        }
        let receiver = honest.then(|| {
            let receiver = ChainReader::new(self.limits, 0, pages, start, control.clone(), 0);
            receiver.expect("an honest start")
        });
        let (next, held) = (start.message as usize, Vec::new());
        let start = start.position;
        self.parties.push(Party { id, receiver, start, next, held, control, forged });
    }

    /// A hostile receiver shows another value from now on, or after some more reads.
    fn forge(&mut self, input: &mut Input) {
        let (i, reads, kind, any) = (input.below(4), input.byte(), input.below(18), input.word());
        let (kind, only) = (
            kind % 6,
            [None, Some(CONTROL_CURSORS + CONTROL_CONSUMED), Some(CONTROL_CURSORS)][kind / 6],
        );
        let tail = self.sender.tail();
        let value = [any, tail, tail.wrapping_add(any), tail - any % tail, u64::MAX, 1][kind];
        if let Some(party) = self.parties.get(i).filter(|party| party.receiver.is_none()) {
            let mut forged = party.forged.lock().expect("no panic");
            (forged.shown, forged.only) = (Some((reads, value)), only);
            drop(forged);
            Doorbell::new(party.control.clone()).must_ring();
        }
    }

    fn append(&mut self, input: &mut Input) {
        let sent = Sent::arbitrary(input, self.published.len() + self.run.len());
        for attempt in 0..16 {
            match self.sender.append(sent.envelope, &sent.payload) {
                Ok(()) => return self.run.push(sent),
                Err(Refused::TooLong { len, max }) => return assert!(len > max),
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    self.sender.add_page(words(heap(len)));
                }
                Err(Refused::Blocked(Blocked::Announce)) => self.announce(),
                Err(Refused::Blocked(Blocked::Full)) => {
                    self.seen.mark("full");
                    // Removals during the attempt are processed first.
                    self.look();
                    if attempt > 2 {
                        self.publish();
                        // A receiver that does not read may hold everything without a fault.
                        for party in self.parties.extract_if(.., |p| p.receiver.is_none()) {
                            self.sender.remove_receiver(party.id);
                        }
                    }
                    self.announce();
                    for party in &mut self.parties {
                        party.read(&self.published, usize::MAX, &mut self.seen);
                        party.release();
                    }
                }
            }
            self.look();
        }
        panic!("a chain whose receivers have read everything has no room");
    }

    fn publish(&mut self) {
        self.sender.publish();
        self.published.append(&mut self.run);
    }

    fn announce(&mut self) {
        for party in &mut self.parties {
            while let Some(announcement) = self.sender.announcement(party.id) {
                if let Some(receiver) = &mut party.receiver {
                    let done = match announcement {
                        Announcement::Forget(id) => receiver.forget_page(id),
                        Announcement::Page(id) => {
                            let page = self.sender.page(id).expect("a page in the pool");
                            receiver.add_page(id, page.clone())
                        }
                    };
                    done.expect("an honest sender");
                }
                self.sender.mark_sent(party.id);
            }
        }
    }

    /// Checks that only hostile receivers are removed, that held payloads do not change, and that
    /// the budget holds.
    fn look(&mut self) {
        while let Some((id, fault)) = self.sender.take_fault() {
            assert!(matches!(fault, Fault::CursorAhead { .. } | Fault::CursorBackwards { .. }));
            self.seen.fault(&fault);
            self.has_had_fault = true;
            let i = self.parties.iter().position(|party| party.id == id);
            let party = self.parties.swap_remove(i.expect("a receiver is removed once"));
            assert!(
                party.forged.lock().expect("no panic").has_forged,
                "a correct receiver was removed"
            );
            assert_eq!(self.sender.announcement(id), None);
        }
        for party in &self.parties {
            party.look();
            let forged = party.forged.lock().expect("no panic");
            let is_believed = forged.ran_backwards || forged.highest > self.sender.tail();
            assert!(!is_believed, "an invalid cursor was believed");
        }
        assert!(self.sender.stats().page_bytes <= self.limits.budget() as u64);
    }

    fn end(mut self) -> Seen {
        self.publish();
        self.announce();
        for party in &mut self.parties {
            party.read(&self.published, usize::MAX, &mut self.seen);
            let missing = party.receiver.is_some() && party.next != self.published.len();
            assert!(!missing, "an honest receiver has not got everything");
            party.look();
        }
        if self.sender.stats().reuses > 0 {
            self.seen.mark("reuse");
        }
        self.seen
    }
}

impl Party {
    fn read(&mut self, published: &[Sent], steps: usize, seen: &mut Seen) {
        let Some(receiver) = &mut self.receiver else { return };
        for _ in 0..steps {
            let event = receiver.poll().expect("an honest sender");
            seen.event(&event);
            match event {
                Event::Empty => return,
                Event::PageAdvanced => {}
                Event::Unknown(next) => panic!("page {next} was named before it was sent"),
                Event::Message(slot) => {
                    let mut payload = vec![0; slot.payload_len()];
                    receiver.read(&slot, &mut payload);
                    let (page, at) = receiver.payload(&slot);
                    self.held.push((page.clone(), at, payload.clone()));
                    let envelope = receiver.envelope(&slot);
                    assert_eq!(receiver.next_message(), self.next as u64);
                    let expected = published.get(self.next).expect("a sent message");
                    assert_eq!(&Sent { envelope, payload }, expected);
                    receiver.advance(&slot);
                    self.next += 1;
                }
            }
        }
    }

    fn is_hostile(&self) -> bool {
        self.receiver.is_none()
    }

    /// Returns how far it has released, if it is correct.
    fn released(&self) -> u64 {
        let [cursor] = self.control.memory().read_words(CONTROL_CURSORS);
        cursor.max(self.start)
    }

    fn release(&mut self) {
        self.look();
        if let Some(receiver) = &mut self.receiver {
            receiver.release();
            self.held.clear();
        }
    }

    fn look(&self) {
        for (page, at, payload) in &self.held {
            let mut now = vec![0; payload.len()];
            page.read_bytes(*at, &mut now);
            assert!(&now == payload, "a page changed while it was held");
        }
    }
}

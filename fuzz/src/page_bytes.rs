//! Any bytes as pages: a receiver terminates and trusts nothing (P12). Pages that our own sender
//! wrote arrive unchanged (P1, P3), within the budget (P6).

use super::chain::{BROKER, Chain, PAGE_LEN, View, limits};
use super::input::Input;
use super::regions::heap;
use super::seen::Seen;
use llmp::core::chain::{ChainReader, Event, Start};
use llmp::core::control::Control;
use llmp::core::layout::*;
use llmp::core::memory::{Memory, Region};
use llmp::{Fault, Origin};

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let kind = input.below(4);
    let by_ref = kind >= 2;
    if kind.is_multiple_of(2) { raw(&mut input, by_ref) } else { written(&mut input, by_ref) }
}

/// Unchanged memory.
pub struct Plain;

impl View for Plain {
    type Memory = Region;

    fn see(&self, _: u32, page: Region) -> Region {
        page
    }

    fn is_tampered(&self) -> bool {
        false
    }

    fn accesses(&self) -> u64 {
        0
    }
}

fn written(input: &mut Input, by_ref: bool) -> Seen {
    let limits = limits(input);
    let mut chain = Chain::new(Plain, limits, by_ref);
    chain.run(input);
    chain.seen
}

/// Pages as the input describes them: their lengths, then their bytes, and headers that are
/// corrected as far as the input asks. The chain is a client's, or a broker's, which may have
/// messages by reference.
fn raw(input: &mut Input, by_ref: bool) -> Seen {
    let limits = limits(input);
    let pages = 1 + input.below(3);
    let right = input.byte();
    let owner = if by_ref { BROKER } else { 9 };
    let mut made = Vec::new();
    let mut base = 0;
    for id in 0..pages as u32 {
        let len = match input.below(64) {
            0 => PAGE_LEN,
            units => 96 + SLOT_ALIGN * units,
        };
        let page = heap(len);
        page.write_bytes(0, input.bytes(len));
        let version = halves(VERSION, PAGE_HEADER as u32);
        let words = [PAGE_MAGIC, version, len as u64, halves(id, owner), base, 0];
        for (i, word) in words.into_iter().enumerate().filter(|(i, _)| right >> i & 1 == 1) {
            page.write_words(WORD * i, [word]);
        }
        base += len as u64;
        made.push((id, page));
    }
    let start = match right >> 6 {
        0 => Start { page: 0, position: PAGE_HEADER as u64, message: 0 },
        _ => Start { page: input.byte().into(), position: input.word(), message: input.word() },
    };
    let total: usize = made.iter().map(|(_, page)| page.region_len()).sum();
    let mut seen = Seen::default();
    let control = Control::create(heap(control_len(1)), 1);
    let mut receiver = match ChainReader::new(limits, owner, made, start, control, 0) {
        Ok(receiver) => receiver,
        Err(fault) => {
            seen.fault(&fault);
            return seen;
        }
    };
    pool(&mut receiver, input, &mut seen);
    let most = total / SLOT_ALIGN + pages + 1;
    let ended = (0..most).any(|_| {
        if by_ref {
            pool(&mut receiver, input, &mut seen);
        }
        step(&mut receiver, by_ref, limits.max_message_len(), &mut seen)
    });
    assert!(ended, "{most} steps did not come to an end");
    receiver.release();
    seen
}

/// Adds and forgets pages in any order.
fn pool(receiver: &mut ChainReader<Region>, input: &mut Input, seen: &mut Seen) {
    for _ in 0..input.below(16) {
        let id = input.below(8) as u32;
        let done = match input.below(2) {
            0 => receiver.add_page(id, heap(PAGE_LEN)),
            _ => receiver.forget_page(id),
        };
        if let Err(fault) = done {
            seen.fault(&fault);
        }
    }
}

/// Takes one step. Returns whether the receiver has finished.
fn step(
    receiver: &mut ChainReader<Region>,
    by_ref: bool,
    max_message_len: usize,
    seen: &mut Seen,
) -> bool {
    let position = receiver.position();
    let (foreseen, extension) = (Reference::at(receiver), extension(receiver));
    let found = receiver.poll();
    if let Some(reference) = &foreseen {
        reference.check(receiver, by_ref, max_message_len, &found);
    }
    match found {
        Err(fault) => {
            seen.fault(&fault);
            assert_eq!(receiver.position(), position, "after a fault the receiver stays");
            assert_eq!(receiver.poll(), Err(fault), "a fault in a still page stays a fault");
            true
        }
        Ok(event) => {
            seen.event(&event);
            let Event::Message(slot) = event else { return event != Event::PageAdvanced };
            let len = slot.payload_len();
            let (page, at) = receiver.payload(&slot);
            assert!(len <= max_message_len && at + len <= page.region_len());
            receiver.read(&slot, &mut vec![0; len]);
            let origin = receiver.envelope(&slot).origin;
            assert_eq!(origin.map(words), extension, "another origin than in the page");
            receiver.advance(&slot);
            let passed = (receiver.position() - position) as usize;
            match foreseen {
                Some(reference) => {
                    seen.mark("by reference in bytes");
                    assert_eq!(passed, reference.head + SLOT_REF);
                }
                None => assert!(passed >= SLOT_HEADER + len),
            }
            false
        }
    }
}

/// Returns the words of the origin extension that the receiver will find, if there is one.
fn extension(receiver: &ChainReader<Region>) -> Option<[u64; 4]> {
    let page = receiver.page(receiver.page_id())?;
    let [base] = page.read_words(PAGE_BASE);
    let at = (receiver.position() - base) as usize;
    let [commit] = page.read_words(at);
    let [_, flags, ..] = high(commit).to_le_bytes();
    let is_inside = at + SLOT_HEADER + SLOT_EXTENSION <= page.region_len();
    (flags & FLAG_EXTENDED != 0 && is_inside).then(|| page.read_words(at + SLOT_HEADER))
}

fn words(origin: Origin) -> [u64; 4] {
    [origin.bus().get(), halves(origin.client.0, origin.epoch), origin.seq, 0]
}

/// A message by reference as its words stand in memory, not validated.
struct Reference {
    page: u32,
    page_len: usize,
    at: usize,
    commit: u64,
    head: usize,
}

impl Reference {
    /// Returns the message by reference that the receiver will find, if it is one.
    fn at(receiver: &ChainReader<Region>) -> Option<Reference> {
        let page = receiver.page(receiver.page_id())?;
        let [base] = page.read_words(PAGE_BASE);
        let at = (receiver.position() - base) as usize;
        let [commit] = page.read_words(at);
        let [kind, flags, ..] = high(commit).to_le_bytes();
        let head = SLOT_HEADER + if flags & FLAG_EXTENDED == 0 { 0 } else { SLOT_EXTENSION };
        let (page, page_len) = (receiver.page_id(), page.region_len());
        (kind == KIND_REF).then_some(Reference { page, page_len, at, commit, head })
    }

    /// Checks that a message by reference is valid only in a broker's chain, and only if its
    /// payload lies in a page that has arrived.
    fn check(
        &self,
        receiver: &ChainReader<Region>,
        by_ref: bool,
        max_message_len: usize,
        found: &Result<Event, Fault>,
    ) {
        let Reference { page, page_len, at, commit, head } = *self;
        let (len, flags) = (low(commit) as usize, high(commit).to_le_bytes()[1]);
        if !by_ref {
            return assert_eq!(*found, Err(Fault::Kind { page, at, found: KIND_REF }));
        }
        if flags & !FLAG_EXTENDED != 0 {
            return assert_eq!(*found, Err(Fault::Reserved { page, at, found: commit }));
        }
        if at + head + SLOT_REF + SLOT_HEADER > page_len || len > max_message_len {
            return assert!(matches!(found, Err(Fault::Length { .. })), "{found:?}");
        }
        let here = receiver.page(page).expect("the page that it is in");
        if flags & FLAG_EXTENDED != 0 {
            let [bus, _, _, reserved] = here.read_words(at + SLOT_HEADER);
            if reserved != 0 {
                return assert_eq!(*found, Err(Fault::Reserved { page, at, found: reserved }));
            }
            if bus == 0 {
                return assert_eq!(*found, Err(Fault::OriginBus { page, at }));
            }
        }
        let [ids, offset] = here.read_words(at + head);
        if high(ids) != 0 {
            return assert_eq!(*found, Err(Fault::Reserved { page, at, found: ids }));
        }
        let Some(there) = receiver.page(low(ids)) else {
            return assert_eq!(*found, Ok(Event::Unknown(low(ids))));
        };
        let (page, page_len) = (low(ids), there.region_len());
        let is_inside = u128::from(offset) + len as u128 <= page_len as u128;
        if !offset.is_multiple_of(SLOT_ALIGN as u64) || offset < PAGE_HEADER as u64 || !is_inside {
            return assert_eq!(*found, Err(Fault::RefMessage { page, offset, len, page_len }));
        }
        let Ok(Event::Message(slot)) = found else {
            panic!("{found:?} for a message by reference")
        };
        let (foreign, payload_at) = receiver.payload(slot);
        assert!(foreign.is_same(there), "the payload of another page");
        assert_eq!((slot.payload_len(), payload_at as u64), (len, offset));
    }
}

//! Any bytes as pages: a receiver comes to an end and believes nothing (P12). And pages that our
//! own sender wrote come out as they went in (P1, P3), within the budget (P6).

use super::chain::{Chain, PAGE_LEN, View, limits};
use super::input::Input;
use super::seen::Seen;
use llmp::chain::{Event, Receiver, Start};
use llmp::control::Control;
use llmp::layout::*;
use llmp::memory::{Memory, Region};

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    if input.below(2) == 0 { raw(&mut input) } else { written(&mut input) }
}

/// The truth.
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

fn written(input: &mut Input) -> Seen {
    let limits = limits(input);
    let mut chain = Chain::new(Plain, limits);
    chain.run(input);
    chain.seen
}

/// Pages as the input describes them: their lengths, then their bytes; a header that is put right
/// as far as the input wants.
fn raw(input: &mut Input) -> Seen {
    let limits = limits(input);
    let pages = 1 + input.below(3);
    let right = input.byte();
    let mut made = Vec::new();
    let mut base = 0;
    for id in 0..pages as u32 {
        let len = match input.below(64) {
            0 => PAGE_LEN,
            units => 96 + SLOT_ALIGN * units,
        };
        let page = Region::heap(len);
        page.write_bytes(0, input.bytes(len));
        let version = halves(VERSION, PAGE_HEADER as u32);
        let words = [PAGE_MAGIC, version, len as u64, halves(id, 9), base, 0];
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
    let control = Control::create(Region::heap(control_len(1)), 1);
    let mut receiver = match Receiver::new(limits, 9, made, start, control, 0) {
        Ok(receiver) => receiver,
        Err(fault) => {
            seen.fault(&fault);
            return seen;
        }
    };
    pool(&mut receiver, input, &mut seen);
    let most = total / SLOT_ALIGN + pages + 1;
    let ended = (0..most).any(|_| step(&mut receiver, limits.max_message_len(), &mut seen));
    assert!(ended, "{most} steps did not come to an end");
    receiver.give_up();
    seen
}

/// Pages come and go in any order.
fn pool(receiver: &mut Receiver<Region>, input: &mut Input, seen: &mut Seen) {
    for _ in 0..input.below(16) {
        let id = input.below(8) as u32;
        let done = match input.below(2) {
            0 => receiver.add_page(id, Region::heap(PAGE_LEN)),
            _ => receiver.forget_page(id),
        };
        if let Err(fault) = done {
            seen.fault(&fault);
        }
    }
}

/// One step. Returns whether the receiver has come to an end.
fn step(receiver: &mut Receiver<Region>, max_message_len: usize, seen: &mut Seen) -> bool {
    let position = receiver.position();
    match receiver.poll() {
        Err(fault) => {
            seen.fault(&fault);
            assert_eq!(receiver.position(), position, "after a fault the receiver stays");
            assert_eq!(receiver.poll(), Err(fault), "a fault in a still page stays a fault");
            true
        }
        Ok(event) => {
            seen.event(&event);
            let Event::Message(slot) = event else { return event != Event::Turned };
            let len = slot.payload_len();
            let (page, at) = receiver.payload(&slot);
            assert!(len <= max_message_len && at + len <= page.region_len());
            receiver.read(&slot, &mut vec![0; len]);
            receiver.envelope(&slot);
            receiver.advance(&slot);
            assert!(receiver.position() >= position + (SLOT_HEADER + len) as u64);
            false
        }
    }
}

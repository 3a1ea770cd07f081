//! A sender and a receiver in threads of their own, with payloads of all lengths up to 200 bytes
//! and a long one. The sender writes in place, in one go and from another region, in batches, and
//! beside dropped claims. The receiver copies, or reads in place.

use crate::regions::heap;
use crate::scenario::Descriptors;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Claim, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::{Memory, Region};
use llmp::{Envelope, Limits, Slot};
use std::thread::{spawn, yield_now};

/// Longer than what is copied in one piece, in bytes.
const LONG: usize = 5000;
const PAGE_LEN: usize = 512;
/// Number of messages.
const MESSAGES: usize = 203;

/// The source of all payloads, computed before Miri begins.
static PATTERN: [u8; LONG + MESSAGES] = {
    let mut pattern = [0; LONG + MESSAGES];
    let mut i = 0;
    while i < pattern.len() {
        pattern[i] = (i * 7 + i / 256) as u8;
        i += 1;
    }
    pattern
};

/// The lengths of payloads.
#[derive(Clone, Copy, Debug)]
pub enum Lengths {
    All,
    /// Multiples of 8. Miri's emulation of weak memory fails, as in
    /// <https://github.com/rust-lang/miri/issues/5185>, at an atomic store to a word of which a
    /// part was written plainly.
    WholeWords,
}

impl std::fmt::Display for Lengths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lengths::All => "all lengths",
            Lengths::WholeWords => "whole words",
        })
    }
}

impl Lengths {
    /// Returns the length of a message. The long one is in the middle.
    fn of(self, number: usize) -> usize {
        let len = match number {
            100 => LONG,
            number => number % 201,
        };
        match self {
            Lengths::All => len,
            Lengths::WholeWords => len.next_multiple_of(8),
        }
    }

    fn content(self, number: usize) -> &'static [u8] {
        &PATTERN[number..][..self.of(number)]
    }
}

/// The receiver copies each payload.
pub fn copied(lengths: Lengths) {
    run(
        lengths,
        |region| region,
        in_three_ways,
        move |receiver, slot, number| {
            copy(receiver, slot, lengths.content(number));
        },
    );
}

/// The receiver advances while it holds a slice into the page, until it releases the page.
pub fn borrowed(lengths: Lengths) {
    run(
        lengths,
        |region| region,
        in_three_ways,
        move |receiver, slot, number| {
            let (page, at) = receiver.payload(slot);
            let page = page.clone();
            #[allow(unsafe_code)]
            // SAFETY: the cursor is stored only after the slice is gone, and the sender follows the
            // protocol.
            let payload = unsafe { page.slice(at, slot.payload_len()) };
            receiver.advance(slot);
            yield_now();
            assert_eq!(payload, lengths.content(number), "message {number}");
        },
    );
}

/// The receiver copies, in memory wrapped by `see`.
pub fn seen_through<M: Memory + Send + 'static>(see: fn(Region) -> M) {
    let lengths = Lengths::All;
    let fill = |claim: Claim<'_, M>, payload: &[u8], _: &M, _| {
        claim.write_all(payload);
        claim.commit();
    };
    run(lengths, see, fill, move |receiver, slot, number| {
        copy(receiver, slot, lengths.content(number));
    });
}

fn copy<M: Memory>(receiver: &mut ChainReader<M>, slot: &Slot, expected: &[u8]) {
    let mut copy = vec![0; slot.payload_len()];
    receiver.read(slot, &mut copy);
    assert_eq!(copy, expected, "the message before {}", receiver.position());
    receiver.advance(slot);
}

/// Writes each message in another way than the one before.
fn in_three_ways(mut claim: Claim<'_, Region>, payload: &[u8], source: &Region, number: usize) {
    match number % 3 {
        0 => claim.write_all(payload),
        1 => claim.payload().copy_from_slice(payload),
        _ => {
            source.write_bytes(0, payload);
            claim.copy_from(source, 0);
        }
    }
    claim.commit();
}

fn run<M: Memory + Send + 'static>(
    lengths: Lengths,
    see: fn(Region) -> M,
    fill: impl Fn(Claim<'_, M>, &[u8], &M, usize),
    take: impl Fn(&mut ChainReader<M>, &Slot, usize) + Send + 'static,
) {
    let heap = |len| see(heap(len));
    let limits = Limits::new(PAGE_LEN, LONG, Limits::least_budget(PAGE_LEN, LONG)).unwrap();
    let (first, control) = (heap(limits.page_len()), heap(control_len(1)));
    let mut sending = Sending {
        sender: ChainWriter::new(1, limits, first.clone()),
        pages: Descriptors::default(),
        see,
    };
    let own = Control::create(control.clone(), 1);
    sending.sender.admit(0, Control::check(control, 0).unwrap(), 0);
    sending.sender.mark_sent(0);
    let receiver = ChainReader::from_beginning(limits, 1, first, own, 0).unwrap();
    let receives = {
        let pages = sending.pages.clone();
        spawn(move || receive(receiver, &pages, take))
    };
    let source = heap(LONG.next_multiple_of(8));
    for number in 0..MESSAGES {
        let payload = lengths.content(number);
        sending.claim(number, payload.len(), |claim| fill(claim, payload, &source, number));
        if number % 5 == 0 {
            // A dropped claim leaves no message.
            sending.claim(number, payload.len(), |claim| drop(claim));
        }
        // Batches of three.
        if number % 3 == 0 {
            sending.sender.publish();
        }
    }
    sending.sender.publish();
    receives.join().unwrap();
    assert!(sending.sender.stats().reuses > 0, "no page was written again");
    assert!(sending.sender.is_consumed());
}

/// Pages under way. `None`: the page is forgotten.
type Pages<M> = Descriptors<Option<M>>;

struct Sending<M: Memory> {
    sender: ChainWriter<M>,
    pages: Pages<M>,
    see: fn(Region) -> M,
}

impl<M: Memory> Sending<M> {
    /// Claims room for a message, as soon as there is some.
    fn claim(&mut self, number: usize, len: usize, fill: impl FnOnce(Claim<'_, M>)) {
        let sender = &mut self.sender;
        loop {
            let refused = match sender.claim(Envelope::tagged(number as u32), len) {
                Ok(claim) => return fill(claim),
                Err(refused) => refused,
            };
            match refused {
                Refused::Blocked(Blocked::NeedPage(len)) => sender.add_page((self.see)(heap(len))),
                Refused::Blocked(_) => {
                    sender.publish();
                    yield_now();
                }
                Refused::TooLong { .. } => panic!("{refused:?}"),
            }
            while let Some(announcement) = sender.announcement(0) {
                match announcement {
                    Announcement::Page(id) => self.pages.send(id, sender.page(id).cloned()),
                    Announcement::Forget(id) => self.pages.send(id, None),
                }
                sender.mark_sent(0);
            }
        }
    }
}

fn receive<M: Memory>(
    mut receiver: ChainReader<M>,
    pages: &Pages<M>,
    take: impl Fn(&mut ChainReader<M>, &Slot, usize),
) {
    let mut number = 0;
    while number < MESSAGES {
        match receiver.poll().unwrap() {
            Event::Empty => {
                receiver.release();
                yield_now();
            }
            Event::PageAdvanced => drop(receiver.release()),
            Event::Unknown(_) => {
                let (id, page) = pages.receive().expect("it was sent before");
                match page {
                    Some(page) => receiver.add_page(id, page).unwrap(),
                    None => receiver.forget_page(id).unwrap(),
                }
            }
            Event::Message(slot) => {
                assert_eq!(receiver.envelope(&slot).tag.0, number as u32);
                take(&mut receiver, &slot, number);
                number += 1;
            }
        }
    }
    receiver.release();
}

//! A sender and a receiver in threads of their own, with payloads of all lengths up to 200 bytes
//! and a long one. The sender writes in place, in one go and from another region, in batches, and
//! beside dropped claims. The receiver copies from the heap, or reads in place in mapped memory.

use crate::mutant::{Mutant, Mutated};
use crate::regions::heap;
use crate::scenario::Descriptors;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Claim, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::{OS_PAGE, control_len};
use llmp::core::memory::{Memory, Region};
use llmp::{Envelope, Limits, ReceivedFd, Slot};
use std::ops::Range;
use std::thread::{spawn, yield_now};

/// Longer than what is copied in one piece, in bytes.
const LONG: usize = 5000;
/// The most messages.
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
    /// Returns the number of messages.
    fn messages(self) -> usize {
        match self {
            Lengths::All => MESSAGES,
            // Each length four times.
            Lengths::WholeWords => 104,
        }
    }

    /// Returns the length of a message. The long one is in the middle.
    fn of(self, number: usize) -> usize {
        match self {
            _ if number == self.messages() / 2 => LONG,
            Lengths::All => number % 201,
            Lengths::WholeWords => 8 * number % 208,
        }
    }

    fn content(self, number: usize) -> &'static [u8] {
        &PATTERN[number..][..self.of(number)]
    }
}

/// The receiver copies each payload, from the heap.
pub fn copied(lengths: Lengths) {
    let regions = Regions { new: heap, share: Region::clone, page_len: 512, longest: LONG };
    let take = move |receiver: &mut ChainReader<_>, slot: &Slot, number| {
        copy(receiver, slot, lengths.content(number));
    };
    let reuses = run(lengths, 0..lengths.messages(), regions, in_three_ways, take);
    assert!(reuses > 0, "no page was written again");
}

/// The receiver advances while it holds a slice into the page, until it releases the page. Each side
/// writes memory of the kernel, and the other one maps it.
pub fn borrowed(lengths: Lengths) {
    let regions = Regions { new: shared, share: map, page_len: OS_PAGE, longest: LONG };
    let take = move |receiver: &mut ChainReader<Region>, slot: &Slot, number| {
        let (page, at) = receiver.payload(slot);
        let page = page.clone();
        #[allow(unsafe_code)]
        // SAFETY: the cursor is stored only after the slice is gone, and the sender follows the
        // protocol.
        let payload = unsafe { page.slice(at, slot.payload_len()) };
        receiver.advance(slot);
        yield_now();
        assert_eq!(payload, lengths.content(number), "message {number}");
    };
    let reuses = run(lengths, 0..lengths.messages(), regions, in_three_ways, take);
    // The few messages of whole words may all fit into the budget.
    let may_fit = matches!(lengths, Lengths::WholeWords);
    assert!(reuses > 0 || may_fit, "no page was written again");
}

fn shared(len: usize) -> Region {
    crate::regions::shared("llmp-miri", len).unwrap()
}

/// Returns the region as another process has it.
fn map(region: &Region) -> Region {
    let descriptor = region.descriptor().unwrap().try_clone_to_owned().unwrap();
    ReceivedFd::new(descriptor).map(0, usize::MAX).unwrap()
}

/// How regions are made, and how they come to the other side.
#[derive(Clone, Copy)]
struct Regions<N, S> {
    new: N,
    share: S,
    page_len: usize,
    /// The length of the longest message, in bytes.
    longest: usize,
}

/// The receiver copies, in the memory of a mutant. With few pages, each is soon written again.
pub fn seen_by(mutant: &Mutant) {
    let lengths = Lengths::WholeWords;
    let fill = |claim: Claim<'_, Mutated>, payload: &[u8], _: &Mutated, _| {
        claim.write_all(payload);
        claim.commit();
    };
    let new = |len| mutant.see(heap(len));
    let regions = Regions { new, share: Mutated::clone, page_len: 512, longest: 200 };
    run(lengths, 101..141, regions, fill, move |receiver, slot, number| {
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

/// Sends and receives these messages. Returns how many pages were written again.
fn run<M: Memory + Send + 'static>(
    lengths: Lengths,
    numbers: Range<usize>,
    regions: Regions<impl Fn(usize) -> M, impl Fn(&M) -> M>,
    fill: impl Fn(Claim<'_, M>, &[u8], &M, usize),
    take: impl Fn(&mut ChainReader<M>, &Slot, usize) + Send + 'static,
) -> u64 {
    let Regions { new, share, page_len, longest } = &regions;
    let budget = Limits::least_budget(*page_len, *longest);
    let limits = Limits::new(*page_len, *longest, budget).unwrap();
    let (first, control) = (new(limits.page_len()), new(control_len(1)));
    let mut sending = Sending {
        sender: ChainWriter::new(1, limits, first.clone()),
        pages: Descriptors::default(),
        regions: &regions,
    };
    let receivers = share(&control);
    let own = Control::create(control, 1);
    sending.sender.admit(0, Control::check(receivers, 0).unwrap(), 0);
    sending.sender.mark_sent(0);
    let receiver = ChainReader::from_beginning(limits, 1, share(&first), own, 0).unwrap();
    let receives = {
        let pages = sending.pages.clone();
        let numbers = numbers.clone();
        spawn(move || receive(receiver, &pages, numbers, take))
    };
    let source = new(LONG.next_multiple_of(8));
    for number in numbers {
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
    assert!(sending.sender.is_consumed());
    sending.sender.stats().reuses
}

/// Pages under way. `None`: the page is forgotten.
type Pages<M> = Descriptors<Option<M>>;

struct Sending<'a, M: Memory, N, S> {
    sender: ChainWriter<M>,
    pages: Pages<M>,
    regions: &'a Regions<N, S>,
}

impl<M: Memory, N: Fn(usize) -> M, S: Fn(&M) -> M> Sending<'_, M, N, S> {
    /// Claims room for a message, as soon as there is some.
    fn claim(&mut self, number: usize, len: usize, fill: impl FnOnce(Claim<'_, M>)) {
        let sender = &mut self.sender;
        loop {
            let refused = match sender.claim(Envelope::tagged(number as u32), len) {
                Ok(claim) => return fill(claim),
                Err(refused) => refused,
            };
            match refused {
                Refused::Blocked(Blocked::NeedPage(len)) => {
                    sender.add_page((self.regions.new)(len))
                }
                Refused::Blocked(_) => {
                    sender.publish();
                    yield_now();
                }
                Refused::TooLong { .. } => panic!("{refused:?}"),
            }
            while let Some(announcement) = sender.announcement(0) {
                match announcement {
                    Announcement::Page(id) => {
                        self.pages.send(id, sender.page(id).map(&self.regions.share))
                    }
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
    mut numbers: Range<usize>,
    take: impl Fn(&mut ChainReader<M>, &Slot, usize),
) {
    while let Some(number) = (!numbers.is_empty()).then_some(numbers.start) {
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
                numbers.next();
            }
        }
    }
    receiver.release();
}

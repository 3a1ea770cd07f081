//! A chain in one thread, step by step. The models explore the order of events. These tests explore
//! lengths and boundaries.

#[path = "common/regions.rs"]
mod regions;

use llmp::core::chain::{Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::Region;
use llmp::{ClientId, Envelope, Fault, Flags, Limits, Origin};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regions::heap;
use std::collections::VecDeque;
use std::num::NonZeroU64;

struct Chain {
    sender: ChainWriter<Region>,
    receiver: ChainReader<Region>,
}

impl Chain {
    fn new(limits: Limits) -> Self {
        let first = heap(limits.page_len());
        let control = Control::create(heap(control_len(1)), 1);
        let mut sender = ChainWriter::new(1, limits, first.clone());
        sender.admit(0, control.clone(), 0);
        sender.mark_sent(0);
        let receiver = ChainReader::from_beginning(limits, 1, first, control, 0).unwrap();
        Chain { sender, receiver }
    }

    /// Makes a claim, giving the chain the page that it needs.
    fn append(&mut self, envelope: Envelope, payload: &[u8], commit: bool) -> Result<(), Blocked> {
        self.append_part(envelope, payload, payload.len(), commit)
    }

    /// Claims room for the whole payload, writes it, and keeps `kept` bytes.
    fn append_part(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        kept: usize,
        commit: bool,
    ) -> Result<(), Blocked> {
        loop {
            let mut claim = match self.sender.claim(envelope, payload.len()) {
                Ok(claim) => claim,
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    self.add_page(len);
                    continue;
                }
                Err(Refused::Blocked(blocked)) => return Err(blocked),
                Err(refused) => panic!("{refused:?}"),
            };
            claim.write_all(payload);
            claim.truncate(kept);
            if commit {
                claim.commit();
            }
            return Ok(());
        }
    }

    fn add_page(&mut self, len: usize) {
        self.sender.add_page(heap(len));
        while let Some(announcement) = self.sender.announcement(0) {
            match announcement {
                llmp::core::chain::Announcement::Page(id) => {
                    let page = self.sender.page(id).unwrap().clone();
                    self.receiver.add_page(id, page).unwrap();
                }
                llmp::core::chain::Announcement::Forget(id) => {
                    self.receiver.forget_page(id).unwrap()
                }
            }
            self.sender.mark_sent(0);
        }
    }

    /// Returns the next message, if there is one.
    fn take(&mut self) -> Result<Option<(Envelope, Vec<u8>)>, Fault> {
        loop {
            match self.receiver.poll()? {
                Event::Empty => return Ok(None),
                Event::PageAdvanced => drop(self.receiver.release()),
                Event::Unknown(page) => panic!("page {page} was sent"),
                Event::Message(slot) => {
                    let mut payload = vec![0; slot.payload_len()];
                    self.receiver.read(&slot, &mut payload);
                    let envelope = self.receiver.envelope(&slot);
                    self.receiver.advance(&slot);
                    return Ok(Some((envelope, payload)));
                }
            }
        }
    }
}

/// Returns an origin whose values all differ.
fn origin_of(number: u32) -> Origin {
    let bus = NonZeroU64::MAX;
    Origin::new(bus, ClientId(1 << 31 | number), (number << 8).into()).in_epoch(!number)
}

fn small() -> Limits {
    Limits::new(192, 300, Limits::least_budget(192, 300)).unwrap()
}

// P3, P8: only the end of the page is visible, and the page after it is still empty.
#[test]
fn a_claim_dropped_after_a_page_advance_shows_no_old_bytes() {
    let mut chain = Chain::new(small());
    let mut stale = false;
    for round in 0..50u8 {
        chain.append(Envelope::default(), &[round; 80], true).unwrap();
        chain.sender.publish();
        assert_eq!(chain.take().unwrap().unwrap().1, [round; 80]);
        let turns = chain.sender.stats().reuses;
        chain.append(Envelope::default(), &[99; 80], false).unwrap();
        chain.sender.publish();
        stale |= chain.sender.stats().reuses > turns;
        assert_eq!(chain.take(), Ok(None));
    }
    assert!(stale, "no page was written again in a claim that was dropped");
}

#[derive(Clone, Debug)]
enum Step {
    Append { len: usize, kept: usize, origin: bool },
    DropClaim { len: usize },
    Publish,
    Abort,
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    // Around the boundaries of words, slots, ordinary and larger pages.
    let len = prop_oneof![0..20usize, 76..100usize, 284..=300usize];
    prop_oneof![
        4 => (len.clone(), any::<bool>())
            .prop_map(|(len, origin)| Step::Append { len, kept: len, origin }),
        2 => (len.clone(), len.clone(), any::<bool>())
            .prop_map(|(len, kept, origin)| Step::Append { len, kept, origin }),
        1 => len.prop_map(|len| Step::DropClaim { len }),
        3 => Just(Step::Publish),
        1 => Just(Step::Abort),
        5 => Just(Step::Take),
    ]
}

#[test]
fn p1_a_message_written_in_place_arrives_and_is_counted() {
    let mut chain = Chain::new(small());
    let envelope = Envelope::tagged(9u32).with_sender(ClientId(3));
    for text in [&b"first"[..], b"second"] {
        let mut claim = chain.sender.claim(envelope, text.len()).unwrap();
        claim.payload().copy_from_slice(text);
        claim.commit();
        chain.sender.publish();
    }
    for text in [&b"first"[..], b"second"] {
        assert_eq!(chain.take().unwrap(), Some((envelope, text.to_vec())));
    }
    let stats = chain.sender.stats();
    assert_eq!((stats.messages, stats.payload_bytes), (2, 11));
    // Each message takes a page of its own. The second page advance returns to the first page.
    let mut counted = Vec::new();
    for _ in 0..4 {
        chain.append(Envelope::default(), &[7; 80], true).unwrap();
        chain.sender.publish();
        chain.take().unwrap().unwrap();
        let stats = chain.sender.stats();
        counted.push((stats.rollovers, stats.reuses, stats.page_bytes / 192));
    }
    assert_eq!(counted, [(1, 0, 2), (2, 1, 2), (3, 2, 2), (4, 3, 2)]);
}

#[test]
fn p6_no_more_free_pages_give_way_to_a_longer_one_than_have_to() {
    let mut chain = Chain::new(Limits::new(256, 500, 7 * 256).unwrap());
    // A page each.
    for _ in 0..7 {
        chain.append(Envelope::default(), &[7; 150], true).unwrap();
    }
    chain.sender.publish();
    assert_eq!(chain.sender.stats().page_bytes, 7 * 256);
    while chain.take().unwrap().is_some() {}
    chain.receiver.release();
    // Needs a page of triple length.
    chain.append(Envelope::default(), &[7; 500], true).unwrap();
    assert_eq!(chain.sender.stats().page_bytes, 7 * 256);
}

/// `PROPTEST_CASES` asks for more; what fails is kept, and tried first from then on.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: if asked { config.cases } else { 2000 },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/chain.proptest-regressions",
        ))),
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    // P1, P3, P6: compares the chain with two queues, the pending batch and the published messages.
    #[test]
    fn a_chain_is_a_queue_within_its_budget(steps in prop::collection::vec(step(), 1..120)) {
        let limits = small();
        let mut chain = Chain::new(limits);
        let mut run: VecDeque<(Envelope, Vec<u8>)> = VecDeque::new();
        let mut published: VecDeque<(Envelope, Vec<u8>)> = VecDeque::new();
        let mut number = 0u32;
        for step in steps {
            match step {
                Step::Append { len, kept, origin } => {
                    number += 1;
                    let origin = origin.then(|| origin_of(number));
                    let envelope = Envelope::tagged(number)
                        .with_flags(Flags(number as u16))
                        .with_sender(ClientId(3))
                        .with_origin(origin);
                    let mut payload: Vec<u8> = (0..len).map(|i| (i as u32 ^ number) as u8).collect();
                    match chain.append_part(envelope, &payload, kept, true) {
                        Ok(()) => {
                            payload.truncate(kept);
                            run.push_back((envelope, payload));
                        }
                        // Only if something is left to be taken or published.
                        Err(blocked) => {
                            prop_assert_eq!(blocked, Blocked::Full);
                            prop_assert!(!run.is_empty() || !published.is_empty() || !chain.sender.is_consumed());
                        }
                    }
                }
                Step::DropClaim { len } => {
                    let _ = chain.append(Envelope::default(), &vec![0xee; len], false);
                }
                Step::Publish => {
                    chain.sender.publish();
                    published.append(&mut run);
                }
                Step::Abort => {
                    chain.sender.abort();
                    run.clear();
                }
                Step::Take => prop_assert_eq!(chain.take().unwrap(), published.pop_front()),
            }
            prop_assert!(chain.sender.stats().page_bytes <= limits.budget() as u64);
        }
        chain.sender.publish();
        published.append(&mut run);
        while let Some(expected) = published.pop_front() {
            prop_assert_eq!(chain.take().unwrap(), Some(expected));
        }
        prop_assert_eq!(chain.take().unwrap(), None);
        chain.receiver.release();
        prop_assert!(chain.sender.is_consumed());
    }
}

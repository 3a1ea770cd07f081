//! A client of a bus without sockets: production's link, and mailboxes for its packets.

use super::super::chain::{PAGE_LEN, Sent};
use super::super::regions::heap;
use super::super::seen::Seen;
use super::super::world::World;
use super::ledger::Ledger;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused, Start};
use llmp::core::control::Control;
use llmp::core::layout::{CONTROL_CURSORS, KIND_REF, PAGE_BASE, high};
use llmp::core::link::{Interest, Link};
use llmp::core::memory::{Memory, Region};
use llmp::{ClientId, Limits};
use std::collections::VecDeque;

/// A packet to the broker.
#[derive(Clone, Debug)]
pub enum Mail {
    Page { id: u32, page: Region },
    Forget(u32),
}

/// A packet to a client.
pub enum News<M> {
    Page { id: u32, page: M },
    Forget(u32),
}

pub struct Client<M: Memory> {
    pub id: ClientId,
    pub is_hostile: bool,
    pub link: Link<M>,
    /// Its own pages as it shares them.
    regions: Vec<(u32, Region)>,
    next_page: u32,
    /// Packets on the way to it.
    pub inbox: VecDeque<News<M>>,
    /// Packets on the way to the broker.
    pub outbox: VecDeque<Mail>,
    /// Packets that a hostile client delays.
    pub held: Vec<Mail>,
    /// Whether the broker was sent anything of it.
    pub has_begun: bool,
    run: Vec<Sent>,
    /// The events that it sleeps for.
    pub asleep: Option<Interest>,
    /// Whether its socket is full.
    pub is_socket_full: bool,
    /// Its control region, which has its cursor.
    own: M,
    /// Payloads in pages of correct clients that are read in place and not released yet.
    borrowed: Vec<Borrowed<M>>,
}

/// A payload in place, and the position after its message.
struct Borrowed<M> {
    end: u64,
    page: M,
    at: usize,
    payload: Vec<u8>,
}

/// The parts from which a client begins.
pub struct Birth<M> {
    pub id: ClientId,
    pub is_hostile: bool,
    /// Its own control region, and the broker's with the cursor for its chain.
    pub own: Control<M>,
    pub peer: Control<M>,
    pub cursor: usize,
    pub pages: Vec<(u32, M)>,
    /// Where it receives from, if it does.
    pub start: Option<Start>,
}

impl<M: Memory> Client<M> {
    pub fn new<W: World<Memory = M>>(world: &W, limits: Limits, birth: Birth<M>) -> Self {
        let Birth { id, is_hostile, own, peer, cursor, pages, start } = birth;
        let (first, region) = (heap(PAGE_LEN), own.memory().clone());
        let sender = ChainWriter::new(id.0, limits, world.honest(first.clone()));
        let inbound = start.map(|start| {
            let inbound = ChainReader::new(limits, 0, pages, start, own.clone(), 0);
            inbound.expect("an honest start")
        });
        let mut client = Client {
            id,
            is_hostile,
            link: Link::new(own, peer, Some((sender, cursor)), inbound),
            regions: vec![(0, first)],
            next_page: 1,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            held: Vec::new(),
            has_begun: false,
            run: Vec::new(),
            asleep: None,
            is_socket_full: false,
            own: region,
            borrowed: Vec::new(),
        };
        client.post();
        client
    }

    /// Puts the announcements of its pages into the outbox.
    fn post(&mut self) {
        while let Some(announcement) = self.link.announcement() {
            self.outbox.push_back(match announcement {
                Announcement::Forget(id) => Mail::Forget(id),
                Announcement::Page(id) => {
                    let mut regions = self.regions.iter();
                    let region = regions.find(|(known, _)| *known == id);
                    Mail::Page { id, page: region.expect("a page of its own").1.clone() }
                }
            });
            self.link.mark_sent();
        }
    }

    /// Appends a message to its pending batch if there is room.
    pub fn append<W: World<Memory = M>>(&mut self, world: &W, sent: Sent, seen: &mut Seen) {
        loop {
            let outbound = self.link.outbound_mut().expect("every client sends");
            match outbound.append(sent.envelope, &sent.payload) {
                Ok(()) => return self.run.push(sent),
                Err(Refused::TooLong { len, max }) => return assert!(len > max),
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    let region = heap(len);
                    outbound.add_page(world.honest(region.clone()));
                    self.regions.push((self.next_page, region));
                    self.next_page += 1;
                }
                Err(Refused::Blocked(Blocked::Announce)) => {}
                Err(Refused::Blocked(Blocked::Full)) => return seen.mark("own chain full"),
            }
            self.post();
        }
    }

    /// Publishes its pending batch. Returns whether the broker must be rung.
    pub fn publish(&mut self, ledger: &mut Ledger, passes: impl Fn(&Sent) -> bool) -> bool {
        for mut sent in self.run.drain(..) {
            sent.envelope.sender = self.id;
            if passes(&sent) {
                ledger.committed(self.id, sent);
            }
        }
        self.link.publish()
    }

    pub fn abort(&mut self) {
        self.run.clear();
        self.link.outbound_mut().expect("every client sends").abort();
    }

    /// Takes up to `steps` steps. Returns whether it did anything, and whether the broker must be
    /// rung.
    pub fn receive(
        &mut self,
        ledger: &mut Ledger,
        steps: usize,
        is_tampered: impl Fn() -> bool,
        may_share: bool,
        seen: &mut Seen,
    ) -> (bool, bool) {
        let (mut worked, mut ring) = (false, false);
        for _ in 0..steps {
            let (event, must_ring) = match self.link.poll() {
                Ok(event) => event,
                // A receiver with an invalid cursor may read a reused page.
                Err(fault) => {
                    assert!(self.is_hostile, "{fault}");
                    break;
                }
            };
            ring |= must_ring;
            let Some(inbound) = self.link.inbound_mut() else { break };
            match event {
                Event::Empty => break,
                Event::PageAdvanced => {}
                Event::Message(slot) => {
                    let mut payload = vec![0; slot.payload_len()];
                    inbound.read(&slot, &mut payload);
                    let envelope = inbound.envelope(&slot);
                    let number = inbound.next_message();
                    let is_by_ref = is_by_ref(inbound);
                    assert!(may_share || !is_by_ref, "by reference against the broker's setting");
                    let (page, at) = inbound.payload(&slot);
                    let page = page.clone();
                    inbound.advance(&slot);
                    if self.is_hostile {
                        worked = true;
                        continue;
                    }
                    if is_by_ref && !ledger.is_hostile(envelope.sender) {
                        let (end, payload) = (inbound.position(), payload.clone());
                        self.borrowed.push(Borrowed { end, page, at, payload });
                    }
                    // This may have been the first forged word.
                    if is_tampered() {
                        ledger.tampered();
                    }
                    ledger.arrived(number, Sent { envelope, payload }, is_by_ref, seen);
                }
                Event::Unknown(page) => {
                    if self.inbox.is_empty() {
                        assert!(self.is_hostile, "page {page} was named before it was sent");
                        break;
                    }
                    self.read_inbox();
                }
            }
            worked = true;
        }
        (worked, ring)
    }

    /// A message by reference does not change before it is released. [P8]
    pub fn look(&mut self) {
        if self.borrowed.is_empty() {
            return;
        }
        let [cursor] = self.own.read_words(CONTROL_CURSORS);
        self.borrowed.retain(|borrowed| borrowed.end > cursor);
        for Borrowed { page, at, payload, .. } in &self.borrowed {
            let mut now = vec![0; payload.len()];
            page.read_bytes(*at, &mut now);
            assert!(
                now == *payload,
                "a message by reference changed while client {} held it",
                self.id
            );
        }
    }

    pub fn awake(&mut self) {
        self.asleep = None;
        self.link.unpark();
    }

    /// Reads everything that the broker has sent.
    pub fn read_inbox(&mut self) {
        let Some(inbound) = self.link.inbound_mut() else { return };
        for news in self.inbox.drain(..) {
            let done = match news {
                News::Page { id, page } => inbound.add_page(id, page),
                News::Forget(id) => inbound.forget_page(id),
            };
            assert!(self.is_hostile || done.is_ok(), "{done:?}");
        }
    }
}

/// Returns whether the next message is by reference. The broker is correct.
fn is_by_ref<M: Memory>(inbound: &ChainReader<M>) -> bool {
    let page = inbound.page(inbound.page_id()).expect("the page that it is in");
    let [base] = page.read_words(PAGE_BASE);
    let [commit] = page.read_words((inbound.position() - base) as usize);
    high(commit).to_le_bytes()[0] == KIND_REF
}

//! The part of the broker's sockets: packets in, the core's cycles and its actions out.

use super::super::chain::{MAX_MESSAGE_LEN, PAGE_LEN};
use super::super::input::Input;
use super::super::regions::heap;
use super::super::world::{CONTROL, World};
use super::client::{Mail, News};
use super::{Bus, CLIENTS};
use llmp::core::broker::Action;
use llmp::core::chain::{Announcement, Blocked};
use llmp::core::layout::WORD;
use llmp::{ClientId, Fault};

impl<W: World> Bus<W> {
    /// Runs one cycle of the broker, if it is awake. Returns whether it did anything.
    pub(super) fn cycle(&mut self, input: &mut Input) -> bool {
        if self.is_asleep && self.has_news() {
            // There is room in a socket.
            self.wake();
        }
        if self.is_asleep {
            return false;
        }
        let (links, accesses) = (self.core.clients(), self.world.accesses());
        let cycle = self.core.cycle();
        assert!(cycle.consumed <= links * self.budget.messages, "more than its share");
        // Two header words, four of the origin, the payload in pieces.
        // Cursors at a page rollover, and at the end of the cycle the parked words.
        let per_message = 8 + MAX_MESSAGE_LEN.div_ceil(WORD) + 2 * CLIENTS;
        let most = (links * (self.budget.messages + 3) * per_message) as u64;
        let accesses = self.world.accesses() - accesses;
        assert!(accesses <= most, "{accesses} words were read in one cycle");
        let mut worked = cycle.consumed > 0;
        match cycle.blocked {
            Some(Blocked::NeedPage(len)) => {
                self.core.add_page(self.world.honest(heap(len)));
                worked = true;
            }
            Some(Blocked::Full) => self.seen.mark("broadcast chain full"),
            _ => {}
        }
        self.act(input);
        self.announce() || worked
    }

    /// Performs the core's actions.
    pub(super) fn act(&mut self, input: &mut Input) {
        loop {
            let actions = self.core.take_actions();
            if actions.is_empty() {
                return;
            }
            assert!(actions.len() <= 3 * CLIENTS, "more to do than there are clients");
            for action in actions {
                match action {
                    Action::Ring(id) => {
                        if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
                            if client.asleep.is_some() {
                                self.seen.mark("client slept and was rung");
                            }
                            client.awake();
                        }
                    }
                    Action::Drain(id) => self.drain(id, input),
                    Action::Remove(id, fault) => self.removed(id, fault),
                }
            }
        }
    }

    fn drain(&mut self, id: ClientId, input: &mut Input) {
        let Some(i) = self.clients.iter().position(|client| client.id == id) else { return };
        if input.below(4) == 3 {
            self.seen.mark("drained in part");
            self.deliver(i, 1);
            self.core.not_drained(id);
        } else {
            self.seen.mark("drained");
            self.deliver(i, usize::MAX);
            self.core.drained(id);
        }
    }

    fn removed(&mut self, id: ClientId, fault: Option<Fault>) {
        let i = self.clients.iter().position(|client| client.id == id);
        match fault {
            None => assert!(i.is_none(), "client {id} is gone without a word"),
            Some(fault) => {
                assert!(self.is_tampered(), "a correct client was disconnected: {fault}");
                // A hostile client that has left has no mailboxes any more.
                assert!(
                    i.is_none_or(|i| self.clients[i].is_hostile),
                    "{fault} of an honest client"
                );
                self.seen.fault(&fault);
                let name = format!("{fault:?}");
                let name = name.split([' ', '(']).next().unwrap_or_default();
                self.seen.mark(&format!("disconnected for {name}"));
            }
        }
        if let Some(i) = i {
            self.clients.remove(i);
        }
    }

    /// Returns whether there is an announcement, and room in the socket.
    fn has_news(&self) -> bool {
        let has_room =
            |id| self.clients.iter().any(|client| client.id == id && !client.is_socket_full);
        self.core.has_unsent().any(has_room)
    }

    /// Sends announcements of the broadcast chain's pages to all clients. Returns whether there
    /// were any.
    pub(super) fn announce(&mut self) -> bool {
        let mut announced = false;
        // For existing pages, and for announced pages that are gone.
        let most = 4 * (2 * self.limits.budget() / PAGE_LEN + 1);
        for client in self.clients.iter_mut().filter(|client| !client.is_socket_full) {
            let news = client.inbox.len();
            while let Some(announcement) = self.core.announcement(client.id) {
                client.inbox.push_back(match announcement {
                    Announcement::Forget(id) => {
                        self.seen.mark("broadcast page forgotten");
                        News::Forget(id)
                    }
                    Announcement::Page(id) => {
                        let page = self.core.page(id).expect("a page in the pool").clone();
                        News::Page { id, page }
                    }
                });
                self.core.mark_sent(client.id);
                announced = true;
            }
            assert!(
                client.inbox.len() - news <= most,
                "endless news for a client that reads nothing"
            );
        }
        announced
    }

    /// The broker reads `count` packets of a client.
    pub(super) fn deliver(&mut self, i: usize, count: usize) {
        for _ in 0..count {
            let Some(client) = self.clients.get_mut(i) else { return };
            let Some(mail) = client.outbox.pop_front() else { return };
            client.has_begun = true;
            let (id, is_hostile) = (client.id, client.is_hostile);
            let page = if let Mail::Page { id, .. } = mail { Some(id) } else { None };
            let done = match mail {
                Mail::Forget(page) => self.core.page_forgotten(id, page),
                Mail::Page { id: page, page: region } => {
                    let region = match is_hostile {
                        true => self.world.see(page.min(CONTROL - 1), region),
                        false => self.world.honest(region),
                    };
                    self.core.page_arrived(id, page, region)
                }
            };
            self.wake();
            if let Some(page) = page.filter(|_| self.by_ref && done.is_ok()) {
                self.core.may_share(id, page);
            }
            if let Err(fault) = done {
                self.core.disconnect(id, Some(fault));
                return self.act(&mut Input::new(&[]));
            }
        }
    }
}

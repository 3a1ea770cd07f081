//! The broker: production's [`Core`], with mailboxes for sockets.

use super::{BROKER, ToBroker, ToClient, limits, who};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Mailbox, Note, Runtime};
use llmp::ClientId;
use llmp::core::broker::{Action, Core, Quota};
use llmp::core::chain::{Announcement, Blocked, Start, Stats};
use llmp::core::layout::{PAGE_HEADER, cursor_offset};
use llmp::core::memory::Memory;
use llmp::core::wire::Roles;
use std::collections::BTreeMap;

/// A client's mailbox, and its start position until that was sent.
type Link<R> = (<R as Runtime>::Mailbox<ToClient<R>>, Option<Start>);

pub(super) struct Brokering<R: Runtime> {
    runtime: R,
    core: Core<Crashing<R::Memory>>,
    life: CrashBudget,
    /// Our control region as it is shared.
    control: R::Memory,
    /// Upper bound of the ids of announced pages of the broadcast chain.
    last_page: u32,
    inbox: R::Mailbox<ToBroker<R>>,
    clients: BTreeMap<ClientId, Link<R>>,
    stopping: bool,
}

impl<R: Runtime> Brokering<R> {
    pub fn new(
        runtime: &R,
        inbox: R::Mailbox<ToBroker<R>>,
        clients: usize,
        life: CrashBudget,
        zero_copy_threshold: usize,
    ) -> Self {
        let control = runtime.memory(cursor_offset(clients));
        let first = runtime.memory(limits().page_len());
        runtime.note(Note::Born { who: BROKER });
        runtime.is_control(&control, BROKER);
        let mortal =
            |memory: &R::Memory| Crashing::new(runtime.seen_by(memory, BROKER), life.clone());
        let mut core = Core::new(limits(), mortal(&control), clients, mortal(&first));
        core.set_quota(Quota::new(3, 200));
        core.set_zero_copy_threshold(zero_copy_threshold);
        Brokering {
            runtime: runtime.clone(),
            core,
            life,
            control,
            last_page: 0,
            inbox,
            clients: BTreeMap::new(),
            stopping: false,
        }
    }

    /// Runs the broker. Also returns the clients that are still members at its end.
    pub fn run(mut self) -> (Stats, Vec<ClientId>) {
        loop {
            while let Some(packet) = self.inbox.take() {
                self.on_packet(packet);
            }
            let worked = self.cycle();
            self.announce();
            if self.dead() {
                return self.lie_dead();
            }
            if !worked && self.core.park() && !self.dead() {
                if self.stopping && !self.core.is_blocked() {
                    break;
                }
                let room = self.core.is_blocked();
                self.runtime.note(Note::Sleeps { by: BROKER, message: !room, room });
                let packet = self.inbox.wait();
                self.runtime.note(Note::Wakes { by: BROKER });
                self.core.unpark();
                self.on_packet(packet);
            }
        }
        for (mailbox, _) in self.clients.values() {
            mailbox.put(ToClient::Bye);
        }
        (self.core.stats(), self.clients.into_keys().collect())
    }

    /// Returns a region as the broker sees it while it lives.
    fn mortal(&self, memory: &R::Memory) -> Crashing<R::Memory> {
        Crashing::new(self.runtime.seen_by(memory, BROKER), self.life.clone())
    }

    fn dead(&self) -> bool {
        self.life.is_over()
    }

    /// The kernel's part: ends all connections, later ones included.
    fn lie_dead(mut self) -> (Stats, Vec<ClientId>) {
        self.runtime.note(Note::Ended { who: BROKER });
        for (mailbox, _) in self.clients.values() {
            mailbox.put(ToClient::HangUp);
        }
        while !self.stopping {
            match self.inbox.wait() {
                ToBroker::Connect { mailbox, .. } => mailbox.put(ToClient::HangUp),
                ToBroker::Stop => self.stopping = true,
                _ => {}
            }
        }
        (self.core.stats(), Vec::new())
    }

    fn cycle(&mut self) -> bool {
        let cycle = self.core.cycle();
        if self.dead() {
            return false;
        }
        let mut worked = cycle.consumed > 0;
        if let Some(Blocked::NeedPage(len)) = cycle.blocked {
            let page = self.runtime.memory(len);
            self.core.add_page(self.mortal(&page));
            // In addition there is at most one page from each client that was not announced yet.
            let ids = 0..=self.last_page + 1 + self.clients.len() as u32;
            let there = ids.filter_map(|id| Some((id, self.core.page(id)?.region_len())));
            self.runtime.note(Note::Pool { chain: BROKER, pages: there.collect() });
            worked = true;
        }
        let actions = self.core.take_actions();
        // They are removed already, whatever happens before the action is processed.
        for action in &actions {
            if let Action::Remove(client, _) = action {
                self.runtime.note(Note::Removed { client: who(*client) });
            }
        }
        for action in actions {
            worked = true;
            match action {
                Action::Ring(client) => {
                    self.runtime.note(Note::Rings { by: BROKER, to: who(client) });
                    if let Some((mailbox, _)) = self.clients.get(&client) {
                        mailbox.put(ToClient::Ring);
                    }
                }
                Action::Drain(client) => {
                    while let Some(packet) = self.inbox.take() {
                        self.on_packet(packet);
                    }
                    self.core.drained(client);
                }
                Action::Remove(client, fault) => {
                    assert_eq!(fault, None, "client {client} is honest");
                    self.clients.remove(&client);
                }
            }
        }
        worked
    }

    fn announce(&mut self) {
        if self.dead() {
            return;
        }
        for (client, (mailbox, start)) in &mut self.clients {
            while let Some(announcement) = self.core.announcement(*client) {
                if let Announcement::Page(page) = announcement {
                    self.last_page = self.last_page.max(page);
                    self.runtime.note(Note::Sent { chain: BROKER, page, to: who(*client) });
                }
                mailbox.put(match announcement {
                    Announcement::Page(id) => {
                        let page = self.core.page(id).expect("an announced page");
                        ToClient::Page { id, page: page.memory().clone() }
                    }
                    Announcement::Forget(id) => ToClient::Forget { id },
                });
                self.core.mark_sent(*client);
            }
            if let Some(start) = start.take() {
                mailbox.put(ToClient::Start(start));
            }
        }
    }

    fn on_packet(&mut self, packet: ToBroker<R>) {
        match packet {
            ToBroker::Connect { mailbox, .. } if self.dead() => mailbox.put(ToClient::HangUp),
            ToBroker::Stop => self.stopping = true,
            _ if self.dead() => {}
            ToBroker::Connect { control, mailbox } => {
                let roles = Roles::SEND.and(Roles::RECEIVE);
                let reserved = self.core.reserve(roles).expect("a place for everybody");
                if self.dead() {
                    return mailbox.put(ToClient::HangUp);
                }
                let ours = self.control.clone();
                let (client, cursor) = (reserved.client, reserved.cursor);
                self.runtime.note(Note::Born { who: who(client) });
                self.runtime.note(Note::Cursor { slot: cursor, client: who(client) });
                self.runtime.is_control(&control, who(client));
                let control = self.mortal(&control);
                mailbox.put(ToClient::Welcome { client, cursor, control: ours });
                let start = self.core.join(client, control).unwrap();
                let Start { page, position, message: number } = start;
                let (chain, by) = (BROKER, who(client));
                self.runtime.note(Note::Admitted { chain, by, page, position, number });
                self.clients.insert(client, (mailbox, Some(start)));
            }
            ToBroker::Page { client, id, page } => {
                if id == 0 {
                    let (chain, page, position) = (who(client), 0, PAGE_HEADER as u64);
                    let start = Note::Admitted { chain, by: BROKER, page, position, number: 0 };
                    self.runtime.note(start);
                }
                let page = self.mortal(&page);
                self.core.page_arrived(client, id, page).unwrap();
                self.core.may_share(client, id);
            }
            ToBroker::Forget { client, id } => self.core.page_forgotten(client, id).unwrap(),
            ToBroker::Ring => {}
            ToBroker::HangUp(client) => {
                self.clients.remove(&client);
                self.runtime.note(Note::ReceiverRemoved { who: who(client) });
                self.core.hung_up(client);
            }
        }
    }
}

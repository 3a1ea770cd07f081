//! The broker: production's [`Core`], with mailboxes for sockets.

use super::{BROKER, ToBroker, ToClient, Token, limits, who};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Mailbox, Note, Runtime};
use llmp::ClientId;
use llmp::core::broker::{Action, Core, Quota};
use llmp::core::chain::{Announcement, Blocked, Start, Stats};
use llmp::core::handshake::{Accepting, Attach, Phase};
use llmp::core::layout::{PAGE_HEADER, control_bytes};
use llmp::core::memory::Memory;
use llmp::core::wire::{ByeReason, Packet, Roles};
use std::collections::{BTreeMap, BTreeSet};

/// A client's connection.
struct Connection<R: Runtime> {
    mailbox: R::Mailbox<ToClient<R>>,
    accepting: Accepting,
    /// The next packet of the handshake, until it is sent.
    reply: Option<Packet>,
    /// Index of the cursor for its chain, once it has one.
    cursor: usize,
}

pub(super) struct Brokering<R: Runtime> {
    runtime: R,
    core: Core<Crashing<R::Memory>>,
    life: CrashBudget,
    /// Our control region as it is shared.
    control: R::Memory,
    /// Upper bound of the ids of announced pages of the broadcast chain.
    last_page: u32,
    inbox: R::Mailbox<ToBroker<R>>,
    clients: BTreeMap<Token, Connection<R>>,
    /// Clients that have an id and have not joined. Others may get the same ids.
    greeted: BTreeSet<ClientId>,
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
        let control = runtime.memory(control_bytes(clients));
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
            greeted: BTreeSet::new(),
            stopping: false,
        }
    }

    /// Runs the broker. Also returns the clients that are still members at its end.
    pub fn run(mut self) -> (Stats, Vec<ClientId>) {
        loop {
            while let Some(packet) = self.inbox.take() {
                self.on_packet(packet);
            }
            let mut worked = self.cycle();
            worked |= self.tell();
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
        for client in self.clients.values() {
            client.mailbox.put(ToClient::Packet(Packet::Bye(ByeReason::Closed), None));
        }
        let members = self.clients.values().filter_map(|client| client.accepting.client());
        (self.core.stats(), members.collect())
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
        for client in self.clients.values() {
            client.mailbox.put(ToClient::HangUp);
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
        // They are removed already, whatever happens before the action is processed. Their ids may be
        // given again.
        for action in &actions {
            if let Action::Remove(client, _) = action {
                self.clients.retain(|_, it| it.accepting.client() != Some(*client));
                if !self.greeted.remove(client) {
                    self.runtime.note(Note::Removed { client: who(*client) });
                }
            }
        }
        for action in actions {
            worked = true;
            match action {
                Action::Ring(client) => {
                    self.runtime.note(Note::Rings { by: BROKER, to: who(client) });
                    let mut clients = self.clients.values();
                    if let Some(it) = clients.find(|it| it.accepting.client() == Some(client)) {
                        it.mailbox.put(ToClient::Packet(Packet::Ring, None));
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
                }
            }
        }
        worked
    }

    /// Sends what is pending. Returns whether more is pending.
    fn tell(&mut self) -> bool {
        if self.dead() {
            return false;
        }
        let mut is_behind = false;
        for connection in self.clients.values_mut() {
            let Some(client) = connection.accepting.client() else { continue };
            let put = |packet, region| connection.mailbox.put(ToClient::Packet(packet, region));
            // The socket of a client that joins has room for one page, so the bus goes on meanwhile.
            let is_joining = matches!(connection.reply, Some(Packet::Start(_)));
            while let Some(announcement) = self.core.announcement(client) {
                match announcement {
                    Announcement::Page(id) => {
                        self.last_page = self.last_page.max(id);
                        self.runtime.note(Note::Sent { chain: BROKER, page: id, to: who(client) });
                        let page = self.core.page(id).expect("it is told of what is there");
                        put(Packet::Page { id }, Some(page.memory().clone()));
                    }
                    Announcement::Forget(id) => put(Packet::Forget { id }, None),
                }
                self.core.mark_sent(client);
                if is_joining {
                    break;
                }
            }
            if is_joining && self.core.announcement(client).is_some() {
                is_behind = true;
                continue;
            }
            if let Some(reply) = connection.reply.take() {
                put(reply, (reply.descriptors() > 0).then(|| self.control.clone()));
            }
        }
        is_behind
    }

    fn on_packet(&mut self, packet: ToBroker<R>) {
        match packet {
            ToBroker::Connect { mailbox, .. } if self.dead() => mailbox.put(ToClient::HangUp),
            ToBroker::Stop => self.stopping = true,
            _ if self.dead() => {}
            ToBroker::Connect { token, mailbox } => {
                let accepting = Accepting::default();
                self.clients
                    .insert(token, Connection { mailbox, accepting, reply: None, cursor: 0 });
            }
            ToBroker::Packet { token, packet, region } => self.take(token, packet, region),
            ToBroker::HangUp(token) => {
                let connection = self.clients.remove(&token);
                let Some(client) = connection.and_then(|it| it.accepting.client()) else { return };
                if !self.greeted.contains(&client) {
                    self.runtime.note(Note::ReceiverRemoved { who: who(client) });
                }
                self.core.hung_up(client);
            }
        }
    }

    /// Takes a packet of a client. As in production, its handshake decides what may come.
    fn take(&mut self, token: Token, packet: Packet, region: Option<R::Memory>) {
        let Some(connection) = self.clients.get_mut(&token) else { return };
        let region = region.as_ref();
        let mortal = |memory: &R::Memory| {
            Crashing::new(self.runtime.seen_by(memory, BROKER), self.life.clone())
        };
        match (connection.accepting.phase, packet) {
            (Phase::Fresh, packet) => {
                let offered = Roles::SEND.and(Roles::RECEIVE);
                let greeted = connection.accepting.greet(packet, offered, 1, &mut self.core);
                let welcome = greeted.expect("a place for everybody");
                if let Packet::Welcome { cursor, .. } = welcome {
                    connection.cursor = cursor as usize;
                }
                connection.reply = Some(welcome);
                self.greeted.extend(connection.accepting.client());
            }
            (Phase::Greeted(client), packet) => {
                let control = region.expect("a control region");
                self.runtime.note(Note::Cursor { slot: connection.cursor, client: who(client) });
                self.runtime.is_control(control, who(client));
                self.greeted.remove(&client);
                let attach = |_: Attach<'_>| Ok(mortal(control));
                let joined = connection.accepting.join(client, packet, attach, &mut self.core);
                let start = joined.expect("the client is honest");
                connection.reply = Some(start);
                if let Packet::Start(Start { page, position, message: number }) = start {
                    let (chain, by) = (BROKER, who(client));
                    self.runtime.note(Note::Admitted { chain, by, page, position, number });
                }
            }
            (Phase::Joined(client), Packet::Page { id }) => {
                if id == 0 {
                    let (chain, page, position) = (who(client), 0, PAGE_HEADER as u64);
                    let start = Note::Admitted { chain, by: BROKER, page, position, number: 0 };
                    self.runtime.note(start);
                }
                let page = mortal(region.expect("a page"));
                self.core.page_arrived(client, id, page).unwrap();
                self.core.may_share(client, id);
            }
            (Phase::Joined(client), Packet::Forget { id }) => {
                self.core.page_forgotten(client, id).unwrap();
            }
            (Phase::Joined(_), Packet::Ring) => {}
            (_, packet) => panic!("{packet:?} from an honest client"),
        }
    }
}

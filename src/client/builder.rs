//! How to connect to a bus.

use super::{Client, open};
use crate::access::Access;
use crate::bus::Bus;
use crate::error::ConnectError;
use crate::handshake::Greeted;
use crate::memory::PeersAreHonest;
use crate::wire::Roles;

/// How to connect to a bus.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    roles: Roles,
    access: Access,
    own_messages: bool,
    inbox_limit: usize,
    honest: Option<PeersAreHonest>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            roles: Roles::SEND.and(Roles::RECEIVE),
            access: Access::SameUser,
            own_messages: false,
            inbox_limit: 64 << 20,
            honest: None,
        }
    }
}

impl ClientBuilder {
    /// Sends only. Nobody has to wait for this client, whatever it does.
    #[must_use]
    pub fn send_only(mut self) -> Self {
        self.roles = Roles(self.roles.0 & !Roles::RECEIVE.0 | Roles::SEND.0);
        self
    }

    /// Receives only.
    #[must_use]
    pub fn receive_only(mut self) -> Self {
        self.roles = Roles(self.roles.0 & !Roles::SEND.0 | Roles::RECEIVE.0);
        self
    }

    /// Wants to know how many clients receive: [`Client::receivers`].
    #[must_use]
    pub fn watch_receivers(mut self) -> Self {
        self.roles = self.roles.and(Roles::WATCH);
        self
    }

    /// Gets its own messages back, too, in the place they have in the one order of the bus.
    #[must_use]
    pub fn own_messages(mut self) -> Self {
        self.own_messages = true;
        self
    }

    /// Connects to a broker of another user, too. The default is [`Access::SameUser`].
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// How much memory what comes in while a [`send`](Client::send) waits for room may take, in
    /// bytes; 64 MiB if nothing is said.
    #[must_use]
    pub fn inbox_limit(mut self, bytes: usize) -> Self {
        self.inbox_limit = bytes;
        self
    }

    /// Received payloads are not copied but lie in the broker's pages, on the promise that the
    /// broker is honest.
    #[must_use]
    pub fn borrow_payloads(mut self, promise: PeersAreHonest) -> Self {
        self.honest = Some(promise);
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what to do about it.
    pub fn connect(self, bus: impl Into<Bus>) -> Result<Client, ConnectError> {
        let socket = open(&bus.into(), &self.access)?;
        let (port, broker) = Greeted::hello(socket, self.roles)?.join()?.start()?;
        let mut client = Client::at(port, broker);
        client.own_messages = self.own_messages;
        client.honest = self.honest;
        client.inbox.limit = self.inbox_limit;
        Ok(client)
    }
}

//! The settings of a client.

use super::{Client, open};
use crate::bus_addr::BusAddr;
use crate::channel::{Receiver, Sender};
use crate::core::memory::TrustPeers;
use crate::core::wire::Roles;
use crate::error::{ConnectError, Disconnected};
use crate::handshake::Handshake;
use crate::peer_filter::PeerFilter;
use std::time::{Duration, Instant};

/// Builds a [`Client`], a [`Sender`] or a [`Receiver`] of a bus. See [`Client::builder`] for an
/// example.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    roles: Roles,
    access: PeerFilter,
    own_messages: bool,
    inbox_limit: usize,
    trusted: Option<TrustPeers>,
    wait: Option<Duration>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            roles: Roles::SEND.and(Roles::RECEIVE),
            access: PeerFilter::SameUser,
            own_messages: false,
            inbox_limit: 64 << 20,
            trusted: None,
            wait: None,
        }
    }
}

/// The interval at which a waiting client looks for its bus.
const BUS_RETRY_INTERVAL: Duration = Duration::from_millis(20);

impl ClientBuilder {
    /// Sends only. The bus never waits for this client.
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

    /// Announces the number of receiving clients to this client, see [`Client::receivers`].
    #[must_use]
    pub fn track_receivers(mut self) -> Self {
        self.roles = self.roles.and(Roles::TRACK);
        self
    }

    /// Receives the client's own messages, too, at their place in the order of the bus.
    #[must_use]
    pub fn own_messages(mut self) -> Self {
        self.own_messages = true;
        self
    }

    /// Sets which users' brokers are accepted. The default is [`PeerFilter::SameUser`].
    #[must_use]
    pub fn access(mut self, access: PeerFilter) -> Self {
        self.access = access;
        self
    }

    /// Waits for a missing bus for at most `timeout`. `Duration::MAX` means no limit. By default,
    /// [`connect`](ClientBuilder::connect) fails at once.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let place = bus.clone();
    /// let client = std::thread::spawn(move || {
    ///     llmp::Client::builder().wait_for_bus(Duration::from_secs(10)).connect(place)
    /// });
    /// let broker = llmp::Broker::bind(&bus)?;
    /// std::thread::spawn(move || broker.run());
    /// assert!(client.join().unwrap().is_ok());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn wait_for_bus(mut self, timeout: Duration) -> Self {
        self.wait = Some(timeout);
        self
    }

    /// Sets the memory for messages that arrive while a [`send`](Client::send) waits for room, in
    /// bytes. The default is 64 MiB.
    #[must_use]
    pub fn inbox_limit(mut self, bytes: usize) -> Self {
        self.inbox_limit = bytes;
        self
    }

    /// Returns received payloads without a copy. They refer to pages of the broker or of the
    /// sending client. `promise` states that the broker **and all clients** of the bus are trusted.
    #[must_use]
    pub fn borrow_payloads(mut self, promise: TrustPeers) -> Self {
        self.trusted = Some(promise);
        self.roles = self.roles.and(Roles::IN_PLACE);
        self
    }

    /// Connects to a bus.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect(self, bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
        let bus = bus.into();
        let began = Instant::now();
        let (connection, broker) = loop {
            let waits = self.wait.is_some_and(|wait| began.elapsed() < wait);
            let connection = open(&bus, &self.access, waits).and_then(|socket| {
                Handshake::hello(socket, self.roles)?.join(&self.access)?.start()
            });
            match connection {
                // The broker may have ended during the handshake.
                Err(
                    ConnectError::NoBus { .. }
                    | ConnectError::Disconnected(Disconnected::Closed | Disconnected::PeerDied),
                ) if waits => {
                    std::thread::sleep(BUS_RETRY_INTERVAL);
                }
                connection => break connection?,
            }
        };
        let mut client = Client::at(connection, broker);
        client.own_messages = self.own_messages;
        client.trusted = self.trusted;
        client.inbox.limit = self.inbox_limit;
        if self.roles.has(Roles::TRACK) {
            client.set_tracks_receivers();
        }
        Ok(client)
    }

    /// Connects to send only, see [`Client::connect_sender`].
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_sender(self, bus: impl Into<BusAddr>) -> Result<Sender, ConnectError> {
        self.send_only().track_receivers().connect(bus).map(Sender)
    }

    /// Connects to receive only, see [`Client::connect_receiver`].
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_receiver(self, bus: impl Into<BusAddr>) -> Result<Receiver, ConnectError> {
        self.receive_only().connect(bus).map(Receiver)
    }
}

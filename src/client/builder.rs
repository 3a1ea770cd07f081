//! How to connect to a bus.

use super::{Client, open};
use crate::bus_addr::BusAddr;
use crate::channel::{Receiver, Sender};
use crate::core::memory::TrustPeers;
use crate::core::wire::Roles;
use crate::error::{ConnectError, Disconnected};
use crate::handshake::Greeted;
use crate::peer_filter::PeerFilter;
use std::time::{Duration, Instant};

/// How to connect to a bus.
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

/// How often a client that waits for its bus looks for it.
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

    /// Wants to know how many clients receive: [`Client::receivers`].
    #[must_use]
    pub fn track_receivers(mut self) -> Self {
        self.roles = self.roles.and(Roles::TRACK);
        self
    }

    /// Gets its own messages back, too, in the place they have in the one order of the bus.
    #[must_use]
    pub fn own_messages(mut self) -> Self {
        self.own_messages = true;
        self
    }

    /// Connects to a broker of another user, too. The default is [`PeerFilter::SameUser`].
    #[must_use]
    pub fn access(mut self, access: PeerFilter) -> Self {
        self.access = access;
        self
    }

    /// Waits for the bus for at most this time if it is not there yet; `Duration::MAX` waits without
    /// limit. Without this, [`connect`](ClientBuilder::connect) fails at once.
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

    /// How much memory what comes in while a [`send`](Client::send) waits for room may take, in
    /// bytes; 64 MiB if nothing is said.
    #[must_use]
    pub fn inbox_limit(mut self, bytes: usize) -> Self {
        self.inbox_limit = bytes;
        self
    }

    /// Received payloads are not copied. They lie in the pages of the broker, or of the client that
    /// sent them, on the promise that the broker **and all clients** of the bus are honest.
    #[must_use]
    pub fn borrow_payloads(mut self, promise: TrustPeers) -> Self {
        self.trusted = Some(promise);
        self.roles = self.roles.and(Roles::IN_PLACE);
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what to do about it.
    pub fn connect(self, bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
        let bus = bus.into();
        let began = Instant::now();
        let (connection, broker) = loop {
            let waits = self.wait.is_some_and(|wait| began.elapsed() < wait);
            let connection = open(&bus, &self.access, waits).and_then(|socket| {
                Greeted::hello(socket, self.roles, &self.access)?.join()?.start()
            });
            match connection {
                // The broker may have ended while it was greeted.
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
    /// [`ConnectError`] says what to do about it.
    pub fn connect_sender(self, bus: impl Into<BusAddr>) -> Result<Sender, ConnectError> {
        self.send_only().track_receivers().connect(bus).map(Sender)
    }

    /// Connects to receive only, see [`Client::connect_receiver`].
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what to do about it.
    pub fn connect_receiver(self, bus: impl Into<BusAddr>) -> Result<Receiver, ConnectError> {
        self.receive_only().connect(bus).map(Receiver)
    }
}

//! The settings of a client.

use super::Client;
use crate::broker::{BrokerBuilder, Candidate, Settings};
use crate::bus_addr::BusAddr;
use crate::connection::{Comeback, Halves};
use crate::core::broker::policy::SlowReceiver;
use crate::core::memory::TrustPeers;
use crate::core::message::ClientId;
use crate::core::wire::Roles;
use crate::error::{ConnectError, Disconnected};
use crate::handshake::{HANDSHAKE_TIMEOUT, Handshake, open};
use crate::peer_filter::PeerFilter;
use crate::receiver::{self, Receiver};
use crate::sender::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Builds a [`Client`], a [`Sender`] or a [`Receiver`] of a bus. See [`Client::builder`] for an
/// example.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    /// The roles beside sending and receiving.
    roles: Roles,
    access: PeerFilter,
    own_messages: bool,
    inbox_limit: usize,
    trusted: Option<TrustPeers>,
    wait: Option<Duration>,
    patience: Option<Duration>,
    serves: Option<Settings>,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        ClientBuilder {
            roles: Roles(0),
            access: PeerFilter::SameUser,
            own_messages: false,
            inbox_limit: 64 << 20,
            trusted: None,
            wait: None,
            patience: None,
            serves: None,
        }
    }
}

/// How long a client that may serve the bus itself waits for the next broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// The interval at which a waiting client looks for its bus.
const BUS_RETRY_INTERVAL: Duration = Duration::from_millis(20);

impl ClientBuilder {
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

    /// Goes on with the next broker of the bus when its broker dies, and waits for it for at most
    /// `timeout`. Without this setting, the connection ends with its broker.
    ///
    /// The program need not do anything. The client has the same id. Each message that it has sent
    /// arrives once, and it receives each message once, in one order for all clients. Two things are
    /// lost: messages of a client that ends beside its broker and before that one has consumed them,
    /// and messages that a client misses because it comes back too late. The latter is reported as
    /// [`RecvError::Gap`](crate::RecvError::Gap). While there is no broker, [`send`](Client::send)
    /// goes on until the client's chain is full, and then waits.
    ///
    /// A broker can be had by `llmp broker BUS --standby`, `llmp broker BUS --respawn`, or
    /// [`Broker::wait_until_free`](crate::Broker::wait_until_free).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let timeout = std::time::Duration::from_secs(60);
    /// let client = llmp::Client::builder().outlive_broker(timeout).connect(&bus)?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn outlive_broker(mut self, timeout: Duration) -> Self {
        self.patience = Some(timeout);
        self
    }

    /// Serves the bus in a thread of this process if no other process does, with these settings. If
    /// another process serves the bus, this one [stands by](crate::Broker::wait_until_free), and goes
    /// on with the bus when that process ends. So the bus lives as long as one of its members.
    ///
    /// The client [outlives](ClientBuilder::outlive_broker) its broker, and by default waits for the
    /// next one for a minute. When the client is dropped, the thread ends: it leaves the bus to
    /// another process that stands by, or ends the bus. [`llmp::join`](crate::join) does this with
    /// default settings.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// use llmp::{Broker, Client, SlowReceiver};
    ///
    /// let settings = || Broker::builder().when_slow(SlowReceiver::Skip);
    /// let mut first = Client::builder().serve(settings).connect(&bus)?;
    /// let mut second = Client::builder().serve(settings).connect_receiver(&bus)?;
    /// first.send(1, b"hello")?;
    /// assert_eq!(second.recv()?.payload, b"hello");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn serve(mut self, settings: impl Fn() -> BrokerBuilder + Send + Sync + 'static) -> Self {
        self.serves = Some(Settings(Arc::new(settings)));
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

    /// Sets what the bus does when this client is too slow a receiver, if that is less than to wait
    /// for it. By default, and with [`SlowReceiver::Block`], the broker's setting applies.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// use llmp::{Client, RecvError, SlowReceiver};
    ///
    /// // An observer for which the bus never waits.
    /// let mut observer = Client::builder().when_slow(SlowReceiver::Skip).connect_receiver(&bus)?;
    /// match observer.try_recv() {
    ///     Ok(message) => assert!(message.is_none()),
    ///     Err(RecvError::Gap { missed }) => eprintln!("{missed} messages were missed"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn when_slow(mut self, policy: SlowReceiver) -> Self {
        self.roles = self.roles.without(Roles::SKIP.and(Roles::EVICT)).and(policy.roles());
        self
    }

    /// Connects to a bus, to send and to receive.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect(self, bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
        let roles = self.roles.and(Roles::SEND).and(Roles::RECEIVE);
        let Halves { connection, outbound, inbound } = self.join(&bus.into(), roles)?;
        let settings = self.settings(connection.id);
        let outbound = outbound.ok_or(Disconnected::ProtocolError)?;
        let inbound = inbound.ok_or(Disconnected::ProtocolError)?;
        let sender = Sender::new(connection.clone(), outbound).tracking(settings.tracks_receivers);
        Ok(Client { sender, receiver: Receiver::new(connection, inbound, settings) })
    }

    /// Connects to send only, see [`Client::connect_sender`]. The bus never waits for a sender. The
    /// sender always [tracks](ClientBuilder::track_receivers) the receiver count.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_sender(self, bus: impl Into<BusAddr>) -> Result<Sender, ConnectError> {
        let halves = self.join(&bus.into(), Roles::SEND.and(Roles::TRACK))?;
        let (connection, outbound) = halves.sending()?;
        Ok(Sender::new(connection, outbound).tracking(true))
    }

    /// Connects to receive only, see [`Client::connect_receiver`].
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_receiver(self, bus: impl Into<BusAddr>) -> Result<Receiver, ConnectError> {
        let halves = self.join(&bus.into(), self.roles.and(Roles::RECEIVE))?;
        let (connection, inbound) = halves.receiving()?;
        let settings = self.settings(connection.id);
        Ok(Receiver::new(connection, inbound, settings))
    }

    fn settings(&self, id: ClientId) -> receiver::Settings {
        receiver::Settings {
            ignored: (!self.own_messages).then_some(id),
            trusted: self.trusted,
            tracks_receivers: self.roles.has(Roles::TRACK),
            inbox_limit: self.inbox_limit,
        }
    }

    /// Performs the handshake, again while the bus is missing and the client waits for it.
    fn join(&self, bus: &BusAddr, roles: Roles) -> Result<Halves, ConnectError> {
        let began = Instant::now();
        let candidate = match self.serves.clone() {
            Some(settings) => Some(Arc::new(Candidate::start(bus, settings)?)),
            None => None,
        };
        let patience = self.patience.or_else(|| candidate.as_ref().map(|_| PATIENCE));
        let roles = if patience.is_some() { roles.and(Roles::OUTLIVE) } else { roles };
        let comeback = match patience {
            None => None,
            Some(patience) => {
                let (path, access) = (bus.socket_path()?, self.access.clone());
                Some(Comeback { path, access, roles, patience, candidate })
            }
        };
        // One of the processes that stand by serves soon.
        let wait = self.wait.or_else(|| self.serves.as_ref().map(|_| HANDSHAKE_TIMEOUT));
        loop {
            let waits = wait.is_some_and(|wait| began.elapsed() < wait);
            let joined = open(bus, &self.access, waits)
                .and_then(|socket| Handshake::hello(socket, &self.access, roles))
                .and_then(|handshake| handshake.finish(comeback.clone()));
            match joined {
                // The broker may have ended during the handshake.
                Err(
                    ConnectError::NoBus { .. }
                    | ConnectError::Disconnected(Disconnected::Closed | Disconnected::PeerDied),
                ) if waits => std::thread::sleep(BUS_RETRY_INTERVAL),
                joined => return joined,
            }
        }
    }
}

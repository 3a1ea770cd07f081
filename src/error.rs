//! The errors of the public interface. Their texts say what to do next.

mod kind;

pub use self::kind::ErrorKind;

use crate::bus_addr::quoted;
use crate::core::fault::Fault;
use crate::core::limits::LimitsError;
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Refusal};
use crate::sys::lock::{LockError, NotLocked};
use crate::sys::memfd::RegionError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The path of a socket is longer than the kernel accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the socket path has {} bytes, at most {MAX_SOCKET_PATH} are possible: {}; choose a shorter path, or change to the directory and use a relative one",
    path.as_os_str().len(),
    path.display()
)]
#[non_exhaustive]
pub struct PathTooLong {
    /// The socket's path.
    pub path: PathBuf,
}

/// The longest path that a Unix socket's address holds, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl PathTooLong {
    /// Returns an error if the path is too long.
    pub(crate) fn check(path: &Path) -> Result<(), PathTooLong> {
        match path.as_os_str().len() > MAX_SOCKET_PATH {
            true => Err(PathTooLong { path: path.to_owned() }),
            false => Ok(()),
        }
    }
}

/// Invalid bus name or unusable socket directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The name is not a valid file name.
    #[error("'{name}' can't be a bus's name: it must not be empty or begin with a dot")]
    Name {
        /// The rejected name.
        name: String,
    },
    /// The directory of named buses can't be used.
    #[error("the directory for buses can't be used: {0}; set XDG_RUNTIME_DIR or give a path")]
    Directory(#[source] io::Error),
}

/// Why a broker, or the receiving end of a channel, could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Invalid bus name or unusable socket directory.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A broker or a channel's receiver already listens there.
    #[error("there is already a broker at {}{}; stop it or choose another name", path.display(), named(*process))]
    InUse {
        /// The socket's path.
        path: PathBuf,
        /// The process that serves it, if the kernel reports it.
        process: Option<u32>,
    },
    /// The lock file beside the socket can't be locked. Its lock tells which process serves the
    /// bus.
    #[error("the lock file {} can't be used: {source}", path.display())]
    Lock {
        /// The lock file's path.
        path: PathBuf,
        /// The reason.
        source: LockError,
    },
    /// The path exists and is not a socket of this user.
    #[error("{what} lies at {}; choose another path", path.display())]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What the path names, for example "a directory".
        what: &'static str,
    },
    /// The path does not fit into a socket's address.
    #[error(transparent)]
    TooLong(#[from] PathTooLong),
    /// The socket can't be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Shared memory can't be made.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// Another system call failed.
    #[error("cannot {step}: {source}")]
    System {
        /// The step that failed.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl BindError {
    /// The lock file at `lock`, beside `socket`, could not be locked.
    pub(crate) fn not_locked(why: NotLocked, socket: &Path, lock: &Path) -> Self {
        match why {
            NotLocked::Held(process) => BindError::InUse { path: socket.to_owned(), process },
            NotLocked::Unusable(source) => BindError::Lock { path: lock.to_owned(), source },
        }
    }
}

/// Formats a process for a message.
fn named(process: Option<u32>) -> String {
    match process {
        Some(process) if process == std::process::id() => " (in this process)".into(),
        Some(process) => format!(" (process {process})"),
        None => String::new(),
    }
}

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Invalid bus name or unusable socket directory.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// No broker listens at the path.
    #[error("no bus '{bus}': no broker listens at {}{}", path.display(), elsewhere_hint(bus, elsewhere.as_deref()))]
    NoBus {
        /// The bus, as the caller named it.
        bus: String,
        /// The socket's path.
        path: PathBuf,
        /// Where a bus of this name listens instead. Another process of the same user may have
        /// another runtime directory.
        elsewhere: Option<PathBuf>,
    },
    /// The path does not fit into a socket's address.
    #[error(transparent)]
    TooLong(#[from] PathTooLong),
    /// The socket can't be reached.
    #[error("cannot connect to {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The other side refused the connection.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The other side belongs to a user that the caller did not admit.
    #[error(
        "the bus belongs to user {user}; if you trust that user, admit them with `ClientBuilder::access`"
    )]
    Stranger {
        /// The user's id.
        user: u32,
    },
    /// The other side has not answered in time.
    #[error("the bus has not answered within {seconds} s; is its broker stopped or overloaded?")]
    Silent {
        /// The time waited, in seconds.
        seconds: u64,
    },
    /// The connection ended during the handshake.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The caller is a forked child of the listening process.
    #[error("this listener belongs to the process that forked; listen in the child")]
    Forked,
    /// No process serves the bus, and this one can't, see
    /// [`ClientBuilder::serve`](crate::ClientBuilder::serve).
    #[error(transparent)]
    CannotServe(#[from] BindError),
    /// Shared memory can't be made or mapped.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// Another system call failed.
    #[error("cannot {step}: {source}")]
    System {
        /// The step that failed.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Returns a hint for a missing bus, with a command to paste.
fn elsewhere_hint(bus: &str, elsewhere: Option<&Path>) -> String {
    match elsewhere {
        Some(path) => {
            let path = quoted(&path.display().to_string());
            format!("; a bus of this name listens at {path}: use this path")
        }
        None => format!("; start it with: llmp broker {}", quoted(bus)),
    }
}

/// Why a connection has ended. Messages that arrived before can still be received, except in three
/// cases. After an error on this side or a removal, unread pages may be written again. Messages
/// that arrived before a fork belong to the parent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnected {
    /// The peer has announced an orderly end.
    #[error("the peer shut the bus down")]
    Closed,
    /// The peer's process has ended without an announcement.
    #[error("connection lost: the peer process exited or was killed")]
    PeerDied,
    /// The peer no longer waits for this side and may reuse pages that were not read.
    #[error(
        "the broker removed this client; its unread messages are lost, and the broker's log gives the reason"
    )]
    Removed,
    /// This client was too slow a receiver, and the bus does not wait for it. Messages that it has
    /// not received are lost.
    #[error(
        "the bus disconnected this client because it received too slowly; receive faster, ask to be skipped instead (`when_slow`), or start the broker with a larger --chain-budget"
    )]
    Evicted,
    /// The peer found a fault in this side's behaviour. The peer's log names it.
    #[error("the peer ended this connection for a protocol error; its log says which")]
    ProtocolError,
    /// This side found a fault in the peer's behaviour.
    #[error("the peer broke the protocol: {0}")]
    PeerFault(#[source] Fault),
    /// This process has no resources for what the peer has sent.
    #[error("this process has too few resources for the connection: {0}")]
    NoResources(#[source] Box<Fault>),
    /// This process is a forked child of the one that connected. The connection goes on there.
    #[error("this handle belongs to the process that forked; connect in the child")]
    Forked,
}

impl From<ByeReason> for Disconnected {
    fn from(reason: ByeReason) -> Self {
        match reason {
            ByeReason::Closed | ByeReason::Other(_) => Disconnected::Closed,
            ByeReason::Fault => Disconnected::ProtocolError,
            ByeReason::Slow => Disconnected::Evicted,
        }
    }
}

impl From<Fault> for Disconnected {
    fn from(fault: Fault) -> Self {
        match fault.is_lack() {
            true => Disconnected::NoResources(Box::new(fault)),
            false => Disconnected::PeerFault(fault),
        }
    }
}

/// The receiver that holds up the bus. It is the slowest receiver, and the broadcast chain is full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldUp {
    /// The receiver.
    pub client: ClientId,
    /// Its process, if the broker can see it.
    pub process: Option<u32>,
    /// How long the bus has been waiting for it.
    pub lasted: Duration,
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.client)?;
        if let Some(process) = self.process {
            write!(f, " (process {process})")?;
        }
        write!(f, " has held up the bus for {:.1} s", self.lasted.as_secs_f64())
    }
}

fn full(held_up: Option<&HeldUp>) -> String {
    let why =
        "there is no room: a receiver is too slow, and its unread messages fill the memory budget";
    match held_up {
        Some(held_up) => format!("{why}; {held_up}"),
        None => why.into(),
    }
}

/// Why a message was not sent. No part of it was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is longer than the limit.
    #[error(
        "a message of {len} bytes is above the limit of {max}; send it in parts, or start the bus with a higher limit"
    )]
    TooLong {
        /// The length of the message in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The chain has no room. Either the call does not wait, or no room appeared in time.
    #[error("{}", full(held_up.as_ref()))]
    Full {
        /// The receiver that holds up the bus. `None` until the broker names one, which it does
        /// after a second.
        held_up: Option<HeldUp>,
    },
    /// The chain has no room, and the inbox is full. Receive messages before the next attempt.
    #[error(
        "inbox full: {bytes} bytes arrived while this message waited for room; call `recv` first, or connect with `Client::connect_sender`"
    )]
    InboxFull {
        /// The size of the inbox in bytes.
        bytes: usize,
    },
    /// The connection has ended.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// Shared memory can't be made.
    #[error(transparent)]
    Memory(#[from] RegionError),
}

/// Why a client can't wait for receivers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The connection has ended.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The client does not track the receiver count.
    #[error(
        "this client does not track the receiver count; build it with `track_receivers()`, or connect with `Client::connect_sender`"
    )]
    NotTracking,
}

fn gap(missed: u64) -> String {
    match missed {
        0 => "messages may have been missed, because this client came back too late".into(),
        missed => format!("{missed} messages were missed, because this client received too slowly"),
    }
}

/// Why no more messages can be received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// This receiver was too slow, and has missed messages, its own included. Either the bus has
    /// skipped it, or it came back too late when its broker had died. The next call receives the
    /// message after them.
    #[error("{}", gap(*missed))]
    Gap {
        /// The number of messages that were missed, or zero if it is not known. It is not known if
        /// several brokers have died meanwhile.
        missed: u64,
    },
    /// The connection has ended, and all messages that arrived were received.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

//! What callers get to hear when something goes wrong, and what to do next.

use crate::bus_addr::quoted;
use crate::core::fault::Fault;
use crate::core::limits::LimitsError;
use crate::core::message::ClientId;
use crate::core::wire::Refusal;
use crate::sys::lock::{LockError, NotLocked};
use crate::sys::memfd::RegionError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The path of a socket is longer than the kernel can take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path of the socket has {} bytes, at most {MAX_SOCKET_PATH} are possible: {}; choose a shorter path, or change to the directory and use a relative one",
    path.as_os_str().len(),
    path.display()
)]
pub struct PathTooLong {
    /// The socket's path.
    pub path: PathBuf,
}

/// The longest path that a Unix socket's address holds, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl PathTooLong {
    /// An error if the path is too long.
    pub(crate) fn check(path: &Path) -> Result<(), PathTooLong> {
        match path.as_os_str().len() > MAX_SOCKET_PATH {
            true => Err(PathTooLong { path: path.to_owned() }),
            false => Ok(()),
        }
    }
}

/// Why a bus has no place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// A name that can't be a file's.
    #[error("'{name}' can't be a bus's name: it must not be empty or begin with a dot")]
    Name {
        /// The name.
        name: String,
    },
    /// The directory of named buses can't be used.
    #[error("the directory for buses can't be used: {0}; set XDG_RUNTIME_DIR or give a path")]
    Directory(#[source] io::Error),
}

/// Why a broker, or a channel's receiving end, could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The bus has no place.
    #[error(transparent)]
    BusAddr(#[from] BusError),
    /// A broker, or a channel's receiver, listens there already.
    #[error("there is already a broker at {}{}; stop it or choose another name", path.display(), named(*process))]
    InUse {
        /// The socket's path.
        path: PathBuf,
        /// The process that serves it, if the kernel says which one.
        process: Option<u32>,
    },
    /// The file beside the socket can't be locked. Its lock says which process serves the bus.
    #[error("the lock file {} can't be used: {source}", path.display())]
    Lock {
        /// The lock file's path.
        path: PathBuf,
        /// Why not.
        source: LockError,
    },
    /// Something that is no socket has this path.
    #[error("{what} lies at {}; choose another path", path.display())]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What lies there: "a directory", for example.
        what: &'static str,
    },
    /// The path has no room in a socket's address.
    #[error(transparent)]
    TooLong(#[from] PathTooLong),
    /// The socket can't be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The limits don't fit together.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// No shared memory.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// Something else that the kernel refused.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl BindError {
    /// The lock beside this socket, at `lock`, could not be taken.
    pub(crate) fn not_locked(why: NotLocked, socket: &Path, lock: &Path) -> Self {
        match why {
            NotLocked::Held(process) => BindError::InUse { path: socket.to_owned(), process },
            NotLocked::Unusable(source) => BindError::Lock { path: lock.to_owned(), source },
        }
    }
}

/// A process for a message.
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
    /// The bus has no place.
    #[error(transparent)]
    BusAddr(#[from] BusError),
    /// No broker listens there.
    #[error("no bus '{bus}': no broker listens at {}{}", path.display(), elsewhere_hint(bus, elsewhere.as_deref()))]
    NoBus {
        /// What was asked for.
        bus: String,
        /// The socket's path.
        path: PathBuf,
        /// Where a bus of this name listens instead: another process of the same user may have
        /// another runtime directory.
        elsewhere: Option<PathBuf>,
    },
    /// The path has no room in a socket's address.
    #[error(transparent)]
    TooLong(#[from] PathTooLong),
    /// The socket can't be reached.
    #[error("cannot connect to {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The other side does not want us.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The other side belongs to another user, and that was not allowed.
    #[error("the bus belongs to user {user}; connect with access for others if you trust them")]
    Stranger {
        /// The user's id.
        user: u32,
    },
    /// The other side says nothing.
    #[error("the bus has not answered within {seconds} s; is its broker stopped or overloaded?")]
    Silent {
        /// How long we waited.
        seconds: u64,
    },
    /// The connection ended before it was made.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// This process is a forked child of the one that listens.
    #[error("this listener belongs to the process that forked; listen in the child")]
    Forked,
    /// No shared memory.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// Something else that the kernel refused.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// What to do about a bus that is not there, as a command that can be pasted.
fn elsewhere_hint(bus: &str, elsewhere: Option<&Path>) -> String {
    match elsewhere {
        Some(path) => {
            let path = quoted(&path.display().to_string());
            format!("; a bus of this name listens at {path}: use this path")
        }
        None => format!("; start it with: llmp broker {}", quoted(bus)),
    }
}

/// Why a connection has ended. What had arrived before can still be received, but for three cases.
/// After an error on this side or a removal, pages that were not read may be written again. What had
/// arrived before a fork is the parent's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnected {
    /// In order: the other side has said so.
    #[error("the peer shut the bus down")]
    Closed,
    /// Without a word: the other process is gone.
    #[error("connection lost: the peer process exited or was killed")]
    PeerDied,
    /// The other side waits for us no more, and may write pages again that we have not read.
    #[error(
        "the broker disconnected this client; what it had not received is lost, and the broker's log says why"
    )]
    Removed,
    /// The other side saw a fault in what we did; its log says which.
    #[error("the peer ended this connection for a protocol error; its log says which")]
    ProtocolError,
    /// We saw a fault in what the other side did.
    #[error("the peer broke the protocol: {0}")]
    PeerFault(#[source] Fault),
    /// This process has no room for what the other side has sent.
    #[error("the connection could not go on for want of room in this process: {0}")]
    NoResources(#[source] Box<Fault>),
    /// This process is a forked child of the one that connected. There, the connection goes on.
    #[error("this handle belongs to the process that forked; connect in the child")]
    Forked,
}

impl From<Fault> for Disconnected {
    fn from(fault: Fault) -> Self {
        match fault.is_lack() {
            true => Disconnected::NoResources(Box::new(fault)),
            false => Disconnected::PeerFault(fault),
        }
    }
}

/// The receiver that holds up the bus: it keeps the slowest pace, and the broadcast chain is full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldUp {
    /// The receiver.
    pub client: ClientId,
    /// Its process, if the broker can see it.
    pub process: Option<u32>,
    /// For how long the bus has been waiting for it.
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

/// Why a message was not sent. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is above the limit.
    #[error(
        "a message of {len} bytes is above the limit of {max}; send it in parts, or start the bus with a higher limit"
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// There is no room: the call does not wait, or there was none in time.
    #[error("{}", full(held_up.as_ref()))]
    Full {
        /// The receiver for which the bus waits. `None` if the broker has not named one: it does
        /// after a second.
        held_up: Option<HeldUp>,
    },
    /// There is no room, and so much has come in meanwhile that it must be received first.
    #[error(
        "inbox full: {bytes} bytes arrived while this message waited for room; call `recv` first, or connect with `Client::connect_sender`"
    )]
    InboxFull {
        /// What is waiting to be received, in bytes.
        bytes: usize,
    },
    /// The connection has ended.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// No shared memory.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// The client connected without a chain of its own.
    #[error("this client connected to receive only")]
    ReceiveOnly,
}

/// Why a client can't wait for receivers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The connection has ended.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The client did not ask how many clients receive.
    #[error(
        "this client does not hear how many clients receive; build it with `track_receivers()`, or connect with `Client::connect_sender`"
    )]
    NotTracking,
}

/// Why nothing can be received any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The connection has ended, and everything that had arrived was received.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The client connected without receiving.
    #[error("this client connected to send only")]
    SendOnly,
}

//! The kinds of the public errors, with stable numbers.

use super::{BindError, BusError, ConnectError, Disconnected, RecvError, SendError, WaitError};
use crate::core::wire::Refusal;

/// Defines [`ErrorKind`] and the list of its values, which a test compares with the documentation.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The kind of an error, for programs that decide or report by it.
        ///
        /// Kinds are coarser than the variants of the errors, and a later release may add variants.
        /// The number of a kind never changes. `docs/errors.md` lists all of them.
        ///
        /// ```
        /// use llmp::{Client, ErrorKind};
        ///
        /// let dir = tempfile::tempdir()?;
        /// let error = Client::connect(dir.path().join("bus")).unwrap_err();
        /// assert_eq!((error.kind(), error.code()), (ErrorKind::NoBus, 201));
        /// # Ok::<(), std::io::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorKind {
            $($(#[$doc])* $name = $code,)*
        }

        #[cfg(test)]
        const ALL: &[ErrorKind] = &[$(ErrorKind::$name),*];
    };
}

kinds! {
    /// The bus's name is not a valid file name.
    InvalidName = 101,
    /// The directory of named buses can't be used.
    Directory = 102,
    /// The socket's path is too long for the kernel.
    PathTooLong = 103,
    /// The limits contradict each other.
    InvalidLimits = 104,
    /// A broker or a listener already serves this bus.
    InUse = 105,
    /// Something else than a socket of this user lies at the path.
    Occupied = 106,
    /// The lock file can't be used.
    LockFile = 107,
    /// No broker or listener serves this bus.
    NoBus = 201,
    /// The socket can't be made or reached.
    Socket = 202,
    /// The other side speaks another version of the protocol.
    WrongVersion = 203,
    /// The bus does not admit this user.
    NotAdmitted = 204,
    /// The bus has as many clients as it admits.
    BusFull = 205,
    /// The other side refused the connection for another reason.
    Refused = 206,
    /// The other side belongs to a user that the caller does not admit.
    UntrustedPeer = 207,
    /// The other side has not answered in time.
    NoAnswer = 208,
    /// The peer has announced an orderly end.
    Closed = 301,
    /// The peer's process has ended without an announcement.
    PeerDied = 302,
    /// The broker removed this client.
    Removed = 303,
    /// The peer ended the connection for a protocol error of this side.
    ProtocolError = 304,
    /// The peer broke the protocol.
    PeerFault = 305,
    /// This process lacks memory or descriptors for the connection.
    NoResources = 306,
    /// The handle belongs to the process that forked.
    Forked = 307,
    /// The bus disconnected this client because it received too slowly.
    Evicted = 308,
    /// The message is longer than the limit.
    MessageTooLong = 401,
    /// The chain has no room.
    Full = 402,
    /// The chain has no room, and the inbox is full.
    InboxFull = 403,
    /// The client does not track the receiver count.
    NotTracking = 406,
    /// A slow receiver has missed messages, and goes on.
    Gap = 407,
    /// Shared memory can't be made or mapped.
    Memory = 501,
    /// Another system call failed.
    System = 502,
}

impl ErrorKind {
    /// Returns the number of this kind, which never changes.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// Adds `code` to errors that have a `kind`.
macro_rules! coded {
    ($($error:ty),*) => {$(
        impl $error {
            /// Returns the number of this error's [kind](Self::kind).
            pub fn code(&self) -> u16 {
                self.kind().code()
            }
        }
    )*};
}

coded!(BindError, BusError, ConnectError, Disconnected, RecvError, SendError, WaitError);

impl BusError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BusError::Name { .. } => ErrorKind::InvalidName,
            BusError::Directory(_) => ErrorKind::Directory,
        }
    }
}

impl BindError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BindError::Bus(error) => error.kind(),
            BindError::InUse { .. } => ErrorKind::InUse,
            BindError::Lock { .. } => ErrorKind::LockFile,
            BindError::Occupied { .. } => ErrorKind::Occupied,
            BindError::TooLong(_) => ErrorKind::PathTooLong,
            BindError::Socket { .. } => ErrorKind::Socket,
            BindError::Limits(_) => ErrorKind::InvalidLimits,
            BindError::Memory(_) => ErrorKind::Memory,
            BindError::System { .. } => ErrorKind::System,
        }
    }
}

impl ConnectError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ConnectError::Bus(error) => error.kind(),
            ConnectError::NoBus { .. } => ErrorKind::NoBus,
            ConnectError::TooLong(_) => ErrorKind::PathTooLong,
            ConnectError::Socket { .. } => ErrorKind::Socket,
            ConnectError::Refused(Refusal::Version { .. }) => ErrorKind::WrongVersion,
            ConnectError::Refused(Refusal::User) => ErrorKind::NotAdmitted,
            ConnectError::Refused(Refusal::Crowded) => ErrorKind::BusFull,
            ConnectError::Refused(_) => ErrorKind::Refused,
            ConnectError::Stranger { .. } => ErrorKind::UntrustedPeer,
            ConnectError::Silent { .. } => ErrorKind::NoAnswer,
            ConnectError::Disconnected(ended) => ended.kind(),
            ConnectError::Forked => ErrorKind::Forked,
            ConnectError::CannotServe(error) => error.kind(),
            ConnectError::Memory(_) => ErrorKind::Memory,
            ConnectError::System { .. } => ErrorKind::System,
        }
    }
}

impl Disconnected {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Disconnected::Closed => ErrorKind::Closed,
            Disconnected::PeerDied => ErrorKind::PeerDied,
            Disconnected::Removed => ErrorKind::Removed,
            Disconnected::Evicted => ErrorKind::Evicted,
            Disconnected::ProtocolError => ErrorKind::ProtocolError,
            Disconnected::PeerFault(_) => ErrorKind::PeerFault,
            Disconnected::NoResources(_) => ErrorKind::NoResources,
            Disconnected::Forked => ErrorKind::Forked,
        }
    }
}

impl SendError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SendError::TooLong { .. } => ErrorKind::MessageTooLong,
            SendError::Full { .. } => ErrorKind::Full,
            SendError::InboxFull { .. } => ErrorKind::InboxFull,
            SendError::Disconnected(ended) => ended.kind(),
            SendError::Memory(_) => ErrorKind::Memory,
        }
    }
}

impl RecvError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RecvError::Gap { .. } => ErrorKind::Gap,
            RecvError::Disconnected(ended) => ended.kind(),
        }
    }
}

impl WaitError {
    /// Returns the kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            WaitError::Disconnected(ended) => ended.kind(),
            WaitError::NotTracking => ErrorKind::NotTracking,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fault::Fault;
    use std::collections::BTreeMap;
    use std::error::Error;
    use std::io;

    #[test]
    fn the_numbers_of_the_kinds_are_those_of_the_documentation() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let code: u16 = cells.next()?.parse().ok()?;
            Some((code, cells.next()?.trim_matches('`').to_owned()))
        });
        let rows: Vec<_> = rows.collect();
        let documented: BTreeMap<u16, String> = rows.iter().cloned().collect();
        assert_eq!(documented.len(), rows.len(), "a number is documented twice");
        let known = ALL.iter().map(|kind| (kind.code(), format!("{kind:?}")));
        assert_eq!(known.collect::<BTreeMap<_, _>>(), documented);
    }

    #[test]
    fn an_error_that_wraps_another_has_its_kind_and_its_cause() {
        let fault = Fault::TakenBack;
        let ended = Disconnected::PeerFault(fault.clone());
        let errors: [(Box<dyn Error>, ErrorKind); 4] = [
            (Box::new(ended.clone()), ended.kind()),
            (Box::new(RecvError::from(ended.clone())), RecvError::from(ended.clone()).kind()),
            (Box::new(SendError::from(ended.clone())), SendError::from(ended.clone()).kind()),
            (Box::new(WaitError::from(ended.clone())), WaitError::from(ended.clone()).kind()),
        ];
        for (error, kind) in errors {
            assert_eq!(kind, ErrorKind::PeerFault, "{error}");
            let cause = error.source().and_then(|cause| cause.downcast_ref::<Fault>());
            assert_eq!(cause, Some(&fault), "{error}");
        }
        let source = io::Error::from(io::ErrorKind::OutOfMemory);
        let error = ConnectError::System { step: "do it", source };
        assert_eq!(error.kind(), ErrorKind::System);
        assert!(error.source().is_some_and(|cause| cause.is::<io::Error>()));
    }
}

//! Why a command failed, in one line, and its exit status.

use llmp::{BindError, ConnectError, Disconnected, LockError, RecvError, SendError, WaitError};
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// The table of exit statuses for `--help`. Each has one meaning.
pub const STATUSES: &str = "\
Exit status:
  0    done
  1    failed on the way: input, output, memory, or a message above the limit
  2    a wrong option, a missing bus, or a broker that refuses the client
  3    too late: the time of --timeout or --wait has passed
  4    the broker, or a required receiver, left before all was done
  128+N  ended by signal N";

/// All failures without a status of their own.
const OTHER: u8 = 1;
/// The request is invalid: a missing bus, a wrong option.
const USAGE: u8 = 2;
/// A time limit has passed.
const LATE: u8 = 3;
/// The other side left.
const LEFT: u8 = 4;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// Makes a failure for an invalid request.
    pub fn usage(text: impl Display) -> Self {
        Failure { status: USAGE, text: text.to_string() }
    }

    /// Makes a failure for an error on the way.
    pub fn other(text: impl Display) -> Self {
        Failure { status: OTHER, text: text.to_string() }
    }

    /// Makes a failure for a time limit.
    pub fn late(text: impl Display) -> Self {
        Failure { status: LATE, text: text.to_string() }
    }

    /// Makes a failure for the other side, which left before all was done.
    pub fn left(text: impl Display) -> Self {
        Failure { status: LEFT, text: text.to_string() }
    }

    /// Makes a failure for a signal that ended the command.
    pub fn signal(signal: i32) -> Self {
        Failure::silent(u8::try_from(128 + signal).unwrap_or(OTHER))
    }

    /// Makes a failure that prints nothing, because its reason was printed before.
    pub fn silent(status: u8) -> Self {
        Failure { status, text: String::new() }
    }

    /// Returns whether a time limit has passed.
    pub fn is_late(&self) -> bool {
        self.status == LATE
    }

    /// Returns the exit status.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// Prints it to stderr in one line. Returns the exit status.
    pub fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            say(&self.text);
        }
        ExitCode::from(self.status())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Prints one line to stderr. Ignores a failure, because there is no place left to report it.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "llmp: {text}");
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Memory(_)
            | BindError::System { .. }
            | BindError::Lock { source: LockError::NoRoom(_), .. } => Failure::other(error),
            _ => Failure::usage(error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Stranger { user } => Failure::usage(format!(
                "the bus belongs to user {user}; if you trust them, connect with --access {user}"
            )),
            ConnectError::Disconnected(ended) => ended.into(),
            ConnectError::Silent { .. } => Failure::late(error),
            ConnectError::Memory(_) | ConnectError::System { .. } => Failure::other(error),
            _ => Failure::usage(error),
        }
    }
}

impl From<Disconnected> for Failure {
    fn from(ended: Disconnected) -> Self {
        match ended {
            Disconnected::Closed => Failure::left("the broker has ended the bus"),
            Disconnected::PeerDied => {
                Failure::left("the broker died or was killed; start it again")
            }
            Disconnected::ProtocolError => Failure::left(
                "the broker ended this connection for a protocol error; its log says which",
            ),
            ended => Failure::left(format!("the connection to the broker has ended: {ended}")),
        }
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Disconnected(ended) => ended.into(),
            error => Failure::other(error),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Disconnected(ended) => ended.into(),
            SendError::TooLong { len, max } => Failure::other(format!(
                "a message of {len} bytes is above the limit of {max}; start the broker with a higher --max-message-len"
            )),
            error => Failure::other(error),
        }
    }
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Disconnected(ended) => ended.into(),
            error => Failure::other(error),
        }
    }
}

//! The notes that the processes of a demo send to their parent: one JSON object per line on
//! standard output.

use crate::failure::Failure;
use llmp::core::chain::Stats;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// A note to the parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// The process is set up or connected.
    Ready,
    /// The progress of a client, in bytes of files.
    Progress { sent: u64, received: u64 },
    /// A file that can't be read.
    Unreadable(String),
    /// Another warning for the user.
    Warning(String),
    /// Why the process fails.
    Failed(String),
    /// The counters of a client.
    Client(ClientReport),
    /// The counters of the broker.
    Broker(BrokerReport),
}

/// What a client has sent and received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ClientReport {
    /// Messages sent.
    pub sent_messages: u64,
    /// Files sent.
    pub sent_files: u64,
    /// The counters of received messages.
    pub received: Received,
    /// The counters of its chain.
    pub chain: Chain,
}

/// What a client has received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// Messages, without repeated ones.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of files in them.
    pub file_bytes: u64,
    /// Files that arrived whole.
    pub files: u64,
    /// Messages that never arrived. A message that arrives late counts as lost and as duplicated.
    pub lost: u64,
    /// Messages that arrived again.
    pub duplicated: u64,
    /// Files that did not arrive whole, and messages that can't be parsed.
    pub corrupt: u64,
}

/// The counters of the broker.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct BrokerReport {
    /// Clients disconnected for a fault.
    pub faults: u64,
    /// The counters of the broadcast chain. Its peak covers all of the broker's shared memory.
    pub chain: Chain,
}

/// The counters of a chain.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Page rollovers.
    pub rollovers: u64,
    /// Rollovers into a page that was written before.
    pub reuses: u64,
    /// The most shared memory at one time, in bytes.
    pub bytes_peak: u64,
}

impl From<Stats> for Chain {
    fn from(stats: Stats) -> Self {
        let Stats { rollovers, reuses, page_bytes_peak, .. } = stats;
        Chain { rollovers, reuses, bytes_peak: page_bytes_peak }
    }
}

/// Sends a note to the parent.
pub fn tell(note: &Note) -> Result<(), Failure> {
    let told = serde_json::to_string(note).map_err(io::Error::from);
    // Standard output flushes each complete line.
    let told = told.and_then(|line| writeln!(io::stdout(), "{line}"));
    told.map_err(|error| Failure::other(format!("cannot write to the demo's parent: {error}")))
}

/// Reports a failure of a demo's process to the parent, which prints it.
pub fn or_tell(result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| match tell(&Note::Failed(failure.to_string())) {
        Ok(()) => Failure::silent(1),
        Err(_) => failure,
    })
}

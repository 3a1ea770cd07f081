//! What the processes of a demo tell their parent: one JSON object a line on standard output.

use crate::failure::Failure;
use llmp::core::chain::Stats;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// One thing that is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// Set up or connected.
    Ready,
    /// How far a client is, in bytes of files.
    Progress { sent: u64, received: u64 },
    /// Something that can't be read.
    Unreadable(String),
    /// Something else the user should know.
    Warning(String),
    /// Why the process ends.
    Failed(String),
    /// What a client has done.
    Client(ClientReport),
    /// What the broker has done.
    Broker(BrokerReport),
}

/// What a client has sent and received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ClientReport {
    /// Messages sent.
    pub sent_messages: u64,
    /// Files sent.
    pub sent_files: u64,
    /// What came from the others.
    pub received: Received,
    /// Its chain.
    pub chain: Chain,
}

/// What a client has received.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// Messages, those that came twice not counted.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of files in them.
    pub file_bytes: u64,
    /// Files that arrived whole.
    pub files: u64,
    /// Messages that never came. One that comes too late is lost and duplicated.
    pub lost: u64,
    /// Messages that came again.
    pub duplicated: u64,
    /// Files that did not arrive whole, and messages that mean nothing.
    pub corrupt: u64,
}

/// What the broker has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct BrokerReport {
    /// Clients disconnected for a fault.
    pub faults: u64,
    /// The broadcast chain, and in its peak all of the broker's shared memory.
    pub chain: Chain,
}

/// What a chain has done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Page turns.
    pub rollovers: u64,
    /// Page turns into a page that had been written before.
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

/// Tells the parent.
pub fn tell(note: &Note) -> Result<(), Failure> {
    let told = serde_json::to_string(note).map_err(io::Error::from);
    // Standard output passes a line on as soon as it is complete.
    let told = told.and_then(|line| writeln!(io::stdout(), "{line}"));
    told.map_err(|error| Failure::other(format!("cannot write to the demo's parent: {error}")))
}

/// Runs a process of a demo; why it failed is told to the parent, who tells the user.
pub fn or_tell(result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| match tell(&Note::Failed(failure.to_string())) {
        Ok(()) => Failure::silent(1),
        Err(_) => failure,
    })
}

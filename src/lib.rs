//! Low-level message passing. Processes on one machine exchange messages through sealed shared
//! memory, without locks.
//!
//! ```text
//!  client 1         client 2    ...    client N        each client appends to its own chain
//!     |                |                  |
//!  [out chain]     [out chain]       [out chain]
//!     \________________|_________________/
//!                      |
//!                   broker                              a hook inspects, drops or replaces
//!                      |
//!              [broadcast chain]                        one order for all
//!      ________________|__________________
//!     |                |                  |
//!  client 1         client 2    ...    client N
//! ```
//!
//! * [`Broker`] and [`Client`] make a bus. [`channel`], [`Sender`] and [`Receiver`] connect two
//!   processes, or two threads, without a broker.
//! * A received [`Message`] is a copy. With [`ClientBuilder::borrow_payloads`] it refers to the
//!   sender's page, which requires that all peers are trusted.
//! * Sending and receiving come in three kinds: blocking, with a deadline, and non-blocking. The
//!   descriptor of a client ([`AsFd`](std::os::fd::AsFd)) works with poll and epoll loops.
//!
//! # The protocol
//!
//! The directory `src/core` is the protocol. It does no input or output and is generic over memory.
//! loom, shuttle and the fuzzers run the same code. `docs/protocol.md` describes the protocol in prose
//! and numbers its promises.
//!
//! # Features
//!
//! The library needs Linux 5.1 or newer on a 64-bit machine. Features only add code:
//!
//! * `cli`, on by default, is the command line. Library users set `default-features = false` and
//!   `features = ["std"]`.
//! * `std` is the library. Without it, the protocol is there alone, for programs without an
//!   operating system.
//! * `loom` and `shuttle` are for the model checkers.
//! * `spec` is for the explorer of the specification.
//! * `crash` lets tests kill a process at each of its steps.
//! * `verify` is the command that runs all of these.

#![cfg_attr(not(feature = "std"), no_std)]
#![warn(missing_debug_implementations)]

extern crate alloc;

#[cfg(not(all(target_pointer_width = "64", target_has_atomic = "64")))]
compile_error!("llmp needs 64-bit words: positions and commit words are 64 bits long");

#[cfg(all(feature = "std", not(target_os = "linux")))]
compile_error!(
    "the feature `std` needs Linux: sealed memfds, SOCK_SEQPACKET, pidfds; without it, the protocol is there alone"
);

// The floors, the lowest first: `core`, `sys`, the library. Imports run downwards only.

#[doc(hidden)]
pub mod core;

#[cfg(feature = "std")]
mod sys;

#[cfg(feature = "std")]
mod backoff;
#[cfg(feature = "std")]
mod broker;
#[cfg(feature = "std")]
mod bus_addr;
#[cfg(feature = "std")]
mod channel;
#[cfg(feature = "std")]
mod client;
#[cfg(feature = "std")]
mod connection;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "std")]
mod handshake;
#[cfg(feature = "std")]
mod listener;
#[cfg(feature = "std")]
mod lost;
#[cfg(feature = "std")]
mod peer_filter;
#[cfg(feature = "std")]
mod place;
#[cfg(feature = "std")]
mod receiver;
#[cfg(feature = "std")]
mod sender;
#[cfg(feature = "std")]
mod socket;
#[cfg(feature = "std")]
mod wait;

pub use core::broker::Quota;
pub use core::broker::hook::{Hook, Verdict};
pub use core::broker::policy::SlowReceiver;
pub use core::chain::Stats;
pub use core::fault::{Fault, InvalidMemfd};
pub use core::limits::{Limits, LimitsError};
pub use core::memory::TrustPeers;
pub use core::message::{ClientId, Envelope, Flags, Message, Slot, Tag};
pub use core::message_buf::MessageBuf;
pub use core::origin::Origin;
pub use core::wire::Refusal;

#[cfg(feature = "std")]
pub use self::{
    broker::{Broker, BrokerBuilder, BrokerStats, StopHandle, Vacancy},
    bus_addr::BusAddr,
    channel::channel,
    client::{Client, ClientBuilder, join},
    error::{
        BindError, BusError, ConnectError, Disconnected, ErrorKind, HeldUp, PathTooLong, RecvError,
        SendError, WaitError,
    },
    listener::Listener,
    peer_filter::PeerFilter,
    receiver::{Messages, Receiver},
    sender::{Batch, Claim, Sender},
    sys::lock::LockError,
    sys::memfd::RegionError,
    wait::Wait,
};

/// For the fuzzer of descriptors.
#[cfg(feature = "std")]
#[doc(hidden)]
pub use sys::memfd::ReceivedFd;

/// Failpoints for the tests of death at every step, see `tests/crash`.
#[cfg(feature = "crash")]
#[doc(hidden)]
pub use core::failpoint as crash;

/// Runs the examples of the README as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the examples of the guide as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

/// Runs the examples of the list of errors as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/errors.md")]
struct Errors;

/// Runs the examples of the first page as tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../docs/start.md")]
struct Start;

//! Low level message passing: processes of one machine exchange messages through sealed shared
//! memory, without locks.
//!
//! ```text
//!  client 1         client 2    ...    client N        each client appends to its own chain
//!     |                |                  |
//!  [out chain]     [out chain]       [out chain]
//!     \________________|_________________/
//!                      |
//!                   broker                              a hook looks at, drops or replaces
//!                      |
//!              [broadcast chain]                        one order for everyone
//!      ________________|__________________
//!     |                |                  |
//!  client 1         client 2    ...    client N
//! ```
//!
//! * [`Broker`] and [`Client`] make a bus; [`channel`], [`Sender`] and [`Receiver`] connect two
//!   processes, or two threads, without a broker.
//! * A received [`Message`] is a copy, unless the peers' honesty is promised
//!   ([`ClientBuilder::borrow_payloads`]): then it lies in the sender's page.
//! * Sending and receiving come in three kinds: blocking, with a deadline, and non-blocking. A
//!   client's descriptor ([`AsFd`](std::os::fd::AsFd)) fits into poll and epoll loops.
//!
//! # The protocol in ten minutes
//!
//! Read in this order. [`layout`]: the bytes. [`memory`]: the only door to shared memory.
//! [`order`]: every memory ordering by name. [`chain`]: sender and receiver, the protocol itself.
//! [`control`]: cursors, and how to sleep without losing a wake-up. [`broker::core`]: the broker
//! without sockets. Everything up to here does no input or output and is generic over
//! [`memory::Memory`]; loom, shuttle and the fuzzers run this very code. `docs/protocol.md` says
//! the same in prose, and numbers the promises.
//!
//! # Limits
//!
//! Linux 5.1 or newer, 64-bit. The features `loom` and `shuttle` add memory for the model
//! checkers, `spec` the explorer of the specification, `crash` lets tests kill a process at each of
//! its steps, `verify` is the command that runs them all; they change nothing else. The feature
//! `cli`, on by default, is the command line; a library user takes `default-features = false`.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "llmp needs 64-bit Linux: sealed memfds, SOCK_SEQPACKET, and 8-byte atomic loads from read-only memory"
);

mod backoff;
pub mod broker;
mod bus_addr;
pub mod chain;
mod channel;
mod client;
mod connection;
pub mod control;
mod error;
mod fault;
mod handshake;
pub mod hook;
pub mod layout;
mod limits;
pub mod link;
mod lost;
pub mod memory;
mod message;
pub mod order;
mod peer_filter;
mod sleep_bound;
mod spin;
mod sys;
pub mod wire;

pub use broker::{Broker, BrokerBuilder, BrokerStats, StopHandle};
pub use bus_addr::BusAddr;
pub use channel::{Listener, Receiver, Sender, channel};
pub use client::{Batch, Client, ClientBuilder, Wait};
pub use error::{
    BindError, BusError, ConnectError, Disconnected, HeldUp, LockError, PathTooLong, RecvError,
    SendError, WaitError,
};
pub use fault::Fault;
pub use limits::{Limits, LimitsError};
pub use message::{ClientId, Envelope, Flags, Message, Origin, Slot, Tag};
pub use peer_filter::PeerFilter;

/// For tests of death at every step: see `tests/crash.rs`.
#[cfg(feature = "crash")]
#[doc(hidden)]
pub use sys::failpoint as crash;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

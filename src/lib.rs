//! Low level message passing.
#![warn(missing_docs)]

mod access;
pub mod broker;
mod bus;
pub mod chain;
mod channel;
mod client;
pub mod control;
pub mod endpoint;
mod error;
mod fault;
mod handshake;
pub mod hook;
pub mod layout;
mod limits;
pub mod memory;
mod message;
pub mod order;
mod port;
mod sys;
pub mod wire;

pub use access::Access;
pub use broker::{Broker, BrokerBuilder, Report, StopHandle};
pub use bus::Bus;
pub use channel::{Listener, Receiver, Sender, channel};
pub use client::{Batch, Client, ClientBuilder};
pub use error::{BindError, BusError, ConnectError, Ended, RecvError, SendError};
pub use fault::Fault;
pub use limits::{Limits, LimitsError};
pub use message::{ClientId, Envelope, Flags, Message, Origin, Slot, Tag};

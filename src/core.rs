//! The protocol: everything that the models explore.
//!
//! The core allocates memory and needs nothing else: no operating system, no input, no output. It
//! reaches shared memory through one trait, [`memory::Memory`]. Its only `unsafe` code is in
//! [`memory`], and where a claimed slot is borrowed. `tests/floors.rs` checks what it imports.
//!
//! Read in this order. [`layout`]: the bytes. [`memory`]: the only door to shared memory.
//! [`order`]: every memory ordering by name. [`chain`]: the writer and the reader of a chain.
//! [`control`]: cursors, and how to sleep without losing a wake-up. [`link`]: both halves of a
//! connection. [`parking`]: how two of them sleep.
//! [`wire`]: the packets. [`broker`]: the broker without sockets. [`handshake`]: how a client joins.

#![cfg_attr(not(feature = "std"), allow(dead_code, reason = "the library uses them"))]

pub mod broker;
pub mod chain;
pub mod control;
pub mod failpoint;
pub(crate) mod fault;
pub mod handshake;
pub mod intent;
pub mod layout;
pub(crate) mod limits;
pub mod link;
pub mod memory;
pub(crate) mod message;
pub(crate) mod message_buf;
pub mod order;
pub(crate) mod origin;
pub mod parking;
pub mod wire;

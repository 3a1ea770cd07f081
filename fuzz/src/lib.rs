//! The oracles of the fuzzers, and the makers of their seeds.
//!
//! Each target has one oracle. It takes any bytes and panics if a promise is broken. The package
//! above includes this file in a test, which replays the seeds and all former findings without a
//! fuzzer.

pub mod bus;
pub mod chain;
#[cfg(feature = "cli")]
pub mod command_line;
pub mod control_region;
pub mod descriptors;
pub mod end_of_page;
pub mod foreign_pages;
pub mod forgery;
pub mod handshake;
pub mod hostile;
pub mod input;
#[allow(dead_code, reason = "the models use the rest")]
#[path = "../../model/memory/interposed.rs"]
pub mod interposed;
pub mod joining;
pub mod live_bus;
pub mod live_page;
pub mod packets;
pub mod page_bytes;
pub mod page_mutate;
#[cfg(feature = "cli")]
mod program;
#[path = "../../tests/common/regions.rs"]
pub mod regions;
pub mod scribbled;
pub mod seeds;
pub mod seen;
pub mod world;

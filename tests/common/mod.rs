//! The parts that tests with real processes and hostile peers share.
#![allow(dead_code, reason = "every test program uses a part of it")]

pub mod bus;
pub mod child;
pub mod connection;
pub mod content;
pub mod honest;
pub mod logs;
pub mod proc;
pub mod raw;
pub mod regions;
pub mod roles;

use std::time::Duration;

/// Longest wait of a test for an event before it fails.
pub const TIMEOUT: Duration = Duration::from_secs(20);

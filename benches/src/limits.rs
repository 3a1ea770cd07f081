//! The hardware's limits beside the figures of this library.
//!
//! | figure | its limit |
//! |---|---|
//! | a message or a delivery up to 4 KiB | half the round trip of one cache line for each line that it and its header (16 bytes) take |
//! | a longer one | the copy of its bytes into a ring of 4 MiB, from where the receiver fetches them |
//! | one written in place, of which the head is read | the lines of a message of 8 bytes |
//! | ping-pong, polling | two cache lines there and back, before and after the same runs |
//! | ping-pong, sleeping | bare sockets in its place, which wake there and back |
//! | waking many | bare sockets in its place |
//! | a message at 1,000 a second | half a wake-up there and back, late |
//! | joining | a wake-up there and back |
//!
//! A factor below 1 is possible: processors fetch lines ahead. An idle cycle of the broker and an idle
//! bus have no limit of this kind, and memory has its budget.

use crate::content::LEAST;
use crate::measure::Measured;
use crate::placement::Placement;
use crate::workloads::hardware;

const HEADER: usize = 16;
const LINE: usize = 64;
/// Longer messages are fetched ahead, so that only the copy remains.
const SHORT: usize = 4096;

/// The speed of the machine, as measured in the same run.
pub struct Limits<'a> {
    measured: &'a [Measured],
    placement: Placement,
}

impl<'a> Limits<'a> {
    /// The limits of one placement, as far as they were measured there.
    pub fn of(measured: &'a [Measured], placement: Placement) -> Self {
        Limits { measured, placement }
    }

    /// Returns the ratio of a cell to its limit.
    pub fn factor(&self, cell: &Measured) -> Option<f64> {
        let median = |figure| cell.median(self.placement, figure);
        let case = cell.cell.case.as_str();
        Some(match cell.cell.workload {
            "p2p" => {
                let len = if case.ends_with("in place") { LEAST } else { cell.cell.len? };
                median("ns_per_message")? / self.message_ns(len)?
            }
            "bus" => median("ns_per_delivery")? / self.message_ns(cell.cell.len?)?,
            "ping-pong" => median("ns_p50")? / self.round_trip_ns(cell)?,
            "waiting" => {
                median("ns_p50")? / (self.hardware(hardware::LATE_SOCKET, "ns_p50")? / 2.0)
            }
            "join" => median("ns_p50")? / self.hardware(hardware::SOCKET, "ns_p50")?,
            "growth" => median("ns_last")? / self.find(case, hardware::BARE, "ns_last")?,
            _ => return None,
        })
    }

    fn round_trip_ns(&self, cell: &Measured) -> Option<f64> {
        match cell.cell.case.as_str() {
            "polling" => cell.two_lines_ns(self.placement),
            case => self.find(case, hardware::BARE, "ns_p50"),
        }
    }

    fn message_ns(&self, len: usize) -> Option<f64> {
        if len > SHORT {
            let gib_per_s = self.hardware(hardware::RING_COPY, "gib_per_s")?;
            return Some(len as f64 / gib_per_s / (1u64 << 30) as f64 * 1e9);
        }
        let one_line_ns = self.hardware(hardware::ONE_LINE, "ns_p50")?;
        Some((HEADER + len) as f64 / LINE as f64 * one_line_ns / 2.0)
    }

    fn hardware(&self, case: &str, figure: &str) -> Option<f64> {
        self.find(case, hardware::NAME, figure)
    }

    fn find(&self, case: &str, peer: &str, figure: &str) -> Option<f64> {
        let found = self.measured.iter().find(|c| c.cell.case == case && c.cell.peer == peer)?;
        let here = found.median(self.placement, figure);
        here.or_else(|| found.median(Placement::Any, figure))
    }
}

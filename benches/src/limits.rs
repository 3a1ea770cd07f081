//! The hardware's limits beside the figures of this library.
//!
//! | figure | its limit |
//! |---|---|
//! | a message or a delivery up to 4 KiB | half the round trip of one cache line for each line that it and its header (16 bytes) take |
//! | a longer one | the copy of its bytes in the second cache |
//! | ping-pong, polling | two cache lines there and back, before and after the same runs |
//! | ping-pong, sleeping | a wake-up there and back over a socket |
//!
//! A factor below 1 is possible: processors fetch lines ahead.

use crate::measure::Measured;
use crate::placement::Placement;

const HEADER: usize = 16;
const LINE: usize = 64;
/// Longer messages are fetched ahead, so that only the copy remains.
const SHORT: usize = 4096;

/// What the machine can do, as measured in the same run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    one_line_ns: Option<f64>,
    copy_gib_per_s: Option<f64>,
    wake_ns: Option<f64>,
}

impl Limits {
    /// The limits of one placement, as far as they were measured there.
    pub fn of(measured: &[Measured], placement: Placement) -> Self {
        let find = |case: &str, figure: &str| {
            let of_case =
                |c: &&Measured| c.cell.workload == "hardware" && c.cell.case.contains(case);
            measured.iter().find(of_case)?.median(placement, figure)
        };
        Limits {
            one_line_ns: find("one cache line", "ns_p50"),
            copy_gib_per_s: find("second cache", "gib_per_s"),
            wake_ns: find("SEQPACKET", "ns_p50"),
        }
    }

    /// How many times its limit a cell takes.
    pub fn factor(&self, cell: &Measured, placement: Placement) -> Option<f64> {
        let median = |figure| cell.median(placement, figure);
        match (cell.cell.workload, cell.cell.case.as_str()) {
            ("p2p", _) => Some(median("ns_per_message")? / self.message_ns(cell.cell.len?)?),
            ("bus", _) => Some(median("ns_per_delivery")? / self.message_ns(cell.cell.len?)?),
            ("ping-pong", "polling") => Some(median("ns_p50")? / cell.two_lines_ns(placement)?),
            ("ping-pong", _) => Some(median("ns_p50")? / self.wake_ns?),
            _ => None,
        }
    }

    fn message_ns(&self, len: usize) -> Option<f64> {
        if len > SHORT {
            return Some(len as f64 / self.copy_gib_per_s? / (1u64 << 30) as f64 * 1e9);
        }
        Some((HEADER + len) as f64 / LINE as f64 * self.one_line_ns? / 2.0)
    }
}

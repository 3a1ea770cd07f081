//! Lines for `cargo verify`, past the capture of the test harness.

use std::io::Write;

/// Prints a line in one write, so that no line of the harness comes between.
pub fn report(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

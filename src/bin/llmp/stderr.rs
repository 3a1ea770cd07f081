//! Lines on stderr that never block the broker. Its clients would wait with it, and they determine
//! how much it logs.
//!
//! The descriptor stays blocking, because other processes share it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags};
use std::fmt::Display;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The most lines in a burst, and the most lines per second after it.
const AT_ONCE: u32 = 1000;
const A_SECOND: u32 = 100;

/// The bytes for which a writable pipe has room (`PIPE_BUF`).
const LONGEST: usize = 4096;

static LINES: Mutex<Lines> = Mutex::new(Lines::new());

/// Writes one line if that is possible without waiting.
pub fn line(text: impl Display) {
    write(format!("llmp: {text}\n").as_bytes());
}

/// The target of the log. Each write is a line.
pub struct Log;

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(line: &[u8]) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.line(line, Instant::now(), write_now);
}

/// Writes the bytes that can be written without waiting. Returns the number of bytes handled, or
/// `None` if there were none.
fn write_now(bytes: &[u8]) -> Option<usize> {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    if !poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        return None;
    }
    let kind = fstat(&stderr).map(|found| FileType::from_raw_mode(found.st_mode));
    // Another process may have filled the room meanwhile.
    let written = match kind {
        Ok(FileType::Fifo | FileType::Socket) => {
            let parts = [IoSlice::new(bytes)];
            match rustix::io::pwritev2(stderr.as_fd(), &parts, u64::MAX, ReadWriteFlags::NOWAIT) {
                // Pipes support it since Linux 6.4.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                    rustix::io::write(&stderr, bytes)
                }
                written => written,
            }
        }
        _ => rustix::io::write(&stderr, bytes),
    };
    match written {
        Ok(len) => Some(len),
        Err(Errno::AGAIN | Errno::INTR) => None,
        // A broken stderr is ignored, because there is no other place to report it.
        Err(_) => Some(bytes.len()),
    }
}

/// The state of the lines written so far.
struct Lines {
    /// The rest of a line that was written in part.
    rest: Vec<u8>,
    /// Lines skipped since the last one that was written.
    missing: u64,
    /// The remaining lines of the current allowance, and when it was computed.
    allowed: u32,
    counted: Option<Instant>,
}

impl Lines {
    const fn new() -> Self {
        Lines { rest: Vec::new(), missing: 0, allowed: AT_ONCE, counted: None }
    }

    /// Writes a line or counts it as missing.
    fn line(&mut self, line: &[u8], now: Instant, write: impl FnMut(&[u8]) -> Option<usize>) {
        if !self.is_allowed(now) || !self.try_line(line, write) {
            self.missing += 1;
        }
    }

    fn is_allowed(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(*self.counted.get_or_insert(now));
        let more = since.as_millis() * u128::from(A_SECOND) / 1000;
        if more > 0 {
            let allowed = u128::from(self.allowed).saturating_add(more);
            self.allowed = u32::try_from(allowed).unwrap_or(AT_ONCE).min(AT_ONCE);
            self.counted = Some(now);
        }
        let is_allowed = self.allowed > 0;
        self.allowed = self.allowed.saturating_sub(1);
        is_allowed
    }

    fn try_line(&mut self, line: &[u8], mut write: impl FnMut(&[u8]) -> Option<usize>) -> bool {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            if !self.put(&rest, &mut write) {
                self.rest = rest;
            }
            if !self.rest.is_empty() {
                return false;
            }
        }
        if self.missing > 0 {
            let text = format!(
                "llmp: warn: {} lines are missing here: stderr was not read in time, or more than {A_SECOND} came in a second\n",
                self.missing
            );
            if !self.put(text.as_bytes(), &mut write) {
                return false;
            }
            self.missing = 0;
            if !self.rest.is_empty() {
                return false;
            }
        }
        if line.len() <= LONGEST {
            return self.put(line, &mut write);
        }
        self.put(&[&line[..LONGEST - 1], b"\n"].concat(), &mut write)
    }

    /// Writes as many bytes as possible. The rest is written first next time.
    fn put(&mut self, bytes: &[u8], write: &mut impl FnMut(&[u8]) -> Option<usize>) -> bool {
        let Some(written) = write(bytes) else { return false };
        self.rest = bytes.get(written..).unwrap_or_default().to_vec();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_that_find_no_room_are_counted_and_none_is_torn() {
        let (mut lines, now) = (Lines::new(), Instant::now());
        let mut written = Vec::new();
        // The room for each line.
        for (number, room) in [1000, 3, 0, 2, 1, 0, 1000, 1000].into_iter().enumerate() {
            let mut room: usize = room;
            lines.line(format!("line {number}\n").as_bytes(), now, |bytes| {
                let len = bytes.len().min(room);
                room -= len;
                written.extend_from_slice(&bytes[..len]);
                Some(len).filter(|len| *len > 0)
            });
        }
        lines.line(&[b'x'; 5000], now, |bytes| {
            written.extend_from_slice(bytes);
            Some(bytes.len())
        });
        let text = String::from_utf8(written).unwrap();
        let (first, rest) = text.split_once("llmp: warn: 4 lines are missing here").unwrap();
        assert_eq!(first, "line 0\nline 1\n");
        let rest = rest.split_once('\n').unwrap().1;
        assert_eq!(rest.strip_prefix("line 6\nline 7\n").map(str::len), Some(LONGEST));
        assert!(rest.ends_with("x\n"));
    }

    #[test]
    fn more_lines_than_a_second_may_have_are_counted() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/threat-model.md");
        let row = "lines of the command line's log | 1,000 at once, 100 a second, none";
        assert!(std::fs::read_to_string(path).unwrap().contains(row));
        let (mut lines, mut now) = (Lines::new(), Instant::now());
        let mut written = Vec::new();
        // Of 3000 lines, the number written after each time in seconds. It includes the line that
        // counts the missing ones.
        for (later, expected) in [(0, 1000), (1, 101), (100, 1001)] {
            now += Duration::from_secs(later);
            written.clear();
            for _ in 0..3000 {
                lines.line(b"line\n", now, |bytes| {
                    written.push(bytes.to_vec());
                    Some(bytes.len())
                });
            }
            assert_eq!(written.len(), expected, "{later}");
            assert_eq!(written[0].starts_with(b"llmp: warn: "), later > 0);
        }
    }
}

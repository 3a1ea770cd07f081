//! The names of files, sent from the parent to a client over its standard input.
//!
//! The parent sends one byte [`GO`] when all clients are connected. Each name follows after its
//! length in 4 bytes, little-endian. Length 0 ends the list. The input stays open while the parent
//! runs.

use crate::failure::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Stdin, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sent when all clients are connected.
pub const GO: u8 = b'G';

/// Writes a name.
pub fn write(out: &mut impl Write, name: &Path) -> io::Result<()> {
    let name = name.as_os_str().as_bytes();
    let len = u32::try_from(name.len()).map_err(io::Error::other)?;
    // In one piece, so that the client wakes up once.
    out.write_all(&[&len.to_le_bytes(), name].concat())
}

/// Writes the end of the list.
pub fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 4])
}

/// The next entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A file to send.
    File(PathBuf),
    /// No name is available yet.
    Later,
    /// The list has ended.
    End,
}

/// The client's end.
pub struct Names {
    input: Stdin,
    /// The bytes read, of which the first `at` were handled.
    read: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Names {
    /// Waits for [`GO`].
    pub fn wait_for_go() -> Result<Self, Failure> {
        let mut names = Names { input: io::stdin(), read: Vec::new(), at: 0, ended: false };
        names.fill()?;
        match names.read.first() {
            Some(&GO) => names.at = 1,
            _ => {
                return Err(Failure::other(
                    "this command is internal; start a demo with: llmp demo",
                ));
            }
        }
        Ok(names)
    }

    /// Returns the next entry without waiting.
    pub fn next(&mut self) -> Result<Next, Failure> {
        while !self.ended {
            let unread = &self.read[self.at..];
            if let Some((&len, rest)) = unread.split_first_chunk() {
                let len = u32::from_le_bytes(len) as usize;
                if len == 0 {
                    self.ended = true;
                } else if let Some(name) = rest.get(..len) {
                    self.at += 4 + len;
                    return Ok(Next::File(OsStr::from_bytes(name).into()));
                }
            }
            if !self.ended {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
                if matches!(poll(&mut fds, Some(&now)), Ok(0) | Err(Errno::INTR)) {
                    return Ok(Next::Later);
                }
                self.fill()?;
            }
        }
        Ok(Next::End)
    }

    /// Reads the available bytes and waits if there are none.
    fn fill(&mut self) -> Result<(), Failure> {
        self.read.drain(..self.at);
        self.at = 0;
        let old = self.read.len();
        self.read.resize(old + 16 * 1024, 0);
        let read =
            rustix::io::retry_on_intr(|| rustix::io::read(&self.input, &mut self.read[old..]));
        let len = read.map_err(|error| Failure::other(format!("names can't be read: {error}")))?;
        self.read.truncate(old + len);
        if len == 0 { Err(parent_is_gone()) } else { Ok(()) }
    }

    /// Waits until a name arrives or `other` becomes readable, for at most `timeout`.
    pub fn wait_with(
        &self,
        other: &impl std::os::fd::AsFd,
        timeout: Option<Duration>,
    ) -> Result<(), Failure> {
        // A time that exceeds the kernel's range means no limit.
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        let mut fds = [PollFd::new(other, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            // After the list, only the parent's end makes the input readable.
            Ok(_) if self.ended && !fds[1].revents().is_empty() => Err(parent_is_gone()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Failure::other(format!("cannot wait: {error}"))),
        }
    }
}

fn parent_is_gone() -> Failure {
    Failure::other("the demo was ended")
}

//! The sending half of a demo's client. It sends files as messages of many sizes.

use super::names::{Names, Next};
use super::note::{Note, tell};
use super::wire::{self, Digest, HEAD, Part, Said};
use crate::failure::Failure;
use crate::random::Random;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The largest piece of a file, in bytes.
const LARGEST: usize = 1 << 20;

/// A file that is being sent.
struct Open {
    path: PathBuf,
    file: File,
    /// The length when the file was opened, minus the bytes read. A file that grows is sent up to
    /// that length. A file that shrinks is sent up to its end.
    left: u64,
    len: u64,
    hash: Sha256,
}

/// The message that is ready: its tag and its buffer.
enum Ready {
    Payload(u32),
    Piece(u32, usize),
}

/// The messages to send. One message at a time is ready, until it was [sent](Outgoing::sent).
pub struct Outgoing {
    /// The message that is ready, unless it is a piece of a file.
    payload: Vec<u8>,
    /// The piece of a file that is ready. Files are read into it in place, and it has room for the
    /// largest piece.
    piece: Vec<u8>,
    ready: Option<Ready>,
    sequence: u64,
    files: u64,
    file_bytes: u64,
    open: Option<Open>,
    done: bool,
    largest: usize,
    random: Random,
}

impl Outgoing {
    /// Makes an empty list with messages of at most `max_message_len` bytes. The seed determines
    /// their sizes.
    pub fn new(max_message_len: usize, seed: u32) -> Self {
        let largest = LARGEST.min(max_message_len.saturating_sub(HEAD)).max(1);
        Outgoing {
            payload: Vec::new(),
            piece: vec![0; HEAD + largest],
            ready: None,
            sequence: 0,
            files: 0,
            file_bytes: 0,
            open: None,
            done: false,
            largest,
            random: Random::new(seed.into()),
        }
    }

    /// Returns the number of messages sent.
    pub fn messages(&self) -> u64 {
        self.sequence
    }

    /// Returns the number of files begun.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// Returns the bytes of files sent.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Returns whether the last message was sent.
    pub fn is_done(&self) -> bool {
        self.done && self.ready.is_none()
    }

    /// Returns the next message to send, or `None` if there is none now.
    pub fn message(&mut self, names: &mut Names) -> Result<Option<(u32, &[u8])>, Failure> {
        while self.ready.is_none() && !self.done {
            if self.open.is_some() {
                self.go_on()?;
                continue;
            }
            match names.next()? {
                Next::Later => return Ok(None),
                Next::File(path) => self.begin(path)?,
                Next::End => {
                    self.done = true;
                    self.say(self.files, Part::Done);
                }
            }
        }
        Ok(self.ready.as_ref().map(|ready| match *ready {
            Ready::Payload(tag) => (tag, &self.payload[..]),
            Ready::Piece(tag, len) => (tag, &self.piece[..HEAD + len]),
        }))
    }

    /// Records that the message was sent.
    pub fn sent(&mut self) {
        self.ready = None;
        self.sequence += 1;
    }

    fn say(&mut self, file: u64, part: Part<'_>) {
        let said = Said { sequence: self.sequence, file, part };
        self.ready = Some(Ready::Payload(said.write(&mut self.payload)));
    }

    fn begin(&mut self, path: PathBuf) -> Result<(), Failure> {
        let (file, len) = match open(&path) {
            Ok(opened) => opened,
            Err(error) => return unreadable(&path, &error),
        };
        self.say(self.files, Part::Begin { name: path.as_os_str().as_bytes() });
        self.files += 1;
        self.open = Some(Open { path, file, left: len, len: 0, hash: Sha256::new() });
        Ok(())
    }

    /// Reads the next piece of the open file, or ends it.
    fn go_on(&mut self) -> Result<(), Failure> {
        let size = self.random.size(self.largest);
        let Some(open) = &mut self.open else { return Ok(()) };
        let size = size.min(usize::try_from(open.left).unwrap_or(usize::MAX));
        match read_full(&mut open.file, &mut self.piece[HEAD..HEAD + size]) {
            Ok(0) => {}
            Ok(len) => {
                open.hash.update(&self.piece[HEAD..HEAD + len]);
                open.left -= len as u64;
                open.len += len as u64;
                self.file_bytes += len as u64;
                let tag = wire::write_data_head(self.sequence, self.files - 1, &mut self.piece);
                self.ready = Some(Ready::Piece(tag, len));
                return Ok(());
            }
            // The bytes read so far are sent as a whole file.
            Err(error) => unreadable(&open.path, &error)?,
        }
        let Some(Open { len, hash, .. }) = self.open.take() else { return Ok(()) };
        let digest: Digest = hash.finalize().into();
        self.say(self.files - 1, Part::End { len, digest: &digest });
        Ok(())
    }
}

/// Opens a regular file. Rejects anything that has replaced it since the walk.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    Ok((file, found.len()))
}

/// Fills the buffer unless the file ends first.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn unreadable(path: &Path, error: &io::Error) -> Result<(), Failure> {
    tell(&Note::Unreadable(format!("{}: {error}", path.display())))
}

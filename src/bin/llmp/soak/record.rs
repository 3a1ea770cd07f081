//! What a process of a soak reports to its parent, as records of 16 bytes.
//!
//! A write of at most 4096 bytes to a pipe is whole or absent, even if the process is killed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// Length of a record.
const LEN: usize = 16;
/// The most records in one write.
const AT_ONCE: usize = 4096 / LEN;

/// A report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A client has joined.
    Joined,
    /// A client has received the message with this number from this sender.
    Got { sender: u32, number: u64 },
    /// A client was told that it has missed as many messages. Zero: an unknown number.
    Missed(u64),
    /// A client has sent as many messages.
    Sent(u64),
    /// As many messages were consumed.
    Flushed(u64),
    /// A client sends nothing more.
    Quiet,
    /// The connection of a client has ended, as it may.
    Ended,
    /// A broker serves the bus.
    Serving,
    /// A broker has handed the bus over.
    HandedOver,
}

impl Record {
    fn bytes(self) -> [u8; LEN] {
        let (kind, sender, number): (u32, u32, u64) = match self {
            Record::Joined => (1, 0, 0),
            Record::Got { sender, number } => (2, sender, number),
            Record::Missed(number) => (3, 0, number),
            Record::Sent(number) => (4, 0, number),
            Record::Flushed(number) => (5, 0, number),
            Record::Quiet => (6, 0, 0),
            Record::Ended => (7, 0, 0),
            Record::Serving => (8, 0, 0),
            Record::HandedOver => (9, 0, 0),
        };
        let words = u128::from(kind) | u128::from(sender) << 32 | u128::from(number) << 64;
        u128::to_le_bytes(words)
    }

    fn read(bytes: [u8; LEN]) -> Option<Self> {
        let words = u128::from_le_bytes(bytes);
        let (sender, number) = ((words >> 32) as u32, (words >> 64) as u64);
        Some(match words as u32 {
            1 => Record::Joined,
            2 => Record::Got { sender, number },
            3 => Record::Missed(number),
            4 => Record::Sent(number),
            5 => Record::Flushed(number),
            6 => Record::Quiet,
            7 => Record::Ended,
            8 => Record::Serving,
            9 => Record::HandedOver,
            _ => return None,
        })
    }
}

/// Writes records to the parent.
pub struct Reporter {
    out: File,
    records: Vec<u8>,
}

impl Reporter {
    /// Makes a reporter that writes to standard output.
    pub fn new() -> io::Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Reporter { out, records: Vec::with_capacity(LEN * AT_ONCE) })
    }

    /// Adds a record. It is written by [`flush`](Reporter::flush), or when there are enough.
    pub fn add(&mut self, record: Record) -> io::Result<()> {
        self.records.extend(record.bytes());
        if self.records.len() == LEN * AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// Writes what was added.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.out.write_all(&self.records);
        self.records.clear();
        result
    }

    /// Adds a record and writes what was added.
    pub fn tell(&mut self, record: Record) -> io::Result<()> {
        self.add(record)?;
        self.flush()
    }
}

/// Reads the records of a process until it ends, and passes on what each read has found.
pub fn read_all(mut input: impl Read, mut then: impl FnMut(Vec<Record>)) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    let mut len = 0;
    loop {
        match input.read(&mut buffer[len..]) {
            Ok(0) if len == 0 => return Ok(()),
            Ok(0) => return Err(io::Error::other("half a record")),
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let (records, rest) = buffer[..len].as_chunks();
        let rest = rest.len();
        let records: Option<_> = records.iter().map(|bytes| Record::read(*bytes)).collect();
        then(records.ok_or_else(|| io::Error::other("no record"))?);
        buffer.copy_within(len - rest..len, 0);
        len = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Record; 9] = [
        Record::Joined,
        Record::Got { sender: u32::MAX, number: 7 },
        Record::Missed(u64::MAX),
        Record::Sent(3),
        Record::Flushed(2),
        Record::Quiet,
        Record::Ended,
        Record::Serving,
        Record::HandedOver,
    ];

    /// Returns one byte a call.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = 1.min(buffer.len());
            self.0.read(&mut buffer[..len])
        }
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        read_all(Slow(bytes), |records| found.extend(records)).map(|()| found)
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let bytes = ALL.map(Record::bytes).concat();
        assert_eq!(read(&bytes).unwrap(), ALL);
    }

    #[test]
    fn half_a_record_and_no_record_are_errors() {
        let bytes = ALL.map(Record::bytes).concat();
        assert!(read(&bytes[..bytes.len() - 1]).is_err());
        assert!(read(&[0; LEN]).is_err());
    }
}

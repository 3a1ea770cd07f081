//! Walks the directory and gives each regular file to the client with the least load.

use super::children::Event;
use super::names;
use std::io::{self, Write};
use std::path::Path;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

/// The cost of a file beside its bytes, in bytes.
const COST_OF_FILE: u64 = 16 * 1024;

/// The progress of the walk, for the display.
#[derive(Debug, Default)]
pub struct Found {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Found {
    /// Returns the directory entries and the bytes of files found so far.
    pub fn get(&self) -> (u64, u64) {
        // Relaxed: they are only shown
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// The result of the walk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walked {
    /// Regular files that were given to clients.
    pub files: u64,
    /// Directories that can't be read.
    pub unreadable: u64,
}

/// Walks `dir` and writes each name to one of the clients.
pub fn walk(
    dir: &Path,
    clients: &mut [ChildStdin],
    found: &Found,
    events: &Sender<Event>,
) -> io::Result<Walked> {
    for client in clients.iter_mut() {
        client.write_all(&[names::GO])?;
    }
    let mut walked = Walked::default();
    let mut loads = vec![0; clients.len()];
    // Symbolic links are not followed, except `dir` itself.
    for entry in walkdir::WalkDir::new(dir) {
        // Relaxed: only shown
        found.entries.fetch_add(1, Ordering::Relaxed);
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                walked.unreadable += 1;
                // The receiver is gone if the demo has ended.
                let _ = events.send(Event::Unreadable(describe(&error)));
                continue;
            }
        };
        if !entry.file_type().is_file() {
            continue;
        }
        let len = entry.metadata().map_or(0, |found| found.len());
        let least = (0..loads.len()).min_by_key(|&i| loads[i]).unwrap_or_default();
        loads[least] += len + COST_OF_FILE;
        names::write(&mut clients[least], entry.path())?;
        walked.files += 1;
        // Relaxed: only shown
        found.bytes.fetch_add(len, Ordering::Relaxed);
    }
    for client in clients {
        names::write_end(client)?;
    }
    Ok(walked)
}

fn describe(error: &walkdir::Error) -> String {
    match (error.path(), error.io_error()) {
        (Some(path), Some(error)) => format!("{}: {error}", path.display()),
        _ => error.to_string(),
    }
}

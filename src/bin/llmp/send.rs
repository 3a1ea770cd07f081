//! `llmp send`

use crate::arguments;
use crate::failure::{Failure, say};
use crate::lines::{Lines, Next};
use llmp::{Client, Tag};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is read at one go.
const READ_LEN: usize = 64 * 1024;
/// After this time of waiting, the user is told why nothing happens.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// Sends the input and waits until the broker has taken it.
pub fn run(arguments: arguments::Send) -> Result<(), Failure> {
    let builder = Client::builder().send_only().watch_receivers();
    let client = builder.access(arguments.trust.access.clone()).connect(&arguments.place.bus)?;
    let mut sending = Sending { client, tag: Tag(arguments.tag) };
    let max = sending.client.limits().max_message_len();
    if let Some(chunk) = arguments.chunk.filter(|&chunk| chunk > max) {
        return Err(Failure::usage(format!(
            "--chunk {chunk} is above the limit of this bus, {max} bytes; start the broker with a higher --max-message-len"
        )));
    }
    sending.wait_for_receivers(&arguments)?;
    let stdin = [Path::new("-").to_owned()];
    let files = if arguments.files.is_empty() { &stdin[..] } else { &arguments.files };
    for path in files {
        let (name, input): (_, Box<dyn Read>) = match path.as_os_str().as_encoded_bytes() {
            b"-" => ("standard input".into(), Box::new(io::stdin().lock())),
            _ => {
                let name = path.display().to_string();
                let file = File::open(path);
                let file = file.map_err(|error| cannot_read(&name, &error))?;
                (name, Box::new(file))
            }
        };
        match arguments.chunk {
            _ if arguments.lines => sending.lines(&name, input, max)?,
            Some(len) => sending.chunks(&name, input, len)?,
            None => sending.stream(&name, input, READ_LEN.min(max))?,
        }
    }
    Ok(sending.client.flush()?)
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::other(format!("cannot read {name}: {error}"))
}

struct Sending {
    client: Client,
    tag: Tag,
}

impl Sending {
    fn wait_for_receivers(&mut self, arguments: &arguments::Send) -> Result<(), Failure> {
        let arguments::Send { receivers: count, timeout, place, .. } = arguments;
        let (count, bus, started) = (*count, &place.bus, Instant::now());
        // A time beyond the end of all times is none.
        let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
        let silent = started + SILENT_WAIT;
        let first = deadline.map_or(silent, |deadline| deadline.min(silent));
        if self.client.wait_for_receivers(count, Some(first))? {
            return Ok(());
        }
        if deadline != Some(first) {
            let now = self.client.receivers();
            say(format_args!(
                "waiting for receivers ({now} of {count}); start one with: llmp recv {bus} (or send at once with --receivers 0)"
            ));
            if self.client.wait_for_receivers(count, deadline)? {
                return Ok(());
            }
        }
        let now = self.client.receivers();
        Err(Failure::other(format!(
            "{now} of {count} receivers were there in time; start one with: llmp recv {bus}, or send at once with --receivers 0"
        )))
    }

    fn lines(&mut self, name: &str, input: impl Read, max: usize) -> Result<(), Failure> {
        let mut lines = Lines::new(BufReader::with_capacity(READ_LEN, input), max);
        for number in 1u64.. {
            match lines.next().map_err(|error| cannot_read(name, &error))? {
                Next::Line(line) => self.client.send(self.tag, line)?,
                Next::End => break,
                Next::TooLong => {
                    self.client.flush()?;
                    return Err(Failure::other(format!(
                        "line {number} of {name} is above the limit of {max} bytes (the lines before it were sent); start the broker with a higher --max-message-len"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Messages of `len` bytes each; only the last of an input may be shorter.
    fn chunks(&mut self, name: &str, mut input: impl Read, len: usize) -> Result<(), Failure> {
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            let read = input.by_ref().take(len as u64).read_to_end(&mut chunk);
            if read.map_err(|error| cannot_read(name, &error))? == 0 {
                return Ok(());
            }
            self.client.send(self.tag, &chunk)?;
        }
    }

    /// What comes in at one go is a message, so that nothing that came in has to wait.
    fn stream(&mut self, name: &str, mut input: impl Read, len: usize) -> Result<(), Failure> {
        let mut buffer = vec![0; len.max(1)];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => self.client.send(self.tag, &buffer[..len])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(name, &error)),
            }
        }
    }
}

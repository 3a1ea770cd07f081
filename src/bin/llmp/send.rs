//! `llmp send`

use crate::arguments;
use crate::failure::{Failure, say};
use crate::interrupt::Interrupt;
use crate::lines::{Lines, Oversize, Piece};
use crate::status::Status;
use crate::values::{END_OF_TRANSFER, connect_error, is_closed};
use llmp::{Disconnected, Envelope, SendError, Sender, Wait, WaitError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most bytes per read.
const READ_LEN: usize = 64 * 1024;
/// After this time of waiting, the reason is printed.
const SILENT_WAIT: Duration = Duration::from_secs(1);
/// With `--reconnect`, the most bytes kept because the broker may not have forwarded them.
const KEPT_LEN: usize = 1 << 20;

/// Sends the input and waits until the broker has consumed it.
pub fn run(arguments: arguments::Send) -> Result<(), Failure> {
    let interrupt = Interrupt::catch(|_| {})?;
    let client = connect(&arguments, arguments.wait)?;
    let max = client.limits().max_message_len();
    if let Some(chunk) = arguments.chunk.filter(|&chunk| chunk > max) {
        return Err(Failure::usage(format!(
            "--chunk {chunk} is above the limit of this bus, {max} bytes; start the broker with a higher --max-message-len"
        )));
    }
    let mut sending =
        Sending { arguments: &arguments, client, interrupt, kept: VecDeque::new(), kept_len: 0 };
    if let Some(ended) = sending.wait_for_receivers()? {
        sending.reconnect(ended)?;
    }
    let stdin = [Path::new("-").to_owned()];
    let files = if arguments.files.is_empty() { &stdin[..] } else { &arguments.files };
    let mut complete = true;
    for path in files {
        complete &= sending.file(path, max)?;
    }
    sending.flush()?;
    // Checked before the receivers see the end of the transfer and leave.
    sending.check_receivers()?;
    if arguments.eof {
        sending.send(Envelope::default().with_flags(END_OF_TRANSFER), b"")?;
        sending.flush()?;
    }
    if complete { Ok(()) } else { Err(Failure::silent(1)) }
}

fn connect(arguments: &arguments::Send, wait: Option<Duration>) -> Result<Sender, Failure> {
    let mut builder = Sender::builder();
    if let Some(wait) = wait {
        builder = builder.wait_for_bus(wait);
    }
    if let Some(outlive) = arguments.outlive {
        builder = builder.outlive_broker(outlive);
    }
    let client =
        builder.access(arguments.trust.access.clone()).connect_sender(&arguments.place.bus);
    client.map_err(|error| connect_error(error, wait.is_some()))
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::other(format!("cannot read {name}: {error}"))
}

struct Sending<'a> {
    arguments: &'a arguments::Send,
    client: Sender,
    interrupt: Interrupt,
    /// With `--reconnect`, the messages that the broker may not have forwarded, and their length.
    kept: VecDeque<(Envelope, Vec<u8>)>,
    kept_len: usize,
}

impl Sending<'_> {
    /// Waits for receivers. With `--reconnect`, returns why the connection ended, if it did.
    fn wait_for_receivers(&mut self) -> Result<Option<Disconnected>, Failure> {
        let arguments::Send { timeout, place, .. } = self.arguments;
        let count = self.arguments.receivers.unwrap_or(1);
        let (bus, started) = (place.bus.shell_word(), Instant::now());
        // A timeout that overflows the clock means no deadline.
        let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
        let mut is_told = false;
        loop {
            match self.client.wait_for_receivers(count, Some(next_look(deadline))) {
                Ok(true) => return Ok(None),
                Ok(false) => {}
                Err(WaitError::Disconnected(ended)) if self.arguments.reconnect => {
                    return Ok(Some(ended));
                }
                Err(error) => return Err(error.into()),
            }
            self.check_interrupt()?;
            let now = self.client.receivers().unwrap_or(0);
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Failure::late(format!(
                    "only {now} of {count} receivers connected in time; start one with: llmp recv {bus}, or send at once with --receivers 0"
                )));
            }
            if !std::mem::replace(&mut is_told, true) {
                say(format_args!(
                    "waiting for receivers ({now} of {count}); start one with: llmp recv {bus} (or send at once with --receivers 0)"
                ));
            }
        }
    }

    /// With `--receivers`, checks that this number of receivers remains at the end.
    fn check_receivers(&mut self) -> Result<(), Failure> {
        let now = self.client.receivers().unwrap_or(0);
        match self.arguments.receivers {
            Some(count) if now < count => Err(Failure::left(format!(
                "{now} of {count} receivers remain at the end; the others may not have got all of it"
            ))),
            None if now == 0 => {
                say("no receiver remains at the end; the last one may not have got all of it");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        self.interrupt.signal().map_or(Ok(()), |signal| Err(Failure::signal(signal)))
    }

    /// Sends a file or standard input. Returns whether all of it was sent.
    fn file(&mut self, path: &Path, max: usize) -> Result<bool, Failure> {
        let (name, mut input) = match path.as_os_str().as_encoded_bytes() {
            b"-" => {
                let name = "standard input".to_owned();
                let stdin = io::stdin();
                if is_closed(&stdin) {
                    say("standard input is closed, or /dev/null: there is no input");
                }
                let owned = stdin.as_fd().try_clone_to_owned();
                (name.clone(), File::from(owned.map_err(|error| cannot_read(&name, &error))?))
            }
            _ => {
                let name = path.display().to_string();
                let file = File::open(path);
                let file = file.map_err(|error| cannot_read(&name, &error))?;
                (name, file)
            }
        };
        match self.arguments.chunk {
            _ if self.arguments.lines => self.lines(&name, &mut input, max),
            Some(len) => self.chunks(&name, &mut input, len).map(|()| true),
            None => self.stream(&name, &mut input, READ_LEN.min(max)).map(|()| true),
        }
    }

    fn lines(&mut self, name: &str, input: &mut File, max: usize) -> Result<bool, Failure> {
        let oversize = self.arguments.oversize;
        let (mut lines, mut complete) = (Lines::new(max, oversize), true);
        let mut buffer = vec![0; READ_LEN];
        let mut take = |sending: &mut Self, piece: Piece<'_>| match piece {
            Piece::Line(line) => sending.send(Envelope::default(), line),
            Piece::TooLong(number) => {
                say(format_args!(
                    "line {number} of {name} is above the limit of {max} bytes and was skipped; start the broker with a higher --max-message-len, or use --oversize split"
                ));
                complete &= oversize != Oversize::Error;
                Ok(())
            }
        };
        loop {
            match self.read(name, input, &mut buffer)? {
                0 => break lines.finish(|piece| take(self, piece))?,
                len => lines.push(&buffer[..len], |piece| take(self, piece))?,
            }
        }
        Ok(complete)
    }

    /// Sends messages of `len` bytes each. Only the last message of an input may be shorter.
    fn chunks(&mut self, name: &str, input: &mut File, len: usize) -> Result<(), Failure> {
        let (mut chunk, mut filled) = (vec![0; len], 0);
        loop {
            let read = self.read(name, input, &mut chunk[filled..])?;
            filled += read;
            if filled == len || read == 0 && filled > 0 {
                self.send(Envelope::default(), &chunk[..filled])?;
                filled = 0;
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Sends the bytes of each read as a message, so that no input waits.
    fn stream(&mut self, name: &str, input: &mut File, len: usize) -> Result<(), Failure> {
        let mut buffer = vec![0; len.max(1)];
        loop {
            match self.read(name, input, &mut buffer)? {
                0 => return Ok(()),
                len => self.send(Envelope::default(), &buffer[..len])?,
            }
        }
    }

    /// Reads the available input and waits if there is none. Meanwhile detects the end of the bus.
    fn read(&mut self, name: &str, input: &mut File, buffer: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let wait = self.client.prepare_wait();
            let timeout = match wait {
                // Kept messages must be consumed before a long wait, so that they need not be kept.
                Wait::Readable { timeout } if self.kept.is_empty() => timeout,
                _ => Some(Duration::ZERO),
            };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut fds = [
                PollFd::new(input, PollFlags::IN),
                PollFd::new(&self.client, PollFlags::IN),
                PollFd::new(&self.interrupt, PollFlags::IN),
            ];
            let ready = match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                ready => ready.map_err(|error| cannot_read(name, &error.into()))?,
            };
            let [input_ready, client_ready] = [0, 1].map(|i| !fds[i].revents().is_empty());
            self.check_interrupt()?;
            if ready == 0 && !self.kept.is_empty() {
                self.flush()?;
            }
            // Available input is sent, and the end of the input counts, before the end of the bus
            // does.
            if (client_ready || wait == Wait::Ready)
                && let Some(ended) = self.client.ended()
                && (!input_ready || self.arguments.reconnect)
            {
                self.reconnect(ended)?;
            }
            if input_ready {
                match input.read(buffer) {
                    Err(e)
                        if [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock]
                            .contains(&e.kind()) => {}
                    read => return read.map_err(|error| cannot_read(name, &error)),
                }
            }
        }
    }

    /// Sends a message. Waits for room and prints the reason.
    fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Failure> {
        let envelope = envelope.with_tag(self.arguments.tag);
        if self.arguments.reconnect {
            self.kept.push_back((envelope, payload.to_vec()));
            self.kept_len += payload.len() + size_of::<(Envelope, Vec<u8>)>();
        }
        match self.send_now(envelope, payload) {
            Err(SendError::Disconnected(ended)) => self.reconnect(ended)?,
            result => result?,
        }
        if self.kept_len > KEPT_LEN { self.flush() } else { Ok(()) }
    }

    fn send_now(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        match self.client.try_send_envelope(envelope, payload) {
            Err(SendError::Full { .. }) => {}
            result => return result,
        }
        let mut status = Status::new();
        loop {
            match self.client.send_envelope_timeout(envelope, payload, SILENT_WAIT) {
                Err(SendError::Full { held_up }) => {
                    status.waits("this message waits for room", held_up.as_ref());
                }
                result => return result,
            }
        }
    }

    /// Waits until the broker has consumed all messages.
    fn flush(&mut self) -> Result<(), Failure> {
        let mut status = Status::new();
        loop {
            match self.client.flush_timeout(SILENT_WAIT) {
                Ok(true) => break,
                Ok(false) => {
                    let held_up = self.client.held_up();
                    let what = "the broker has not consumed all messages";
                    status.waits(what, held_up.as_ref());
                }
                Err(SendError::Disconnected(ended)) => self.reconnect(ended)?,
                Err(error) => return Err(error.into()),
            }
            self.check_interrupt()?;
        }
        (self.kept_len, _) = (0, self.kept.clear());
        Ok(())
    }

    /// Handles the end of the connection. With `--reconnect`, waits for a bus and sends the kept
    /// messages again.
    fn reconnect(&mut self, ended: Disconnected) -> Result<(), Failure> {
        if !self.arguments.reconnect {
            return Err(ended.into());
        }
        let mut ended = Some(ended);
        while let Some(why) = ended.take() {
            say(format_args!("{}; waiting until the bus is there again", Failure::from(why)));
            self.client = connect(self.arguments, Some(Duration::MAX))?;
            ended = self.wait_for_receivers()?;
            for (envelope, payload) in self.kept.clone() {
                if ended.is_some() {
                    break;
                }
                match self.send_now(envelope, &payload) {
                    Err(SendError::Disconnected(again)) => ended = Some(again),
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

/// Returns when to check for other events.
fn next_look(deadline: Option<Instant>) -> Instant {
    let look = Instant::now() + SILENT_WAIT;
    deadline.map_or(look, |deadline| deadline.min(look))
}

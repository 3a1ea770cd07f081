//! `llmp recv`

use crate::arguments;
use crate::failure::{Failure, say};
use crate::format;
use crate::interrupt::Interrupt;
use crate::values::{END_OF_TRANSFER, connect_error, is_closed};
use llmp::{Disconnected, Receiver, RecvError, SlowReceiver, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The least size of a write, except when there is nothing more to receive.
const BUFFER_LEN: usize = 64 * 1024;
/// The longest time for receiving messages that arrived before a deadline.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The interval at which a command without a bus checks its other events.
const SLICE: Duration = Duration::from_millis(200);

/// Writes received messages to standard output.
pub fn run(arguments: arguments::Recv) -> Result<(), Failure> {
    let interrupt = Interrupt::catch(|_| {})?;
    if is_closed(&io::stdout()) {
        say("standard output is closed, or /dev/null: received messages are lost");
    }
    let mut client = connect(&arguments, arguments.wait)?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(cannot_write)?;
    let out = BufWriter::with_capacity(BUFFER_LEN, Output(File::from(stdout)));
    let left = arguments.count.unwrap_or(u64::MAX);
    let mut receiving = Receiving { left, missed: 0, last: Instant::now(), out, interrupt };
    loop {
        let end = receiving.receive(&arguments, &mut client);
        let end = end.and_then(|end| receiving.out.flush().map(|()| end));
        return match end {
            Ok(End::Done) if arguments.until_eof && receiving.missed > 0 => {
                let missed = receiving.missed;
                Err(Failure::left(format!(
                    "the transfer is incomplete: {missed} messages were missed"
                )))
            }
            Ok(End::Done) => Ok(()),
            // Without a number of messages to wait for, a signal is a normal end.
            Ok(End::Signal(_)) if arguments.count.is_none() && !arguments.until_eof => Ok(()),
            Ok(End::Signal(signal)) => Err(Failure::signal(signal)),
            Ok(End::Recv(RecvError::Disconnected(
                ended @ (Disconnected::Closed | Disconnected::PeerDied),
            ))) if arguments.reconnect => {
                say(format_args!("{}; waiting until the bus is there again", Failure::from(ended)));
                match receiving.reconnect(&arguments)? {
                    Ok(again) => client = again,
                    Err(End::Timeout(timeout)) => return Err(no_message(timeout)),
                    // The reader of the output has gone, or a signal arrived.
                    Err(_) => return Ok(()),
                }
                continue;
            }
            // Without a number of messages to wait for, the end of the bus is a normal end.
            Ok(End::Recv(RecvError::Disconnected(Disconnected::Closed)))
                if arguments.count.is_none() && !arguments.until_eof =>
            {
                Ok(())
            }
            Ok(End::Recv(error)) => Err(receiving.incomplete(&arguments, &error.into())),
            Ok(End::Timeout(timeout)) => {
                Err(Failure::late(format!("no message came within {} s", timeout.as_secs_f64())))
            }
            // The reader of the pipe has closed it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(cannot_write(error)),
        };
    }
}

fn connect(arguments: &arguments::Recv, wait: Option<Duration>) -> Result<Receiver, Failure> {
    let mut builder = Receiver::builder().access(arguments.trust.access.clone());
    if let Some(wait) = wait {
        builder = builder.wait_for_bus(wait);
    }
    if let Some(outlive) = arguments.outlive {
        builder = builder.outlive_broker(outlive);
    }
    let when_slow = arguments.when_slow.map(SlowReceiver::from).unwrap_or_default();
    let client = builder.when_slow(when_slow).connect_receiver(&arguments.place.bus);
    client.map_err(|error| connect_error(error, wait.is_some()))
}

fn no_message(timeout: Duration) -> Failure {
    Failure::late(format!("no message came within {} s", timeout.as_secs_f64()))
}

fn cannot_write(error: io::Error) -> Failure {
    Failure::other(format!("cannot write to standard output: {error}"))
}

/// Why receiving has ended.
enum End {
    /// As requested.
    Done,
    Recv(RecvError),
    Timeout(Duration),
    Signal(i32),
}

struct Receiving {
    /// The number of messages left to receive.
    left: u64,
    /// The number of messages that were missed.
    missed: u64,
    /// When the last message arrived.
    last: Instant,
    out: BufWriter<Output>,
    interrupt: Interrupt,
}

impl Receiving {
    fn receive(&mut self, arguments: &arguments::Recv, client: &mut Receiver) -> io::Result<End> {
        while self.left > 0 {
            if let Some(signal) = self.interrupt.signal() {
                return Ok(End::Signal(signal));
            }
            let last = self.last;
            let message = match client.try_recv() {
                Err(error @ RecvError::Gap { missed }) => {
                    // Zero means that the number is not known.
                    self.missed += missed.max(1);
                    say(error);
                    continue;
                }
                Err(error) => return Ok(End::Recv(error)),
                Ok(message) => message,
            };
            let is_idle = message.is_none();
            if let Some(message) = message
                && arguments.tag.is_none_or(|tag| tag == message.tag.0)
            {
                // Without a payload, the message only marks the end of a transfer.
                if message.flags == END_OF_TRANSFER && message.payload.is_empty() {
                    if arguments.until_eof {
                        return Ok(End::Done);
                    }
                    continue;
                }
                format::write(&mut self.out, arguments.format, &message)?;
                self.left -= 1;
                self.last = Instant::now();
                continue;
            }
            // Messages with other tags do not extend the deadline. Messages that arrived before it
            // still count, even behind such messages.
            let more = if is_idle { Duration::ZERO } else { LAST_LOOK };
            let late = |t: &Duration| last.elapsed() >= t.saturating_add(more);
            if let Some(timeout) = arguments.timeout.filter(late) {
                return Ok(End::Timeout(timeout));
            }
            if is_idle {
                self.out.flush()?;
                if let Wait::Readable { timeout } = client.prepare_wait() {
                    let left = arguments.timeout.map(|t| t.saturating_sub(last.elapsed()));
                    self.wait(client, left.into_iter().chain(timeout).min())?;
                }
            }
        }
        Ok(End::Done)
    }

    /// Waits until a bus is there again. Meanwhile checks the deadline and the output.
    fn reconnect(&self, arguments: &arguments::Recv) -> Result<Result<Receiver, End>, Failure> {
        loop {
            match connect(arguments, Some(SLICE)) {
                Err(failure) if failure.is_late() => {}
                client => return client.map(Ok),
            }
            if let Some(timeout) = arguments.timeout.filter(|t| self.last.elapsed() >= *t) {
                return Ok(Err(End::Timeout(timeout)));
            }
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut out = [PollFd::new(&self.out.get_ref().0, PollFlags::empty())];
            if poll(&mut out, Some(&now)).is_ok_and(|ready| ready > 0) || self.interrupt.is_there()
            {
                return Ok(Err(End::Done));
            }
        }
    }

    /// Waits until there is a message or another event, for at most `timeout`.
    fn wait(&self, client: &Receiver, timeout: Option<Duration>) -> io::Result<()> {
        // A time that exceeds the kernel's range means no limit.
        let timeout: Option<Timespec> = timeout.and_then(|timeout| timeout.try_into().ok());
        let mut fds = [
            PollFd::new(client, PollFlags::IN),
            PollFd::new(&self.interrupt, PollFlags::IN),
            // Reports only errors: whether the reader of the pipe has gone.
            PollFd::new(&self.out.get_ref().0, PollFlags::empty()),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) if !fds[2].revents().is_empty() => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Makes a failure for a bus that ended before the work.
    fn incomplete(&self, arguments: &arguments::Recv, why: &Failure) -> Failure {
        match arguments.count {
            Some(count) => {
                Failure::left(format!("{why}; {} of {count} messages came", count - self.left))
            }
            None => Failure::left(why),
        }
    }
}

/// Standard output. Another program may have made it non-blocking.
struct Output(File);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

//! `llmp recv`

use crate::arguments;
use crate::failure::Failure;
use crate::format;
use llmp::{Client, Ended, RecvError, Wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Output is written in pieces of at least this size, or when there is nothing more to receive.
const BUFFER_LEN: usize = 64 * 1024;

/// Writes what is received to standard output.
pub fn run(arguments: arguments::Recv) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()
        .map_err(|error| Failure::other(format!("signals can't be caught: {error}")))?;
    let builder = Client::builder().receive_only().access(arguments.trust.access.clone());
    let mut client = builder.connect(&arguments.place.bus)?;
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let mut out = BufWriter::with_capacity(BUFFER_LEN, File::from(stdout.map_err(cannot_write)?));
    let end = receive(&arguments, &mut client, &mut out, &interrupt);
    match end.and_then(|end| out.flush().map(|()| end)) {
        Ok(End::Done) => Ok(()),
        Ok(End::Recv(RecvError::Ended(Ended::Closed))) => Ok(()),
        Ok(End::Recv(error)) => Err(error.into()),
        Ok(End::Timeout(timeout)) => {
            Err(Failure::other(format!("no message came within {} s", timeout.as_secs_f64())))
        }
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(cannot_write(error)),
    }
}

fn cannot_write(error: io::Error) -> Failure {
    Failure::other(format!("cannot write to standard output: {error}"))
}

/// Why receiving has ended.
enum End {
    /// As it was asked for.
    Done,
    Recv(RecvError),
    Timeout(Duration),
}

fn receive(
    arguments: &arguments::Recv,
    client: &mut Client,
    out: &mut BufWriter<File>,
    interrupt: &Interrupt,
) -> io::Result<End> {
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut last = Instant::now();
    while left > 0 && !interrupt.is_there() {
        match client.try_recv() {
            Err(error) => return Ok(End::Recv(error)),
            Ok(Some(message)) if arguments.tag.is_none_or(|tag| tag == message.tag.0) => {
                format::write(out, arguments.format, &message)?;
                left -= 1;
                last = Instant::now();
            }
            // Messages with other tags don't count.
            Ok(other) => {
                let is_idle = other.is_none();
                if let Some(timeout) = arguments.timeout.filter(|&t| last.elapsed() >= t) {
                    return Ok(End::Timeout(timeout));
                }
                if is_idle {
                    out.flush()?;
                    if let Wait::Readable { timeout } = client.prepare_wait() {
                        let left = arguments.timeout.map(|t| t.saturating_sub(last.elapsed()));
                        let left = left.into_iter().chain(timeout).min();
                        wait(client, out.get_ref(), interrupt, left)?;
                    }
                }
            }
        }
    }
    Ok(End::Done)
}

/// Waits until there is something to receive or to know, at most so long.
fn wait(
    client: &Client,
    out: &File,
    interrupt: &Interrupt,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut fds = [
        PollFd::new(client, PollFlags::IN),
        PollFd::new(&interrupt.signalled, PollFlags::IN),
        // Errors alone: whether the reader of a pipe has gone.
        PollFd::new(out, PollFlags::empty()),
    ];
    match poll(&mut fds, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) if !fds[2].revents().is_empty() => Err(io::ErrorKind::BrokenPipe.into()),
        Ok(_) => Ok(()),
    }
}

/// Ctrl-C and the like: the first ends this process in order, the next one at once.
struct Interrupt {
    asked: Arc<AtomicBool>,
    signalled: OwnedFd,
}

impl Interrupt {
    fn catch() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (signalled, write) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Interrupt { asked, signalled: signalled.into() })
    }

    fn is_there(&self) -> bool {
        // Relaxed: nothing but the flag itself is read
        self.asked.load(Ordering::Relaxed)
    }
}

//! An event loop of its own: one thread waits for messages and for a pipe with `poll(2)`.
//!
//! ```text
//! cargo run --example poll_loop
//! ```
//!
//! Before each sleep the loop asks the receiver how to wait. The receiver's descriptor then becomes
//! readable when there is something to receive. No thread is needed for each source.

use llmp::{Disconnected, RecvError, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use std::error::Error;
use std::io::Write;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MESSAGES: u32 = 1000;

/// Receives from a channel and from a pipe, and prints what came.
pub fn main() -> Result<()> {
    let (messages, bytes) = receive()?;
    println!("{messages} messages and {bytes} bytes from the pipe");
    Ok(())
}

/// Returns the number of messages, and of bytes from the pipe.
///
/// # Errors
///
/// What the channel or the pipe answered.
pub fn receive() -> Result<(u32, usize)> {
    let (mut sender, mut receiver) = llmp::channel()?;
    let (pipe, mut end) = std::io::pipe()?;
    let sending = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            sender.send(1, format!("message {number}").as_bytes())?;
            if number % 100 == 0 {
                let _ = end.write_all(b"tick");
            }
        }
        sender.flush()
    });

    let (mut messages, mut bytes) = (0, 0);
    let (mut is_connected, mut is_open) = (true, true);
    while is_connected || is_open {
        let mut timeout = None;
        if is_connected {
            match receiver.try_recv() {
                Ok(Some(_)) => {
                    messages += 1;
                    continue;
                }
                Ok(None) => {}
                Err(RecvError::Disconnected(Disconnected::Closed)) => is_connected = false,
                Err(error) => return Err(error.into()),
            }
            match receiver.prepare_wait() {
                // A message came meanwhile, or the channel has ended.
                Wait::Ready => continue,
                Wait::Readable { timeout: bound } => timeout = bound,
            }
        }
        let timeout = timeout.map(|timeout| timeout.try_into()).transpose()?;
        let mut fds = Vec::new();
        if is_open {
            fds.push(PollFd::new(&pipe, PollFlags::IN));
        }
        if is_connected {
            fds.push(PollFd::new(&receiver, PollFlags::IN));
        }
        poll(&mut fds, timeout.as_ref())?;
        if is_open && !fds[0].revents().is_empty() {
            let read = rustix::io::read(&pipe, &mut [0; 64])?;
            is_open = read > 0;
            bytes += read;
        }
    }
    sending.join().map_err(|_| "sending panicked")??;
    Ok((messages, bytes))
}

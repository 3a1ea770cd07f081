//! A channel to a child process over a socket pair. No broker and no name in the file system is
//! needed.
//!
//! ```text
//! cargo run --example channel_to_child
//! ```
//!
//! The child inherits one end of the socket pair as its standard input.

use llmp::{Disconnected, Receiver, RecvError, Sender};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::error::Error;
use std::os::fd::AsFd;
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Set in the child.
const IS_CHILD: &str = "LLMP_EXAMPLE_IS_CHILD";
const MESSAGES: u32 = 1000;

/// Starts the child, and sends messages to it.
pub fn main() -> Result<()> {
    if std::env::var_os(IS_CHILD).is_some() {
        return child();
    }
    send_to(&mut Command::new(std::env::current_exe()?))
}

/// Sends to the process that `command` starts.
///
/// # Errors
///
/// If the process can't be started, ends early, or does not receive everything.
pub fn send_to(command: &mut Command) -> Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let mut process = command.env(IS_CHILD, "1").stdin(theirs).spawn()?;
    // The command keeps its end of the socket pair, which hides the end of the child.
    command.stdin(std::process::Stdio::null());
    let mut sender = Sender::over(ours)?;
    for number in 0..MESSAGES {
        sender.send(number, b"to the child")?;
    }
    drop(sender);
    match process.wait()?.success() {
        true => Ok(()),
        false => Err("the child has failed".into()),
    }
}

/// Receives until the parent ends the channel.
///
/// # Errors
///
/// If messages are missing or in another order.
pub fn child() -> Result<()> {
    let mut receiver = Receiver::over(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut expected = 0;
    loop {
        match receiver.recv() {
            Ok(message) if message.tag.0 == expected => expected += 1,
            Ok(message) => return Err(format!("message {} came", message.tag.0).into()),
            Err(RecvError::Disconnected(Disconnected::Closed)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("the child received {expected} messages");
    if expected == MESSAGES { Ok(()) } else { Err("messages are missing".into()) }
}

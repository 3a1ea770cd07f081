//! A chat between processes. Each line that a process reads reaches all others.
//!
//! ```text
//! cargo run --example chat -- ann        # in one terminal
//! cargo run --example chat -- bob        # in another one
//! ```
//!
//! The first process starts the broker. The chat ends for all when that process ends.

use llmp::{BindError, Broker, Client, RecvError};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for the broker, if another process starts it at the same moment.
const WAIT: Duration = Duration::from_secs(10);

/// Joins the chat under the name that the command line gives.
pub fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "somebody".into());
    let bus = std::env::temp_dir().join("llmp-chat.sock");
    chat(&bus, &name, std::io::stdin().lock(), std::io::stdout())
}

/// Sends the lines of `input`, and writes the lines of the others to `output`.
///
/// # Errors
///
/// What the bus, the input or the output answered.
pub fn chat(
    bus: &Path,
    name: &str,
    input: impl BufRead,
    mut output: impl Write + Send + 'static,
) -> Result<()> {
    let broker = match Broker::bind(bus) {
        Ok(broker) => {
            let stop = broker.stop_handle();
            Some((stop, std::thread::spawn(move || broker.run())))
        }
        // Another process has started it.
        Err(BindError::InUse { .. }) => None,
        Err(error) => return Err(error.into()),
    };

    // Two connections, so that one thread can wait for input and another one for messages.
    let builder = || Client::builder().wait_for_bus(WAIT);
    let mut receiver = builder().connect_receiver(bus)?;
    let mut sender = builder().connect_sender(bus)?;
    let own_id = sender.id();
    let printing = std::thread::spawn(move || -> Result<()> {
        loop {
            match receiver.recv() {
                Ok(message) if message.sender == own_id => {}
                Ok(message) => writeln!(output, "{}", String::from_utf8_lossy(message.payload))?,
                Err(RecvError::Disconnected(end)) => return Ok(writeln!(output, "({end})")?),
                Err(error) => return Err(error.into()),
            }
        }
    });

    for line in input.lines() {
        sender.send(0, format!("{name}: {}", line?).as_bytes())?;
    }
    sender.flush()?;
    if let Some((stop, broker)) = broker {
        stop.stop();
        broker.join().map_err(|_| "the broker panicked")??;
        return printing.join().map_err(|_| "printing panicked")?;
    }
    Ok(())
}

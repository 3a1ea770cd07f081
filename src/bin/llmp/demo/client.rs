//! A client process of a demo.

use super::CLIENTS;
use super::incoming::Incoming;
use super::names::Names;
use super::note::{ClientReport, Note, or_tell, tell};
use super::outgoing::Outgoing;
use crate::arguments;
use crate::failure::Failure;
use llmp::{Client, SendError, Wait};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::time::{Duration, Instant};

/// The most messages sent before receiving again, and received before sending again.
const AT_ONCE: usize = 64;
/// The interval between two progress notes to the parent.
const PROGRESS: Duration = Duration::from_millis(100);

/// Sends the files named on standard input and checks the files of the others.
pub fn run(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    or_tell(exchange(arguments))
}

fn exchange(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    // The client must not outlive its parent.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::other)?;
    // With this limit, `send` returns as soon as a message arrives while it waits for room.
    let client = Client::builder().inbox_limit(0).connect(&arguments.socket)?;
    tell(&Note::Ready)?;
    let outgoing = Outgoing::new(client.limits().max_message_len(), client.id().0);
    let names = Names::wait_for_go()?;
    let incoming = Incoming::default();
    let told = (Instant::now(), (0, 0));
    let mut exchange = Exchange { client, names, outgoing, incoming, told };
    while !exchange.is_over() {
        let sent = exchange.send()?;
        let received = exchange.receive()?;
        exchange.tell_progress()?;
        if !sent && !received {
            exchange.wait()?;
        }
    }
    exchange.client.flush()?;
    tell(&Note::Client(exchange.report()))
}

struct Exchange {
    client: Client,
    names: Names,
    outgoing: Outgoing,
    incoming: Incoming,
    /// When the parent was last informed, and the values sent.
    told: (Instant, (u64, u64)),
}

impl Exchange {
    fn is_over(&self) -> bool {
        self.outgoing.is_done() && self.incoming.done() == CLIENTS - 1
    }

    /// Sends while there is room and something to send. Returns whether a message was sent.
    fn send(&mut self) -> Result<bool, Failure> {
        for i in 0..AT_ONCE {
            let Some((tag, payload)) = self.outgoing.message(&mut self.names)? else {
                return Ok(i > 0);
            };
            match self.client.try_send(tag, payload) {
                Ok(()) => self.outgoing.sent(),
                Err(SendError::Full { .. }) => return Ok(i > 0),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Receives the available messages. Returns whether there were any.
    fn receive(&mut self) -> Result<bool, Failure> {
        for i in 0..AT_ONCE {
            let Some(message) = self.client.try_recv()? else { return Ok(i > 0) };
            if let Some(wrong) = self.incoming.take(&message) {
                tell(&Note::Warning(wrong))?;
            }
        }
        Ok(true)
    }

    /// Waits for room, a message to receive, or a file to send.
    fn wait(&mut self) -> Result<(), Failure> {
        match self.outgoing.message(&mut self.names)? {
            Some((tag, payload)) => match self.client.send(tag, payload) {
                Ok(()) => self.outgoing.sent(),
                // A message has arrived.
                Err(SendError::InboxFull { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            None => match self.client.prepare_wait() {
                Wait::Readable { timeout } => self.names.wait_with(&self.client, timeout)?,
                Wait::Ready => {}
            },
        }
        Ok(())
    }

    fn tell_progress(&mut self) -> Result<(), Failure> {
        if self.told.0.elapsed() >= PROGRESS {
            let (sent, received) =
                (self.outgoing.file_bytes(), self.incoming.received().file_bytes);
            if self.told.1 != (sent, received) {
                tell(&Note::Progress { sent, received })?;
            }
            self.told = (Instant::now(), (sent, received));
        }
        Ok(())
    }

    fn report(&self) -> ClientReport {
        ClientReport {
            sent_messages: self.outgoing.messages(),
            sent_files: self.outgoing.files(),
            received: self.incoming.received(),
            chain: self.client.stats().into(),
        }
    }
}

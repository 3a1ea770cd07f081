//! A client of a soak: it sends numbered messages and reports what it receives.

use super::MAX_MESSAGE_LEN;
use super::content::Head;
use super::record::{Record, Reporter};
use crate::arguments::{self, Role, WhenSlow};
use crate::failure::Failure;
use crate::random::Random;
use llmp::{
    Client, ClientBuilder, ConnectError, Disconnected, Message, Receiver, RecvError, SendError,
    Sender,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The most messages sent before receiving again, and received before sending again.
const AT_ONCE: u64 = 16;
const RECEIVED_AT_ONCE: usize = 256;
/// The longest pause, in microseconds.
const PAUSE_US: u64 = 3000;
/// A client flushes in one of `FLUSHES` rounds.
const FLUSHES: u64 = 8;
/// How long a client waits for the bus and for the next broker.
const PATIENCE: Duration = Duration::from_secs(30);

/// The orders of the parent, a byte each on standard input. Its end means to leave.
pub const QUIET: u8 = b'q';
const LEAVE: u8 = 0;

/// Why a client ends before it is asked to.
enum End {
    /// The bus has disconnected it, as it may.
    Disconnected,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Failed(failure)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Failed(Failure::other(error))
    }
}

/// Sends and receives until the parent says that it is enough.
pub fn run(arguments: &arguments::SoakClient) -> Result<(), Failure> {
    end_with_the_parent()?;
    let mut reporter = Reporter::new().map_err(Failure::other)?;
    let end = Soaking::connect(arguments, &mut reporter).and_then(Soaking::live);
    match end {
        Ok(()) => Ok(()),
        Err(End::Disconnected) => reporter.tell(Record::Ended).map_err(Failure::other),
        Err(End::Failed(failure)) => {
            let (number, id) = (arguments.number, std::process::id());
            Err(Failure::other(format!("process {number} ({id}): {failure}")))
        }
    }
}

/// Lets this process end with its parent, and without a core dump when a signal kills it.
pub fn end_with_the_parent() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::other)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(Failure::other)
}

/// One or both halves of a client.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
enum Member {
    Both(Client),
    Sends(Sender),
    Receives(Receiver),
}

struct Soaking<'a> {
    member: Member,
    arguments: &'a arguments::SoakClient,
    head: Head,
    payload: Vec<u8>,
    random: Random,
    orders: Arc<AtomicU8>,
    reporter: &'a mut Reporter,
}

impl<'a> Soaking<'a> {
    fn connect(
        arguments: &'a arguments::SoakClient,
        reporter: &'a mut Reporter,
    ) -> Result<Self, End> {
        let orders = Arc::new(AtomicU8::new(1));
        let told = orders.clone();
        std::thread::spawn(move || {
            let mut byte = [LEAVE];
            while io::stdin().read_exact(&mut byte).is_ok() {
                told.store(byte[0], Ordering::Relaxed);
            }
            told.store(LEAVE, Ordering::Relaxed);
        });
        let mut builder = Client::builder().wait_for_bus(PATIENCE).own_messages();
        if !arguments.mortal {
            builder = builder.outlive_broker(PATIENCE);
        }
        let member = join(builder.when_slow(arguments.when_slow.into()), arguments);
        let member = member.map_err(|error| match error {
            ConnectError::Disconnected(ended) => end(arguments, &ended.into(), "connecting"),
            error => Failure::other(format!("connecting: {error}")).into(),
        })?;
        let client = match &member {
            Member::Both(client) => client.id().0,
            Member::Sends(sender) => sender.id().0,
            Member::Receives(receiver) => receiver.id().0,
        };
        reporter.tell(Record::Joined)?;
        let head = Head { sender: arguments.number, client, number: 0 };
        let random = Random::new(arguments.seed);
        Ok(Soaking { member, arguments, head, payload: Vec::new(), random, orders, reporter })
    }

    fn live(mut self) -> Result<(), End> {
        let mut is_quiet = false;
        loop {
            match self.orders.load(Ordering::Relaxed) {
                LEAVE => {
                    self.flush()?;
                    return Ok(self.reporter.flush()?);
                }
                QUIET if !is_quiet => {
                    self.flush()?;
                    self.reporter.tell(Record::Quiet)?;
                    is_quiet = true;
                }
                QUIET => {}
                _ => self.send()?,
            }
            let pause = Duration::from_micros(self.random.below(PAUSE_US));
            self.receive(pause)?;
            self.reporter.flush()?;
        }
    }

    /// Sends some messages of random lengths.
    fn send(&mut self) -> Result<(), End> {
        if matches!(self.member, Member::Receives(_)) {
            return Ok(());
        }
        let mut failed = None;
        for _ in 0..self.random.below(AT_ONCE) {
            let len = self.random.size(MAX_MESSAGE_LEN / 2);
            self.head.write(len, &mut self.payload);
            let tag = self.head.number as u32;
            let sent = match &mut self.member {
                Member::Both(client) => client.send(tag, &self.payload),
                Member::Sends(sender) => sender.send(tag, &self.payload),
                Member::Receives(_) => Ok(()),
            };
            match sent {
                Ok(()) => self.head.number += 1,
                // A message has arrived that has no room.
                Err(SendError::InboxFull { .. }) => break,
                Err(error) => {
                    failed = Some(end(self.arguments, &error, "sending"));
                    break;
                }
            }
        }
        // At once: what was sent arrives, whatever happens to this process from now on.
        self.reporter.tell(Record::Sent(self.head.number))?;
        if let Some(end) = failed {
            return Err(end);
        }
        if self.random.below(FLUSHES) == 0 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), End> {
        let flushed = match &mut self.member {
            Member::Both(client) => client.flush(),
            Member::Sends(sender) => sender.flush(),
            Member::Receives(_) => return Ok(()),
        };
        match flushed {
            Ok(()) => Ok(self.reporter.add(Record::Flushed(self.head.number))?),
            Err(error) => Err(end(self.arguments, &error, "flushing")),
        }
    }

    /// Receives what is there, and waits for the first message for at most `pause`.
    fn receive(&mut self, pause: Duration) -> Result<(), End> {
        let mut timeout = pause;
        for _ in 0..RECEIVED_AT_ONCE {
            let message = match &mut self.member {
                Member::Both(client) => client.recv_timeout(timeout),
                Member::Receives(receiver) => receiver.recv_timeout(timeout),
                Member::Sends(_) => {
                    std::thread::sleep(pause);
                    return Ok(());
                }
            };
            timeout = Duration::ZERO;
            match message {
                Ok(None) => break,
                Ok(Some(message)) => {
                    let Head { sender, number, .. } = check(&message)?;
                    self.reporter.add(Record::Got { sender, number })?;
                }
                Err(RecvError::Gap { missed }) => self.reporter.add(Record::Missed(missed))?,
                Err(RecvError::Disconnected(ended)) => {
                    return Err(end(self.arguments, &ended.into(), "receiving"));
                }
                Err(error) => return Err(Failure::other(error).into()),
            }
        }
        Ok(())
    }
}

/// Returns what the end of the connection means for this client.
fn end(arguments: &arguments::SoakClient, error: &SendError, doing: &str) -> End {
    match error {
        SendError::Disconnected(Disconnected::Closed | Disconnected::PeerDied)
            if arguments.mortal => {}
        // Its broker has ended before it received again.
        SendError::Disconnected(Disconnected::Removed)
            if arguments.mortal && arguments.when_slow == WhenSlow::Skip => {}
        SendError::Disconnected(Disconnected::Evicted)
            if arguments.when_slow == WhenSlow::Evict => {}
        error => return End::Failed(Failure::other(format!("{doing}: {error}"))),
    }
    End::Disconnected
}

/// Connects with the halves that the client is to have.
fn join(builder: ClientBuilder, arguments: &arguments::SoakClient) -> Result<Member, ConnectError> {
    let bus = &arguments.socket;
    Ok(match arguments.role {
        Role::Both => Member::Both(builder.connect(bus)?),
        Role::Sends => Member::Sends(builder.connect_sender(bus)?),
        Role::Receives => Member::Receives(builder.connect_receiver(bus)?),
    })
}

/// Checks a message's bytes and sender.
fn check(message: &Message<'_>) -> Result<Head, End> {
    match Head::read(message.payload) {
        Some(head) if head.client == message.sender.0 && head.number as u32 == message.tag.0 => {
            Ok(head)
        }
        head => {
            let (len, sender) = (message.payload.len(), message.sender);
            let text = format!("message of {len} bytes from client {sender} is wrong: {head:?}");
            Err(End::Failed(Failure::other(text)))
        }
    }
}

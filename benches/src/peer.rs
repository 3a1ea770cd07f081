//! The operations that a peer must support, and the list of all peers.

use crate::content::{Content, Wrong};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How a process waits when it cannot proceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waiting {
    /// Polls again at once.
    Poll,
    /// Yields, then polls again.
    Yield,
    /// Sleeps by the peer's own means, inside its calls.
    Sleep,
}

impl Waiting {
    #[inline]
    pub fn pause(self) {
        match self {
            Waiting::Poll => std::hint::spin_loop(),
            Waiting::Yield | Waiting::Sleep => std::thread::yield_now(),
        }
    }
}

/// The settings that both ends of a connection know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Length of every message in bytes.
    pub len: usize,
    pub waiting: Waiting,
    /// The receiver reads the message in place.
    pub borrow: bool,
    /// A client of a bus gets its own messages back.
    pub own: bool,
    /// Number of messages that must fit, if that matters.
    pub ring_messages: Option<usize>,
    pub room: Room,
}

/// The number of bytes that may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Room {
    /// The best setting for the peer in this work.
    Fit,
    /// The peer's default, if it has one.
    Default,
    /// This many bytes.
    Bytes(usize),
}

/// Length of the rings of peers that ask for one: as much as a channel of ours takes before it
/// writes a page again.
pub const RING: usize = 4 << 20;

impl Setup {
    pub fn new(len: usize) -> Self {
        Setup {
            len,
            waiting: Waiting::Poll,
            borrow: false,
            own: false,
            ring_messages: None,
            room: Room::Fit,
        }
    }

    /// Length of a ring for these messages in bytes, for peers that ask for one.
    pub fn ring_len(&self) -> usize {
        match self.room {
            Room::Fit | Room::Default => (8 * self.len).max(RING),
            Room::Bytes(len) => len,
        }
    }

    /// Returns the number of messages in such a ring.
    pub fn ring_messages(&self) -> usize {
        self.ring_messages.unwrap_or(self.ring_len() / self.len)
    }
}

/// Where two ends of a connection meet: a directory, and a name in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    pub dir: PathBuf,
    pub name: String,
}

/// Longest wait of one end for the other.
const TIMEOUT: Duration = Duration::from_secs(20);

impl Place {
    pub fn named(&self, name: &str) -> Place {
        Place { dir: self.dir.clone(), name: name.to_owned() }
    }

    /// A path for the peer's own use.
    pub fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.name))
    }

    /// A name that no other connection of this machine has.
    pub fn unique_name(&self) -> String {
        let dir = self.dir.file_name().unwrap_or_default().to_string_lossy();
        format!("{dir}/{}", self.name)
    }

    /// Announces that the other end can connect, with a message for it.
    pub fn announce(&self, text: &str) -> Result<()> {
        let unfinished = self.path("unfinished");
        std::fs::write(&unfinished, text)?;
        Ok(std::fs::rename(unfinished, self.path("announced"))?)
    }

    /// Waits for the other end's announcement.
    pub fn announced(&self) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        let path = self.path("announced");
        // Before the measurement, so that a pause does no harm.
        while !path.exists() {
            if Instant::now() > deadline {
                bail!("no process has announced {}", path.display());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

/// A connection from one sender to one receiver.
pub trait Peer: 'static {
    type Sender: Sender + 'static;
    type Receiver: Receiver + 'static;
    /// Makes the receiving end. It announces the place as soon as a sender can connect.
    fn receiver(place: &Place, setup: &Setup) -> Result<Self::Receiver>;
    /// Makes the sending end once the place is announced.
    fn sender(place: &Place, setup: &Setup) -> Result<Self::Sender>;
}

pub trait Sender {
    /// Sends a message if there is room. With [`Waiting::Sleep`], a peer may wait for room in here.
    fn try_send(&mut self, message: &[u8]) -> Result<bool>;

    /// Sends as many of the next `count` messages as there is room for, at once. Returns how many.
    fn try_send_batch(&mut self, content: &mut Content, count: usize) -> Result<usize> {
        let _ = (content, count);
        bail!("this peer has no batches")
    }

    /// Sends the next message, of which only the number is written and that where it will lie, if
    /// there is room.
    fn try_send_in_place(&mut self, content: &mut Content) -> Result<bool> {
        let _ = content;
        bail!("this peer has no messages that are written in place")
    }
}

pub trait Receiver {
    /// Receives a message if there is one and shows it. With [`Waiting::Sleep`], a peer may wait
    /// for a message in here.
    fn try_recv<R>(&mut self, look: impl FnMut(&[u8]) -> R) -> Result<Option<R>>;

    /// Receives the available messages and shows each, up to the last one of the stream. Returns
    /// whether that was among them, or `None` if there was no message.
    fn try_recv_batch(
        &mut self,
        look: impl FnMut(&[u8]) -> Result<bool, Wrong>,
    ) -> Result<Option<bool>> {
        Ok(self.try_recv(look)?.transpose()?)
    }
}

#[inline]
pub fn send(sender: &mut impl Sender, waiting: Waiting, message: &[u8]) -> Result<()> {
    while !sender.try_send(message)? {
        waiting.pause();
    }
    Ok(())
}

#[inline]
pub fn recv<R>(
    receiver: &mut impl Receiver,
    waiting: Waiting,
    mut look: impl FnMut(&[u8]) -> R,
) -> Result<R> {
    loop {
        if let Some(seen) = receiver.try_recv(&mut look)? {
            return Ok(seen);
        }
        waiting.pause();
    }
}

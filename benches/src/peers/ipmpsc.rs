//! `ipmpsc`: a ring in a mapped file, received without a copy.

use crate::peer::{Peer, Place, Setup, Waiting};
use anyhow::{Context, Result};
use ipmpsc::{Receiver, Sender, SharedRingBuffer};
use serde_bytes::Bytes;
use std::time::Duration;

/// Bytes that serialisation and the ring's own bookkeeping add to a message.
const OVERHEAD: usize = 64;

pub struct Ring;

pub struct End<T> {
    end: T,
    sleeps: bool,
}

impl Ring {
    pub fn create(place: &Place, setup: &Setup) -> Result<End<Receiver>> {
        let path = place.path("ring");
        let len = setup.ring_messages() * (setup.len + OVERHEAD);
        let path = path.to_str().context("a path that is no text")?;
        let ring = SharedRingBuffer::create(path, u32::try_from(len)?)?;
        place.announce("")?;
        Ok(End { end: Receiver::new(ring), sleeps: setup.waiting == Waiting::Sleep })
    }
}

impl Peer for Ring {
    type Sender = End<Sender>;
    type Receiver = End<Receiver>;

    fn receiver(place: &Place, setup: &Setup) -> Result<Self::Receiver> {
        Ring::create(place, setup)
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Self::Sender> {
        place.announced()?;
        let path = place.path("ring");
        let ring = SharedRingBuffer::open(path.to_str().context("a path that is no text")?)?;
        Ok(End { end: Sender::new(ring), sleeps: setup.waiting == Waiting::Sleep })
    }
}

impl crate::peer::Sender for End<Sender> {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        let message = Bytes::new(message);
        if self.sleeps {
            self.end.send(&message)?;
            return Ok(true);
        }
        Ok(self.end.send_timeout(&message, Duration::ZERO)?)
    }
}

impl crate::peer::Receiver for End<Receiver> {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        let mut context = self.end.zero_copy_context();
        let message: Option<&Bytes> = match self.sleeps {
            true => Some(context.recv()?),
            false => context.try_recv()?,
        };
        Ok(message.map(|message| look(message)))
    }
}

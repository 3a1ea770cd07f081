//! `crossbeam-channel` between two threads of one process: small messages by value, larger ones in
//! boxes.

use super::meet;
use crate::peer::{Peer, Place, Setup, Waiting};
use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use std::marker::PhantomData;

/// A message in the channel.
pub trait Parcel: Send + 'static {
    fn pack(message: &[u8]) -> Result<Self>
    where
        Self: Sized;
    fn bytes(&self) -> &[u8];
}

impl<const N: usize> Parcel for [u8; N] {
    #[inline]
    fn pack(message: &[u8]) -> Result<Self> {
        message.try_into().context("a message of another length")
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Parcel for Box<[u8]> {
    #[inline]
    fn pack(message: &[u8]) -> Result<Self> {
        Ok(message.into())
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

pub struct Channel<T>(PhantomData<T>);

pub struct End<T> {
    end: T,
    sleeps: bool,
}

impl<T: Parcel> Peer for Channel<T> {
    type Sender = End<Sender<T>>;
    type Receiver = End<Receiver<T>>;

    fn receiver(place: &Place, setup: &Setup) -> Result<Self::Receiver> {
        let (sender, receiver) = bounded::<T>(setup.ring_messages());
        meet::leave(place, sender)?;
        Ok(End { end: receiver, sleeps: setup.waiting == Waiting::Sleep })
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Self::Sender> {
        Ok(End { end: meet::take(place)?, sleeps: setup.waiting == Waiting::Sleep })
    }
}

impl<T: Parcel> crate::peer::Sender for End<Sender<T>> {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        let parcel = T::pack(message)?;
        if self.sleeps {
            self.end.send(parcel).ok().context("the receiver is gone")?;
            return Ok(true);
        }
        match self.end.try_send(parcel) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => bail!("the receiver is gone"),
        }
    }
}

impl<T: Parcel> crate::peer::Receiver for End<Receiver<T>> {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        let parcel = match self.sleeps {
            true => self.end.recv()?,
            false => match self.end.try_recv() {
                Ok(parcel) => parcel,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => bail!("the sender is gone"),
            },
        };
        Ok(Some(look(parcel.bytes())))
    }
}

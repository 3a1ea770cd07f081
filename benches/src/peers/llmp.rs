//! This library: a channel without a broker. The receiver copies payloads or reads them in place.

use crate::content::Content;
use crate::peer::{Peer, Place, Room, Setup, Waiting};
use anyhow::{Result, bail};
use llmp::core::memory::TrustPeers;
use llmp::{Envelope, Limits, Receiver, SendError, Sender};

const TAG: u32 = 1;
/// Pages of a chain whose budget is given.
const PAGES: usize = 8;

#[allow(unsafe_code)]
pub fn promise() -> TrustPeers {
    // SAFETY: the other processes run this very program, which only uses the library.
    unsafe { TrustPeers::assume() }
}

pub struct Channel;

impl Peer for Channel {
    type Sender = Sending;
    type Receiver = Receiving;

    fn receiver(place: &Place, setup: &Setup) -> Result<Receiving> {
        let limits = match setup.room {
            Room::Fit | Room::Default => Limits::default(),
            Room::Bytes(budget) => Limits::new(budget / PAGES, setup.len, budget)?,
        };
        let listener = Receiver::listen_with(place.path("llmp").as_path(), limits)?;
        place.announce("")?;
        let mut receiver = listener.accept()?;
        if setup.borrow {
            receiver.borrow_payloads(promise());
        }
        Ok(Receiving { receiver, sleeps: setup.waiting == Waiting::Sleep })
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Sending> {
        place.announced()?;
        let sender = Sender::connect(place.path("llmp").as_path())?;
        Ok(Sending { sender, sleeps: setup.waiting == Waiting::Sleep })
    }
}

pub struct Sending {
    sender: Sender,
    sleeps: bool,
}

pub struct Receiving {
    receiver: Receiver,
    sleeps: bool,
}

impl crate::peer::Sender for Sending {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        if self.sleeps {
            self.sender.send(TAG, message)?;
            return Ok(true);
        }
        match self.sender.try_send(TAG, message) {
            Ok(()) => Ok(true),
            Err(SendError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn try_send_batch(&mut self, content: &mut Content, count: usize) -> Result<usize> {
        let mut batch = self.sender.batch();
        for sent in 0..count {
            match batch.try_send(TAG, content.message()) {
                Ok(()) => {}
                Err(SendError::Full { .. }) => {
                    content.take_back();
                    batch.commit();
                    return Ok(sent);
                }
                Err(error) => bail!(error),
            }
        }
        batch.commit();
        Ok(count)
    }

    #[inline]
    fn try_send_in_place(&mut self, content: &mut Content) -> Result<bool> {
        let (head, len) = (content.head(), content.message_len());
        let put = |message: &mut [u8]| {
            message[..head.len()].copy_from_slice(&head);
            anyhow::Ok(())
        };
        // Waits for room.
        self.sender.send_with(Envelope::tagged(TAG), len, put)??;
        Ok(true)
    }
}

impl crate::peer::Receiver for Receiving {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        if self.sleeps {
            return Ok(Some(look(self.receiver.recv()?.payload)));
        }
        Ok(self.receiver.try_recv()?.map(|message| look(message.payload)))
    }
}

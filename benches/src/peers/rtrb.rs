//! `rtrb` between two threads of one process: bytes, of which a message is a run that never goes
//! round the end, as the ring's length is a multiple of it.

use super::meet;
use crate::content::{Content, Wrong};
use crate::peer::{Peer, Place, Setup};
use anyhow::Result;
use rtrb::{Consumer, Producer, RingBuffer};

pub struct Bytes;

impl Peer for Bytes {
    type Sender = Producer<u8>;
    type Receiver = Receiving;

    fn receiver(place: &Place, setup: &Setup) -> Result<Receiving> {
        let (sender, receiver) = RingBuffer::new(setup.ring_messages() * setup.len);
        meet::leave(place, sender)?;
        Ok(Receiving { receiver, len: setup.len })
    }

    fn sender(place: &Place, _: &Setup) -> Result<Producer<u8>> {
        meet::take(place)
    }
}

pub struct Receiving {
    receiver: Consumer<u8>,
    len: usize,
}

impl crate::peer::Sender for Producer<u8> {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        Ok(self.push_entire_slice(message).is_ok())
    }

    #[allow(unsafe_code)]
    fn try_send_batch(&mut self, content: &mut Content, count: usize) -> Result<usize> {
        let len = content.message_len();
        let count = count.min(self.slots() / len);
        let Ok(mut chunk) = self.write_chunk_uninit(count * len) else { return Ok(0) };
        let (first, second) = chunk.as_mut_slices();
        for slot in first.chunks_exact_mut(len).chain(second.chunks_exact_mut(len)) {
            slot.write_copy_of_slice(content.message());
        }
        // SAFETY: both slices are multiples of a message's length, as positions and the ring's
        // length are; so all of them was written.
        unsafe { chunk.commit_all() };
        Ok(count)
    }
}

impl crate::peer::Receiver for Receiving {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        let Ok(chunk) = self.receiver.read_chunk(self.len) else { return Ok(None) };
        let seen = look(chunk.as_slices().0);
        chunk.commit_all();
        Ok(Some(seen))
    }

    fn try_recv_batch(
        &mut self,
        mut look: impl FnMut(&[u8]) -> Result<bool, Wrong>,
    ) -> Result<Option<bool>> {
        let count = self.receiver.slots() / self.len;
        let Ok(chunk) = self.receiver.read_chunk(count * self.len) else { return Ok(None) };
        if count == 0 {
            return Ok(None);
        }
        let mut ended = false;
        let (first, second) = chunk.as_slices();
        for message in first.chunks_exact(self.len).chain(second.chunks_exact(self.len)) {
            ended = look(message)?;
        }
        chunk.commit_all();
        Ok(Some(ended))
    }
}

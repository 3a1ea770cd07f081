//! LibAFL's `ll_mp`: a chain without a broker.
//!
//! A sender that is a few pages ahead of its receiver panics, and has no means to see the
//! receiver's position. So the receiver reports its position over another chain.

use crate::peer::{Peer, Place, Setup};
use anyhow::{Context, Result, anyhow};
use libafl_core::ClientId;
use ll_mp::{LlmpReceiver, LlmpSender, Tag};
use shmem_providers::{ShMemProvider, StdShMem, StdShMemProvider};

pub const TAG: Tag = Tag(1);
/// Bytes that a sender may be ahead. Its pages have 1 MiB, and it may have three.
const AHEAD: usize = 1 << 20;
/// Bytes of each message beside its payload.
const OVERHEAD: usize = 128;

pub type ChainWriter = LlmpSender<StdShMem, StdShMemProvider>;
pub type ChainReader = LlmpReceiver<StdShMem, StdShMemProvider>;

/// Number of messages that may be in flight.
pub fn window(setup: &Setup) -> u64 {
    (AHEAD / (setup.len + OVERHEAD)).max(2) as u64
}

pub struct Chain;

pub struct Sending {
    chain: ChainWriter,
    taken: ChainReader,
    window: u64,
    /// Number of messages that may still be sent.
    credit: u64,
}

pub struct Receiving {
    chain: ChainReader,
    taken: ChainWriter,
    /// The receiver reports its position after this many messages.
    step: u64,
    untold: u64,
}

#[allow(unsafe_code)]
fn create(place: &Place) -> Result<ChainWriter> {
    let mut chain = LlmpSender::new(StdShMemProvider::new()?, ClientId(0), false)?;
    // A broker says of a new client's first page that it has joined; nothing else says it. The
    // page is not used again before the receiver has left it.
    // SAFETY: the page may be unmapped now, but this sender keeps its pages in a cache.
    unsafe { chain.mark_safe_to_unmap() };
    place.announce(&serde_json::to_string(&chain.describe()?)?)?;
    Ok(chain)
}

fn open(place: &Place) -> Result<ChainReader> {
    let description = serde_json::from_str(&place.announced()?).context("what a chain is")?;
    Ok(LlmpReceiver::on_existing_from_description(StdShMemProvider::new()?, &description)?)
}

impl Peer for Chain {
    type Sender = Sending;
    type Receiver = Receiving;

    fn receiver(place: &Place, setup: &Setup) -> Result<Receiving> {
        let taken = create(&place.named(&format!("{}-taken", place.name)))?;
        let step = (window(setup) / 4).max(1);
        Ok(Receiving { chain: open(place)?, taken, step, untold: 0 })
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Sending> {
        let chain = create(place)?;
        let taken = open(&place.named(&format!("{}-taken", place.name)))?;
        let window = window(setup);
        Ok(Sending { chain, taken, window, credit: window })
    }
}

impl crate::peer::Sender for Sending {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        if self.credit == 0 {
            while let Some((_, _, taken)) = self.taken.recv_buf()? {
                let taken = taken.first_chunk().context("a count has eight bytes")?;
                self.credit += u64::from_le_bytes(*taken);
            }
            if self.credit > self.window {
                return Err(anyhow!("more was taken than sent"));
            }
            if self.credit == 0 {
                return Ok(false);
            }
        }
        self.credit -= 1;
        self.chain.send_buf(TAG, message)?;
        Ok(true)
    }
}

impl crate::peer::Receiver for Receiving {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        let Some((_, _, message)) = self.chain.recv_buf()? else { return Ok(None) };
        let seen = look(message);
        self.untold += 1;
        if self.untold == self.step {
            self.taken.send_buf(TAG, &self.untold.to_le_bytes())?;
            self.untold = 0;
        }
        Ok(Some(seen))
    }
}

//! Copies one message from a client's chain to the broadcast chain, through the hook.

use crate::core::broker::hook::{Hook, Verdict};
use crate::core::chain::{ChainReader, ChainWriter, Refused};
use crate::core::memory::Memory;
use crate::core::message::{ClientId, Message, Slot};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A hook and its state.
pub(super) struct Hooked {
    hook: Box<dyn Hook>,
    /// The hook's own copy of a message.
    copy: Vec<u8>,
    /// The message that the hook has seen and that had no room yet: its sender, its number there,
    /// and the payload to forward, if any.
    pending: Option<(ClientId, u64, Option<Vec<u8>>)>,
}

/// Appends one client's message to the broadcast chain, if the hook lets it pass.
pub(super) fn forward<M: Memory>(
    broadcast: &mut ChainWriter<M>,
    hooked: Option<&mut Hooked>,
    client: ClientId,
    inbound: &ChainReader<M>,
    slot: &Slot,
) -> Result<(), Refused> {
    let mut envelope = inbound.envelope(slot);
    // The client's own claim is ignored: the broker knows the owner of the chain (P12).
    envelope.sender = client;
    let Some(hooked) = hooked else {
        let claim = broadcast.claim(envelope, slot.payload_len())?;
        let (memory, at) = inbound.payload(slot);
        claim.copy_from(memory, at);
        claim.commit();
        return Ok(());
    };
    let number = inbound.next_message();
    let seen = matches!(&hooked.pending, Some((c, n, _)) if (*c, *n) == (client, number));
    if !seen {
        hooked.copy.resize(slot.payload_len(), 0);
        inbound.read(slot, &mut hooked.copy);
        let shown = envelope;
        let message = Message::new(&shown, broadcast.next_message(), &hooked.copy);
        let payload = match hooked.hook.on_message(&message) {
            Verdict::Forward => Some(core::mem::take(&mut hooked.copy)),
            Verdict::Drop => None,
            Verdict::Replace(payload) => Some(payload),
        };
        hooked.pending = Some((client, number, payload));
    }
    // Stays pending while there is no room, so that the hook sees each message once.
    if let Some((_, _, Some(payload))) = &hooked.pending {
        match broadcast.append(envelope, payload) {
            Err(Refused::Blocked(blocked)) => return Err(Refused::Blocked(blocked)),
            Err(Refused::TooLong { len, max }) => {
                log::warn!(
                    "a hook returned a message of {len} bytes, above the limit of {max}; it is dropped"
                );
            }
            Ok(()) => {}
        }
    }
    if let Some((_, _, Some(payload))) = hooked.pending.take() {
        hooked.copy = payload;
    }
    Ok(())
}

impl Hooked {
    pub fn new(hook: Box<dyn Hook>) -> Self {
        Hooked { hook, copy: Vec::new(), pending: None }
    }

    /// Returns the payload length after the hook, for the message that had no room yet.
    pub fn pending_len(&self) -> Option<usize> {
        Some(self.pending.as_ref()?.2.as_ref()?.len())
    }
}

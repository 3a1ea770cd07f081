//! Message types: a raw header, a validated slot, a received message.
//!
//! A receiver loads a slot's two header words once, into a [`RawHeader`]. Only
//! [`validate`](RawHeader::validate) turns it into a [`Slot`]. A payload can be read only through a
//! slot.

use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::origin::Origin;

/// Distinguishes an application's kinds of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl From<u32> for Tag {
    fn from(tag: u32) -> Self {
        Tag(tag)
    }
}

/// Sixteen bits for the application. The library carries them unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u16);

/// A client of a bus. The broker assigns ids from 1 on and never reuses the id of a client that has
/// joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u32);

impl core::fmt::Display for ClientId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// A received message.
///
/// The payload is a copy. With [`TrustPeers`](crate::core::memory::TrustPeers) it lies in the sender's
/// page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// The application's kind of message.
    pub tag: Tag,
    /// The application's bits.
    pub flags: Flags,
    /// The sending client. On a bus the broker sets it.
    pub sender: ClientId,
    /// Number of the message in the chain that it was received from. On a bus this is its position
    /// in the one order that all clients see.
    pub seq: u64,
    /// Where the message first entered a bus, if it carries that.
    pub origin: Option<&'a Origin>,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns a message with these parts, for example to test a [`Hook`](crate::Hook).
    ///
    /// ```
    /// use llmp::{Envelope, Hook, Message, Verdict};
    ///
    /// let mut hook = |message: &Message<'_>| match message.payload {
    ///     b"" => Verdict::Drop,
    ///     _ => Verdict::Forward,
    /// };
    /// let envelope = Envelope::tagged(7);
    /// let empty = Message::new(&envelope, 0, b"");
    /// assert_eq!(hook.on_message(&empty), Verdict::Drop);
    /// ```
    pub fn new(envelope: &'a Envelope, seq: u64, payload: &'a [u8]) -> Self {
        let Envelope { tag, flags, sender, ref origin } = *envelope;
        Message { tag, flags, sender, seq, origin: origin.as_ref(), payload }
    }

    /// Returns the header fields of the message.
    pub fn envelope(&self) -> Envelope {
        let Message { tag, flags, sender, origin, .. } = *self;
        Envelope { tag, flags, sender, origin: origin.copied() }
    }
}

/// The header fields of a message to send.
///
/// ```
/// use llmp::{Envelope, Flags};
///
/// let (mut sender, mut receiver) = llmp::channel()?;
/// sender.send_envelope(Envelope::tagged(7).with_flags(Flags(1)), b"hello")?;
/// let message = receiver.recv()?;
/// assert_eq!((message.tag.0, message.flags), (7, Flags(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The application's kind of message.
    pub tag: Tag,
    /// The application's bits.
    pub flags: Flags,
    /// The sending client. A broker overwrites this field with the client's real id.
    pub sender: ClientId,
    /// Where the message first entered a bus.
    pub origin: Option<Origin>,
}

impl Envelope {
    /// Returns an envelope with this tag and default values.
    pub fn tagged(tag: impl Into<Tag>) -> Self {
        Envelope { tag: tag.into(), ..Envelope::default() }
    }

    /// Sets the tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<Tag>) -> Self {
        self.tag = tag.into();
        self
    }

    /// Sets the application's bits.
    #[must_use]
    pub fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the sending client. Sending overwrites this field with the client's own id.
    #[must_use]
    pub fn with_sender(mut self, sender: ClientId) -> Self {
        self.sender = sender;
        self
    }

    /// Sets where the message first entered a bus. `None` stands for no origin.
    #[must_use]
    pub fn with_origin(mut self, origin: impl Into<Option<Origin>>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Returns the commit word of a message with this envelope.
    pub(crate) fn commit_word(&self, payload_len: u32, kind: u8) -> u64 {
        let protocol_flags = if self.origin.is_some() { FLAG_EXTENDED } else { 0 };
        commit_word(payload_len, kind, protocol_flags, self.flags.0)
    }

    /// Returns the word with tag and sender.
    pub(crate) fn tag_word(&self) -> u64 {
        halves(self.tag.0, self.sender.0)
    }
}

/// A slot's header as read from shared memory. No field of it is validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawHeader {
    /// The commit word, not zero.
    pub commit: u64,
    /// The word with tag and sender, or with the next page's id.
    pub tag: u64,
}

/// Where a raw header was read, and the bounds that apply there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotContext {
    pub page: u32,
    pub page_len: usize,
    pub at: usize,
    pub max_message_len: usize,
    /// Whether messages by reference are valid there.
    pub allows_refs: bool,
}

/// A validated message. It lies inside its page with room for an end-of-page message after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Offset of the slot in its page, in bytes.
    pub(crate) at: usize,
    /// Offset of the next slot in its page, in bytes.
    pub(crate) end: usize,
    /// Offset of the payload in bytes: in the slot's page, or in the referenced page if `is_ref`.
    pub(crate) payload_at: usize,
    /// The header. All its protocol fields are validated.
    commit: u64,
    tag: u64,
    /// Whether an origin extension lies between header and payload.
    is_extended: bool,
    /// Whether the payload lies in another page.
    is_ref: bool,
}

impl Slot {
    /// Returns the length of the payload in bytes.
    #[inline(always)]
    pub fn payload_len(&self) -> usize {
        low(self.commit) as usize
    }

    /// Returns whether the payload lies in another page.
    #[inline(always)]
    pub(crate) fn is_ref(&self) -> bool {
        self.is_ref
    }

    /// Returns the sender that the header names.
    #[inline(always)]
    pub(crate) fn sender(&self) -> ClientId {
        ClientId(high(self.tag))
    }

    /// Returns whether an origin extension lies between header and payload.
    #[inline(always)]
    pub(crate) fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// Returns the envelope without its origin, which is read separately.
    #[inline(always)]
    pub(crate) fn envelope(&self) -> Envelope {
        Envelope {
            tag: Tag(low(self.tag)),
            flags: Flags((high(self.commit) >> 16) as u16),
            sender: self.sender(),
            origin: None,
        }
    }
}

/// The location of the payload that a message by reference names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefMessage {
    pub page: u32,
    pub offset: u64,
}

impl RefMessage {
    /// Parses the two words of a message by reference in page `page`, read once. The location is
    /// not validated yet.
    pub fn raw([ids, offset]: [u64; 2], page: u32, at: usize) -> Result<Self, Fault> {
        if high(ids) != 0 {
            return Err(Fault::Reserved { page, at, found: ids });
        }
        Ok(RefMessage { page: low(ids), offset })
    }
}

impl Slot {
    /// Returns the message with the location of its payload, which lies in a page of `page_len`
    /// bytes.
    pub(crate) fn resolve(self, reference: RefMessage, page_len: usize) -> Result<Slot, Fault> {
        let RefMessage { page, offset } = reference;
        let at = usize::try_from(offset).ok().filter(|at| at.is_multiple_of(SLOT_ALIGN));
        let at = at.filter(|at| *at >= PAGE_HEADER && *at <= page_len);
        let len = self.payload_len();
        match at.filter(|at| len <= page_len - at) {
            Some(payload_at) => Ok(Slot { payload_at, ..self }),
            None => Err(Fault::RefMessage { page, offset, len, page_len }),
        }
    }
}

/// A validated header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Message(Slot),
    /// A message by reference. The location of its payload is still to be
    /// [resolved](Slot::resolve).
    Ref(Slot),
    EndOfPage {
        next: u32,
    },
}

impl RawHeader {
    /// Returns whether this is a message without an extension and with its payload in the slot.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        high(self.commit) as u16 == u16::from(KIND_MESSAGE)
    }

    /// Validates every field against the context.
    #[inline(always)]
    pub fn validate(self, context: SlotContext) -> Result<Header, Fault> {
        let SlotContext { page, at, allows_refs, .. } = context;
        match high(self.commit) as u8 {
            KIND_MESSAGE => {
                self.message(context, low(self.commit) as usize, false).map(Header::Message)
            }
            KIND_REF if allows_refs => self.message(context, SLOT_REF, true).map(Header::Ref),
            KIND_EOP => {
                if self.commit != commit_word(0, KIND_EOP, 0, 0) {
                    return Err(Fault::Reserved { page, at, found: self.commit });
                }
                if high(self.tag) != 0 {
                    return Err(Fault::Reserved { page, at, found: self.tag });
                }
                Ok(Header::EndOfPage { next: low(self.tag) })
            }
            found => Err(Fault::Kind { page, at, found }),
        }
    }

    /// Validates a message with `len` bytes after its header.
    #[inline(always)]
    fn message(self, context: SlotContext, len: usize, is_ref: bool) -> Result<Slot, Fault> {
        let SlotContext { page, page_len, at, max_message_len, .. } = context;
        let protocol_flags = (high(self.commit) >> 8) as u8;
        if protocol_flags & !FLAG_EXTENDED != 0 {
            return Err(Fault::Reserved { page, at, found: self.commit });
        }
        let is_extended = protocol_flags & FLAG_EXTENDED != 0;
        let head = if is_extended { SLOT_HEADER + SLOT_EXTENSION } else { SLOT_HEADER };
        // After every message there is room for the end-of-page message.
        let end = slot_len(len, is_extended).and_then(|len| (at + SLOT_HEADER).checked_add(len));
        match end {
            Some(end) if end <= page_len && low(self.commit) as usize <= max_message_len => {
                let (end, payload_at) = (end - SLOT_HEADER, at + head);
                let RawHeader { commit, tag } = self;
                Ok(Slot { at, end, payload_at, commit, tag, is_extended, is_ref })
            }
            _ => {
                let room = page_len.saturating_sub(at + head + SLOT_HEADER);
                let room = room.min(max_message_len);
                Err(Fault::Length { page, at, found: low(self.commit), room })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: SlotContext =
        SlotContext { page: 3, page_len: 256, at: 64, max_message_len: 100, allows_refs: false };

    fn validate(commit: u64, tag: u64) -> Result<Header, Fault> {
        RawHeader { commit, tag }.validate(PLACE)
    }

    #[test]
    fn a_valid_header_round_trips() {
        let origin = Some(Origin::example());
        let envelope = Envelope { tag: Tag(7), flags: Flags(0xbeef), sender: ClientId(9), origin };
        let commit = envelope.commit_word(100, KIND_MESSAGE);
        let Ok(Header::Message(slot)) = validate(commit, envelope.tag_word()) else {
            panic!("no message");
        };
        assert_eq!((slot.payload_at, slot.payload_len(), slot.end), (112, 100, 224));
        assert_eq!(slot.envelope(), Envelope { origin: None, ..envelope });
        assert!(slot.is_extended());
        let end = validate(commit_word(0, KIND_EOP, 0, 0), 5);
        assert_eq!(end, Ok(Header::EndOfPage { next: 5 }));
    }

    #[test]
    fn every_invalid_header_field_is_a_fault_that_names_it() {
        let at = 64;
        for kind in (0..=255).filter(|k| ![KIND_MESSAGE, KIND_EOP].contains(k)) {
            let found = validate(commit_word(1, kind, 0, 0), 0);
            assert_eq!(found, Err(Fault::Kind { page: 3, at, found: kind }));
        }
        for flags in (0..=255).filter(|f| f & !FLAG_EXTENDED != 0) {
            let commit = commit_word(1, KIND_MESSAGE, flags, 0);
            assert_eq!(validate(commit, 0), Err(Fault::Reserved { page: 3, at, found: commit }));
        }
        for len in [101, 4096, u32::MAX - 15, u32::MAX] {
            let found = validate(commit_word(len, KIND_MESSAGE, 0, 0), 0);
            assert_eq!(found, Err(Fault::Length { page: 3, at, found: len, room: 100 }));
        }
        let commit = commit_word(1, KIND_EOP, 0, 0);
        assert_eq!(validate(commit, 0), Err(Fault::Reserved { page: 3, at, found: commit }));
        let found = validate(commit_word(0, KIND_EOP, 0, 0), 1 << 32);
        assert_eq!(found, Err(Fault::Reserved { page: 3, at, found: 1 << 32 }));
    }

    #[test]
    fn every_invalid_reference_is_a_fault_that_names_it() {
        let commit = commit_word(100, KIND_REF, 0, 0);
        assert_eq!(validate(commit, 0), Err(Fault::Kind { page: 3, at: 64, found: KIND_REF }));
        let context = SlotContext { allows_refs: true, ..PLACE };
        let Ok(Header::Ref(slot)) = (RawHeader { commit, tag: 0 }).validate(context) else {
            panic!("no reference")
        };
        assert_eq!(slot.end, 64 + SLOT_HEADER + SLOT_REF);
        let resolve = |offset| slot.resolve(RefMessage { page: 5, offset }, 256);
        for offset in [64, 80, 144] {
            let slot = resolve(offset).unwrap();
            assert!(slot.is_ref());
            assert_eq!((slot.payload_at, slot.payload_len()), (offset as usize, 100));
        }
        for offset in [0, 48, 72, 160, 256, 272, u64::MAX - 15, u64::MAX] {
            let fault = Fault::RefMessage { page: 5, offset, len: 100, page_len: 256 };
            assert_eq!(resolve(offset), Err(fault));
        }
        let found = 5 | 1 << 32;
        let reserved = RefMessage::raw([found, 64], 3, 64).unwrap_err();
        assert_eq!(reserved, Fault::Reserved { page: 3, at: 64, found });
        let full = SlotContext { at: 256 - SLOT_HEADER - SLOT_REF, ..context };
        let room = (RawHeader { commit, tag: 0 }).validate(full);
        assert!(matches!(room, Err(Fault::Length { .. })), "no room for the end of the page");
    }

    #[test]
    fn the_longest_message_leaves_room_for_the_end_of_page() {
        let context = SlotContext { max_message_len: 1000, ..PLACE };
        let longest = 256 - 64 - 2 * SLOT_HEADER as u32;
        let check = |len| {
            RawHeader { commit: commit_word(len, KIND_MESSAGE, 0, 0), tag: 0 }.validate(context)
        };
        assert!(check(longest).is_ok());
        assert!(matches!(check(longest + 1), Err(Fault::Length { room: 160, .. })));
    }
}

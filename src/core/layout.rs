//! Layout of shared memory: page header, message header, control region.
//!
//! All integers are little-endian and of fixed width. All words have 8 bytes and stand at offsets
//! that are multiples of 8. Nothing here depends on the target. `docs/protocol.md` describes the
//! same bytes in prose.
//!
//! A page. Its sender is the only writer.
//!
//! ```text
//!   0        8        16       24       32       40       48              64
//!   +--------+--------+--------+--------+--------+--------+---------------+
//!   | magic  |ver|hlen| length |id|owner|  base  | first  |   reserved    |  page header
//!   +--------+--------+--------+--------+--------+--------+---------------+
//!   | slot | slot | slot | ... | EOP | never read                         |
//!   +---------------------------------------------------------------------+
//! ```
//!
//! A slot, at a multiple of 16 bytes:
//!
//! ```text
//!   0        8        16                 16 or 48
//!   +--------+--------+------------------+-----------------+---------+
//!   | commit |tag|from| origin extension | payload         | padding |
//!   +--------+--------+------------------+-----------------+---------+
//!                       only if EXTENDED                    to 16 bytes
//!
//!   commit   63          48 47       40 39       32 31                0
//!            +-------------+-----------+-----------+------------------+
//!            | user flags  | EXTENDED  | kind      | payload length   |
//!            +-------------+-----------+-----------+------------------+
//!
//!   origin extension
//!   16       24            32       40       48
//!   +--------+------+------+--------+--------+
//!   | bus    |client|epoch | number |   0    |
//!   +--------+------+------+--------+--------+
//! ```
//!
//! A message *by reference* holds the location of its payload instead of the payload. The payload
//! itself lies in a page of the client that sent it. Only a broker sends such messages.
//!
//! ```text
//!   +--------+--------+------------------+--------+--------+
//!   | commit |tag|from| origin extension | page|0 | offset |
//!   +--------+--------+------------------+--------+--------+
//! ```
//!
//! A control region. Its owner is the only writer. Each entry has a line of 64 bytes to itself.
//!
//! ```text
//!   0     magic, version, number of cursors, newest page
//!   64    parked word
//!   128   entry 0: cursor, consumed, member, retired
//!   192   entry 1: cursor, consumed, member, retired
//!   ...
//!   128 + 64 n        intent 0: begin, consumed     (n: number of cursors)
//!   128 + 64 n + 16   intent 1: begin, consumed
//!   ...
//! ```

/// The protocol version. Both sides of a connection must have the same.
pub const VERSION: u32 = 2;

/// Bytes in one atomic word.
pub const WORD: usize = 8;
/// Distance in bytes between words of different writers: one cache line.
pub const LINE: usize = 64;
/// The least page size of the kernel, in bytes. Region lengths are multiples of it.
pub const OS_PAGE: usize = 4096;

/// The first word of a page.
pub const PAGE_MAGIC: u64 = u64::from_le_bytes(*b"LLMPpage");
/// Offset of the version (low half) and the header's length (high half).
pub const PAGE_VERSION: usize = 8;
/// Offset of the page's length in bytes.
pub const PAGE_LENGTH: usize = 16;
/// Offset of the page's id (low half) and its owner's client id (high half).
pub const PAGE_ID: usize = 24;
/// Offset of the chain position of the page's first byte.
pub const PAGE_BASE: usize = 32;
/// Offset of the number of the page's first message.
pub const PAGE_FIRST: usize = 40;
/// Length of the page header in bytes. The first slot begins there.
pub const PAGE_HEADER: usize = 64;

/// Alignment of slots in bytes. With it a message header never crosses a cache line.
pub const SLOT_ALIGN: usize = 16;
/// Offset of the commit word in a slot.
pub const SLOT_COMMIT: usize = 0;
/// Offset of the word with tag (low half) and sender (high half) in a slot.
pub const SLOT_TAG: usize = 8;
/// Length of a message header. An end-of-page message is one header without a payload.
pub const SLOT_HEADER: usize = 16;
/// Length of the optional origin extension: bus, client (low half) and epoch (high half), number,
/// zero.
pub const SLOT_EXTENSION: usize = 32;

/// Kind of a commit word that was never written.
pub const KIND_NONE: u8 = 0;
/// Kind of a message.
pub const KIND_MESSAGE: u8 = 1;
/// Kind of an end-of-page message; its tag word holds the next page's id.
pub const KIND_EOP: u8 = 2;
/// Kind of a message by reference: its payload lies in another page.
pub const KIND_REF: u8 = 3;

/// Length of the reference in a message by reference: the page's id and the offset there.
pub const SLOT_REF: usize = 16;

/// Bit of the protocol flags: an origin extension lies between header and payload.
pub const FLAG_EXTENDED: u8 = 1;

/// The first word of a control region.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"LLMPctrl");
/// Offset of the version (low half) and the number of cursors (high half).
pub const CONTROL_VERSION: usize = 8;
/// Offset of the id of the newest page in the owner's chain, plus one. Zero if it has no chain.
pub const CONTROL_NEWEST: usize = 16;
/// Offset of the parked word:
///
/// * the number of the sleep, from 1, while the owner sleeps;
/// * [`CONTROL_POLLING`] while the owner is awake and polls;
/// * zero while the owner is awake and does not poll.
pub const CONTROL_PARKED: usize = LINE;
/// Flag in the parked word: the owner polls, and publishers need no fence towards it. The owner's
/// later sleeps are bounded.
pub const CONTROL_POLLING: u64 = 1 << 63;
/// Offset of the first cursor.
pub const CONTROL_CURSORS: usize = 2 * LINE;
/// Offset of the *consumed* word, relative to the cursor.
pub const CONTROL_CONSUMED: usize = WORD;
/// Offset of the *member* word, relative to the cursor:
///
/// * the id of the client that owns the entry, while the sender waits for it;
/// * the id with [`CONTROL_SKIPPED`] after the client was skipped, until it receives again;
/// * zero after the client was removed.
pub const CONTROL_MEMBER: usize = 2 * WORD;
/// Flag in the member word: the client was skipped.
pub const CONTROL_SKIPPED: u64 = 1 << 63;
/// Offset of the *retired* word, relative to the cursor. Pages that begin before that position are
/// never written again.
pub const CONTROL_RETIRED: usize = 3 * WORD;
/// Length of an intent: two words.
pub const INTENT: usize = 2 * WORD;
/// Offset of the second word of an intent: the consumed position.
pub const INTENT_CONSUMED: usize = WORD;

/// Returns the bytes that a slot takes in a page.
///
/// Returns `None` if the sum does not fit into a `usize`.
#[inline]
pub const fn slot_len(payload_len: usize, extended: bool) -> Option<usize> {
    let head = if extended { SLOT_HEADER + SLOT_EXTENSION } else { SLOT_HEADER };
    match payload_len.checked_add(head + SLOT_ALIGN - 1) {
        Some(len) => Some(len & !(SLOT_ALIGN - 1)),
        None => None,
    }
}

/// Returns the offset of cursor `slot` in a control region.
#[inline]
pub const fn cursor_offset(slot: usize) -> usize {
    CONTROL_CURSORS + slot * LINE
}

/// Returns the offset of an entry's *intent* in a control region with `cursors` cursors: once the
/// batch at the first word's position is published, the owner has consumed up to the second word's
/// position of the chain that it reads at that entry.
#[inline]
pub const fn intent_offset(cursors: usize, slot: usize) -> usize {
    cursor_offset(cursors) + slot * INTENT
}

/// Returns the bytes of a control region with `cursors` cursors that have a meaning.
pub const fn control_bytes(cursors: usize) -> usize {
    intent_offset(cursors, cursors)
}

/// Returns the length of a control region with `cursors` cursors, in bytes.
pub const fn control_len(cursors: usize) -> usize {
    control_bytes(cursors).next_multiple_of(OS_PAGE)
}

/// Packs two 32-bit halves into one word.
#[inline]
pub const fn halves(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Returns the low half of a word.
#[inline]
pub const fn low(word: u64) -> u32 {
    word as u32
}

/// Returns the high half of a word.
#[inline]
pub const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Returns a commit word. It is never zero, because no kind that is written is zero.
#[inline]
pub const fn commit_word(payload_len: u32, kind: u8, protocol_flags: u8, user_flags: u16) -> u64 {
    halves(payload_len, kind as u32 | (protocol_flags as u32) << 8 | (user_flags as u32) << 16)
}

const _: () = {
    assert!(PAGE_HEADER.is_multiple_of(LINE) && PAGE_HEADER.is_multiple_of(SLOT_ALIGN));
    assert!(PAGE_FIRST + WORD <= PAGE_HEADER);
    assert!(SLOT_TAG + WORD == SLOT_HEADER && SLOT_HEADER.is_multiple_of(SLOT_ALIGN));
    assert!(SLOT_EXTENSION == 4 * WORD && SLOT_EXTENSION.is_multiple_of(SLOT_ALIGN));
    assert!(SLOT_ALIGN.is_multiple_of(WORD));
    assert!(SLOT_REF == 2 * WORD);
    assert!(CONTROL_VERSION + WORD == CONTROL_NEWEST && CONTROL_NEWEST + WORD <= CONTROL_PARKED);
    assert!(CONTROL_PARKED + LINE == CONTROL_CURSORS && CONTROL_RETIRED + WORD <= LINE);
    assert!(cursor_offset(1) - cursor_offset(0) == LINE);
    assert!(commit_word(0, KIND_EOP, 0, 0) != 0);
};

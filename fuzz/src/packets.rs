//! The packets of a hostile session, with their descriptors.

use super::descriptors::{KeepSlow, Sendable, limits};
use super::input::Input;
use llmp::core::chain::Start;
use llmp::core::layout::VERSION;
use llmp::core::wire::{
    ByeReason, MAX_PACKET, Packet, RawLimits, Refusal, Request, Roles, WireError,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketFlags, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Kinds of packets in an input. Higher values are raw bytes.
pub const RING: u8 = 0;
pub const HELLO: u8 = 1;
pub const JOIN: u8 = 2;
pub const PAGE: u8 = 3;
pub const FORGET: u8 = 4;
pub const START: u8 = 5;
pub const BYE: u8 = 6;
pub const RECEIVER_COUNT: u8 = 7;
pub const WELCOME: u8 = 8;
pub const REFUSED: u8 = 9;
pub const RAW: u8 = 10;
pub const HELD_UP: u8 = 11;
pub const AGAIN: u8 = 12;
pub const ASK: u8 = 13;
const KINDS: usize = 14;

/// Longest page in bytes. A client allocates a page of the length in its welcome, and up to 2 GiB
/// are valid. A fuzzer lacks memory for that.
pub const LONGEST_PAGE: u64 = 1 << 16;

pub fn socket() -> OwnedFd {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None);
    socket.expect("the kernel has a socket")
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
    pair.expect("the kernel has sockets")
}

/// The most descriptors that the kernel permits in a packet.
const MAX_DESCRIPTORS: usize = 253;

/// Sends everything in the input, then signals its end. Returns what keeps some of it from being
/// closed quickly.
pub fn send_all(socket: &OwnedFd, input: &mut Input, owner: u32) -> Vec<KeepSlow> {
    let mut keep_slow = Vec::new();
    for _ in 0..64 {
        if input.is_over() {
            break;
        }
        let bytes = packet(input);
        // At most three kinds, repeated.
        let count = usize::from(input.byte()).min(MAX_DESCRIPTORS);
        let sendables: Vec<_> =
            (0..count.min(3)).map(|_| Sendable::arbitrary(input, owner)).collect();
        let asks_for_memory = matches!(
            Packet::decode(&bytes, 1),
            Ok(Packet::Welcome { limits, .. }) if limits.page_len > LONGEST_PAGE
        );
        if !asks_for_memory {
            let descriptors = sendables.iter().map(AsFd::as_fd).cycle().take(count);
            send(socket, &bytes, &descriptors.collect::<Vec<_>>());
        }
        keep_slow.extend(sendables.into_iter().filter_map(Sendable::let_go));
        drain(socket);
    }
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
    keep_slow
}

pub fn packet(input: &mut Input) -> Vec<u8> {
    let packet = match input.below(KINDS) as u8 {
        RING => Packet::Ring,
        HELLO => Packet::Hello {
            version: VERSION.wrapping_add(input.byte().into()),
            roles: Roles(input.byte().into()),
        },
        JOIN => Packet::Join,
        PAGE => Packet::Page { id: input.byte().into() },
        FORGET => Packet::Forget { id: input.byte().into() },
        START => {
            let (page, position) = (input.byte().into(), input.word());
            Packet::Start(Start { page, position, message: input.word() })
        }
        BYE => Packet::Bye([ByeReason::Closed, ByeReason::Fault][input.below(2)]),
        RECEIVER_COUNT => Packet::ReceiverCount { receivers: input.byte().into() },
        WELCOME => {
            let (cursor, any) = (input.byte().into(), input.byte());
            let limits = match any {
                0 => RawLimits::from(&limits()),
                _ => {
                    let [page_len, max_message_len, budget] = std::array::from_fn(|_| input.word());
                    RawLimits { page_len, max_message_len, budget }
                }
            };
            Packet::Welcome { version: VERSION, client: 7, cursor, broker: 1, limits }
        }
        REFUSED => Packet::Refused(match input.below(3) {
            0 => Refusal::Version { broker: 9 },
            1 => Refusal::User,
            _ => Refusal::Other(99),
        }),
        HELD_UP => {
            let (client, process) = (input.byte().into(), input.byte().into());
            Packet::HeldUp { client, process, millis: input.word() }
        }
        AGAIN => Packet::Again { id: input.byte().into() },
        // A broker would end, and the session with it.
        ASK => Packet::Ask {
            version: VERSION.wrapping_add(input.byte().into()),
            request: [Request::StandBy, Request::Other(99)][input.below(2)],
        },
        _ => {
            let len = input.below(MAX_PACKET + 16);
            return input.bytes(len).to_vec();
        }
    };
    let mut bytes = [0; MAX_PACKET];
    let len = packet.encode(&mut bytes);
    bytes[..len].to_vec()
}

pub fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // The other side may have closed already.
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
}

/// Reads everything that has arrived. Returns whether the other side has hung up.
pub fn drain(socket: &OwnedFd) -> bool {
    loop {
        // Without room for descriptors the kernel closes them.
        match rustix::net::recv(socket, &mut [0; MAX_PACKET], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return true,
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => {}
            Err(rustix::io::Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}

/// Checks that a decoded packet encodes to the same bytes. A greeting or a refusal of another
/// version may hold more than this version understands.
pub fn decode(bytes: &[u8]) -> Result<(), WireError> {
    let packet = (0..2).map(|descriptors| Packet::decode(bytes, descriptors));
    let packet = packet.reduce(Result::or).expect("two attempts")?;
    let mut again = [0; MAX_PACKET];
    let len = packet.encode(&mut again);
    let is_foreign = match packet {
        Packet::Hello { version, .. } => version != VERSION,
        Packet::Refused(reason) => matches!(reason, Refusal::Other(_)),
        _ => false,
    };
    assert!(is_foreign || again[..len] == *bytes, "{packet:?} is not what was read");
    Ok(())
}

//! Connections of a bus: the kernel's sockets with the [packets](crate::core::wire) of the protocol.

use crate::core::wire::{Packet, WireError};
use crate::sys::socket::{self, Protocol};

pub(crate) use crate::sys::socket::{Credentials, Sent};

pub(crate) type Socket = socket::Socket<Packet>;
pub(crate) type Listener = socket::Listener<Packet>;
pub(crate) type Received = socket::Received<Packet>;

impl Protocol for Packet {
    type Error = WireError;

    fn decode(bytes: &[u8], descriptors: usize) -> Result<Self, WireError> {
        Packet::decode(bytes, descriptors)
    }

    fn decode_lost(bytes: &[u8]) -> Option<Self> {
        Packet::decode_lost(bytes)
    }

    fn cut() -> WireError {
        WireError::Cut
    }

    fn unwanted_descriptor() -> WireError {
        WireError::NotMemory
    }

    fn encode(&self, bytes: &mut [u8; socket::MAX_PACKET]) -> usize {
        Packet::encode(self, bytes)
    }

    fn descriptors(&self) -> usize {
        Packet::descriptors(self)
    }

    fn is_signed(&self) -> bool {
        matches!(
            self,
            Packet::Hello { .. }
                | Packet::Return { .. }
                | Packet::Ask { .. }
                | Packet::Welcome { .. }
                | Packet::Refused(_)
        )
    }

    fn name(&self) -> &'static str {
        Packet::name(self)
    }
}

impl Socket {
    /// Rings the doorbell. Returns false if the kernel has no memory and the ring must be tried
    /// again. A full buffer is a success, because a packet that wakes the peer is there already. A
    /// hang-up is a success, because no process sleeps at the other end.
    #[must_use]
    pub fn ring(&self) -> bool {
        self.send(&Packet::Ring, None) != Sent::NoMemory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvFlags, SendFlags};
    use std::os::fd::AsFd;

    // P4, P5, P15
    #[test]
    fn packets_sent_before_a_hang_up_arrive_despite_unread_ones() {
        let (ours, theirs) = Socket::pair().unwrap();
        assert!(ours.ring());
        assert_eq!(theirs.send(&Packet::Forget { id: 7 }, None), Sent::Yes);
        assert_eq!(theirs.send(&Packet::Forget { id: 8 }, None), Sent::Yes);
        drop(theirs);
        for expected in [7, 8] {
            let received = ours.receive();
            let Received::Packet(Packet::Forget { id }, None) = received else {
                panic!("{received:?}");
            };
            assert_eq!(id, expected);
        }
        assert!(matches!(ours.receive(), Received::HungUp));
        assert!(matches!(ours.receive(), Received::HungUp));
    }

    // P5, P16
    #[test]
    fn the_sender_of_the_first_packet_is_the_peer() {
        for sparingly in [false, true] {
            let (mut ours, theirs) = Socket::pair().unwrap();
            ours.await_credentials().unwrap();
            assert!(matches!(ours.receive_first(sparingly), (Received::Nothing, None)));
            assert_eq!(theirs.send(&Packet::Forget { id: 7 }, None), Sent::Yes);
            assert!(theirs.ring());
            let (received, sender) = ours.receive_first(sparingly);
            assert!(matches!(received, Received::Packet(Packet::Forget { id: 7 }, None)));
            let sender = sender.unwrap();
            assert_eq!(sender.process, std::process::id() as i32);
            assert_eq!(sender.user, rustix::process::geteuid().as_raw());
            assert!(ours.peer().pidfd().is_some() && !ours.peer().has_died());
            // Later packets carry no credentials, for which there would be no room.
            assert!(matches!(ours.receive(), Received::Packet(Packet::Ring, None)));
        }
    }

    // P12
    #[test]
    fn descriptors_with_the_first_packet_are_taken_or_refused() {
        let (mut ours, theirs) = Socket::pair().unwrap();
        ours.await_credentials().unwrap();
        let page = Packet::Page { id: 0 };
        assert_eq!(theirs.send(&page, Some(ours.as_fd())), Sent::Yes);
        let (received, sender) = ours.receive_first(true);
        assert!(matches!((received, sender), (Received::Garbage(WireError::Cut), None)));
        let (received, sender) = ours.receive_first(false);
        assert!(matches!(received, Received::Packet(Packet::Page { id: 0 }, Some(_))));
        assert!(sender.is_some());
    }

    #[test]
    fn only_a_connection_in_which_nothing_is_left_is_empty() {
        let (ours, theirs) = Socket::pair().unwrap();
        let send = |bytes: &[u8]| {
            rustix::net::send(&theirs, bytes, SendFlags::empty()).unwrap();
        };
        assert!(ours.is_empty());
        // The first packet has zero bytes, like the end.
        for bytes in [&b""[..], b"", b"1"] {
            send(bytes);
        }
        theirs.shut_down();
        for _ in 0..3 {
            assert!(!ours.is_empty());
            rustix::net::recv(&ours, &mut [0; 8], RecvFlags::DONTWAIT).unwrap();
        }
        assert!(ours.is_empty());
        drop(theirs);
        assert!(ours.is_empty());
    }

    #[test]
    fn a_peer_without_pages_can_not_send_descriptors() {
        let (ours, theirs) = Socket::pair().unwrap();
        if crate::sys::options::refuse_descriptors(ours.as_fd()).is_err() {
            return println!("SKIPPED: this kernel does not refuse descriptors");
        }
        let page = Packet::Page { id: 0 };
        assert!(theirs.ring());
        assert!(matches!(ours.receive(), Received::Packet(Packet::Ring, None)));
        assert_eq!(ours.send(&page, Some(ours.as_fd())), Sent::Yes);
        assert_eq!(theirs.send(&page, Some(ours.as_fd())), Sent::HungUp);
        assert!(matches!(ours.receive(), Received::HungUp));
    }

    #[test]
    fn a_dropped_connection_closes_its_descriptor_once() {
        // Miri has no sockets of packets.
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(Socket::from_fd(ours.into()));
        assert_eq!(std::io::Read::read(&mut theirs, &mut [0]).unwrap(), 0);
    }
}

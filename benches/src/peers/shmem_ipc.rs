//! `shmem-ipc`: its ring of items, an item being a message. The descriptors travel over a Unix
//! socket.

use super::kernel::{unix_accept, unix_connect};
use crate::content::{Content, Wrong};
use crate::peer::{Peer, Place, Setup, Waiting};
use anyhow::{Context, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg,
};
use shmem_ipc::sharedring::{Receiver, Sender};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

pub struct Ring<const N: usize>;

pub struct End<T> {
    end: T,
    sleeps: bool,
}

impl<const N: usize> Peer for Ring<N> {
    type Sender = End<Sender<[u8; N]>>;
    type Receiver = End<Receiver<[u8; N]>>;

    fn receiver(place: &Place, setup: &Setup) -> Result<Self::Receiver> {
        let end = Receiver::new(setup.ring_messages())?;
        let socket = unix_accept(place, SocketType::SEQPACKET)?;
        let files = [end.memfd().as_file(), end.empty_signal(), end.full_signal()];
        send_descriptors(&socket, files)?;
        Ok(End { end, sleeps: setup.waiting == Waiting::Sleep })
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Self::Sender> {
        let socket = unix_connect(place, SocketType::SEQPACKET)?;
        let [memory, empty, full] = recv_descriptors(&socket)?;
        let end = Sender::open(setup.ring_messages(), memory, empty, full)?;
        Ok(End { end, sleeps: setup.waiting == Waiting::Sleep })
    }
}

fn send_descriptors(socket: &OwnedFd, files: [&File; 3]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let files = files.map(|file| file.as_fd());
    buffer.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut buffer, SendFlags::empty())?;
    Ok(())
}

fn recv_descriptors(socket: &OwnedFd) -> Result<[File; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut buffer = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut buffer, RecvFlags::empty())?;
    let mut files = Vec::new();
    for message in buffer.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    files.try_into().ok().context("three descriptors should have come")
}

impl<const N: usize> crate::peer::Sender for End<Sender<[u8; N]>> {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        if self.sleeps {
            self.end.block_until_writable()?;
        }
        let mut sent = false;
        self.end.send_raw(|items, _| {
            put(items, message);
            sent = true;
            1
        })?;
        Ok(sent)
    }

    fn try_send_batch(&mut self, content: &mut Content, count: usize) -> Result<usize> {
        let mut sent = 0;
        self.end.send_raw(|items, room| {
            sent = room.min(count);
            for i in 0..sent {
                put(items.wrapping_add(i), content.message());
            }
            sent
        })?;
        Ok(sent)
    }

    #[inline]
    fn try_send_in_place(&mut self, content: &mut Content) -> Result<bool> {
        let mut sent = false;
        self.end.send_raw(|items, _| {
            put(items, &content.head());
            sent = true;
            1
        })?;
        Ok(sent)
    }
}

impl<const N: usize> crate::peer::Receiver for End<Receiver<[u8; N]>> {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        if self.sleeps {
            self.end.block_until_readable()?;
        }
        let mut seen = None;
        self.end.receive_raw(|items, _| {
            seen = Some(look(get(&items)));
            1
        })?;
        Ok(seen)
    }

    fn try_recv_batch(
        &mut self,
        mut look: impl FnMut(&[u8]) -> Result<bool, Wrong>,
    ) -> Result<Option<bool>> {
        let mut seen = Ok(None);
        self.end.receive_raw(|items, count| {
            for i in 0..count {
                seen = look(get(&items.wrapping_add(i))).map(Some);
                if seen.is_err() {
                    break;
                }
            }
            count
        })?;
        Ok(seen?)
    }
}

/// Writes a message, or its beginning, into an item that the ring has given us to write.
#[inline]
#[allow(unsafe_code)]
fn put<const N: usize>(item: *mut [u8; N], message: &[u8]) {
    assert!(message.len() <= N);
    // SAFETY: `item` is one of the items that `send_raw` has said may be written, and `message` is
    // elsewhere and not longer.
    unsafe { item.cast::<u8>().copy_from_nonoverlapping(message.as_ptr(), message.len()) }
}

/// The item at a pointer that the ring has given us to read, while the pointer is borrowed.
#[inline]
#[allow(unsafe_code)]
fn get<const N: usize>(item: &*const [u8; N]) -> &[u8] {
    // SAFETY: `receive_raw` has said that the item may be read until its closure returns; every
    // caller's borrow ends before. The sender runs this very program and leaves it alone.
    unsafe { &**item }
}

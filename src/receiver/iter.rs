//! Iteration over received messages.

use super::Receiver;
use crate::core::message_buf::MessageBuf;
use crate::error::{Disconnected, RecvError};
use crate::sender::Sender;
use std::iter::FusedIterator;

/// Iterates over the messages of a receiver, see [`Receiver::iter`].
#[derive(Debug)]
pub struct Messages<'a> {
    receiver: &'a mut Receiver,
    sender: Option<&'a mut Sender>,
    has_ended: bool,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(receiver: &'a mut Receiver, sender: Option<&'a mut Sender>) -> Self {
        Messages { receiver, sender, has_ended: false }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<MessageBuf, RecvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let received = self.receiver.recv_by(self.sender.as_deref_mut()).map(MessageBuf::from);
        self.has_ended = matches!(received, Err(RecvError::Disconnected(_)));
        match received {
            Err(RecvError::Disconnected(Disconnected::Closed)) => None,
            received => Some(received),
        }
    }
}

impl FusedIterator for Messages<'_> {}

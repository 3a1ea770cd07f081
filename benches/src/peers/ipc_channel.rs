//! `ipc-channel`: its channel of bytes, which spares serialisation.

use crate::peer::{Peer, Place, Setup, Waiting};
use anyhow::{Result, bail};
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

pub struct Bytes;

pub struct Receiving {
    receiver: IpcBytesReceiver,
    sleeps: bool,
}

impl Peer for Bytes {
    type Sender = IpcBytesSender;
    type Receiver = Receiving;

    fn receiver(place: &Place, setup: &Setup) -> Result<Receiving> {
        let (server, name) = IpcOneShotServer::<IpcBytesReceiver>::new()?;
        place.announce(&name)?;
        let (_, receiver) = server.accept()?;
        Ok(Receiving { receiver, sleeps: setup.waiting == Waiting::Sleep })
    }

    fn sender(place: &Place, _: &Setup) -> Result<IpcBytesSender> {
        let server = IpcSender::connect(place.announced()?)?;
        let (sender, receiver) = ipc_channel::ipc::bytes_channel()?;
        server.send(receiver)?;
        Ok(sender)
    }
}

impl crate::peer::Sender for IpcBytesSender {
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.send(message)?;
        Ok(true)
    }
}

impl crate::peer::Receiver for Receiving {
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        if self.sleeps {
            return Ok(Some(look(&self.receiver.recv()?)));
        }
        match self.receiver.try_recv() {
            Ok(message) => Ok(Some(look(&message))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(error) => bail!(error),
        }
    }
}

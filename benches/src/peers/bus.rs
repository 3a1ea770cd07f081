//! The peers as a bus: what each client sends reaches all others.

use super::ll_mp_bus;
use super::{iceoryx, ll_mp, llmp as ours};
use crate::peer::{Place, Receiver as _, Setup, Waiting};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a broker.
pub type Stop = Box<dyn FnOnce() -> Result<()>>;

pub trait Bus {
    type Client: Client + 'static;

    /// Serves a bus on another thread and announces it. Returns `None` if the peer has no broker.
    fn broker(_: &Place, _: &Setup) -> Result<Option<Stop>> {
        Ok(None)
    }

    /// Connects one of this number of clients.
    fn client(place: &Place, setup: &Setup, index: usize, clients: usize) -> Result<Self::Client>;
}

pub trait Client {
    /// Sends a message if there is room. With `Waiting::Sleep`, a peer may wait for room in here.
    fn try_send(&mut self, message: &[u8]) -> Result<bool>;
    /// Receives a message if there is one and shows it. Own messages may come back.
    fn try_recv<R>(&mut self, look: impl FnMut(&[u8]) -> R) -> Result<Option<R>>;
    /// Sleeps, by the peer's own means, until there may be a message.
    fn sleep(&mut self) -> Result<()>;
}

/// This library, with its broker.
pub struct Llmp;

pub struct LlmpClient {
    client: llmp::Client,
    sleeps: bool,
}

impl Bus for Llmp {
    type Client = LlmpClient;

    fn broker(place: &Place, _: &Setup) -> Result<Option<Stop>> {
        let broker = llmp::Broker::bind(place.path("bus").as_path())?;
        let stop = broker.stop_handle();
        let serving = std::thread::spawn(move || broker.run());
        place.announce("")?;
        Ok(Some(Box::new(move || {
            stop.stop();
            let Ok(served) = serving.join() else { bail!("the broker has failed") };
            served?;
            Ok(())
        })))
    }

    fn client(place: &Place, setup: &Setup, _: usize, _: usize) -> Result<LlmpClient> {
        place.announced()?;
        let mut builder = llmp::Client::builder();
        if setup.borrow {
            builder = builder.borrow_payloads(ours::promise());
        }
        if setup.own {
            builder = builder.own_messages();
        }
        let client = builder.connect(place.path("bus").as_path())?;
        Ok(LlmpClient { client, sleeps: setup.waiting == Waiting::Sleep })
    }
}

impl Client for LlmpClient {
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        if self.sleeps {
            self.client.send(1, message)?;
            return Ok(true);
        }
        match self.client.try_send(1, message) {
            Ok(()) => Ok(true),
            Err(llmp::SendError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        Ok(self.client.try_recv()?.map(|message| look(message.payload)))
    }

    fn sleep(&mut self) -> Result<()> {
        self.client.wait_for_message(None)?;
        Ok(())
    }
}

/// LibAFL's, with its broker, which clients find over TCP.
pub struct LlMp;

pub struct LlMpClient(ll_mp_bus::Client);

impl Bus for LlMp {
    type Client = LlMpClient;

    fn broker(place: &Place, _: &Setup) -> Result<Option<Stop>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, place) = (stop.clone(), place.clone());
        let serving = std::thread::spawn(move || ll_mp_bus::serve(&place, &stopped));
        Ok(Some(Box::new(move || {
            stop.store(true, Ordering::Relaxed);
            serving.join().unwrap_or_else(|_| bail!("the broker has failed"))
        })))
    }

    fn client(place: &Place, _: &Setup, _: usize, _: usize) -> Result<LlMpClient> {
        Ok(LlMpClient(ll_mp_bus::connect(place)?))
    }
}

impl Client for LlMpClient {
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.0.send_buf(ll_mp::TAG, message)?;
        Ok(true)
    }

    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        // Others are the broker's own.
        while let Some((_, tag, message)) = self.0.recv_buf()? {
            if tag == ll_mp::TAG {
                return Ok(Some(look(message)));
            }
        }
        Ok(None)
    }

    fn sleep(&mut self) -> Result<()> {
        bail!("ll_mp only polls")
    }
}

/// All processes publish to one topic and subscribe to it.
pub struct Iceoryx;

impl Bus for Iceoryx {
    type Client = iceoryx::Member;

    fn client(place: &Place, setup: &Setup, index: usize, clients: usize) -> Result<Self::Client> {
        iceoryx::Member::join(place, setup, index, clients)
    }
}

/// Each client has a ring, into which all others write.
pub struct Ipmpsc;

pub struct IpmpscClient {
    ring: super::ipmpsc::End<ipmpsc::Receiver>,
    others: Vec<super::ipmpsc::End<ipmpsc::Sender>>,
}

impl Bus for Ipmpsc {
    type Client = IpmpscClient;

    fn client(place: &Place, setup: &Setup, index: usize, clients: usize) -> Result<Self::Client> {
        use super::ipmpsc::Ring;
        use crate::peer::Peer;
        let of = |i: usize| place.named(&format!("client-{i}"));
        // Never sleeps on another's ring while its own fills: all rings have room for all.
        let awake = Setup { waiting: Waiting::Poll, ..setup.clone() };
        let ring = Ring::create(&of(index), &awake)?;
        let others = (0..clients).filter(|i| *i != index).map(|i| Ring::sender(&of(i), &awake));
        Ok(IpmpscClient { ring, others: others.collect::<Result<_>>()? })
    }
}

impl Client for IpmpscClient {
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        for other in &mut self.others {
            crate::peer::send(other, Waiting::Yield, message)?;
        }
        Ok(true)
    }

    fn try_recv<R>(&mut self, look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        self.ring.try_recv(look)
    }

    fn sleep(&mut self) -> Result<()> {
        bail!("ipmpsc has no way to wait without taking a message")
    }
}

/// Calls a generic function with the type of a bus.
#[macro_export]
macro_rules! with_bus {
    ($name:expr, $function:ident($($argument:expr),*)) => {{
        use $crate::peers::bus::*;
        match $name {
            "llmp" | "llmp-borrow" => $function::<Llmp>($($argument),*),
            "ll_mp" => $function::<LlMp>($($argument),*),
            "iceoryx2" => $function::<Iceoryx>($($argument),*),
            "ipmpsc" => $function::<Ipmpsc>($($argument),*),
            name => anyhow::bail!("{name} is no bus"),
        }
    }};
}

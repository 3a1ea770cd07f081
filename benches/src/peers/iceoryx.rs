//! `iceoryx2`: publish and subscribe over slices of bytes, nothing lost; to sleep, its events.

use crate::content::Content;
use crate::peer::{Peer, Place, Room, Setup, Waiting};
use anyhow::Result;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, publish_subscribe};

/// Fewer make a publisher sleep; more make its pool of samples large.
const LEAST_BUFFERED: usize = 64;
const MOST_BUFFERED: usize = 1024;

pub type Payloads = publish_subscribe::PortFactory<ipc::Service, [u8], ()>;
pub type Events = event::PortFactory<ipc::Service>;

/// Opens or makes a topic between this number of processes, and its event.
pub fn open(
    place: &Place,
    setup: &Setup,
    members: usize,
) -> Result<(Node<ipc::Service>, Payloads, Events)> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let name = ServiceName::new(&place.unique_name())?;
    let mut payloads = node
        .service_builder(&name)
        .publish_subscribe::<[u8]>()
        // By default the oldest are dropped. No message may be lost here.
        .enable_safe_overflow(false);
    if setup.room != Room::Default {
        payloads = payloads
            .history_size(0)
            .subscriber_max_buffer_size(setup.ring_messages().clamp(LEAST_BUFFERED, MOST_BUFFERED))
            .max_publishers(members)
            .max_subscribers(members)
            .max_nodes(members);
    }
    let payloads = payloads.open_or_create()?;
    let events = node
        .service_builder(&name)
        .event()
        .max_nodes(members)
        .max_notifiers(members)
        .max_listeners(members)
        .open_or_create()?;
    Ok((node, payloads, events))
}

pub fn publisher(payloads: &Payloads, setup: &Setup) -> Result<Publisher<ipc::Service, [u8], ()>> {
    let builder = payloads.publisher_builder().initial_max_slice_len(setup.len);
    Ok(builder.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create()?)
}

pub struct Topic;

fn sender_place(place: &Place) -> Place {
    place.named(&format!("{}-sender", place.name))
}

pub struct Sending {
    publisher: Publisher<ipc::Service, [u8], ()>,
    notifier: Option<Notifier<ipc::Service>>,
    _node: Node<ipc::Service>,
}

pub struct Receiving {
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    listener: Option<Listener<ipc::Service>>,
    _node: Node<ipc::Service>,
}

impl Peer for Topic {
    type Sender = Sending;
    type Receiver = Receiving;

    fn receiver(place: &Place, setup: &Setup) -> Result<Receiving> {
        let (node, payloads, events) = open(place, setup, 2)?;
        let subscriber = payloads.subscriber_builder().create()?;
        let listener = match setup.waiting {
            Waiting::Sleep => Some(events.listener_builder().create()?),
            _ => None,
        };
        place.announce("")?;
        // Looking for samples is what connects; until then a full publisher drops them.
        sender_place(place).announced()?;
        subscriber.has_samples()?;
        Ok(Receiving { subscriber, listener, _node: node })
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Sending> {
        place.announced()?;
        let (node, payloads, events) = open(place, setup, 2)?;
        let publisher = publisher(&payloads, setup)?;
        let notifier = match setup.waiting {
            Waiting::Sleep => Some(events.notifier_builder().create()?),
            _ => None,
        };
        sender_place(place).announce("")?;
        Ok(Sending { publisher, notifier, _node: node })
    }
}

impl crate::peer::Sender for Sending {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        let sample = self.publisher.loan_slice_uninit(message.len())?;
        sample.write_from_slice(message).send()?;
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(true)
    }

    #[inline]
    #[allow(unsafe_code)]
    fn try_send_in_place(&mut self, content: &mut Content) -> Result<bool> {
        let head = content.head();
        let mut sample = self.publisher.loan_slice_uninit(content.message_len())?;
        for (byte, value) in sample.payload_mut().iter_mut().zip(head) {
            byte.write(value);
        }
        // SAFETY: the sample lies in shared memory, whose bytes are zero or an older sample's.
        unsafe { sample.assume_init() }.send()?;
        Ok(true)
    }
}

impl crate::peer::Receiver for Receiving {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(Some(look(sample.payload())));
            }
            let Some(listener) = &self.listener else { return Ok(None) };
            listener.blocking_wait(|_| {})?;
        }
    }
}

/// A client of a bus: publishes to all processes and subscribes to all, itself included.
pub struct Member {
    publisher: Publisher<ipc::Service, [u8], ()>,
    subscriber: Subscriber<ipc::Service, [u8], ()>,
    wakes: Option<(Notifier<ipc::Service>, Listener<ipc::Service>)>,
    _node: Node<ipc::Service>,
}

impl Member {
    pub fn join(place: &Place, setup: &Setup, index: usize, clients: usize) -> Result<Self> {
        let (node, payloads, events) = open(place, setup, clients)?;
        let subscriber = payloads.subscriber_builder().create()?;
        let publisher = publisher(&payloads, setup)?;
        let wakes = match setup.waiting {
            Waiting::Sleep => {
                Some((events.notifier_builder().create()?, events.listener_builder().create()?))
            }
            _ => None,
        };
        if !setup.own {
            place.named(&format!("member-{index}")).announce("")?;
            for i in 0..clients {
                place.named(&format!("member-{i}")).announced()?;
            }
        }
        // Looking for samples is what connects.
        subscriber.has_samples()?;
        Ok(Member { publisher, subscriber, wakes, _node: node })
    }
}

impl super::bus::Client for Member {
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        let sample = self.publisher.loan_slice_uninit(message.len())?;
        sample.write_from_slice(message).send()?;
        if let Some((notifier, _)) = &self.wakes {
            notifier.notify()?;
        }
        Ok(true)
    }

    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        Ok(self.subscriber.receive()?.map(|sample| look(sample.payload())))
    }

    fn sleep(&mut self) -> Result<()> {
        if let Some((_, listener)) = &self.wakes
            && !self.subscriber.has_samples()?
        {
            listener.blocking_wait(|_| {})?;
        }
        Ok(())
    }
}

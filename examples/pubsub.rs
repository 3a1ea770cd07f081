//! Publish and subscribe: a publisher sends under several topics, and each subscriber takes its own.
//!
//! ```text
//! cargo run --example pubsub
//! ```
//!
//! The tag of a message is its topic. Every subscriber receives every message and skips the topics
//! that it does not want, which takes a few nanoseconds a message.

use llmp::{Broker, Client, Disconnected, RecvError, Tag};
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const WEATHER: Tag = Tag(1);
const PRICES: Tag = Tag(2);

/// Publishes to two subscribers and prints what they received.
pub fn main() -> Result<()> {
    for (topic, received) in publish()? {
        println!("topic {}: {received:?}", topic.0);
    }
    Ok(())
}

/// Returns what each subscriber received.
///
/// # Errors
///
/// What the bus answered.
pub fn publish() -> Result<Vec<(Tag, Vec<String>)>> {
    let place = tempfile::tempdir()?;
    let bus = place.path().join("bus");
    let broker = Broker::bind(&bus)?;
    let stop = broker.stop_handle();
    let broker = std::thread::spawn(move || broker.run());

    let mut subscribers = Vec::new();
    for topic in [WEATHER, PRICES] {
        let mut receiver = Client::connect_receiver(&bus)?;
        let subscriber = std::thread::spawn(move || -> Result<Vec<String>> {
            let mut received = Vec::new();
            loop {
                match receiver.recv() {
                    Ok(message) if message.tag == topic => {
                        received.push(String::from_utf8(message.payload.to_vec())?);
                    }
                    Ok(_) => {}
                    Err(RecvError::Disconnected(Disconnected::Closed)) => return Ok(received),
                    Err(error) => return Err(error.into()),
                }
            }
        });
        subscribers.push((topic, subscriber));
    }

    let mut publisher = Client::connect_sender(&bus)?;
    // A client receives what is sent after it has joined: wait for both.
    publisher.wait_for_receivers(2, None)?;
    for (topic, text) in [(WEATHER, "rain"), (PRICES, "42"), (WEATHER, "sun"), (PRICES, "43")] {
        publisher.send(topic, text.as_bytes())?;
    }
    publisher.flush()?;

    // The broker delivers what it has, then closes the bus.
    stop.stop();
    broker.join().map_err(|_| "the broker panicked")??;
    let join = |(topic, subscriber): (Tag, std::thread::JoinHandle<_>)| {
        Ok((topic, subscriber.join().map_err(|_| "a subscriber panicked")??))
    };
    subscribers.into_iter().map(join).collect()
}

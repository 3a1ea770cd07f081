//! The state of a bus whose brokers die and are followed by others.
//!
//! A chain is a list of messages here: positions are numbers of messages, and memory is never
//! short. The bus of one broker has its own specification, with pages, words and sleeps.

use crate::protocol::Violation;
use crate::state::{Id, Set};
use smallvec::SmallVec;

/// The number of a broker in the order in which they served, from 1 on. It names its chain, too.
pub type Epoch = u8;

/// A message: its sender, and its number among that client's.
pub type Message = (Id, u8);

/// The connection of a client, as both sides know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Link {
    None,
    /// The broker has admitted the client. `Start` is on its way: the number of messages that the
    /// broker had published, and whether its roster had the client.
    Started {
        epoch: Epoch,
        at: u8,
        since: Epoch,
    },
    /// The client has answered with its first page, which is on its way.
    Answered(Epoch),
    Member(Epoch),
    /// A broker that lives has ended the connection.
    Cut(Epoch),
    /// The client knows that it was disconnected. It reports an error.
    Over,
}

impl Link {
    /// Returns the broker at the other end, or that was.
    pub fn epoch(self) -> Epoch {
        match self {
            Link::None | Link::Over => 0,
            Link::Started { epoch, .. }
            | Link::Answered(epoch)
            | Link::Member(epoch)
            | Link::Cut(epoch) => epoch,
        }
    }
}

/// What a client receives of one broker's chain: all messages from this number on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    pub from: u8,
    /// Whether it is told that messages may be missing before it.
    pub has_gap: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    pub lives: bool,
    /// Whether it receives. It sends in any case.
    pub receives: bool,
    pub link: Link,
    /// Number of messages that it has committed.
    pub sent: u8,
    /// Number of the first message in its own chain.
    pub first: u8,
    /// The broker to which it has sent its chain, or 0. What that broker took is decided by that
    /// broker's memory.
    pub judge: Epoch,
    /// Its entry in that broker's control region, and in the next one's.
    pub place: u8,
    pub next_place: u8,
    /// What it receives of each broker's chain.
    pub segments: SmallVec<[Option<Segment>; 3]>,
    /// Messages that a hook has dropped, at least once.
    pub dropped: Set,
    /// Whether a broker has stopped waiting for it, after its grace period.
    pub was_late: bool,
    /// Whether a broker that lived has ended its connection.
    pub was_cut: bool,
}

/// A client's entry in a broker's control region, and what the broker knows of it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    // In shared memory, which outlives the broker.
    pub owner: Option<Id>,
    /// The number of the client's messages that were taken, `None` before the first store.
    pub cursor: Option<u8>,
    /// The intent: once the broker has published this many messages, the first one of the batch
    /// among them, ...
    pub published: u8,
    /// ... it has taken this many of the client's.
    pub taken: u8,
    // Private.
    pub is_used: bool,
    /// The message that it takes next; `None` until it has the client's first page.
    pub next: Option<u8>,
    /// Whether the pending batch has taken messages of the client.
    pub is_due: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// It takes messages of the client at this place next.
    Taking(u8),
    /// It writes this place's intent. The second half is the number that was taken.
    Intending(u8, bool),
    Publishing,
    /// It stores this place's cursor.
    Storing(u8),
    /// It admits this client: the roster and the place are written, and `Start` comes next.
    Admitting(Id),
    /// Its roster no longer waits for these clients.
    Expiring(Set),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Broker {
    pub lives: bool,
    pub log: SmallVec<[Message; 4]>,
    pub batch: SmallVec<[Message; 4]>,
    pub places: SmallVec<[Place; 2]>,
    /// Clients of the roster that have not come yet. It publishes nothing until no receiver is left.
    pub waits_for: Set,
    pub step: Step,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bus {
    pub clients: SmallVec<[Client; 3]>,
    /// The broker of epoch e is number e - 1. At most the last one lives.
    pub brokers: SmallVec<[Broker; 3]>,
    /// For each client, the epoch since which brokers wait for it, or 0. It stands in the lock file,
    /// which outlives each broker.
    pub roster: SmallVec<[Epoch; 3]>,
    pub broker_deaths_left: u8,
    pub client_deaths_left: u8,
    pub drops_left: u8,
    pub cuts_left: u8,
    pub graces_left: u8,
    pub violation: Option<Violation>,
}

impl Bus {
    pub fn client(&self, id: Id) -> &Client {
        &self.clients[usize::from(id)]
    }

    pub fn client_mut(&mut self, id: Id) -> &mut Client {
        &mut self.clients[usize::from(id)]
    }

    pub fn broker(&self, epoch: Epoch) -> &Broker {
        &self.brokers[usize::from(epoch) - 1]
    }

    pub fn is_known(&self, id: Id) -> bool {
        self.roster[usize::from(id)] > 0
    }

    pub fn strike(&mut self, id: Id) {
        self.roster[usize::from(id)] = 0;
    }

    /// Returns the epoch of the last broker.
    pub fn epoch(&self) -> Epoch {
        self.brokers.len() as Epoch
    }

    pub fn last(&self) -> &Broker {
        self.broker(self.epoch())
    }

    pub fn last_mut(&mut self) -> &mut Broker {
        self.brokers.last_mut().expect("there is a broker")
    }

    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..self.clients.len() as Id
    }

    /// Returns how many messages of a client are in its chain and not taken by the last broker.
    pub fn waiting(&self, place: u8) -> u8 {
        let place = &self.last().places[usize::from(place)];
        match (place.owner, place.next) {
            (Some(id), Some(next)) => self.client(id).sent - next,
            _ => 0,
        }
    }
}

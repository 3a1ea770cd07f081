//! What a broker does about a receiver that is too slow.

use crate::core::wire::Roles;

/// What a broker does about a receiver that is too slow: the broadcast chain is full, and the
/// receiver has not left the oldest page.
///
/// [`BrokerBuilder::when_slow`](crate::BrokerBuilder::when_slow) sets it for a bus, and
/// [`ClientBuilder::when_slow`](crate::ClientBuilder::when_slow) for one receiver.
#[cfg_attr(not(feature = "std"), allow(rustdoc::broken_intra_doc_links))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowReceiver {
    /// The bus waits for it. Senders wait for room, or get an error. No message is lost.
    #[default]
    Block,
    /// The bus goes on without it. The receiver loses all messages that it has not received, learns
    /// [how many](crate::RecvError::Gap), and receives again from then on.
    Skip,
    /// The bus disconnects it. The receiver gets the error
    /// [`Evicted`](crate::Disconnected::Evicted).
    Evict,
}

impl SlowReceiver {
    /// Returns the roles by which a client asks for this. A client can't ask to be waited for.
    pub(crate) fn roles(self) -> Roles {
        match self {
            SlowReceiver::Block => Roles(0),
            SlowReceiver::Skip => Roles::SKIP,
            SlowReceiver::Evict => Roles::EVICT,
        }
    }

    /// Returns what happens to a client with these roles on a bus that does this by default.
    #[must_use]
    pub fn for_roles(self, roles: Roles) -> Self {
        match () {
            () if roles.has(Roles::EVICT) => SlowReceiver::Evict,
            () if roles.has(Roles::SKIP) => SlowReceiver::Skip,
            () => self,
        }
    }
}

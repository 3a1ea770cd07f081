//! The runtime of scenarios under shuttle.

use crate::scenario::doubles::ShuttleMemory;
use crate::scenario::{Runtime, mailbox};

mailbox!(ShuttleMailbox, shuttle);

/// shuttle's threads and memory.
#[derive(Clone)]
pub struct Shuttle;

impl Runtime for Shuttle {
    type Memory = ShuttleMemory;
    type Mailbox<T: Send + 'static> = ShuttleMailbox<T>;

    fn memory(&self, len: usize) -> ShuttleMemory {
        ShuttleMemory::zeroed(len, Default::default())
    }

    fn mailbox<T: Send + 'static>(&self) -> ShuttleMailbox<T> {
        ShuttleMailbox::default()
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        let thread = shuttle::thread::spawn(thread);
        Box::new(move || thread.join().unwrap())
    }
}

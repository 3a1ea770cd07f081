//! Closes the descriptors that peers have sent.
//!
//! The last close of a descriptor may block for as long as its maker chooses. Examples are a TCP
//! socket with `SO_LINGER` and unsent data, and a file of a user's own file system. Such a close
//! must not hold up a broker (P12). The same is true of a socket that still holds such a
//! descriptor. So one thread of the process, the *closer*, closes all of them:
//!
//! ```text
//!   close_elsewhere        made with the first descriptor, or later if it can't be
//!   ---------------> queue ------------------------------------------------------> closed
//! ```
//!
//! While the closer can't be made, or a close blocks, the descriptors stay open. With [`QUEUE`] of
//! them the queue has no [room](has_room). Then a broker accepts no new connections, and receives
//! only what it needs from the joined ones. So no peer can make the process grow.

use super::fork::PerProcess;
use crate::core::failpoint::effect;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The length of the queue, including the descriptor that is being closed. Descriptors that are
/// received with a full queue are queued all the same.
pub(crate) const QUEUE: usize = 256;

/// The size of the closer's stack in bytes. The need of the C library is added to it.
const STACK: usize = 64 * 1024;

/// A descriptor to close.
pub(super) enum Closing {
    /// A descriptor that a peer has sent.
    ReceivedFd(OwnedFd),
    /// A connection with a peer that was shut down and still holds packets.
    Connection(OwnedFd),
}

/// This process's closer.
static CLOSER: PerProcess<Closer<Closing>> = PerProcess::new();

/// Closes a descriptor that a peer has sent. Never blocks.
pub(crate) fn close_elsewhere(fd: OwnedFd) {
    push(Closing::ReceivedFd(fd));
}

pub(super) fn push(closing: Closing) {
    effect("leave a descriptor to the closer");
    of_this_process().push(closing);
}

/// Returns whether the queue has room for descriptors of new connections.
pub(crate) fn has_room() -> bool {
    held() == 0 || of_this_process().has_room()
}

/// Returns how many descriptors wait to be closed.
pub(crate) fn held() -> usize {
    CLOSER.known().map_or(0, |closer| closer.held.load(Ordering::Relaxed))
}

fn close(closing: Closing) {
    effect("close elsewhere");
    match closing {
        Closing::ReceivedFd(fd) => close_here(fd),
        Closing::Connection(fd) => super::socket::close_with_content(fd),
    }
}

/// Closes a descriptor that a peer has sent. May block, so only the closer may call it.
pub(super) fn close_here(fd: OwnedFd) {
    // Without a linger time, a TCP socket sends its data after the close. The broker's thread must
    // not make this call, because another process may hold the socket's lock.
    let _ = rustix::net::sockopt::set_socket_linger(&fd, None);
    drop(fd);
}

/// Returns the closer of this process. A forked process makes its own closer. The descriptors of
/// its parent's queue stay open in it.
fn of_this_process() -> &'static Closer<Closing> {
    CLOSER.get(|| Closer::new(close))
}

/// A queue and the one thread that empties it.
struct Closer<T> {
    close: fn(T),
    /// The descriptors that wait or are being closed. Relaxed: it is a number, and orders nothing.
    held: AtomicUsize,
    queue: Mutex<Queue<T>>,
    news: Condvar,
}

struct Queue<T> {
    waiting: VecDeque<T>,
    has_thread: bool,
}

impl<T: Send + 'static> Closer<T> {
    fn new(close: fn(T)) -> Self {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), has_thread: false });
        Closer { close, held: AtomicUsize::new(0), queue, news: Condvar::new() }
    }

    fn push(&'static self, closing: T) {
        let mut queue = self.lock();
        self.held.fetch_add(1, Ordering::Relaxed);
        queue.waiting.push_back(closing);
        self.start(&mut queue);
        self.news.notify_one();
    }

    fn has_room(&'static self) -> bool {
        // The thread could not be made before, but may be possible now.
        self.start(&mut self.lock());
        self.held.load(Ordering::Relaxed) < QUEUE
    }

    fn start(&'static self, queue: &mut Queue<T>) {
        if !queue.has_thread && !queue.waiting.is_empty() {
            let builder = std::thread::Builder::new().name("llmp-close".into()).stack_size(STACK);
            queue.has_thread = builder.spawn(|| self.run()).is_ok();
        }
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            match queue.waiting.pop_front() {
                Some(closing) => {
                    drop(queue);
                    (self.close)(closing);
                    self.held.fetch_sub(1, Ordering::Relaxed);
                    queue = self.lock();
                }
                None => queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::{bound, kernel};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

    /// Blocks until its sender is dropped.
    type Blocks = Receiver<()>;

    fn closer() -> &'static Closer<Blocks> {
        Box::leak(Box::new(Closer::new(|blocks: Blocks| _ = blocks.recv())))
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "timed out before {what}");
            std::thread::yield_now();
        }
    }

    // P12
    #[test]
    fn a_blocked_close_fills_the_queue_and_blocks_no_caller() {
        let closer = closer();
        assert!(bound("descriptors against the protocol").contains("; 256 that wait to be closed"));
        let (mut open, began) = (Vec::new(), Instant::now());
        for _ in 0..256 {
            assert!(closer.has_room());
            let (sender, blocks) = channel();
            open.push(sender);
            closer.push(blocks);
        }
        assert!(!closer.has_room());
        // A descriptor beyond the bound is still queued.
        closer.push(channel().1);
        assert!(began.elapsed() < HANDSHAKE_TIMEOUT);
        assert_eq!(closer.held.load(Ordering::Relaxed), QUEUE + 1);
        open.drain(..2);
        wait_until("there is room", || closer.has_room());
        drop(open);
        wait_until("all is closed", || closer.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn without_a_thread_queued_descriptors_stay_open() {
        let closer = closer();
        let (open, blocks) = channel();
        kernel::refusing(libc::SYS_clone3, libc::EAGAIN, || {
            closer.push(blocks);
            assert!(closer.has_room());
            assert_eq!(closer.held.load(Ordering::Relaxed), 1);
        });
        assert!(open.send(()).is_ok(), "it was closed");
        assert!(closer.has_room());
        wait_until("it is closed", || closer.held.load(Ordering::Relaxed) == 0);
    }
}

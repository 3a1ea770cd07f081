//! The kernel's barrier under loom: one thread makes all others fence, wherever they are.
//!
//! A thread that is asked for a fence makes it in front of its next atomic access, which is to say
//! at any place in its program, as loom explores where it is asked. A thread that blocks or ends
//! makes one as it goes, and one as it comes back, as a switch of contexts does.

use loom::sync::atomic::fence;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threads of one execution that can be interrupted.
#[derive(Debug, Default)]
pub struct Interrupts(Mutex<Vec<Thread>>);

#[derive(Debug)]
struct Thread {
    name: String,
    /// Somebody waits for its fence.
    is_due: bool,
}

fn me() -> String {
    format!("{:?}", loom::thread::current().id())
}

impl Interrupts {
    fn running(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread begins, or goes on after it was blocked.
    pub fn comes(&self) {
        fence(Ordering::SeqCst);
        self.running().push(Thread { name: me(), is_due: false });
    }

    /// The calling thread ends, or is going to block.
    pub fn goes(&self) {
        fence(Ordering::SeqCst);
        let me = me();
        self.running().retain(|thread| thread.name != me);
    }

    /// The calling thread makes the fence that it was asked for.
    pub(super) fn serve(&self) {
        let me = me();
        let mut running = self.running();
        let thread = running.iter_mut().find(|thread| thread.name == me && thread.is_due);
        if let Some(thread) = thread {
            thread.is_due = false;
            // Not while the lock is held: loom may switch.
            drop(running);
            fence(Ordering::SeqCst);
        }
    }

    /// Makes all others fence, and returns when they have.
    pub(super) fn everybody(&self) {
        let me = me();
        let mut asked: Vec<String> = Vec::new();
        for thread in self.running().iter_mut().filter(|thread| thread.name != me) {
            thread.is_due = true;
            asked.push(thread.name.clone());
        }
        while self.running().iter().any(|t| t.is_due && asked.contains(&t.name)) {
            self.serve();
            loom::thread::yield_now();
        }
        fence(Ordering::SeqCst);
    }
}

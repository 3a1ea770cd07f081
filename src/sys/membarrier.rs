//! The kernel's barrier: one process makes a fence in all running threads of all processes that
//! have registered for it.
//!
//! Whoever is about to sleep makes one, so that those who publish need no fence of their own
//! (membarrier(2), `MEMBARRIER_CMD_GLOBAL_EXPEDITED`, Linux 4.16).

use rustix::thread::{MembarrierCommand, membarrier};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Whether this process can make barriers. Old kernels, and sandboxes, say no. If it can, it is
/// going to be registered, too.
pub fn is_available() -> bool {
    static IS_AVAILABLE: OnceLock<bool> = OnceLock::new();
    *IS_AVAILABLE.get_or_init(|| {
        let is_available = everywhere();
        if is_available {
            register_soon();
        }
        is_available
    })
}

/// Whether the barriers of others reach all threads of this process.
#[inline]
pub fn is_registered() -> bool {
    // Acquire: what follows without a fence comes after the registration.
    IS_REGISTERED.load(Ordering::Acquire)
}

/// Makes the barrier. Returns whether it was made.
pub fn everywhere() -> bool {
    membarrier(MembarrierCommand::GlobalExpedited).is_ok()
}

/// In a process of one thread, registering takes a microsecond; in one of several, ten or twenty
/// milliseconds, for which nobody shall wait.
fn register_soon() {
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads == 1 {
        register();
    } else {
        // Without a thread, or without a registration, publishers go on making fences.
        let _ = std::thread::Builder::new().name("llmp-register".into()).spawn(register);
    }
}

fn register() {
    if membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok() {
        IS_REGISTERED.store(true, Ordering::Release);
    }
}

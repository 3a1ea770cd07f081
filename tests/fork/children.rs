//! Children of a process: how they are made, what they do, and how they end.

use crate::common::TIMEOUT;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::fmt::Display;

/// A child of this process, which is forked or cloned.
pub struct Forked(Pid);

/// In a child: the process that was asked for is this one.
pub struct IsChild;

/// Makes a child, by `fork` or by a bare `clone`.
pub fn split(way: &str) -> Result<Forked, IsChild> {
    let child = match way {
        // SAFETY: the C library has its locks free in the child; another thread holds no others.
        "fork" => unsafe { libc::fork() },
        _ => {
            // The stack comes first on s390x, and the flags on the other machines.
            let (first, second) =
                if cfg!(target_arch = "s390x") { (0, libc::SIGCHLD) } else { (libc::SIGCHLD, 0) };
            // SAFETY: only in a process whose other threads sleep, so that no lock is taken. No flag
            // but the signal: the kernel copies this process.
            unsafe { libc::syscall(libc::SYS_clone, first, second, 0, 0, 0) as i32 }
        }
    };
    if child == 0 {
        // SAFETY: a plain system call. It kills a child that hangs.
        unsafe { libc::alarm(TIMEOUT.as_secs() as u32) };
        return Err(IsChild);
    }
    Ok(Forked(Pid::from_raw(child).expect("a child")))
}

impl IsChild {
    /// The rest of the child's life.
    pub fn ends(self, body: impl FnOnce()) -> ! {
        let is_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // SAFETY: it ends the child, without what the test harness does at the end.
        unsafe { libc::_exit(i32::from(!is_well)) }
    }
}

impl Forked {
    pub fn id(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    #[track_caller]
    pub fn has_ended_well(self) {
        let (_, status) = waitpid(Some(self.0), WaitOptions::empty()).unwrap().expect("a child");
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
    }
}

/// Begins to run `body` in a child of this process.
pub fn start(way: &str, body: impl FnOnce()) -> Forked {
    split(way).unwrap_or_else(|child| child.ends(body))
}

/// Runs `body` in a child of this process, and waits until it has ended well.
#[track_caller]
pub fn in_child(way: &str, body: impl FnOnce()) {
    start(way, body).has_ended_well();
}

const FORKED: &str = "this handle belongs to the process that forked; connect in the child";

#[track_caller]
pub fn is_forked<T, E: Display>(result: Result<T, E>) {
    match result {
        Ok(_) => panic!("it was done"),
        Err(error) => assert_eq!(error.to_string(), FORKED),
    }
}

//! `llmp broker --respawn`: runs the broker in a child process, and starts it again when it dies.

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::stderr;
use llmp::BusAddr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A broker that fails sooner than this, by itself, is not started again.
const SHORT: Duration = Duration::from_secs(1);

/// The pause before a broker is started again that was killed so soon.
const PAUSE: Duration = Duration::from_millis(100);

/// The process of the broker, or 0. It is locked while the process is started, or was waited for.
type Child = Arc<Mutex<i32>>;

/// Runs the broker with the arguments of this process until it ends in order or fails at once.
pub fn run(bus: &BusAddr) -> Result<(), Failure> {
    let child = Child::default();
    let told = child.clone();
    let interrupt = Interrupt::catch(move || tell(&told))?;
    let mut is_first = true;
    loop {
        let began = Instant::now();
        let status = broker(&child, is_first, &interrupt)
            .map_err(|error| Failure::other(format!("the broker can't be started: {error}")))?;
        let was_short = began.elapsed() < SHORT;
        match (status.code(), status.signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) if was_short || interrupt.is_there() => {
                return Err(Failure::silent(u8::try_from(code).unwrap_or(1)));
            }
            (_, Some(signal)) if interrupt.is_there() => return Err(Failure::signal(signal)),
            _ => {}
        }
        stderr::line(format_args!(
            "the broker of bus '{bus}' has died ({status}); a new one starts"
        ));
        if was_short {
            std::thread::sleep(PAUSE);
        }
        is_first = false;
    }
}

/// Runs one broker to its end.
fn broker(child: &Child, is_first: bool, interrupt: &Interrupt) -> std::io::Result<ExitStatus> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--respawn");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    let is_standby = std::env::args_os().any(|argument| argument == "--standby");
    if !is_first && !is_standby {
        // Another process may have taken the bus meanwhile.
        command.arg("--standby");
    }
    let mut process = {
        let mut id = lock(child);
        let process = command.spawn()?;
        *id = process.id() as i32;
        process
    };
    if interrupt.is_there() {
        tell(child);
    }
    // Its id stays its own until it is waited for.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    if let Some(id) = Pid::from_raw(process.id() as i32) {
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::Pid(id), ended));
    }
    let mut id = lock(child);
    *id = 0;
    process.wait()
}

/// Asks the broker to end.
fn tell(child: &Child) {
    if let Some(id) = Pid::from_raw(*lock(child)) {
        let _ = kill_process(id, Signal::TERM);
    }
}

fn lock(child: &Child) -> MutexGuard<'_, i32> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

//! `llmp broker --respawn`: runs the broker in a child process, and starts it again when it dies.

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::stderr;
use llmp::BusAddr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::consts::{SIGCHLD, SIGINT};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The hidden option of a broker that follows another one.
pub const AGAIN: &str = "--respawned";

/// A broker that fails sooner than this, by itself, is not started again.
const SHORT: Duration = Duration::from_secs(1);

/// Pauses before a broker is started again that was killed so soon: the first one, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// The process of the broker, or 0. It is locked while the process is started, or was waited for.
type Child = Arc<Mutex<i32>>;

/// Runs the broker with the arguments of this process until it ends in order or fails at once.
pub fn run(bus: &BusAddr) -> Result<(), Failure> {
    let child = Child::default();
    let told = child.clone();
    let interrupt = Interrupt::catch(move |signal| tell(&told, signal))?;
    // If it was inherited as ignored, the kernel would not keep the status of a child.
    signal_hook::flag::register(SIGCHLD, Arc::default())
        .map_err(|error| Failure::other(format!("cannot catch signals: {error}")))?;
    let (mut is_first, mut pause) = (true, PAUSES[0]);
    loop {
        let began = Instant::now();
        let ended = broker(&child, is_first, &interrupt);
        let was_short = began.elapsed() < SHORT;
        let why = match ended {
            Err(error) if is_first || interrupt.is_there() => {
                return Err(Failure::other(format!("the broker can't be started: {error}")));
            }
            Err(error) => format!("can't be started: {error}"),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(0), _) => return Ok(()),
                (Some(code), _) if was_short || interrupt.is_there() => {
                    return Err(Failure::silent(u8::try_from(code).unwrap_or(1)));
                }
                (_, Some(signal)) if interrupt.is_there() => return Err(Failure::signal(signal)),
                _ => format!("has died ({status})"),
            },
        };
        stderr::line(format_args!("the broker of bus '{bus}' {why}; a new one starts"));
        pause = if was_short { (2 * pause).min(PAUSES[1]) } else { PAUSES[0] };
        if was_short {
            std::thread::sleep(pause / 2);
        }
        is_first = false;
    }
}

/// Returns the broker's arguments. A later broker is told that it follows another one, right after
/// the command's name.
fn arguments(is_first: bool) -> Vec<OsString> {
    let own = std::env::args_os().skip(1).filter(|argument| argument != "--respawn");
    let mut arguments: Vec<_> = own.collect();
    if !is_first {
        arguments.insert(1.min(arguments.len()), AGAIN.into());
    }
    arguments
}

/// Runs one broker to its end.
fn broker(child: &Child, is_first: bool, interrupt: &Interrupt) -> std::io::Result<ExitStatus> {
    // The program's file may have been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments(is_first));
    // A signal from the terminal reaches this process, which tells the broker.
    command.process_group(0);
    let mut process = {
        let mut id = lock(child);
        let process = command.spawn()?;
        *id = process.id() as i32;
        process
    };
    if let Some(signal) = interrupt.signal() {
        tell(child, signal);
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

/// Passes on a signal that asks the broker to end.
fn tell(child: &Child, signal: i32) {
    let signal = if signal == SIGINT { Signal::INT } else { Signal::TERM };
    if let Some(id) = Pid::from_raw(*lock(child)) {
        let _ = kill_process(id, signal);
    }
}

fn lock(child: &Child) -> MutexGuard<'_, i32> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A fork server. It forks workers, and replaces each worker that crashes.
//!
//! ```text
//! cargo run --example fork_server
//! ```
//!
//! The parent has no handle of the bus that a child would inherit. Each child makes its own handle
//! after the fork. The messages of a worker arrive even if the worker crashes right after sending
//! them.

#![allow(unsafe_code)]

use llmp::{Broker, Client};
use rustix::process::{WaitOptions, wait as wait_for_any};
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WORKERS: u32 = 3;
const JOBS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the fork server.
pub fn main() -> Result<()> {
    let place = tempfile::tempdir()?;
    let bus = place.path().join("bus");
    let broker = fork(|| broker(&bus))?;
    let collector = fork(|| collector(&bus))?;
    let mut workers = HashMap::new();
    for number in 0..WORKERS {
        workers.insert(fork(|| worker(&bus, number, 0))?, (number, 0));
    }
    let is_done = loop {
        let (process, is_well) = wait()?;
        match workers.remove(&process) {
            Some((number, attempt)) if !is_well => {
                println!("worker {number} has crashed; here is another one");
                let next = fork(|| worker(&bus, number, attempt + 1))?;
                workers.insert(next, (number, attempt + 1));
            }
            Some(_) => {}
            None => break process == collector && is_well,
        }
    };
    for process in workers.into_keys().chain([broker]) {
        // SAFETY: a plain system call. The process is a child of ours.
        unsafe { libc::kill(process, libc::SIGTERM) };
    }
    if is_done { Ok(()) } else { Err("the broker or the collector has failed".into()) }
}

fn broker(bus: &Path) -> Result<()> {
    Ok(Broker::bind(bus)?.run().map(drop)?)
}

/// Does the worker's jobs and reports each. All but one worker crash at first.
fn worker(bus: &Path, number: u32, attempt: u32) -> Result<()> {
    let mut client = Client::builder().wait_for_bus(PATIENCE).connect_sender(bus)?;
    client.wait_for_receivers(1, None)?;
    for job in 0..JOBS {
        client.send(number, format!("job {job}, attempt {attempt}").as_bytes())?;
        if attempt < number && job == number {
            std::process::abort();
        }
    }
    Ok(client.flush()?)
}

/// Prints the workers' reports until each worker has done its last job.
fn collector(bus: &Path) -> Result<()> {
    let mut client = Client::builder().wait_for_bus(PATIENCE).connect_receiver(bus)?;
    let last = format!("job {},", JOBS - 1);
    let mut left = WORKERS;
    while left > 0 {
        let message = client.recv()?;
        let said = std::str::from_utf8(message.payload)?;
        println!("worker {}: {said}", message.tag.0);
        left -= u32::from(said.starts_with(&last));
    }
    Ok(())
}

/// Runs `work` in a child. Returns the child's process id.
fn fork(work: impl FnOnce() -> Result<()>) -> Result<i32> {
    // SAFETY: this process has one thread, so the child may call any function.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().into()),
        0 => std::process::exit(work().inspect_err(|error| eprintln!("{error}")).is_err().into()),
        child => Ok(child),
    }
}

/// Waits until a child ends. Returns its process id and whether it succeeded.
fn wait() -> Result<(i32, bool)> {
    let (child, status) = wait_for_any(WaitOptions::empty())?.ok_or("no child is left")?;
    Ok((child.as_raw_pid(), status.exit_status() == Some(0)))
}

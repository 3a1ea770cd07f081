//! A client whose process serves the bus when no other process does.

use super::standby::{StandBy, Vacancy};
use super::stop::{End, StopHandle};
use super::{Broker, BrokerBuilder};
use crate::bus_addr::BusAddr;
use crate::core::failpoint::effect;
use crate::error::BindError;
use crate::sys::fork::Owner;
use crate::sys::lock::holder_of;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pause after a broker could not be bound, or could not go on.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause after a bus was handed over.
const HANDED_OVER: Duration = Duration::from_millis(100);

/// How long a broker that has the lock may take to listen, and the pause between two attempts.
const KNOWN: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_millis(1);

/// Makes the settings of a broker, each time that this process begins to serve.
#[derive(Clone)]
pub(crate) struct Settings(pub Arc<dyn Fn() -> BrokerBuilder + Send + Sync>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")
    }
}

/// A thread that waits until no process serves the bus, and then serves it. Dropping this value ends
/// the thread, and leaves the bus to the next candidate.
#[derive(Debug)]
pub(crate) struct Candidate {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    owner: Owner,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    settings: Settings,
    /// Becomes readable when the thread must end.
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the candidate was dropped.
    has_left: bool,
    /// The broker, while this process serves.
    serving: Option<StopHandle>,
}

impl Candidate {
    /// Starts the thread, and waits until this process or another one serves the bus.
    pub fn start(bus: &BusAddr, settings: Settings) -> Result<Self, BindError> {
        let system = |step| move |source: io::Error| BindError::System { step, source };
        effect("make an eventfd");
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(io::Error::from).map_err(system("make an eventfd"))?;
        let shared =
            Arc::new(Shared { path: bus.socket_path()?, settings, wake, state: Mutex::default() });
        let (first, begun) = channel();
        let running = shared.clone();
        let thread = std::thread::Builder::new().name("llmp-broker".into());
        let thread = thread.spawn(move || running.run(first)).map_err(system("start a thread"))?;
        let candidate = Candidate { shared, thread: Some(thread), owner: Owner::here() };
        match begun.recv() {
            Ok(Err(error)) => Err(error),
            _ => Ok(candidate),
        }
    }
}

impl Shared {
    /// Waits for the bus, serves it, and waits again, until the candidate leaves or the bus ends.
    fn run(&self, first: Sender<Result<(), BindError>>) {
        let mut first = Some(first);
        // A bus that was left to this process must not stay without an end.
        let mut was_left_to_us = false;
        while !self.state().has_left || std::mem::take(&mut was_left_to_us) {
            let begun = |first: Option<Sender<_>>| first.map(|first| first.send(Ok(())));
            let goes_on = match (self.settings.0)().bind(self.path.as_path()) {
                Ok(broker) => {
                    begun(first.take());
                    self.serve(broker)
                }
                Err(BindError::InUse { .. }) => {
                    let mut place = StandBy::at(&self.path);
                    // The broker knows this process before its client joins. It may not listen yet.
                    let until = Instant::now() + KNOWN;
                    while !place.ask() && Instant::now() < until && holder_of(&self.path).is_some()
                    {
                        std::thread::sleep(ASK);
                    }
                    begun(first.take());
                    let end = place.wait(None, Some(self.wake.as_fd()));
                    was_left_to_us = match end {
                        Vacancy::Free => true,
                        Vacancy::Held => holder_of(&self.path).is_none(),
                        Vacancy::Closed => false,
                    };
                    end != Vacancy::Closed
                }
                Err(error) => match first.take() {
                    Some(first) => return drop(first.send(Err(error))),
                    None => {
                        let path = self.path.display();
                        log::error!("this process can't serve {path}: {error}; trying again");
                        self.pause(PAUSE);
                        true
                    }
                },
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Returns whether the bus goes on without this broker.
    fn serve(&self, broker: Broker) -> bool {
        let handle = broker.stop_handle();
        let mut state = self.state();
        if state.has_left {
            handle.ask(End::Leave);
        }
        state.serving = Some(handle);
        drop(state);
        let served = broker.run();
        self.state().serving = None;
        match served {
            Ok(report) => {
                if report.handed_over {
                    // The process that has asked for it is to be faster.
                    self.pause(HANDED_OVER);
                }
                report.handed_over
            }
            Err(error) => {
                log::error!("this process can no longer serve {}: {error}", self.path.display());
                self.pause(PAUSE);
                true
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets another candidate be faster.
    fn pause(&self, time: Duration) {
        let mut wake = [PollFd::new(&self.wake, PollFlags::IN)];
        let _ = poll(&mut wake, time.try_into().ok().as_ref());
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // A forked child has no such thread.
        if !self.owner.is_here() {
            // Detaching it could detach another thread, which has its place now.
            return std::mem::forget(self.thread.take());
        }
        effect("write to the eventfd");
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let mut state = self.shared.state();
        state.has_left = true;
        state.serving.iter().for_each(|handle| handle.ask(End::Leave));
        drop(state);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

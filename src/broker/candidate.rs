//! A client whose process serves the bus when no other process does.

use super::standby::{Vacancy, stand_by};
use super::stop::StopHandle;
use super::{Broker, BrokerBuilder};
use crate::bus_addr::BusAddr;
use crate::core::failpoint::effect;
use crate::error::BindError;
use crate::sys::fork::Owner;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The pause after a broker could not be bound, or could not go on.
const PAUSE: Duration = Duration::from_secs(1);

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
    has_left: AtomicBool,
    /// The broker, while this process serves.
    serving: Mutex<Option<StopHandle>>,
}

impl Candidate {
    /// Starts the thread, and waits until this process or another one serves the bus.
    pub fn start(bus: &BusAddr, settings: Settings) -> Result<Self, BindError> {
        let system = |step| move |source: io::Error| BindError::System { step, source };
        effect("make an eventfd");
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(io::Error::from).map_err(system("make an eventfd"))?;
        let shared = Arc::new(Shared {
            path: bus.socket_path()?,
            settings,
            wake,
            has_left: AtomicBool::new(false),
            serving: Mutex::new(None),
        });
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
        while !self.has_left() {
            let bound = (self.settings.0)().bind(self.path.as_path());
            let begun = |first: Option<Sender<_>>| first.map(|first| first.send(Ok(())));
            let goes_on = match bound {
                Ok(broker) => {
                    begun(first.take());
                    self.serve(broker)
                }
                Err(BindError::InUse { .. }) => {
                    begun(first.take());
                    stand_by(&self.path, None, Some(self.wake.as_fd())) != Vacancy::Closed
                }
                Err(error) => match first.take() {
                    Some(first) => return drop(first.send(Err(error))),
                    None => {
                        let path = self.path.display();
                        log::error!("this process can't serve {path}: {error}; trying again");
                        self.pause();
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
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(broker.stop_handle());
        if self.has_left() {
            broker.stop_handle().resign();
        }
        let served = broker.run();
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match served {
            Ok(report) => report.handed_over,
            Err(error) => {
                log::error!("this process can no longer serve {}: {error}", self.path.display());
                self.pause();
                true
            }
        }
    }

    fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Lets another candidate be faster.
    fn pause(&self) {
        let mut wake = [PollFd::new(&self.wake, PollFlags::IN)];
        let _ = poll(&mut wake, PAUSE.try_into().ok().as_ref());
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // A forked child has no such thread.
        if !self.owner.is_here() {
            return;
        }
        self.shared.has_left.store(true, Ordering::Release);
        effect("write to the eventfd");
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let serving = self.shared.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.iter().for_each(StopHandle::resign);
        drop(serving);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Memory that another thread writes all the time.
//!
//! The machine decides when it writes, so the same input has different effects. A failure may take
//! many runs to reproduce. `page_mutate` and `live_bus` are the same adversary at moments that the
//! input decides.

use super::chain::{OWN, View};
use super::forgery::Forgery;
use super::input::Input;
use super::regions::{heap, shared};
use super::world::World;
use llmp::ReceivedFd;
use llmp::core::layout::WORD;
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;

/// The regions to scribble on, and the forgeries.
#[derive(Clone)]
pub struct Scribbled {
    /// Whether the receiver has mappings of its own, as in another process.
    mapped: bool,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    regions: Mutex<Vec<(usize, Region)>>,
    forgeries: Mutex<Vec<Forgery>>,
    is_over: AtomicBool,
}

/// The other thread. Dropping this waits for its end. A scope alone returns while its threads still
/// end, and a leak checker that runs at that moment sees memory without an owner.
pub struct Scribbling {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Scribbling {
    fn drop(&mut self) {
        // Relaxed: nothing but the flag itself is read
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

impl Scribbled {
    pub fn new(mapped: bool) -> Self {
        Scribbled { mapped, shared: Arc::default() }
    }

    /// Begins to scribble. Returns when the other thread runs.
    pub fn begin(&self) -> Scribbling {
        let (shared, is_there) = (self.shared.clone(), Arc::new(Barrier::new(2)));
        let begun = is_there.clone();
        let thread = std::thread::spawn(move || {
            begun.wait();
            while !shared.is_over.load(Ordering::Relaxed) {
                shared.scribble();
            }
        });
        is_there.wait();
        Scribbling { shared: self.shared.clone(), thread: Some(thread) }
    }
}

impl Shared {
    /// Shows every forgery for a while, then the real words for a while, several times.
    fn scribble(&self) {
        let regions = self.regions.lock().expect("no thread panics with it").clone();
        let forgeries = self.forgeries.lock().expect("no thread panics with it").clone();
        let mut honest = Vec::new();
        for _ in 0..4 {
            for forgery in &forgeries {
                for (_, region) in regions.iter().filter(|(number, _)| *number == forgery.region) {
                    for at in (forgery.from..forgery.to.min(region.region_len())).step_by(WORD) {
                        let word = region.load(at, Site::CommitRead);
                        region.store(at, forgery.change(word), Site::CommitFill);
                        honest.push((region, at, word));
                    }
                }
            }
            std::thread::yield_now();
            for (region, at, word) in honest.drain(..).rev() {
                region.store(at, word, Site::CommitFill);
            }
            std::thread::yield_now();
        }
    }
}

impl View for Scribbled {
    type Memory = Region;

    fn make(&self, len: usize) -> Region {
        match self.mapped {
            true => shared("llmp-fuzz", len).expect("the kernel has memory"),
            false => heap(len),
        }
    }

    fn see(&self, id: u32, region: Region) -> Region {
        if id == OWN {
            return region;
        }
        let mut regions = self.shared.regions.lock().expect("no thread panics with it");
        regions.push((id as usize, region.clone()));
        match region.descriptor() {
            Some(fd) => {
                let fd = fd.try_clone_to_owned().expect("the kernel has a descriptor");
                let len = region.region_len();
                ReceivedFd::new(fd).map(len, len).expect("our own region is sealed")
            }
            None => region,
        }
    }

    fn is_tampered(&self) -> bool {
        true
    }

    fn accesses(&self) -> u64 {
        // Called at every step, so that the other thread runs in between.
        std::thread::yield_now();
        0
    }
}

impl World for Scribbled {
    fn honest(&self, region: Region) -> Region {
        region
    }

    fn forge(&self, input: &mut Input) {
        self.shared
            .forgeries
            .lock()
            .expect("no thread panics with it")
            .push(Forgery::arbitrary(input));
    }
}

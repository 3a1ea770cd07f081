//! One victim after the other, each of which lives one step longer than the one before.

use crate::common::PATIENCE;
use crate::common::bus::Place;
use crate::common::child::Child;
use crate::common::proc::{Holdings, holdings, wait_until};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Page length, longest message and budget of all chains: pages are turned and written again, and
/// some messages need a page of double length.
pub const LIMITS: [usize; 3] = [4096, 6000, 16384];

/// A number of steps depends a little on who is how fast: so many victims in a row must have
/// lived through before it is believed that there is no further step.
const LIVES: u32 = 4;

/// How a victim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed in front of this step.
    KilledBefore(String),
    /// It came to the end of its script.
    Lived,
}

/// A process that kills itself in front of its step `k`, and what it has said until then.
pub struct Victim {
    pub child: Child,
    end: Option<End>,
}

impl Victim {
    pub fn start(place: &Place, role: &str, k: u64) -> Self {
        Victim { child: place.child(role, &[&k]), end: None }
    }

    /// The next thing that it says about its script; `None` when it has ended.
    #[track_caller]
    pub fn word(&mut self) -> Option<(String, u32)> {
        loop {
            let line = self.child.line()?;
            match line.split_once(' ') {
                Some(("dies-before", step)) => self.end = Some(End::KilledBefore(step.into())),
                Some((word, number)) => return Some((word.into(), number.parse().unwrap())),
                None if line == "lived" => self.end = Some(End::Lived),
                None => return Some((line, 0)),
            }
        }
    }

    /// Hears it out; `None` if it never said `word`, or else the last number that it said there.
    #[track_caller]
    pub fn last(&mut self, word: &str) -> Option<u32> {
        let mut last = None;
        while let Some((said, number)) = self.word() {
            last = if said == word { Some(number) } else { last };
        }
        last
    }

    /// How it ended, by its own words and the kernel's.
    #[track_caller]
    pub fn end(mut self) -> End {
        assert_eq!(self.last("nothing"), None);
        let status = self.child.wait();
        let end = self.end.unwrap_or_else(|| panic!("it failed: {status}, see above"));
        match end {
            End::KilledBefore(_) => assert_eq!(status.signal(), Some(Signal::KILL.as_raw())),
            End::Lived => assert!(status.success(), "{status}"),
        }
        end
    }
}

/// Lets a victim die in front of every step, and says how many steps that were.
pub fn at_every_step(name: &str, steps: &[&str], mut die: impl FnMut(u64) -> End) {
    if let Ok(k) = std::env::var("LLMP_CRASH_AT") {
        let end = die(k.parse().expect("LLMP_CRASH_AT is the number of a step"));
        return report(&format!("crash {name}: step {k}: {end:?}"));
    }
    let start = Instant::now();
    let (mut deaths, mut lives) = (0, 0);
    let mut kinds = BTreeSet::new();
    for k in 0.. {
        // Names the step should anything fail.
        println!("crash {name}: step {k}");
        match die(k) {
            End::KilledBefore(step) => {
                (deaths, lives) = (deaths + 1, 0);
                kinds.insert(step);
            }
            End::Lived => lives += 1,
        }
        if lives == LIVES {
            break;
        }
    }
    report(&format!(
        "crash {name}: SIGKILL at each of {deaths} steps ({} kinds), {:.1} s",
        kinds.len(),
        start.elapsed().as_secs_f64()
    ));
    let missing: Vec<_> = steps.iter().filter(|step| !kinds.contains(**step)).collect();
    assert!(missing.is_empty(), "nobody died before {missing:?}, but before {kinds:?}");
}

/// Prints a line that the test harness does not swallow.
fn report(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One scenario at a time: what this process holds is counted.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `work` returns, unless it hangs.
#[track_caller]
pub fn within_patience<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).expect("a survivor hangs or has failed, see above")
}

/// What this process holds of all buses.
pub fn ours() -> Holdings {
    holdings(std::process::id() as i32)
}

/// Waits until nothing of a bus is left in this process (P7).
#[track_caller]
pub fn wait_until_nothing_is_left() {
    wait_until("nothing of the dead is left", || {
        let Holdings { memfds, own, foreign, .. } = ours();
        (memfds, own, foreign) == (0, (0, 0), (0, 0))
    });
}

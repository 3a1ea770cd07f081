//! Starts one victim after the other. Each runs one step further than the one before.

use crate::common::TIMEOUT;
use crate::common::bus::Place;
use crate::common::child::Child;
use crate::common::proc::{Holdings, holdings, left_behind, wait_until};
use crate::report::report;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Page length, longest message and budget of all chains, and the length from which messages pass
/// by reference. Pages are reused, some messages need a page of double length, and most bytes pass
/// by reference.
pub const LIMITS: [usize; 4] = [4096, 6000, 16384, 1000];

/// The number of steps of a kind may vary a little with timing. This many victims in a row must
/// survive before the test concludes that there is no further step.
const LIVES: u32 = 2;

/// A step: its kind, and its number among those of its kind.
#[derive(Clone, Debug)]
pub struct Step {
    kind: String,
    number: u64,
}

/// How a victim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Killed before its step.
    Killed,
    /// Reached the end of its script, by steps of these kinds.
    Lived(BTreeSet<String>),
}

impl End {
    pub fn is_death(&self) -> bool {
        *self == End::Killed
    }
}

/// A process that kills itself before a step, and its output until then.
pub struct Victim {
    pub child: Child,
    says_it_dies: bool,
    steps: BTreeSet<String>,
}

impl Victim {
    pub fn start(place: &Place, role: &str, step: &Step) -> Self {
        let child = place.child(role, &[&step.kind, &step.number]);
        Victim { child, says_it_dies: false, steps: BTreeSet::new() }
    }

    /// Returns the next report of its script, or `None` when it has ended.
    #[track_caller]
    pub fn word(&mut self) -> Option<(String, u32)> {
        loop {
            let line = self.child.line()?;
            let (word, rest) = line.split_once(' ').unwrap_or((&line, "0"));
            match word {
                "dies" => self.says_it_dies = true,
                "made" => drop(self.steps.insert(rest.into())),
                word => return Some((word.into(), rest.parse().unwrap())),
            }
        }
    }

    /// Reads its output to the end. Returns the last number after `word`, or `None` if `word` never
    /// appeared.
    #[track_caller]
    pub fn last(&mut self, word: &str) -> Option<u32> {
        let mut last = None;
        while let Some((said, number)) = self.word() {
            last = if said == word { Some(number) } else { last };
        }
        last
    }

    /// Returns how it ended, by its own output and the kernel's status.
    #[track_caller]
    pub fn end(mut self) -> End {
        assert_eq!(self.last("nothing"), None);
        let status = self.child.wait();
        assert_eq!(left_behind(&[self.child.pid()]), Vec::<String>::new());
        if self.says_it_dies {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
            return End::Killed;
        }
        assert!(status.success() && !self.steps.is_empty(), "it failed: {status}, see above");
        End::Lived(self.steps)
    }
}

/// The kinds of steps that are known, and those that are left.
#[derive(Default)]
struct Kinds {
    known: Vec<String>,
    next: usize,
    /// Number of workers that may find further kinds.
    busy: usize,
    deaths: usize,
}

/// A kind of steps that a worker has taken.
struct Taken<'a> {
    kinds: &'a Mutex<Kinds>,
    kind: String,
}

impl<'a> Taken<'a> {
    /// Waits for the next kind. Returns `None` if no worker can find another one.
    fn next(kinds: &'a Mutex<Kinds>) -> Option<Self> {
        loop {
            let mut all = kinds.lock().unwrap();
            if let Some(kind) = all.known.get(all.next).cloned() {
                (all.next, all.busy) = (all.next + 1, all.busy + 1);
                return Some(Taken { kinds, kind });
            }
            if all.busy == 0 {
                return None;
            }
            drop(all);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets victims die before each step of the kind.
    fn run(&self, name: &str, mut die: impl FnMut(&Step) -> End) {
        let (mut number, mut lives) = (0, 0);
        while lives < LIVES {
            let step = Step { kind: self.kind.clone(), number };
            // Names the step if anything fails.
            println!("crash {name}: {step:?}");
            let end = die(&step);
            let mut all = self.kinds.lock().unwrap();
            match end {
                End::Killed => (all.deaths, lives) = (all.deaths + 1, 0),
                End::Lived(steps) => {
                    lives += 1;
                    let new = steps.into_iter().filter(|kind| !all.known.contains(kind));
                    let new: Vec<_> = new.collect();
                    all.known.extend(new);
                }
            }
            number += 1;
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).busy -= 1;
    }
}

/// Lets a victim die before every step, and prints the number of steps. There must be steps of the
/// kinds `expected`. Each worker has a thread of its own.
pub fn at_every_step<D, const N: usize>(name: &str, expected: &[&str], workers: [D; N])
where
    D: FnMut(&Step) -> End + Send,
{
    if let Ok(step) = std::env::var("LLMP_CRASH_AT") {
        let (kind, number) = step.rsplit_once(':').expect("LLMP_CRASH_AT=KIND:NUMBER");
        let step = Step { kind: kind.into(), number: number.parse().unwrap() };
        let end = workers.into_iter().next().expect("a worker")(&step);
        return report(&format!("crash {name}: {step:?}: {end:?}"));
    }
    let start = Instant::now();
    // The first victim makes no step of this kind and survives.
    let kinds = Mutex::new(Kinds { known: vec![String::new()], ..Kinds::default() });
    std::thread::scope(|scope| {
        for mut die in workers {
            let kinds = &kinds;
            scope.spawn(move || {
                while let Some(taken) = Taken::next(kinds) {
                    taken.run(name, &mut die);
                }
            });
        }
    });
    let Kinds { known, deaths, .. } = kinds.into_inner().unwrap();
    report(&format!(
        "crash {name}: SIGKILL at each of {deaths} steps of {} kinds, {:.1} s",
        known.len() - 1,
        start.elapsed().as_secs_f64()
    ));
    let is_missing = |kind: &&&str| !known.iter().any(|known| known == **kind);
    let missing: Vec<_> = expected.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "no victim died before {missing:?}, but before {known:?}");
}

/// Runs one scenario at a time, because the resources of this process are counted.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the result of `work`, and fails if it hangs.
#[track_caller]
pub fn within_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(TIMEOUT).expect("a survivor hangs or has failed, see above")
}

/// Returns the resources of all buses that this process holds.
pub fn ours() -> Holdings {
    holdings(std::process::id() as i32)
}

/// Waits until this process holds no resource of a bus (P7).
#[track_caller]
pub fn wait_until_nothing_is_left() {
    wait_until("nothing of the dead is left", || {
        let Holdings { memfds, own, foreign, .. } = ours();
        (memfds, own, foreign) == (0, (0, 0), (0, 0))
    });
}

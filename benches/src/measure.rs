//! Runs the cells. Within each repetition it alternates between the peers, so that noise of the
//! machine affects all alike. A probe of the placement runs before and after each cell.

use crate::children::{Children, Played};
use crate::content::Sabotage;
use crate::peer::{Place, Setup};
use crate::peers::Info;
use crate::placement::{Placement, cpus, round_trip_ns};
use crate::role::{Part, Role};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The extent of the measurement.
pub struct Plan {
    pub quick: bool,
    pub runs: usize,
    /// Length of a run in seconds.
    pub seconds: f64,
    pub pinned: bool,
    pub sabotage: Option<Sabotage>,
}

/// Too little of a run was counted, so it must be repeated.
#[derive(Debug)]
pub struct TooShort;

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too little of the run was counted: the machine is too busy")
    }
}

impl std::error::Error for TooShort {}

/// Maximum repetitions of a run that was too short.
const TRIES: usize = 5;

/// After this time, runs whose placement changed are not repeated. So all ends within 15 minutes.
const REPEATS_END: Duration = Duration::from_secs(12 * 60);

pub type Figures = Vec<(&'static str, f64)>;
type Measure = Box<dyn Fn(&Run) -> Result<Figures>>;

/// One peer in one case of one workload.
pub struct Cell {
    pub workload: &'static str,
    pub case: String,
    pub peer: &'static str,
    /// Length of the messages in bytes, where there is one.
    pub len: Option<usize>,
    /// Whether the placement of the processors has no effect.
    anywhere: bool,
    measure: Measure,
}

impl Cell {
    pub fn new(
        workload: &'static str,
        case: String,
        peer: &'static str,
        measure: impl Fn(&Run) -> Result<Figures> + 'static,
    ) -> Self {
        Cell { workload, case, peer, len: None, anywhere: false, measure: Box::new(measure) }
    }

    pub fn len(self, len: usize) -> Self {
        Cell { len: Some(len), ..self }
    }

    pub fn anywhere(self) -> Self {
        Cell { anywhere: true, ..self }
    }
}

/// One run of a cell.
pub struct Run<'a> {
    pub plan: &'a Plan,
    dir: tempfile::TempDir,
    cpus: [usize; 2],
}

impl Run<'_> {
    pub fn place(&self, name: &str) -> Place {
        Place { dir: self.dir.path().to_owned(), name: name.to_owned() }
    }

    /// A role on the first or second processor.
    pub fn role(&self, part: Part, peer: &Info, place: &Place, setup: &Setup, cpu: usize) -> Role {
        Role {
            part,
            peer: peer.name.to_owned(),
            place: place.clone(),
            setup: setup.clone(),
            cpu: self.plan.pinned.then(|| self.cpus[cpu % 2]),
            seconds: self.plan.seconds,
            sabotage: self.plan.sabotage,
        }
    }

    /// Two roles: two processes, or two threads where a peer knows only one process.
    pub fn play_pair(&self, peer: &Info, one: Role, other: Role) -> Result<Vec<Played>> {
        match peer.one_process {
            true => self.play(&[vec![one, other]]),
            false => self.play(&[vec![one], vec![other]]),
        }
    }

    pub fn play(&self, processes: &[Vec<Role>]) -> Result<Vec<Played>> {
        let mut children = Children::start(processes)?;
        children.go()?;
        let played = children.results()?;
        children.end()?;
        Ok(played)
    }

    /// Samples a value during the run. Returns its maximum.
    pub fn play_watching(
        &self,
        processes: &[Vec<Role>],
        look: fn() -> Result<u64>,
    ) -> Result<(Vec<Played>, u64)> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(look()?);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(most)
            });
            let played = self.play(processes);
            done.store(true, Ordering::Relaxed);
            let most = watching.join().unwrap_or_else(|_| bail!("the watching thread has failed"));
            Ok((played?, most?))
        })
    }
}

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Round trip of two cache lines before and after the run.
    pub two_lines_ns: [f64; 2],
    /// `None` if it was not the same before and after.
    pub placement: Option<Placement>,
    pub figures: BTreeMap<&'static str, f64>,
}

/// All runs of one cell.
pub struct Measured {
    pub cell: Cell,
    pub samples: Vec<Sample>,
}

impl Measured {
    /// The number of runs with this placement.
    pub fn count(&self, placement: Placement) -> usize {
        self.samples.iter().filter(|sample| sample.placement == Some(placement)).count()
    }
}

/// Measures all cells.
pub fn measure(plan: &Plan, cells: Vec<Cell>) -> Result<Vec<Measured>> {
    let total = cells.len() * plan.runs;
    let started = Instant::now();
    let mut done = 0;
    let mut all: Vec<Measured> =
        cells.into_iter().map(|cell| Measured { cell, samples: Vec::new() }).collect();
    let same = |a: &Measured, b: &Measured| {
        a.cell.workload == b.cell.workload && a.cell.case == b.cell.case
    };
    for group in all.chunk_by_mut(same) {
        let (workload, case) = (group[0].cell.workload, group[0].cell.case.clone());
        for run in 0..2 * plan.runs {
            for i in 0..group.len() {
                // Each begins once, so that no peer always follows the same one.
                let at = (i + run) % group.len();
                let measured = &mut group[at];
                let repeats = started.elapsed() < REPEATS_END && is_short_of_runs(plan, measured);
                if run >= plan.runs && !repeats {
                    continue;
                }
                let percent = 100 * done.min(total) / total.max(1);
                let seconds = started.elapsed().as_secs();
                let peer = measured.cell.peer;
                eprintln!("{percent:3} % {seconds:4} s  {workload}: {case}: {peer}");
                let sample = sample(plan, &measured.cell);
                let sample = sample.with_context(|| format!("{workload}: {case}: {peer}"))?;
                measured.samples.push(sample);
                done += 1;
            }
        }
    }
    Ok(all)
}

/// Returns whether too few runs had the most frequent placement.
fn is_short_of_runs(plan: &Plan, measured: &Measured) -> bool {
    let counts = Placement::ALL.map(|placement| measured.count(placement));
    counts.into_iter().max().unwrap_or(0) < plan.runs
}

fn sample(plan: &Plan, cell: &Cell) -> Result<Sample> {
    for _ in 0..TRIES {
        match try_sample(plan, cell) {
            Err(error) if error.is::<TooShort>() => eprintln!("once more: {error}"),
            other => return other,
        }
    }
    // One that counts for nothing, so that the other cells are measured.
    Ok(Sample { two_lines_ns: [f64::NAN; 2], placement: None, figures: BTreeMap::new() })
}

fn try_sample(plan: &Plan, cell: &Cell) -> Result<Sample> {
    crate::watchdog::step();
    // In memory, as some peers map files of it.
    let dir = tempfile::Builder::new().prefix("llmp-bench-").tempdir_in("/dev/shm")?;
    let run = Run { plan, dir, cpus: cpus()? };
    let before = round_trip_ns(2)?;
    let figures = (cell.measure)(&run)?.into_iter().collect();
    let after = round_trip_ns(2)?;
    let placement = if cell.anywhere { Placement::Any } else { Placement::of(before) };
    let same = cell.anywhere || placement == Placement::of(after);
    let placement = same.then_some(placement);
    Ok(Sample { two_lines_ns: [before, after], placement, figures })
}

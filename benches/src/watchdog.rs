//! Ends a run that makes no progress, and reports what each thread waits for.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A process without a step for this time, plus the length of one measurement, hangs.
const STALL: Duration = Duration::from_secs(30);

static STEPS: AtomicU64 = AtomicU64::new(0);
static LONGEST_STEP: OnceLock<Duration> = OnceLock::new();

/// Returns the longest time of a step.
pub fn longest_step() -> Duration {
    LONGEST_STEP.get().copied().unwrap_or(STALL)
}

/// Reports a step of progress.
pub fn step() {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

/// Watches this process from now on. One measurement takes `seconds`.
pub fn start(seconds: f64) {
    LONGEST_STEP.get_or_init(|| STALL + Duration::from_secs_f64(seconds));
    std::thread::spawn(|| {
        // A process that waits for its children reports more about them. Its own timeout comes
        // first.
        let limit = longest_step() + Duration::from_secs(5);
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let steps = STEPS.load(Ordering::Relaxed);
            if steps != seen {
                (seen, since) = (steps, Instant::now());
            } else if since.elapsed() > limit {
                let threads = threads(std::process::id());
                eprintln!("no progress for {limit:?}; the threads of this process:\n{threads}");
                std::process::exit(1);
            }
        }
    });
}

/// Returns the name of each thread of a process, its state, and its current system call.
pub fn threads(pid: u32) -> String {
    let read = |task: &Path, file| fs::read_to_string(task.join(file)).unwrap_or_default();
    let describe = |task: &Path| {
        let (name, status, call) =
            (read(task, "comm"), read(task, "status"), read(task, "syscall"));
        let state = status.lines().find(|line| line.starts_with("State")).unwrap_or_default();
        format!("  {}: {state}; system call {}\n", name.trim(), call.trim())
    };
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return "  it is gone\n".into();
    };
    tasks.filter_map(Result::ok).map(|task| describe(&task.path())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_report_names_each_thread_and_its_state() {
        let named = std::thread::Builder::new().name("sleeper".into());
        named.spawn(|| std::thread::sleep(std::time::Duration::from_secs(60))).unwrap();
        let report = || super::threads(std::process::id());
        while !report().lines().any(|l| l.contains("sleeper: State:\tS")) {
            std::thread::yield_now();
        }
        assert!(super::threads(u32::MAX).contains("gone"));
    }
}

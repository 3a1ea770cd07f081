//! Keeps the log lines of each thread, so that a test can wait for a line of its own broker.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Logs {
    lines: Mutex<Option<HashMap<String, Vec<String>>>>,
    news: Condvar,
}

static LOGS: Logs = Logs { lines: Mutex::new(None), news: Condvar::new() };

impl log::Log for Logs {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let line = record.args().to_string();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get_or_insert_default().entry(thread).or_default().push(line);
        self.news.notify_all();
    }

    fn flush(&self) {}
}

pub fn install() {
    // The first test installs it for all.
    if log::set_logger(&LOGS).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Waits until `thread` has logged a line that contains all of `texts`.
#[track_caller]
pub fn wait_for(thread: &str, texts: &[&str], patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut lines = LOGS.lines.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let logged = lines.get_or_insert_default().entry(thread.to_owned()).or_default();
        if logged.iter().any(|line| texts.iter().all(|text| line.contains(text))) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "waited for {texts:?} in the log, found {logged:#?}");
        let waited = LOGS.news.wait_timeout(lines, left);
        lines = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

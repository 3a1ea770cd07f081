//! The progress and the report of a soak.

use super::oracle::Totals;
use crate::failure::say;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// The interval between two lines without a terminal.
const LINES: Duration = Duration::from_secs(10);

/// How often something was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Clients, serving brokers and other brokers that were killed.
    pub clients: u64,
    pub brokers: u64,
    pub standbys: u64,
    pub handed_over: u64,
    /// Clients that have left in order.
    pub left: u64,
    /// Clients that the bus has disconnected, because they were too slow or their broker had ended.
    pub disconnected: u64,
    /// Processes that were stopped for a while.
    pub stops: u64,
}

impl Counts {
    /// The number of killed processes.
    pub fn killed(&self) -> u64 {
        self.clients + self.brokers + self.standbys
    }
}

/// How long the bus has stood still.
pub struct Pauses {
    last: Instant,
    longest: Duration,
    killed: Option<Instant>,
    takeovers: Vec<Duration>,
}

impl Pauses {
    pub fn new() -> Self {
        let last = Instant::now();
        Pauses { last, longest: Duration::ZERO, killed: None, takeovers: Vec::new() }
    }

    /// The witness has received messages. Returns the time since the ones before.
    pub fn message(&mut self) -> Duration {
        let pause = self.last.elapsed();
        self.longest = self.longest.max(pause);
        self.last += pause;
        pause
    }

    /// Returns the time since the last message.
    pub fn since(&self) -> Duration {
        self.last.elapsed()
    }

    /// The serving broker is killed.
    pub fn broker_ends(&mut self) {
        self.killed = Some(Instant::now());
    }

    /// A broker serves.
    pub fn serves(&mut self) {
        self.takeovers.extend(self.killed.take().map(|killed| killed.elapsed()));
    }

    /// Returns the median and the longest time from a broker's death until another one serves.
    fn takeovers(&self) -> (Duration, Duration) {
        let mut all = self.takeovers.clone();
        all.sort_unstable();
        (
            all.get(all.len() / 2).copied().unwrap_or_default(),
            all.last().copied().unwrap_or_default(),
        )
    }
}

/// Shows the progress: a bar in a terminal, otherwise a line now and then.
pub struct Progress {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub fn new(time: Duration) -> Self {
        let style = "{bar:20} {elapsed} of {msg}";
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(style);
            ProgressBar::new(time.as_millis() as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { bar, last_line: Instant::now() }
    }

    /// Shows how far the soak is.
    pub fn show(&mut self, elapsed: Duration, time: Duration, counts: &Counts, messages: u64) {
        let text = || {
            let Counts { clients, brokers, .. } = counts;
            format!(
                "{} s: {clients} clients and {brokers} brokers killed, {messages} messages, all right",
                time.as_secs()
            )
        };
        if let Some(bar) = &self.bar {
            bar.set_position(elapsed.as_millis() as u64);
            bar.set_message(text());
        } else if self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            say(format_args!("{} of {}", elapsed.as_secs(), text()));
        }
    }

    /// Clears the display.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns the report of a soak in which nothing was wrong.
pub fn report(totals: &Totals, counts: &Counts, pauses: &Pauses, elapsed: Duration) -> String {
    let Totals { senders, sent, received, missed, gaps, lost_beside } = *totals;
    let Counts { clients, brokers, standbys, handed_over, left, disconnected, stops } = *counts;
    let (median, longest) = pauses.takeovers();
    let mut text = String::new();
    let mut line = |name: &str, value: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{name:<24}{value}");
    };
    line("time", format_args!("{:.0} s", elapsed.as_secs_f64()));
    line(
        "killed",
        format_args!(
            "{} processes: {clients} clients, {brokers} serving brokers, {standbys} others",
            counts.killed()
        ),
    );
    line("handed over", format_args!("{handed_over} times"));
    line("left", format_args!("{left} clients"));
    line("disconnected", format_args!("{disconnected} clients"));
    line("stopped for a while", format_args!("{stops} times"));
    line("sent", format_args!("{sent} messages by {senders} clients"));
    line("received", format_args!("{received} messages"));
    line("wrong", format_args!("none lost, repeated, reordered or corrupt"));
    line("skipped", format_args!("{missed} messages in {gaps} gaps, as the receivers were told"));
    line(
        "lost with their sender",
        format_args!("{lost_beside} messages, killed beside its broker"),
    );
    line("next broker serves", format_args!("after {median:.1?}, at most {longest:.1?}"));
    line("longest pause", format_args!("{:.1?}", pauses.longest));
    text
}

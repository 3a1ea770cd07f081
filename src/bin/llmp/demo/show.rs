//! Showing how far a demo is: a bar in a terminal, otherwise a line now and then.

use crate::failure::say;
use crate::values::human;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often there is a line where no bar can be.
const LINES: Duration = Duration::from_secs(5);

/// Shows how far a demo is.
pub struct Show {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Show {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        let style =
            "{bar:30} {bytes} of {total_bytes} delivered, {binary_bytes_per_sec}, {eta} left";
        let bar = stderr().is_terminal().then(|| {
            // The template is one of ours; a wrong one would show in the simplest way.
            let style = ProgressStyle::with_template(style);
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Show { bar, last_line: Instant::now() }
    }

    /// So many bytes of so many were delivered.
    pub fn progress(&mut self, delivered: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(delivered);
        } else if self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            say(format_args!("{} of {} delivered", human(delivered), human(all)));
        }
    }

    /// A line that stays.
    pub fn line(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Nothing more is shown.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! Shows the progress of a demo: a bar in a terminal, otherwise a line now and then.

use crate::failure::say;
use crate::values::human;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// The interval between two lines without a terminal.
const LINES: Duration = Duration::from_secs(5);

/// Shows the progress of a demo.
pub struct Show {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Show {
    /// Makes a display that is empty.
    pub fn new() -> Self {
        let style =
            "{bar:30} {bytes} of {total_bytes} delivered, {binary_bytes_per_sec}, {eta} left";
        let bar = stderr().is_terminal().then(|| {
            // The template is a constant of ours. A wrong one falls back to the default bar.
            let style = ProgressStyle::with_template(style);
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Show { bar, last_line: Instant::now() }
    }

    /// Shows that `delivered` of `all` bytes were delivered.
    pub fn progress(&mut self, delivered: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(delivered);
        } else if self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            say(format_args!("{} of {} delivered", human(delivered), human(all)));
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Clears the display.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! Shows why a command waits: a live line in a terminal, otherwise a line for each change.

use crate::failure::say;
use indicatif::ProgressBar;
use llmp::HeldUp;
use std::io::{IsTerminal, stderr};

/// Shows what a command waits for. In a terminal the line disappears when the wait ends.
pub struct Status {
    line: Option<ProgressBar>,
    is_told: bool,
    is_named: bool,
}

impl Status {
    /// Makes a display that is empty.
    pub fn new() -> Self {
        Status { line: None, is_told: false, is_named: false }
    }

    /// Shows that `what` waits, and for which receiver if the broker has named one.
    pub fn waits(&mut self, what: &str, held_up: Option<&HeldUp>) {
        let text = match held_up {
            Some(held_up) => format!("{what}: {held_up}"),
            None => format!("{what}: a receiver is too slow, and the bus waits for it"),
        };
        let is_news = !self.is_told || held_up.is_some() && !self.is_named;
        (self.is_told, self.is_named) = (true, self.is_named || held_up.is_some());
        if stderr().is_terminal() {
            let line = self.line.get_or_insert_with(ProgressBar::new_spinner);
            line.set_message(format!("llmp: {text}"));
            line.tick();
        } else if is_news {
            say(text);
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

//! Records what an input has reached. The test over all seeds checks that everything is reached at
//! least once, because an oracle that gets nowhere never fails.

use llmp::Fault;
use llmp::core::chain::Event;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Seen(pub BTreeSet<String>);

impl Seen {
    pub fn mark(&mut self, what: &str) {
        if !self.0.contains(what) {
            self.0.insert(what.to_owned());
        }
    }

    pub fn event(&mut self, event: &Event) {
        self.mark(match event {
            Event::Empty => "Event::Empty",
            Event::Message(_) => "Event::Message",
            Event::PageAdvanced => "Event::PageAdvanced",
            Event::Unknown(_) => "Event::Unknown",
        });
    }

    pub fn fault(&mut self, fault: &Fault) {
        let text = format!("{fault:?}");
        let name = text.split([' ', '(']).next().unwrap_or_default();
        self.mark(&format!("Fault::{name}"));
    }
}

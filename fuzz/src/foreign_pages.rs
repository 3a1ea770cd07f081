//! Foreign pages to which a chain's messages refer, as a broker refers to its clients' pages.

use super::chain::Sent;
use llmp::core::chain::{ChainWriter, Refused};
use llmp::core::layout::{PAGE_HEADER, SLOT_ALIGN};
use llmp::core::memory::{Memory, Region};

/// Room for two long messages, or some short ones, in bytes.
const LEN: usize = 1024;

/// The foreign pages of a chain. No place in them is written twice.
#[derive(Default)]
pub struct ForeignPages(Vec<Page>);

struct Page {
    id: u32,
    memory: Region,
    used: usize,
}

impl ForeignPages {
    /// Sends a message by reference. Returns `None` if it must be copied, because no page for it
    /// was announced yet.
    pub fn send_ref(
        &mut self,
        sender: &mut ChainWriter<Region>,
        sent: &Sent,
        make: impl Fn(usize) -> Region,
    ) -> Option<Result<(), Refused>> {
        let len = sent.payload.len();
        let has_room = |page: &&mut Page| page.used + len <= LEN;
        let Some(page) = self.0.iter_mut().find(has_room) else {
            self.add(sender, make(LEN));
            return None;
        };
        if !sender.can_refer_to(page.id) {
            return None;
        }
        page.memory.write_bytes(page.used, &sent.payload);
        let done = sender.send_ref(sent.envelope, len, page.id, page.used);
        if done.is_ok() {
            page.used = (page.used + len).next_multiple_of(SLOT_ALIGN);
        }
        Some(done.map(drop))
    }

    /// Adds a foreign page, in the place of those that all receivers have passed, if necessary.
    fn add(&mut self, sender: &mut ChainWriter<Region>, memory: Region) {
        let added = sender.add_foreign_page(memory.clone()).or_else(|| {
            let passed = sender.passed();
            let is_idle = |page: &mut Page| sender.is_released(page.id, passed);
            let idle: Vec<_> = self.0.extract_if(.., is_idle).collect();
            idle.iter().for_each(|page| sender.forget_foreign_page(page.id));
            sender.add_foreign_page(memory.clone())
        });
        self.0.extend(added.map(|id| Page { id, memory, used: PAGE_HEADER }));
    }
}

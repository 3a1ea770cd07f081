//! Descriptors that arrive wrongly: never, late, twice, with another's page, forgotten too early,
//! or too many.

use super::super::chain::PAGE_LEN;
use super::super::input::Input;
use super::super::regions::heap;
use super::super::world::World;
use super::Bus;
use super::client::Mail;
use llmp::core::chain::ChainWriter;
use llmp::core::layout::{PAGE_BASE, PAGE_FIRST};
use llmp::core::memory::{Memory, Region};

impl<W: World> Bus<W> {
    /// Tampers with the hostile client's next packet.
    pub(super) fn fault_in_mail(&mut self, input: &mut Input) {
        let (kind, id) = (input.below(10), u32::from(input.byte() % 8));
        let Some(hostile) = self.clients.iter_mut().find(|client| client.is_hostile) else {
            return;
        };
        let (owner, outbox) = (hostile.id.0, &mut hostile.outbox);
        self.mail_tampered = true;
        let front = outbox.front().cloned();
        match (kind, front) {
            (0, _) => drop(outbox.pop_front()),
            (1, _) => hostile.held.extend(outbox.pop_front()),
            (2, _) => outbox.extend(hostile.held.drain(..)),
            (3, Some(mail)) => outbox.push_back(mail),
            (4, _) => outbox.push_front(Mail::Forget(id)),
            (5, _) => outbox.push_back(Mail::Forget(id)),
            (6, _) => outbox.push_back(Mail::Page { id, page: heap(PAGE_LEN) }),
            (7, Some(Mail::Page { page, .. })) => outbox[0] = Mail::Page { id, page },
            (8, Some(Mail::Page { id, .. })) => {
                outbox[0] = Mail::Page { id, page: foreign(owner, id, input) };
            }
            (9, _) => outbox.make_contiguous().reverse(),
            _ => {}
        }
    }
}

/// Returns a page of another writer, or of our own for another place.
pub fn foreign(owner: u32, id: u32, input: &mut Input) -> Region {
    let (what, by) = (input.below(5), input.byte());
    let len = if what == 1 { PAGE_LEN + 16 * by as usize } else { PAGE_LEN };
    let page = heap(len);
    let limits = llmp::Limits::new(PAGE_LEN, 64, 4 * PAGE_LEN).expect("these fit together");
    let other = if what == 0 { owner.wrapping_add(by.into()) } else { owner };
    ChainWriter::new(other, limits, page.clone());
    // A sender begins with page 0.
    let shown = if what == 2 { id.wrapping_add(by.into()) } else { id };
    page.write_words(llmp::core::layout::PAGE_ID, [llmp::core::layout::halves(shown, other)]);
    match what {
        3 => page.write_words(PAGE_BASE, [by.into()]),
        4 => page.write_words(PAGE_FIRST, [by.into()]),
        _ => {}
    }
    page
}

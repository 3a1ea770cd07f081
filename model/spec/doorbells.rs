//! The rules of sleeping and waking (section 7 of `docs/protocol.md`).

use crate::protocol::{Action, Rules, Verdict};
use crate::state::*;

impl Bus {
    pub fn sleep(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::Park { by } => {
                let process = self.process_mut(by);
                (process.is_parked, process.is_polling) = (true, false);
                process.rung_by = Set::default();
                process.second_look = Some(SecondLook::default());
            }
            Action::ParkFence { by } => {
                if let Some(again) = &mut self.process_mut(by).second_look {
                    *again = SecondLook { is_fenced: true, ..SecondLook::default() };
                }
            }
            Action::Unpark { by } => {
                let process = self.process_mut(by);
                (process.is_parked, process.is_polling) = (false, false);
                process.rung_by = Set::default();
                process.second_look = None;
            }
            Action::Poll { by } => {
                let process = self.process_mut(by);
                rules.demand(!process.is_parked, 10, "it sleeps and says that it polls")?;
                process.is_polling = true;
            }
            Action::PollingRead { by, of, polls } => {
                let peer = self.process(of);
                let is_right = peer.is_hostile || polls == peer.is_polling;
                rules.demand(is_right, 13, "not what stands there")?;
                if polls {
                    self.process_mut(by).owed_rings.remove(of);
                }
            }
            Action::RingFence { by } => {
                // It has no effect on other processes, but may be forgotten.
                let process = self.process_mut(by);
                process.is_fenced = !process.owed_rings.is_empty();
            }
            Action::RingRead { by, of, parked } => {
                let fenced = self.process(by).is_fenced;
                rules.demand(
                    fenced || !self.process(by).owed_rings.has(of),
                    10,
                    "no fence before",
                )?;
                let peer = self.process_mut(of);
                let is_right = peer.is_hostile || parked == peer.is_parked;
                rules.demand(is_right, 13, "not what stands there")?;
                let rings = parked && !peer.rung_by.has(by);
                if rings && !peer.is_hostile {
                    peer.rung_by.insert(by);
                }
                let process = self.process_mut(by);
                process.owed_rings.remove(of);
                process.is_fenced &= !process.owed_rings.is_empty();
                if rings {
                    process.must_ring.insert(of);
                }
            }
            Action::Ring { by, to } => {
                self.process_mut(by).must_ring.remove(to);
                self.process_mut(to).bell = true;
            }
            Action::Sleep { by, message, room } => {
                let process = self.process(by);
                let settled = process.owed_rings.is_empty() && process.must_ring.is_empty();
                rules.demand(settled, 10, "it sleeps and has not rung whom it must")?;
                let again = process.second_look.clone().unwrap_or_default();
                let parked = process.is_parked && again.is_fenced;
                rules.demand(parked, 10, "it sleeps and has not said so")?;
                let looked = self.inbound(by).all(|id| again.empty.has(id));
                rules.demand(looked || !message, 10, "it sleeps and has not looked again")?;
                let readers = &self.chain(by).readers;
                let learnt = readers.iter().all(|reader| again.learnt.has(reader.by));
                rules.demand(learnt || !room, 10, "it sleeps and has not asked for room again")?;
                let by_ref = by == BROKER && self.has_refs();
                let why = "it sleeps and has not checked its references again";
                rules.demand(learnt || !by_ref, 10, why)?;
                let process = self.process_mut(by);
                (process.is_asleep, process.second_look) = (true, None);
            }
            Action::Wake { by } => {
                let process = self.process_mut(by);
                (process.is_asleep, process.bell) = (false, false);
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// Records that `by` has stored something for which `peers` may wait.
    pub fn owe(&mut self, by: Id, peers: &[Id]) {
        if !self.sizes.bells {
            return;
        }
        let process = self.process_mut(by);
        process.is_fenced = false;
        for peer in peers {
            process.owed_rings.insert(*peer);
        }
    }
}

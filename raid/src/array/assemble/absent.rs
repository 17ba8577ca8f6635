//! Who isn't here at a start: what the labels say of them from now on.
//!
//! Does not know: whether the array may start without them.

use uuid::Uuid;

use crate::array::Array;
use crate::journal::entry::Seq;
use crate::member::MemberState;

impl Array {
    /// Marks absent members, and targets and spares that aren't here, as missing. True if any is.
    /// `floor`: where the journal begins; `newest`: the label that every disk that was in has, or a later one.
    pub(super) fn note_absent(&self, absent: &[Uuid], floor: Option<Seq>, newest: u64) -> bool {
        let mut ledger = self.ledger.borrow_mut();
        let gone: Vec<(Uuid, Option<u64>)> = ledger
            .label()
            .table
            .iter()
            .filter(|e| {
                e.state.is_live() && (absent.contains(&e.uuid) || ledger.disk(e.uuid).is_none())
            })
            .map(|entry| {
                let last = match entry.absence {
                    Some(absence) if absence.returning => Some(absence.last_generation),
                    Some(_) => Some(newest),
                    None => (entry.state == MemberState::InSync).then_some(newest),
                };
                (entry.uuid, last)
            })
            .collect();
        let unclean = self.dirty.get();
        for (uuid, _) in &gone {
            let is_journal = ledger.entry(*uuid).is_some_and(|entry| entry.journal);
            ledger.set_state(*uuid, MemberState::Missing);
            if is_journal && unclean {
                // Until replay has brought everything to its place.
                ledger.note_undrained(*uuid, Seq::FIRST);
            }
        }
        drop(ledger);
        if let Some(floor) = floor {
            for (uuid, last) in &gone {
                if let Some(last) = last {
                    self.begin_absence(*uuid, Some(floor), *last);
                }
            }
        }
        let mut ledger = self.ledger.borrow_mut();
        // A replacement whose original is absent goes on alone.
        let orphans: Vec<Uuid> = ledger
            .slots()
            .iter()
            .filter(|slot| slot.member.is_none())
            .filter_map(|slot| slot.target.as_ref().map(|target| target.uuid))
            .filter(|uuid| {
                ledger
                    .entry(*uuid)
                    .is_some_and(|e| e.state == MemberState::Replacing)
            })
            .collect();
        for uuid in &orphans {
            ledger.set_state(*uuid, MemberState::Rebuilding);
        }
        !gone.is_empty() || !orphans.is_empty()
    }
}

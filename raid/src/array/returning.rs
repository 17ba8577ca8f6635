//! Members that come back: caught up where it is known what they missed, else rebuilt whole.
//!
//! [`judge_return`] is pure: the label of the disk and the array's in, verdict out. A disk that passes
//! becomes the target of its own slot; every row that isn't in its map counts as present on it, and
//! [`crate::sync`] copies the others.
//!
//! Invariants
//! - What is on the disk counts only once its own label says that it is back; and nothing that counts
//!   on it is acked before all labels say so. So a restart can tell the disk from an older image of it.
//! - Nothing that the array ever asked of the disk is on its way when it is taken back (fault D13).
//! - A row that somebody works on at that moment may pass the disk by: it joins the map.
//! - A disk comes back by itself only if the operator didn't fail it.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::create::zone_owner;
use super::disk::Disk;
use super::probe::read_label;
use super::watch::Watched;
use super::{Array, MemberDisk};
use crate::error::RaidError;
use crate::events::EventKind;
use crate::geometry::Row;
use crate::label::{ArrayLabel, Label};
use crate::member::MemberState;

/// What became of a disk that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readded {
    /// It is in its slot again and gets the rows that it missed.
    CatchingUp {
        /// Rows to copy.
        rows: u64,
    },
    /// It is a spare now, with nothing of what was on it.
    Spare {
        /// Why it couldn't be caught up.
        why: String,
    },
}

/// The slot that a disk comes back to, or why it can't be caught up.
///
/// `taken`: the slot has a member or is being filled. `known`: what it missed is known.
fn judge_return(
    label: &Label,
    ours: &ArrayLabel,
    taken: impl Fn(usize) -> bool,
    known: bool,
) -> Result<usize, String> {
    let Some(entry) = ours.entry(label.member_uuid) else {
        return Err("the array doesn't list it any more".into());
    };
    let Some(slot) = entry.slot else {
        return Err("its slot has another member".into());
    };
    if entry.state.is_live() {
        return Err(format!("the array has it as {}", entry.state));
    }
    if taken(slot) {
        return Err(format!("slot {slot} is being filled onto another disk"));
    }
    let Some(absence) = entry.absence.filter(|_| known) else {
        return Err("it isn't known what it missed".into());
    };
    if label.array.generation < absence.last_generation {
        return Err(format!(
            "it is an older image of itself: its label has generation {}, it had {} when it went",
            label.array.generation, absence.last_generation
        ));
    }
    if label.array.event_count >= entry.since_event {
        return Err(format!(
            "it was used without the others: its label has event {}, the array went on without it \
             from event {}",
            label.array.event_count, entry.since_event
        ));
    }
    Ok(slot)
}

impl Array {
    /// Takes a disk back that was a member: the verb of an operator. It is caught up on what it missed
    /// if that is known; otherwise it is added as a spare, which formats it.
    ///
    /// Refused while the disk owes answers, and if it bears the label of a disk that takes part.
    pub fn readd_member(
        self: &Rc<Self>,
        disk: MemberDisk,
    ) -> LocalBoxFuture<'_, Result<Readded, RaidError>> {
        Box::pin(async move {
            match self.catch_up_member(&disk).await? {
                Ok(rows) => Ok(Readded::CatchingUp { rows }),
                Err(why) => {
                    self.add_spare(disk).await?;
                    Ok(Readded::Spare { why })
                }
            }
        })
    }

    /// As [`Array::readd_member`], but a disk that can't be caught up is left as it is. Gives the rows
    /// to copy, or why not.
    pub fn catch_up_member<'a>(
        self: &'a Rc<Self>,
        disk: &'a MemberDisk,
    ) -> LocalBoxFuture<'a, Result<Result<u64, String>, RaidError>> {
        Box::pin(async move {
            let (device, label) = self.quiet_member(disk).await?;
            self.take_back(&disk.path, device, &label).await
        })
    }

    /// A disk of this array has turned up again: it is caught up if it can be, and left alone if not.
    /// Gives the rows to copy.
    pub fn member_returned(
        self: &Rc<Self>,
        disk: MemberDisk,
    ) -> LocalBoxFuture<'_, Result<Option<u64>, RaidError>> {
        Box::pin(async move {
            let (device, label) = self.quiet_member(&disk).await?;
            self.return_by_itself(&disk.path, device, &label).await
        })
    }

    /// As [`Array::member_returned`], of a disk whose label was read.
    pub(super) async fn return_by_itself(
        self: &Rc<Self>,
        path: &Rc<str>,
        device: Watched,
        label: &Label,
    ) -> Result<Option<u64>, RaidError> {
        let entry = self.ledger.borrow().entry(label.member_uuid);
        if entry.is_some_and(|entry| entry.held_out) {
            return Ok(None);
        }
        if entry.is_some_and(|entry| entry.journal) {
            let detail = format!(
                "it was a journal disk and has missed records; `cairn disk replace {path} {path} \
                 --wipe` puts it in service again"
            );
            self.report(EventKind::MemberStale, Some(path), detail);
            return Ok(None);
        }
        match self.take_back(path, device, label).await? {
            Ok(rows) => Ok(Some(rows)),
            Err(why) => {
                let detail = format!(
                    "it can't be caught up: {why}; `cairn array spare add {} {path} --wipe` rebuilds \
                     it whole",
                    self.name
                );
                self.report(EventKind::MemberStale, Some(path), detail);
                Ok(None)
            }
        }
    }

    /// A disk that bears this array's label, with nothing on its way to it.
    async fn quiet_member(&self, disk: &MemberDisk) -> Result<(Watched, Label), RaidError> {
        self.check_open()?;
        self.settled_disk(&disk.path, None).await?;
        let device = self.watch.over(&disk.path, &disk.device);
        let label = read_label(&device, &disk.path).await?;
        let format = |reason: &str| RaidError::Format {
            disk: disk.path.to_string(),
            reason: reason.into(),
        };
        if label.array.uuid != self.uuid {
            return Err(format("its label is another array's"));
        }
        if device.device_size() < label.disk_bytes {
            return Err(format(
                "it is smaller than its label says: it was truncated or copied to a smaller disk",
            ));
        }
        if zone_owner(&device).await? != Some((self.uuid, label.member_uuid)) {
            return Err(format(
                "its zones aren't those that its label speaks of: it is no whole copy of a member",
            ));
        }
        // Also what was asked of it by another path.
        self.settled_disk(&disk.path, Some(label.member_uuid))
            .await?;
        Ok((device, label))
    }

    /// Makes a former member the target of its slot, or says why that can't be.
    async fn take_back(
        self: &Rc<Self>,
        path: &Rc<str>,
        device: Watched,
        label: &Label,
    ) -> Result<Result<u64, String>, RaidError> {
        let held = self.labels.lock().await;
        self.check_open()?;
        let member = label.member_uuid;
        let live = self.ledger.borrow().disk(member);
        if let Some(live) = live {
            return Err(if live.path == *path {
                let state = self.ledger.borrow().entry(member).map(|entry| entry.state);
                let state = state.unwrap_or(MemberState::InSync);
                self.wrong_state(path, state, "it takes part already")
            } else {
                RaidError::Cloned {
                    first: live.path.to_string(),
                    second: path.to_string(),
                    member,
                }
            });
        }
        if let Some(flights) = self.watch.unfinished(path, Some(member)) {
            // It failed while this waited for the labels: what it was asked for then may land at any time.
            return Err(RaidError::Unanswered {
                disk: path.to_string(),
                array: self.name.to_string(),
                operations: flights.in_flight(),
            });
        }
        let map = self.missed.map(member);
        let verdict = {
            let ledger = self.ledger.borrow();
            let taken = |slot: usize| {
                let disks = ledger.slots().get(slot);
                disks.is_none_or(|disks| disks.member.is_some() || disks.target.is_some())
            };
            judge_return(label, ledger.label(), taken, map.is_some())
        };
        let (slot, map) = match (verdict, map) {
            (Ok(slot), Some(map)) => (slot, map),
            (verdict, _) => return Ok(Err(verdict.err().unwrap_or_default())),
        };
        let disk = Disk::new(member, Rc::clone(path), device, Some(label.layout));
        disk.labelled.set(label.array.generation);
        disk.start_filling_at(0);
        self.ledger.borrow_mut().take_back(Rc::clone(&disk));
        self.commit_event(&held).await?;
        if disk.out.get() {
            return Err(self.wrong_state(path, MemberState::Failed, "it failed again just now"));
        }
        for row in self.cache.busy() {
            map.borrow_mut().insert(row);
        }
        disk.catch_up(map);
        let rows = self.rows_to_get(&disk);
        self.ledger.borrow_mut().note_returned();
        self.commit(&held).await?;
        drop(held);
        let detail = format!("slot {slot}: {rows} rows that it missed are caught up");
        self.report(EventKind::RebuildStarted, Some(path), detail);
        self.kick_sync();
        Ok(Ok(rows))
    }

    /// Written rows that a disk lacks.
    pub(crate) fn rows_to_get(&self, disk: &Disk) -> u64 {
        let (space, progress) = (self.space.borrow(), disk.progress.borrow());
        let mut rows = 0;
        let mut at = Row(0);
        while let Some(row) = progress
            .next_lacking(at)
            .and_then(|row| space.next_written(row))
        {
            if progress.has(row) {
                at = row;
            } else {
                rows += 1;
                at = Row(row.0 + 1);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::Seq;
    use crate::label::Absence;
    use crate::label::tests::sample;

    /// Member 5 of the sample went away at event 5, with label generation 11.
    fn away() -> (Label, ArrayLabel) {
        let mut label = sample();
        label.array.table[4].absence = Some(Absence {
            map: 1,
            from: Seq(1),
            last_generation: 11,
            returning: false,
        });
        let ours = label.array.clone();
        label.member_uuid = ours.table[4].uuid;
        label.array.event_count = 4;
        label.array.generation = 11;
        (label, ours)
    }

    #[test]
    fn d9_a_member_that_went_and_comes_back_is_caught_up() {
        let (label, ours) = away();
        assert_eq!(judge_return(&label, &ours, |_| false, true), Ok(4));
    }

    #[test]
    fn d9_one_whose_absence_is_not_known_is_not_trusted() {
        let refused = |change: fn(&mut Label, &mut ArrayLabel), why: &str| {
            let (mut label, mut ours) = away();
            change(&mut label, &mut ours);
            let reason = judge_return(&label, &ours, |_| false, true).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        };
        refused(|label, _| label.array.generation = 10, "older image");
        refused(|label, _| label.array.event_count = 5, "without the others");
        refused(|label, _| label.array.event_count = 9, "without the others");
        refused(|_, ours| ours.table[4].absence = None, "isn't known");
        refused(|_, ours| ours.table[4].slot = None, "another member");
        refused(|_, ours| ours.table.truncate(4), "doesn't list");
        refused(
            |_, ours| ours.table[4].state = MemberState::InSync,
            "has it as in_sync",
        );
        let (label, ours) = away();
        assert!(judge_return(&label, &ours, |slot| slot == 4, true).is_err());
        assert!(judge_return(&label, &ours, |_| false, false).is_err());
    }
}

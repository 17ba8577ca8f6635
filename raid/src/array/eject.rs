//! Throwing disks out.
//!
//! [`Array::throw_out`] decides at once that nothing new is planned on a disk; [`Array::settle`] makes
//! it durable. Every ack goes through `settle` first: whoever planned without the disk, knowing or
//! not, must not be acked before the other labels say so, or a crash would bring the disk back with
//! old data (fault D2).
//!
//! Invariants
//! - A disk that is `out` and live in the ledger waits in `thrown_out`, or the array is broken.
//! - Settling is a task of its own: a caller who gives up doesn't leave it half done.

use std::rc::Rc;

use cairn_blockdev::IoErrorKind;

use super::Array;
use super::disk::Disk;
use crate::error::RaidError;
use crate::events::EventKind;
use crate::member::MemberState;
use crate::mutation::{self, Mutation};

impl Array {
    /// Throws a disk out. On return it is out of the labels of the others, or the array is broken.
    pub(crate) async fn eject(self: &Rc<Self>, disk: &Rc<Disk>, why: &str) {
        self.throw_out(disk, why);
        self.settle().await;
    }

    /// Plans nothing more on a disk, and starts to make that durable.
    pub(crate) fn throw_out(self: &Rc<Self>, disk: &Rc<Disk>, why: &str) {
        if disk.out.replace(true) {
            return;
        }
        self.thrown_out
            .borrow_mut()
            .push((Rc::clone(disk), why.to_owned()));
        let array = Rc::clone(self);
        self.env
            .spawn
            .spawn(Box::pin(async move { array.settle_in_time().await }));
    }

    fn is_settled(&self) -> bool {
        let ledger = self.ledger.borrow();
        let recorded = self.witnessed.get() >= ledger.label().event_count;
        self.thrown_out.borrow().is_empty() && !ledger.has_uncommitted() && recorded
    }

    /// Waits until every change of membership so far is in the labels.
    pub(crate) async fn settle(self: &Rc<Self>) {
        if !mutation::on(Mutation::AckBeforeEjection) {
            self.settle_in_time().await;
        }
    }

    async fn settle_in_time(self: &Rc<Self>) {
        // While the array is being started nobody is acked, and a start that is refused must leave
        // the labels as they were: what is thrown out by then waits for the end of the start.
        // Once replay puts things in place it can't wait any more: the journal is about to forget them.
        // One that is read only has no labels to change: the disk is out as long as it runs.
        let may = (self.is_open() || self.replaying.get()) && !self.is_read_only();
        if self.is_settled() || self.broken.borrow().is_some() || !may {
            return;
        }
        self.settles
            .pass(&self.env.spawn, || {
                let array = Rc::clone(self);
                Box::pin(async move { array.settle_now().await })
            })
            .await;
    }

    async fn settle_now(self: Rc<Self>) {
        // Whoever changes the membership holds this until its commit is done.
        let held = self.labels.lock().await;
        let mut lost_some = false;
        loop {
            let next = self.thrown_out.borrow_mut().pop();
            let Some((disk, why)) = next else { break };
            lost_some |= self.put_out(&disk, &why);
        }
        if self.broken.borrow().is_some() {
            return;
        }
        if !self.ledger.borrow().has_uncommitted() {
            if !self.is_settled() {
                self.record_witness().await;
            }
            return;
        }
        // A failure of this commit has broken the array.
        if self.commit_event(&held).await.is_ok() && lost_some {
            self.after_loss().await;
        }
    }

    /// What follows the durable loss of a disk: the witness, the event, and the next spare.
    pub(super) async fn after_loss(self: &Rc<Self>) {
        self.record_witness().await;
        let missing = self.ledger.borrow().slots_missing();
        if missing > 0 {
            let left = self.geometry.redundancy().saturating_sub(missing);
            let detail = format!("{missing} member(s) missing, {left} more may fail");
            self.report(EventKind::DegradedArray, None, detail);
        }
        self.kick_sync();
        self.kick_journal_drain();
    }

    /// Moves a disk out in the ledger, or finds the array broken by its loss. The caller holds the
    /// labels and commits. True if the ledger changed.
    pub(super) fn put_out(&self, disk: &Rc<Disk>, why: &str) -> bool {
        disk.out.set(true);
        if let Some(journal) = self.journal() {
            journal.forget_copies(disk);
        }
        let Some(entry) = self.ledger.borrow().entry(disk.uuid) else {
            return false;
        };
        // By identity: a member that came back has another handle than when it went.
        let known = self.ledger.borrow().disk(disk.uuid);
        if !entry.state.is_live() || !known.is_some_and(|known| Rc::ptr_eq(&known, disk)) {
            return false;
        }
        if entry.state == MemberState::Journal {
            // In a start after an unclean stop they may have what nobody else has: no label may say that they are out.
            let lost = self.journal_disks_lost();
            let is_needed = !self.is_open() && self.dirty.get() && self.forced_over().is_none();
            if is_needed && lost.len() > self.geometry.redundancy() {
                self.fail(
                    Some(&disk.path),
                    super::journal_disks::too_few_copies(&lost),
                );
                return false;
            }
            self.put_out_journal_disk(disk, why);
            return true;
        }
        let missing = self.ledger.borrow().slots_missing();
        if missing > self.geometry.redundancy() {
            let reason = format!(
                "{} of {} members are gone, {} was the last to go ({why}); bring disks back and \
                 restart, or restore from a copy",
                missing,
                self.geometry.members(),
                disk.path
            );
            self.fail(Some(&disk.path), reason);
            return false;
        }
        let member = entry.state == MemberState::InSync;
        let kind = if member {
            EventKind::Fail
        } else {
            EventKind::FailSpare
        };
        self.report(
            kind,
            Some(&disk.path),
            format!("was {}: {why}", entry.state),
        );
        self.ledger
            .borrow_mut()
            .set_state(disk.uuid, MemberState::Failed);
        disk.flights().retire();
        if disk.outdated.get() {
            self.ledger.borrow_mut().set_absence(disk.uuid, None);
        } else if member || entry.absence.is_some() {
            self.begin_absence(disk.uuid, None, disk.labelled.get());
        }
        let mut ledger = self.ledger.borrow_mut();
        if disk.held_out.get() {
            ledger.hold_out(disk.uuid, true);
        }
        // A replacement goes on alone: the slot has nobody else.
        let left = entry
            .slot
            .and_then(|slot| ledger.slots().get(slot).cloned());
        if let Some(target) = left
            .filter(|slot| slot.member.is_none())
            .and_then(|s| s.target)
            && ledger
                .entry(target.uuid)
                .is_some_and(|e| e.state == MemberState::Replacing)
        {
            ledger.set_state(target.uuid, MemberState::Rebuilding);
        }
        true
    }

    /// From now on nothing is written, and nobody acked.
    pub(super) fn fail(&self, disk: Option<&str>, reason: String) {
        let first = self.broken.borrow_mut().replace(reason.clone()).is_none();
        if first {
            self.report(EventKind::ArrayFailed, disk, reason);
        }
        if let Some(journal) = self.journal() {
            journal.fail(IoErrorKind::Lost);
        }
    }

    /// Whether disks were thrown out that the ledger still counts.
    pub(crate) fn has_thrown_out(&self) -> bool {
        !self.thrown_out.borrow().is_empty()
    }

    /// Fails once the array is broken.
    pub(super) fn check_unbroken(&self) -> Result<(), RaidError> {
        match &*self.broken.borrow() {
            Some(reason) => Err(RaidError::Failed {
                array: self.name.to_string(),
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Gives an array up that couldn't be started: nothing more is written, all disks are closed.
    pub(super) fn abandon(&self) {
        self.stopping.set(true);
        self.thrown_out.borrow_mut().clear();
        self.broken
            .borrow_mut()
            .get_or_insert_with(|| "it was not started".into());
        self.ledger.borrow_mut().close();
    }

    /// Makes sure that nobody is acked before the membership it rested on is durable.
    pub(crate) async fn before_ack(self: &Rc<Self>) -> Result<(), IoErrorKind> {
        self.settle().await;
        self.check_alive()
    }
}

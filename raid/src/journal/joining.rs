//! Disks that are about to be members, perhaps in the places of others: from before they count, each gets a copy of every
//! group, besides those on members.
//!
//! Invariants
//! - A disk that lacks a group since it joined isn't among them any more: it has to join anew.
//! - Nobody waits for one that is slow, or whose ring is full.
//!
//! Does not know: who is a member, when it becomes one.

use std::rc::Rc;

use super::entry::Seq;
use super::log::Journal;
use crate::array::disk::Disk;
use crate::mutation::{Mutation, on};

fn is_among(disks: &[Rc<Disk>], disk: &Rc<Disk>) -> bool {
    disks.iter().any(|one| Rc::ptr_eq(one, disk))
}

/// Disks get a copy of every group until this is dropped.
pub(crate) struct Joining {
    journal: Rc<Journal>,
    disks: Vec<Rc<Disk>>,
}

impl Joining {
    /// Whether all that aren't out have a copy of every group since they joined.
    pub(crate) fn has_all(&self) -> bool {
        let have = self.journal.joining();
        let mut disks = self.disks.iter().filter(|disk| !disk.out.get());
        disks.all(|disk| is_among(&have, disk)) || on(Mutation::SuccessorWithoutCopies)
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.journal.joining.borrow_mut().clear();
        self.journal.room.notify_waiters();
    }
}

impl Journal {
    /// From now on disks that have a ring get a copy of every group that isn't logged yet.
    pub(crate) fn join(self: &Rc<Self>, disks: Vec<Rc<Disk>>) -> Joining {
        if !on(Mutation::SuccessorWithoutCopies) {
            self.joining.borrow_mut().clone_from(&disks);
        }
        Joining {
            journal: Rc::clone(self),
            disks,
        }
    }

    /// Disks that have a copy of every group since they joined.
    pub(crate) fn joining(&self) -> Vec<Rc<Disk>> {
        let mut joining = self.joining.borrow_mut();
        let before = joining.len();
        joining.retain(|disk| !disk.out.get() && !disk.is_slow());
        if joining.len() < before {
            self.room.notify_waiters();
        }
        joining.clone()
    }

    /// A disk lacks something since it joined.
    pub(super) fn joins_no_more(&self, disk: &Rc<Disk>) {
        self.joining
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, disk));
        self.room.notify_waiters();
    }

    /// Gives a group a place on each disk that joins and that it is `owed` to, but for those where it has one among `placed`.
    /// True if the ring of one is full: it joins no more. Every group goes to it, which is more than admission reckons with.
    pub(super) fn place_joining(
        &self,
        mut owed: Vec<Rc<Disk>>,
        placed: &mut Vec<(Rc<Disk>, u64)>,
        len: u64,
        last: Seq,
    ) -> bool {
        owed.retain(|disk| !placed.iter().any(|(one, _)| Rc::ptr_eq(one, disk)));
        if owed.is_empty() {
            return false;
        }
        let given = self.place(&owed, owed.len(), len, last);
        owed.retain(|disk| !given.iter().any(|(one, _)| Rc::ptr_eq(one, disk)));
        placed.extend(given);
        for disk in &owed {
            self.joins_no_more(disk);
        }
        !owed.is_empty()
    }
}

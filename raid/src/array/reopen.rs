//! The journal at the start of an array: who has an older one than its label says, replay, a new epoch.
//!
//! Does not know: how a journal is read (`journal::open`), what replay does with a record
//! (`stripe::replay`).

use std::rc::Rc;

use cairn_blockdev::IoErrorKind;

use super::Array;
use crate::error::RaidError;
use crate::journal::log::Journal;
use crate::journal::open::{OpenError, Opened};
use crate::mutation::{Mutation, on};

impl Array {
    /// Throws out members whose journal header is older than every member's was when the labels were
    /// written: older images of themselves (fault A10). What they miss isn't known.
    pub(super) fn throw_out_older_images(self: &Rc<Self>, opened: &Opened) {
        let newest = self.ledger.borrow().label().journal_headers;
        for disk in opened.outdated(newest) {
            disk.outdated.set(true);
            let why = format!(
                "it is an older image of itself: its journal header is of generation {}, every \
                 member had {newest}",
                disk.header()
            );
            self.throw_out(disk, &why);
        }
        for disk in self.with_rings() {
            disk.had_header(newest);
        }
    }

    /// Opens the journal and, after an unclean stop, replays it. `lossy`: records may be gone with journal
    /// disks.
    pub(super) async fn open_journal(
        self: &Rc<Self>,
        opened: &Opened,
        unclean: bool,
        lossy: bool,
    ) -> Result<(), RaidError> {
        if unclean {
            self.replaying.set(true);
            self.settle().await;
            self.check_unbroken()?;
        }
        let copies = self.geometry.redundancy() + 1;
        let mut again = None;
        let journal = loop {
            let current = again.as_ref().unwrap_or(opened);
            // What a disk held alone that has gone since was never acked: without it that isn't there.
            if current.lost_a_disk() {
                let read = Opened::read(self.uuid, self.with_rings(), !unclean, lossy).await;
                again = Some(read.map_err(|error| self.journal_error(&error))?);
                continue;
            }
            let journal = Journal::resume(
                current.resume(),
                copies,
                self.smallest_ring(),
                self.hooks.memory,
            );
            *self.journal.borrow_mut() = Some(Rc::clone(&journal));
            let level = self.bring_headers_level(&journal, current).await;
            level.map_err(|_| self.lost_error())?;
            if unclean && !on(Mutation::OnlyCopyNotKept) {
                current.keep_single().await;
            }
            // A disk may have failed in that.
            if !current.lost_a_disk() {
                break journal;
            }
        };
        let opened = again.as_ref().unwrap_or(opened);
        if unclean {
            self.replay(&journal, opened).await?;
        }
        // What is still in the rings is behind us: the new epoch doesn't look at it.
        let begun = self.begin_epoch(&journal).await;
        begun.map_err(|kind| match kind {
            IoErrorKind::NoSpace => self.no_room_for_logs(),
            _ => self.lost_error(),
        })?;
        self.forget_lost_copies().await?;
        if unclean {
            self.mark_clean().await?;
        }
        Ok(())
    }

    fn no_room_for_logs(&self) -> RaidError {
        RaidError::NotStarted {
            array: self.name.to_string(),
            reason: "the journal's rings have no room for what logs of prepared writes still need of it; bring more \
                     members, or journal disks, back"
                .into(),
            wait_may_help: self.in_sync().len() < self.geometry.members(),
            force_may_help: false,
        }
    }

    pub(super) fn journal_error(&self, error: &OpenError) -> RaidError {
        RaidError::NotStarted {
            array: self.name.to_string(),
            reason: error.to_string(),
            wait_may_help: true,
            force_may_help: false,
        }
    }
}

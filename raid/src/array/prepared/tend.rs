//! What a cycle does for the logs: notes what is in place, asks hooks, lets records go, copies forward
//! what would keep the floor down, and writes the logs' states.
//!
//! Invariants
//! - What a cycle writes for the logs is durable before the floor rises.
//! - A hook that doesn't answer keeps its log's records and nothing else.
//! - Copying brings the floor to one place, its *cut*, and then perhaps to the next. All that is pending at a cut goes
//!   behind it in the same breath, so that no commit reaches back over it.
//! - Copying goes on only while it frees as much as a quarter of what it may have to copy, so that it
//!   costs a bounded part of what is written, or because everything below a place has to be renewed.
//! - A copy takes over what its original was admitted with: records count once.

use std::rc::Rc;

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::prepared::{LogId, Seq as LogSeq};
use cairn_blockdev::units::{KIB, MIB, u64_of, usize_of};

use super::place::payload_bytes;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::journal::entry::Seq;
use crate::journal::log::Journal;
use crate::logs::codec::of_state;
use crate::logs::log::Log;

/// Part of what the journal admits that one cycle copies at most.
const ROUND_SHARE: u64 = 16;
/// Room in the rings beside copies, for what is logged while the floor isn't there yet.
const COPIES_SPARE: u64 = 192 * KIB;
/// A group of the largest kind.
const GROUP_BYTES: u64 = MIB + 64 * KIB;
/// What a record takes in a group's descriptor at most.
const RECORD_BYTES: u64 = 256;
/// Part of what the journal admits that has to be in vain before anything is copied.
const GARBAGE_SHARE: u64 = 16;

impl Array {
    /// Does for the logs what has to be done now that everything in the lane below `applied` is in place
    /// and flushed. Durable on return; gives the floor that they allow.
    pub(crate) async fn tend_logs(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        applied: Seq,
    ) -> Result<Seq, IoErrorKind> {
        if self.logs.book.borrow().is_empty() && self.logs.newest.get().is_none() {
            // What is forgotten is still replayed as a whole: not from between an operation and its commit.
            return Ok(self.log_floor(applied));
        }
        self.logs.book.borrow_mut().note_applied(applied);
        self.ask_hooks();
        self.trim_logs();
        self.copy_forward(journal, applied);
        self.write_states(journal, applied);
        let floor = self.log_floor(applied);
        if let Some(lane) = self.logs.newest.take() {
            journal.logged_below(lane.plus(1)).await?;
            self.flush_all().await?;
        }
        self.logs.wake();
        Ok(floor)
    }

    /// The floor that the logs allow.
    pub(crate) fn log_floor(&self, most: Seq) -> Seq {
        self.logs.book.borrow().floor(most)
    }

    /// Asks the hooks of logs that could let records go.
    pub(crate) fn ask_hooks(self: &Rc<Self>) {
        for id in self.log_ids() {
            let could = self.logs.look(id, Log::could_trim).flatten();
            let Some(through) = could else { continue };
            match self.logs.hook(id) {
                None => self.logs.change(id, |log| log.release(through)),
                Some(hook) => {
                    let Some(question) = self.logs.ask(id) else {
                        continue;
                    };
                    let array = Rc::clone(self);
                    self.env.spawn.spawn(Box::pin(async move {
                        let agreed = hook(id, LogSeq(through)).await;
                        if array.logs.answered(id, question) && agreed {
                            array.logs.change(id, |log| log.release(through));
                            array.kick_apply();
                        }
                    }));
                }
            }
        }
    }

    fn trim_logs(&self) {
        for id in self.log_ids() {
            self.logs.change(id, |log| drop(log.trim()));
        }
    }

    /// Whether a cycle would let records of logs go.
    pub(crate) fn logs_want_a_cycle(&self) -> bool {
        let ids = self.log_ids();
        let wants = |id: &LogId| self.logs.look(*id, Log::would_trim) == Some(true);
        ids.iter().any(wants)
    }

    /// Copies what keeps the floor down to the lane's end, the oldest first: all that is pending at once, of the rest as
    /// much as a cycle has time for.
    fn copy_forward(self: &Rc<Self>, journal: &Rc<Journal>, applied: Seq) {
        let renewing = self.logs.renew_below.get() > Some(journal.floor());
        if !renewing && !self.copying_pays(journal) {
            return;
        }
        let Some(cut) = self.cut(journal) else { return };
        let mut left = journal.admits_bytes() / ROUND_SHARE;
        let movable = self.logs.book.borrow().movable(applied.min(cut), cut);
        for (id, seq, held) in movable {
            let is_pending = self.logs.look(id, |log| log.is_committed(seq)) == Some(false);
            if !is_pending {
                if left == 0 {
                    continue;
                }
                left = left.saturating_sub(held.cost());
            }
            let (entry, payload) = (held.entry.clone(), held.payload.clone());
            let lane = self.log(journal, entry, payload, None);
            self.logs.newest.set(Some(lane));
            journal.readmit(held.lane, lane);
            self.logs.change(id, |log| log.note_moved(seq, lane));
        }
    }

    /// The place that copying brings the floor to. Nothing is copied twice on the way there, and what is copied leaves
    /// room for what goes on meanwhile: copies free nothing before the floor is there. [`None`]: there is no room.
    fn cut(&self, journal: &Journal) -> Option<Seq> {
        let begun = self.logs.cut.get();
        if let Some(cut) = begun.filter(|cut| *cut > journal.floor()) {
            return Some(cut);
        }
        if !self.has_room_for_copies(journal) {
            return None;
        }
        let cut = journal.next();
        self.logs.cut.set(Some(cut));
        Some(cut)
    }

    /// Whether the rings that groups go to now can take everything that logs need once more.
    fn has_room_for_copies(&self, journal: &Journal) -> bool {
        let needed = {
            let book = self.logs.book.borrow();
            book.payload_bytes() + book.records_total() * RECORD_BYTES + COPIES_SPARE
        };
        let own = self.rings_of_their_own(journal);
        let disks = if own.len() < self.copies_wanted(usize::MAX) {
            self.in_sync()
        } else {
            own
        };
        // A ring's free parts aren't in one piece: there may be room that is too little for a group.
        let free = |disk: &Rc<Disk>| journal.free_bytes(disk).saturating_sub(GROUP_BYTES);
        rings_take(
            disks.iter().map(free).collect(),
            self.copies_wanted(disks.len()),
            needed,
        )
    }

    /// Whether the journal fills with what isn't the logs', or with what they said of their records. Not in a replay:
    /// that has to do with the room that it finds.
    fn copying_pays(&self, journal: &Journal) -> bool {
        if !self.is_open() {
            return false;
        }
        if journal.holds_unadmitted() {
            return true;
        }
        let live = self.logs.book.borrow().used();
        let garbage = journal.admitted_bytes().saturating_sub(live);
        journal.is_crowded() && garbage >= (live / 4).max(journal.admits_bytes() / GARBAGE_SHARE)
    }

    /// Writes the states that changed, and those that keep the floor down where that matters.
    fn write_states(self: &Rc<Self>, journal: &Rc<Journal>, applied: Seq) {
        let cut = self.logs.cut.get().filter(|cut| *cut > journal.floor());
        let below = cut.unwrap_or(Seq::NONE).min(applied);
        for id in self.log_ids() {
            let wants = self.logs.look(id, |log| log.wants_anchor(below));
            if wants == Some(true) {
                self.write_state(journal, id);
            }
        }
    }

    fn write_state(self: &Rc<Self>, journal: &Rc<Journal>, id: LogId) {
        if let Some(state) = self.logs.look(id, Log::state) {
            let (entry, payload) = of_state(id.0, &state);
            let lane = self.log(journal, entry, payload, None);
            self.logs.newest.set(Some(lane));
            self.logs.change(id, |log| log.note_anchor(lane));
        }
    }

    /// Has everything that logs need below `target` written anew with the next cycles.
    pub(crate) fn renew_logs(&self, target: Seq) {
        let below = self.logs.renew_below.get();
        self.logs.renew_below.set(below.max(Some(target)));
    }

    /// Begins a new epoch of the journal, after a replay that brought everything to its place: what the
    /// logs need is written anew in it, and counts once a header says so.
    ///
    /// The epoch's number is one that no earlier start that was interrupted here can have used: its
    /// groups may lie in the rings, and on members that are away.
    pub(crate) async fn begin_epoch(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
    ) -> Result<(), IoErrorKind> {
        let step = u64::from(u32::try_from(self.env.entropy.bits() >> 96).unwrap_or(0));
        let step = if self.logs.book.borrow().is_empty() {
            0
        } else {
            step
        };
        // What nothing frees room for would wait for ever.
        let has_logs = !self.logs.book.borrow().is_empty();
        if has_logs && !self.has_room_for_copies(journal) {
            return Err(IoErrorKind::NoSpace);
        }
        journal.begin_epoch(1 + step);
        let first = journal.next();
        let all = self.logs.book.borrow().movable(first, first);
        for (id, seq, held) in all {
            let admission = journal.try_admit_operation(usize_of(payload_bytes(&held.payload)));
            let (entry, payload) = (held.entry.clone(), held.payload.clone());
            let lane = self.log(journal, entry, payload, admission);
            self.logs.change(id, |log| log.note_moved(seq, lane));
        }
        for id in self.log_ids() {
            self.write_state(journal, id);
        }
        journal.logged_below(journal.next()).await?;
        self.flush_all().await?;
        self.save_all_missed(first).await?;
        self.write_floor(journal, first).await;
        self.flush_all().await?;
        journal.trimmed(first);
        self.logs.book.borrow_mut().passed(first);
        Ok(())
    }
}

/// Whether rings with so many bytes `free` take so many `copies` of so many bytes. Groups go to the rings in turn, each to
/// as many as there are copies, and no ring takes one twice: the fullest ones drop out first.
fn rings_take(mut free: Vec<u64>, copies: usize, mut bytes: u64) -> bool {
    free.sort_unstable();
    let (copies, mut given) = (u64_of(copies.max(1)), 0);
    for (at, room) in free.iter().enumerate() {
        let active = u64_of(free.len() - at);
        if active < copies {
            return false;
        }
        let takes = room.saturating_sub(given).saturating_mul(active) / copies;
        if takes >= bytes {
            return true;
        }
        bytes -= takes;
        given = *room;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_take_what_goes_to_them_in_turn() {
        assert!(rings_take(vec![10, 10], 2, 10));
        assert!(!rings_take(vec![10, 9], 2, 10));
        assert!(rings_take(vec![10; 24], 3, 80));
        assert!(!rings_take(vec![10; 24], 3, 81));
        // In turn the two that have less are full before the third one has taken half of it.
        assert!(!rings_take(vec![100, 50, 50], 2, 100));
        assert!(rings_take(vec![100, 50, 50], 2, 75));
        assert!(!rings_take(vec![100], 2, 1) && !rings_take(Vec::new(), 1, 1));
    }
}

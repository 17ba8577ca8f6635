//! What keeps a journal's copies and headers as they should be: thin groups are copied, floors written.
//!
//! Invariants
//! - The floor that a header tells is one that everything was in place and flushed below when it was
//!   handed in; who fails to write its header is ejected.
//!
//! Does not know: queues, acks, when the floor may rise.

use std::rc::Rc;

use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};

use super::entry::Seq;
use super::header::JournalHeader;
use super::log::{Journal, ring_bytes, ring_offset};
use super::open::Opened;
use crate::array::Array;
use crate::array::disk::Disk;
use crate::layout::ZoneKind;

impl Array {
    /// Copies groups that too few journal disks and too few members have, as they are: what replay rests on
    /// must outlast the loss of a disk in the middle of it.
    pub(crate) async fn thicken(self: &Rc<Self>, journal: &Rc<Journal>, opened: &Opened) {
        let all = self.geometry.redundancy() + 1;
        let living = self.in_sync().len();
        // Those that are missing may have had a copy of anything.
        let wanted = all.saturating_sub(self.geometry.members() - living);
        let own = self.rings_of_their_own(journal).len();
        let is_enough =
            |on_own: usize, on_members: usize| on_own >= all || on_members >= wanted.min(living);
        for group in opened.thin(is_enough) {
            let Some(bytes) = group.read().await else {
                continue;
            };
            let (on_own, on_members) = group.count(|_| true);
            let (mut others, missing) = if own >= all {
                let missing = all.saturating_sub(on_own);
                (self.rings_of_their_own(journal), missing)
            } else {
                (self.in_sync(), wanted.saturating_sub(on_members))
            };
            others.retain(|disk| !group.has(disk.uuid));
            for (disk, position) in journal.place(&others, missing, group.len, group.last) {
                let at = ring_offset(&disk) + position;
                let written = disk.write_at(at, bytes.clone(), WriteFlags::default());
                if let Err(error) = written.await {
                    self.write_failed(&disk, &error).await;
                }
            }
        }
    }

    /// Writes the floor to every disk with a ring, so that a restart doesn't look below it.
    pub(crate) async fn write_floor(self: &Rc<Self>, journal: &Rc<Journal>, floor: Seq) {
        journal.raise_floor(floor);
        // Those that join as well: what is below may be overwritten in their rings, too.
        self.write_headers_and_to(journal, &journal.joining()).await;
    }

    /// Writes the next header to every disk with a ring, and to disks that get one. To all of them: headers are written to two
    /// slots in turns, and one that is left out would have the next one go over its newest.
    pub(crate) async fn write_headers_and_to(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        more: &[Rc<Disk>],
    ) {
        let mut disks = self.with_rings();
        for disk in more {
            if !disks.iter().any(|known| Rc::ptr_eq(known, disk)) {
                disks.push(Rc::clone(disk));
            }
        }
        self.write_journal_headers(journal, &disks).await;
    }

    /// Gives disks that a crash left behind the newest header. The next one goes to the other slot then, on
    /// every disk: it would go over the only header that they have.
    pub(crate) async fn bring_headers_level(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        opened: &Opened,
    ) -> Result<(), IoErrorKind> {
        let behind = opened.behind();
        if behind.is_empty() {
            return Ok(());
        }
        self.put_headers(journal, &behind, journal.last_header())
            .await;
        self.flush_all().await
    }

    /// Writes the journal's next header to `disks`; who fails is ejected.
    pub(crate) async fn write_journal_headers(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        disks: &[Rc<Disk>],
    ) {
        self.put_headers(journal, disks, journal.next_header())
            .await;
    }

    /// Writes the header of an epoch and generation.
    async fn put_headers(
        self: &Rc<Self>,
        journal: &Rc<Journal>,
        disks: &[Rc<Disk>],
        (epoch, generation): (u64, u64),
    ) {
        let writes = disks.iter().map(|disk| {
            let header = JournalHeader {
                array: self.uuid(),
                member: disk.uuid,
                epoch,
                floor: journal.floor(),
                generation,
                ring_bytes: ring_bytes(disk),
                lanes: 1,
            };
            let layout = disk.layout.get().unwrap_or_default();
            let at = layout.zone(ZoneKind::Journal).offset + header.slot();
            let block = Buf::copy_of(&header.encode()).freeze();
            disk.write_at(at, block, WriteFlags::default())
        });
        let results = futures_util::future::join_all(writes).await;
        for (disk, result) in disks.iter().zip(results) {
            match result {
                Ok(()) => disk.note_header(generation),
                Err(error) => self.write_failed(disk, &error).await,
            }
        }
    }
}

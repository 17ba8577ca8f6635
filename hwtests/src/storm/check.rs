//! Reads everything and asks the model.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use cairn_blockdev::units::{SECTOR, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, WriteFlags};

use super::model::Crash;
use super::world::{Volume, World};

/// Checks read so much at once.
const CHECK_BYTES: u64 = 256 << 10;

/// Sectors of a block.
const BLOCK_SECTORS: u64 = 4096 / SECTOR;

fn block(first: u64) -> Range<u64> {
    first..first + BLOCK_SECTORS
}

/// What a fault of single blocks may have cost, by the exception that raid/README.md documents: blocks that
/// it spoilt in complete rows which a crash cut off.
struct Spoilt {
    /// How many blocks at most: those that were spoilt since everything was checked last.
    left: Cell<usize>,
    /// Rows (a volume's name, its row) of which at least half was cut off, as complete rows are.
    rows: BTreeSet<(String, u64)>,
}

impl World {
    /// Reads every volume whole, if the array runs: nothing is lost, nothing wrong. After a crash or a
    /// stop, what is found is settled by it.
    pub fn check(&mut self) {
        if !self.is_running() {
            return;
        }
        let after = self.worst.take();
        let spoilt = self.spoilt(after);
        for volume in &self.volumes {
            let Some(device) = volume.device() else {
                continue;
            };
            let size = volume.model.borrow().sectors() * SECTOR;
            let mut at = 0;
            while at < size {
                let len = CHECK_BYTES.min(size - at);
                self.check_range(volume, &device, at, len, (after, &spoilt));
                at += len;
            }
        }
        if let Some(replica) = &self.replica
            && let Some(device) = replica.device.borrow().clone()
        {
            for owner in &replica.owners {
                self.run(owner.check_idle(&device, &self.rules));
            }
        }
        self.lost_in_crash = false;
        self.spoilt = 0;
        self.checked_members = self.members();
    }

    /// What a fault of single blocks may have cost in the crash that is about to be checked.
    fn spoilt(&self, after: Option<Crash>) -> Spoilt {
        let row_sectors = self.shape.row_bytes() / SECTOR;
        let mut rows = BTreeSet::new();
        if let Some(crash) = after.filter(|_| self.spoilt > 0) {
            for volume in &self.volumes {
                let model = volume.model.borrow();
                for row in 0..model.sectors().div_ceil(row_sectors) {
                    let end = ((row + 1) * row_sectors).min(model.sectors() + 1 - BLOCK_SECTORS);
                    let blocks = (row * row_sectors..end).step_by(usize_of(BLOCK_SECTORS));
                    let cut = blocks.filter(|first| model.cut_off(crash, block(*first)));
                    if u64_of(cut.count()) * BLOCK_SECTORS * 2 >= row_sectors {
                        rows.insert((volume.name.clone(), row));
                    }
                }
            }
        }
        Spoilt {
            left: Cell::new(self.spoilt),
            rows,
        }
    }

    /// Whether what was found of a block, bytes of no write or an error, is what such a fault may have cost.
    /// A disk that tears no block leaves no doubt: then it must be the error.
    fn is_spoilt(
        &self,
        volume: &Volume,
        crash: Crash,
        first: u64,
        spoilt: &Spoilt,
        garbage: bool,
    ) -> bool {
        let row = first / (self.shape.row_bytes() / SECTOR);
        let model = volume.model.borrow();
        let is_it = self.may_cut_off()
            && spoilt.left.get() > 0
            && spoilt.rows.contains(&(volume.name.clone(), row))
            && model.cut_off(crash, block(first))
            && (!garbage || self.shape.tear_bytes < 4096);
        if is_it {
            spoilt.left.set(spoilt.left.get() - 1);
        }
        is_it
    }

    /// Whether a block may be lost by the exception of complete rows.
    fn was_cut_off(&self, volume: &Volume, crash: Crash, first: u64) -> bool {
        // The exception is none for a row that was never written before.
        let row_sectors = self.shape.row_bytes() / SECTOR;
        let row = first / row_sectors * row_sectors;
        let model = volume.model.borrow();
        let is_first = model.is_first_write(row..row + row_sectors);
        // One that joined after the last check may be gone as well.
        let all_there = self.members().len() == self.shape.members && !self.lost_in_crash;
        self.may_cut_off() && !is_first && !all_there && model.cut_off(crash, block(first))
    }

    /// A lost block is written anew, which heals it.
    fn heal(&self, volume: &Volume, first: u64, device: &Rc<dyn BlockDevice>) {
        let id = volume.model.borrow_mut().begin_write(block(first), true);
        let mut bytes = Buf::zeroed(4096);
        volume.model.borrow().fill(id, first, &mut bytes);
        let flags = WriteFlags { fua: true };
        match self.run(device.write(first * SECTOR, bytes.freeze(), flags)) {
            Ok(()) => volume.model.borrow_mut().acked(id),
            // Of an array that has failed nothing can be healed.
            Err(error) => assert!(
                self.rules.errors_allowed.get(),
                "a lost block can't be written: {error}"
            ),
        }
    }

    fn check_range(
        &self,
        volume: &Volume,
        device: &Rc<dyn BlockDevice>,
        at: u64,
        len: u64,
        (after, spoilt): (Option<Crash>, &Spoilt),
    ) {
        let began = volume.model.borrow_mut().read_begins();
        let (buf, result) = self.run(device.read(at, Buf::zeroed(usize_of(len))));
        volume.model.borrow_mut().read_ends(began);
        let first = at / SECTOR;
        let halves = || {
            // What is right of it, block by block.
            let half = (len / 2).next_multiple_of(4096);
            self.check_range(volume, device, at, half, (after, spoilt));
            self.check_range(volume, device, at + half, len - half, (after, spoilt));
        };
        if let Err(error) = result {
            if len > 4096 {
                return halves();
            }
            let excused = after.is_some_and(|crash| {
                len == 4096
                    && (self.was_cut_off(volume, crash, first)
                        || self.is_spoilt(volume, crash, first, spoilt, false))
            });
            if excused {
                return self.heal(volume, first, device);
            }
            assert!(
                self.rules.errors_allowed.get(),
                "{}: {error}; the array told: {:#?}",
                volume.name,
                self.told()
            );
            return;
        }
        let checked = match after {
            Some(crash) => volume.model.borrow_mut().check_after(crash, first, &buf),
            None => volume.model.borrow().check(first, &buf, began),
        };
        if let Err(complaint) = checked {
            if let Some(crash) = after.filter(|_| spoilt.left.get() > 0) {
                if len > 4096 {
                    return halves();
                }
                if len == 4096 && self.is_spoilt(volume, crash, first, spoilt, true) {
                    return self.heal(volume, first, device);
                }
            }
            let row = self.shape.row_bytes();
            panic!(
                "{complaint}; row {} of its extent; the array told: {:#?}",
                at / row,
                self.told()
            );
        }
    }
}

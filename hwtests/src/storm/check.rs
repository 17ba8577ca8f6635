//! Reads everything and asks the model.

use std::rc::Rc;

use cairn_blockdev::units::{SECTOR, usize_of};
use cairn_blockdev::{BlockDevice, Buf, WriteFlags};

use super::model::Crash;
use super::world::{Volume, World};

/// Checks read so much at once.
const CHECK_BYTES: u64 = 256 << 10;

impl World {
    /// Reads every volume whole, if the array runs: nothing is lost, nothing wrong. After a crash or a
    /// stop, what is found is settled by it.
    pub fn check(&mut self) {
        if !self.is_running() {
            return;
        }
        let after = self.worst.take();
        for volume in &self.volumes {
            let Some(device) = volume.device() else {
                continue;
            };
            let size = volume.model.borrow().sectors() * SECTOR;
            let mut at = 0;
            while at < size {
                let len = CHECK_BYTES.min(size - at);
                self.check_range(volume, &device, at, len, after);
                at += len;
            }
        }
        self.lost_in_crash = false;
        self.checked_members = self.members();
    }

    /// Whether a block may be lost by the documented exception. If so it is written anew, which heals it.
    fn was_cut_off(
        &self,
        volume: &Volume,
        crash: Crash,
        first: u64,
        device: &Rc<dyn BlockDevice>,
    ) -> bool {
        let sectors = first..first + 4096 / SECTOR;
        // The exception is none for a row that was never written before.
        let row_sectors = self.shape.row_bytes() / SECTOR;
        let row = first / row_sectors * row_sectors;
        let is_first = (volume.model.borrow()).is_first_write(row..row + row_sectors);
        // One that joined after the last check may be gone as well.
        let all_there = self.members().len() == self.shape.members && !self.lost_in_crash;
        if is_first || all_there || !volume.model.borrow().cut_off(crash, sectors.clone()) {
            return false;
        }
        let id = volume.model.borrow_mut().begin_write(sectors, true);
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
        true
    }

    fn check_range(
        &self,
        volume: &Volume,
        device: &Rc<dyn BlockDevice>,
        at: u64,
        len: u64,
        after: Option<Crash>,
    ) {
        let began = volume.model.borrow_mut().read_begins();
        let (buf, result) = self.run(device.read(at, Buf::zeroed(usize_of(len))));
        volume.model.borrow_mut().read_ends(began);
        let first = at / SECTOR;
        if let Err(error) = result {
            let cut = len == 4096
                && after.is_some_and(|crash| self.was_cut_off(volume, crash, first, device));
            assert!(
                len > 4096 || cut || self.rules.errors_allowed.get(),
                "{}: {error}; the array told: {:#?}",
                volume.name,
                self.told()
            );
            // What can be read of it, block by block.
            if len > 4096 {
                let half = (len / 2).next_multiple_of(4096);
                self.check_range(volume, device, at, half, after);
                self.check_range(volume, device, at + half, len - half, after);
            }
            return;
        }
        let checked = match after {
            Some(crash) => volume.model.borrow_mut().check_after(crash, first, &buf),
            None => volume.model.borrow().check(first, &buf, began),
        };
        if let Err(complaint) = checked {
            let row = self.shape.row_bytes();
            panic!(
                "{complaint}; row {} of its extent; the array told: {:#?}",
                at / row,
                self.told()
            );
        }
    }
}

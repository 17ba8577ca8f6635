//! A write that has to read first, beside a client that writes elsewhere in its row all the time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::usize_of;
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::Level;
use futures_util::future::{Either, join, select};

use crate::lab::{BLOCK, Lab, shape};

#[test]
fn a_write_of_a_part_of_a_block_waits_for_nobody_who_writes_other_blocks_of_its_row() {
    let mut lab = Lab::with_rows(23, shape(Level::Raid5, 4, true), 6);
    for disk in &lab.world.disks {
        // Another write is there before any read ends.
        let slow = Strike::new(On::Read, Effect::Slow(200));
        disk.sim().strike(slow.always());
    }
    let (volume, clock) = (&lab.volume, &lab.world.env.clock);
    let is_over = Rc::new(Cell::new(false));
    let busy = async {
        while !is_over.get() {
            let block = Buf::copy_of(&[7; 4096]).freeze();
            volume.write(0, block, WriteFlags::default()).await.unwrap();
        }
    };
    let part = async {
        let sector = Buf::copy_of(&[9; 512]).freeze();
        let written = volume.write(7 * BLOCK + 512, sector, WriteFlags::default());
        let patience = clock.sleep(Duration::from_secs(2));
        let is_acked = matches!(select(written, patience).await, Either::Left((Ok(()), _)));
        is_over.set(true);
        is_acked
    };
    let ((), is_acked) = lab.world.run(join(busy, part));
    assert!(is_acked, "the write of a sector starves");
    lab.contents[..4096].fill(7);
    let at = usize_of(7 * BLOCK) + 512;
    lab.contents[at..at + 512].fill(9);
    lab.check();
}

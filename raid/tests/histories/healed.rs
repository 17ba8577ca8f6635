//! Blocks that were lost and were written anew: what healed them was acked and flushed, and no crash brings the loss back.

use std::rc::Rc;

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, IoError, WriteFlags};
use cairn_raid::{Level, Role, Row, Slot};

use crate::lab::{CHUNK, Lab, shape};
use crate::model::Crash;

const LEVELS: [(Level, usize); 2] = [(Level::Raid5, 4), (Level::Raid6, 5)];

/// Row 5 of the volume.
const AT: usize = 5;

fn slot_of(lab: &Lab, row: Row, role: Role) -> usize {
    (0..lab.geometry.members())
        .find(|slot| lab.geometry.role(row, Slot(*slot)) == role)
        .unwrap()
}

/// The row's second chunk, and where it is in the volume: it loses its first block, and that is given up for a write of the
/// block before it.
fn lose_a_block(lab: &Lab) -> (Row, u64) {
    let row = lab.rows()[AT];
    let mut rotten = vec![Role::Data(1), Role::P];
    if lab.geometry.redundancy() == 2 {
        rotten.push(Role::Q);
    }
    for role in rotten {
        lab.flip(row, slot_of(lab, row, role), 0, 77);
    }
    let at = u64_of(AT) * lab.geometry.row_bytes();
    let part = Buf::copy_of(&[0x11; 4096]).freeze();
    let written = lab.volume.write(at, part, WriteFlags::default());
    lab.world.run(written).unwrap();
    let array = Rc::clone(&lab.array);
    lab.world
        .run_till("given up", move || array.status().bad_blocks_total == 1);
    (row, at)
}

fn fill(lab: &Lab, at: u64, value: u8) -> impl Future<Output = Result<(), IoError>> + 'static {
    let bytes = vec![value; usize_of(lab.geometry.row_bytes())];
    let (volume, data) = (Rc::clone(&lab.volume), Buf::copy_of(&bytes).freeze());
    async move { volume.write(at, data, WriteFlags::default()).await }
}

/// The loss is healed by a complete row, which is flushed; another one follows at once and is cut off on the disk of the block.
fn cut_off_behind_the_healing_row(
    seed: u64,
    level: Level,
    members: usize,
    in_journal: bool,
    crash: Crash,
) {
    println!("seed {seed}: {level} of {members}, the loss in the journal: {in_journal}, {crash:?}");
    let mut lab = Lab::new(seed, shape(level, members, true));
    let (row, at) = lose_a_block(&lab);
    if !in_journal {
        lab.world.run(lab.array.drain()).unwrap();
        lab.world.run(lab.array.drain()).unwrap();
    }
    lab.world.run(fill(&lab, at, 0x22)).unwrap();
    lab.world.run(lab.volume.flush()).unwrap();
    assert_eq!(lab.array.status().bad_blocks_total, 0, "healed");
    let (disk, offset) = lab.place(row, slot_of(&lab, row, Role::Data(1)), 0);
    lab.world.disks[disk].hold_writes(offset..offset + CHUNK);
    let last = fill(&lab, at, 0x33);
    lab.world.env.spawn.spawn(Box::pin(async move {
        let _ = last.await;
    }));
    let held = &lab.world.disks[disk];
    lab.world.run_till("on its way", || held.waiting() > 0);
    lab.world.crash(crash);
    lab.reopen();
    assert_eq!(lab.array.status().bad_blocks, [], "nothing is lost");
    let data = lab.read(at, lab.geometry.row_bytes()).unwrap();
    let sectors = data.chunks(512);
    for (number, sector) in sectors.enumerate() {
        let one =
            sector.iter().all(|byte| *byte == 0x22) || sector.iter().all(|byte| *byte == 0x33);
        assert!(one, "sector {number} holds neither: {:x?}", &sector[..8]);
    }
}

#[test]
fn a_loss_that_a_flushed_row_healed_does_not_come_back_when_the_next_one_is_cut_off() {
    for (level, members) in LEVELS {
        for in_journal in [false, true] {
            for crash in [Crash::Power, Crash::Kill] {
                for seed in 0..8 {
                    cut_off_behind_the_healing_row(7_100 + seed, level, members, in_journal, crash);
                }
            }
        }
    }
}

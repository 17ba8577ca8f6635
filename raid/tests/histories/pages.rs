//! Checksum pages that were damaged before any row that they speak of was written: nothing is lost with them.

use std::rc::Rc;

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::Level;
use cairn_raid::layout::ZoneKind;

use crate::lab::{BLOCK, LEVELS, Lab, shape, zone};
use crate::model::Crash;

/// No row of the volume is written any more, and the pages of `disks` are damaged.
fn unwritten(seed: u64, level: Level, members: usize, disks: usize) -> Lab {
    let mut lab = Lab::new(seed, shape(level, members, true));
    let len = u64_of(lab.contents.len());
    lab.world.run(lab.volume.discard(0, len)).unwrap();
    lab.world.run(lab.volume.flush()).unwrap();
    lab.world.run(lab.array.stop()).unwrap();
    lab.contents.fill(0);
    lab.lose_pages(disks);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    assert_eq!(lab.rows(), []);
    lab
}

fn write(lab: &mut Lab, at: u64, len: u64, value: u8) {
    let data = Buf::copy_of(&vec![value; usize_of(len)]).freeze();
    let written = lab.volume.write(at, data, WriteFlags { fua: true });
    lab.world.run(written).unwrap();
    lab.contents[usize_of(at)..usize_of(at + len)].fill(value);
}

#[test]
fn rows_are_written_for_the_first_time_though_every_copy_of_their_page_is_damaged() {
    for (level, members) in LEVELS {
        for crash in [None, Some(Crash::Kill), Some(Crash::Power)] {
            println!("{level} of {members}, {crash:?}");
            let mut lab = unwritten(61, level, members, members);
            let row = lab.geometry.row_bytes();
            // A complete row, and a part of another.
            write(&mut lab, 3 * row, row, 0xA1);
            write(&mut lab, 7 * row + BLOCK, BLOCK, 0xA2);
            match crash {
                Some(crash) => lab.world.crash(crash),
                None => lab.world.run(lab.array.stop()).unwrap(),
            }
            lab.reopen();
            lab.check();
            // With what its first checkpoint wrote.
            lab.world.run(lab.array.drain()).unwrap();
            lab.world.run(lab.array.stop()).unwrap();
            lab.reopen();
            lab.check();
            assert_eq!(lab.scrub().unrepairable, 0);
            assert_eq!(lab.array.status().bad_blocks_total, 0);
        }
    }
}

#[test]
fn a_page_that_speaks_of_written_rows_is_never_begun_anew_by_a_write_beside_them() {
    for (level, members) in LEVELS {
        println!("{level} of {members}");
        let mut lab = unwritten(67, level, members, 0);
        let row = lab.geometry.row_bytes();
        write(&mut lab, 3 * row, row, 0xA1);
        lab.world.run(lab.array.drain()).unwrap();
        lab.world.run(lab.array.stop()).unwrap();
        lab.lose_pages(members);
        lab.world.crash(Crash::Kill);
        lab.reopen();
        // Loud, and told: what was written there can't be verified now.
        let data = Buf::copy_of(&vec![0xA2; usize_of(row)]).freeze();
        let refused = lab.volume.write(4 * row, data, WriteFlags::default());
        assert!(lab.world.run(refused).is_err());
        assert!(lab.read(3 * row, row).is_err());
        assert!(lab.world.host.saw("BadBlock"));
        let array = Rc::clone(&lab.array);
        lab.world.run(array.scrub_start()).unwrap();
        lab.finish();
        assert!(lab.read(3 * row, row).unwrap() == vec![0xA1; usize_of(row)]);
    }
}

#[test]
fn d8_pages_that_reads_found_damaged_are_mended_though_nobody_writes() {
    // Some forty pages.
    let mut lab = Lab::with_rows(67, shape(Level::Raid1, 2, true), 5_600);
    lab.world.run(lab.array.stop()).unwrap();
    lab.lose_pages(1);
    lab.world.crash(Crash::Power);
    lab.reopen();
    let (offset, _) = zone(&lab.world, 0, ZoneKind::Checksums);
    let pages = offset + BLOCK..offset + BLOCK + (1 << 20);
    let before = lab.world.disks[0].written_in(pages.clone());
    for at in (0..u64_of(lab.contents.len())).step_by(1 << 20) {
        let len = (u64_of(lab.contents.len()) - at).min(1 << 20);
        let read = lab.read(at, len).unwrap();
        assert!(read == lab.contents[usize_of(at)..usize_of(at + len)]);
    }
    lab.world.sleep(1_000);
    let mended = lab.world.disks[0].written_in(pages) - before;
    assert!(mended >= 32 * BLOCK, "{mended} bytes of pages written");
}

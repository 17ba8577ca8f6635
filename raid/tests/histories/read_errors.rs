//! The k-th read of a client's way through an array meets a medium error (fault D1), for every k and every
//! member: right bytes, counted at the disk, and what can't be read is written anew in its place.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use cairn_blockdev::sim::{Completion, Effect, Fault, On, Strike, Watch};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, IoErrorKind, IoOp, WriteFlags};
use cairn_raid::layout::{LABEL_COPY_BEFORE_END, ZoneKind};
use cairn_raid::{ErrorCounts, Level, MemberState};

use crate::lab::{BLOCK, CHUNK, Lab, shape, zone};
use crate::model::Crash;
use crate::world::World;

const ROWS: u64 = 7;
const SECTOR: u64 = 512;

/// Reads of a disk, in the order of their completion.
#[derive(Default)]
struct Reads(RefCell<Vec<Range<u64>>>);

impl Watch for Reads {
    fn completed(&self, done: &Completion) {
        if done.op == IoOp::Read {
            let range = done.offset..done.offset + done.len;
            self.0.borrow_mut().push(range);
        }
    }
}

/// Writes of a disk, in the order of their completion.
#[derive(Default)]
struct Writes(RefCell<Vec<Range<u64>>>);

impl Watch for Writes {
    fn completed(&self, done: &Completion) {
        if done.op == IoOp::Write {
            let range = done.offset..done.offset + done.len;
            self.0.borrow_mut().push(range);
        }
    }
}

/// Stops the array and starts it, so that it has nothing in memory and no error is counted.
fn start_anew(lab: &mut Lab) {
    lab.world.run(lab.array.stop()).unwrap();
    lab.world.crash(Crash::Kill);
    lab.reopen();
}

/// A client's way through the volume: pieces across chunks and rows, one of them not even of whole blocks.
fn client_reads(lab: &Lab) {
    let size = u64_of(lab.contents.len());
    let odd = CHUNK + 3 * SECTOR;
    for (at, len) in [(0, odd), (odd, 5 * SECTOR), (odd + 5 * SECTOR, 0)] {
        let len = if len == 0 { size - at } else { len };
        let want = &lab.contents[usize_of(at)..usize_of(at + len)];
        assert!(lab.read(at, len).unwrap() == want, "wrong bytes at {at}");
    }
}

fn errors_of(lab: &Lab, disk: usize) -> ErrorCounts {
    let path = lab.world.path(disk);
    let members = lab.array.status().members;
    members.iter().find(|m| *m.path == *path).unwrap().errors
}

/// The reads of `disk` on a client's way, with nothing wrong.
fn reads_of(lab: &mut Lab, disk: usize) -> Vec<Range<u64>> {
    start_anew(lab);
    let reads = Rc::new(Reads::default());
    let sim = lab.world.disks[disk].sim();
    sim.watch(Rc::<Reads>::clone(&reads));
    client_reads(lab);
    reads.0.take()
}

/// The arrays: whole ones, and one with a member less than it has, that survives another error.
fn labs() -> Vec<(Lab, Option<usize>)> {
    let whole = [(Level::Raid1, 2), (Level::Raid5, 4), (Level::Raid6, 5)];
    let mut labs: Vec<_> = whole
        .into_iter()
        .map(|(level, members)| {
            let shape = shape(level, members, true);
            (Lab::with_rows(6_400 + u64_of(members), shape, ROWS), None)
        })
        .collect();
    let degraded = Lab::with_rows(6_500, shape(Level::Raid6, 5, true), ROWS);
    let path = degraded.world.path(2);
    let failed = degraded.array.fail_member(&path);
    degraded.world.run(failed).unwrap();
    labs.push((degraded, Some(2)));
    labs
}

fn all_stay_in_sync(lab: &Lab, gone: Option<usize>) {
    let in_sync = World::in_state(&lab.array, MemberState::InSync).len();
    let members = lab.geometry.members();
    assert_eq!(in_sync, members - usize::from(gone.is_some()));
}

/// It was the disk's mood: the next read of the same place succeeds. What was asked for is written anew, once, so
/// that the disk can get a weak sector in order.
#[test]
fn d1_a_read_that_fails_once_gives_right_bytes_and_is_counted_once_whichever_it_is() {
    for (mut lab, gone) in labs() {
        for disk in (0..lab.geometry.members()).filter(|disk| Some(*disk) != gone) {
            let data = lab.array.data_offset(&lab.world.path(disk)).unwrap();
            let data = data..lab.world.shape.disk_bytes - LABEL_COPY_BEFORE_END;
            let mut of_data = reads_of(&mut lab, disk);
            of_data.retain(|read| data.contains(&read.start));
            let mut k = 0;
            loop {
                start_anew(&mut lab);
                let fails = Strike::new(On::Read, Effect::Fail(IoErrorKind::Medium));
                let sim = lab.world.disks[disk].sim();
                sim.strike(fails.after(k).within(data.clone()));
                let writes = Rc::new(Writes::default());
                sim.watch(Rc::<Writes>::clone(&writes));
                client_reads(&lab);
                let struck = sim.struck().read_errors;
                assert_eq!(errors_of(&lab, disk).read, struck, "disk {disk}, read {k}");
                let mut written = writes.0.take();
                written.retain(|range| data.contains(&range.start));
                assert_eq!(u64_of(written.len()), struck, "disk {disk}, read {k}");
                // It was one of these, in the order in which they were sent.
                assert!(written.iter().all(|write| of_data.contains(write)));
                all_stay_in_sync(&lab, gone);
                if struck == 0 {
                    break;
                }
                k += 1;
            }
            println!("{}, disk {disk}: {k} reads", lab.geometry.level());
            assert!(k >= ROWS / 2, "only {k} reads of disk {disk}");
        }
        lab.check();
    }
}

/// A sector that stays bad until it is written, under each read in turn: of blocks, and of checksum pages.
#[test]
fn d1_a_sector_that_cant_be_read_is_counted_and_written_anew_whichever_read_meets_it() {
    for (mut lab, gone) in labs() {
        let before = gone.is_none().then(|| lab.image());
        let mut pages = 0;
        for disk in (0..lab.geometry.members()).filter(|disk| Some(*disk) != gone) {
            let data = lab.array.data_offset(&lab.world.path(disk)).unwrap();
            let sums = zone(&lab.world, disk, ZoneKind::Checksums);
            let reads = reads_of(&mut lab, disk);
            println!(
                "{}, disk {disk}: {} reads",
                lab.geometry.level(),
                reads.len()
            );
            assert!(u64_of(reads.len()) >= ROWS / 2);
            for (k, read) in (0..).zip(reads) {
                let is_page = (sums.0..sums.0 + sums.1).contains(&read.start);
                assert!(is_page || read.start >= data, "{read:?}");
                pages += u32::from(is_page);
                start_anew(&mut lab);
                // Another sector of the read each time.
                let sectors = (read.end - read.start) / SECTOR;
                let offset = read.start + k * 5 % sectors * SECTOR;
                let bad = Fault::BadRange {
                    offset,
                    len: SECTOR,
                };
                lab.world.disks[disk].inject(bad);
                client_reads(&lab);
                let counted = errors_of(&lab, disk).read;
                assert!(counted > 0, "disk {disk}, read {k}: not counted");
                if is_page {
                    // It is written with the next checkpoint.
                    let same = Buf::copy_of(&lab.contents[..4096]).freeze();
                    let written = lab.volume.write(0, same, WriteFlags::default());
                    lab.world.run(written).unwrap();
                    lab.world.run(lab.array.drain()).unwrap();
                }
                let from = lab.world.disks[disk].sim();
                let block = offset - offset % BLOCK;
                let again = from.read(block, Buf::zeroed(usize_of(BLOCK)));
                let (_, result) = lab.world.run(again);
                assert!(result.is_ok(), "disk {disk}, read {k}: not written anew");
                // Once it is mended, nothing more is counted.
                let counted = errors_of(&lab, disk).read;
                client_reads(&lab);
                assert_eq!(errors_of(&lab, disk).read, counted);
                all_stay_in_sync(&lab, gone);
            }
        }
        assert!(before.is_none_or(|before| lab.image() == before));
        assert!(pages > 0, "no checksum page was read");
        lab.check();
    }
}

/// Without checksums nobody knows whether the disk or the others are right: what it gives once more is what it holds.
#[test]
fn d1_without_checksums_a_read_that_fails_once_is_never_written_over_by_what_the_others_give() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        let shape = shape(level, members, false);
        let mut lab = Lab::with_rows(6_700 + u64_of(members), shape, ROWS);
        let row = lab.rows()[0];
        let geometry = lab.geometry;
        let [asked, rotten] = [0, 1].map(|index| geometry.data_slot(row, index).0);
        lab.flip(row, rotten, 0, 77);
        let before = lab.block(row, asked, 0);
        start_anew(&mut lab);
        let (disk, offset) = lab.place(row, asked, 0);
        let fails = Strike::new(On::Read, Effect::Fail(IoErrorKind::Medium));
        lab.world.disks[disk]
            .sim()
            .strike(fails.within(offset..offset + BLOCK));
        assert!(lab.read(0, BLOCK).unwrap() == before, "{level}");
        assert!(
            lab.block(row, asked, 0) == before,
            "{level}: it was written over"
        );
        assert!(
            lab.world.host.saw("Repaired"),
            "{level}: it wasn't written anew"
        );
    }
}

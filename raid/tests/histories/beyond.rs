//! One member more than an array survives is pulled (fault A2), every set of them: what they alone held is an
//! error, the rest is right, and the array says that it has failed.

use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, IoError, WriteFlags};
use cairn_raid::Level;

use crate::lab::{BLOCK, Lab, shape};
use crate::model::Crash;

/// Who meets the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// A client that reads.
    ByReads,
    /// A client that writes and flushes.
    ByWrites,
    /// A client that flushes whenever another one is pulled.
    OneByOne,
}

const ROWS: u64 = 6;

/// Every set of `size` members of `of`.
fn sets(of: usize, size: usize) -> Vec<Vec<usize>> {
    let has = |set: usize, disk: usize| set >> disk & 1 == 1;
    let all = (0..1usize << of).map(|set| (0..of).filter(|disk| has(set, *disk)).collect());
    all.filter(|set: &Vec<usize>| set.len() == size).collect()
}

fn write(lab: &Lab, at: u64, byte: u8) -> Result<(), IoError> {
    let data = Buf::copy_of(&[byte; 4096]).freeze();
    lab.world
        .run(lab.volume.write(at, data, WriteFlags::default()))
}

/// Whether a block of the volume lies on a disk that was pulled. Disks have the slots of their numbers.
fn is_lost(lab: &Lab, at: u64, lost: &[usize]) -> bool {
    if lab.geometry.level() == Level::Raid1 {
        return lost.len() == lab.geometry.members();
    }
    let row = lab.rows()[usize_of(at / lab.geometry.row_bytes())];
    let within = at % lab.geometry.row_bytes();
    let index = usize_of(within / lab.geometry.chunk_bytes());
    lost.contains(&lab.geometry.data_slot(row, index).0)
}

fn pulled(level: Level, members: usize, lost: &[usize], met: Met) {
    println!("{level} of {members}: {lost:?}, met {met:?}");
    let seed = lost
        .iter()
        .fold(4_200, |seed, disk| seed * 7 + u64_of(*disk));
    let mut lab = Lab::with_rows(seed, shape(level, members, true), ROWS);
    let size = u64_of(lab.contents.len());
    // What is written at the end: it may be acked or not, and be there or not.
    let last = size - BLOCK;
    let mut acked = true;
    for (so_far, disk) in (1..).zip(lost) {
        lab.world.disks[*disk].inject(Fault::Gone);
        let is_enough = so_far == lost.len();
        match met {
            Met::ByReads => {}
            Met::ByWrites if !is_enough => {}
            Met::ByWrites => {
                acked = write(&lab, last, 0x5A).is_ok();
                let flushed = lab.world.run(lab.volume.flush());
                assert!(flushed.is_err(), "a flush reached nobody, and was acked");
            }
            Met::OneByOne => {
                let flushed = lab.world.run(lab.volume.flush());
                assert_eq!(
                    flushed.is_ok(),
                    !is_enough,
                    "{so_far} are gone: {flushed:?}"
                );
                assert_eq!(lab.array.status().failure.is_some(), is_enough);
                if !is_enough {
                    assert!(lab.read(0, size).unwrap() == lab.contents);
                }
            }
        }
    }
    // Block by block: an error for what is lost, and for nothing else.
    let mut errors = 0;
    for at in (0..size).step_by(usize_of(BLOCK)) {
        let want = &lab.contents[usize_of(at)..usize_of(at + BLOCK)];
        let read = lab.read(at, BLOCK);
        if at == last && met == Met::ByWrites {
            let is_new = read.as_ref().is_ok_and(|data| *data == [0x5A; 4096]);
            let is_old = read.as_ref().is_ok_and(|data| data == want);
            assert!(read.is_err() || is_new || (is_old && !acked));
            continue;
        }
        match &read {
            Ok(data) => assert!(data == want, "{at} is wrong"),
            Err(_) => errors += 1,
        }
        assert_eq!(read.is_err(), is_lost(&lab, at, lost), "{at}: {read:?}");
    }
    assert!(errors > 0, "nothing was lost");
    let array = std::rc::Rc::clone(&lab.array);
    lab.world
        .run_till("failed", move || array.status().failure.is_some());
    assert!(lab.world.host.saw("ArrayFailed"));
    assert!(write(&lab, 0, 0x77).is_err(), "acked by a failed array");

    // All are back: whatever was acked is there.
    lab.world.crash(Crash::Kill);
    lab.reopen();
    assert!(lab.array.status().failure.is_none());
    for at in [0, last] {
        let now = lab.read(at, BLOCK).unwrap();
        let was = &mut lab.contents[usize_of(at)..usize_of(at + BLOCK)];
        let tried = if at == 0 { 0x77 } else { 0x5A };
        let may_be_old = at == 0 || met != Met::ByWrites || !acked;
        let is_new = now == [tried; 4096] && (at == 0 || met == Met::ByWrites);
        assert!(is_new || (may_be_old && now == was), "{at} is wrong");
        was.copy_from_slice(&now);
    }
    lab.check();
}

fn every_set(level: Level, members: usize) {
    let lost = sets(members, level.redundancy(members) + 1);
    assert!(!lost.is_empty());
    for lost in lost {
        for met in [Met::ByReads, Met::ByWrites, Met::OneByOne] {
            pulled(level, members, &lost, met);
        }
    }
}

#[test]
fn a2_all_mirrors_gone_is_an_error_everywhere() {
    every_set(Level::Raid1, 2);
    every_set(Level::Raid1, 3);
}

#[test]
fn a2_every_pair_of_a_raid5_that_goes_costs_its_own_blocks_and_no_others() {
    every_set(Level::Raid5, 3);
    every_set(Level::Raid5, 4);
}

#[test]
fn a2_every_triple_of_a_raid6_that_goes_costs_its_own_blocks_and_no_others() {
    every_set(Level::Raid6, 5);
    every_set(Level::Raid6, 6);
}

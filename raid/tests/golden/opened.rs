//! The array of the fixture, opened: with all members, and without any two.

use std::rc::Rc;

use cairn_blockdev::Buf;
use cairn_blockdev::prepared::{Op, PreparedDevice, Record, Seq};
use cairn_blockdev::units::u64_of;
use cairn_raid::defects::ScrubState;
use cairn_raid::journal::entry::{Kind, Tag};
use cairn_raid::journal::group;
use cairn_raid::label::Label;
use cairn_raid::layout::{JOURNAL_MIN, LABEL_A, LABEL_B, ZONES_START};
use cairn_raid::{Array, Level, MemberDisk, Witness, list_logs};

use crate::image::{pack, unpack};
use crate::story::{BLOCKS, LOG, META, contents, filled, ops, shape, tag};
use crate::world::World;

const FIXTURE: &[u8] = include_bytes!("array-raid6-v1.bin");

fn world() -> World {
    let world = World::new(2, shape());
    unpack(FIXTURE, &world.disks);
    // The host's record that no two of them ran without the others: what the newest label says.
    let labels = [LABEL_A, LABEL_B].map(|at| world.disks[0].peek(at, 4096));
    let labels = labels.iter().filter_map(|label| Label::decode(label).ok());
    let newest = labels.max_by_key(|label| label.array.generation);
    let array = newest.unwrap().array;
    let members = array.table.iter().map(|entry| (entry.uuid, entry.state));
    *world.host.witness.borrow_mut() = Some(Witness {
        array: array.uuid,
        event_count: array.event_count,
        members: members.collect(),
    });
    world
}

/// Every choice of disks that the level starts with.
fn choices() -> Vec<Vec<usize>> {
    let mut choices = vec![vec![0, 1, 2, 3]];
    for first in 0..4 {
        choices.push((0..4).filter(|disk| *disk != first).collect());
        for second in first + 1..4 {
            choices.push(vec![first, second]);
        }
    }
    choices
}

fn check_records(records: &[Record]) {
    let seqs: Vec<u64> = records.iter().map(|record| record.seq.0).collect();
    assert_eq!(seqs, [5, 6, 7, 8, 9, 10]);
    for (record, op) in records.iter().zip(ops()) {
        assert_eq!(
            (&record.tag, record.committed),
            (&tag(), record.seq < Seq(9))
        );
        assert_eq!(
            std::mem::discriminant(&record.op),
            std::mem::discriminant(&op)
        );
        assert_eq!(record.op.range(), op.range());
        if let (Op::Write { data, .. }, Op::Write { data: want, .. }) = (&record.op, &op) {
            assert!(data[..] == want[..], "payload of {}", record.seq);
        }
    }
}

async fn check_contents(device: &Rc<dyn PreparedDevice>, want: [u8; BLOCKS], what: &str) {
    let (bytes, result) = device.read(0, Buf::zeroed(BLOCKS * 4096)).await;
    result.unwrap();
    for (block, (bytes, want)) in bytes.chunks(4096).zip(want).enumerate() {
        assert!(bytes == &filled(want)[..], "{what}: block {block}");
    }
}

fn scrub(world: &World, array: &Rc<Array>) {
    world.run(array.scrub_start()).unwrap();
    world.run_till("scrubbed", || {
        array.status().scrub.state == ScrubState::Idle
    });
    let scrub = array.status().scrub;
    let found = (scrub.repaired, scrub.mismatched, scrub.unrepairable);
    assert_eq!((found, scrub.runs), ((0, 0, 0), 1));
}

#[test]
fn the_array_of_version_1_is_opened_for_ever_without_any_two_of_its_members() {
    for disks in choices() {
        let world = world();
        let what = format!("with {disks:?}");
        let array = world.assemble(&disks, false);
        let array = array.unwrap_or_else(|error| panic!("{what}: {error}"));
        let status = array.status();
        assert_eq!((status.level, status.members_total), (Level::Raid6, 4));
        assert_eq!(status.redundancy_left, disks.len() - 2, "{what}");
        assert_eq!(array.volumes().len(), 1);
        let device = array.open_prepared("v").unwrap();
        world.run(check_contents(&device, contents(), &what));
        // The log as its owner left it, and it goes on.
        assert_eq!(device.logs(), [LOG]);
        assert_eq!(&device.meta(LOG)[..], META);
        let marks = device.watermarks(LOG);
        assert_eq!((marks.contiguous, marks.committed), (Seq(10), Seq(8)));
        check_records(&world.run(device.records(LOG, Seq::NONE)).unwrap());
        device.commit(LOG, Seq(10));
        let mut now = contents();
        (now[14], now[0]) = (0xC2, 0xC3);
        world.run(check_contents(&device, now, &what));
        world.audit_all(&array);
        if disks.len() == 4 {
            scrub(&world, &array);
        }
        // Written by today's code, and read by it.
        world.run(array.stop()).unwrap();
        drop((array, device));
        let array = world.assemble(&disks, false).unwrap();
        let device = array.open_prepared("v").unwrap();
        world.run(check_contents(&device, now, &what));
    }
}

#[test]
fn the_logs_of_the_array_of_version_1_are_listed_for_ever() {
    for disks in choices() {
        let world = world();
        let members: Vec<MemberDisk> = disks.iter().map(|disk| world.member(*disk)).collect();
        let (logs, complete) = world.run(list_logs(&world.env, members)).unwrap();
        assert!(complete && logs.len() == 1);
        assert_eq!((logs[0].log, &logs[0].meta[..]), (LOG, META));
        assert_eq!(logs[0].watermarks.committed, Seq(8));
        check_records(&logs[0].records);
        // And nothing on the disks changed.
        assert!(pack(&world.disks, shape().disk_bytes) == FIXTURE);
    }
}

/// That the fixture needs what its notes say: with other bits in their tags a lost member's blocks can't
/// be solved any more.
#[test]
fn the_array_of_version_1_is_read_by_the_bits_of_its_notes() {
    let changed = |bits: u8| {
        let world = world();
        for disk in &world.disks {
            let mut ring = disk.peek(ZONES_START, JOURNAL_MIN.try_into().unwrap());
            for at in (0..ring.len()).step_by(4096) {
                let Ok(group) = group::decode(&ring[at..]) else {
                    continue;
                };
                let mut entries = group.entries;
                let notes = entries.iter_mut().filter(|entry| entry.kind == Kind::Note);
                for note in notes.filter(|note| note.tag.bytes() == [3]) {
                    note.tag = Tag::new(&[bits]).unwrap();
                }
                let end = at + group.descriptor_len;
                group::encode(&group.head, &entries, &mut ring[at..end]);
                disk.poke(ZONES_START + u64_of(at), &ring[at..end]);
            }
        }
        world
    };
    let is_read = |bits: u8| {
        choices().into_iter().all(|disks| {
            // A fresh copy for each: a start puts right what the cycle left.
            let world = changed(bits);
            let Ok(array) = world.assemble(&disks, false) else {
                return false;
            };
            let device = array.open_prepared("v").unwrap();
            let (bytes, result) = world.run(device.read(0, Buf::zeroed(BLOCKS * 4096)));
            let blocks = bytes.chunks(4096).zip(contents());
            result.is_ok() && blocks.into_iter().all(|(is, want)| is == &filled(want)[..])
        })
    };
    assert!(is_read(3));
    for bits in [0, 1, 2] {
        assert!(!is_read(bits), "bits {bits}");
    }
}

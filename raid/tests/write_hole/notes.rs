//! Notes as they lie on the disks: the bits of a tag's first byte (raid/README.md), and the sums behind
//! them. `tests/golden` reads such notes that an earlier Cairn wrote.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::BufPool;
use cairn_blockdev::crc::crc32c;
use cairn_blockdev::sim::Sim;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::journal::entry::{Entry, Kind};
use cairn_raid::journal::group;
use cairn_raid::layout::{JOURNAL_MIN, ZONES_START};
use cairn_raid::parity::{compute_p, compute_q};
use cairn_raid::{Role, Row, Slot};

use crate::cases::{THREE_AND_ONE, THREE_AND_TWO, one_block};
use crate::cuts::cuts;
use crate::scene::{Host, ROWS, Scene, settled};
use crate::script::{CHUNK, Case, SECTOR, Step, contents, is_exposed, versions, write};
use crate::tape::Event;

/// As README.md has them: it has sums of P, of Q; a replay wrote it for a row that it put together.
const OF_P: u8 = 1;
const OF_Q: u8 = 2;
const OF_A_REPLAY: u8 = 4;

/// The notes among what was written, by their sequences: each has more copies than one.
fn notes<'a>(written: impl Iterator<Item = &'a [u8]>) -> Vec<Entry> {
    let mut notes = BTreeMap::new();
    for bytes in written {
        for at in (0..bytes.len()).step_by(CHUNK) {
            let Ok(group) = group::decode(&bytes[at..]) else {
                continue;
            };
            let entries = (group.head.first.0..).zip(group.entries);
            notes.extend(entries.filter(|(_, entry)| entry.kind == Kind::Note));
        }
    }
    notes.into_values().collect()
}

fn notes_of_tape(scene: &Scene) -> Vec<Entry> {
    notes(scene.tape.iter().filter_map(|event| match event {
        Event::Begun { data, .. } => Some(&data[..]),
        _ => None,
    }))
}

/// The row of the case that a note speaks of, all of whose chunk it covers.
fn row_of(scene: &Scene, note: &Entry) -> usize {
    assert_eq!(note.len, u64_of(CHUNK));
    let row = Row(note.offset / u64_of(CHUNK));
    scene.rows.iter().position(|of| *of == row).unwrap()
}

/// Sums of the sectors of P, then of Q, of a row with everything of the script in it.
fn sums_of(scene: &Scene, row: usize, bits: u8) -> Vec<u32> {
    let case = &scene.case;
    let all = crate::script::Known {
        begun: case.script.len(),
        kept: case.script.len(),
    };
    let newest = |sector| contents(case, row, sector, versions(case, sector, &all)[0]);
    let data: Vec<u8> = (0..case.row_sectors()).flat_map(newest).collect();
    let (mut p, mut q) = (vec![0; CHUNK], vec![0; CHUNK]);
    compute_p(data.chunks(CHUNK), &mut p);
    compute_q(data.chunks(CHUNK), &mut q);
    let parities = [(OF_P, p), (OF_Q, q)].into_iter();
    let told = parities.filter(|(bit, _)| bits & bit != 0);
    told.flat_map(|(_, parity)| parity.chunks(SECTOR).map(crc32c).collect::<Vec<u32>>())
        .collect()
}

#[test]
fn a_note_of_a_cycle_names_the_parities_that_it_has_sums_of() {
    for (shape, bits) in [(THREE_AND_ONE, OF_P), (THREE_AND_TWO, OF_P | OF_Q)] {
        let scene = Scene::new(one_block(shape), 1);
        let notes = notes_of_tape(&scene);
        assert_eq!(notes.len(), ROWS);
        for note in notes {
            assert_eq!(note.tag.bytes(), [bits]);
            assert_eq!(note.sums, sums_of(&scene, row_of(&scene, &note), bits));
        }
    }
}

/// A replay that puts complete rows together: its notes have bit 2, and sums of the parities that have a
/// member to go to.
#[test]
fn a_note_of_a_replay_says_so_and_names_the_parities_that_are_left() {
    for ((level, members), lost) in [
        (THREE_AND_ONE, &[][..]),
        (THREE_AND_ONE, &[1]),
        (THREE_AND_TWO, &[]),
        (THREE_AND_TWO, &[0]),
        (THREE_AND_TWO, &[1, 3]),
    ] {
        let all: Vec<usize> = (0..24).collect();
        let case = Case {
            name: "complete row",
            level,
            members,
            fresh: false,
            script: vec![write(0..24, &all), Step::Flush, Step::Apply],
        };
        let scene = Scene::new(case, 1);
        let base = |(disk, offset): (usize, u64)| scene.base[disk].peek(offset, SECTOR);
        // The first power cut at which rows are being written in place: nothing of them is there yet.
        let cuts = cuts(&scene.tape, ROWS, &base);
        let cut = cuts.iter().find(|cut| {
            let in_place = |place: (usize, u64)| scene.find(place.0, place.1).is_some();
            let is_open = cut.free.iter().any(|free| in_place(free.place));
            is_open && cut.known.iter().all(|known| is_exposed(&scene.case, known))
        });
        let cut = cut.unwrap();
        let sim = Sim::new(1);
        let disks = scene.disks(&sim.env());
        for (disk, image) in disks.iter().zip(scene.images()) {
            disk.set_image(&image);
        }
        for ((disk, offset), data) in &cut.fixed {
            disks[*disk].poke(*offset, data);
        }
        let host = Rc::<Host>::default();
        let array = scene.start(&sim, &disks, lost, &BufPool::new(32 << 20), &host);
        settled(&sim, array.unwrap().drain()).unwrap();
        let left = disks.iter().enumerate();
        let left = left.filter(|(disk, _)| !lost.contains(disk));
        let rings: Vec<Vec<u8>> = left
            .map(|(_, disk)| disk.peek(ZONES_START, usize_of(JOURNAL_MIN)))
            .collect();
        let notes = notes(rings.iter().map(Vec::as_slice));
        let mut with_sums = 0;
        for note in notes.iter().filter(|note| note.tag.bytes() != [0]) {
            let row = row_of(&scene, note);
            let mut bits = OF_A_REPLAY;
            for (slot, (disk, _)) in scene.slots.iter().enumerate() {
                bits |= match scene.geometry.role(scene.rows[row], Slot(slot)) {
                    _ if lost.contains(disk) => 0,
                    Role::P => OF_P,
                    Role::Q => OF_Q,
                    Role::Data(_) => 0,
                };
            }
            assert_eq!(note.tag.bytes(), [bits], "row {row}, without {lost:?}");
            let parities = usize_of(u64::from((bits & (OF_P | OF_Q)).count_ones()));
            assert_eq!(note.sums.len(), parities * CHUNK / SECTOR);
            with_sums += 1;
        }
        assert!(with_sums > 0, "no note of {} is a replay's", notes.len());
    }
}

//! Scrubs (fault D8): what is wrong is found and mended by what verifies, and nothing else is touched.

use std::cell::Cell;
use std::rc::Rc;

use cairn_blockdev::sim::{Fault, Rng};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, WriteFlags};
use cairn_raid::defects::{ScrubRecord, ScrubState};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, ZoneKind};
use cairn_raid::{Level, Role, Slot};

use crate::lab::{BLOCK, CHUNK, LEVELS, Lab, ROWS, shape, zone};
use crate::model::Crash;
use crate::story::Story;
use crate::world::Shape;

fn counts(scrub: ScrubRecord) -> (u64, u64, u64) {
    (scrub.repaired, scrub.mismatched, scrub.unrepairable)
}

#[test]
fn d8_scrub_of_a_sound_array_changes_nothing_and_says_so() {
    for integrity in [true, false] {
        for (level, members) in LEVELS {
            let lab = Lab::new(1, shape(level, members, integrity));
            let before = lab.image();
            let scrub = lab.scrub();
            assert_eq!(counts(scrub), (0, 0, 0));
            assert!(scrub.finished_ms >= scrub.started_ms && scrub.runs == 1);
            assert!(lab.image() == before);
            assert!(lab.array.status().scrubbing.is_none());
            assert!(lab.world.host.saw("ScrubFinished"));
            lab.check();
        }
    }
}

#[test]
fn d8_scrub_repairs_any_flipped_bit_in_data_p_and_q() {
    for (level, members) in LEVELS {
        for slot in 0..members {
            let seed = u64_of(slot);
            let lab = Lab::new(seed, shape(level, members, true));
            let before = lab.image();
            let mut rng = Rng::new(seed);
            let rows = lab.rows();
            for row in &rows {
                lab.flip(*row, slot, rng.below(CHUNK / BLOCK), rng.below(BLOCK * 8));
            }
            let scrub = lab.scrub();
            let flipped = u64_of(rows.len());
            assert_eq!(counts(scrub), (flipped, flipped, 0), "{level} slot {slot}");
            assert!(lab.image() == before, "{level} slot {slot}");
            let (disk, _) = lab.place(rows[0], slot, 0);
            let path = lab.world.path(disk);
            let status = lab.array.status();
            let member = status.members.iter().find(|m| *m.path == *path).unwrap();
            assert_eq!(member.errors.corruption, flipped);
            assert!(lab.world.host.saw("Repaired"));
            lab.check();
        }
    }
}

#[test]
fn d8_scrub_solves_two_rotten_blocks_of_a_word_on_raid6() {
    for first in 0..5 {
        for second in first + 1..5 {
            let lab = Lab::new(7, shape(Level::Raid6, 5, true));
            let before = lab.image();
            let row = lab.rows()[3];
            lab.flip(row, first, 1, 77);
            lab.flip(row, second, 1, 78);
            assert_eq!(counts(lab.scrub()), (2, 2, 0), "{first} {second}");
            assert!(lab.image() == before);
            lab.check();
        }
    }
}

/// Krioukov et al., Parity Lost and Parity Regained (FAST'08): a scrub that recomputes parity from a
/// rotten block makes the rot final.
#[test]
fn d8_scrub_never_computes_parity_over_a_rotten_block() {
    let lab = Lab::new(3, shape(Level::Raid5, 4, true));
    let row = lab.rows()[5];
    let slot_of = |role| {
        (0..4)
            .find(|slot| lab.geometry.role(row, Slot(*slot)) == role)
            .unwrap()
    };
    let (data, other, parity) = (
        slot_of(Role::Data(1)),
        slot_of(Role::Data(0)),
        slot_of(Role::P),
    );
    lab.flip(row, data, 2, 5);
    lab.flip(row, parity, 2, 9);
    let before = lab.image();
    let scrub = lab.scrub();
    assert_eq!(counts(scrub), (0, 1, 1));
    assert!(
        lab.image() == before,
        "nothing that could still help is overwritten"
    );
    let status = lab.array.status();
    assert_eq!(status.bad_blocks_total, 1);
    let bad = &status.bad_blocks[0];
    let (disk, offset) = lab.place(row, data, 2);
    assert_eq!(
        (bad.path.as_str(), bad.offset, bad.len),
        (&*lab.world.path(disk), offset, BLOCK)
    );
    let (volume, at) = bad.volume.clone().unwrap();
    assert_eq!(volume, "v");
    assert!(lab.read(at, BLOCK).is_err(), "an error for what is lost");
    let before_it = lab.read(0, at).unwrap();
    let after_it = lab.read(at + BLOCK, u64_of(lab.contents.len()) - at - BLOCK);
    assert!(before_it == lab.contents[..usize_of(at)]);
    assert!(after_it.unwrap() == lab.contents[usize_of(at + BLOCK)..]);
    assert_ne!(other, data);
    // A second scrub finds the same, once.
    assert_eq!(counts(lab.scrub()), (0, 1, 1));
    assert_eq!(lab.array.status().bad_blocks_total, 1);
    // Writing it anew heals it; then its parity can be mended, too.
    let fresh = Buf::copy_of(&lab.contents[usize_of(at)..usize_of(at + BLOCK)]).freeze();
    let written = lab.volume.write(at, fresh, WriteFlags::default());
    lab.world.run(written).unwrap();
    lab.world.run(lab.array.drain()).unwrap();
    lab.scrub();
    assert_eq!(lab.array.status().bad_blocks_total, 0);
    assert_eq!(lab.array.status().scrub.unrepairable, 0);
    lab.check();
}

/// What is written beside a block that a scrub has listed gets to its place: the block is given up for that,
/// and stays an error.
#[test]
fn d8_a_block_that_a_scrub_found_lost_doesnt_keep_its_row_from_going_on() {
    let lab = Lab::new(4, shape(Level::Raid5, 4, true));
    let row = lab.rows()[5];
    let slot_of = |role| {
        (0..4)
            .find(|slot| lab.geometry.role(row, Slot(*slot)) == role)
            .unwrap()
    };
    lab.flip(row, slot_of(Role::Data(1)), 2, 5);
    lab.flip(row, slot_of(Role::P), 2, 9);
    assert_eq!(counts(lab.scrub()), (0, 1, 1));
    let (_, lost) = lab.array.status().bad_blocks[0].volume.clone().unwrap();
    let beside = lost - lab.geometry.chunk_bytes();
    let fresh = Buf::copy_of(&[0x77; 4096]).freeze();
    let written = lab.volume.write(beside, fresh, WriteFlags { fua: true });
    lab.world.run(written).unwrap();
    lab.world.run(lab.array.drain()).unwrap();
    assert!(lab.read(beside, BLOCK).unwrap() == [0x77; 4096]);
    assert!(lab.read(lost, BLOCK).is_err());
    assert_eq!(lab.array.status().bad_blocks_total, 1);
    lab.world.run(lab.array.stop()).unwrap();
}

#[test]
fn d8_scrub_brings_back_a_write_that_a_disk_lost() {
    for (level, members) in LEVELS {
        let mut lab = Lab::new(11, shape(level, members, true));
        let row = lab.rows()[2];
        let slot = (0..members)
            .find(|slot| lab.geometry.role(row, Slot(*slot)) == Role::Data(0))
            .unwrap();
        let old = lab.block(row, slot, 0);
        let first = lab.rows()[0].0;
        let at = (row.0 - first) * lab.geometry.row_bytes();
        let fresh = vec![0xA7; usize_of(BLOCK)];
        let data = Buf::copy_of(&fresh).freeze();
        lab.world
            .run(lab.volume.write(at, data, WriteFlags::default()))
            .unwrap();
        lab.world.run(lab.array.drain()).unwrap();
        lab.contents[usize_of(at)..usize_of(at + BLOCK)].copy_from_slice(&fresh);
        let (disk, offset) = lab.place(row, slot, 0);
        assert!(lab.block(row, slot, 0) == fresh);
        lab.world.disks[disk].poke(offset, &old);
        assert_eq!(counts(lab.scrub()), (1, 1, 0));
        assert!(
            lab.block(row, slot, 0) == fresh,
            "old parity isn't believed"
        );
        lab.check();
    }
}

#[test]
fn d1_scrub_rewrites_what_a_disk_cannot_read_with_and_without_checksums() {
    for integrity in [true, false] {
        for (level, members) in LEVELS {
            for slot in 0..members {
                let lab = Lab::new(13, shape(level, members, integrity));
                let before = lab.image();
                let (disk, offset) = lab.place(lab.rows()[4], slot, 2);
                let fault = Fault::BadRange { offset, len: 512 };
                lab.world.disks[disk].inject(fault);
                assert_eq!(counts(lab.scrub()), (1, 0, 0), "{level} slot {slot}");
                assert!(lab.image() == before);
                lab.check();
            }
        }
    }
}

#[test]
fn d8_scrub_without_checksums_counts_what_differs_and_changes_nothing() {
    for (level, members) in LEVELS {
        for slot in 0..members {
            let lab = Lab::new(17, shape(level, members, false));
            lab.flip(lab.rows()[6], slot, 3, 100);
            let before = lab.image();
            assert_eq!(counts(lab.scrub()), (0, 1, 0), "{level} slot {slot}");
            assert!(lab.image() == before, "nothing says which one is wrong");
            assert!(lab.world.host.saw("Mismatch"));
        }
    }
}

#[test]
fn a_block_that_could_not_be_read_and_now_can_leaves_the_list() {
    let mut lab = Lab::new(19, shape(Level::Raid5, 4, true));
    let row = lab.rows()[1];
    let parity = (0..4)
        .find(|slot| lab.geometry.role(row, Slot(*slot)) == Role::P)
        .unwrap();
    for slot in [parity, (parity + 1) % 4] {
        let (disk, offset) = lab.place(row, slot, 0);
        let fault = Fault::BadRange { offset, len: 512 };
        lab.world.disks[disk].inject(fault);
    }
    assert_eq!(counts(lab.scrub()), (0, 0, 1));
    assert_eq!(lab.array.status().bad_blocks_total, 1);
    // After a restart the disks can read them again.
    lab.world.run(lab.array.stop()).unwrap();
    lab.world.crash(Crash::Kill);
    lab.reopen();
    assert_eq!(
        lab.array.status().bad_blocks_total,
        1,
        "a restart forgets nothing"
    );
    assert_eq!(counts(lab.scrub()), (0, 0, 0));
    assert_eq!(lab.array.status().bad_blocks_total, 0);
    lab.check();
}

#[test]
fn a10_scrub_mends_copies_of_checksum_pages_even_under_pages_in_use() {
    let lab = Lab::new(23, shape(Level::Raid6, 5, true));
    let (offset, _) = zone(&lab.world, 0, ZoneKind::Checksums);
    let span = 64 * BLOCK;
    let before = lab.world.disks[0].peek(offset + BLOCK, usize_of(span));
    lab.world.disks[0].poke(offset + BLOCK, &vec![0xEE; usize_of(span)]);
    let scrub = lab.scrub();
    assert_eq!(counts(scrub), (0, 0, 0), "no block was wrong");
    let errors = lab.array.status().members[0].errors;
    assert!(errors.corruption > 0, "the disk's copies were");
    let after = lab.world.disks[0].peek(offset + BLOCK, usize_of(span));
    assert!(after != vec![0xEE; usize_of(span)] && before.len() == after.len());
    // Again: nothing is left to find.
    let found = errors.corruption;
    lab.scrub();
    assert_eq!(lab.array.status().members[0].errors.corruption, found);
}

#[test]
fn checksum_pages_that_are_lost_everywhere_come_back_where_redundancy_agrees() {
    for (level, members) in LEVELS {
        let mut lab = Lab::new(29, shape(level, members, true));
        lab.world.run(lab.array.stop()).unwrap();
        lab.lose_pages(members);
        lab.world.crash(Crash::Kill);
        lab.reopen();
        let row = lab.rows()[9];
        lab.flip(row, 0, 1, 3);
        let scrub = lab.scrub();
        assert!(scrub.repaired > 0, "{level}");
        assert!(
            scrub.unrepairable > 0,
            "{level}: the word that disagrees is not vouched for by anybody"
        );
        let bad = lab.array.status().bad_blocks;
        assert!(bad.iter().all(|bad| bad.row == row.0), "{bad:?}");
        // The others read as before.
        let rest = usize_of((row.0 - lab.rows()[0].0) * lab.geometry.row_bytes());
        assert!(lab.read(0, u64_of(rest)).unwrap() == lab.contents[..rest]);
    }
}

/// Writes a block anew.
fn overwrite(lab: &mut Lab, from: u64) {
    let block = vec![0x77; usize_of(BLOCK)];
    let data = Buf::copy_of(&block).freeze();
    let written = lab.volume.write(from, data, WriteFlags::default());
    lab.world.run(written).unwrap();
    let from = usize_of(from);
    lab.contents[from..from + block.len()].copy_from_slice(&block);
}

#[test]
fn what_is_logged_for_a_row_whose_checksums_are_lost_is_put_in_place_without_a_scrub() {
    for (level, members) in LEVELS {
        println!("{level} of {members}");
        let mut lab = Lab::new(37, shape(level, members, true));
        lab.world.run(lab.array.stop()).unwrap();
        lab.lose_pages(members);
        lab.world.crash(Crash::Kill);
        lab.reopen();
        let (sound, rotten) = (lab.rows()[3], lab.rows()[9]);
        lab.flip(rotten, 0, 1, 3);
        let mut at = Vec::new();
        for row in [sound, rotten] {
            let from = (row.0 - lab.rows()[0].0) * lab.geometry.row_bytes();
            overwrite(&mut lab, from);
            at.push(usize_of(from));
        }
        lab.world.run(lab.array.drain()).unwrap();
        let times = lab.world.host.count("ApplyStuck");
        assert!((1..=2).contains(&times), "{level}: {times} times");
        let bad = lab.array.status().bad_blocks;
        assert!(!bad.is_empty(), "the word that disagrees");
        assert!(bad.iter().all(|bad| bad.row == rotten.0), "{bad:?}");
        lab.world.run(lab.array.stop()).unwrap();
        lab.world.crash(Crash::Kill);
        lab.reopen();
        // The sound row whole, of the other one what was written.
        for (from, len) in [(at[0], lab.geometry.row_bytes()), (at[1], BLOCK)] {
            let read = lab.read(u64_of(from), len).unwrap();
            assert!(
                read == lab.contents[from..from + usize_of(len)],
                "{level}: {from}"
            );
        }
    }
}

#[test]
fn a_start_looks_at_rows_whose_checksums_are_lost_if_all_members_are_here() {
    for (level, members) in LEVELS {
        for missing in [false, true] {
            println!("{level} of {members}, one missing: {missing}");
            let mut lab = Lab::new(39, shape(level, members, true));
            lab.world.run(lab.array.stop()).unwrap();
            lab.lose_pages(members);
            lab.world.crash(Crash::Kill);
            lab.reopen();
            // A part of a row that is written, and the first of one that isn't.
            let rows = [3, ROWS].map(|row| row * lab.geometry.row_bytes());
            lab.contents
                .resize(usize_of((ROWS + 1) * lab.geometry.row_bytes()), 0);
            let size = u64_of(lab.contents.len());
            lab.world.run(lab.array.resize_volume("v", size)).unwrap();
            lab.volume = lab.array.open_volume("v").unwrap();
            for from in rows {
                overwrite(&mut lab, from);
            }
            lab.world.run(lab.volume.flush()).unwrap();
            lab.world.crash(Crash::Kill);
            let mut present = lab.world.all();
            if missing {
                present.pop();
                let refused = lab.world.assemble(&present, false).unwrap_err();
                assert!(
                    refused.to_string().contains("bring more members back"),
                    "{refused}"
                );
                continue;
            }
            lab.reopen();
            assert_eq!(lab.array.status().bad_blocks, [], "{level}: all was sound");
            for from in rows {
                let len = lab.geometry.row_bytes();
                let read = lab.read(from, len).unwrap();
                let from = usize_of(from);
                assert!(
                    read == lab.contents[from..from + usize_of(len)],
                    "{level}: {from}"
                );
            }
        }
    }
}

#[test]
fn a_rebuild_beside_a_row_that_cannot_be_finished_says_so_and_holds_up_no_stop() {
    let mut shape = shape(Level::Raid5, 4, true);
    shape.spares = 1;
    let mut lab = Lab::new(43, shape);
    lab.world.run(lab.array.stop()).unwrap();
    lab.lose_pages(4);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    let path = lab.world.path(1);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    let from = 3 * lab.geometry.row_bytes();
    overwrite(&mut lab, from);
    let host = Rc::clone(&lab.world.host);
    for _ in 0..300 {
        lab.world.sleep(1_000);
    }
    assert!(host.saw("RebuildStopped"));
    assert!(
        host.count("BadBlock") < 60,
        "{} times",
        host.count("BadBlock")
    );
    let began = lab.world.env.clock.now();
    lab.world.run(lab.array.stop()).unwrap();
    let took = lab.world.env.clock.now().since(began);
    assert!(took.as_secs() < 60, "{took:?}");
}

#[test]
fn an_array_that_cannot_finish_a_row_stops_though_clients_wait_for_room() {
    // With as little memory as can be.
    let mut lab = Lab::new(42, shape(Level::Raid6, 5, true));
    lab.world.run(lab.array.stop()).unwrap();
    lab.lose_pages(5);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    let path = lab.world.path(4);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    let answered = Rc::new(Cell::new(0));
    let writes = 20_000;
    for n in 0..writes {
        let data = Buf::copy_of(&[0x5A; 4096]).freeze();
        let at = n * BLOCK % u64_of(lab.contents.len());
        let write = lab.volume.write(at, data, WriteFlags::default());
        let answered = Rc::clone(&answered);
        lab.world.env.spawn.spawn(Box::pin(async move {
            let _ = write.await;
            answered.set(answered.get() + 1);
        }));
    }
    lab.world.sleep(30_000);
    assert!(answered.get() < writes, "they don't all find room");
    let began = lab.world.env.clock.now();
    lab.world.run(lab.array.stop()).unwrap();
    let took = lab.world.env.clock.now().since(began);
    assert!(took.as_secs() < 60, "{took:?}");
    assert_eq!(answered.get(), writes);
}

#[test]
fn an_array_that_cannot_finish_a_row_stops_all_the_same_and_keeps_its_records() {
    let mut lab = Lab::new(41, shape(Level::Raid6, 5, true));
    lab.world.run(lab.array.stop()).unwrap();
    lab.lose_pages(5);
    lab.world.crash(Crash::Kill);
    lab.reopen();
    // A member is out: what it has might tell more, so nothing is given up.
    let path = lab.world.path(4);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    let from = 3 * lab.geometry.row_bytes();
    overwrite(&mut lab, from);
    lab.world.sleep(60_000);
    assert_eq!(lab.array.status().bad_blocks_total, 0);
    assert_eq!(lab.world.host.count("ApplyStuck"), 1, "said once");
    let began = lab.world.env.clock.now();
    lab.world.run(lab.array.stop()).unwrap();
    let took = lab.world.env.clock.now().since(began);
    assert!(took.as_secs() < 60, "{took:?}");
    let events = lab.world.host.events.borrow();
    let told = events
        .iter()
        .any(|event| event.detail.contains("wait in the journal"));
    assert!(told, "{events:?}");
}

#[test]
fn d8_scrub_mends_labels_and_maps() {
    let lab = Lab::new(31, shape(Level::Raid6, 4, true));
    let disk = &lab.world.disks[2];
    disk.poke(LABEL_A, &[0; 512]);
    disk.poke(LABEL_B, &[0; 512]);
    let (offset, _) = zone(&lab.world, 1, ZoneKind::Maps);
    lab.world.disks[1].poke(offset + BLOCK, &vec![0x11; 256 << 10]);
    let scrub = lab.scrub();
    assert!(scrub.repaired > 2 && scrub.unrepairable == 0, "{scrub:?}");
    for at in [LABEL_A, LABEL_B] {
        assert!(Label::decode(&disk.peek(at, usize_of(BLOCK))).is_ok());
    }
    assert_eq!(counts(lab.scrub()), (0, 0, 0));
}

#[test]
fn a_scrub_while_clients_write_finds_nothing_that_is_not_there() {
    for (level, members) in LEVELS {
        for seed in 0..6u64 {
            for integrity in [true, false] {
                println!("seed {seed}: {level}, integrity {integrity}");
                let mut shape = Shape::new(level, members, 0, 4096);
                shape.disk_bytes = 330 << 20;
                shape.integrity = integrity;
                let mut story = Story::new(shape, 8_000 + seed);
                let array = story.world.create();
                let chapter = story.chapter(&array, 6);
                story.world.run(chapter);
                for _ in 0..3 {
                    story.world.run(array.scrub_start()).unwrap();
                    let chapter = story.chapter(&array, 6);
                    story.world.run(chapter);
                }
                let looked = Rc::clone(&array);
                story.world.run_till("scrubbed", move || {
                    looked.status().scrub.state == ScrubState::Idle
                });
                assert_eq!(counts(array.status().scrub), (0, 0, 0), "seed {seed}");
                story.check(&array, Crash::Kill, false);
                story.end(array);
            }
        }
    }
}

#[test]
fn a_scrub_that_was_cut_off_goes_on_after_the_restart_and_loses_no_finding() {
    for crash in [Crash::Kill, Crash::Power] {
        let mut lab = Lab::with_rows(37, shape(Level::Raid5, 4, true), 400);
        let before = lab.image();
        let mut flipped = 0;
        for row in lab.rows().iter().step_by(10) {
            lab.flip(*row, usize_of(row.0 % 4), row.0 % 4, 1234);
            flipped += 1;
        }
        // About thirty seconds for all of it.
        lab.array.set_scrub_limit(Some(400 * CHUNK * 4 / 30));
        lab.world.run(lab.array.scrub_start()).unwrap();
        lab.world.sleep(17_000);
        let status = lab.array.status();
        assert_eq!(status.scrub.state, ScrubState::Running);
        let so_far = status.scrubbing.unwrap();
        assert!(so_far.done_bytes > 0 && so_far.done_bytes < so_far.total_bytes);
        assert!(so_far.eta_seconds.is_some());
        lab.world.crash(crash);
        lab.reopen();
        let scrub = lab.array.status().scrub;
        assert_eq!(scrub.state, ScrubState::Running, "it goes on");
        assert!(scrub.cursor > lab.rows()[0], "and not from the beginning");
        let scrub = lab.finish();
        assert_eq!(scrub.runs, 1);
        assert_eq!(
            (scrub.repaired, scrub.mismatched, scrub.unrepairable),
            (flipped, flipped, 0)
        );
        assert!(lab.image() == before);
        lab.check();
    }
}

#[test]
fn pause_resume_hold_and_stop_do_what_they_say_over_restarts_too() {
    let mut lab = Lab::with_rows(41, shape(Level::Raid6, 4, true), 200);
    let state = |lab: &Lab| lab.array.status().scrub.state;
    let run = |lab: &Lab, what: &str| {
        let array = Rc::clone(&lab.array);
        let what = what.to_owned();
        lab.world.run(async move {
            match what.as_str() {
                "start" => array.scrub_start().await,
                "pause" => array.scrub_pause().await,
                "hold" => array.scrub_hold().await,
                "resume" => array.scrub_resume().await,
                _ => array.scrub_stop().await,
            }
        })
    };
    for verb in ["pause", "resume", "stop"] {
        let refused = run(&lab, verb).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("no scrub to {verb}")),
            "{refused}"
        );
    }
    assert!(!run(&lab, "hold").unwrap(), "nothing to hold");
    lab.array.set_scrub_limit(Some(200 * CHUNK * 4 / 60));
    assert!(run(&lab, "start").unwrap());
    assert!(!run(&lab, "start").unwrap(), "it runs already");
    lab.world.sleep(20_000);
    assert!(run(&lab, "pause").unwrap());
    assert!(
        !run(&lab, "hold").unwrap(),
        "what the operator paused isn't the window's"
    );
    let paused = lab.array.status().scrub;
    lab.world.sleep(20_000);
    assert_eq!(lab.array.status().scrub.cursor, paused.cursor);
    lab.world.run(lab.array.stop()).unwrap();
    lab.world.crash(Crash::Kill);
    lab.reopen();
    lab.world.sleep(5_000);
    assert_eq!(state(&lab), ScrubState::Paused, "it stays paused");
    assert_eq!(lab.array.status().scrub.cursor, paused.cursor);
    lab.array.set_scrub_limit(Some(200 * CHUNK * 4 / 60));
    assert!(run(&lab, "resume").unwrap());
    lab.world.sleep(5_000);
    assert!(run(&lab, "hold").unwrap());
    assert_eq!(state(&lab), ScrubState::Waiting);
    lab.world.crash(Crash::Power);
    lab.reopen();
    lab.world.sleep(1_000);
    assert_eq!(state(&lab), ScrubState::Waiting, "it waits for its host");
    assert!(run(&lab, "stop").unwrap());
    assert!(!run(&lab, "stop").unwrap());
    assert!(lab.array.status().scrubbing.is_none());
    assert_eq!(
        lab.array.status().scrub.runs,
        0,
        "a stopped run doesn't count"
    );
    let scrub = lab.scrub();
    assert_eq!((scrub.runs, counts(scrub)), (1, (0, 0, 0)));
    lab.check();
}

#[test]
fn a_stop_and_a_start_in_one_breath_begin_at_the_beginning() {
    let lab = Lab::with_rows(43, shape(Level::Raid5, 4, true), 200);
    lab.array.set_scrub_limit(Some(200 * CHUNK * 4 / 60));
    lab.world.run(lab.array.scrub_start()).unwrap();
    lab.world.sleep(30_000);
    lab.world.run(lab.array.scrub_stop()).unwrap();
    lab.world.run(lab.array.scrub_start()).unwrap();
    lab.world.sleep(2_000);
    let scrub = lab.array.status().scrubbing.unwrap();
    assert!(scrub.done_bytes < scrub.total_bytes / 4, "{scrub:?}");
    lab.array.set_scrub_limit(None);
    lab.finish();
    lab.check();
}

#[test]
fn a_scrub_that_is_begun_anew_while_the_last_one_ends_does_not_end_with_it() {
    let lab = Lab::with_rows(44, shape(Level::Raid5, 4, true), 200);
    lab.world.run(lab.array.scrub_start()).unwrap();
    let array = Rc::clone(&lab.array);
    lab.world.run_till("all rows are looked at", move || {
        let so_far = array.status().scrubbing;
        so_far.is_some_and(|so_far| so_far.done_bytes == so_far.total_bytes)
    });
    lab.array.set_scrub_limit(Some(200 * CHUNK * 4 / 60));
    let (stop, start) = (lab.array.scrub_stop(), lab.array.scrub_start());
    let (stopped, started) = lab.world.run(futures_util::future::join(stop, start));
    assert!(stopped.unwrap() && started.unwrap());
    lab.world.sleep(2_000);
    let status = lab.array.status();
    assert_eq!(
        (status.scrub.state, status.scrub.runs),
        (ScrubState::Running, 0)
    );
    assert!(status.scrubbing.unwrap().done_bytes > 0);
    lab.array.set_scrub_limit(None);
    assert_eq!(lab.finish().runs, 1);
}

#[test]
fn a_degraded_array_is_scrubbed_for_what_it_still_has() {
    let lab = Lab::new(47, shape(Level::Raid6, 5, true));
    let row = lab.rows()[3];
    let before = lab.image();
    lab.flip(row, 2, 1, 8);
    let (disk, _) = lab.place(row, 0, 0);
    let path = lab.world.path(disk);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    assert_eq!(counts(lab.scrub()), (1, 1, 0));
    let (disk, offset) = {
        let members = lab.array.status().members;
        let member = members.iter().find(|m| m.slot == Some(2)).unwrap();
        let data = lab.array.data_offset(&member.path).unwrap();
        (2, data + row.0 * CHUNK + BLOCK)
    };
    let mended = lab.world.disks[disk].peek(offset, usize_of(BLOCK));
    let rows = lab.rows();
    let at = 2 * rows.len() + rows.iter().position(|r| *r == row).unwrap();
    let from = usize_of(BLOCK);
    assert!(mended == before[at][from..2 * from]);
}

#[test]
fn a_disk_that_hangs_under_a_scrub_is_thrown_out_and_the_scrub_ends() {
    let lab = Lab::new(53, shape(Level::Raid6, 5, true));
    lab.world.disks[3].hang();
    lab.world.run(lab.array.scrub_start()).unwrap();
    let scrub = lab.finish();
    assert_eq!(counts(scrub), (0, 0, 0));
    assert_eq!(lab.array.status().redundancy_left, 1);
    let all = lab.read(0, u64_of(lab.contents.len())).unwrap();
    assert!(all == lab.contents);
}

#[test]
fn a_rebuild_goes_before_a_scrub() {
    let mut shape = shape(Level::Raid5, 4, true);
    shape.spares = 1;
    let lab = Lab::with_rows(59, shape, 100);
    lab.array.set_scrub_limit(Some(100 * CHUNK * 4 / 20));
    lab.world.run(lab.array.scrub_start()).unwrap();
    lab.world.sleep(1_000);
    let path = lab.world.path(1);
    lab.world.run(lab.array.fail_member(&path)).unwrap();
    lab.world.wait_until_filled(&lab.array);
    assert_eq!(lab.array.status().scrub.state, ScrubState::Running);
    let scrub = lab.finish();
    assert_eq!(counts(scrub), (0, 0, 0));
    lab.check();
}

//! Stops and idle arrays in the moments that could make them lie or wait for ever.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cairn_blockdev::sim::Fault;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, LABEL_COPY_BEFORE_END};
use cairn_raid::{Level, MemberState};

use crate::model::Crash;
use crate::races::{Bench, LABELS};
use crate::region::check_all;
use crate::world::{Shape, World};

const CHUNK: u64 = 128 << 10;
const WRITE: u64 = 64 << 10;
/// More than the rings take.
const WRITES: u64 = 900;

/// What each writer was told, if it was.
type Answers = Rc<RefCell<Vec<Option<Result<(), IoErrorKind>>>>>;

/// Half a chunk of each row, so that all of it goes through the journal.
fn a_stop_with_a_full_journal(level: Level, members: usize, after_ms: u64) {
    let mut shape = Shape::new(level, members, 0, u32::try_from(CHUNK).unwrap());
    shape.disk_bytes = 512 << 20;
    let mut world = World::new(after_ms + 1, shape);
    let array = world.create();
    let row = array.status().row_bytes;
    world.run(array.create_volume("v", WRITES * row)).unwrap();
    let volume = array.open_volume("v").unwrap();
    // Nothing goes in place: the journal fills, and nothing gives room.
    let data = array.data_offset(&world.path(0)).unwrap();
    for disk in &world.disks {
        disk.hold_writes(data..shape.disk_bytes - LABEL_COPY_BEFORE_END);
    }
    let answers: Answers = Rc::new(RefCell::new(vec![None; usize_of(WRITES)]));
    for write in 0..WRITES {
        let (volume, answers) = (Rc::clone(&volume), Rc::clone(&answers));
        world.env.spawn.spawn(Box::pin(async move {
            let bytes = vec![u8::try_from(write % 251 + 1).unwrap(); usize_of(WRITE)];
            let data = Buf::copy_of(&bytes).freeze();
            let written = volume.write(write * row, data, WriteFlags::default());
            let answer = written.await.map_err(|error| error.kind);
            answers.borrow_mut()[usize_of(write)] = Some(answer);
        }));
    }
    world.sleep(after_ms);
    let waiting = answers.borrow().iter().filter(|a| a.is_none()).count();
    assert!(waiting > 0, "the journal isn't full");
    let stopped = Rc::new(Cell::new(None));
    let (told, stopping) = (Rc::clone(&stopped), Rc::clone(&array));
    world.env.spawn.spawn(Box::pin(async move {
        told.set(Some(stopping.stop().await.is_ok()));
    }));
    world.sleep(20);
    assert_eq!(stopped.get(), None);
    for disk in &world.disks {
        disk.release();
    }
    // A minute at most.
    world.run_till("stopped, with all writers answered", || {
        stopped.get().is_some() && answers.borrow().iter().all(Option::is_some)
    });
    assert_eq!(stopped.get(), Some(true));
    drop((volume, array));
    world.crash(Crash::Power);
    let array = world.assemble_all();
    assert!(array.status().clean);
    let volume = array.open_volume("v").unwrap();
    for write in 0..WRITES {
        if answers.borrow()[usize_of(write)] == Some(Ok(())) {
            let (buf, result) = world.run(volume.read(write * row, Buf::zeroed(usize_of(WRITE))));
            result.unwrap();
            let byte = u8::try_from(write % 251 + 1).unwrap();
            assert!(buf.iter().all(|b| *b == byte), "write {write} was acked");
        }
    }
}

#[test]
fn a_stop_with_a_full_journal_ends_and_answers_the_writers_that_wait_for_room() {
    a_stop_with_a_full_journal(Level::Raid5, 4, 500);
    a_stop_with_a_full_journal(Level::Raid6, 5, 700);
}

/// The newest label that a disk bears.
fn label(world: &World, disk: usize) -> Label {
    let slots = [LABEL_A, LABEL_B].map(|at| world.disks[disk].peek(at, 4096));
    let found = slots.iter().filter_map(|bytes| Label::decode(bytes).ok());
    found.max_by_key(|label| label.array.generation).unwrap()
}

/// What is held back while the array goes clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The flushes before the labels say so.
    Flushes,
    /// The labels that say so.
    Labels,
}

/// A disk is thrown out by read errors while the array is going clean; what is held is let go on the
/// first `released` disks, and then the power goes.
fn thrown_out_while_going_clean(shape: Shape, held: Held, released: usize, seed: u64) {
    println!("seed {seed}: {shape:?}, {held:?}, {released} released");
    let bench = Bench::shaped(seed, shape);
    let data = bench.array.data_offset(&bench.world.path(1)).unwrap();
    // More blocks of the member than may be unreadable.
    let beyond = (256 << 10..768 << 10).step_by(4096);
    bench.world.run(async {
        for at in beyond.clone() {
            let data = Buf::copy_of(&[3; 4096]).freeze();
            let written = bench.volume.write(at, data, WriteFlags::default());
            written.await.unwrap();
        }
        bench.volume.flush().await.unwrap();
        let client = bench.client(0..256);
        // No complete row: one of these may be lost with a member before it is flushed.
        client.write(30..40, false).await.unwrap();
        client.write(60..71, false).await.unwrap();
        client.write(100..101, false).await.unwrap();
    });
    let hold = || {
        for disk in &bench.world.disks {
            match held {
                Held::Flushes => disk.hold_flushes(),
                Held::Labels => disk.hold_writes(LABELS),
            }
        }
    };
    hold();
    bench.world.run_till("it goes clean", || {
        bench.world.disks.iter().any(|disk| disk.waiting() > 0)
    });
    // Every read of one member fails, until it is thrown out; that commit waits for what is held.
    let out = &bench.world.disks[1];
    out.inject(Fault::BadRange {
        offset: data,
        len: shape.disk_bytes - data,
    });
    let (volume, array) = (Rc::clone(&bench.volume), Rc::clone(&bench.array));
    let reading = Rc::new(Cell::new(true));
    let going_on = Rc::clone(&reading);
    let clock = Rc::clone(&bench.world.env.clock);
    bench.world.env.spawn.spawn(Box::pin(async move {
        for at in beyond.cycle() {
            if !going_on.get() || array.status().members.is_empty() {
                return;
            }
            let _ = volume.read(at, Buf::zeroed(4096)).await;
            clock.sleep(std::time::Duration::from_micros(50)).await;
        }
    }));
    bench.world.sleep(1_500);
    for disk in bench.world.disks.iter().take(released) {
        disk.release();
    }
    bench.world.sleep(100);
    reading.set(false);
    let failed = World::in_state(&bench.array, MemberState::Failed);
    let out = failed.contains(&*bench.world.path(1));
    assert!(
        out || released < bench.world.disks.len(),
        "it wasn't thrown out"
    );
    let members = bench.world.disks.len();
    for disk in 0..members {
        let label = label(&bench.world, disk).array;
        let path = bench.world.path(1);
        let out = bench.array.status().members;
        let out = out.iter().find(|member| member.path == *path).unwrap();
        let entry = label.table.iter().find(|entry| entry.slot == out.slot);
        // Clean with the thrown-out disk as a member is right only if that was flushed as well.
        if label.clean && entry.is_some_and(|entry| entry.state == MemberState::InSync) {
            assert_eq!(held, Held::Labels, "clean before anything was flushed");
        }
    }
    let mut world = bench.world;
    drop((bench.array, bench.volume));
    world.crash(Crash::Power);
    let all = world.all();
    let array = world.assemble(&all, false).or_else(|error| {
        assert!(!shape.journal, "with a journal no force is needed: {error}");
        world.assemble(&all, true)
    });
    let array = array.unwrap();
    let volume = array.open_volume("v").unwrap();
    let what = format!("seed {seed}, {held:?}, {released} released");
    world.run(check_all(&volume, &bench.model, Some(Crash::Power), &what));
    world.audit(&array);
    assert!(u64_of(array.written_rows().len()) > 0);
}

#[test]
fn no_array_goes_clean_past_a_disk_that_read_errors_have_just_thrown_out() {
    let mut seed = 0;
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        let shape = Shape::new(level, members, 0, 4096);
        for shape in [shape, shape.without_journal()] {
            for held in [Held::Flushes, Held::Labels] {
                for released in [0, 1, members / 2, members] {
                    seed += 1;
                    thrown_out_while_going_clean(shape, held, released, seed);
                }
            }
        }
    }
}

/// Complete rows in place, of which only the journal tells; then a member is failed, and a kill.
fn killed_after_a_member_was_failed(seed: u64, after_ms: u64) {
    let mut world = World::new(seed, Shape::new(Level::Raid5, 3, 0, 64 << 10));
    let array = world.create();
    world.run(array.create_volume("v", 128 << 20)).unwrap();
    let volume = array.open_volume("v").unwrap();
    let bytes = Buf::copy_of(&vec![0x22; 24 << 20]).freeze();
    world
        .run(volume.write(0, bytes, WriteFlags::default()))
        .unwrap();
    world.sleep(after_ms);
    world.run(array.fail_member(&world.path(2))).unwrap();
    drop((volume, array));
    world.crash(Crash::Kill);
    let array = world.assemble_all();
    let volume = array.open_volume("v").unwrap();
    let (buf, result) = world.run(volume.read(0, Buf::zeroed(24 << 20)));
    result.unwrap();
    assert!(buf.iter().all(|byte| *byte == 0x22), "seed {seed}");
}

#[test]
fn a_long_replay_without_a_member_ends() {
    for seed in 1..=12 {
        killed_after_a_member_was_failed(seed, seed * 40);
    }
}

//! A start after complete rows were cut off takes no more memory than the array may, however many these are, and
//! one that is itself cut off, again and again, comes to the same end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use cairn_blockdev::sim::{Completion, Rng, Watch};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{Buf, IoOp, WriteFlags};
use cairn_raid::layout::LABEL_COPY_BEFORE_END;
use cairn_raid::{Array, Geometry, Level, MemoryShare};
use futures_util::future::try_join_all;

use crate::model::Crash;
use crate::world::{Shape, World};

const CHUNK: u32 = 64 << 10;
/// Five times what has room at once.
const ROWS: u64 = 200;
const LEVELS: [(Level, usize); 3] = [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid6, 5)];

/// Chunks of a member that were read before the first one is written.
struct ReadFirst {
    data: Range<u64>,
    read: RefCell<BTreeSet<u64>>,
    is_over: Cell<bool>,
}

impl Watch for ReadFirst {
    fn completed(&self, done: &Completion) {
        if !self.data.contains(&done.offset) || self.is_over.get() {
            return;
        }
        match done.op {
            IoOp::Read => drop(
                self.read
                    .borrow_mut()
                    .insert(done.offset / u64::from(CHUNK)),
            ),
            _ => self.is_over.set(true),
        }
    }
}

/// An array that was killed while all rows of its volume were on their way past the journal; the volume's
/// contents, and where the data zone of its members begins. It has as little memory as an array can have.
fn cut_off(level: Level, members: usize) -> (World, Vec<u8>, u64) {
    // One of those seeds whose arrays have little memory.
    let seed = 6_300 + 3 * u64_of(members);
    let shape = Shape::new(level, members, 0, CHUNK);
    println!("seed {seed}: {shape:?}");
    let mut world = World::new(seed, shape);
    let array = world.create();
    let geometry = Geometry::new(level, members, CHUNK).unwrap();
    let size = ROWS * geometry.row_bytes();
    world.run(array.create_volume("v", size)).unwrap();
    let volume = array.open_volume("v").unwrap();
    let mut contents = vec![0; usize_of(size)];
    for round in 0..2 {
        Rng::new(seed + round).fill(&mut contents);
        let rows = contents.chunks(usize_of(geometry.row_bytes()));
        let writes = rows.enumerate().map(|(row, bytes)| {
            let offset = u64_of(row) * geometry.row_bytes();
            let data = Buf::copy_of(bytes).freeze();
            volume.write(offset, data, WriteFlags::default())
        });
        world.run(try_join_all(writes)).unwrap();
        if round == 0 {
            world.run(array.drain()).unwrap();
        }
        world.run(volume.flush()).unwrap();
    }
    let data = array.data_offset(&world.path(0)).unwrap();
    drop((volume, array));
    world.crash(Crash::Kill);
    (world, contents, data)
}

fn check(world: &World, array: &Rc<Array>, contents: &[u8]) {
    let volume = array.open_volume("v").unwrap();
    for (at, piece) in contents.chunks(1 << 20).enumerate() {
        let buf = Buf::zeroed(piece.len());
        let (buf, result) = world.run(volume.read(u64_of(at) << 20, buf));
        result.unwrap();
        assert!(buf[..] == *piece, "MiB {at} of the volume changed");
    }
    world.audit(array);
}

#[test]
fn a_replay_takes_no_more_rows_at_once_than_memory_has_room_for() {
    for (level, members) in LEVELS {
        let (world, contents, data) = cut_off(level, members);
        let watch = Rc::new(ReadFirst {
            data: data..world.shape.disk_bytes - LABEL_COPY_BEFORE_END,
            read: RefCell::default(),
            is_over: Cell::default(),
        });
        world.disks[0].sim().watch(Rc::<ReadFirst>::clone(&watch));
        let array = world.assemble_all();
        assert_eq!(world.host.count("JournalReplayed"), 1);
        let room = MemoryShare::LEAST.row_cache_bytes / 2;
        let at_once = room / (u64_of(members) * u64::from(CHUNK));
        let read = u64_of(watch.read.borrow().len());
        assert!(watch.is_over.get() && 2 * at_once < ROWS);
        assert!(
            (1..=at_once).contains(&read),
            "{level}: {read} chunks, room for {at_once} rows"
        );
        check(&world, &array, &contents);
    }
}

#[test]
fn a_replay_in_parts_that_is_cut_off_again_and_again_comes_to_the_same_end() {
    for (level, members) in LEVELS {
        let (mut world, contents, _) = cut_off(level, members);
        let mut polls = 300;
        let array = loop {
            let all = world.all();
            let start = world.assemble_later(&all, false);
            match world.sim.run_until(start, polls) {
                Some(started) => break started.unwrap(),
                None if polls % 2 == 0 => world.crash(Crash::Power),
                None => world.crash(Crash::Kill),
            }
            polls += polls / 7;
        };
        check(&world, &array, &contents);
    }
}

/// A row is cut off while older records hold a block of it, the next start puts it together from these and lets them
/// go, and is cut off itself: the start after that finds the block in place, and the intent that says otherwise.
#[test]
fn what_a_start_took_from_older_records_is_known_to_the_next_one() {
    for (level, members) in LEVELS {
        let seed = 6_600 + 3 * u64_of(members);
        let shape = Shape::new(level, members, 0, CHUNK);
        println!("seed {seed}: {shape:?}");
        let mut world = World::new(seed, shape);
        for disk in &world.disks {
            // What a disk tears nothing of can't be excused by that.
            disk.sim().tear_in(4096);
        }
        let array = world.create();
        let row_bytes = Geometry::new(level, members, CHUNK).unwrap().row_bytes();
        world
            .run(array.create_volume("v", ROWS * row_bytes))
            .unwrap();
        let volume = array.open_volume("v").unwrap();
        let filled = |bytes: u64, value: u8| {
            let mut buf = Buf::zeroed(usize_of(bytes));
            buf.fill(value);
            buf.freeze()
        };
        let flags = WriteFlags::default();
        let complete =
            |row: u64, value| volume.write(row * row_bytes, filled(row_bytes, value), flags);
        world
            .run(try_join_all((0..ROWS).map(|row| complete(row, 1))))
            .unwrap();
        world.run(array.drain()).unwrap();
        world.run(volume.write(0, filled(4096, 2), flags)).unwrap();
        world
            .run(try_join_all((1..ROWS).map(|row| complete(row, 3))))
            .unwrap();
        world.run(volume.flush()).unwrap();
        let first = array.written_rows()[0].0;
        for disk in 0..members {
            let row = world.rows_on_disk(&array, disk, first..first + 1);
            world.disks[disk].hold_writes(row);
        }
        let last = complete(0, 4);
        world.env.spawn.spawn(Box::pin(async move {
            let _ = last.await;
        }));
        let waiting = || world.disks.iter().any(|disk| disk.waiting() > 0);
        world.run_till("on its way", waiting);
        drop((volume, array));
        world.crash(Crash::Power);
        let mut polls = 300;
        let array = loop {
            let all = world.all();
            let start = world.assemble_later(&all, false);
            match world.sim.run_until(start, polls) {
                Some(started) => break started.unwrap(),
                None => world.crash(Crash::Power),
            }
            polls += polls / 20;
        };
        assert_eq!(array.status().bad_blocks, [], "{level}");
        let volume = array.open_volume("v").unwrap();
        let (buf, result) = world.run(volume.read(0, Buf::zeroed(8192)));
        result.unwrap();
        assert_eq!((buf[0], buf[4096]), (2, 1), "{level}");
    }
}

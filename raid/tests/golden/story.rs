//! What was done to the array of the fixture, and what it therefore holds.
//!
//! The fixture of version 1 is never written again. For a later version, once:
//! `CAIRN_NEW_FIXTURE=tests/golden/array-raid6-v2.bin cargo test -p cairn-raid --test golden story`.

use std::rc::Rc;

use cairn_blockdev::prepared::{LogId, Op, PreparedDevice, Seq, Tag};
use cairn_blockdev::{Buf, SharedBuf, WriteFlags};
use cairn_raid::{Array, Geometry, Level, Role, Row, Slot};

use crate::image::pack;
use crate::model::Crash;
use crate::world::{Shape, World};

pub(crate) const LOG: LogId = LogId(77);
pub(crate) const META: &[u8] = b"ballot 3";
/// Blocks of the volume that are looked at.
pub(crate) const BLOCKS: usize = 24;
/// Data chunks of a row: a chunk is a block.
const CHUNKS: u64 = 2;

pub(crate) fn shape() -> Shape {
    Shape {
        disk_bytes: 96 << 20,
        ..Shape::new(Level::Raid6, 4, 0, 4096)
    }
}

pub(crate) fn filled(value: u8) -> SharedBuf {
    let mut buf = Buf::zeroed(4096);
    buf.fill(value);
    buf.freeze()
}

pub(crate) fn tag() -> Tag {
    Tag::new(b"by the story").unwrap()
}

/// The operations of the log from sequence 5 on; those below 9 were committed.
pub(crate) fn ops() -> Vec<Op> {
    let write = |block: u64, value| Op::Write {
        offset: block * 4096,
        data: filled(value),
    };
    let zero = Op::Zero {
        offset: 13 * 4096,
        len: 4096,
    };
    let discard = Op::Discard {
        offset: 16 * 4096,
        len: 2 * 4096,
    };
    vec![
        write(12, 0xC1),
        zero,
        Op::Barrier,
        discard,
        write(14, 0xC2),
        write(0, 0xC3),
    ]
}

/// What each block of the volume holds, as a byte that fills it.
pub(crate) fn contents() -> [u8; BLOCKS] {
    let mut blocks = [0; BLOCKS];
    for (block, value) in blocks.iter_mut().zip(1..=20) {
        *block = value;
    }
    // Written in part, cut off in their cycle.
    (blocks[1], blocks[4]) = (0x51, 0x54);
    // Committed: a write, zeros, a discard.
    (blocks[12], blocks[13]) = (0xC1, 0);
    (blocks[16], blocks[17]) = (0, 0);
    blocks
}

async fn write(device: &Rc<dyn PreparedDevice>, block: u64, value: u8) {
    let flags = WriteFlags::default();
    let written = device.write(block * 4096, filled(value), flags);
    written.await.unwrap();
}

/// Everything up to the cycle that is cut off.
fn begin() -> (World, Rc<Array>) {
    let world = World::new(1, shape());
    let array = world.create();
    world.run(array.create_volume("v", 1 << 30)).unwrap();
    let device = array.open_prepared("v").unwrap();
    world.run(async {
        for (block, value) in (0..).zip(1..=20) {
            write(&device, block, value).await;
        }
        device.flush().await.unwrap();
        array.drain().await.unwrap();
        array.drain().await.unwrap();
        for (seq, op) in (5..).zip(ops()) {
            device.prepare(LOG, Seq(seq), tag(), op).await.unwrap();
        }
        device.set_meta(LOG, META).await.unwrap();
        device.commit(LOG, Seq(8));
        array.drain().await.unwrap();
        write(&device, 1, 0x51).await;
        write(&device, 4, 0x54).await;
        device.flush().await.unwrap();
    });
    (world, array)
}

/// The rows of the blocks that were written in part, chunk by chunk with its role.
fn rows(world: &World, array: &Rc<Array>) -> Vec<(Role, Vec<u8>)> {
    let geometry = Geometry::new(Level::Raid6, 4, 4096).unwrap();
    let status = array.status();
    let first = array.written_rows()[0].0;
    let mut chunks = Vec::new();
    for row in [first + 1 / CHUNKS, first + 4 / CHUNKS] {
        for member in &status.members {
            let role = geometry.role(Row(row), Slot(member.slot.unwrap()));
            let disk = world
                .disks
                .iter()
                .find(|disk| *cairn_blockdev::BlockDevice::name(*disk) == *member.path);
            let offset = array.data_offset(&member.path).unwrap() + row * 4096;
            chunks.push((role, disk.unwrap().peek(offset, 4096)));
        }
    }
    chunks
}

#[test]
fn the_story_comes_to_parity_that_is_new_beside_data_that_is_old() {
    for polls in 1..100_000 {
        let (mut world, array) = begin();
        let before = rows(&world, &array);
        let cycle = Rc::clone(&array);
        let whole = world
            .sim
            .run_until(async move { cycle.drain().await }, polls);
        assert!(whole.is_none(), "no poll has the parity and not the data");
        // The power cut takes what wasn't flushed.
        world.crash(Crash::Power);
        let after = rows(&world, &array);
        let is_parity_alone = before
            .iter()
            .zip(&after)
            .all(|((role, before), (_, after))| {
                let is_parity = matches!(role, Role::P | Role::Q);
                (before != after) == is_parity
            });
        if is_parity_alone {
            let file = pack(&world.disks, shape().disk_bytes);
            println!("{} bytes after {polls} polls", file.len());
            if let Some(path) = std::env::var_os("CAIRN_NEW_FIXTURE") {
                std::fs::write(path, file).unwrap();
            }
            return;
        }
    }
}

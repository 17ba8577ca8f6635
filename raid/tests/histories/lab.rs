//! An array with a volume whose rows are written and in place, and places of it to spoil.

use std::rc::Rc;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, WriteFlags};
use cairn_raid::defects::{ScrubRecord, ScrubState};
use cairn_raid::label::Label;
use cairn_raid::layout::{LABEL_A, LABEL_B, ZoneKind};
use cairn_raid::{Array, Geometry, Level, Row};

use crate::world::{Shape, World};

pub(crate) const CHUNK: u64 = 16 << 10;
pub(crate) const BLOCK: u64 = 4096;
pub(crate) const ROWS: u64 = 24;
pub(crate) const LEVELS: [(Level, usize); 3] =
    [(Level::Raid1, 3), (Level::Raid5, 4), (Level::Raid6, 5)];

/// An array with a volume whose first rows are written, all of it in place.
pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) array: Rc<Array>,
    pub(crate) volume: Rc<dyn BlockDevice>,
    pub(crate) contents: Vec<u8>,
    pub(crate) geometry: Geometry,
}

pub(crate) fn shape(level: Level, members: usize, integrity: bool) -> Shape {
    let mut shape = Shape::new(level, members, 0, u32::try_from(CHUNK).unwrap());
    shape.integrity = integrity;
    shape
}

/// Where a zone of a member lies.
pub(crate) fn zone(world: &World, disk: usize, kind: ZoneKind) -> (u64, u64) {
    let slots = [LABEL_A, LABEL_B].map(|at| world.disks[disk].peek(at, usize_of(BLOCK)));
    let label = slots
        .iter()
        .find_map(|bytes| Label::decode(bytes).ok())
        .unwrap();
    let zone = label.layout.zone(kind);
    (zone.offset, zone.len)
}

impl Lab {
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        Self::with_rows(seed, shape, ROWS)
    }

    pub(crate) fn with_rows(seed: u64, shape: Shape, rows: u64) -> Self {
        println!("seed {seed}: {shape:?}");
        let world = World::new(seed, shape);
        let array = world.create();
        let geometry = Geometry::new(shape.level, shape.members, shape.chunk_bytes).unwrap();
        let size = rows * geometry.row_bytes();
        world.run(array.create_volume("v", size)).unwrap();
        let volume = array.open_volume("v").unwrap();
        let mut contents = vec![0; usize_of(size)];
        Rng::new(seed).fill(&mut contents);
        for (at, piece) in contents.chunks(1 << 20).enumerate() {
            let data = Buf::copy_of(piece).freeze();
            let offset = u64_of(at) << 20;
            let written = volume.write(offset, data, WriteFlags::default());
            world.run(written).unwrap();
        }
        world.run(array.drain()).unwrap();
        world.run(volume.flush()).unwrap();
        Self {
            world,
            array,
            volume,
            contents,
            geometry,
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.array.written_rows()
    }

    /// The disk of a slot, and where a block is on it.
    pub(crate) fn place(&self, row: Row, slot: usize, col: u64) -> (usize, u64) {
        let members = self.array.status().members;
        let member = members.iter().find(|m| m.slot == Some(slot)).unwrap();
        let index = (0..self.world.disks.len())
            .find(|i| *self.world.path(*i) == *member.path)
            .unwrap();
        let data = self.array.data_offset(&member.path).unwrap();
        (index, data + row.0 * CHUNK + col * BLOCK)
    }

    pub(crate) fn block(&self, row: Row, slot: usize, col: u64) -> Vec<u8> {
        let (disk, offset) = self.place(row, slot, col);
        self.world.disks[disk].peek(offset, usize_of(BLOCK))
    }

    pub(crate) fn flip(&self, row: Row, slot: usize, col: u64, bit: u64) {
        let (disk, offset) = self.place(row, slot, col);
        let mut block = self.block(row, slot, col);
        block[usize_of(bit / 8)] ^= 1 << (bit % 8);
        self.world.disks[disk].poke(offset, &block);
    }

    /// The checksum pages of the first disks are lost in all that they keep.
    pub(crate) fn lose_pages(&self, disks: usize) {
        for disk in 0..disks {
            let (offset, _) = zone(&self.world, disk, ZoneKind::Checksums);
            self.world.disks[disk].poke(offset + BLOCK, &vec![0xEE; 1 << 20]);
        }
    }

    /// Everything that the members hold in their data zones.
    pub(crate) fn image(&self) -> Vec<Vec<u8>> {
        let slots = 0..self.geometry.members();
        let chunks = slots.flat_map(|slot| self.rows().into_iter().map(move |row| (slot, row)));
        chunks
            .map(|(slot, row)| {
                let (disk, offset) = self.place(row, slot, 0);
                self.world.disks[disk].peek(offset, usize_of(CHUNK))
            })
            .collect()
    }

    pub(crate) fn scrub(&self) -> ScrubRecord {
        self.world.run(self.array.scrub_start()).unwrap();
        self.finish()
    }

    pub(crate) fn finish(&self) -> ScrubRecord {
        let runs = self.array.status().scrub.runs;
        let array = Rc::clone(&self.array);
        self.world.run_till("scrubbed", move || {
            let scrub = array.status().scrub;
            scrub.state == ScrubState::Idle && (scrub.runs > runs || scrub.runs > 0)
        });
        // What is shown as ended is durable and told.
        let scrub = self.array.status().scrub;
        assert_eq!(self.world.host.count("ScrubFinished"), scrub.runs);
        scrub
    }

    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, cairn_blockdev::IoError> {
        let (buf, result) = self
            .world
            .run(self.volume.read(offset, Buf::zeroed(usize_of(len))));
        result.map(|()| buf.to_vec())
    }

    pub(crate) fn check(&self) {
        let all = self.read(0, u64_of(self.contents.len())).unwrap();
        assert!(all == self.contents, "the volume changed");
        self.world.audit(&self.array);
    }

    pub(crate) fn reopen(&mut self) {
        self.array = self.world.assemble_all();
        self.volume = self.array.open_volume("v").unwrap();
    }
}

//! Random histories against the model: every level × members × losses × chunk. Several clients at
//! once, in regions whose borders lie inside rows, chunks and blocks; members are lost and rebuilt
//! while they run; parity is audited on the members when they pause.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::{Fault, Rng};
use cairn_blockdev::units::u64_of;
use cairn_raid::{Array, Geometry, Level};
use futures_util::future::{join, join_all};

use crate::model::{Crash, Model, SECTOR};
use crate::region::{Region, check_all};
use crate::world::{Shape, World, is_full};

/// Clients at once.
const CLIENTS: u64 = 4;

struct History {
    world: World,
    array: Rc<Array>,
    volume: Rc<dyn BlockDevice>,
    model: Rc<RefCell<Model>>,
    seed: u64,
    ops: Rc<Cell<u64>>,
    longest: u64,
}

impl History {
    fn new(shape: Shape, seed: u64) -> Self {
        let world = World::new(seed, shape);
        let array = world.create();
        let geometry = Geometry::new(shape.level, shape.members, shape.chunk_bytes).unwrap();
        // A few rows where they are small; two where one is many megabytes.
        let row = geometry.row_bytes();
        let size = (row * 3 / 2)
            .max((row * 40).min(768 << 10))
            .next_multiple_of(4096);
        world.run(array.create_volume("v", size)).unwrap();
        let volume = array.open_volume("v").unwrap();
        let sectors = size / SECTOR;
        let model = Rc::new(RefCell::new(Model::new(
            seed,
            std::slice::from_ref(&(0..sectors)),
        )));
        Self {
            world,
            array,
            volume,
            model,
            seed,
            ops: Rc::default(),
            longest: (sectors / 4).min(1024),
        }
    }

    /// Clients beside `story`: each goes on until the story is told.
    fn while_clients_run(&self, story: impl Future<Output = ()>) {
        let told = Cell::new(false);
        let sectors = self.volume.geometry().size / SECTOR;
        // Borders that are multiples of nothing.
        let border = |i: u64| {
            if i == CLIENTS {
                sectors
            } else {
                i * (sectors / CLIENTS) + i * 3
            }
        };
        let clients = (0..CLIENTS).map(|i| {
            let mut region = Region {
                volume: Rc::clone(&self.volume),
                model: Rc::clone(&self.model),
                rng: Rng::new(self.seed * 31 + i + self.ops.get()),
                sectors: border(i)..border(i + 1),
                whole: None,
                longest: self.longest,
            };
            let (told, ops) = (&told, &self.ops);
            async move {
                while !told.get() {
                    if let Err(error) = region.step().await {
                        panic!("seed {}: {error}", self.seed);
                    }
                    ops.set(ops.get() + 1);
                }
            }
        });
        self.world.run(join(join_all(clients), async {
            story.await;
            told.set(true);
        }));
    }

    /// So many more operations are done, by all clients together.
    async fn ops(&self, count: u64) {
        let until = self.ops.get() + count;
        while self.ops.get() < until {
            self.world
                .env
                .clock
                .sleep(std::time::Duration::from_micros(100))
                .await;
        }
    }

    async fn lose(&self, index: usize, how: u64) {
        let disk = &self.world.disks[index];
        match how % 3 {
            0 => disk.inject(Fault::Gone),
            1 => disk.inject(Fault::WritesFail),
            _ => self.array.fail_member(&disk.name()).await.unwrap(),
        }
    }

    fn pause(&self, what: &str) {
        self.world.audit(&self.array);
        self.world
            .run(check_all(&self.volume, &self.model, None, what));
    }
}

fn history(level: Level, members: usize, lost: usize, chunk_bytes: u32, seed: u64) {
    let shape = Shape::new(level, members, lost, chunk_bytes);
    println!("seed {seed}: {level} of {members}, {lost} lost, chunk {chunk_bytes}");
    let history = History::new(shape, seed);
    // Huge rows cost as much as they weigh.
    let pace = if chunk_bytes > 65536 && members > 8 {
        12
    } else {
        30
    };
    for spare in members..members + lost {
        let path = history.world.path(spare);
        history
            .world
            .run(history.array.remove_spare(&path))
            .unwrap();
    }
    history.while_clients_run(async {
        history.ops(pace).await;
        for k in 0..lost {
            let index = (usize::try_from(seed).unwrap() + k * 2 + 1) % members;
            history.lose(index, seed + u64_of(k)).await;
            history.ops(pace).await;
        }
    });
    history.pause("degraded");
    history.while_clients_run(async {
        for spare in members..members + lost {
            let disk = history.world.member(spare);
            history.array.add_spare(disk).await.unwrap();
            history.ops(pace / 3).await;
        }
        while !is_full(&history.array) {
            history.ops(1).await;
        }
    });
    history.pause("rebuilt");
    // A clean restart finds everything, in whatever order the disks turn up.
    let free = history.array.status().space.free_bytes;
    history.world.run(history.array.stop()).unwrap();
    let History {
        mut world,
        array,
        volume,
        model,
        ..
    } = history;
    drop((array, volume));
    world.crash(Crash::Power);
    let mut present = world.all();
    present.rotate_left(usize::try_from(seed).unwrap() % members);
    // Lost disks still bear labels: they must not be believed.
    let array = world.assemble(&present, false).unwrap();
    assert_eq!(
        array.status().space.free_bytes,
        free,
        "space after a restart"
    );
    let volume = array.open_volume("v").unwrap();
    world.run(check_all(&volume, &model, Some(Crash::Kill), "restarted"));
}

fn all_members(level: Level, chunk: u32, seed: u64) {
    for members in [4usize, 5, 6, 8, 12, 24] {
        for lost in 0..=level.redundancy(members).min(2) {
            history(
                level,
                members,
                lost,
                chunk,
                seed + u64_of(members * 10 + lost),
            );
        }
    }
}

#[test]
fn raid1_with_4k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid1, 4096, 1_000);
}

#[test]
fn raid1_with_64k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid1, 65536, 2_000);
}

#[test]
fn raid1_with_1m_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid1, 1 << 20, 3_000);
}

#[test]
fn raid5_with_4k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid5, 4096, 11_000);
}

#[test]
fn raid5_with_64k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid5, 65536, 12_000);
}

#[test]
fn raid5_with_1m_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid5, 1 << 20, 13_000);
}

#[test]
fn raid6_with_4k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid6, 4096, 21_000);
}

#[test]
fn raid6_with_64k_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid6, 65536, 22_000);
}

#[test]
fn raid6_with_1m_chunks_reads_like_its_model_whatever_is_lost() {
    all_members(Level::Raid6, 1 << 20, 23_000);
}

#[test]
fn smallest_arrays_work() {
    history(Level::Raid1, 2, 1, 65536, 7);
    history(Level::Raid5, 3, 1, 65536, 8);
    history(Level::Raid6, 4, 2, 4096, 9);
}

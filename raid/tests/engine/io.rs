//! What the stripe engine promises about its own I/O: what it reads, and what it doesn't.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::u64_of;
use cairn_blockdev::{BlockDevice, Buf, BufPool, LocalFuture, WriteFlags};
use cairn_raid::{
    Array, ArrayEvent, CreateSpec, EventSink, Hooks, Level, MemberDisk, MemoryShare, Probe,
    Witness, WitnessStore, create, probe, wipe_label,
};
use futures_util::future::join_all;
use uuid::Uuid;

/// A host that keeps nothing.
struct Nowhere;

impl EventSink for Nowhere {
    fn event(&self, _: ArrayEvent) {}
}

impl WitnessStore for Nowhere {
    fn record(&self, _: Witness) -> LocalFuture<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

const CHUNK: usize = 65536;
const ROW: usize = 4 * CHUNK;

struct Bench {
    sim: Sim,
    disks: Vec<SimDisk>,
    array: Rc<Array>,
    volume: Rc<dyn BlockDevice>,
}

/// A RAID 6 of six with one volume, and a row of it written.
fn bench() -> Bench {
    bench_of(1, false)
}

fn bench_of(seed: u64, journal: bool) -> Bench {
    let sim = Sim::new(seed);
    let env = sim.env();
    let config = SimDiskConfig {
        size: 256 << 20,
        logical_block: 4096,
        latency_us_max: 100,
    };
    let disks: Vec<SimDisk> = (0..6)
        .map(|i| SimDisk::new(&format!("/dev/sim{i}"), config, &env, i))
        .collect();
    let members = disks.iter().map(|disk| MemberDisk {
        path: disk.name(),
        device: Rc::new(disk.clone()),
    });
    let spec = CreateSpec {
        name: "pool".into(),
        level: Level::Raid6,
        chunk_bytes: 65536,
        home_host: Uuid::nil(),
        journal_bytes: None,
        integrity: false,
        journal,
    };
    let hooks = Hooks {
        events: Rc::new(Nowhere),
        witness: Rc::new(Nowhere),
        memory: MemoryShare::FULL,
    };
    let pool = BufPool::new(1 << 20);
    let array = sim
        .block_on(create(
            env,
            pool,
            spec,
            members.collect(),
            Vec::new(),
            hooks,
        ))
        .unwrap();
    sim.block_on(array.create_volume("v", 1 << 30)).unwrap();
    let volume = array.open_volume("v").unwrap();
    let bench = Bench {
        sim,
        disks,
        array,
        volume,
    };
    bench.write(0, ROW, 1);
    bench
}

impl Bench {
    fn write(&self, at: usize, len: usize, value: u8) {
        self.sim.block_on(write(&self.volume, at, len, value));
    }

    /// Reads that the members have served so far.
    fn reads(&self) -> u64 {
        self.disks.iter().map(|disk| disk.counts().0).sum()
    }

    /// Writes that the members have served so far.
    fn writes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.counts().1).sum()
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let read = self.volume.read(u64_of(at), Buf::zeroed(len));
        let (buf, result) = self.sim.block_on(read);
        result.unwrap();
        buf.to_vec()
    }
}

async fn write(volume: &Rc<dyn BlockDevice>, at: usize, len: usize, value: u8) {
    let mut buf = Buf::zeroed(len);
    buf.fill(value);
    volume
        .write(u64_of(at), buf.freeze(), WriteFlags::default())
        .await
        .unwrap();
}

#[test]
fn a_complete_row_is_written_without_a_read() {
    let bench = bench();
    let (reads, writes) = (bench.reads(), bench.writes());
    bench.write(0, ROW, 2);
    assert_eq!(bench.reads(), reads);
    assert_eq!(bench.writes() - writes, 6, "one write a member");
}

/// Copies of a record in the journals of a RAID 6.
const COPIES: u64 = 3;

#[test]
fn the_rest_of_a_row_goes_in_place_with_the_beginning_that_is_logged() {
    let bench = bench_of(1, true);
    let (reads, before) = (bench.reads(), bench.writes());
    let head = 20 << 10;
    bench.write(0, head, 2);
    assert_eq!(bench.writes() - before, COPIES, "the beginning is logged");
    bench.write(head, ROW - head, 3);
    let all = COPIES + COPIES + 6;
    assert_eq!(
        bench.writes() - before,
        all,
        "an intent, and one write a member"
    );
    assert_eq!(bench.reads(), reads);
    let whole = bench.read(0, ROW);
    assert!(whole.iter().take(head).all(|byte| *byte == 2));
    assert!(whole.iter().skip(head).all(|byte| *byte == 3));
}

#[test]
fn a_row_may_be_completed_between_blocks_that_are_logged() {
    let bench = bench_of(1, true);
    let reads = bench.reads();
    bench.write(0, 8192, 2);
    bench.write(ROW - 4096, 4096, 4);
    bench.write(4096, ROW - 8192, 3);
    assert_eq!(bench.reads(), reads);
    let mut wanted = vec![2; 4096];
    wanted.resize(ROW - 4096, 3);
    wanted.resize(ROW, 4);
    assert!(bench.read(0, ROW) == wanted);
}

#[test]
fn a_small_write_that_completes_a_row_is_logged_and_waits_for_no_member() {
    let bench = bench_of(1, true);
    bench.write(0, ROW - 4096, 2);
    let before = bench.writes();
    bench.write(ROW - 4096, 4096, 3);
    assert_eq!(bench.writes() - before, COPIES);
}

#[test]
fn neighbours_that_queue_while_their_row_is_busy_become_a_complete_row() {
    let bench = bench();
    let (reads, writes) = (bench.reads(), bench.writes());
    let pieces = 16;
    let len = ROW / pieces;
    let env = bench.sim.env();
    let first = Rc::clone(&bench.volume);
    env.spawn
        .spawn(Box::pin(async move { write(&first, 0, ROW, 2).await }));
    bench.sim.block_on(async {
        // Simulated time: the first write is at the disks by now.
        env.clock.sleep(std::time::Duration::from_nanos(1)).await;
        join_all((0..pieces).map(|i| write(&bench.volume, i * len, len, 3))).await;
    });
    assert_eq!(bench.reads(), reads, "a gathered row reads nothing");
    assert_eq!(
        bench.writes() - writes,
        12,
        "two transactions, one write a member each"
    );
    assert!(bench.read(0, ROW).iter().all(|&byte| byte == 3));
}

#[test]
fn a_small_write_reads_its_old_block_and_both_parities() {
    let bench = bench();
    let (reads, writes) = (bench.reads(), bench.writes());
    bench.write(8192, 4096, 4);
    assert_eq!(bench.reads() - reads, 3);
    assert_eq!(bench.writes() - writes, 3);
}

#[test]
fn most_of_a_row_is_written_with_the_rest_read() {
    let bench = bench();
    let reads = bench.reads();
    bench.write(0, 3 * CHUNK, 5);
    assert_eq!(bench.reads() - reads, 1, "the one chunk that isn't written");
}

#[test]
fn rows_never_written_read_as_zeros_without_io() {
    let bench = bench();
    let reads = bench.reads();
    assert!(bench.read(ROW, 2 * ROW).iter().all(|&byte| byte == 0));
    assert!(bench.read(512 << 20, 1 << 20).iter().all(|&byte| byte == 0));
    assert_eq!(bench.reads(), reads);
}

#[test]
fn the_first_write_to_a_row_writes_all_of_it_and_reads_nothing() {
    let bench = bench();
    let reads = bench.reads();
    bench.write(ROW + 4096, 4096, 6);
    assert_eq!(bench.reads(), reads);
    let row = bench.read(ROW, ROW);
    assert!(row[4096..8192].iter().all(|&byte| byte == 6));
    assert!(
        row[..4096]
            .iter()
            .chain(&row[8192..])
            .all(|&byte| byte == 0)
    );
}

#[test]
fn a_chunk_sized_read_is_one_io() {
    let bench = bench();
    let reads = bench.reads();
    bench.read(CHUNK, CHUNK);
    assert_eq!(bench.reads() - reads, 1);
}

#[test]
fn a_trimmed_row_reads_as_zeros_without_io_and_an_empty_extent_goes_back() {
    let bench = bench();
    let free = bench.array.status().space.free_bytes;
    let trim = bench.volume.discard(0, u64_of(ROW));
    bench.sim.block_on(trim).unwrap();
    let reads = bench.reads();
    assert!(bench.read(0, ROW).iter().all(|&byte| byte == 0));
    assert_eq!(bench.reads(), reads);
    let space = bench.array.status().space;
    assert_eq!(space.free_bytes - free, space.extent_bytes);
}

#[test]
fn writes_to_different_columns_of_a_row_do_not_wait_for_each_other() {
    let (mut in_turn, mut together) = (Duration::ZERO, Duration::ZERO);
    // Over several seeds: two of the four may leave in one transaction, and then wait for each other.
    for seed in 1..=8 {
        let bench = bench_of(seed, false);
        let clock = bench.sim.env().clock;
        // In simulated time: one after the other they take the sum of what each takes.
        let before = clock.now();
        for i in 0..4 {
            bench.write(i * 8192, 4096, 7);
        }
        in_turn += clock.now().since(before);
        let before = clock.now();
        bench.sim.block_on(join_all(
            (0..4).map(|i| write(&bench.volume, i * 8192, 4096, 8)),
        ));
        together += clock.now().since(before);
    }
    assert!(
        together * 3 < in_turn * 2,
        "{together:?} together, {in_turn:?} in turn"
    );
}

#[test]
fn a_write_over_the_border_of_a_shard_reads_back_and_its_halves_are_trimmed_apart() {
    let bench = bench();
    bench
        .sim
        .block_on(bench.array.resize_volume("v", 3 << 30))
        .unwrap();
    let border = 1 << 30;
    let at = border - 6 * 512;
    bench.write(at, 12 * 512, 9);
    assert!(bench.read(at, 12 * 512).iter().all(|&byte| byte == 9));
    assert!(bench.read(at - 512, 512).iter().all(|&byte| byte == 0));
    let trim = bench.volume.discard(u64_of(border), 1 << 20);
    bench.sim.block_on(trim).unwrap();
    assert!(bench.read(at, 6 * 512).iter().all(|&byte| byte == 9));
    assert!(bench.read(border, 6 * 512).iter().all(|&byte| byte == 0));
}

#[test]
fn o2_a_disk_by_two_paths_is_refused_at_creation_and_leaves_no_label() {
    let sim = Sim::new(2);
    let env = sim.env();
    let config = SimDiskConfig {
        size: 256 << 20,
        logical_block: 512,
        latency_us_max: 100,
    };
    let disks: Vec<SimDisk> = (0..3)
        .map(|i| SimDisk::new(&format!("/dev/sim{i}"), config, &env, i))
        .collect();
    let paths = [
        ("/dev/a", 0),
        ("/dev/b", 1),
        ("/dev/c", 2),
        ("/dev/by-id/b", 1),
    ];
    let members = paths.iter().map(|(path, disk)| MemberDisk {
        path: Rc::from(*path),
        device: Rc::new(disks[*disk].clone()),
    });
    let spec = CreateSpec {
        name: "pool".into(),
        level: Level::Raid5,
        chunk_bytes: 65536,
        home_host: Uuid::nil(),
        journal_bytes: None,
        integrity: false,
        journal: false,
    };
    let hooks = Hooks {
        events: Rc::new(Nowhere),
        witness: Rc::new(Nowhere),
        memory: MemoryShare::FULL,
    };
    let made = create(
        env,
        BufPool::new(1 << 20),
        spec,
        members.collect(),
        Vec::new(),
        hooks,
    );
    let error = sim.block_on(made).unwrap_err().to_string();
    assert!(
        error.contains("/dev/b") && error.contains("/dev/by-id/b"),
        "{error}"
    );
    for disk in &disks {
        assert_eq!(sim.block_on(probe(disk)).unwrap(), Probe::Blank);
    }
}

#[test]
fn o2_a_member_by_another_path_is_no_spare_even_without_its_label() {
    let bench = bench();
    let again = MemberDisk {
        path: Rc::from("/dev/by-id/again"),
        device: Rc::new(bench.disks[2].clone()),
    };
    bench.sim.block_on(wipe_label(&bench.disks[2])).unwrap();
    let refused = bench
        .sim
        .block_on(bench.array.add_spare(again))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("/dev/sim2") && refused.contains("/dev/by-id/again"),
        "{refused}"
    );
    assert!(bench.read(0, ROW).iter().all(|&byte| byte == 1));
}

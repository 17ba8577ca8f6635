//! Disks on regular files, over io_uring and over the thread pool alike.
//!
//! Every promise is checked on both; where the system refuses io_uring the tests fail and say so.

use std::future::Future;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_blockdev::disk::{
    Backend, Disk, IoKind, OpenError, OpenMode, Reactor, ReactorConfig, Usage, identity, same_disk,
};
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{MIB, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, IoErrorKind, SharedBuf, WriteFlags, ZeroFlags};

const SIZE: u64 = 8 * MIB;
const FUA: WriteFlags = WriteFlags { fua: true };
const CACHED: WriteFlags = WriteFlags { fua: false };

/// A directory of one test, removed at its end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cairn-disk-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.0.join(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn config(backend: Backend) -> ReactorConfig {
    ReactorConfig {
        backend,
        arena_bytes: 4 << 20,
        ..ReactorConfig::default()
    }
}

fn on_engine<F: Future>(body: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

/// Runs the body on a fresh engine per backend.
fn on_both(config: impl Fn(Backend) -> ReactorConfig, body: impl AsyncFn(Reactor)) {
    for backend in [Backend::IoUring, Backend::Threads] {
        on_engine(async { body(Reactor::start(config(backend)).unwrap()).await });
    }
}

fn bytes(seed: u64, len: usize) -> SharedBuf {
    let mut buf = Buf::zeroed(len);
    Rng::new(seed).fill(&mut buf);
    buf.freeze()
}

async fn read(disk: &Disk, offset: u64, len: usize) -> Buf {
    let (buf, result) = disk.read(offset, Buf::zeroed(len)).await;
    result.unwrap();
    buf
}

fn contents(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = std::fs::File::open(path).unwrap();
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn random_operations_with_many_in_flight_match_a_model() {
    const REGION: u64 = 128 << 10;
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let mut model = vec![0_u8; usize_of(SIZE)];
        let seed = 0xD15C;
        println!("seed {seed:#x}");
        let mut rng = Rng::new(seed);
        for round in 0..40 {
            // One operation per region, all at once: they don't overlap, so order doesn't matter.
            let mut tasks = Vec::new();
            for region in 0..SIZE / REGION {
                let sector = rng.below(REGION / 512);
                let sectors = 1 + rng.below(REGION / 512 - sector);
                let offset = region * REGION + sector * 512;
                let range = usize_of(offset)..usize_of(offset + sectors * 512);
                let len = range.len();
                let pooled = rng.one_in(2);
                let (disk, pool) = (disk.clone(), io.pool());
                match rng.below(8) {
                    0..4 => {
                        let expected = model[range].to_vec();
                        tasks.push(tokio::task::spawn_local(async move {
                            let buf = if pooled {
                                pool.take(len)
                            } else {
                                Buf::zeroed(len)
                            };
                            let (buf, result) = disk.read(offset, buf).await;
                            result.unwrap();
                            assert_eq!(&buf[..], &expected[..], "read of {len} at {offset}");
                        }));
                    }
                    4 => {
                        model[range].fill(0);
                        tasks.push(tokio::task::spawn_local(async move {
                            let flags = ZeroFlags {
                                fua: pooled,
                                no_hole: true,
                            };
                            disk.write_zeroes(offset, u64_of(len), flags).await.unwrap();
                        }));
                    }
                    5 => tasks.push(tokio::task::spawn_local(async move {
                        disk.flush().await.unwrap();
                    })),
                    _ => {
                        let mut buf = if pooled {
                            pool.take(len)
                        } else {
                            Buf::zeroed(len)
                        };
                        rng.fill(&mut buf);
                        model[range].copy_from_slice(&buf);
                        let fua = rng.one_in(8);
                        tasks.push(tokio::task::spawn_local(async move {
                            let flags = WriteFlags { fua };
                            disk.write(offset, buf.freeze(), flags).await.unwrap();
                        }));
                    }
                }
            }
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(io.in_flight(), 0, "round {round}");
        }
        assert!(contents(&path, 0, usize_of(SIZE)) == model);
        let counters = disk.counters();
        assert_eq!(
            (
                counters.read.errors,
                counters.write.errors,
                counters.flush.errors
            ),
            (0, 0, 0)
        );
        assert!(counters.read.ops > 0 && counters.write.bytes > 0 && counters.flush.ops > 0);
    });
}

#[test]
fn more_operations_than_entries_wait_their_turn() {
    let tiny = |backend| ReactorConfig {
        entries: 4,
        entries_per_disk: 3,
        ..config(backend)
    };
    on_both(tiny, async |io| {
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE), OpenMode::Exclusive).unwrap();
        let tasks: Vec<_> = (0..200_u64)
            .map(|n| {
                let disk = disk.clone();
                tokio::task::spawn_local(async move {
                    disk.write(n * 4096, bytes(n, 4096), CACHED).await.unwrap();
                    assert_eq!(read(&disk, n * 4096, 4096).await[..], bytes(n, 4096)[..]);
                    assert!(disk.counters().in_flight <= 3);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Starts an operation and goes away.
async fn start_and_drop<T>(mut operation: cairn_blockdev::LocalFuture<T>) {
    std::future::poll_fn(|cx| {
        drop(operation.as_mut().poll(cx));
        std::task::Poll::Ready(())
    })
    .await;
}

#[test]
fn results_that_wait_to_be_collected_take_no_place() {
    let tiny = |backend| ReactorConfig {
        entries: 2,
        ..config(backend)
    };
    on_both(tiny, async |io| {
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE), OpenMode::Exclusive).unwrap();
        let mut first: Vec<_> = (0..2_u64)
            .map(|n| disk.read(n * 4096, Buf::zeroed(4096)))
            .collect();
        std::future::poll_fn(|cx| {
            for read in &mut first {
                assert!(read.as_mut().poll(cx).is_pending());
            }
            std::task::Poll::Ready(())
        })
        .await;
        while io.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        // Would wait for ever for a place that only this task could give back.
        read(&disk, 8192, 4096).await;
        for read in first {
            read.await.1.unwrap();
        }
    });
}

#[test]
fn an_abandoned_operation_keeps_its_memory_and_completes() {
    let heap_only = |backend| ReactorConfig {
        arena_bytes: 0,
        ..config(backend)
    };
    on_both(heap_only, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let pool = io.pool();
        let mut buf = pool.take(4096);
        buf.fill(0xAB);
        // The driver runs only when this task waits, so nothing has completed yet.
        start_and_drop(disk.write(0, buf.freeze(), CACHED)).await;
        start_and_drop(disk.read(4096, pool.take(8192))).await;
        assert_eq!((pool.kept_bytes(), disk.counters().in_flight), (0, 2));
        // The lock and the memory stay with what is under way, though the disk is dropped.
        drop(disk);
        let again = Disk::open(&io, &path, OpenMode::Exclusive);
        assert!(matches!(again, Err(OpenError::Locked { .. })), "{again:?}");
        while io.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.kept_bytes(), 4096 + 8192);
        Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        assert!(contents(&path, 0, 4096).iter().all(|&b| b == 0xAB));
    });
}

#[test]
fn a_reactor_that_ends_lets_its_operations_end_first() {
    for backend in [Backend::IoUring, Backend::Threads] {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        on_engine(async {
            let io = Reactor::start(config(backend)).unwrap();
            let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
            for n in 0..16 {
                start_and_drop(disk.write(n * 4096, bytes(n, 4096), CACHED)).await;
            }
        });
        for n in 0..16 {
            assert_eq!(contents(&path, n * 4096, 4096)[..], bytes(n, 4096)[..]);
        }
    }
}

#[test]
fn memory_that_the_device_would_refuse_is_served_all_the_same() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE), OpenMode::Exclusive).unwrap();
        let data = bytes(1, 3 * 4096 + 1);
        let odd = data.slice(1..2 * 4096 + 1);
        disk.write(512, odd.clone(), FUA).await.unwrap();
        let mut buf = Buf::zeroed(2 * 4096 + 1);
        let tail = buf.split_off(1);
        let (tail, result) = disk.read(512, tail).await;
        result.unwrap();
        assert_eq!(tail[..], odd[..]);
    });
}

#[test]
fn a_truncated_file_is_gone_and_stays_gone() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(MIB).unwrap();
        let (buf, result) = disk.read(MIB - 4096, Buf::zeroed(8192)).await;
        assert_eq!(
            (buf.len(), result.unwrap_err().kind),
            (8192, IoErrorKind::Gone)
        );
        file.set_len(SIZE).unwrap();
        let write = disk.write(0, bytes(1, 4096), CACHED).await;
        assert_eq!(write.unwrap_err().kind, IoErrorKind::Gone);
        assert_eq!(disk.flush().await.unwrap_err().kind, IoErrorKind::Gone);
    });
}

#[test]
fn a_flush_notices_a_truncated_file() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(MIB).unwrap();
        assert_eq!(disk.flush().await.unwrap_err().kind, IoErrorKind::Gone);
    });
}

#[test]
fn requests_outside_or_unaligned_fail_and_do_nothing() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE), OpenMode::Exclusive).unwrap();
        let past = disk.write(SIZE, bytes(1, 512), CACHED).await.unwrap_err();
        assert_eq!(past.kind, IoErrorKind::OutOfRange);
        let (_, odd) = disk.read(100, Buf::zeroed(512)).await;
        assert_eq!(odd.unwrap_err().kind, IoErrorKind::Misaligned);
        let wrap = disk.discard(u64::MAX - 511, 512).await.unwrap_err();
        assert_eq!(wrap.kind, IoErrorKind::OutOfRange);
        let (buf, result) = disk.read(0, Buf::zeroed(0)).await;
        assert!(buf.is_empty() && result.is_ok());
        assert_eq!(disk.counters().write.ops, 0);
    });
}

#[test]
fn discarded_ranges_of_a_file_give_their_space_back() {
    use std::os::unix::fs::MetadataExt;
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let data = bytes(1, usize_of(MIB));
        disk.write(0, data, FUA).await.unwrap();
        let before = std::fs::metadata(&path).unwrap().blocks();
        disk.discard(0, MIB).await.unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() < before);
        assert!(read(&disk, 0, usize_of(MIB)).await.iter().all(|&b| b == 0));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
    });
}

#[test]
fn a_probe_shares_the_disk_and_writes_nothing() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        disk.write(4096, bytes(7, 4096), FUA).await.unwrap();
        let probe = Disk::open_probe(&io, &path).unwrap();
        assert_eq!(read(&probe, 4096, 4096).await[..], bytes(7, 4096)[..]);
        let refused = probe.write(0, bytes(1, 4096), CACHED).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::ReadOnly);
        assert!(probe.discard(0, 4096).await.is_err());
    });
}

#[test]
fn the_second_opener_is_refused_and_told_who_the_first_is() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let path = dir.file("d0", SIZE);
        let link = dir.0.join("link");
        symlink(&path, &link).unwrap();
        let disk = Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
        let error = Disk::open(&io, &link, OpenMode::Exclusive).unwrap_err();
        let OpenError::Locked { by, .. } = &error else {
            panic!("{error}")
        };
        // Some file systems number their devices differently in /proc/locks; then nobody is named.
        if let Some(Usage::Locked { pid, .. }) = by {
            assert_eq!(*pid, std::process::id());
        }
        assert!(error.to_string().contains("locked by another opener"));
        drop(disk);
        Disk::open(&io, &path, OpenMode::Exclusive).unwrap();
    });
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let open = |path: &Path| Disk::open(&io, path, OpenMode::Exclusive).unwrap_err();
        let missing = open(&dir.0.join("nothing"));
        assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
        assert!(open(&dir.0).to_string().contains("is a directory"));
        let null = open(Path::new("/dev/null"));
        assert!(null.to_string().contains("is a character device"), "{null}");
        let small = open(&dir.file("small", MIB));
        assert!(
            matches!(small, OpenError::TooSmall { size: MIB, .. }),
            "{small}"
        );
        let inside = open(&dir.file("file", SIZE).join("below"));
        assert!(matches!(inside, OpenError::Missing { .. }), "{inside}");
    });
}

#[test]
fn a_files_size_is_cut_to_whole_blocks() {
    on_both(config, async |io| {
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE + 4095), OpenMode::Exclusive).unwrap();
        let geometry = disk.geometry();
        assert_eq!(geometry.size, SIZE);
        assert!(geometry.write_cache && geometry.io_min >= 4096);
        assert!([512, 4096].contains(&geometry.logical_block));
    });
}

#[test]
fn the_reactor_says_which_way_it_goes() {
    on_both(config, async |io| match io.kind() {
        IoKind::IoUring { restricted, .. } => assert!(restricted),
        IoKind::Threads { reason } => assert!(reason.contains("CAIRN_IO"), "{reason}"),
    });
}

#[test]
fn an_engine_without_registered_memory_works() {
    let without = |backend| ReactorConfig {
        arena_bytes: 0,
        ..config(backend)
    };
    on_both(without, async |io| {
        if let IoKind::IoUring {
            registered_bytes, ..
        } = io.kind()
        {
            assert_eq!(registered_bytes, 0);
        }
        let dir = TempDir::new();
        let disk = Disk::open(&io, dir.file("d0", SIZE), OpenMode::Exclusive).unwrap();
        disk.write(0, bytes(3, 4096), FUA).await.unwrap();
        assert_eq!(read(&disk, 0, 4096).await[..], bytes(3, 4096)[..]);
    });
}

#[test]
fn a_file_is_one_disk_by_every_path_and_two_files_are_two() {
    let dir = TempDir::new();
    let path = dir.file("d0", SIZE);
    let (link, hard) = (dir.0.join("link"), dir.0.join("hard"));
    symlink(&path, &link).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    let id = identity(&path).unwrap();
    assert!(same_disk(&id, &identity(&link).unwrap()));
    assert!(same_disk(&id, &identity(&hard).unwrap()));
    assert!(!same_disk(&id, &identity(dir.file("d1", SIZE)).unwrap()));
    assert!(identity("/dev/null").is_err());
}

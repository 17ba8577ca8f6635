//! Random 4 KiB reads of a disk through the reactor, at queue depths 1 and 32.
//!
//! `cargo run --release -p cairn-blockdev --example disk_bench -- PATH [SECONDS]`, to be held
//! against `fio --ioengine=io_uring --direct=1 --rw=randread --bs=4k --iodepth=N`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cairn_blockdev::disk::{Backend, Disk, OpenMode, Reactor, ReactorConfig};
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::BLOCK;
use cairn_blockdev::{BlockDevice, BufPool};

type AnyError = Box<dyn std::error::Error>;

async fn reader(disk: Disk, pool: BufPool, seed: u64, until: Instant, count: Rc<Cell<u64>>) {
    let blocks = disk.geometry().size / BLOCK;
    let mut rng = Rng::new(seed);
    let mut buf = pool.take(4096);
    while Instant::now() < until {
        let (back, result) = disk.read(rng.below(blocks) * BLOCK, buf).await;
        if let Err(error) = result {
            eprintln!("{error}");
            return;
        }
        buf = back;
        count.set(count.get() + 1);
    }
}

async fn measure(path: &str, time: Duration) -> Result<(), AnyError> {
    let io = Reactor::start(ReactorConfig {
        backend: Backend::from_env()?,
        ..ReactorConfig::default()
    })?;
    let disk = Disk::open(&io, path, OpenMode::Exclusive)?;
    println!("{}; direct {}", io.kind(), disk.is_direct());
    for depth in [1_u64, 32] {
        let count = Rc::new(Cell::new(0));
        let start = Instant::now();
        let tasks: Vec<_> = (0..depth)
            .map(|seed| {
                reader(
                    disk.clone(),
                    io.pool(),
                    seed,
                    start + time,
                    Rc::clone(&count),
                )
            })
            .map(tokio::task::spawn_local)
            .collect();
        for task in tasks {
            task.await?;
        }
        let iops = u128::from(count.get()) * 1000 / start.elapsed().as_millis().max(1);
        println!("QD{depth}: {iops} IOPS");
    }
    Ok(())
}

fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: disk_bench PATH [SECONDS]")?;
    let seconds = args.next().map_or(Ok(3), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, measure(&path, Duration::from_secs(seconds)))
}

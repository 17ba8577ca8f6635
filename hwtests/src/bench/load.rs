//! A load: so many clients, each of which waits for its request before it makes the next.
//!
//! Every request has a number; where it goes follows from the number and the seed, so that all
//! subjects get the same requests. The figures begin with the `warm_ops`-th.
//!
//! Does not know: what the device is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use cairn_blockdev::disk::Disk;
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, BufPool, WriteFlags};
use serde::Serialize;

use super::figures::{float, per_mille, ratio, shuffled};
use super::interrupt::Interrupt;
use super::stamps::Stamps;
use super::usage::{DiskWork, cpu_time};

/// Where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Anywhere.
    Random,
    /// Somewhere in each row, all rows in a shuffled order, the same again and again: a row comes
    /// again after all others.
    RowByRow,
    /// One after the other, from this offset on; from the start again at the end.
    Sequential(u64),
}

/// When it ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests.
    Ops(u64),
    /// After this time.
    Time(Duration),
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Writes, or reads.
    pub is_write: bool,
    /// Bytes of a request.
    pub bytes: usize,
    /// Clients.
    pub depth: usize,
    /// Where requests go.
    pub order: Order,
    /// Requests before the figures begin.
    pub warm_ops: u64,
    /// When it ends, counted from there.
    pub until: Until,
    /// Bytes of the device that it stays within.
    pub span_bytes: u64,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Of places.
    pub seed: u64,
}

/// What came of a load.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// Requests that count.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time that they took.
    pub seconds: f64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// Processor time of the whole process meanwhile.
    pub cpu_seconds: f64,
    /// What the disks did meanwhile.
    pub disks: DiskWork,
}

impl Sample {
    /// Requests per second.
    pub fn iops(&self) -> f64 {
        ratio(float(self.ops), self.seconds)
    }

    /// MiB per second.
    pub fn mib_per_second(&self) -> f64 {
        ratio(float(self.bytes) / 1_048_576.0, self.seconds)
    }

    /// Processor time of a request, in microseconds.
    pub fn cpu_us_per_op(&self) -> f64 {
        ratio(self.cpu_seconds * 1e6, float(self.ops))
    }

    /// Disk operations (reads, writes, flushes) of a request.
    pub fn disk_ops_per_op(&self) -> [f64; 3] {
        let DiskWork {
            reads,
            writes,
            flushes,
            ..
        } = self.disks;
        [reads, writes, flushes].map(|count| ratio(float(count), float(self.ops)))
    }
}

/// What a load works on.
#[derive(Clone)]
pub struct Ground {
    /// The device.
    pub device: Rc<dyn BlockDevice>,
    /// The engine's memory.
    pub pool: BufPool,
    /// What it has written, where that is to be compared.
    pub stamps: Option<Rc<Stamps>>,
    /// Ends it early.
    pub interrupt: Interrupt,
}

/// The moment from which on requests count.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    cpu: Duration,
    disks: DiskWork,
}

struct Run {
    load: Load,
    ground: Ground,
    rows: Vec<u64>,
    next: Cell<u64>,
    ended: Cell<u64>,
    mark: Cell<Option<Mark>>,
    latencies_ns: RefCell<Vec<u64>>,
    failure: RefCell<Option<String>>,
}

impl Run {
    fn offset(&self, number: u64) -> u64 {
        let load = &self.load;
        let bytes = u64_of(load.bytes);
        let mut rng = Rng::new(load.seed.rotate_left(40) ^ number);
        match load.order {
            Order::Random => rng.below(load.span_bytes / bytes) * bytes,
            Order::RowByRow => {
                let at = number % u64_of(self.rows.len()).max(1);
                let row = self.rows.get(usize_of(at)).copied().unwrap_or(0);
                row * load.row_bytes + rng.below(load.row_bytes / bytes) * bytes
            }
            Order::Sequential(start) => {
                let places = (load.span_bytes - start) / bytes;
                start + number % places.max(1) * bytes
            }
        }
    }

    fn is_over(&self, number: u64) -> bool {
        if self.ground.interrupt.came() || self.failure.borrow().is_some() {
            return true;
        }
        match (self.load.until, self.mark.get()) {
            (Until::Ops(count), _) => number >= self.load.warm_ops + count,
            (Until::Time(time), Some(mark)) => mark.at.elapsed() >= time,
            (Until::Time(_), None) => false,
        }
    }

    fn set_mark(&self, disks: &[Disk]) {
        self.mark.set(Some(Mark {
            at: Instant::now(),
            cpu: cpu_time(),
            disks: DiskWork::of(disks),
        }));
    }

    async fn client(self: Rc<Self>, disks: Rc<Vec<Disk>>) {
        let (load, ground) = (self.load, &self.ground);
        // Without stamps the bytes don't matter, and filling them isn't what is measured.
        let mut template = ground.pool.take(load.bytes);
        Rng::new(load.seed).fill(&mut template);
        let template = template.freeze();
        let mut buf = (!load.is_write).then(|| ground.pool.take(load.bytes));
        loop {
            let number = self.next.get();
            if self.is_over(number) {
                return;
            }
            self.next.set(number + 1);
            let offset = self.offset(number);
            let began = Instant::now();
            let result = if let Some(room) = buf.take() {
                let (room, result) = ground.device.read(offset, room).await;
                buf = Some(room);
                result
            } else if let Some(stamps) = &ground.stamps {
                let mut stamped = ground.pool.take(load.bytes);
                if !stamps.begin(offset, &mut stamped) {
                    continue;
                }
                let written = ground
                    .device
                    .write(offset, stamped.freeze(), WriteFlags::default());
                let result = written.await;
                stamps.end(offset, load.bytes);
                result
            } else {
                let written = ground
                    .device
                    .write(offset, template.clone(), WriteFlags::default());
                written.await
            };
            if let Err(error) = result {
                self.failure.borrow_mut().get_or_insert(error.to_string());
                return;
            }
            if self.mark.get().is_some() {
                let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.latencies_ns.borrow_mut().push(took);
            }
            self.ended.set(self.ended.get() + 1);
            if self.ended.get() == load.warm_ops {
                self.set_mark(&disks);
            }
        }
    }
}

/// Runs a load; `settle` belongs to what is timed, where it is more than nothing.
pub async fn run(
    load: Load,
    ground: Ground,
    disks: Rc<Vec<Disk>>,
    settle: impl Future<Output = Result<(), String>>,
) -> Result<Sample, String> {
    let interrupt = ground.interrupt.clone();
    let run = Rc::new(Run {
        load,
        ground,
        rows: match load.order {
            Order::RowByRow => shuffled(load.span_bytes / load.row_bytes, 1),
            _ => Vec::new(),
        },
        next: Cell::new(0),
        ended: Cell::new(0),
        mark: Cell::new(None),
        latencies_ns: RefCell::default(),
        failure: RefCell::default(),
    });
    if load.warm_ops == 0 {
        run.set_mark(&disks);
    }
    let clients: Vec<_> = (0..load.depth)
        .map(|_| tokio::task::spawn_local(Rc::clone(&run).client(Rc::clone(&disks))))
        .collect();
    for client in clients {
        client.await.map_err(|error| error.to_string())?;
    }
    interrupt.check()?;
    if let Some(failure) = run.failure.take() {
        return Err(failure);
    }
    settle.await?;
    let mark = run.mark.get().ok_or("the load ended before it was warm")?;
    let mut latencies = run.latencies_ns.take();
    latencies.sort_unstable();
    let ops = run.ended.get() - load.warm_ops;
    Ok(Sample {
        ops,
        bytes: ops * u64_of(load.bytes),
        seconds: mark.at.elapsed().as_secs_f64(),
        p50_us: float(per_mille(&latencies, 500)) / 1e3,
        p99_us: float(per_mille(&latencies, 990)) / 1e3,
        cpu_seconds: cpu_time().saturating_sub(mark.cpu).as_secs_f64(),
        disks: DiskWork::of(&disks).since(mark.disks),
    })
}

impl Load {
    /// A load that writes every block of the span once, in requests of 1 MiB.
    pub fn fill(span_bytes: u64, row_bytes: u64) -> Self {
        let bytes = 1 << 20;
        Self {
            is_write: true,
            bytes,
            depth: 8,
            order: Order::Sequential(0),
            warm_ops: 0,
            until: Until::Ops(span_bytes / u64_of(bytes)),
            span_bytes,
            row_bytes,
            seed: 0,
        }
    }
}

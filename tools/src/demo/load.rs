//! Load on a volume over NBD, with a model beside it.
//!
//! Each worker has a connection and a part of the volume of its own, so that no two writes in
//! flight overlap and every read has one right answer.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::model::{Model, Random, SECTOR};
use crate::error::ToolError;
use crate::nbd_client::Client;
use crate::progress::{Position, Progress};

/// Connections, and writes in flight.
const WORKERS: u64 = 8;
/// The volume's size is a multiple of this: equal parts of whole megabytes.
const SIZE_UNIT_BYTES: u64 = WORKERS << 20;
/// Largest request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Largest trim: its length is a 32-bit number on the wire.
const TRIM_BYTES_MAX: u64 = 1 << 30;
/// A worker flushes after so many writes, as a database does at a commit.
const WRITES_PER_FLUSH: u64 = 32;
/// How often progress is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);
/// How often somebody who waits for an amount looks.
const METER_INTERVAL: Duration = Duration::from_millis(2);

/// `bytes` rounded up to a size that the workers can share.
pub(super) fn round_size(bytes: u64) -> u64 {
    bytes.next_multiple_of(SIZE_UNIT_BYTES)
}

/// Counts what was written, and says when writing may end.
#[derive(Debug, Default)]
pub(super) struct Meter {
    written: Cell<u64>,
    checked: Cell<u64>,
    end_at: Cell<Option<u64>>,
    notes: RefCell<Vec<String>>,
}

impl Meter {
    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Waits until so many bytes are written.
    pub(super) async fn reached(&self, bytes: u64) {
        while self.written.get() < bytes {
            tokio::time::sleep(METER_INTERVAL).await;
        }
    }

    /// Writing may end at so many bytes; until this is called it goes on.
    pub(super) fn let_end_at(&self, bytes: u64) {
        self.end_at.set(Some(bytes));
    }

    /// Has `text` said between two updates of the progress bar.
    pub(super) fn announce(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    fn may_end(&self) -> bool {
        self.end_at
            .get()
            .is_some_and(|end_at| self.written.get() >= end_at)
    }
}

/// The workers and their meter.
pub(super) struct Load {
    workers: Vec<Worker>,
    meter: Rc<Meter>,
    size_bytes: u64,
}

impl Load {
    /// Connects all workers to the export `name`, which has `size_bytes` bytes of zeros.
    pub(super) async fn connect(
        socket: &Path,
        name: &str,
        seed: u64,
        size_bytes: u64,
    ) -> Result<Self, ToolError> {
        let meter = Rc::new(Meter::default());
        let share = size_bytes / WORKERS / SECTOR;
        let mut workers = Vec::new();
        for index in 0..WORKERS {
            let client = Client::connect_unix(socket, name)
                .await
                .map_err(|error| nbd_error(&error))?;
            if client.size() != size_bytes {
                return Err(ToolError::failed(format!(
                    "the export {name} has {} bytes, not {size_bytes}",
                    client.size()
                )));
            }
            workers.push(Worker {
                client,
                model: Model::new(seed, index * share..(index + 1) * share),
                random: Random::new(seed ^ index),
                stamp: 0,
                meter: Rc::clone(&meter),
            });
        }
        Ok(Self {
            workers,
            meter,
            size_bytes,
        })
    }

    /// The meter, for others to look at.
    pub(super) fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.meter)
    }

    /// Writes until the meter lets it end; bytes written.
    pub(super) async fn write(&mut self, label: &str, goal: u64) -> Result<u64, ToolError> {
        let meter = self.meter();
        let at = || (meter.written.get(), goal);
        self.each(label, at, Worker::write).await?;
        Ok(self.meter.written())
    }

    /// Reads the whole volume and compares it with the model; bytes compared.
    pub(super) async fn verify(&mut self, label: &str) -> Result<u64, ToolError> {
        let meter = self.meter();
        meter.checked.set(0);
        let total = self.size_bytes;
        let at = || (meter.checked.get(), total);
        self.each(label, at, Worker::verify).await?;
        Ok(self.meter.checked.get())
    }

    /// Trims the first half of the volume; bytes trimmed.
    pub(super) async fn trim_half(&mut self) -> Result<u64, ToolError> {
        let half = self.workers.len() / 2;
        let bytes = self.size_bytes / 2;
        let Some(first) = self.workers.first_mut() else {
            return Ok(0);
        };
        // Long requests from one connection: what they free lies across the workers' borders.
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(TRIM_BYTES_MAX);
            first
                .client
                .trim(offset, length)
                .await
                .map_err(|error| nbd_error(&error))?;
            offset += length;
        }
        for worker in self.workers.iter_mut().take(half) {
            let sectors = worker.model.sectors();
            worker.model.note(0, sectors, 0);
        }
        Ok(bytes)
    }

    /// Ends all connections in the protocol's way.
    pub(super) async fn close(self) -> Result<(), ToolError> {
        for worker in self.workers {
            worker
                .client
                .disconnect()
                .await
                .map_err(|error| nbd_error(&error))?;
        }
        Ok(())
    }

    /// Runs `job` on every worker at once and shows progress meanwhile.
    async fn each<F, T>(
        &mut self,
        label: &str,
        at: impl Fn() -> (u64, u64),
        job: F,
    ) -> Result<(), ToolError>
    where
        F: Fn(Worker) -> T,
        T: Future<Output = Result<Worker, ToolError>> + 'static,
    {
        let mut running = JoinSet::new();
        for worker in self.workers.drain(..) {
            running.spawn_local(job(worker));
        }
        let mut bar = Progress::bytes(label);
        let mut tick = tokio::time::interval(SHOW_INTERVAL);
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(worker)) => self.workers.push(worker?),
                    Some(Err(error)) => {
                        return Err(ToolError::failed(format!("a worker broke down: {error}")));
                    }
                    None => break,
                },
                _ = tick.tick() => {
                    self.say_notes(&bar);
                    let (done, total) = at();
                    bar.update(Position { done, total, ..Position::default() });
                }
            }
        }
        self.say_notes(&bar);
        // They ended in any order; the next job wants theirs.
        self.workers.sort_by_key(|worker| worker.model.offset(0));
        Ok(())
    }

    fn say_notes(&self, bar: &Progress) {
        for note in self.meter.notes.take() {
            bar.say(&note);
        }
    }
}

/// One connection and its part of the volume.
struct Worker {
    client: Client,
    model: Model,
    random: Random,
    stamp: u32,
    meter: Rc<Meter>,
}

impl Worker {
    async fn write(mut self) -> Result<Self, ToolError> {
        let mut buffer = new_buffer();
        let mut writes = 0_u64;
        while !self.meter.may_end() {
            let (index, sectors) = self.pick();
            self.stamp += 1;
            let bytes = part(&mut buffer, sectors);
            self.model.fill(index, self.stamp, bytes);
            self.client
                .write(self.model.offset(index), bytes)
                .await
                .map_err(|error| nbd_error(&error))?;
            self.model.note(index, sectors, self.stamp);
            self.meter
                .written
                .set(self.meter.written.get() + sectors * SECTOR);
            writes += 1;
            if writes.is_multiple_of(WRITES_PER_FLUSH) {
                self.flush().await?;
            }
        }
        self.flush().await?;
        Ok(self)
    }

    /// Where to write next and how much: mostly pages of a database, some long runs, and now and
    /// then a length that no page has.
    fn pick(&mut self) -> (u64, u64) {
        /// 4 KiB in sectors.
        const PAGE: u64 = 8;
        let longest = REQUEST_BYTES_MAX / SECTOR;
        let (unit, units) = match self.random.below(16) {
            0 => (1, 1 + self.random.below(PAGE * 4)),
            1..=7 => (PAGE, 1 + self.random.below(16)),
            _ => (PAGE, 1 + self.random.below(longest / PAGE)),
        };
        let sectors = unit * units;
        let room = (self.model.sectors() - sectors) / unit + 1;
        (unit * self.random.below(room), sectors)
    }

    async fn flush(&mut self) -> Result<(), ToolError> {
        self.client.flush().await.map_err(|error| nbd_error(&error))
    }

    async fn verify(mut self) -> Result<Self, ToolError> {
        let mut buffer = new_buffer();
        let mut index = 0;
        while index < self.model.sectors() {
            let sectors = (self.model.sectors() - index).min(REQUEST_BYTES_MAX / SECTOR);
            let bytes = part(&mut buffer, sectors);
            self.client
                .read(self.model.offset(index), bytes)
                .await
                .map_err(|error| nbd_error(&error))?;
            if let Some(sector) = self.model.first_difference(index, bytes) {
                return Err(ToolError::failed_with(
                    format!(
                        "the volume differs from the model at byte {}: data is wrong",
                        sector * SECTOR
                    ),
                    "this is a bug in Cairn; report it with the seed above and the daemon's log",
                ));
            }
            self.meter
                .checked
                .set(self.meter.checked.get() + sectors * SECTOR);
            index += sectors;
        }
        Ok(self)
    }
}

fn new_buffer() -> Vec<u8> {
    vec![0; usize::try_from(REQUEST_BYTES_MAX).unwrap_or(0)]
}

/// The first `sectors` of a buffer that has room for the largest request.
fn part(buffer: &mut [u8], sectors: u64) -> &mut [u8] {
    let len = usize::try_from(sectors * SECTOR)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    buffer.split_at_mut(len).0
}

fn nbd_error(error: &impl std::fmt::Display) -> ToolError {
    ToolError::failed_with(
        format!("the volume failed over NBD: {error}"),
        "this must not happen with two of ten disks lost; see the daemon's log",
    )
}

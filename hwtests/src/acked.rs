//! Writers over NBD that remember what was acknowledged, and a reader that holds the server to it.
//!
//! Each worker has a connection and a range of blocks of its own with one request in flight, so
//! that for every block there is the content that was last acknowledged and, after a crash, at most
//! one other that may have come through. The promise is per sector of 512 bytes, as disks have it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn_tools::nbd_client::{Client, NbdClientError};

/// The unit of the workers' requests.
const BLOCK_BYTES: usize = 4096;
/// The unit of the promise.
const SECTOR_BYTES: usize = 512;
/// Connections, and so requests in flight.
const WORKERS: usize = 8;
/// Longest request, in blocks.
const RUN_BLOCKS_MAX: u64 = 64;
/// One request in so many is a zeroing one, one a trim, one a flush.
const KINDS: u64 = 12;

/// What a block may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Zero,
    /// The fill of this version.
    Version(u64),
}

/// What each sector of one block may hold: what was acknowledged last, and what was asked for since
/// and not answered.
type Block = Vec<Content>;

/// One worker's range.
#[derive(Debug)]
struct Range {
    seed: u64,
    random: u64,
    first_block: u64,
    version: u64,
    blocks: Vec<Block>,
}

/// What a volume must hold.
#[derive(Debug)]
pub struct Ledger {
    ranges: Vec<Range>,
}

/// Writers at work.
pub struct Writers {
    thread: std::thread::JoinHandle<Ledger>,
    signals: Signals,
}

/// Between the writers and who watches them.
#[derive(Debug, Clone, Default)]
struct Signals {
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicU64>,
    /// A refused request ends its worker; otherwise it is a failure of the test.
    may_refuse: bool,
    refusals: Arc<AtomicU64>,
}

impl Ledger {
    /// For the first `bytes` of a volume that reads as zeros. Prints the seed.
    pub fn new(seed: u64, bytes: u64) -> Self {
        println!("the writers' seed is {seed}");
        let count = usize::try_from(bytes).unwrap_or_default() / BLOCK_BYTES / WORKERS;
        let mut first_block = 0;
        let ranges = (0..WORKERS)
            .map(|_| {
                let range = Range {
                    seed,
                    random: mix(seed ^ first_block),
                    first_block,
                    version: 0,
                    blocks: vec![vec![Content::Zero]; count],
                };
                first_block += u64::try_from(count).unwrap_or_default();
                range
            })
            .collect();
        Self { ranges }
    }

    /// Starts the writers. They write until they are told to stop or the server is gone.
    #[track_caller]
    pub fn write(self, socket: &Path, export: &str) -> Writers {
        self.start(socket, export, Signals::default())
    }

    /// The same, and each of them ends with the first error that it is given: what it had asked for may have
    /// come through.
    #[track_caller]
    pub fn write_until_refused(self, socket: &Path, export: &str) -> Writers {
        let signals = Signals {
            may_refuse: true,
            ..Signals::default()
        };
        self.start(socket, export, signals)
    }

    fn start(mut self, socket: &Path, export: &str, signals: Signals) -> Writers {
        let shared = signals.clone();
        let (socket, export) = (socket.to_owned(), export.to_owned());
        let thread = std::thread::spawn(move || {
            let ranges = std::mem::take(&mut self.ranges);
            self.ranges = local(async move {
                let mut tasks = Vec::new();
                for range in ranges {
                    let client = connect(&socket, &export).await;
                    tasks.push(tokio::task::spawn_local(range.work(client, shared.clone())));
                }
                let mut ranges = Vec::new();
                for task in tasks {
                    match task.await {
                        Ok(range) => ranges.push(range),
                        Err(error) => panic!("a writer failed: {error}"),
                    }
                }
                ranges
            });
            self
        });
        Writers { thread, signals }
    }

    /// Reads everything and compares; returns how many bytes were compared.
    #[track_caller]
    pub fn verify(&mut self, socket: &Path, export: &str) -> u64 {
        let wrong = local(async {
            let mut client = connect(socket, export).await;
            let mut wrong = Vec::new();
            for range in &mut self.ranges {
                range.compare(&mut client, &mut wrong).await;
            }
            wrong
        });
        assert!(
            wrong.is_empty(),
            "{} sectors are neither what was acknowledged nor what was under way; the first: {}",
            wrong.len(),
            wrong.iter().take(8).cloned().collect::<Vec<_>>().join("; ")
        );
        let blocks: usize = self.ranges.iter().map(|range| range.blocks.len()).sum();
        u64::try_from(blocks * BLOCK_BYTES).unwrap_or_default()
    }
}

impl Writers {
    /// Requests acknowledged so far.
    pub fn acks(&self) -> u64 {
        self.signals.acks.load(Ordering::Relaxed)
    }

    /// Waits until each of them was given an error.
    #[track_caller]
    pub fn wait_refused(&self) {
        let all = u64::try_from(WORKERS).unwrap_or_default();
        crate::wait::until("an error to every writer", || {
            match self.signals.refusals.load(Ordering::Relaxed) {
                refusals if refusals == all => Ok(()),
                refusals => Err(format!("{refusals} of {all} writers were given one")),
            }
        });
    }

    /// Waits until so many more requests have been acknowledged.
    #[track_caller]
    pub fn progress(&self, requests: u64) {
        let goal = self.acks() + requests;
        crate::wait::until("the writers' progress", || match self.acks() {
            acks if acks >= goal => Ok(()),
            acks => Err(format!("{acks} of {goal} requests")),
        });
    }

    /// Lets them finish what is under way, or find the server gone.
    #[track_caller]
    pub fn finish(self) -> Ledger {
        self.signals.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(ledger) => ledger,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Range {
    async fn work(mut self, mut client: Client, signals: Signals) -> Self {
        while !signals.stop.load(Ordering::Relaxed) {
            match self.step(&mut client).await {
                Ok(()) => {
                    signals.acks.fetch_add(1, Ordering::Relaxed);
                }
                Err(NbdClientError::Io(_)) => return self,
                Err(NbdClientError::Refused { .. }) if signals.may_refuse => {
                    signals.refusals.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => panic!("a request failed: {error}"),
            }
        }
        match client.disconnect().await {
            // A daemon that was killed just now, as in the middle of a request.
            Ok(()) | Err(NbdClientError::Io(_)) => self,
            Err(error) => panic!("the connection didn't end well: {error}"),
        }
    }

    async fn step(&mut self, client: &mut Client) -> Result<(), NbdClientError> {
        let count = u64::try_from(self.blocks.len()).unwrap_or_default();
        let start = self.next() % count;
        let length = (1 + self.next() % RUN_BLOCKS_MAX).min(count - start);
        let offset = (self.first_block + start) * u64::try_from(BLOCK_BYTES).unwrap_or_default();
        let bytes = length * u64::try_from(BLOCK_BYTES).unwrap_or_default();
        let kind = self.next() % KINDS;
        if kind == 0 {
            return client.flush().await;
        }
        let content = if kind <= 2 {
            Content::Zero
        } else {
            self.version += 1;
            Content::Version(self.version)
        };
        let here = usize::try_from(start).unwrap_or_default();
        let there = usize::try_from(start + length).unwrap_or_default();
        for block in self.blocks.get_mut(here..there).unwrap_or_default() {
            block.push(content);
        }
        match kind {
            1 => client.write_zeroes(offset, bytes).await?,
            2 => client.trim(offset, bytes).await?,
            _ => {
                let mut data = Vec::new();
                for number in start..start + length {
                    data.extend_from_slice(&self.fill(self.first_block + number, content));
                }
                client.write(offset, &data).await?;
            }
        }
        for block in self.blocks.get_mut(here..there).unwrap_or_default() {
            *block = vec![content];
        }
        Ok(())
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.random)
    }

    fn fill(&self, block: u64, content: Content) -> Vec<u8> {
        let Content::Version(version) = content else {
            return vec![0; BLOCK_BYTES];
        };
        let base = mix(self.seed ^ mix(block) ^ version.rotate_left(32));
        (0..u64::try_from(BLOCK_BYTES / 8).unwrap_or_default())
            .flat_map(|word| mix(base.wrapping_add(word)).to_le_bytes())
            .collect()
    }

    async fn compare(&mut self, client: &mut Client, wrong: &mut Vec<String>) {
        let mut data = vec![0; self.blocks.len() * BLOCK_BYTES];
        let offset = self.first_block * u64::try_from(BLOCK_BYTES).unwrap_or_default();
        if let Err(error) = client.read(offset, &mut data).await {
            panic!("what was acknowledged can't be read: {error}");
        }
        let mut settled = Vec::new();
        for (number, (found, block)) in
            (self.first_block..).zip(data.chunks(BLOCK_BYTES).zip(&self.blocks))
        {
            let fills: Vec<Vec<u8>> = block.iter().map(|one| self.fill(number, *one)).collect();
            for (sector, bytes) in found.chunks(SECTOR_BYTES).enumerate() {
                let at = sector * SECTOR_BYTES;
                let is_allowed = |fill: &Vec<u8>| fill.get(at..at + SECTOR_BYTES) == Some(bytes);
                if !fills.iter().any(is_allowed) {
                    let is_zero = bytes.iter().all(|byte| *byte == 0);
                    let kind = if is_zero { "zeros" } else { "other bytes" };
                    wrong.push(format!(
                        "block {number} sector {sector}: {kind}, not {block:?}"
                    ));
                }
            }
            // Where sectors are partly old and partly new, it stays so until it is overwritten.
            let whole = fills.iter().position(|fill| fill == found);
            settled.push(match whole.and_then(|index| block.get(index)) {
                Some(content) => vec![*content],
                None => block.clone(),
            });
        }
        self.blocks = settled;
    }
}

async fn connect(socket: &Path, export: &str) -> Client {
    match Client::connect_unix(socket, export).await {
        Ok(client) => client,
        Err(error) => panic!("{error}"),
    }
}

fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, future),
        Err(error) => panic!("no event loop: {error}"),
    }
}

/// A number scrambled (splitmix64's finish).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

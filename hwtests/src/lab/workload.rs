//! A busy file system that syncs: files made, replaced, written over and removed, each durably, and
//! noted; and beside them others that nobody syncs.
//!
//! ```text
//!   two writers, each with files of its own ─▶ fsync, fdatasync, O_DSYNC ─▶ notes
//!   one that makes, truncates, renames and removes, and syncs nothing
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn_blockdev::Buf;
use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{usize_of, usize_of_u32};
use nix::libc;

use super::promises::{Contents, Note, Shape};
use super::{Answer, at};

/// Files of each writer.
const FILES: u32 = 10;
/// The largest of them, in blocks of 4 KiB.
const BLOCKS_MAX: u64 = 40;
/// Files that nobody syncs.
const LOOSE: u64 = 48;
/// What is done to them for each sync, at most: the record grows by work, not by time.
const LOOSE_PER_SYNC: u64 = 5;

/// What writers share.
pub struct Workload {
    /// The file system.
    pub dir: PathBuf,
    /// Its length is the time.
    pub record: PathBuf,
    /// Where the notes go.
    pub notes: Mutex<File>,
}

/// The file's name in the file system.
pub fn name(slot: u32) -> String {
    format!("file{slot}")
}

impl Workload {
    /// Runs until each of two writers has synced `rounds` times.
    pub fn run(&self, rounds: u64, seed: u64) -> Answer<()> {
        let is_over = AtomicBool::new(false);
        // One ahead of the first sync.
        let syncs = AtomicU64::new(1);
        std::thread::scope(|scope| {
            let writers = [0u32, 1].map(|writer| {
                let seed = seed ^ (u64::from(writer) << 32);
                let syncs = &syncs;
                scope.spawn(move || self.write(writer, rounds, seed, syncs))
            });
            let loose = scope.spawn(|| self.churn(&is_over, &syncs, !seed));
            let done: Vec<Answer<()>> = writers.into_iter().map(join).collect();
            is_over.store(true, Ordering::Relaxed);
            done.into_iter().chain([join(loose)]).collect()
        })
    }

    fn now(&self) -> Answer<u64> {
        let found = fs::metadata(&self.record).map_err(at(&self.record))?;
        Ok(found.len())
    }

    fn write(&self, writer: u32, rounds: u64, seed: u64, syncs: &AtomicU64) -> Answer<()> {
        let mut rng = Rng::new(seed);
        let mut sizes = vec![None; usize_of_u32(FILES)];
        for _ in 0..rounds {
            let file = u32::try_from(rng.below(u64::from(FILES))).unwrap_or_default();
            let held = sizes.get_mut(usize_of_u32(file)).ok_or("no such file")?;
            let slot = writer * FILES + file;
            let path = self.dir.join(name(slot));
            let begin = self.now()?;
            let shape = match (*held, rng.below(10)) {
                (Some(size), 0..=5) => {
                    let contents = Contents {
                        seed: rng.next_u64(),
                        size,
                    };
                    over(&path, contents, &mut rng)?;
                    Shape::Over(contents)
                }
                (Some(_), 6) => {
                    fs::remove_file(&path).map_err(at(&path))?;
                    sync_dir(&self.dir)?;
                    Shape::Gone
                }
                _ => {
                    let contents = Contents {
                        seed: rng.next_u64(),
                        size: 4096 * (1 + rng.below(BLOCKS_MAX)),
                    };
                    self.replace(&path, contents)?;
                    Shape::New(contents)
                }
            };
            *held = match shape {
                Shape::New(contents) | Shape::Over(contents) => Some(contents.size),
                Shape::Gone => None,
            };
            let end = self.now()?;
            let note = Note {
                begin,
                end,
                slot,
                shape,
            };
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(notes, "{note}").map_err(|error| format!("the notes: {error}"))?;
            syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The way that careful programs write: beside, synced, renamed, synced.
    fn replace(&self, path: &Path, contents: Contents) -> Answer<()> {
        let beside = path.with_extension("new");
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&contents.bytes())?;
            file.sync_all()
        });
        written.map_err(at(&beside))?;
        fs::rename(&beside, path).map_err(at(path))?;
        sync_dir(&self.dir)
    }

    fn churn(&self, is_over: &AtomicBool, syncs: &AtomicU64, seed: u64) -> Answer<()> {
        let mut rng = Rng::new(seed);
        let dir = self.dir.join("loose");
        fs::create_dir(&dir).map_err(at(&dir))?;
        let mut done = 0;
        while !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
            if done >= LOOSE_PER_SYNC * syncs.load(Ordering::Relaxed) {
                continue;
            }
            done += 1;
            let path = |rng: &mut Rng| dir.join(format!("{}/f", rng.below(LOOSE)));
            let (one, other) = (path(&mut rng), path(&mut rng));
            // What isn't there, or there already, is another turn's.
            match rng.below(6) {
                0 => drop(one.parent().map(fs::remove_dir_all)),
                1 => drop(fs::rename(&one, &other)),
                2 => drop(fs::hard_link(&one, other.with_extension("link"))),
                3 => drop(OpenOptions::new().write(true).open(&one).and_then(|file| {
                    let half = file.metadata()?.len() / 2;
                    file.set_len(half)
                })),
                _ => {
                    let mut bytes = vec![0; usize_of(rng.below(200_000))];
                    rng.fill(&mut bytes);
                    drop(one.parent().map(fs::create_dir_all));
                    drop(fs::write(&one, &bytes));
                }
            }
        }
        Ok(())
    }
}

fn join(thread: std::thread::ScopedJoinHandle<'_, Answer<()>>) -> Answer<()> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err("a thread of the workload panicked".into()))
}

/// In place: through the page cache and synced, or past it with nothing but every write's own promise.
fn over(path: &Path, contents: Contents, rng: &mut Rng) -> Answer<()> {
    let is_direct = rng.one_in(2);
    let mut options = OpenOptions::new();
    options.write(true);
    if is_direct {
        options.custom_flags(libc::O_DIRECT | libc::O_DSYNC);
    }
    let file = options.open(path).map_err(at(path))?;
    // Memory that O_DIRECT takes.
    let bytes = Buf::copy_of(&contents.bytes());
    let done = file.write_all_at(&bytes, 0).and_then(|()| {
        if is_direct {
            return Ok(());
        }
        file.sync_data()
    });
    done.map_err(at(path))
}

fn sync_dir(dir: &Path) -> Answer<()> {
    let opened = File::open(dir).and_then(|dir| dir.sync_all());
    opened.map_err(at(dir))
}

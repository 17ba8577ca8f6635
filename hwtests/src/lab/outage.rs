//! Cutting the power anywhere in a record: what the disks' caches would have left, with members lost in
//! the same moment, is started by the engine; the file system on its volume must be clean, and hold
//! whatever was synced.
//!
//! ```text
//!   record up to the cut ─▶ flushed: there │ not flushed: kept, lost or torn in sectors of 512 bytes
//!      ─▶ start, replay ─▶ volume ─▶ mount (ext4 replays its journal) ─▶ files ─▶ umount ─▶ e2fsck -fn
//! ```
//! The cuts: after every sync of the workload, and as many places in between.
//!
//! Invariants
//! - A block that can't be read is right only where members were lost with the power: the exception in
//!   raid/README.md. It is given to the file system as garbage.

use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use cairn_blockdev::sim::{Rng, Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, SECTOR, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, BlockStatus, Buf, BufPool};
use cairn_raid::{AssembleOptions, MemberDisk, assemble};
use uuid::Uuid;

use super::promises::Promises;
use super::record::{Deed, Entry};
use super::workload::name;
use super::{Answer, Told, at};

/// A start that takes more task polls than this hangs.
const POLLS_MAX: u64 = 100_000_000;
/// Buffers that a start keeps for reuse.
const POOL_BYTES: usize = 32 << 20;
/// Bytes read of a volume at once.
const PIECE: u64 = 1 << 20;
/// What stands for a block that can't be read.
const GARBAGE: u8 = 0xEE;

/// What is cut, and how.
#[derive(Debug)]
pub struct Outage {
    /// The record.
    pub record: PathBuf,
    /// The notes of the workload.
    pub notes: PathBuf,
    /// Disks of the record.
    pub disks: u8,
    /// Bytes of each.
    pub disk_bytes: u64,
    /// The volume with the file system.
    pub volume: String,
    /// Members that may be lost with the power.
    pub lose: u64,
    /// What chance begins with.
    pub seed: u64,
    /// This cut alone, by its number.
    pub only: Option<usize>,
    /// An empty directory of the test's own, for images and a mount.
    pub dir: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Cuts.
    pub cuts: u64,
    /// Of them, right after a sync.
    pub after_syncs: u64,
    /// Of them, with members lost.
    pub with_losses: u64,
    /// Writes that were in the caches at the cuts.
    pub in_caches: u64,
    /// Files that were compared.
    pub files: u64,
    /// Blocks of complete rows that were cut off with a member.
    pub cut_off: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} power cuts, {} of them right after a sync, {} with members lost, {} writes in the disks' caches: \
             ext4 clean each time, {} files as they were synced, {} blocks cut off",
            self.cuts, self.after_syncs, self.with_losses, self.in_caches, self.files, self.cut_off
        )
    }
}

/// What becomes of what was in a cache.
#[derive(Debug, Clone, Copy)]
enum Cache {
    Lost,
    Kept,
    Writes,
    Sectors,
}

/// A disk of the record: what is durable, and what is in its cache, in order. Some of that may be
/// durable, too, and older than what isn't.
struct Disk {
    durable: SimDisk,
    cached: Vec<(Deed, bool)>,
}

impl Disk {
    fn take(&mut self, deed: Deed) {
        match deed {
            Deed::Flush => {
                for (deed, _) in self.cached.drain(..) {
                    put(&self.durable, &deed);
                }
            }
            Deed::Write { fua, .. } | Deed::Zero { fua, .. } => self.cached.push((deed, fua)),
        }
    }
}

fn put(disk: &SimDisk, deed: &Deed) {
    match deed {
        Deed::Write { offset, data, .. } => disk.poke(*offset, data),
        Deed::Zero { offset, len, .. } => {
            let mut done = 0;
            while done < *len {
                let now = PIECE.min(*len - done);
                disk.poke(offset + done, &vec![0; usize_of(now)]);
                done += now;
            }
        }
        Deed::Flush => {}
    }
}

fn put_sectors(disk: &SimDisk, deed: &Deed, rng: &mut Rng) {
    let zeros;
    let (offset, data) = match deed {
        Deed::Write { offset, data, .. } => (*offset, data),
        Deed::Zero { offset, len, .. } => {
            zeros = vec![0; usize_of(*len)];
            (*offset, &zeros)
        }
        Deed::Flush => return,
    };
    for (sector, at) in data
        .chunks(usize_of(SECTOR))
        .zip((offset..).step_by(usize_of(SECTOR)))
    {
        if rng.one_in(2) {
            disk.poke(at, sector);
        }
    }
}

impl Outage {
    /// Cuts everywhere. The error is the first thing that isn't right.
    pub fn run(&self) -> Answer<Found> {
        let notes = fs::read_to_string(&self.notes).map_err(at(&self.notes))?;
        let promises = Promises::of(&notes)?;
        let mut record = BufReader::new(File::open(&self.record).map_err(at(&self.record))?);
        let mut position = 0;
        let mut disks = self.blank();
        let mut waiting: Option<Entry> = None;
        let mut found = Found::default();
        for (number, (cut, is_sync)) in self.cuts(&promises).into_iter().enumerate() {
            loop {
                let entry = match waiting.take() {
                    Some(entry) => entry,
                    None => match Entry::read(&mut record)? {
                        Some(entry) => entry,
                        None => break,
                    },
                };
                if position + entry.encoded_len() > cut {
                    waiting = Some(entry);
                    break;
                }
                position += entry.encoded_len();
                let disk = disks.get_mut(usize::from(entry.disk));
                disk.ok_or("the record has more disks")?.take(entry.deed);
            }
            if self.only.is_some_and(|only| only != number) {
                continue;
            }
            found.after_syncs += u64::from(is_sync);
            self.cut(number, position, &disks, &promises, &mut found)?;
        }
        Ok(found)
    }

    fn blank(&self) -> Vec<Disk> {
        let env = Sim::new(0).env();
        let disks = (0..self.disks).map(|number| {
            let seed = u64::from(number);
            Disk {
                durable: SimDisk::new(&format!("/dev/sim{number}"), self.config(), &env, seed),
                cached: Vec::new(),
            }
        });
        disks.collect()
    }

    fn config(&self) -> SimDiskConfig {
        SimDiskConfig {
            size: self.disk_bytes,
            logical_block: 512,
            latency_us_max: 0,
        }
    }

    /// Where to cut, ascending, and whether a sync had just ended there.
    fn cuts(&self, promises: &Promises) -> Vec<(u64, bool)> {
        let ends = promises.ends();
        let first = promises.begin();
        let last = ends.last().copied().unwrap_or(first);
        let mut rng = Rng::new(self.seed);
        let between = ends.iter().map(|_| first + rng.below(last + 1 - first));
        let mut cuts: Vec<(u64, bool)> = between.map(|cut| (cut, false)).collect();
        cuts.extend(ends.iter().map(|end| (*end, true)));
        cuts.sort_unstable();
        cuts
    }

    fn cut(
        &self,
        number: usize,
        position: u64,
        disks: &[Disk],
        promises: &Promises,
        found: &mut Found,
    ) -> Answer<()> {
        let seed = self.seed ^ (u64_of(number) << 20);
        let mut rng = Rng::new(seed);
        let chances = [Cache::Lost, Cache::Kept, Cache::Writes, Cache::Sectors];
        let cache = chances
            .get(usize_of(rng.below(4)))
            .copied()
            .unwrap_or(Cache::Lost);
        let lost = rng.below(self.lose + 1);
        let mut left: Vec<&Disk> = disks.iter().collect();
        for _ in 0..lost {
            left.swap_remove(usize_of(rng.below(u64_of(left.len()))));
        }
        let what = || format!("cut {number} at {position}, cache {cache:?}, {lost} members lost");
        let image = self.dir.join("volume");
        let told = Rc::<Told>::default();
        let mut start = || {
            let sim = Sim::new(seed);
            let after = left
                .iter()
                .map(|disk| self.after(disk, &sim, cache, &mut rng));
            let after: Vec<SimDisk> = after.collect();
            self.start(&sim, &after, &told, &image)
        };
        let fail = |error| {
            let told = told.0.borrow().join("\n  ");
            format!("{}: {error}\nthe array told:\n  {told}", what())
        };
        let cut_off = start().map_err(fail)?;
        if cut_off > 0 && lost == 0 {
            return Err(fail(format!("{cut_off} blocks can't be read")));
        }
        let files = self.look(&image, position, promises).map_err(fail)?;
        found.cuts += 1;
        found.with_losses += u64::from(lost > 0);
        found.in_caches += left
            .iter()
            .map(|disk| u64_of(disk.cached.len()))
            .sum::<u64>();
        found.files += files;
        found.cut_off += cut_off;
        Ok(())
    }

    /// The disk as it comes back.
    fn after(&self, disk: &Disk, sim: &Sim, cache: Cache, rng: &mut Rng) -> SimDisk {
        let after = SimDisk::new(
            &disk.durable.name(),
            self.config(),
            &sim.env(),
            rng.next_u64(),
        );
        after.set_image(&disk.durable.image());
        for (deed, is_durable) in &disk.cached {
            match cache {
                _ if *is_durable => put(&after, deed),
                Cache::Kept => put(&after, deed),
                Cache::Writes if rng.one_in(2) => put(&after, deed),
                Cache::Lost | Cache::Writes => {}
                Cache::Sectors => put_sectors(&after, deed, rng),
            }
        }
        after
    }

    /// Starts the array and copies the volume; how many blocks can't be read.
    fn start(&self, sim: &Sim, disks: &[SimDisk], told: &Rc<Told>, image: &Path) -> Answer<u64> {
        let members = disks.iter().map(|disk| MemberDisk {
            path: disk.name(),
            device: Rc::new(disk.clone()),
        });
        let options = AssembleOptions {
            force: false,
            waited: true,
            home_host: Uuid::nil(),
            witness: None,
        };
        let pool = BufPool::new(POOL_BYTES);
        let assembly = assemble(sim.env(), pool, members.collect(), options, told.hooks());
        let file = File::create(image).map_err(at(image))?;
        let copied = sim.run_until(
            async {
                let array = assembly.await.map_err(|error| error.to_string())?;
                let device = array.open_volume(&self.volume);
                copy(&*device.map_err(|error| error.to_string())?, &file).await
            },
            POLLS_MAX,
        );
        copied.unwrap_or_else(|| Err("the start hangs".into()))
    }

    /// Mounts the image, compares the files, unmounts, checks; how many files.
    fn look(&self, image: &Path, position: u64, promises: &Promises) -> Answer<u64> {
        let mount = self.dir.join("mnt");
        fs::create_dir_all(&mount).map_err(at(&mount))?;
        let (image, dir) = (image.to_string_lossy(), mount.to_string_lossy());
        run("mount", &["-t", "ext4", "-o", "loop,noatime", &image, &dir])?;
        let mut files = 0;
        let mut compare = || {
            for slot in promises.slots() {
                let path = mount.join(name(slot));
                let bytes = match fs::read(&path) {
                    Ok(bytes) => Some(bytes),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(at(&path)(error)),
                };
                promises.check(slot, position, bytes.as_deref())?;
                files += u64::from(bytes.is_some());
            }
            Ok(())
        };
        let compared = compare();
        let unmounted = run("umount", &[&dir]);
        compared.and(unmounted)?;
        run("e2fsck", &["-fn", &image])?;
        Ok(files)
    }
}

async fn copy(device: &dyn BlockDevice, file: &File) -> Answer<u64> {
    let size = device.geometry().size;
    let text = |error: std::io::Error| format!("the volume's image: {error}");
    file.set_len(size).map_err(text)?;
    let mut unreadable = 0;
    let mut offset = 0;
    while offset < size {
        let runs = device.block_status(offset, PIECE.min(size - offset)).await;
        let run = runs.map_err(|error| error.to_string())?.first().copied();
        let run = run.ok_or("no status of a block")?;
        let len = run.len.min(PIECE).min(size - offset);
        if run.status == BlockStatus::Data {
            let (buf, read) = device.read(offset, Buf::zeroed(usize_of(len))).await;
            if read.is_ok() {
                file.write_all_at(&buf, offset).map_err(text)?;
            } else {
                unreadable += copy_blocks(device, file, offset, len).await?;
            }
        }
        offset += len;
    }
    Ok(unreadable)
}

/// Block by block, of a piece that can't be read as one.
async fn copy_blocks(device: &dyn BlockDevice, file: &File, offset: u64, len: u64) -> Answer<u64> {
    let mut unreadable = 0;
    for at in (offset..offset + len).step_by(BLOCK_BYTES) {
        let block = usize_of(BLOCK.min(offset + len - at));
        let (mut buf, read) = device.read(at, Buf::zeroed(block)).await;
        if read.is_err() {
            buf.fill(GARBAGE);
            unreadable += 1;
        }
        let written = file.write_all_at(&buf, at);
        written.map_err(|error| format!("the volume's image: {error}"))?;
    }
    Ok(unreadable)
}

fn run(program: &str, arguments: &[&str]) -> Answer<()> {
    let mut command = Command::new(program);
    let done = command.args(arguments).output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!(
        "`{program} {}` ended with {}: {}{}",
        arguments.join(" "),
        done.status,
        said(&done.stdout),
        said(&done.stderr)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_what_was_flushed_or_forced_and_of_the_rest_what_the_cache_kept_in_its_order() {
        let outage = Outage {
            record: PathBuf::new(),
            notes: PathBuf::new(),
            disks: 1,
            disk_bytes: 1 << 20,
            volume: String::new(),
            lose: 0,
            seed: 1,
            only: None,
            dir: PathBuf::new(),
        };
        let write = |offset, byte, fua| Deed::Write {
            offset,
            data: vec![byte; 4096],
            fua,
        };
        let mut disks = outage.blank();
        let disk = &mut disks[0];
        let deeds = [
            write(0, 1, false),
            Deed::Flush,
            write(0, 2, false),
            write(0, 3, true),
            write(4096, 4, false),
            write(8192, 5, true),
            write(8192, 6, false),
        ];
        for deed in deeds {
            disk.take(deed);
        }
        let sim = Sim::new(1);
        let mut rng = Rng::new(1);
        let mut bytes = |cache| {
            let after = outage.after(&disks[0], &sim, cache, &mut rng);
            after.peek(0, 12288)
        };
        let firsts = |bytes: &[u8]| [bytes[0], bytes[4096], bytes[8192]];
        assert_eq!(firsts(&bytes(Cache::Lost)), [3, 0, 5]);
        assert_eq!(firsts(&bytes(Cache::Kept)), [3, 4, 6]);
        let torn = bytes(Cache::Sectors);
        assert!(torn[..4096].iter().all(|byte| *byte == 3));
        assert!(torn[4096..8192].contains(&4) && torn[4096..8192].contains(&0));
        assert!(torn[8192..].contains(&5) && torn[8192..].contains(&6));
    }
}

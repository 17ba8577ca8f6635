//! Disks in memory, as block devices: sparse files on a tmpfs, each behind a loop device.

use std::path::PathBuf;

use crate::disks::{self, Loop};
use crate::scratch::Scratch;

/// Memory that the machine keeps beside the disks, in MiB: the engines', and everybody else's.
const SPARE_MIB: u64 = 3 << 10;

/// MiB that could be had now without pushing anybody out.
pub fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

/// Whether disks that come to hold so much leave enough to the machine.
pub fn check_memory(need_mib: u64) -> Result<(), String> {
    let have = available_mib();
    if have >= need_mib + SPARE_MIB {
        return Ok(());
    }
    Err(format!(
        "the disks will hold {need_mib} MiB in memory, {SPARE_MIB} MiB must be left over, and {have} MiB are \
         available: take fewer --disks or a smaller --working-set"
    ))
}

/// Sets of disks, removed with their value.
#[derive(Debug)]
pub struct RamDisks {
    // Dropped in this order: the loops, then what they stand on.
    sets: Vec<Vec<Loop>>,
    _scratch: Scratch,
}

/// One set: so many disks of this size.
#[derive(Debug, Clone, Copy)]
pub struct DiskSet {
    /// Disks.
    pub count: usize,
    /// Size of each, in MiB; they are sparse.
    pub mib: u64,
}

impl RamDisks {
    /// Makes them; all together may hold `need_mib`. Wants root.
    pub fn make(sets: &[DiskSet], sector_bytes: u32, need_mib: u64) -> Result<Self, String> {
        check_memory(need_mib)?;
        let scratch = Scratch::new();
        let dir: PathBuf = scratch.ram("disks", need_mib + 64);
        let sets = sets
            .iter()
            .enumerate()
            .map(|(number, set)| {
                let prefix = format!("s{number}-");
                disks::loops(&dir, &prefix, set.count, set.mib, sector_bytes)
            })
            .collect();
        Ok(Self {
            sets,
            _scratch: scratch,
        })
    }

    /// Paths of a set's devices.
    pub fn paths(&self, set: usize) -> Vec<String> {
        self.sets
            .get(set)
            .map_or_else(Vec::new, |set| disks::devices(set))
    }

    /// Whether all loops pass requests on without the page cache in between.
    pub fn are_direct(&self) -> bool {
        self.sets.iter().flatten().all(|one| {
            let name = one.device().trim_start_matches("/dev/");
            let dio = std::fs::read_to_string(format!("/sys/block/{name}/loop/dio"));
            dio.is_ok_and(|text| text.trim() == "1")
        })
    }
}

//! Disks as a small file: what isn't zero, as runs of one word.
//!
//! ```text
//!  disks u32, and of each:  runs u32, and of each:  offset u64   words u32   word (8 bytes)
//! ```

use cairn_blockdev::units::{u32_of, u64_of, usize_of, usize_of_u32};

use crate::disk::TestDisk;

const PAGE: u64 = 4096;
const WORD: usize = 8;

struct Run {
    offset: u64,
    words: u32,
    word: [u8; WORD],
}

fn runs(disk: &TestDisk, size: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in disk.sim().stored(0, size) {
        let bytes = disk.peek(page, usize_of(PAGE));
        for (at, word) in (page..).step_by(WORD).zip(bytes.chunks_exact(WORD)) {
            let word: [u8; WORD] = word.try_into().unwrap();
            if word == [0; WORD] {
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if run.word == word
                        && run.offset + u64::from(run.words) * u64_of(WORD) == at =>
                {
                    run.words += 1;
                }
                _ => runs.push(Run {
                    offset: at,
                    words: 1,
                    word,
                }),
            }
        }
    }
    runs
}

pub(crate) fn pack(disks: &[TestDisk], size: u64) -> Vec<u8> {
    let mut file = u32_of(disks.len()).to_le_bytes().to_vec();
    for disk in disks {
        let runs = runs(disk, size);
        file.extend(u32_of(runs.len()).to_le_bytes());
        for run in runs {
            file.extend(run.offset.to_le_bytes());
            file.extend(run.words.to_le_bytes());
            file.extend(run.word);
        }
    }
    file
}

/// Puts a file's contents on blank disks.
pub(crate) fn unpack(file: &[u8], disks: &[TestDisk]) {
    fn take<const N: usize>(file: &mut &[u8]) -> [u8; N] {
        let (first, rest) = file.split_first_chunk::<N>().unwrap();
        *file = rest;
        *first
    }
    let mut file = file;
    assert_eq!(
        usize_of_u32(u32::from_le_bytes(take(&mut file))),
        disks.len()
    );
    for disk in disks {
        for _ in 0..u32::from_le_bytes(take(&mut file)) {
            let offset = u64::from_le_bytes(take(&mut file));
            let words = usize_of_u32(u32::from_le_bytes(take(&mut file)));
            disk.poke(offset, &take::<WORD>(&mut file).repeat(words));
        }
    }
    assert!(file.is_empty(), "{} bytes too many", file.len());
}

//! The statistics page: a file beside the admin socket that says once a second what the daemon has done. Who reads it needs no
//! answer of the daemon, which may be busy, or hang.
//!
//! Two slots are written in turns, so that one of them is whole whatever the reader meets:
//!
//! ```text
//!  0                      1 MiB                   2 MiB
//!  ├─slot: even generation─┼─slot: odd generation──┤
//!
//!  slot   0 magic `CAIRNTOP`   8 version u32   12 bytes of the body u32   16 generation u64
//!        24 reserved u32      28 crc32c u32 of bytes 0–28 and the body   32 body: [`Work`] as JSON with `schema`
//! ```
//!
//! Integers are little-endian. It is made anew at each start of the daemon and removed at its end; a version differs only
//! where the frame does: what the JSON says grows as replies do.
//!
//! Does not know: files, when it is written.

use std::path::{Path, PathBuf};

use crate::reply::Reply;
use crate::work::Work;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 32;
const CRC_AT: usize = 28;
const MAGIC: &[u8; 8] = b"CAIRNTOP";
const VERSION: u32 = 1;

const _: () = assert!(HEADER_BYTES == CRC_AT + 4);

/// Why there is nothing to read in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// No slot is whole: it is being written for the first time, or this is another file.
    Damaged,
    /// A later release's.
    Version(u32),
}

/// Where the page is, by the admin socket.
pub fn path_of(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".stats");
    PathBuf::from(name)
}

/// What is to be written, and where in the file. What doesn't fit is left out: volumes without requests first, then all.
pub fn encode(generation: u64, work: &Work) -> (u64, Vec<u8>) {
    let mut body = body_of(work);
    if body.len() > SLOT_BYTES - HEADER_BYTES {
        let mut busy = work.clone();
        busy.idle_volumes_left_out = true;
        for array in &mut busy.arrays {
            array
                .volumes
                .retain(|volume| volume.tally != crate::work::Tally::default());
        }
        body = body_of(&busy);
        if body.len() > SLOT_BYTES - HEADER_BYTES {
            for array in &mut busy.arrays {
                array.volumes.clear();
            }
            body = body_of(&busy);
        }
        // Thousands of disks: nothing is better than a part of the text.
        if body.len() > SLOT_BYTES - HEADER_BYTES {
            busy.arrays.clear();
            body = body_of(&busy);
        }
    }
    let len = u32::try_from(body.len()).unwrap_or(0);
    let mut slot = Vec::with_capacity(HEADER_BYTES + body.len());
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&VERSION.to_le_bytes());
    slot.extend_from_slice(&len.to_le_bytes());
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.extend_from_slice(&[0; 4]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&slot), &body);
    slot.extend_from_slice(&crc.to_le_bytes());
    slot.extend_from_slice(&body);
    let at = if generation.is_multiple_of(2) {
        0
    } else {
        SLOT_BYTES
    };
    (u64::try_from(at).unwrap_or(0), slot)
}

fn body_of(work: &Work) -> Vec<u8> {
    serde_json::to_vec(&Reply::of(work)).unwrap_or_default()
}

/// The newest that a page says, and its generation.
pub fn decode(page: &[u8]) -> Result<(u64, Work), PageError> {
    let (first, second) = page.split_at(SLOT_BYTES.min(page.len()));
    match (decode_slot(first), decode_slot(second)) {
        (Ok(first), Ok(second)) => Ok(if first.0 > second.0 { first } else { second }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(PageError::Version(version)), _) | (_, Err(PageError::Version(version))) => {
            Err(PageError::Version(version))
        }
        _ => Err(PageError::Damaged),
    }
}

fn decode_slot(slot: &[u8]) -> Result<(u64, Work), PageError> {
    let damaged = PageError::Damaged;
    let (header, rest) = slot.split_at_checked(HEADER_BYTES).ok_or(damaged)?;
    if !header.starts_with(MAGIC) {
        return Err(damaged);
    }
    let len = usize::try_from(u32_at(header, 12)?).map_err(|_| damaged)?;
    let body = rest.get(..len).ok_or(damaged)?;
    let said = header.get(..CRC_AT).ok_or(damaged)?;
    if crc32c::crc32c_append(crc32c::crc32c(said), body) != u32_at(header, CRC_AT)? {
        return Err(damaged);
    }
    match u32_at(header, 8)? {
        VERSION => {}
        version => return Err(PageError::Version(version)),
    }
    let generation = u64::from(u32_at(header, 16)?) | u64::from(u32_at(header, 20)?) << 32;
    let reply: Reply<Work> = serde_json::from_slice(body).map_err(|_| damaged)?;
    Ok((generation, reply.body))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, PageError> {
    let bytes = bytes.get(at..at + 4).ok_or(PageError::Damaged)?;
    Ok(u32::from_le_bytes(
        bytes.try_into().map_err(|_| PageError::Damaged)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page of a daemon that runs no array, frozen: generation 7.
    const GOLDEN: &[u8] = b"CAIRNTOP\x01\0\0\0\x50\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0";

    fn work(pid: u32) -> Work {
        Work {
            taken_unix_ms: 5,
            pid,
            ..Work::default()
        }
    }

    fn page(generations: &[u64]) -> Vec<u8> {
        let mut page = vec![0; 2 * SLOT_BYTES];
        for generation in generations {
            let (at, slot) = encode(*generation, &work(u32::try_from(*generation).unwrap()));
            let at = usize::try_from(at).unwrap();
            page[at..at + slot.len()].copy_from_slice(&slot);
        }
        page
    }

    #[test]
    fn the_newer_slot_is_read_and_the_other_where_it_is_torn() {
        assert_eq!(decode(&page(&[4])).unwrap(), (4, work(4)));
        assert_eq!(decode(&page(&[4, 5])).unwrap(), (5, work(5)));
        assert_eq!(decode(&page(&[5, 6])).unwrap(), (6, work(6)));
        for torn in [0, 13, 17, 30, 40] {
            let mut page = page(&[4, 5]);
            page[SLOT_BYTES + torn] ^= 1;
            assert_eq!(decode(&page).unwrap().0, 4, "byte {torn}");
        }
    }

    #[test]
    fn the_frame_is_as_it_was() {
        let (at, slot) = encode(7, &work(1));
        assert_eq!(at, u64::try_from(SLOT_BYTES).unwrap());
        assert_eq!(&slot[..CRC_AT], GOLDEN);
        let body =
            br#"{"schema":1,"taken_unix_ms":5,"pid":1,"arrays":[],"idle_volumes_left_out":false}"#;
        assert_eq!(&slot[HEADER_BYTES..], body);
    }

    #[test]
    fn another_version_is_named_and_anything_else_is_no_page() {
        let (_, mut slot) = encode(2, &work(1));
        slot[8] = 9;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&slot[..CRC_AT]), &slot[HEADER_BYTES..]);
        slot[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&slot), Err(PageError::Version(9)));
        for other in [
            &b""[..],
            b"CAIRNTOP",
            &[0xFF; 4096],
            &vec![0; 2 * SLOT_BYTES],
        ] {
            assert_eq!(decode(other), Err(PageError::Damaged));
        }
        // A length beyond the slot's end.
        slot[12..16].fill(0xFF);
        assert_eq!(decode(&slot), Err(PageError::Damaged));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_is_never_more_than_an_error(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            flips in proptest::collection::vec((0usize..HEADER_BYTES + 80, 0u8..8), 0..4),
        ) {
            proptest::prop_assert!(decode(&bytes).is_err());
            bytes = page(&[4])[..200].to_vec();
            for (at, bit) in flips {
                bytes[at] ^= 1 << bit;
            }
            let whole = bytes == page(&[4])[..200];
            proptest::prop_assert_eq!(decode(&bytes).is_ok(), whole);
        }
    }

    #[test]
    fn what_doesn_t_fit_is_left_out() {
        let tally = crate::work::Tally::default();
        let volume = |n: u32, ops| crate::work::VolumeWork {
            name: format!("volume-{n}"),
            uuid: String::new(),
            tally: crate::work::Tally {
                reads: crate::work::Count { ops, ..tally.reads },
                ..tally
            },
        };
        let mut all = work(1);
        let array = r#"{"name":"pool","uuid":"","taken_unix_ms":0,"running_ns":0,"cpu_ns":0,"state":"clean",
            "redundancy_left":2,"size_bytes":0,"free_bytes":0,"journal_used_bytes":0,"journal_total_bytes":0,
            "checksum_cache_hits":0,"checksum_cache_misses":0,"memory_used_bytes":0,"volumes":[],"disks":[]}"#;
        let mut array: crate::work::ArrayWork = serde_json::from_str(array).unwrap();
        array.volumes = (0..20_000).map(|n| volume(n, u64::from(n == 77))).collect();
        all.arrays.push(array);
        let (_, slot) = encode(0, &all);
        let (_, read) = decode(&slot).unwrap();
        assert!(read.idle_volumes_left_out);
        assert_eq!(read.arrays[0].volumes, [volume(77, 1)]);
    }
}

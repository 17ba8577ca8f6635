//! Making a stopped array md's: zeros in the rows that were never written, and superblocks; and
//! comparing what md then reads with what Cairn read.
//!
//! ```text
//!   row of the array ──▶ extent ──▶ volume's image, taken while Cairn served it
//!         └─────────▶ the same row of md's device
//! ```
//! Superblocks lie in the part of a member that Cairn leaves free, so nothing of the array is lost.
//!
//! Does not know: how md's device was assembled.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_blockdev::units::usize_of;
use cairn_raid::{Level, Row};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::off_t;

use super::md::{SUPERBLOCK_AT, Superblock};
use super::stopped::{Member, Stopped};
use super::{Answer, at};

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compared {
    /// Written rows, the same on both sides.
    pub rows: u64,
    /// Bytes of them that are a volume's.
    pub bytes: u64,
    /// Of those rows, how many aren't zeros alone.
    pub telling: u64,
}

/// Zeroes the rows that were never written, on every member; how many there were.
pub fn zero_unwritten(array: &Stopped) -> Answer<u64> {
    let chunk = array.label.geometry.chunk_bytes();
    let mut zeroed = 0;
    let mut row = Row(0);
    while row.0 < array.rows() {
        let next = array.map.next_written(row).unwrap_or(Row(array.rows()));
        let run = next.0.min(array.rows()) - row.0;
        if run > 0 {
            for member in &array.members {
                let offset = member.layout.data_offset() + row.0 * chunk;
                zero(member, offset, run * chunk)?;
            }
        }
        zeroed += run;
        row = Row(next.0 + 1);
    }
    Ok(zeroed)
}

fn zero(member: &Member, offset: u64, len: u64) -> Answer<()> {
    let file_offset = |bytes: u64| off_t::try_from(bytes).map_err(|error| error.to_string());
    let (offset, len) = (file_offset(offset)?, file_offset(len)?);
    fallocate(
        &member.disk,
        FallocateFlags::FALLOC_FL_ZERO_RANGE,
        offset,
        len,
    )
    .map_err(|error| at(&member.path)(error.into()))
}

/// Writes md's superblocks.
pub fn write_superblocks(array: &Stopped) -> Answer<()> {
    let geometry = array.label.geometry;
    let level = match geometry.level() {
        Level::Raid5 => 5,
        Level::Raid6 => 6,
        Level::Raid1 => return Err("mirrors have no rows to compare".into()),
    };
    let narrow = |n: usize| u16::try_from(n).map_err(|error| error.to_string());
    for (slot, member) in array.members.iter().enumerate() {
        let own = array
            .label
            .table
            .iter()
            .find(|entry| entry.slot == Some(slot));
        let superblock = Superblock {
            set_uuid: array.label.uuid.into_bytes(),
            device_uuid: own.map_or([0; 16], |entry| entry.uuid.into_bytes()),
            level,
            slot: narrow(slot)?,
            members: narrow(geometry.members())?,
            chunk: geometry.chunk_bytes(),
            data_offset: member.layout.data_offset(),
            data: array.label.data_bytes,
        };
        let written = member
            .disk
            .write_all_at(&superblock.encode(), SUPERBLOCK_AT);
        written.map_err(at(&member.path))?;
        member.disk.sync_all().map_err(at(&member.path))?;
    }
    Ok(())
}

/// In a volume's image there are zeros wherever the map says that nothing was written.
pub fn check_unwritten(array: &Stopped, volume: &str, image: &Path) -> Answer<()> {
    let (stretches, size) = array.written(volume)?;
    let copy = File::open(image).map_err(at(image))?;
    let mut reached = 0;
    for stretch in stretches {
        zeros(&copy, image, reached, stretch.in_volume)?;
        reached = stretch.in_volume + stretch.len;
    }
    zeros(&copy, image, reached, size)
}

/// Compares every written row of a volume, as `md` reads it, with the volume's image.
pub fn compare(array: &Stopped, md: &Path, volume: &str, image: &Path) -> Answer<Compared> {
    let (stretches, _) = array.written(volume)?;
    let (device, copy) = (
        File::open(md).map_err(at(md))?,
        File::open(image).map_err(at(image))?,
    );
    let row_bytes = usize_of(array.label.geometry.row_bytes());
    let (mut ours, mut theirs) = (vec![0; row_bytes], vec![0; row_bytes]);
    let mut done = Compared::default();
    for stretch in stretches {
        let len = usize_of(stretch.len);
        let (ours, theirs) = (ours.get_mut(..len), theirs.get_mut(..len));
        let (ours, theirs) = ours.zip(theirs).ok_or("a row is longer than a row")?;
        copy.read_exact_at(ours, stretch.in_volume)
            .map_err(at(image))?;
        device
            .read_exact_at(theirs, stretch.in_array)
            .map_err(at(md))?;
        if *ours != *theirs
            && let Some(byte) = ours.iter().zip(&*theirs).position(|(a, b)| a != b)
        {
            return Err(format!(
                "{volume}: row {} differs at byte {byte} of {len}: {stretch:?}",
                stretch.row.0
            ));
        }
        done.rows += 1;
        done.bytes += stretch.len;
        done.telling += u64::from(ours.iter().any(|byte| *byte != 0));
    }
    if done.telling == 0 {
        return Err(format!("{volume} has no row that tells anything"));
    }
    Ok(done)
}

/// The image has nothing but zeros here.
fn zeros(image: &File, path: &Path, from: u64, to: u64) -> Answer<()> {
    const PIECE: usize = 1 << 20;
    // As slices: byte by byte it takes minutes in an emulated machine.
    let (mut piece, blank) = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = from;
    while offset < to {
        let len = usize_of(to - offset).min(PIECE);
        let part = piece.get_mut(..len).unwrap_or_default();
        image.read_exact_at(part, offset).map_err(at(path))?;
        if Some(&*part) != blank.get(..len) {
            return Err(format!(
                "{}: bytes in a row that was never written, within {len} from {offset} on",
                path.display()
            ));
        }
        offset += cairn_blockdev::units::u64_of(len);
    }
    Ok(())
}

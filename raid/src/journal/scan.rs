//! Finds the groups of a lane in one member's ring.
//!
//! The ring has no directory: a group lies where its descriptor says it does. So every block is
//! tried, except those of a group that was found whole. A group whose payload isn't what its sums
//! say is reported, but only its descriptor is passed over: it may be an old one, and the rest of
//! its place may have gone to newer groups.
//!
//! Invariants
//! - At most one group and one piece are in memory, whatever the ring's size.
//! - A block that can't be read costs the copy of the group it belongs to and nothing else; that it
//!   would read as what its sum says is never assumed.
//! - Descriptors of a newer version are passed over: a label with an incompat bit, or a header of
//!   that version, stands before them; what looks like one in here is stale or foreign.
//!
//! Does not know: other members, what the entries do.

use std::ops::Range;

use cairn_blockdev::device::read_vec;
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, MIB, u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, IoError, IoErrorKind};
use uuid::Uuid;

use super::entry::Seq;
use super::group::{Damage, GROUP_BYTES_MAX, Group, decode, payload_is_intact, unescape};
use super::header::RING_OFFSET;
use crate::mutation::{Mutation, on};

/// One read of the ring.
const PIECE: u64 = MIB;

/// A group in a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it begins, from the ring's start.
    pub(crate) position: u64,
    /// Its descriptor.
    pub(crate) group: Group,
    /// Where its payload lies, from the ring's start.
    pub(crate) payload: Range<u64>,
    /// Whether all its payload was read and is what the sums say.
    pub(crate) intact: bool,
}

impl Found {
    /// Bytes of the whole group.
    pub(crate) fn len(&self) -> u64 {
        u64_of(self.group.bytes())
    }
}

/// Why an entry's payload can't be had from a copy.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PayloadError {
    /// The device gave an error.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It isn't what its sums say, though it was when the ring was scanned.
    #[error("{device}: journal payload of sequence {seq} at ring byte {position} has rotted")]
    Rotten {
        /// The device.
        device: std::rc::Rc<str>,
        /// The entry.
        seq: Seq,
        /// Where it lies in the ring.
        position: u64,
    },
}

/// A part of the ring in memory.
struct Window<'a> {
    device: &'a dyn BlockDevice,
    /// First byte of the ring on the device.
    ring_offset: u64,
    ring_len: u64,
    /// Position of the first byte in memory.
    at: u64,
    bytes: Vec<u8>,
    /// For each block in memory whether it could be read; zeros stand for those that couldn't.
    readable: Vec<bool>,
    /// Memory of the last whole piece, for the next one.
    spare: Option<Buf>,
}

impl Window<'_> {
    /// Reads on until `position..position + len` is in memory; what lies before may go.
    async fn cover(&mut self, position: u64, len: u64) -> Result<(), IoError> {
        let end = position + len;
        if end > self.end() {
            let past = usize_of(position - self.at).min(self.bytes.len());
            self.bytes.drain(..past);
            self.readable.drain(..past / BLOCK_BYTES);
            self.at = position;
        }
        while self.end() < end {
            self.read_piece().await?;
        }
        assert!(
            self.bytes.len() <= GROUP_BYTES_MAX + usize_of(PIECE),
            "journal window of {} bytes",
            self.bytes.len()
        );
        Ok(())
    }

    fn end(&self) -> u64 {
        self.at + u64_of(self.bytes.len())
    }

    async fn read_piece(&mut self) -> Result<(), IoError> {
        let from = self.end();
        let len = PIECE.min(self.ring_len - from);
        assert!(len > 0, "journal window past the ring");
        if let Some(piece) = self.try_read(from, len).await? {
            self.bytes.extend_from_slice(&piece);
            self.readable.resize(self.bytes.len() / BLOCK_BYTES, true);
            self.spare = Some(piece);
            return Ok(());
        }
        for position in (from..from + len).step_by(BLOCK_BYTES) {
            let block = self.try_read(position, BLOCK).await?;
            self.readable.push(block.is_some());
            match block {
                Some(block) => self.bytes.extend_from_slice(&block),
                None => self.bytes.resize(self.bytes.len() + BLOCK_BYTES, 0),
            }
        }
        Ok(())
    }

    /// `None`: a sector of it is bad. Other errors are those of the whole device.
    async fn try_read(&mut self, position: u64, len: u64) -> Result<Option<Buf>, IoError> {
        let len = usize_of(len);
        let spare = self.spare.take().filter(|spare| spare.len() == len);
        let buf = spare.unwrap_or_else(|| Buf::zeroed(len));
        let (buf, result) = self.device.read(self.ring_offset + position, buf).await;
        match result {
            Ok(()) => Ok(Some(buf)),
            Err(error) if error.kind == IoErrorKind::Medium => {
                tracing::debug!(%error, "journal blocks can't be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What is in memory from `position` on.
    fn from(&self, position: u64) -> &[u8] {
        self.bytes
            .get(usize_of(position - self.at)..)
            .unwrap_or_default()
    }

    fn is_readable(&self, range: &Range<u64>) -> bool {
        let first = usize_of((range.start - self.at) / BLOCK);
        let count = usize_of((range.end - range.start) / BLOCK);
        self.readable
            .get(first..first + count)
            .is_some_and(|blocks| blocks.iter().all(|&readable| readable))
    }

    /// The group whose descriptor begins at `position`, whoever's it is.
    async fn group(&mut self, position: u64) -> Result<Option<Found>, IoError> {
        self.cover(position, BLOCK).await?;
        let mut decoded = decode(self.from(position));
        if let Err(Damage::Short { needs }) = decoded {
            if u64_of(needs) > self.ring_len - position {
                return Ok(None);
            }
            self.cover(position, u64_of(needs)).await?;
            decoded = decode(self.from(position));
        }
        let Ok(group) = decoded else {
            return Ok(None);
        };
        let len = u64_of(group.bytes());
        if len > self.ring_len - position {
            return Ok(None);
        }
        self.cover(position, len).await?;
        let payload = position + u64_of(group.descriptor_len)..position + len;
        let intact = self.is_readable(&payload)
            && self
                .from(payload.start)
                .get(..group.payload_len)
                .is_some_and(|bytes| payload_is_intact(&group, bytes));
        Ok(Some(Found {
            position,
            group,
            payload,
            intact,
        }))
    }
}

/// Every group of this array, epoch and lane in the ring of the journal zone at `zone_offset` that
/// has a sequence at or above `floor`, by position.
///
/// An error is one of the whole device: it is gone, or gives no answers. Memory beside the result:
/// one group and one piece, 5 MiB.
pub(crate) async fn scan(
    device: &dyn BlockDevice,
    zone_offset: u64,
    ring_len: u64,
    array: Uuid,
    epoch: u64,
    lane: u16,
    floor: Seq,
) -> Result<Vec<Found>, IoError> {
    assert!(ring_len.is_multiple_of(BLOCK), "ring of {ring_len} bytes");
    let mut window = Window {
        device,
        ring_offset: zone_offset + RING_OFFSET,
        ring_len,
        at: 0,
        bytes: Vec::new(),
        readable: Vec::new(),
        spare: None,
    };
    let mut found = Vec::new();
    let mut position = 0;
    while position < ring_len {
        let Some(group) = window.group(position).await? else {
            position += BLOCK;
            continue;
        };
        position = if group.intact {
            group.payload.end
        } else if on(Mutation::ReplayStopsAtFirstGap) {
            ring_len
        } else {
            group.payload.start
        };
        let head = &group.group.head;
        if (head.array, head.epoch, head.lane) == (array, epoch, lane)
            && group.group.last() >= floor
        {
            found.push(group);
        }
    }
    Ok(found)
}

/// The payload of one entry of a group that was found, checked again; empty if it has none.
///
/// # Panics
/// If the group has no such entry.
pub(crate) async fn read_payload(
    device: &dyn BlockDevice,
    zone_offset: u64,
    found: &Found,
    index: usize,
) -> Result<Buf, PayloadError> {
    let group = &found.group;
    let (Some(entry), Some(range)) = (group.entries.get(index), group.payload_range(index)) else {
        unreachable!("a journal group's entry {index} of {}", group.entries.len());
    };
    if range.is_empty() {
        return Ok(Buf::zeroed(0));
    }
    let position = found.position + u64_of(range.start);
    let offset = zone_offset + RING_OFFSET + position;
    let mut payload = read_vec(device, offset, range.len()).await?;
    if !unescape(&entry.sums, &mut payload) {
        return Err(PayloadError::Rotten {
            device: device.name(),
            seq: group.head.first.plus(index),
            position,
        });
    }
    Ok(payload)
}

//! What can be opened by name.

use std::fmt;
use std::rc::Rc;

use super::connections::Connections;
use super::context::Contexts;
use super::framing::Framing;
use super::proto::{PAYLOAD_MAX_BYTES, flag};
use crate::device::BlockDevice;

/// Smallest unit that is ever advertised: volumes serve it, and clients that don't ask assume it.
const BLOCK_MIN_BYTES: u32 = 512;
/// Smallest preferred I/O: below it a volume reads before it writes.
const PREFERRED_MIN_BYTES: u32 = 4096;

/// An export that was opened for one connection.
#[derive(Clone)]
pub struct Export {
    /// Canonical name, at most 4096 bytes.
    pub name: String,
    /// For people; may be empty. At most 4096 bytes.
    pub description: String,
    /// The device served.
    pub device: Rc<dyn BlockDevice>,
    /// Refuse writes.
    pub read_only: bool,
    /// All connections of this export; the same handle at every opening.
    pub connections: Connections,
}

/// An entry of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name to open it by.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// The exports behind one listener.
pub trait Exports {
    /// All of them, as a client may see them.
    fn list(&self) -> Vec<Listed>;

    /// The export of that name. Clients that were given none ask for `""`, the default export.
    fn open(&self, name: &str) -> Option<Export>;
}

/// Block sizes as a client is told, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub minimum: u32,
    /// Best I/O.
    pub preferred: u32,
    /// Largest payload.
    pub maximum: u32,
}

impl Export {
    /// The transmission flags of a connection on which this was agreed.
    pub fn flags(&self, framing: Framing, contexts: Contexts) -> u16 {
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_CACHE
            | flag::CAN_MULTI_CONN;
        flags |= if self.read_only {
            flag::READ_ONLY
        } else {
            flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        };
        if self.device.geometry().rotational {
            flags |= flag::ROTATIONAL;
        }
        if framing.has_chunks() {
            flags |= flag::SEND_DF;
        }
        if framing.is_extended() && !contexts.is_empty() {
            flags |= flag::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    /// The block sizes advertised.
    pub fn block_sizes(&self) -> BlockSizes {
        let geometry = self.device.geometry();
        let minimum = geometry.logical_block.max(BLOCK_MIN_BYTES);
        BlockSizes {
            minimum,
            // Not `io_min`: clients round small requests up to it.
            preferred: minimum.max(PREFERRED_MIN_BYTES),
            maximum: PAYLOAD_MAX_BYTES,
        }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

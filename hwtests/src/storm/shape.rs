//! How a world is shaped: level, members, chunk, what its disks tear.

use std::ops::Range;

use cairn_blockdev::units::{MIB, SECTOR};
use cairn_raid::layout::{self, Layout, ZoneKind, journal_disk_layout, rows_per_extent};
use cairn_raid::{Geometry, Level};

/// Room for labels and zones on a disk, beside its extents.
const ZONES_BYTES: u64 = 48 * MIB;
/// Extents of an array.
const EXTENTS: u64 = 4;

/// A journal disk: a ring of 27 MiB.
pub(super) const JOURNAL_DISK_BYTES: u64 = 32 * MIB;

/// The chunk of a world whose array has so little memory that it doesn't hold all rows.
pub(super) const LARGE_CHUNK: u32 = 64 << 10;

/// How a world is shaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Level of the array.
    pub level: Level,
    /// Its members.
    pub members: usize,
    /// Disks beside them.
    pub spares: usize,
    /// Disks for the journal alone; none: it is on the members.
    pub journal_disks: usize,
    /// Its chunk.
    pub chunk_bytes: u32,
    /// What the disks tear: 512 or 4096.
    pub tear_bytes: u64,
    /// Rows that a volume covers.
    pub rows: u64,
    /// Whether its blocks have checksums.
    pub integrity: bool,
    /// Whether a volume more is written by way of logs.
    pub logs: bool,
}

impl Shape {
    /// An array of this level, of a size that restarts quickly.
    pub fn of(level: Level) -> Self {
        let members = match level {
            Level::Raid1 => 3,
            Level::Raid5 => 4,
            Level::Raid6 => 6,
        };
        Self {
            level,
            members,
            spares: 2,
            journal_disks: 0,
            chunk_bytes: 8192,
            tear_bytes: SECTOR,
            rows: 24,
            integrity: true,
            logs: false,
        }
    }

    /// Member failures that it survives.
    pub fn redundancy(&self) -> usize {
        self.level.redundancy(self.members)
    }

    /// The same with as many journal disks as it takes.
    #[must_use]
    pub fn with_journal_disks(mut self) -> Self {
        self.journal_disks = self.redundancy() + 1;
        self
    }

    /// The same without checksums.
    #[must_use]
    pub fn without_checksums(mut self) -> Self {
        self.integrity = false;
        self
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry::new(self.level, self.members, self.chunk_bytes)
            .unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let geometry = self.geometry();
        let extents = EXTENTS + u64::from(self.logs);
        ZONES_BYTES + extents * rows_per_extent(&geometry) * geometry.chunk_bytes()
    }

    /// Where the zone of a kind lies, on members or on journal disks.
    pub(super) fn zone(&self, kind: ZoneKind, on_ring: bool) -> Range<u64> {
        let zone = self
            .zones(on_ring)
            .map_or_else(Default::default, |zones| zones.zone(kind));
        zone.offset..zone.offset + zone.len
    }

    fn zones(&self, on_ring: bool) -> Option<Layout> {
        if on_ring {
            return journal_disk_layout(JOURNAL_DISK_BYTES, None);
        }
        let shape = layout::Shape {
            geometry: self.geometry(),
            journal_bytes: None,
        };
        let size = self.disk_bytes();
        shape.layout(size, shape.data_bytes_for(size)?)
    }

    /// Data bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        self.geometry().row_bytes()
    }
}

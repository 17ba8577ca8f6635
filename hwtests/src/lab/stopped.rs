//! An array that isn't running, read from its disks: who is which member, where the data zones lie, and
//! which part of which volume every row holds.
//!
//! Invariants
//! - Only an array that was stopped cleanly with all of its members is taken: nothing is in a journal
//!   then, and what the map says is all.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_raid::label::{ArrayLabel, Label};
use cairn_raid::layout::{LABEL_A, LABEL_B, Layout, ZoneKind};
use cairn_raid::space::{PAGE_BYTES, SHARD_BYTES, SpaceMap, page_generation};
use cairn_raid::{MemberState, Row};

use super::{Answer, at};

/// A member of it.
#[derive(Debug)]
pub struct Member {
    /// Where it is.
    pub path: PathBuf,
    /// The disk, open for both.
    pub disk: File,
    /// Its zones.
    pub layout: Layout,
}

/// A stopped array.
pub struct Stopped {
    /// What all labels say alike.
    pub label: ArrayLabel,
    /// The members by slot.
    pub members: Vec<Member>,
    /// Extents and written rows.
    pub map: SpaceMap,
}

/// A written row of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The row.
    pub row: Row,
    /// First byte in the volume.
    pub in_volume: u64,
    /// First byte in the array.
    pub in_array: u64,
    /// Bytes that are the volume's: its end, or a shard's, may lie in the row.
    pub len: u64,
}

impl Stopped {
    /// Reads it from these disks, which must be all of its members.
    pub fn open(paths: &[PathBuf]) -> Answer<Self> {
        let mut found = Vec::new();
        for path in paths {
            let disk = OpenOptions::new().read(true).write(true).open(path);
            let disk = disk.map_err(at(path))?;
            let label = newest_label(path, &disk)?;
            found.push((path.clone(), disk, label));
        }
        let newest = found.iter().map(|(_, _, label)| &label.array);
        let newest = newest.max_by_key(|array| (array.event_count, array.generation));
        let label = newest.ok_or("no disks")?.clone();
        if !label.clean {
            return Err(format!("{} wasn't stopped cleanly", label.name));
        }
        let mut slots: Vec<Option<Member>> = Vec::new();
        slots.resize_with(label.geometry.members(), || None);
        for (path, disk, own) in found {
            let shown = path.display().to_string();
            let entry = label.entry(own.member_uuid).filter(|_| own.array == label);
            let entry = entry.ok_or(format!("{shown} isn't of this array, or is behind"))?;
            let slot = entry.slot.filter(|_| entry.state == MemberState::InSync);
            let place = slot.and_then(|slot| slots.get_mut(slot));
            *place.ok_or(format!("{shown} isn't in sync"))? = Some(Member {
                path,
                disk,
                layout: own.layout,
            });
        }
        let members = slots.into_iter().collect::<Option<Vec<_>>>();
        let members = members.ok_or("a member is absent")?;
        let map = read_map(&label, &members)?;
        Ok(Self {
            label,
            members,
            map,
        })
    }

    /// Rows of the data zone.
    pub fn rows(&self) -> u64 {
        self.label.data_bytes / self.label.geometry.chunk_bytes()
    }

    /// The written rows of a volume, and the volume's size.
    pub fn written(&self, volume: &str) -> Answer<(Vec<Stretch>, u64)> {
        let (id, record) = self
            .map
            .volume_by_name(volume)
            .ok_or(format!("there is no volume {volume}"))?;
        let row_bytes = self.label.geometry.row_bytes();
        let mut stretches = Vec::new();
        for (owner, extent) in self.map.extents_of(id) {
            let first = u64::from(owner.shard) * SHARD_BYTES
                + u64::from(owner.index) * self.map.extent_bytes();
            let end = record
                .size_bytes
                .min((u64::from(owner.shard) + 1) * SHARD_BYTES);
            for (row, in_volume) in self
                .map
                .rows_of(extent)
                .zip((first..).step_by(usize_of(row_bytes)))
            {
                let len = end.saturating_sub(in_volume).min(row_bytes);
                if len > 0 && self.map.is_written(row) {
                    stretches.push(Stretch {
                        row,
                        in_volume,
                        in_array: row.0 * row_bytes,
                        len,
                    });
                }
            }
        }
        Ok((stretches, record.size_bytes))
    }
}

fn newest_label(path: &Path, disk: &File) -> Answer<Label> {
    let mut newest: Option<Label> = None;
    for offset in [LABEL_A, LABEL_B] {
        let mut block = vec![0; BLOCK_BYTES];
        disk.read_exact_at(&mut block, offset).map_err(at(path))?;
        let Ok(label) = Label::decode(&block) else {
            continue;
        };
        let is_newer = newest
            .as_ref()
            .is_none_or(|known| known.array.generation < label.array.generation);
        if is_newer {
            newest = Some(label);
        }
    }
    newest.ok_or(format!("{} has no label", path.display()))
}

fn read_map(label: &ArrayLabel, members: &[Member]) -> Answer<SpaceMap> {
    let blank = SpaceMap::new(label.uuid, &label.geometry, label.data_bytes);
    let count = blank.pages();
    let mut pages = Vec::new();
    for page in 0..count {
        let mut newest: Option<(u64, Box<[u8]>)> = None;
        for member in members {
            let zone = member.layout.zone(ZoneKind::Maps);
            for slot in [page, count + page] {
                let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
                let offset = zone.offset + BLOCK * (1 + u64_of(slot));
                let read = member.disk.read_exact_at(&mut bytes, offset);
                read.map_err(at(&member.path))?;
                let Ok(generation) = page_generation(&bytes, label.uuid, page) else {
                    continue;
                };
                if newest.as_ref().is_none_or(|(known, _)| generation > *known) {
                    newest = Some((generation, bytes));
                }
            }
        }
        pages.push(newest.map(|(_, bytes)| bytes));
    }
    SpaceMap::load(label.uuid, &label.geometry, label.data_bytes, pages)
        .map_err(|error| format!("the map of {}: {error}", label.name))
}

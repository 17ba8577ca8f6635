//! Free space as gp_disk_free shows it: a row per array, a row per mounted file system.

use cairn_api::{Array, ArrayState, Df, DfKind, DfRow};
use nix::sys::statvfs::statvfs;

const KIB: u64 = 1024;
/// A host that isn't part of a cluster has no content id.
const NO_SEGMENT: i32 = -1;

/// A mounted file system, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub device: String,
    /// Where.
    pub mount: String,
    /// Its size.
    pub total_bytes: u64,
    /// What is written.
    pub used_bytes: u64,
    /// What an unprivileged user may still write: without what is kept back for root.
    pub available_bytes: u64,
}

/// The mounted file systems that have blocks. Asks each, so a dead network mount can block: call it
/// on a thread that may.
pub fn mounts() -> Vec<Mount> {
    let refresh = sysinfo::DiskRefreshKind::nothing();
    let disks = match sysinfo::Disks::new_with_refreshed_list_specifics(refresh) {
        Ok(disks) => disks,
        Err(error) => {
            tracing::warn!(%error, "mounted file systems can't be listed");
            return Vec::new();
        }
    };
    let mounts = disks.into_iter().filter_map(|disk| {
        let space = match statvfs(disk.mount_point()) {
            Ok(space) => space,
            Err(error) => {
                tracing::debug!(mount = %disk.mount_point().display(), %error, "not in df");
                return None;
            }
        };
        let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size());
        Some(Mount {
            device: disk.name().to_string_lossy().into_owned(),
            mount: disk.mount_point().to_string_lossy().into_owned(),
            total_bytes: bytes(space.blocks()),
            used_bytes: bytes(space.blocks().saturating_sub(space.blocks_free())),
            available_bytes: bytes(space.blocks_available()),
        })
    });
    mounts.filter(|mount| mount.total_bytes > 0).collect()
}

/// All rows: running arrays first, then file systems, each by name.
pub fn rows(host: &str, arrays: &[Array], mounts: &[Mount]) -> Df {
    let running = arrays
        .iter()
        .filter(|a| !matches!(a.state, ArrayState::Stopped | ArrayState::Incomplete));
    let row = |device: &str, free: u64, size: u64, used: u64| DfRow {
        dfsegment: NO_SEGMENT,
        dfhostname: host.to_owned(),
        dfdevice: device.to_owned(),
        dfspace: free / KIB,
        kind: DfKind::Array,
        mount: None,
        size_kib: size / KIB,
        used_kib: used.div_ceil(KIB),
        used_percent: percent_up(used, used.saturating_add(free)),
    };
    let mut rows: Vec<DfRow> = running
        .map(|a| {
            row(
                &a.name,
                a.space.free_bytes,
                a.size_bytes,
                a.space.allocated_bytes,
            )
        })
        .collect();
    rows.sort_by(|a, b| a.dfdevice.cmp(&b.dfdevice));
    let mut mounted: Vec<DfRow> = mounts
        .iter()
        .map(|m| DfRow {
            kind: DfKind::Filesystem,
            mount: Some(m.mount.clone()),
            ..row(&m.device, m.available_bytes, m.total_bytes, m.used_bytes)
        })
        .collect();
    mounted.sort_by(|a, b| a.mount.cmp(&b.mount));
    mounted.dedup_by(|a, b| a.mount == b.mount);
    rows.append(&mut mounted);
    Df { rows }
}

/// `used` of `total` in whole percent, rounded up, at most 100.
pub fn percent_up(used: u64, total: u64) -> u32 {
    if total == 0 {
        return 0;
    }
    let percent = (u128::from(used) * 100).div_ceil(u128::from(total));
    u32::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::array;

    #[test]
    fn percentages_round_up_so_that_only_empty_is_zero() {
        assert_eq!(percent_up(0, 10), 0);
        assert_eq!(percent_up(1, 1000), 1);
        assert_eq!(percent_up(999, 1000), 100);
        assert_eq!(percent_up(u64::MAX, u64::MAX), 100);
        assert_eq!(percent_up(0, 0), 0);
    }

    #[test]
    fn arrays_come_first_and_free_space_is_in_kib() {
        let mut pool = array("pool");
        pool.size_bytes = 100 << 20;
        pool.space.free_bytes = 60 << 20;
        pool.space.allocated_bytes = 40 << 20;
        let mut stopped = array("old");
        stopped.state = ArrayState::Stopped;
        let root = Mount {
            device: "/dev/sda1".into(),
            mount: "/".into(),
            total_bytes: 10 << 20,
            used_bytes: 4 << 20,
            available_bytes: 4 << 20,
        };
        let df = rows("h1", &[stopped, pool], &[root.clone(), root]);
        assert_eq!(df.rows.len(), 2, "stopped arrays have no space to give");
        let first = &df.rows[0];
        assert_eq!(
            (
                first.dfsegment,
                first.dfhostname.as_str(),
                first.dfdevice.as_str(),
                first.dfspace
            ),
            (-1, "h1", "pool", 60 << 10)
        );
        assert_eq!(
            (first.size_kib, first.used_kib, first.used_percent),
            (100 << 10, 40 << 10, 40)
        );
        assert_eq!(df.rows[1].mount.as_deref(), Some("/"));
        // As df has it: what root keeps back is neither used nor free.
        assert_eq!(df.rows[1].used_kib, 4 << 10);
        assert_eq!(df.rows[1].used_percent, 50);
    }
}

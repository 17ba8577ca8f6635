//! What an array has done, in the admin API's words.

use std::time::Duration;

use cairn_api::{ArrayWork, Count, DiskWork, Tally, VolumeWork};
use cairn_blockdev::Ticks;
use cairn_raid::ArrayStatus;
use nix::time::{ClockId, clock_gettime};

use crate::view::{self, errors, member_state, slot_number};

/// When and at what cost of its thread an array said what it has done.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the epoch.
    pub unix_ms: u64,
    /// By the thread's clock.
    pub running: Ticks,
    /// Processor time of the thread.
    pub cpu: Duration,
}

/// Processor time of this thread so far, the kernel's on its behalf included.
pub fn thread_cpu_time() -> Duration {
    // The clock is always there; without it nothing is shown to have been used.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn count(count: cairn_raid::Count) -> Count {
    Count {
        ops: count.ops,
        failed: count.failed,
        bytes: count.bytes,
        nanos: count.nanos,
    }
}

fn tally(tally: cairn_raid::Tally) -> Tally {
    Tally {
        reads: count(tally.reads),
        writes: count(tally.writes),
        flushes: count(tally.flushes),
        zeros: count(tally.zeros),
    }
}

/// A running array.
pub fn array(status: &ArrayStatus, work: cairn_raid::ArrayWork, moment: Moment) -> ArrayWork {
    let shown = view::array(status);
    let errors_of = |uuid| {
        let mut members = status.members.iter();
        let member = members.find(|member| member.uuid == uuid);
        errors(member.map_or_else(cairn_raid::ErrorCounts::default, |member| member.errors))
    };
    let volumes = work.volumes.into_iter().map(|volume| VolumeWork {
        name: volume.name,
        uuid: volume.uuid.to_string(),
        tally: tally(volume.tally),
    });
    let disks = work.disks.into_iter().map(|disk| DiskWork {
        path: disk.path,
        uuid: disk.uuid.to_string(),
        slot: disk.slot.map(slot_number),
        state: member_state(disk.state),
        in_flight: u64::try_from(disk.in_flight).unwrap_or(u64::MAX),
        tally: tally(disk.tally),
        errors: errors_of(disk.uuid),
    });
    let used = work.memory.used;
    ArrayWork {
        name: work.name,
        uuid: work.uuid.to_string(),
        taken_unix_ms: moment.unix_ms,
        running_ns: moment.running.0,
        cpu_ns: u64::try_from(moment.cpu.as_nanos()).unwrap_or(u64::MAX),
        state: shown.state,
        redundancy_left: shown.redundancy_left,
        size_bytes: shown.size_bytes,
        free_bytes: shown.space.free_bytes,
        journal_used_bytes: work.journal_room.map_or(0, |room| room.used_bytes),
        journal_total_bytes: work.journal_room.map_or(0, |room| room.total_bytes),
        checksum_cache_hits: work.memory.checksum_hits,
        checksum_cache_misses: work.memory.checksum_misses,
        memory_used_bytes: used.checksum_cache_bytes + used.row_cache_bytes,
        volumes: volumes.collect(),
        disks: disks.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_s_processor_time_is_its_own() {
        let before = thread_cpu_time();
        let others = std::thread::spawn(|| {
            while thread_cpu_time() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
        });
        others.join().unwrap();
        let waited = thread_cpu_time().saturating_sub(before);
        while thread_cpu_time() < before + Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(waited < Duration::from_millis(30), "{waited:?} of waiting");
    }
}

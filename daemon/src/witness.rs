//! Event witnesses: what each array last recorded about its members, as files in the state directory.
//!
//! The array writes one after its labels and before the ack of the write that caused the event; at
//! start it tells whether absent members may know something newer (raid/README.md, Assembly).
//!
//! Invariant: a witness is the old one or the new one, whole, and durable when `record` is ready.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_blockdev::LocalFuture;
use cairn_raid::{ArrayStatus, Witness, WitnessStore};
use uuid::Uuid;

use crate::statedir::write_atomically;

/// A witness of this many bytes was not written by us: 64 members take 2 KiB.
const WITNESS_MAX_BYTES: u64 = 64 << 10;

/// The witnesses' directory.
#[derive(Debug, Clone)]
pub struct WitnessDir {
    dir: PathBuf,
    /// Held from the look at a witness to its replacement.
    writing: Arc<Mutex<()>>,
}

impl WitnessDir {
    /// The directory, which exists.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            writing: Arc::default(),
        }
    }

    /// The witness of `array`, if there is one that can be read.
    pub fn load(&self, array: Uuid) -> Option<Witness> {
        let path = self.dir.join(array.to_string());
        let damaged = |why: &dyn std::fmt::Display| {
            // An unreadable witness is worth as much as none: the array then asks for more members.
            tracing::warn!(path = %path.display(), "the event witness can't be used: {why}");
        };
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                damaged(&error);
                return None;
            }
        };
        let witness = Witness::from_bytes(&bytes).filter(|witness| witness.array == array);
        if witness.is_none() {
            damaged(&"its contents are malformed");
        }
        witness
    }

    /// Records how an array was started, if nothing is recorded of it yet.
    pub async fn record_first(&self, status: &ArrayStatus) -> Result<(), String> {
        let witness = Witness {
            array: status.uuid,
            event_count: status.event_count,
            members: status.members.iter().map(|m| (m.uuid, m.state)).collect(),
        };
        self.write(witness, true).await
    }

    async fn write(&self, witness: Witness, only_first: bool) -> Result<(), String> {
        let (dir, writing) = (self.dir.clone(), Arc::clone(&self.writing));
        // An fsync takes milliseconds, and this thread moves the array's data.
        let write = move || {
            let name = witness.array.to_string();
            let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
            if only_first && dir.join(&name).exists() {
                return Ok(());
            }
            write_atomically(&dir, &name, &witness.to_bytes())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Forgets `array`, which was destroyed.
    pub fn remove(&self, array: Uuid) {
        if let Err(error) = self.erase(array) {
            let path = self.dir.join(array.to_string());
            tracing::warn!(path = %path.display(), %error, "the event witness stays behind");
        }
    }

    /// Removes a witness, durably, if there is one.
    fn erase(&self, array: Uuid) -> std::io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::remove_file(self.dir.join(array.to_string())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::File::open(&self.dir)?.sync_all(),
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > WITNESS_MAX_BYTES {
        return Err(std::io::Error::other("it is too large"));
    }
    std::fs::read(path)
}

impl WitnessStore for WitnessDir {
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>> {
        let dir = self.clone();
        Box::pin(async move { dir.write(witness, false).await })
    }

    fn forget(&self, array: Uuid) -> LocalFuture<Result<(), String>> {
        let dir = self.clone();
        Box::pin(async move {
            let erased = tokio::task::spawn_blocking(move || dir.erase(array)).await;
            let erased = erased.map_err(|error| error.to_string())?;
            erased.map_err(|error| error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use cairn_raid::{ArrayState, Level, SpaceStatus};

    use super::*;
    use crate::testing::TempDir;

    fn status(event_count: u64) -> ArrayStatus {
        ArrayStatus {
            name: "pool".into(),
            uuid: Uuid::from_u128(1),
            level: Level::Raid1,
            members_total: 2,
            chunk_bytes: 65536,
            row_bytes: 65536,
            size_bytes: 0,
            state: ArrayState::Clean,
            redundancy_left: 1,
            member_bytes_min: 1,
            members: Vec::new(),
            sync: None,
            space: SpaceStatus {
                total_bytes: 0,
                free_bytes: 0,
                written_bytes: 0,
                promised_bytes: 0,
                extent_bytes: 1,
            },
            clean: true,
            no_integrity: true,
            no_journal: false,
            journal: None,
            journal_room: None,
            memory: cairn_raid::MemoryStatus {
                used: cairn_raid::MemoryShare::LEAST,
                share: cairn_raid::MemoryShare::FULL,
                checksum_hits: 0,
                checksum_misses: 0,
            },
            event_count,
            created_ms: 0,
            bad_blocks: Vec::new(),
            bad_blocks_total: 0,
            scrub: cairn_raid::defects::ScrubRecord::default(),
            scrubbing: None,
            failure: None,
            read_only: None,
        }
    }

    #[tokio::test]
    async fn a_lost_witness_is_written_anew_at_the_start_and_a_known_one_stays() {
        let dir = TempDir::new();
        let witness = WitnessDir::new(dir.path().to_owned());
        for seen in [7, 5] {
            witness.record_first(&status(seen)).await.unwrap();
            assert_eq!(witness.load(Uuid::from_u128(1)).unwrap().event_count, 7);
        }
    }
}

//! Event witnesses: what each array last recorded about its members, as files in the state directory.
//!
//! The array writes one after its labels and before the ack of the write that caused the event; at
//! start it tells whether absent members may know something newer (raid/README.md, Members).
//!
//! Invariant: a witness is the old one or the new one, whole, and durable when `record` is ready.

use std::path::{Path, PathBuf};

use cairn_blockdev::LocalFuture;
use cairn_raid::{Witness, WitnessStore};
use uuid::Uuid;

use crate::statedir::write_atomically;

/// A witness of this many bytes was not written by us: 64 members take 2 KiB.
const WITNESS_MAX_BYTES: u64 = 64 << 10;

/// The witnesses' directory.
#[derive(Debug, Clone)]
pub struct WitnessDir(PathBuf);

impl WitnessDir {
    /// The directory, which exists.
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The witness of `array`, if there is one that can be read.
    pub fn load(&self, array: Uuid) -> Option<Witness> {
        let path = self.0.join(array.to_string());
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

    /// Forgets `array`, which was destroyed.
    pub fn remove(&self, array: Uuid) {
        let path = self.0.join(array.to_string());
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "the event witness stays behind");
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
        let dir = self.0.clone();
        Box::pin(async move {
            let name = witness.array.to_string();
            let bytes = witness.to_bytes();
            // An fsync takes milliseconds, and this thread moves the array's data.
            let write = move || write_atomically(&dir, &name, &bytes);
            match tokio::task::spawn_blocking(write).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

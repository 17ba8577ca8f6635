//! What can go wrong with the metadata store, and what to do about it.

use std::path::PathBuf;

/// An error of the metadata store. Cloneable, so that one cause can be told to every waiter.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A key is empty or longer than [`crate::store::KEY_MAX_BYTES`].
    #[error("metadata key of {len_bytes} bytes: a key has 1 to {max_bytes} bytes")]
    KeyLength {
        /// Its length.
        len_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// A value is longer than [`crate::store::VALUE_MAX_BYTES`].
    #[error("metadata value of {len_bytes} bytes under `{key}`: at most {max_bytes} bytes fit")]
    ValueTooLong {
        /// Where it was to go.
        key: String,
        /// Its length.
        len_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// A transaction has more compares and operations than [`crate::store::TRANSACTION_MAX_OPS`].
    #[error("metadata transaction of {operations} operations: at most {max} fit, split it")]
    TransactionTooLong {
        /// Compares and operations in it.
        operations: usize,
        /// The bound.
        max: usize,
    },
    /// A transaction touches one key twice: its outcome would depend on their order.
    #[error("metadata transaction touches `{key}` twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// The file is no store of ours, or its contents contradict themselves.
    #[error(
        "{}: the metadata store is damaged ({detail}). Stop the daemon, move the file away and \
         start again: arrays and volumes are described on their disks, only exports, hints and \
         event history are lost", path.display()
    )]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The store was written by a newer release.
    #[error(
        "{}: the metadata store has format {found}, this release knows {known}: start the release \
         that wrote it, or a newer one", path.display()
    )]
    TooNew {
        /// The store's file.
        path: PathBuf,
        /// The format it has.
        found: u64,
        /// The newest format this release reads.
        known: u64,
    },
    /// Another process has the store open.
    #[error(
        "{}: another process has the metadata store open: stop it, or use another state \
         directory", path.display()
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// Reading or writing the file failed.
    #[error("{}: the metadata store's I/O failed: {detail}", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// An earlier write failed. After a failed fsync the kernel may have dropped the dirty pages and
    /// the next fsync may succeed over lost data (Rebello et al., "Can Applications Recover from
    /// fsync Failures?", ATC 2020), so nothing is written any more until the file is opened anew.
    #[error(
        "{}: writes are refused because an earlier one failed ({cause}). Check the disk under the \
         state directory, then restart the daemon", path.display()
    )]
    Poisoned {
        /// The store's file.
        path: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// The store was closed, or its thread died.
    #[error("{}: the metadata store is closed", path.display())]
    Closed {
        /// The store's file.
        path: PathBuf,
    },
}

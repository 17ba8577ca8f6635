//! The metadata store of one host: a redb file, owned by one thread.
//!
//! Requests go to that thread over a bounded queue, so that no caller's thread ever waits for an
//! fsync, and transactions have one order.
//!
//! Invariants
//! - A transaction's answer is sent after redb's commit with immediate durability (fsync) returned.
//! - After the first failed write nothing is written any more ([`StoreError::Poisoned`]): what a
//!   failed fsync left on the disk isn't known. Reads go on.
//! - A file of a newer format is refused before any of its tables is changed.

mod codec;
mod database;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::store::{Key, KeyRange, KeyValue, MetaStore, Outcome, Page, StoreFuture, Transaction};
use crate::watch::{Watch, Watchers};
use database::Database;

/// Requests that may wait for the store's thread; callers beyond it wait to be queued.
const QUEUE_MAX: usize = 64;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Get(Key, Answer<Option<KeyValue>>),
    Range(KeyRange, usize, Answer<Page>),
    Transaction(Transaction, Answer<Outcome>),
}

/// The redb backend of [`MetaStore`]. Dropping it closes the file.
pub struct LocalStore {
    path: PathBuf,
    requests: Option<mpsc::Sender<Request>>,
    watchers: Arc<Watchers>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LocalStore {
    /// Opens the store in `path`, creating it if there is no such file. Blocks for the time the
    /// file takes to open (a crash's repair reads it whole).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open_path = path.to_owned();
        Self::start(path, move || Database::open(&open_path))
    }

    #[cfg(test)]
    fn with_backend(path: &Path, backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let open_path = path.to_owned();
        Self::start(path, move || Database::with_backend(&open_path, backend))
    }

    fn start(
        path: &Path,
        open: impl FnOnce() -> Result<Database, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let watchers = Arc::new(Watchers::default());
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (opened, wait_opened) = std::sync::mpsc::sync_channel(1);
        let told = Arc::clone(&watchers);
        let thread = std::thread::Builder::new()
            .name("cairn-meta".into())
            .spawn(move || match open() {
                Ok(database) => {
                    if opened.send(Ok(())).is_ok() {
                        serve(database, queue, &told);
                    }
                    told.close();
                }
                Err(error) => {
                    // The opener waits for this; if it is gone nobody is left to tell.
                    opened.send(Err(error)).ok();
                }
            })
            .map_err(|error| StoreError::Io {
                path: path.to_owned(),
                detail: format!("its thread could not be started: {error}"),
            })?;
        match wait_opened.recv() {
            Ok(Ok(())) => Ok(Self {
                path: path.to_owned(),
                requests: Some(requests),
                watchers,
                thread: Mutex::new(Some(thread)),
            }),
            Ok(Err(error)) => Err(error),
            // redb asserts on some damage that its own checksums don't cover.
            Err(_) => Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: "opening it ended in a panic".into(),
            }),
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError::Closed {
            path: self.path.clone(),
        };
        let (answer, wait) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        let queued = requests.send(request(answer)).await;
        queued.map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        // Without senders the thread ends after what is queued, and the file's lock is released.
        self.requests = None;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the metadata store's thread panicked");
        }
    }
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalStore({})", self.path.display())
    }
}

impl MetaStore for LocalStore {
    fn get(&self, key: Key) -> StoreFuture<'_, Option<KeyValue>> {
        Box::pin(self.ask(|answer| Request::Get(key, answer)))
    }

    fn range(&self, range: KeyRange, limit: usize) -> StoreFuture<'_, Page> {
        Box::pin(self.ask(move |answer| Request::Range(range, limit, answer)))
    }

    fn transaction(&self, transaction: Transaction) -> StoreFuture<'_, Outcome> {
        Box::pin(async move {
            transaction.check()?;
            self.ask(|answer| Request::Transaction(transaction, answer))
                .await
        })
    }

    fn watch(&self, range: KeyRange) -> Watch {
        self.watchers.add(range)
    }
}

fn serve(mut database: Database, mut queue: mpsc::Receiver<Request>, watchers: &Watchers) {
    while let Some(request) = queue.blocking_recv() {
        // A caller that went away needs no answer; its transaction happens all the same.
        match request {
            Request::Get(key, answer) => drop(answer.send(database.get(&key))),
            Request::Range(range, limit, answer) => {
                drop(answer.send(database.range(&range, limit)));
            }
            Request::Transaction(transaction, answer) => {
                let outcome = database.transaction(&transaction);
                if let Ok(Outcome::Committed(revision)) = outcome {
                    let keys = transaction.ops.iter().map(|op| op.key().as_str());
                    watchers.notify(keys, revision);
                }
                drop(answer.send(outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests;

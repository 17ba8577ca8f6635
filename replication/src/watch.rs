//! Watching a range: a coalescing hint that something changed, and up to which revision.
//!
//! Invariant: however slow a watcher is, it holds one number; it never lags and never grows.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::store::{KeyRange, Revision};

/// Tells when a range of keys changes.
#[derive(Debug, Clone)]
pub struct Watch {
    revision: watch::Receiver<Revision>,
}

impl Watch {
    /// Completes when the range changed since the watch began or was last asked, with the revision
    /// of the last change; `None` once the store is closed.
    pub async fn changed(&mut self) -> Option<Revision> {
        self.revision.changed().await.ok()?;
        Some(*self.revision.borrow_and_update())
    }
}

/// The watchers of a store, for its backends.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Vec<(KeyRange, watch::Sender<Revision>)>>);

impl Watchers {
    /// A new watcher of `range`.
    pub(crate) fn add(&self, range: KeyRange) -> Watch {
        let (sender, revision) = watch::channel(Revision::default());
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(_, sender)| sender.receiver_count() > 0);
        watchers.push((range, sender));
        Watch { revision }
    }

    /// Tells the watchers of any of `keys` that `revision` changed it.
    pub(crate) fn notify<'a>(&self, keys: impl Iterator<Item = &'a str> + Clone, at: Revision) {
        let watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (range, sender) in watchers.iter() {
            if keys.clone().any(|key| range.contains(key)) {
                sender.send_replace(at);
            }
        }
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

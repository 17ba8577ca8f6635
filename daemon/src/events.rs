//! The event history: numbered, bounded, persistent, followed by long polls.
//!
//! Invariants
//! - Ids rise by one, over restarts too, and an event that was shown under an id keeps it.
//! - [`EVENTS_MAX`] events are kept, in memory and in the store; older ones go.
//! - Recording never waits: engine threads call it. A task writes behind; [`EventLog::persist_all`]
//!   waits for it at the end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_api::events::{LIMIT_DEFAULT, LIMIT_MAX, WAIT_MS_MAX};
use cairn_api::{Event, EventPage, EventsQuery};
use cairn_blockdev::units::{u64_of, usize_of_u32};
use cairn_replication::store::read_all;
use cairn_replication::{Key, KeyRange, MetaStore, StoreError, Transaction};
use tokio::sync::watch;

use crate::error::DaemonError;

/// Events kept: months of a busy host, and a few MiB.
pub const EVENTS_MAX: usize = 10_000;
/// Events of one transaction: each may delete an old one, and 128 operations are the store's bound.
const BATCH_MAX: usize = 60;
/// A detail beyond this is cut: one sentence was asked for.
const DETAIL_MAX_BYTES: usize = 1024;
const PREFIX: &str = "event/";

/// What happened, before it has a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// mdadm's name for it, or one in its manner.
    pub kind: String,
    /// Array concerned.
    pub array: Option<String>,
    /// Disk concerned.
    pub disk: Option<String>,
    /// Volume concerned.
    pub volume: Option<String>,
    /// One sentence.
    pub detail: String,
}

impl NewEvent {
    /// An event of `kind` with a sentence.
    pub fn new(kind: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.into(),
            ..Self::default()
        }
    }

    /// About this array.
    pub fn array(mut self, name: &str) -> Self {
        self.array = Some(name.into());
        self
    }

    /// About this volume.
    pub fn volume(mut self, name: &str) -> Self {
        self.volume = Some(name.into());
        self
    }
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    last_id: u64,
    /// Events up to this id are in the store.
    stored_id: u64,
}

/// The history. Cheap to clone, from any thread.
#[derive(Debug, Clone)]
pub struct EventLog {
    ring: Arc<Mutex<Ring>>,
    latest: watch::Sender<u64>,
}

impl EventLog {
    /// The history that `store` holds.
    pub async fn load(store: &dyn MetaStore) -> Result<Self, DaemonError> {
        let mut ring = Ring::default();
        for item in read_all(store, KeyRange::prefix(PREFIX)).await? {
            let event: Event =
                serde_json::from_slice(&item.value).map_err(|error| DaemonError::Record {
                    key: item.key.to_string(),
                    message: error.to_string(),
                })?;
            ring.last_id = ring.last_id.max(event.id);
            ring.events.push_back(event);
        }
        while ring.events.len() > EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.stored_id = ring.last_id;
        let (latest, _) = watch::channel(ring.last_id);
        Ok(Self {
            ring: Arc::new(Mutex::new(ring)),
            latest,
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event. Never waits.
    pub fn record(&self, new: NewEvent) {
        let now = jiff::Timestamp::now();
        let mut detail = new.detail;
        if detail.len() > DETAIL_MAX_BYTES {
            let cut = detail.floor_char_boundary(DETAIL_MAX_BYTES);
            detail.truncate(cut);
        }
        tracing::info!(
            kind = new.kind,
            array = new.array,
            disk = new.disk,
            volume = new.volume,
            "{detail}"
        );
        let id = {
            let mut ring = self.ring();
            ring.last_id += 1;
            let id = ring.last_id;
            ring.events.push_back(Event {
                id,
                time_unix_ms: u64::try_from(now.as_millisecond()).unwrap_or(0),
                time: format!("{now:.3}"),
                kind: new.kind,
                array: new.array,
                disk: new.disk,
                volume: new.volume,
                detail,
            });
            if ring.events.len() > EVENTS_MAX {
                ring.events.pop_front();
            }
            id
        };
        self.latest.send_replace(id);
    }

    /// The newest `count` events, oldest first.
    pub fn newest(&self, count: usize) -> Vec<Event> {
        let ring = self.ring();
        let skip = ring.events.len().saturating_sub(count);
        ring.events.iter().skip(skip).cloned().collect()
    }

    fn after(&self, id: u64, count: usize) -> Vec<Event> {
        let ring = self.ring();
        let first = ring.events.partition_point(|event| event.id <= id);
        ring.events
            .iter()
            .skip(first)
            .take(count)
            .cloned()
            .collect()
    }

    /// Answers a query; waits as long as it asks if there is nothing yet.
    pub async fn page(&self, query: &EventsQuery) -> EventPage {
        let limit = usize_of_u32(query.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX));
        let mut latest = self.latest.subscribe();
        let events = match query.after {
            None => self.newest(limit),
            Some(after) => {
                let found = self.after(after, limit);
                let wait = Duration::from_millis(query.wait_ms.unwrap_or(0).min(WAIT_MS_MAX));
                if found.is_empty() && !wait.is_zero() {
                    let newer = latest.wait_for(|&id| id > after);
                    // A timeout is an empty page.
                    drop(tokio::time::timeout(wait, newer).await);
                    self.after(after, limit)
                } else {
                    found
                }
            }
        };
        let newest = *self.latest.borrow();
        EventPage {
            last_id: events.last().map_or(newest, |event| event.id),
            events,
        }
    }

    /// Writes to the store whatever isn't there yet.
    pub async fn persist_all(&self, store: &dyn MetaStore) -> Result<(), StoreError> {
        loop {
            let (batch, stored_before) = {
                let ring = self.ring();
                (ring.stored_id, ring.last_id)
            };
            if batch == stored_before {
                return Ok(());
            }
            let events = self.after(batch, BATCH_MAX);
            let Some(last) = events.last().map(|event| event.id) else {
                return Ok(());
            };
            let mut transaction = Transaction::new();
            for event in &events {
                let value = serde_json::to_vec(event).unwrap_or_default();
                transaction = transaction.put(key(event.id)?, value);
                if let Some(old) = event.id.checked_sub(u64_of(EVENTS_MAX)) {
                    transaction = transaction.delete(key(old)?);
                }
            }
            store.transaction(transaction).await?;
            let mut ring = self.ring();
            ring.stored_id = ring.stored_id.max(last);
        }
    }

    /// Writes behind for as long as the store takes writes; ready with the error when it doesn't.
    pub async fn persist_behind(&self, store: &dyn MetaStore) -> StoreError {
        let mut latest = self.latest.subscribe();
        loop {
            if let Err(error) = self.persist_all(store).await {
                return error;
            }
            // The sender is ours: it lives.
            drop(latest.changed().await);
        }
    }
}

fn key(id: u64) -> Result<Key, StoreError> {
    Key::new(format!("{PREFIX}{id:020}"))
}

#[cfg(test)]
mod tests {
    use cairn_replication::LocalStore;

    use super::*;
    use crate::testing::TempDir;

    fn ids(page: &EventPage) -> Vec<u64> {
        page.events.iter().map(|event| event.id).collect()
    }

    #[tokio::test]
    async fn events_and_their_numbers_survive_a_restart() {
        let dir = TempDir::new();
        let path = dir.path().join("meta.redb");
        let store = LocalStore::open(&path).unwrap();
        let log = EventLog::load(&store).await.unwrap();
        for i in 0..130 {
            log.record(NewEvent::new("Fail", format!("disk {i}")).array("pool"));
        }
        log.persist_all(&store).await.unwrap();
        drop(store);

        let store = LocalStore::open(&path).unwrap();
        let log = EventLog::load(&store).await.unwrap();
        log.record(NewEvent::new("SpareActive", ""));
        let page = log
            .page(&EventsQuery {
                limit: Some(3),
                ..EventsQuery::default()
            })
            .await;
        assert_eq!(ids(&page), [129, 130, 131]);
        assert_eq!(page.events[0].detail, "disk 128");
        assert_eq!(page.last_id, 131);
    }

    #[tokio::test]
    async fn the_history_is_a_ring_in_the_store_too() {
        let dir = TempDir::new();
        let store = LocalStore::open(&dir.path().join("meta.redb")).unwrap();
        let log = EventLog::load(&store).await.unwrap();
        for _ in 0..EVENTS_MAX {
            log.record(NewEvent::new("Fail", ""));
        }
        log.persist_all(&store).await.unwrap();
        for _ in 0..5 {
            log.record(NewEvent::new("Fail", ""));
        }
        log.persist_all(&store).await.unwrap();
        let kept = read_all(&store, KeyRange::prefix(PREFIX)).await.unwrap();
        assert_eq!(kept.len(), EVENTS_MAX);
        assert_eq!(kept[0].key.as_str(), "event/00000000000000000006");
    }

    #[tokio::test]
    async fn a_follower_gets_the_next_event_as_it_happens_and_pages_lose_none() {
        let dir = TempDir::new();
        let store = LocalStore::open(&dir.path().join("meta.redb")).unwrap();
        let log = EventLog::load(&store).await.unwrap();
        log.record(NewEvent::new("NewArray", ""));
        let follow = |after| EventsQuery {
            after: Some(after),
            limit: Some(1),
            wait_ms: Some(WAIT_MS_MAX),
        };
        let first = log.page(&follow(0)).await;
        assert_eq!(ids(&first), [1]);
        let waiting = log.clone();
        let waiter = tokio::spawn(async move { waiting.page(&follow(1)).await });
        tokio::task::yield_now().await;
        log.record(NewEvent::new("Fail", ""));
        log.record(NewEvent::new("RebuildStarted", ""));
        assert_eq!(ids(&waiter.await.unwrap()), [2]);
        assert_eq!(ids(&log.page(&follow(2)).await), [3]);
    }

    #[tokio::test]
    async fn a_poll_without_news_ends_with_an_empty_page() {
        let dir = TempDir::new();
        let store = LocalStore::open(&dir.path().join("meta.redb")).unwrap();
        let log = EventLog::load(&store).await.unwrap();
        log.record(NewEvent::new("NewArray", ""));
        let query = EventsQuery {
            after: Some(1),
            limit: None,
            wait_ms: Some(1),
        };
        let page = log.page(&query).await;
        assert_eq!((ids(&page), page.last_id), (vec![], 1));
    }
}

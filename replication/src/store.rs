//! The metadata store's trait and vocabulary: keys, revisions, compare-and-swap transactions.
//!
//! The shape is etcd's, so that a local file and etcd serve the same callers: one revision for the
//! whole store, which every committed transaction that changes something raises by one; per key the
//! revisions of its creation and last change. Compares are typed: a misspelt compare must not
//! compile, because etcd ignores an unknown compare field and *succeeds*.
//!
//! Invariants
//! - A transaction is atomic, and durable when its future is ready.
//! - Revisions only rise. A key that was deleted and put again has a new creation revision.
//!
//! Does not know: leases and elections. They come with the second host.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::error::StoreError;
use crate::watch::Watch;

/// Longest key. Keys are paths of names and UUIDs; etcd suggests the same order.
pub const KEY_MAX_BYTES: usize = 512;
/// Longest value. An array's record with all its paths fits; etcd refuses requests over 1.5 MiB.
pub const VALUE_MAX_BYTES: usize = 512 << 10;
/// Most compares and operations of a transaction together: etcd's default bound.
pub const TRANSACTION_MAX_OPS: usize = 128;
/// Most keys of one answer: what a caller asks beyond it comes in further pages.
pub const PAGE_MAX_KEYS: usize = 1024;

/// The boxed future of one request. `Send`, since backends answer from other threads.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A point in the store's history. 0 is the empty store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key: 1 to [`KEY_MAX_BYTES`] bytes of text, by convention a path such as `export/pg`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A key, if its length is within bounds.
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        if text.is_empty() || text.len() > KEY_MAX_BYTES {
            return Err(StoreError::KeyLength {
                len_bytes: text.len(),
                max_bytes: KEY_MAX_BYTES,
            });
        }
        Ok(Self(text))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A half-open range of keys, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that may be in it.
    pub start: String,
    /// First key after it; `None` = to the end of the store.
    pub end: Option<String>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self {
            start: String::new(),
            end: None,
        }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            start: prefix.to_owned(),
            end: successor(prefix),
        }
    }

    /// Every key that begins with `prefix` and sorts after `key`: the next page.
    pub fn prefix_after(prefix: &str, key: &Key) -> Self {
        Self {
            // No key lies between `key` and `key` + NUL.
            start: format!("{key}\0"),
            end: successor(prefix),
        }
    }

    /// Whether `key` lies in it.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.start.as_str() && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The first text after everything that begins with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut text: Vec<char> = prefix.chars().collect();
    while let Some(last) = text.pop() {
        // Surrogates are no characters: the one after U+D7FF is U+E000.
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text.into_iter().collect());
        }
    }
    None
}

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
    /// Revision of the transaction that created the key.
    pub create_revision: Revision,
    /// Revision of the transaction that last put it.
    pub mod_revision: Revision,
}

/// Some keys of a range, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// At most [`PAGE_MAX_KEYS`] of them.
    pub items: Vec<KeyValue>,
    /// Whether the range holds more after the last one.
    pub more: bool,
    /// The store's revision that this page shows.
    pub revision: Revision,
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key doesn't exist.
    Absent(Key),
    /// The key exists and was last put by this revision.
    ModRevision(Key, Revision),
    /// The key exists and was created by this revision.
    CreateRevision(Key, Revision),
    /// The key exists and has exactly this value.
    Value(Key, Vec<u8>),
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key)
            | Self::ModRevision(key, _)
            | Self::CreateRevision(key, _)
            | Self::Value(key, _) => key,
        }
    }

    /// Whether it holds for what the store has under its key.
    pub fn holds(&self, found: Option<&KeyValue>) -> bool {
        match (self, found) {
            (Self::Absent(_), found) => found.is_none(),
            (Self::ModRevision(_, at), Some(found)) => found.mod_revision == *at,
            (Self::CreateRevision(_, at), Some(found)) => found.create_revision == *at,
            (Self::Value(_, value), Some(found)) => found.value == *value,
            (_, None) => false,
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the key's value.
    Put(Key, Vec<u8>),
    /// Removes the key; fine if it isn't there.
    Delete(Key),
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Changes that happen together, if every compare holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is done then.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a put.
    pub fn put(mut self, key: Key, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put(key, value.into()));
        self
    }

    /// Adds a delete.
    pub fn delete(mut self, key: Key) -> Self {
        self.ops.push(Op::Delete(key));
        self
    }

    /// Refuses what no backend takes: too long, or one key changed twice.
    pub fn check(&self) -> Result<(), StoreError> {
        let operations = self.compares.len() + self.ops.len();
        if operations > TRANSACTION_MAX_OPS {
            return Err(StoreError::TransactionTooLong {
                operations,
                max: TRANSACTION_MAX_OPS,
            });
        }
        let mut touched = BTreeSet::new();
        for op in &self.ops {
            if !touched.insert(op.key()) {
                return Err(StoreError::KeyTwice {
                    key: op.key().to_string(),
                });
            }
            if let Op::Put(key, value) = op
                && value.len() > VALUE_MAX_BYTES
            {
                return Err(StoreError::ValueTooLong {
                    key: key.to_string(),
                    len_bytes: value.len(),
                    max_bytes: VALUE_MAX_BYTES,
                });
            }
        }
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and this is the store's revision now.
    Committed(Revision),
    /// A compare didn't hold: nothing happened. The store's revision that was looked at.
    Refused(Revision),
}

impl Outcome {
    /// Whether it happened.
    pub fn committed(self) -> bool {
        matches!(self, Self::Committed(_))
    }
}

/// A small, ordered, durable key-value store with compare-and-swap.
pub trait MetaStore: Send + Sync {
    /// The value under `key`, if any.
    fn get(&self, key: Key) -> StoreFuture<'_, Option<KeyValue>>;

    /// The first keys of `range`, in order, at most `limit` and at most [`PAGE_MAX_KEYS`].
    fn range(&self, range: KeyRange, limit: usize) -> StoreFuture<'_, Page>;

    /// Does all of `transaction`'s changes if all of its compares hold, else none. Durable when
    /// ready.
    fn transaction(&self, transaction: Transaction) -> StoreFuture<'_, Outcome>;

    /// Tells when something in `range` changes. A hint: what changed is read with [`Self::range`].
    fn watch(&self, range: KeyRange) -> Watch;
}

/// Every key of `range`, page by page. For ranges known to be bounded.
pub async fn read_all(store: &dyn MetaStore, range: KeyRange) -> Result<Vec<KeyValue>, StoreError> {
    let mut items = Vec::new();
    let mut rest = range;
    loop {
        let page = store.range(rest.clone(), PAGE_MAX_KEYS).await?;
        items.extend(page.items);
        match items.last() {
            Some(last) if page.more => rest.start = format!("{}\0", last.key),
            _ => return Ok(items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn a_prefix_holds_what_begins_with_it_and_nothing_else() {
        let range = KeyRange::prefix("export/");
        assert!(range.contains("export/pg"));
        assert!(range.contains("export/"));
        assert!(!range.contains("export"));
        assert!(!range.contains("export0"));
        assert!(KeyRange::prefix("").contains("anything"));
        assert!(KeyRange::prefix("\u{D7FF}").contains("\u{D7FF}x"));
        assert!(!KeyRange::prefix("\u{D7FF}").contains("\u{E000}"));
        assert_eq!(KeyRange::prefix("\u{10FFFF}").end, None);
    }

    #[test]
    fn the_next_page_begins_right_after_the_last_key() {
        let range = KeyRange::prefix_after("event/", &key("event/3"));
        assert!(!range.contains("event/3"));
        assert!(range.contains("event/3\0"));
        assert!(range.contains("event/4"));
        assert!(!range.contains("eventx"));
    }

    #[test]
    fn keys_values_and_transactions_are_bounded() {
        assert!(matches!(Key::new(""), Err(StoreError::KeyLength { .. })));
        assert!(Key::new("k".repeat(KEY_MAX_BYTES)).is_ok());
        assert!(Key::new("k".repeat(KEY_MAX_BYTES + 1)).is_err());
        let long = Transaction::new().put(key("a"), vec![0; VALUE_MAX_BYTES + 1]);
        assert!(matches!(
            long.check(),
            Err(StoreError::ValueTooLong { key, .. }) if key == "a"
        ));
        let many = (0..=TRANSACTION_MAX_OPS)
            .fold(Transaction::new(), |t, i| t.delete(key(&format!("k{i}"))));
        assert!(matches!(
            many.check(),
            Err(StoreError::TransactionTooLong { .. })
        ));
    }

    #[test]
    fn a_key_is_changed_once_per_transaction() {
        let twice = Transaction::new().put(key("a"), "1").delete(key("a"));
        assert!(matches!(twice.check(), Err(StoreError::KeyTwice { key }) if key == "a"));
    }

    #[test]
    fn no_compare_but_absence_holds_for_an_absent_key() {
        let k = key("a");
        assert!(Compare::Absent(k.clone()).holds(None));
        assert!(!Compare::ModRevision(k.clone(), Revision(0)).holds(None));
        assert!(!Compare::CreateRevision(k.clone(), Revision(0)).holds(None));
        assert!(!Compare::Value(k, Vec::new()).holds(None));
    }
}

//! The redb file: two tables, and the rule that a failed write is the last one.
//!
//! Table `meta` holds `format` and `revision`, table `data` the keys ([`super::codec`]).

use std::path::{Path, PathBuf};

use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::codec::{Stored, decode, encode};
use crate::error::StoreError;
use crate::store::{
    Key, KeyRange, KeyValue, Op, Outcome, PAGE_MAX_KEYS, Page, Revision, Transaction,
};

/// The newest format this release reads and the one it writes.
pub(super) const FORMAT: u64 = 1;
/// Pages kept in memory: the store is small, and redb's default of 1 GiB is no bound here.
const CACHE_MAX_BYTES: usize = 16 << 20;

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const DATA: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("data");
pub(super) const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";

pub(super) struct Database {
    path: PathBuf,
    redb: redb::Database,
    revision: Revision,
    /// The first failure of a write, once there was one.
    poisoned: Option<String>,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_MAX_BYTES);
        let redb = builder.create(path).map_err(|e| explain(path, e.into()))?;
        Self::prepare(path, redb)
    }

    #[cfg(test)]
    pub(super) fn with_backend(
        path: &Path,
        backend: impl redb::StorageBackend,
    ) -> Result<Self, StoreError> {
        let redb = redb::Builder::new()
            .create_with_backend(backend)
            .map_err(|e| explain(path, e.into()))?;
        Self::prepare(path, redb)
    }

    fn prepare(path: &Path, redb: redb::Database) -> Result<Self, StoreError> {
        let found = read_meta(&redb).map_err(|e| explain(path, e))?;
        let revision = match found {
            Some((format, _)) if format > FORMAT => {
                return Err(StoreError::TooNew {
                    path: path.to_owned(),
                    found: format,
                    known: FORMAT,
                });
            }
            Some((FORMAT, revision)) => revision,
            Some((format, _)) => {
                return Err(StoreError::Corrupt {
                    path: path.to_owned(),
                    detail: format!("format {format} never existed"),
                });
            }
            None => {
                create_tables(&redb).map_err(|e| explain(path, e))?;
                Revision::default()
            }
        };
        Ok(Self {
            path: path.to_owned(),
            redb,
            revision,
            poisoned: None,
        })
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<KeyValue>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.redb.begin_read()?.open_table(DATA)?;
            let found = table.get(key.as_str())?;
            Ok(found.map(|guard| guard.value().to_vec()))
        };
        let bytes = read().map_err(|e| explain(&self.path, e))?;
        bytes
            .map(|bytes| self.key_value(key.clone(), &bytes))
            .transpose()
    }

    pub(super) fn range(&self, range: &KeyRange, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.min(PAGE_MAX_KEYS);
        let mut page = Page {
            revision: self.revision,
            ..Page::default()
        };
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(page);
        }
        let read = || -> Result<_, redb::Error> {
            let table = self.redb.begin_read()?.open_table(DATA)?;
            let found = match &range.end {
                Some(end) => table.range(range.start.as_str()..end.as_str())?,
                None => table.range(range.start.as_str()..)?,
            };
            let mut items = Vec::new();
            for item in found.take(limit.saturating_add(1)) {
                let (key, value) = item?;
                items.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(items)
        };
        for (key, bytes) in read().map_err(|e| explain(&self.path, e))? {
            if page.items.len() == limit {
                page.more = true;
                break;
            }
            let key = Key::new(key)?;
            page.items.push(self.key_value(key, &bytes)?);
        }
        Ok(page)
    }

    pub(super) fn transaction(&mut self, asked: &Transaction) -> Result<Outcome, StoreError> {
        for compare in &asked.compares {
            if !compare.holds(self.get(compare.key())?.as_ref()) {
                return Ok(Outcome::Refused(self.revision));
            }
        }
        if asked.ops.is_empty() {
            return Ok(Outcome::Committed(self.revision));
        }
        if let Some(cause) = &self.poisoned {
            return Err(StoreError::Poisoned {
                path: self.path.clone(),
                cause: cause.clone(),
            });
        }
        let next = Revision(self.revision.0 + 1);
        match commit(&self.redb, &asked.ops, next) {
            Ok(()) => {
                self.revision = next;
                Ok(Outcome::Committed(next))
            }
            Err(error) => {
                self.poisoned = Some(error.to_string());
                tracing::error!(
                    path = %self.path.display(), %error,
                    "a write to the metadata store failed: no more writes until a restart"
                );
                Err(explain(&self.path, error))
            }
        }
    }

    fn key_value(&self, key: Key, bytes: &[u8]) -> Result<KeyValue, StoreError> {
        let stored = decode(bytes).ok_or_else(|| StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("the value under `{key}` is malformed"),
        })?;
        Ok(KeyValue {
            key,
            value: stored.value.to_vec(),
            create_revision: stored.create_revision,
            mod_revision: stored.mod_revision,
        })
    }
}

fn commit(redb: &redb::Database, ops: &[Op], revision: Revision) -> Result<(), redb::Error> {
    let mut write = redb.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    {
        let mut data = write.open_table(DATA)?;
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let created = data
                        .get(key.as_str())?
                        .and_then(|old| decode(old.value()).map(|old| old.create_revision));
                    let bytes = encode(Stored {
                        create_revision: created.unwrap_or(revision),
                        mod_revision: revision,
                        value,
                    });
                    data.insert(key.as_str(), bytes.as_slice())?;
                }
                Op::Delete(key) => {
                    data.remove(key.as_str())?;
                }
            }
        }
        write.open_table(META)?.insert(META_REVISION, revision.0)?;
    }
    write.commit()?;
    Ok(())
}

fn create_tables(redb: &redb::Database) -> Result<(), redb::Error> {
    let mut write = redb.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    {
        write.open_table(DATA)?;
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, 0)?;
    }
    write.commit()?;
    Ok(())
}

/// Format and revision; `None` for a database without tables, which a fresh one is.
fn read_meta(redb: &redb::Database) -> Result<Option<(u64, Revision)>, redb::Error> {
    let table = match redb.begin_read()?.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let value = |name: &str| -> Result<u64, redb::Error> {
        let found = table.get(name)?;
        found
            .map(|guard| guard.value())
            .ok_or_else(|| redb::Error::Corrupted(format!("`{name}` is missing")))
    };
    Ok(Some((value(META_FORMAT)?, Revision(value(META_REVISION)?))))
}

/// redb's error in our words: which file, and whether the file or the disk is to blame.
fn explain(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    let detail = error.to_string();
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
        redb::Error::UpgradeRequired(found) => StoreError::Corrupt {
            path,
            detail: format!("file format {found} of the database library is not known"),
        },
        redb::Error::PreviousIo => StoreError::Poisoned {
            path,
            cause: detail,
        },
        // What isn't a redb file at all, or is cut short, comes as these kinds.
        redb::Error::Io(ref io)
            if matches!(
                io.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            StoreError::Corrupt { path, detail }
        }
        redb::Error::Io(_) => StoreError::Io { path, detail },
        _ => StoreError::Corrupt { path, detail },
    }
}

//! What the daemon remembers of arrays and exports in the metadata store.
//!
//! Arrays are described by their labels and volumes by their arrays; a record only says where disks
//! were seen, what the operator wished, and how an array looked when it last ran, so that one that
//! isn't running can still be shown.
//!
//! Keys: `array/<array uuid>`, `export/<volume uuid>/<address>` and `spare/<disk uuid>`.

use std::collections::BTreeSet;

use cairn_api::{Array, Level, MemberState};
use cairn_replication::store::read_all;
use cairn_replication::{Key, KeyRange, MetaStore, StoreError, Transaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::DaemonError;

const ARRAYS: &str = "array/";
const EXPORTS: &str = "export/";
const SPARES: &str = "spare/";

/// A disk as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDisk {
    /// Identity in its label.
    pub uuid: String,
    /// Its slot; spares have none.
    pub slot: Option<u32>,
    /// Where it was.
    pub path: String,
    /// It took part, or waited as a spare: the next start waits for it to turn up.
    #[serde(default)]
    pub live: bool,
    /// It is, or was, for the journal.
    #[serde(default)]
    pub journal: bool,
}

impl KnownDisk {
    fn of(uuid: &str, slot: Option<u32>, path: &str, state: MemberState) -> Self {
        Self {
            uuid: uuid.to_owned(),
            slot,
            path: path.to_owned(),
            live: matches!(
                state,
                MemberState::InSync
                    | MemberState::Rebuilding
                    | MemberState::Replacing
                    | MemberState::Spare
                    | MemberState::Journal
            ),
            journal: false,
        }
    }
}

/// An array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayRecord {
    /// Identity in its labels.
    pub uuid: Uuid,
    /// Name when it last ran.
    pub name: String,
    /// Level.
    pub level: Level,
    /// Bytes of one chunk.
    pub chunk_bytes: u64,
    /// Bytes that volumes can hold together.
    pub size_bytes: u64,
    /// Its disks and where they were: the hints of the next start.
    pub disks: Vec<KnownDisk>,
    /// Most spares that it has had ready since the operator last took one away: fewer are missed.
    pub spares_wanted: usize,
    /// The host's pool had a disk for it, and the operator hasn't taken the last such away: one is missed.
    #[serde(default)]
    pub relies_on_pool: bool,
    /// Stopped by the operator: not started by itself.
    pub stopped: bool,
    /// The operator has begun to destroy it: not started by itself, and shown until that is done.
    #[serde(default)]
    pub destroying: bool,
    /// The operator started its scrub, or resumed it: no window holds it.
    #[serde(default)]
    pub scrub_by_operator: bool,
}

impl ArrayRecord {
    /// What is remembered of a running array that is shown as `array`.
    pub fn of(uuid: Uuid, array: &Array, spares_wanted: usize) -> Self {
        let members = array.members.iter();
        let members = members.map(|m| KnownDisk::of(&m.uuid, Some(m.slot), &m.path, m.state));
        let spares = array.spares.iter();
        let spares = spares.map(|s| KnownDisk {
            journal: s.journal,
            ..KnownDisk::of(&s.uuid, None, &s.path, s.state)
        });
        Self {
            uuid,
            name: array.name.clone(),
            level: array.level,
            chunk_bytes: array.chunk_bytes,
            size_bytes: array.size_bytes,
            disks: members.chain(spares).collect(),
            spares_wanted,
            relies_on_pool: false,
            stopped: false,
            destroying: false,
            scrub_by_operator: false,
        }
    }

    /// Takes over what an array looks like now, and keeps the path of a disk that is away.
    pub fn refresh(&mut self, array: &Array) {
        let mut new = Self::of(self.uuid, array, self.spares_wanted);
        for disk in &mut new.disks {
            if disk.path.is_empty()
                && let Some(old) = self.disks.iter().find(|old| old.uuid == disk.uuid)
            {
                disk.path.clone_from(&old.path);
            }
        }
        new.relies_on_pool = self.relies_on_pool;
        new.stopped = self.stopped;
        new.destroying = self.destroying;
        new.scrub_by_operator = self.scrub_by_operator;
        *self = new;
    }

    /// What an engine says of disks that it knows by their labels alone, with where they were last seen.
    pub fn name_disks(&self, text: &str) -> String {
        let named = |text: String, disk: &KnownDisk| {
            let slot = disk
                .slot
                .map_or_else(String::new, |slot| format!("slot {slot}, "));
            let name = format!("{} ({slot}last seen at {})", disk.uuid, disk.path);
            text.replace(&disk.uuid, &name)
        };
        let known = self
            .disks
            .iter()
            .filter(|disk| !disk.path.is_empty() && !disk.uuid.is_empty());
        known.fold(text.to_owned(), named)
    }

    /// Fills in where a missing disk was last seen, unless another disk of the array is there now.
    pub fn fill_paths(&self, array: &mut Array) {
        let mut taken: BTreeSet<String> = array.members.iter().map(|m| m.path.clone()).collect();
        taken.extend(array.spares.iter().map(|s| s.path.clone()));
        let members = array.members.iter_mut().map(|m| (&mut m.path, &m.uuid));
        let spares = array.spares.iter_mut().map(|s| (&mut s.path, &s.uuid));
        for (path, uuid) in members.chain(spares) {
            if path.is_empty()
                && let Some(known) = self.disks.iter().find(|known| known.uuid == *uuid)
                && !taken.contains(&known.path)
            {
                path.clone_from(&known.path);
            }
        }
    }
}

/// An export that the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// The array that holds the volume.
    pub array: Uuid,
    /// The volume.
    pub volume: Uuid,
    /// Its name, which is the NBD export's.
    pub name: String,
    /// An [`cairn_api::NbdAddress`] as text, or [`cairn_api::UBLK`].
    pub address: String,
    /// Refuses writes.
    pub read_only: bool,
    /// It is a ublk device.
    #[serde(default)]
    pub ublk: Option<UblkRecord>,
    /// Logical block in bytes of the kernel's NBD device that it is; of an earlier release none, which is the
    /// usual one.
    #[serde(default)]
    pub kernel_block: Option<u32>,
}

/// A ublk device that the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UblkRecord {
    /// Its number when it was last served: the one that it should have again.
    pub number: Option<u32>,
    /// Its logical block in bytes.
    pub logical_block: u32,
}

/// A disk of the host's pool of spares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareRecord {
    /// Identity in its label.
    pub uuid: Uuid,
    /// The host in its label.
    pub host: Uuid,
    /// Where it was last seen.
    pub path: String,
    /// Its size in the label.
    pub size_bytes: u64,
    /// When it was put in the pool.
    pub since_unix_ms: u64,
    /// An array was about to take it: if it isn't found in the pool, that one has it.
    #[serde(default)]
    pub was_taking: bool,
}

impl SpareRecord {
    /// What is remembered of a disk with this label.
    pub fn of(label: &cairn_raid::HostSpare, path: &str) -> Self {
        Self {
            uuid: label.uuid,
            host: label.host,
            path: path.to_owned(),
            size_bytes: label.disk_bytes,
            since_unix_ms: label.since_ms,
            was_taking: false,
        }
    }
}

fn array_key(uuid: Uuid) -> Result<Key, StoreError> {
    Key::new(format!("{ARRAYS}{uuid}"))
}

fn export_key(volume: Uuid, address: &str) -> Result<Key, StoreError> {
    Key::new(format!("{EXPORTS}{volume}/{address}"))
}

fn spare_key(uuid: Uuid) -> Result<Key, StoreError> {
    Key::new(format!("{SPARES}{uuid}"))
}

async fn load<T: DeserializeOwned>(
    store: &dyn MetaStore,
    prefix: &str,
) -> Result<Vec<T>, DaemonError> {
    let items = read_all(store, KeyRange::prefix(prefix)).await?;
    let parse = |item: cairn_replication::KeyValue| {
        serde_json::from_slice(&item.value).map_err(|error| DaemonError::Record {
            key: item.key.to_string(),
            message: error.to_string(),
        })
    };
    items.into_iter().map(parse).collect()
}

/// Every array that is remembered.
pub async fn load_arrays(store: &dyn MetaStore) -> Result<Vec<ArrayRecord>, DaemonError> {
    load(store, ARRAYS).await
}

/// Every export that is remembered.
pub async fn load_exports(store: &dyn MetaStore) -> Result<Vec<ExportRecord>, DaemonError> {
    load(store, EXPORTS).await
}

/// Remembers an array.
pub async fn save_array(store: &dyn MetaStore, record: &ArrayRecord) -> Result<(), StoreError> {
    let value = serde_json::to_vec(record).unwrap_or_default();
    let put = Transaction::new().put(array_key(record.uuid)?, value);
    store.transaction(put).await.map(drop)
}

/// Forgets an array, whose volumes are no longer exported.
pub async fn forget_array(store: &dyn MetaStore, uuid: Uuid) -> Result<(), StoreError> {
    let delete = Transaction::new().delete(array_key(uuid)?);
    store.transaction(delete).await.map(drop)
}

/// Remembers an export.
pub async fn save_export(store: &dyn MetaStore, record: &ExportRecord) -> Result<(), StoreError> {
    let value = serde_json::to_vec(record).unwrap_or_default();
    let put = Transaction::new().put(export_key(record.volume, &record.address)?, value);
    store.transaction(put).await.map(drop)
}

/// Forgets an export.
pub async fn forget_export(
    store: &dyn MetaStore,
    volume: Uuid,
    address: &str,
) -> Result<(), StoreError> {
    let delete = Transaction::new().delete(export_key(volume, address)?);
    store.transaction(delete).await.map(drop)
}

/// The disks of the host's pool that are remembered.
pub async fn load_spares(store: &dyn MetaStore) -> Result<Vec<SpareRecord>, DaemonError> {
    load(store, SPARES).await
}

/// Remembers a disk of the pool.
pub async fn save_spare(store: &dyn MetaStore, record: &SpareRecord) -> Result<(), StoreError> {
    let value = serde_json::to_vec(record).unwrap_or_default();
    let put = Transaction::new().put(spare_key(record.uuid)?, value);
    store.transaction(put).await.map(drop)
}

/// Forgets a disk that has left the pool.
pub async fn forget_spare(store: &dyn MetaStore, uuid: Uuid) -> Result<(), StoreError> {
    let delete = Transaction::new().delete(spare_key(uuid)?);
    store.transaction(delete).await.map(drop)
}

#[cfg(test)]
mod tests {
    use cairn_replication::LocalStore;

    use super::*;
    use crate::health::tests::array;
    use crate::testing::TempDir;

    #[test]
    fn the_last_known_path_of_a_missing_disk_stays_as_a_hint() {
        let mut shown = array("pool");
        let mut record = ArrayRecord::of(Uuid::nil(), &shown, 0);
        shown.members[1].state = MemberState::Missing;
        shown.members[1].path = String::new();
        shown.members[2].path = "/elsewhere".into();
        record.refresh(&shown);
        let paths: Vec<_> = record.disks.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["/d0", "/d1", "/elsewhere", "/d3"]);
        let live: Vec<_> = record.disks.iter().map(|d| d.live).collect();
        assert_eq!(live, [true, false, true, true]);
    }

    #[test]
    fn a_missing_disk_is_shown_where_it_was_unless_another_is_there_now() {
        let mut shown = array("pool");
        let record = ArrayRecord::of(Uuid::nil(), &shown, 0);
        shown.members[1].path = String::new();
        shown.members[2].path = String::new();
        shown.members[3].path = "/d2".into();
        record.fill_paths(&mut shown);
        let paths: Vec<_> = shown.members.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["/d0", "/d1", "", "/d2"]);
    }

    #[test]
    fn a_disk_that_is_known_by_its_label_alone_is_named_by_where_it_was() {
        let mut shown = array("pool");
        for (member, uuid) in shown.members.iter_mut().zip(["aa-1", "bb-2", "", "dd-4"]) {
            member.uuid = uuid.into();
        }
        let record = ArrayRecord::of(Uuid::nil(), &shown, 0);
        assert_eq!(
            record.name_disks("2 are needed; missing: bb-2, dd-4, ee-5"),
            "2 are needed; missing: bb-2 (slot 1, last seen at /d1), dd-4 (slot 3, last seen at /d3), ee-5"
        );
    }

    #[test]
    fn an_export_of_an_earlier_release_is_no_block_device() {
        let old = format!(
            r#"{{"array":"{0}","volume":"{0}","name":"pg","address":"tcp:127.0.0.1:1","read_only":true}}"#,
            Uuid::nil()
        );
        let record: ExportRecord = serde_json::from_str(&old).unwrap();
        assert_eq!((record.ublk, record.read_only), (None, true));
        assert_eq!(record.kernel_block, None);
    }

    #[tokio::test]
    async fn records_survive_until_they_are_forgotten() {
        let dir = TempDir::new();
        let store = LocalStore::open(&dir.path().join("meta.redb")).unwrap();
        let record = ArrayRecord::of(Uuid::from_u128(1), &array("pool"), 2);
        save_array(&store, &record).await.unwrap();
        let export = |volume, array| ExportRecord {
            array: Uuid::from_u128(array),
            volume: Uuid::from_u128(volume),
            name: "pg".into(),
            address: "unix:/run/pg.sock".into(),
            read_only: false,
            ublk: None,
            kernel_block: None,
        };
        for export in [export(7, 1), export(8, 2)] {
            save_export(&store, &export).await.unwrap();
        }
        assert_eq!(
            load_arrays(&store).await.unwrap(),
            std::slice::from_ref(&record)
        );
        let spare = SpareRecord {
            uuid: Uuid::from_u128(5),
            host: Uuid::from_u128(6),
            path: "/dev/sdx".into(),
            size_bytes: 1 << 40,
            since_unix_ms: 7,
            was_taking: true,
        };
        save_spare(&store, &spare).await.unwrap();
        assert_eq!(load_spares(&store).await.unwrap(), [spare]);
        forget_spare(&store, Uuid::from_u128(5)).await.unwrap();
        assert_eq!(load_spares(&store).await.unwrap(), []);
        forget_array(&store, record.uuid).await.unwrap();
        assert_eq!(load_arrays(&store).await.unwrap(), []);
        forget_export(&store, Uuid::from_u128(7), "unix:/run/pg.sock")
            .await
            .unwrap();
        assert_eq!(load_exports(&store).await.unwrap(), [export(8, 2)]);
    }
}

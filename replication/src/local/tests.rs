use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use redb::StorageBackend;

use super::*;
use crate::store::{Compare, Revision, read_all};

struct Unpark(Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

struct TempDir(PathBuf);
impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "cairn-store-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn file(&self) -> PathBuf {
        self.0.join("meta.redb")
    }
}
impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(store: &LocalStore, at: &str, value: &str) -> Outcome {
    block_on(store.transaction(Transaction::new().put(key(at), value))).unwrap()
}

#[test]
fn values_and_revisions_survive_closing_the_store() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    assert_eq!(put(&store, "a", "1"), Outcome::Committed(Revision(1)));
    assert_eq!(put(&store, "b", "2"), Outcome::Committed(Revision(2)));
    assert_eq!(put(&store, "a", "3"), Outcome::Committed(Revision(3)));
    drop(store);

    let store = LocalStore::open(&dir.file()).unwrap();
    let a = block_on(store.get(key("a"))).unwrap().unwrap();
    assert_eq!(a.value, b"3");
    assert_eq!(
        (a.create_revision, a.mod_revision),
        (Revision(1), Revision(3))
    );
    assert_eq!(put(&store, "c", "4"), Outcome::Committed(Revision(4)));
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    put(&store, "a", "1");
    let tries = [
        Compare::Absent(key("a")),
        Compare::ModRevision(key("a"), Revision(2)),
        Compare::CreateRevision(key("a"), Revision(2)),
        Compare::Value(key("a"), b"2".to_vec()),
    ];
    for compare in tries {
        let transaction = Transaction::new()
            .when(compare.clone())
            .put(key("a"), "x")
            .put(key("b"), "x");
        let outcome = block_on(store.transaction(transaction)).unwrap();
        assert_eq!(outcome, Outcome::Refused(Revision(1)), "{compare:?}");
    }
    let all = block_on(read_all(&store, KeyRange::all())).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].value, b"1");
}

#[test]
fn compare_and_swap_lets_one_of_two_writers_through() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    put(&store, "a", "1");
    let seen = block_on(store.get(key("a"))).unwrap().unwrap();
    let swap = |to: &str| {
        Transaction::new()
            .when(Compare::ModRevision(key("a"), seen.mod_revision))
            .put(key("a"), to)
    };
    assert!(
        block_on(store.transaction(swap("first")))
            .unwrap()
            .committed()
    );
    assert!(
        !block_on(store.transaction(swap("second")))
            .unwrap()
            .committed()
    );
    let now = block_on(store.get(key("a"))).unwrap().unwrap();
    assert_eq!(now.value, b"first");
}

#[test]
fn a_key_put_again_after_its_deletion_is_a_new_key() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    put(&store, "a", "1");
    block_on(store.transaction(Transaction::new().delete(key("a")))).unwrap();
    assert_eq!(block_on(store.get(key("a"))).unwrap(), None);
    put(&store, "a", "2");
    let again = block_on(store.get(key("a"))).unwrap().unwrap();
    assert_eq!(again.create_revision, Revision(3));
}

#[test]
fn a_range_comes_in_order_and_in_pages() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    for name in ["event/3", "event/1", "export/pg", "event/2", "even"] {
        put(&store, name, name);
    }
    let first = block_on(store.range(KeyRange::prefix("event/"), 2)).unwrap();
    let names: Vec<_> = first.items.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(names, ["event/1", "event/2"]);
    assert!(first.more);
    assert_eq!(first.revision, Revision(5));
    let rest = KeyRange::prefix_after("event/", &first.items[1].key);
    let second = block_on(store.range(rest, 2)).unwrap();
    assert_eq!(second.items.len(), 1);
    assert!(!second.more);
    let empty = KeyRange {
        start: "z".into(),
        end: Some("a".into()),
    };
    assert_eq!(block_on(store.range(empty, 9)).unwrap().items.len(), 0);
}

#[test]
fn a_watcher_hears_of_its_range_only() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    let mut exports = store.watch(KeyRange::prefix("export/"));
    let mut settings = store.watch(KeyRange::prefix("setting/"));
    put(&store, "export/pg", "unix:/run/pg.sock");
    put(&store, "export/pg", "unix:/run/pg2.sock");
    assert_eq!(block_on(exports.changed()), Some(Revision(2)));
    drop(store);
    assert_eq!(block_on(settings.changed()), None, "closed, never changed");
}

#[test]
fn a_second_opener_is_refused() {
    let dir = TempDir::new();
    let _store = LocalStore::open(&dir.file()).unwrap();
    let error = LocalStore::open(&dir.file()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_store_is_named_damaged() {
    let dir = TempDir::new();
    std::fs::write(dir.file(), vec![0x5a; 20_000]).unwrap();
    let error = LocalStore::open(&dir.file()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("meta.redb"));
}

#[test]
fn a_store_cut_short_or_overwritten_anywhere_never_panics() {
    let dir = TempDir::new();
    let store = LocalStore::open(&dir.file()).unwrap();
    for i in 0..40 {
        put(&store, &format!("k{i}"), &"v".repeat(300));
    }
    drop(store);
    let whole = std::fs::read(dir.file()).unwrap();
    let step = whole.len() / 23;
    for at in (0..whole.len()).step_by(step) {
        let mut torn = whole.clone();
        torn.truncate(at);
        let mut flipped = whole.clone();
        for byte in flipped.iter_mut().skip(at).take(64) {
            *byte ^= 0xff;
        }
        for image in [torn, flipped] {
            std::fs::write(dir.file(), image).unwrap();
            // Damage in free pages is no damage; all other must be told as such.
            let told = LocalStore::open(&dir.file())
                .and_then(|store| block_on(read_all(&store, KeyRange::all())).map(|_| ()));
            if let Err(error) = told {
                assert!(
                    matches!(
                        error,
                        StoreError::Corrupt { .. } | StoreError::Closed { .. }
                    ),
                    "{error:?}"
                );
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = TempDir::new();
    drop(LocalStore::open(&dir.file()).unwrap());
    let redb = redb::Database::open(dir.file()).unwrap();
    let write = redb.begin_write().unwrap();
    write
        .open_table(database::META)
        .unwrap()
        .insert(database::META_FORMAT, database::FORMAT + 1)
        .unwrap();
    write.commit().unwrap();
    drop(redb);
    for _ in 0..2 {
        let error = LocalStore::open(&dir.file()).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::TooNew {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

/// Memory that refuses to sync once told so, and works again when told so: the disk that "recovers".
#[derive(Debug)]
struct Flaky {
    memory: redb::backends::InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for Flaky {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.memory.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.memory.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.memory.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.memory.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.memory.write(offset, data)
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_even_if_the_disk_recovers() {
    let broken = Arc::new(AtomicBool::new(false));
    let store = LocalStore::with_backend(
        std::path::Path::new("flaky.redb"),
        Flaky {
            memory: redb::backends::InMemoryBackend::new(),
            broken: Arc::clone(&broken),
        },
    )
    .unwrap();
    put(&store, "a", "1");
    broken.store(true, Ordering::SeqCst);
    let write = || block_on(store.transaction(Transaction::new().put(key("a"), "2")));
    assert!(matches!(write(), Err(StoreError::Io { .. })));
    broken.store(false, Ordering::SeqCst);
    let error = write().unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{error:?}");
}

#[test]
fn the_trait_is_object_safe_and_its_futures_cross_threads() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let dir = TempDir::new();
    let store: Arc<dyn MetaStore> = Arc::new(LocalStore::open(&dir.file()).unwrap());
    let moved = Arc::clone(&store);
    std::thread::spawn(move || {
        block_on(send(
            moved.transaction(Transaction::new().put(key("a"), "1")),
        ))
        .unwrap();
    })
    .join()
    .unwrap();
    assert!(block_on(store.get(key("a"))).unwrap().is_some());
}

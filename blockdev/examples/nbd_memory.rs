//! Serves a device in memory over NBD on a unix socket: to try clients against the server, and to
//! measure the protocol alone.
//!
//! ```text
//! cargo run --release -p cairn-blockdev --example nbd_memory -- /tmp/memory.sock 1073741824
//! nbdinfo --map 'nbd+unix:///memory?socket=/tmp/memory.sock'
//! ```

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cairn_blockdev::export::nbd::{
    Connections, Export, Exports, Limits, Listed, Tls, limits, serve,
};
use cairn_blockdev::units::SECTOR;
use cairn_blockdev::{BlockDevice, BufPool, Clock, Entropy, Env, LocalFuture, Spawn, Ticks};
use tokio::net::UnixListener;
use tokio::task::LocalSet;

#[path = "../tests/nbd_serve/memory.rs"]
mod memory;

const NAME: &str = "memory";
const DESCRIPTION: &str = "a device in memory";
const POOL_KEEP_BYTES: usize = 64 << 20;

/// Tokio's clock and tasks, and the hash maps' seeds for randomness.
struct TokioEnv {
    start: Instant,
}

impl Clock for TokioEnv {
    fn now(&self) -> Ticks {
        Ticks(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unix_ms(&self) -> u64 {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

impl Spawn for TokioEnv {
    fn spawn(&self, task: LocalFuture<()>) {
        tokio::task::spawn_local(task);
    }
}

impl Entropy for TokioEnv {
    fn bits(&self) -> u128 {
        let word = || u128::from(RandomState::new().hash_one(0));
        word() << 64 | word()
    }
}

/// The one export, which is the default too.
struct Memory {
    device: Rc<dyn BlockDevice>,
    connections: Connections,
}

impl Exports for Memory {
    fn list(&self) -> Vec<Listed> {
        vec![Listed {
            name: NAME.to_owned(),
            description: DESCRIPTION.to_owned(),
        }]
    }

    fn open(&self, name: &str) -> Option<Export> {
        matches!(name, "" | NAME).then(|| Export {
            name: NAME.to_owned(),
            description: DESCRIPTION.to_owned(),
            device: Rc::clone(&self.device),
            read_only: false,
            connections: self.connections.clone(),
        })
    }
}

async fn run(socket: PathBuf, size: u64) -> std::io::Result<()> {
    let environment = Rc::new(TokioEnv {
        start: Instant::now(),
    });
    let env = Env {
        clock: Rc::<TokioEnv>::clone(&environment),
        spawn: Rc::<TokioEnv>::clone(&environment),
        entropy: environment,
    };
    let exports: Rc<dyn Exports> = Rc::new(Memory {
        device: Rc::new(memory::MemDevice::new(NAME, size)),
        connections: Connections::new(),
    });
    let pool = BufPool::new(POOL_KEEP_BYTES);
    let limits = Limits::new(pool, limits::BUDGET_BYTES_DEFAULT);
    let all = Connections::new();
    let listener = UnixListener::bind(&socket)?;
    println!("nbd+unix:///{NAME}?socket={}", socket.display());
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = serve(
            stream,
            Rc::clone(&exports),
            limits.clone(),
            env.clone(),
            all.clone(),
            Tls::Unavailable,
        );
        tokio::task::spawn_local(async {
            if let Err(error) = connection.await {
                eprintln!("{error}");
            }
        });
    }
}

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: nbd_memory SOCKET SIZE_BYTES";
    let (Some(socket), Some(size), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(usage.to_owned());
    };
    let size: u64 = size
        .parse()
        .map_err(|error| format!("{size}: {error}; {usage}"))?;
    if !size.is_multiple_of(SECTOR) {
        return Err(format!("{size} bytes are no multiple of {SECTOR}; {usage}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime
        .block_on(LocalSet::new().run_until(run(PathBuf::from(&socket), size)))
        .map_err(|error| format!("{socket}: {error}"))
}

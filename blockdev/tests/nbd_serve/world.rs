//! A server with one or two exports in a simulated world.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::export::nbd::{
    Connections, Export, Exports, Limits, Listed, NbdError, Tls, serve,
};
use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::{BlockDevice, BufPool, Env};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::client::Client;
use crate::memory::MemDevice;

/// Size of every export.
pub(crate) const SIZE: u64 = 64 << 20;
/// Bytes that a stream holds in each direction, as a socket's buffer would.
const STREAM_BYTES: usize = 64 << 10;
/// Budget of a world that doesn't care.
const BUDGET_BYTES: usize = 256 << 20;

struct Served {
    device: Rc<dyn BlockDevice>,
    connections: Connections,
}

impl Exports for Served {
    fn list(&self) -> Vec<Listed> {
        ["pg", "ro"]
            .map(|name| Listed {
                name: name.to_owned(),
                description: "a test".to_owned(),
            })
            .to_vec()
    }

    fn open(&self, name: &str) -> Option<Export> {
        matches!(name, "" | "pg" | "ro").then(|| Export {
            name: if name == "ro" { "ro" } else { "pg" }.to_owned(),
            description: "a test".to_owned(),
            device: Rc::clone(&self.device),
            read_only: name == "ro",
            connections: self.connections.clone(),
        })
    }
}

/// A server and its surroundings.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) env: Env,
    pub(crate) listener: Connections,
    pub(crate) export: Connections,
    pub(crate) tls: Tls,
    limits: Limits,
    exports: Rc<dyn Exports>,
    ends: Rc<RefCell<Vec<Result<(), NbdError>>>>,
}

impl World {
    /// A server over memory.
    pub(crate) fn new(seed: u64) -> Self {
        let device = MemDevice::new("memory", SIZE);
        Self::over(Sim::new(seed), Rc::new(device), BUDGET_BYTES)
    }

    /// A server over sparse memory of this size.
    pub(crate) fn sized(seed: u64, size: u64) -> Self {
        let device = MemDevice::new("memory", size);
        Self::over(Sim::new(seed), Rc::new(device), BUDGET_BYTES)
    }

    /// A server over a disk with random latencies, and the disk.
    pub(crate) fn with_disk(seed: u64, budget_bytes: usize) -> (Self, SimDisk) {
        let sim = Sim::new(seed);
        let config = SimDiskConfig {
            size: SIZE,
            logical_block: 512,
            latency_us_max: 1000,
        };
        let disk = SimDisk::new("disk", config, &sim.env(), seed);
        (Self::over(sim, Rc::new(disk.clone()), budget_bytes), disk)
    }

    fn over(sim: Sim, device: Rc<dyn BlockDevice>, budget_bytes: usize) -> Self {
        let export = Connections::new();
        let exports = Rc::new(Served {
            device,
            connections: export.clone(),
        });
        Self {
            env: sim.env(),
            sim,
            listener: Connections::new(),
            export,
            tls: Tls::Unavailable,
            limits: Limits::new(BufPool::new(1 << 20), budget_bytes),
            exports,
            ends: Rc::default(),
        }
    }

    /// A new connection's other end.
    pub(crate) fn stream(&self) -> DuplexStream {
        self.stream_by(|server| server)
    }

    /// The same, where the server has its end only through `wrap`.
    pub(crate) fn stream_by<S>(&self, wrap: impl FnOnce(DuplexStream) -> S) -> DuplexStream
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (client, server) = tokio::io::duplex(STREAM_BYTES);
        let connection = serve(
            wrap(server),
            Rc::clone(&self.exports),
            self.limits.clone(),
            self.env.clone(),
            self.listener.clone(),
            self.tls.clone(),
        );
        let ends = Rc::clone(&self.ends);
        self.env.spawn.spawn(Box::pin(async move {
            let end = connection.await;
            ends.borrow_mut().push(end);
        }));
        client
    }

    /// A connection with its greeting done.
    pub(crate) async fn client(&self) -> Client {
        Client::greeted(self.stream()).await
    }

    /// A connection in transmission on `pg`, with everything agreed on.
    pub(crate) async fn transmitting(&self) -> Client {
        let mut client = self.client().await;
        client.agree_on_everything("pg").await;
        client.go("pg").await;
        client
    }

    /// Waits for the end of the only connection that ended, and gives it.
    pub(crate) async fn end(&self) -> Result<(), NbdError> {
        while self.ends.borrow().is_empty() {
            self.env
                .clock
                .sleep(std::time::Duration::from_millis(1))
                .await;
        }
        self.ends.borrow_mut().remove(0)
    }
}

//! One export: a listener on the engine thread of the volume's array, and its connections.
//!
//! Invariants
//! - Connections are accepted on the thread that serves them: nothing is handed off.
//! - TCP other than loopback is served with TLS only.
//! - After [`Serving::stop`] no request of the export touches the volume any more, unless a request
//!   hung for longer than [`DRAIN_TIMEOUT`].

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use cairn_api::NbdAddress;
use cairn_blockdev::export::nbd::{self, Connections, Exports, Listed, Stop};
use cairn_blockdev::{BlockDevice, Env};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::engine::Engine;
use crate::inherited::Inherited;
use crate::kernel_nbd::{self, Attached, Server};
use crate::socket::{SocketFile, listen};
use crate::tls::TlsShelf;

/// Longest wait for requests in flight when an export ends: beyond a disk's own deadline.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(40);
/// Pause after a failed accept, so that a full descriptor table doesn't spin the thread.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served.
pub struct Served {
    /// Name of the volume and of the NBD export.
    pub name: String,
    /// The volume.
    pub device: Rc<dyn BlockDevice>,
    /// Refuse writes.
    pub read_only: bool,
    /// Connections at once; further ones are closed.
    pub connections_max: usize,
    /// TLS, as it is when a client comes.
    pub tls: TlsShelf,
    /// Sockets that the service manager listens on for us.
    pub inherited: Inherited,
}

/// A running export.
pub struct Serving {
    connections: Connections,
    accepting: AbortHandle,
    /// The kernel's device, if that is what it is.
    device: Option<KernelDevice>,
    _file: Option<SocketFile>,
}

/// A device of the kernel's own client.
struct KernelDevice {
    volume: Uuid,
    /// Bytes of its logical block.
    block: u32,
    /// See [`Attached::ending`].
    ending: Rc<Cell<bool>>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Serving {
    /// Listens at `address` and serves whoever comes. The error is a sentence that names it.
    pub fn start(engine: &Engine, address: &NbdAddress, served: Served) -> Result<Self, String> {
        let (listener, file) = bind(address, &served)?;
        let connections = Connections::new();
        let one = Rc::new(One {
            served,
            address: address.clone(),
            connections: connections.clone(),
        });
        let (env, limits) = (engine.env.clone(), engine.nbd_limits.clone());
        let accepting = tokio::task::spawn_local(accept(listener, one, limits, env));
        Ok(Self {
            connections,
            accepting: accepting.abort_handle(),
            device: None,
            _file: file,
        })
    }

    /// Serves the kernel's own client, as a device of this host with this logical block in bytes; one that an
    /// earlier daemon left keeps its own. The error is a sentence.
    pub async fn attach(
        engine: &Engine,
        volume: Uuid,
        block: u32,
        served: Served,
    ) -> Result<Self, String> {
        let connections = Connections::new();
        let one = One {
            served,
            address: NbdAddress::Kernel,
            connections: connections.clone(),
        };
        let server = Server {
            export: one.export(),
            // Not those of clients elsewhere: the host must not wait for them.
            limits: engine.block_memory.limits(),
            block,
            env: engine.env.clone(),
        };
        let attached = Attached::new(volume, server).await?;
        let device = KernelDevice {
            volume,
            block: attached.block(),
            ending: attached.ending(),
        };
        let keeping = tokio::task::spawn_local(attached.keep());
        Ok(Self {
            connections,
            accepting: keeping.abort_handle(),
            device: Some(device),
            _file: None,
        })
    }

    /// Clients connected now.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Bytes of the logical block of the kernel's device, if that is what it is.
    pub fn block(&self) -> Option<u32> {
        self.device.as_ref().map(|device| device.block)
    }

    /// Whether it was the kernel's device, and somebody else has ended that.
    pub fn is_taken(&self) -> bool {
        self.device.is_some() && self.accepting.is_finished()
    }

    /// Ends the kernel's device, if that is what it is; while its requests are still answered, as the kernel
    /// waits for them. On failure it is served on.
    pub async fn detach(&self) -> Result<(), String> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        device.ending.set(true);
        let ended = kernel_nbd::detach(device.volume).await;
        if ended.is_err() {
            device.ending.set(false);
        }
        ended
    }

    /// Accepts nobody any more, and waits until what was admitted is answered. False if that took
    /// too long.
    pub async fn stop(&self, how: Stop) -> bool {
        self.accepting.abort();
        self.connections.stop(how);
        tokio::time::timeout(DRAIN_TIMEOUT, self.connections.drained())
            .await
            .is_ok()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.stop(Stop::Restart);
    }
}

/// Whether the daemon may listen there; the error says why not.
pub fn check_address(
    address: &NbdAddress,
    tls: &TlsShelf,
    inherited: &Inherited,
) -> Result<(), String> {
    tls.at(address)?;
    match address {
        NbdAddress::Kernel => kernel_nbd::available(),
        // Somebody listens there: for us.
        _ if inherited.at(address).is_some() => Ok(()),
        NbdAddress::Unix(path) => match crate::socket::obstacle(path.as_ref()) {
            crate::socket::Obstacle::None => Ok(()),
            crate::socket::Obstacle::Taken(why) => Err(why),
        },
        NbdAddress::Tcp(_) => Ok(()),
    }
}

fn bind(address: &NbdAddress, served: &Served) -> Result<(Listener, Option<SocketFile>), String> {
    check_address(address, &served.tls, &served.inherited)?;
    if let Some(listener) = served.inherited.at(address) {
        return listener
            .and_then(|fd| adopt(address, fd))
            .map(|listener| (listener, None))
            .map_err(|error| format!("{address}, from the service manager: {error}"));
    }
    match address {
        NbdAddress::Kernel => Err("the kernel's device is no address to listen at".to_owned()),
        NbdAddress::Unix(path) => {
            let (listener, file) = listen(path.as_ref())?;
            let listener = UnixListener::from_std(listener)
                .map_err(|error| format!("{path}: can't be watched: {error}"))?;
            Ok((Listener::Unix(listener), Some(file)))
        }
        NbdAddress::Tcp(address) => {
            let failed = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("{address} is in use: choose another port")
                }
                _ => format!("can't listen at {address}: {error}"),
            };
            // std sets SO_REUSEADDR: a restart doesn't wait for old connections' TIME_WAIT.
            let listener = std::net::TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            Ok((Listener::Tcp(listener), None))
        }
    }
}

/// A listening socket as one of ours.
fn adopt(address: &NbdAddress, fd: OwnedFd) -> std::io::Result<Listener> {
    if matches!(address, NbdAddress::Tcp(_)) {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Listener::Tcp)
    } else {
        let listener = std::os::unix::net::UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Listener::Unix)
    }
}

async fn accept(listener: Listener, one: Rc<One>, limits: nbd::Limits, env: Env) {
    loop {
        let error = match &listener {
            Listener::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    one.clone().admit(stream, &limits, &env);
                    continue;
                }
                Err(error) => error,
            },
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    // Replies are whole messages: waiting to fill a segment only costs.
                    drop(stream.set_nodelay(true));
                    one.clone().admit(stream, &limits, &env);
                    continue;
                }
                Err(error) => error,
            },
        };
        tracing::warn!(volume = one.served.name, %error, "a connection can't be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// The one export of a listener, under its name and as the default.
struct One {
    served: Served,
    address: NbdAddress,
    connections: Connections,
}

impl One {
    fn export(&self) -> nbd::Export {
        nbd::Export {
            name: self.served.name.clone(),
            description: String::new(),
            device: Rc::clone(&self.served.device),
            read_only: self.served.read_only,
            connections: self.connections.clone(),
        }
    }

    fn admit<S>(self: Rc<Self>, stream: S, limits: &nbd::Limits, env: &Env)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        if self.connections.count() >= self.served.connections_max {
            tracing::warn!(
                volume = self.served.name,
                "a connection is closed: {} are open, as many as nbd.connections_max allows",
                self.served.connections_max
            );
            return;
        }
        // Now, not at the export: certificates are replaced while it runs.
        let tls = match self.served.tls.at(&self.address) {
            Ok(tls) => tls,
            Err(why) => {
                tracing::warn!(volume = self.served.name, "a connection is closed: {why}");
                return;
            }
        };
        let (limits, env) = (limits.clone(), env.clone());
        tokio::task::spawn_local(async move {
            let listener = self.connections.clone();
            let exports: Rc<dyn Exports> = Rc::<Self>::clone(&self);
            if let Err(error) = nbd::serve(stream, exports, limits, env, listener, tls).await {
                tracing::info!(volume = self.served.name, %error, "NBD connection ended");
            }
        });
    }
}

impl Exports for One {
    fn list(&self) -> Vec<Listed> {
        vec![Listed {
            name: self.served.name.clone(),
            description: String::new(),
        }]
    }

    fn open(&self, name: &str) -> Option<nbd::Export> {
        (name.is_empty() || name == self.served.name).then(|| self.export())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_unix_address_wants_its_directory() {
        let dir = TempDir::new();
        let address = format!("unix:{}/no/pg.sock", dir.path().display());
        let error = check_address(
            &address.parse().unwrap(),
            &TlsShelf::default(),
            &Inherited::default(),
        )
        .unwrap_err();
        assert!(error.contains("create it first"), "{error}");
    }
}

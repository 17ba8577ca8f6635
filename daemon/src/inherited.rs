//! Listening sockets that the service manager has made before the daemon started (systemd's socket
//! activation: LISTEN_FDS, LISTEN_FDNAMES).
//!
//! One serves the export whose address is its own. Clients that come while the daemon restarts wait
//! in its queue instead of being refused.
//!
//! Invariants
//! - A socket stays open for the life of the daemon, and its file is never removed: both are the
//!   service manager's.
//! - Anything that isn't a listening stream socket keeps the daemon from starting: it would be a
//!   socket unit that nobody serves.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use cairn_api::NbdAddress;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

/// The sockets by their addresses; clones are the same.
#[derive(Clone, Default)]
pub struct Inherited(Arc<BTreeMap<String, OwnedFd>>);

impl Inherited {
    /// Takes what the environment says was handed over. To be called once, first of all. The error
    /// is a sentence that names the descriptor.
    pub fn take() -> Result<Self, String> {
        let descriptors = crate::sys::inherited()
            .map_err(|error| format!("the service manager's sockets (LISTEN_FDS): {error}"))?;
        let mut sockets = BTreeMap::new();
        for (fd, name) in descriptors {
            let number = fd.as_raw_fd();
            let address = address(&fd).map_err(|why| {
                format!("descriptor {number} ({name}) from the service manager {why}")
            })?;
            tracing::info!("the service manager listens at {address} ({name})");
            if sockets.insert(address.to_string(), fd).is_some() {
                return Err(format!(
                    "descriptor {number} ({name}) from the service manager is the second that \
                     listens at {address}"
                ));
            }
        }
        Ok(Self(Arc::new(sockets)))
    }

    /// The socket that listens at this address, for one more use.
    pub fn at(&self, address: &NbdAddress) -> Option<std::io::Result<OwnedFd>> {
        self.0.get(&address.to_string()).map(OwnedFd::try_clone)
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where a socket listens; the error goes on a sentence that has named it.
fn address(fd: &OwnedFd) -> Result<NbdAddress, String> {
    let failed = |errno: nix::errno::Errno| format!("isn't a socket that can be used: {errno}");
    if getsockopt(fd, sockopt::SockType).map_err(failed)? != SockType::Stream
        || !getsockopt(fd, sockopt::AcceptConn).map_err(failed)?
    {
        return Err("is no listening stream socket".to_owned());
    }
    let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(failed)?;
    let unix = name.as_unix_addr().and_then(|address| address.path());
    let path = unix.and_then(|path| path.to_str());
    let tcp = fd.try_clone().map(std::net::TcpListener::from);
    match (name.family(), path, tcp.and_then(|tcp| tcp.local_addr())) {
        (Some(AddressFamily::Unix), Some(path), _) => Ok(NbdAddress::Unix(path.to_owned())),
        (_, _, Ok(address)) => Ok(NbdAddress::Tcp(address)),
        _ => Err("has an address that no export can have".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_socket_is_known_by_where_it_listens() {
        let dir = TempDir::new();
        let path = dir.path().join("s");
        let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let expected = format!("unix:{}", path.display());
        assert_eq!(address(&unix.into()).unwrap().to_string(), expected);
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let tcp = std::net::TcpListener::bind(bind).unwrap();
            let expected = format!("tcp:{}", tcp.local_addr().unwrap());
            assert_eq!(address(&tcp.into()).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(address(&one.into()).unwrap_err().contains("no listening"));
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(address(&datagrams.into()).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(address(&file.into()).is_err());
    }
}

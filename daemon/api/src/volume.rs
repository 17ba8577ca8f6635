//! Volumes and their exports.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SOCKET_PATH_BYTES_MAX;

/// One volume: a thin block device in an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique on this host.
    pub name: String,
    /// Its identity.
    pub uuid: String,
    /// Name of its array.
    pub array: String,
    /// Bytes that clients see.
    pub size_bytes: u64,
    /// Bytes in extents that it holds.
    pub allocated_bytes: u64,
    /// Where it can be reached.
    #[serde(default)]
    pub exports: Vec<Export>,
}

/// Whether an export can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportState {
    /// Accepts clients.
    Listening,
    /// Waits for its array.
    Waiting,
    /// Couldn't be opened; see `error`.
    Failed,
}

crate::wire::wire_names!(ExportState {
    Listening => "listening",
    Waiting => "waiting",
    Failed => "failed",
});

/// One address under which a volume is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Name of the volume, and of the NBD export.
    pub volume: String,
    /// As it was asked for: `unix:/run/cairn/pg.sock`, `tcp:127.0.0.1:10809` or [`UBLK`].
    pub nbd: String,
    /// For clients that take a URI: `nbd+unix:///pg?socket=/run/cairn/pg.sock`; of a block device its
    /// path, `/dev/ublkb0`.
    pub uri: String,
    /// Whether it refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it can be reached.
    pub state: ExportState,
    /// Clients connected now.
    #[serde(default)]
    pub connections: u32,
    /// Why it failed or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Export {
    /// What `cairn volume export` is told to make it again, as it was.
    pub fn option(&self) -> String {
        let option = match self.nbd.as_str() {
            // Of the block that it had.
            UBLK => "--block auto".to_owned(),
            KERNEL => "--kernel-nbd".to_owned(),
            address => format!("--nbd {address}"),
        };
        if self.read_only {
            format!("{option} --read-only")
        } else {
            option
        }
    }
}

/// All volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeList {
    /// In the order of their names.
    pub volumes: Vec<Volume>,
}

/// Makes a volume. It takes space as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Name for it.
    pub name: String,
    /// Name of the array that holds it.
    pub array: String,
    /// Bytes that clients see.
    pub size_bytes: u64,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Changes the size of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// New size in bytes.
    pub size_bytes: u64,
    /// Consent. Nothing needs it yet: growing loses nothing, and shrinking is refused.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Deletes a volume and its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteVolume {
    /// Without it the daemon refuses.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Serves a volume under an address; it stays so over restarts until unexported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportVolume {
    /// An [`NbdAddress`] as text; empty if `ublk` or `block` is given.
    #[serde(default)]
    pub nbd: String,
    /// As a block device of this host, by ublk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ublk: bool,
    /// As a block device of this host, whose kind the daemon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockChoice>,
    /// Logical block of a block device in bytes, 512 or 4096. Unless it says: that of the device that is there,
    /// else 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_block: Option<u32>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// How the daemon chooses between the kernel's kinds of block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockChoice {
    /// The one that the volume is already; else ublk if it can be used here; else the kernel's NBD
    /// client.
    Auto,
}

/// What stands for an address where a volume is exported as a ublk device: it has one at most.
pub const UBLK: &str = "ublk";

/// Ends the export of a volume under one address, or under all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnexportVolume {
    /// This address only; [`UBLK`] for the block device.
    #[serde(default)]
    pub nbd: Option<String>,
    /// Although its block device is mounted or open: what wasn't written yet is lost.
    #[serde(default)]
    pub force: bool,
    /// Although clients are connected.
    #[serde(default)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where an NBD server listens: `unix:/absolute/path` or `tcp:ADDRESS:PORT`; or `kernel`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NbdAddress {
    /// A unix socket at this absolute path of at most [`SOCKET_PATH_BYTES_MAX`] bytes.
    Unix(String),
    /// A TCP address. Other than loopback is the daemon's to refuse.
    Tcp(SocketAddr),
    /// No address at all: a device of the daemon's host, by the kernel's own NBD client.
    Kernel,
}

/// How [`NbdAddress::Kernel`] is written.
pub const KERNEL: &str = "kernel";

impl NbdAddress {
    /// The address as an NBD URI of the export `name`. The kernel's device has none: the daemon knows
    /// its path.
    pub fn uri(&self, name: &str) -> String {
        match self {
            Self::Unix(path) => format!("nbd+unix:///{name}?socket={}", percent_encode(path)),
            Self::Tcp(address) => format!("nbd://{address}/{name}"),
            Self::Kernel => String::new(),
        }
    }

    /// The same for an export that wants TLS.
    pub fn tls_uri(&self, name: &str) -> String {
        // `nbd+unix:` becomes `nbds+unix:`.
        self.uri(name).replacen("nbd", "nbds", 1)
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Kernel => f.write_str(KERNEL),
        }
    }
}

impl FromStr for NbdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == KERNEL {
            return Ok(Self::Kernel);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            if !Path::new(path).is_absolute() {
                return Err(format!("the socket path {path:?} isn't absolute"));
            }
            if path.len() > SOCKET_PATH_BYTES_MAX {
                return Err(format!(
                    "the socket path {path:?} has {} bytes, a unix socket takes at most \
                     {SOCKET_PATH_BYTES_MAX}; use a shorter directory",
                    path.len()
                ));
            }
            return Ok(Self::Unix(path.to_owned()));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let host_port = match address.strip_prefix("localhost:") {
                Some(port) => format!("127.0.0.1:{port}"),
                None => address.to_owned(),
            };
            return host_port.parse().map(Self::Tcp).map_err(|_| {
                format!("{address:?} isn't ADDRESS:PORT, for example tcp:127.0.0.1:10809")
            });
        }
        Err(format!(
            "{text:?} isn't an NBD address; use unix:/run/cairn/NAME.sock or tcp:127.0.0.1:10809"
        ))
    }
}

/// `text` with everything but unreserved characters and `/` as `%XX`: for paths in URIs.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.extend(char::from_digit(u32::from(digit), 16).map(|c| c.to_ascii_uppercase()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_text_and_back() {
        for text in [
            "unix:/run/cairn/pg.sock",
            "tcp:127.0.0.1:10809",
            "tcp:[::1]:10809",
            "kernel",
        ] {
            assert_eq!(text.parse::<NbdAddress>().unwrap().to_string(), text);
        }
        assert_eq!(
            "tcp:localhost:1".parse::<NbdAddress>().unwrap().to_string(),
            "tcp:127.0.0.1:1"
        );
    }

    #[test]
    fn a_bad_address_is_refused_with_its_text() {
        for text in [
            "unix:pg.sock",
            "tcp:host",
            "tcp:1.2.3.4",
            "/run/pg.sock",
            "udp:1.1.1.1:1",
        ] {
            assert!(text.parse::<NbdAddress>().is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        assert!(
            long.parse::<NbdAddress>()
                .unwrap_err()
                .contains("108 bytes")
        );
    }

    #[test]
    fn a_uri_quotes_what_would_end_it() {
        let address = NbdAddress::Unix("/run/a b?c&d/pg.sock".to_owned());
        assert_eq!(
            address.uri("pg"),
            "nbd+unix:///pg?socket=/run/a%20b%3Fc%26d/pg.sock"
        );
        let address: NbdAddress = "tcp:10.0.0.1:10809".parse().unwrap();
        assert_eq!(address.tls_uri("pg"), "nbds://10.0.0.1:10809/pg");
    }
}

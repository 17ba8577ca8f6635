//! Who this host is: a UUID made once and kept in the state directory, and the name of the system.
//!
//! Arrays bear the UUID as their home host; one of another host isn't started by itself. The file is
//! apart from the metadata store, so that a damaged store doesn't make the host's own arrays foreign.

use std::path::Path;

use cairn_api::HostInfo;
use sysinfo::{MemoryRefreshKind, System};
use uuid::Uuid;

use crate::error::DaemonError;
use crate::statedir::write_atomically;

const FILE: &str = "host-uuid";

/// This host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its identity in labels.
    pub uuid: Uuid,
    /// Its name, for people.
    pub name: String,
}

impl Host {
    /// The identity kept in `state_dir`, made if there is none.
    pub fn load(state_dir: &Path) -> Result<Self, DaemonError> {
        let path = state_dir.join(FILE);
        let failed = |message: String| DaemonError::StateDir {
            path: path.clone(),
            message,
        };
        let uuid = match std::fs::read_to_string(&path) {
            Ok(text) => Uuid::parse_str(text.trim()).map_err(|_| {
                failed(
                    "holds no UUID. Restore it from a backup, or remove it: the host gets a new \
                     identity then, and its arrays want `cairn array assemble NAME` once"
                        .into(),
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let uuid = Uuid::new_v4();
                write_atomically(state_dir, FILE, format!("{uuid}\n").as_bytes())
                    .map_err(|error| failed(format!("can't be written: {error}")))?;
                uuid
            }
            Err(error) => return Err(failed(format!("can't be read: {error}"))),
        };
        Ok(Self {
            uuid,
            name: System::host_name().unwrap_or_else(|_| "localhost".into()),
        })
    }

    /// What the kernel says of the host now. Reads files in /proc.
    pub fn facts(&self) -> HostInfo {
        let mut facts = self.unknown_facts();
        match System::new() {
            Ok(mut system) => {
                system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
                facts.memory_bytes = system.total_memory();
                facts.memory_available_bytes = system.available_memory();
            }
            Err(error) => tracing::debug!(%error, "the host's memory can't be read"),
        }
        facts.kernel = System::kernel_version().unwrap_or_default();
        facts.load_one = System::load_average().map_or(0.0, |load| load.one);
        facts.uptime_seconds = System::uptime().unwrap_or(0);
        facts.cpus = std::thread::available_parallelism()
            .map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        facts
    }

    /// Who the host is, without what the kernel would say.
    pub fn unknown_facts(&self) -> HostInfo {
        HostInfo {
            name: self.name.clone(),
            uuid: self.uuid.to_string(),
            kernel: String::new(),
            cpus: 0,
            memory_bytes: 0,
            memory_available_bytes: 0,
            load_one: 0.0,
            uptime_seconds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_identity_is_made_once_and_kept() {
        let dir = TempDir::new();
        let first = Host::load(dir.path()).unwrap();
        assert_eq!(Host::load(dir.path()).unwrap().uuid, first.uuid);
        assert!(!first.uuid.is_nil());
    }

    #[test]
    fn a_damaged_identity_is_never_replaced_silently() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join(FILE), "not a uuid").unwrap();
        let error = Host::load(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("host-uuid") && error.contains("Restore"),
            "{error}"
        );
    }
}

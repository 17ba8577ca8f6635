//! The settings of the host's memory for arrays.

use serde::Deserialize;
use toml::Spanned;

use super::{At, in_range};
use crate::error::DaemonError;

/// What all running arrays together may take for their caches; they share it evenly. Defaults are in
/// [`MemoryConfig::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Pages of checksums, in bytes.
    pub checksum_cache_bytes: u64,
    /// Rows that are being worked on, and what is logged and not in place yet, in bytes.
    pub row_cache_bytes: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            checksum_cache_bytes: 256 << 20,
            row_cache_bytes: 128 << 20,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMemory {
    checksum_cache_bytes: Option<Spanned<u64>>,
    row_cache_bytes: Option<Spanned<u64>>,
}

/// Takes the settings out of their table.
pub(super) fn memory(raw: RawMemory, at: At<'_>) -> Result<MemoryConfig, DaemonError> {
    let bytes = |value: Option<Spanned<u64>>, name: &str, default: u64, min: u64| {
        value.map_or(Ok(default), |value| {
            in_range(&value, min, 1 << 40)
                .map_err(|m| at(Some(value.span()), &format!("{name} {m}")))
        })
    };
    let defaults = MemoryConfig::default();
    Ok(MemoryConfig {
        checksum_cache_bytes: bytes(
            raw.checksum_cache_bytes,
            "memory.checksum_cache_bytes",
            defaults.checksum_cache_bytes,
            8 << 20,
        )?,
        row_cache_bytes: bytes(
            raw.row_cache_bytes,
            "memory.row_cache_bytes",
            defaults.row_cache_bytes,
            16 << 20,
        )?,
    })
}

//! The settings of how arrays keep their word where there is a choice.

use serde::Deserialize;
use toml::Spanned;

use super::At;
use crate::error::DaemonError;

/// What all arrays of this host keep to. Defaults are in [`ArraysConfig::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArraysConfig {
    /// Complete rows are overwritten in place, the journal having their sums alone.
    pub bypass: bool,
}

impl Default for ArraysConfig {
    fn default() -> Self {
        Self { bypass: true }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArrays {
    bypass: Option<Spanned<String>>,
}

/// Takes the settings out of their table.
pub(super) fn arrays(raw: RawArrays, at: At<'_>) -> Result<ArraysConfig, DaemonError> {
    let defaults = ArraysConfig::default();
    let bypass = raw.bypass.map_or(Ok(defaults.bypass), |bypass| {
        match bypass.get_ref().as_str() {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(at(
                Some(bypass.span()),
                &format!("arrays.bypass is {other:?}: it is \"on\" or \"off\""),
            )),
        }
    });
    Ok(ArraysConfig { bypass: bypass? })
}

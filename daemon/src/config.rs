//! The configuration file: TOML, every key known, every value in range, errors with line and column.
//!
//! Invariant: a configuration that has come out of [`Config::parse`] can be used as it is; nobody
//! checks again.
//!
//! Does not know: where the file lies or when it is read again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::error::DaemonError;

/// Where the package puts the file.
pub const DEFAULT_PATH: &str = "/etc/cairn/cairnd.toml";
/// Where arrays' hints, exports and events are kept if nothing else is said.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cairn";
/// Longest path of a unix socket: `sun_path` has 108 bytes, the last is the NUL.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// A file beyond this is no configuration of ours.
pub const FILE_MAX_BYTES: u64 = 1 << 20;
/// An operator who wants to wait longer wants `degraded_wait_seconds` and patience, not a typo.
const DEGRADED_WAIT_MAX_SECONDS: u64 = 3600;
/// More patterns than this would make every start slow for nothing.
const DEVICES_MAX: usize = 256;

/// What one NBD export may use. Defaults are in [`NbdConfig::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NbdConfig {
    /// Connections at once, per export.
    pub connections_max: u32,
    /// Bytes of requests in flight over all connections of an array's exports.
    pub in_flight_bytes_max: u64,
}

impl Default for NbdConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            in_flight_bytes_max: 256 << 20,
        }
    }
}

/// The daemon's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Holds the lock, the metadata store, the host's identity and the event witnesses.
    pub state_dir: PathBuf,
    /// The admin socket.
    pub socket: PathBuf,
    /// Patterns of paths that are looked at for members when the daemon starts.
    pub devices: Vec<String>,
    /// How long an array waits at start for members that are missing.
    pub degraded_wait: Duration,
    /// Limits of NBD exports.
    pub nbd: NbdConfig,
    /// Filter of the log, in `tracing-subscriber`'s syntax (`info`, `cairn_raid=debug`, …).
    pub log: String,
}

impl Config {
    /// All defaults, in `state_dir`.
    pub fn for_state_dir(state_dir: &Path) -> Result<Self, DaemonError> {
        Self::defaults(state_dir).check_socket()
    }

    /// As they are before anybody has looked whether the socket's path is short enough.
    fn defaults(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            socket: state_dir.join("cairnd.sock"),
            devices: Vec::new(),
            degraded_wait: Duration::from_secs(30),
            nbd: NbdConfig::default(),
            log: "info".into(),
        }
    }

    /// Reads `path`. A `state_dir` given here (the command line's) replaces the file's.
    pub fn load(path: &Path, state_dir: Option<&Path>) -> Result<Self, DaemonError> {
        let refuse = |message: String| DaemonError::Config {
            place: path.display().to_string(),
            message,
        };
        let size = std::fs::metadata(path)
            .map_err(|error| refuse(format!("can't be read: {error}")))?
            .len();
        if size > FILE_MAX_BYTES {
            return Err(refuse(format!(
                "has {size} bytes; a configuration has at most {FILE_MAX_BYTES}"
            )));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| refuse(format!("can't be read: {error}")))?;
        Self::parse(&path.display().to_string(), &text, state_dir)
    }

    /// Parses and checks `text`; `file` is for messages.
    pub fn parse(file: &str, text: &str, state_dir: Option<&Path>) -> Result<Self, DaemonError> {
        let at = |span: Option<std::ops::Range<usize>>, message: &str| {
            let place = match span {
                Some(span) => {
                    let (line, column) = line_and_column(text, span.start);
                    format!("{file}:{line}:{column}")
                }
                None => file.to_owned(),
            };
            DaemonError::Config {
                place,
                message: message.trim().to_owned(),
            }
        };
        let raw: Raw = toml::from_str(text).map_err(|error| at(error.span(), error.message()))?;
        let state_dir = match (state_dir, &raw.state_dir) {
            (Some(given), _) => given.to_owned(),
            (None, Some(set)) => absolute(set).map_err(|m| at(Some(set.span()), &m))?,
            (None, None) => PathBuf::from(DEFAULT_STATE_DIR),
        };
        let mut config = Self::defaults(&state_dir);
        if let Some(socket) = &raw.socket {
            config.socket = absolute(socket).map_err(|m| at(Some(socket.span()), &m))?;
        }
        if let Some(devices) = raw.devices {
            let many = || {
                at(
                    Some(devices.span()),
                    &format!("at most {DEVICES_MAX} patterns"),
                )
            };
            if devices.get_ref().len() > DEVICES_MAX {
                return Err(many());
            }
            for pattern in devices.get_ref() {
                check_pattern(pattern.get_ref()).map_err(|m| at(Some(pattern.span()), &m))?;
            }
            let patterns = devices.into_inner().into_iter();
            config.devices = patterns.map(Spanned::into_inner).collect();
        }
        if let Some(wait) = raw.degraded_wait_seconds {
            let seconds = in_range(&wait, 0, DEGRADED_WAIT_MAX_SECONDS)
                .map_err(|m| at(Some(wait.span()), &format!("degraded_wait_seconds {m}")))?;
            config.degraded_wait = Duration::from_secs(seconds);
        }
        if let Some(log) = raw.log {
            tracing_subscriber::EnvFilter::try_new(log.get_ref())
                .map_err(|error| at(Some(log.span()), &format!("log filter: {error}")))?;
            config.log = log.into_inner();
        }
        let nbd = raw.nbd.unwrap_or_default();
        let limit = |value: Option<Spanned<u64>>, name: &str, default: u64, min, max| {
            value.map_or(Ok(default), |value| {
                in_range(&value, min, max)
                    .map_err(|m| at(Some(value.span()), &format!("{name} {m}")))
            })
        };
        let defaults = NbdConfig::default();
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        config.nbd = NbdConfig {
            connections_max: small(limit(
                nbd.connections_max,
                "nbd.connections_max",
                defaults.connections_max.into(),
                1,
                65_536,
            )?),
            // One request may have 32 MiB: less than two of them would serialise every client.
            in_flight_bytes_max: limit(
                nbd.in_flight_bytes_max,
                "nbd.in_flight_bytes_max",
                defaults.in_flight_bytes_max,
                64 << 20,
                64 << 30,
            )?,
        };
        config.check_socket()
    }

    fn check_socket(self) -> Result<Self, DaemonError> {
        check_socket_path(&self.socket)?;
        Ok(self)
    }

    /// What of `new` can't be taken over by a running daemon.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.state_dir != new.state_dir {
            names.push("state_dir");
        }
        if self.socket != new.socket {
            names.push("socket");
        }
        names
    }
}

/// Refuses a unix socket's path that the kernel would.
pub fn check_socket_path(path: &Path) -> Result<(), DaemonError> {
    let len_bytes = path.as_os_str().len();
    if len_bytes > SOCKET_PATH_MAX_BYTES {
        return Err(DaemonError::SocketPathTooLong {
            path: path.to_owned(),
            len_bytes,
        });
    }
    Ok(())
}

fn absolute(path: &Spanned<PathBuf>) -> Result<PathBuf, String> {
    let path = path.get_ref();
    if !path.is_absolute() {
        return Err(format!(
            "`{}` is relative: the daemon has no fixed working directory, give the whole path",
            path.display()
        ));
    }
    Ok(path.clone())
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    if !pattern.starts_with('/') {
        return Err(format!("the pattern `{pattern}` must begin with `/`"));
    }
    glob::Pattern::new(pattern)
        .map(|_| ())
        .map_err(|error| format!("the pattern `{pattern}` is malformed: {error}"))
}

fn in_range(value: &Spanned<u64>, min: u64, max: u64) -> Result<u64, String> {
    let value = *value.get_ref();
    if !(min..=max).contains(&value) {
        return Err(format!("is {value}: it must lie between {min} and {max}"));
    }
    Ok(value)
}

/// Both from 1 on; the column counts characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state_dir: Option<Spanned<PathBuf>>,
    socket: Option<Spanned<PathBuf>>,
    devices: Option<Spanned<Vec<Spanned<String>>>>,
    degraded_wait_seconds: Option<Spanned<u64>>,
    log: Option<Spanned<String>>,
    nbd: Option<RawNbd>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNbd {
    connections_max: Option<Spanned<u64>>,
    in_flight_bytes_max: Option<Spanned<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse("cairnd.toml", text, None)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = Config::parse("cairnd.toml", "", None).unwrap();
        assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!(config.socket, Path::new("/var/lib/cairn/cairnd.sock"));
        assert_eq!(config.degraded_wait, Duration::from_secs(30));
        assert_eq!(config.nbd, NbdConfig::default());
    }

    #[test]
    fn the_command_lines_state_directory_wins_and_takes_the_socket_along() {
        let config = Config::parse("f", "state_dir = '/a'", Some(Path::new("/tmp/other"))).unwrap();
        assert_eq!(config.state_dir, Path::new("/tmp/other"));
        assert_eq!(config.socket, Path::new("/tmp/other/cairnd.sock"));
    }

    #[test]
    fn every_error_has_file_line_and_column() {
        let cases = [
            (
                "\nstate_dri = '/x'\n",
                "cairnd.toml:2:1: unknown field `state_dri`",
            ),
            ("log = 'info'\n  devices = 5\n", "cairnd.toml:2:13: "),
            ("state_dir = 'x'\n", "cairnd.toml:1:13: `x` is relative"),
            (
                "devices = ['/dev/sd*',\n  '/dev/[']\n",
                "cairnd.toml:2:3: the pattern",
            ),
            (
                "devices = ['sda']",
                "cairnd.toml:1:12: the pattern `sda` must begin with `/`",
            ),
            (
                "degraded_wait_seconds = 3601",
                "cairnd.toml:1:25: degraded_wait_seconds is 3601",
            ),
            ("degraded_wait_seconds = -1", "cairnd.toml:1:25: "),
            ("log = 'cairn=loud'", "cairnd.toml:1:7: log filter"),
            (
                "[nbd]\nconnections_max = 0",
                "cairnd.toml:2:19: nbd.connections_max is 0",
            ),
            (
                "[nbd]\nconnection = 1",
                "cairnd.toml:2:1: unknown field `connection`",
            ),
            ("log = 'ä", "cairnd.toml:1:"),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.contains(expected), "{text:?} gave {message:?}");
        }
    }

    #[test]
    fn a_socket_path_the_kernel_cannot_hold_is_refused_with_its_length() {
        let fits = format!("socket = '/{}'", "s".repeat(SOCKET_PATH_MAX_BYTES - 1));
        assert!(Config::parse("f", &fits, None).is_ok());
        let long = format!("socket = '/{}'", "s".repeat(SOCKET_PATH_MAX_BYTES));
        let message = refused(&long);
        assert!(message.contains("108 bytes"), "{message}");
        let state_dir = format!("/{}", "d".repeat(SOCKET_PATH_MAX_BYTES));
        assert!(Config::for_state_dir(Path::new(&state_dir)).is_err());
        // The way out that the message names.
        let elsewhere = format!("state_dir = '{state_dir}'\nsocket = '/run/cairn/s'");
        assert!(Config::parse("f", &elsewhere, None).is_ok());
    }

    #[test]
    fn what_a_running_daemon_cannot_change_is_named() {
        let old = Config::parse("f", "", None).unwrap();
        let new = Config::parse("f", "socket = '/run/x.sock'\nlog = 'debug'", None).unwrap();
        assert_eq!(old.needs_restart(&new), ["socket"]);
    }

    #[test]
    fn the_packaged_example_is_a_valid_configuration() {
        let text = include_str!("../packaging/cairnd.toml");
        Config::parse("cairnd.toml", text, None).unwrap();
        // With every commented setting taken in, it must still be one.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("#: ") {
                Some(setting) => format!("{setting}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse("cairnd.toml", &all, None).unwrap();
        assert_eq!(
            config.nbd,
            NbdConfig::default(),
            "the example shows the defaults"
        );
    }
}

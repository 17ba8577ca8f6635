//! The configuration file: TOML, every key known, every value in range, errors with line and column.
//!
//! Invariant: a configuration that has come out of [`Config::parse`] can be used as it is; nobody
//! checks again.
//!
//! Does not know: where the file lies or when it is read again.

mod arrays;
mod memory;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::error::DaemonError;
use crate::schedule::Window;

pub use arrays::ArraysConfig;
pub use memory::MemoryConfig;
pub use tls::TlsConfig;

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
/// A disk with more unreadable places than this in an hour has nothing that anybody would want to keep.
const MEDIUM_ERRORS_MAX: u64 = 10_000;
/// A week has fewer hours than anybody would want windows.
const WINDOWS_MAX: usize = 64;

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
            in_flight_bytes_max: 64 << 20,
        }
    }
}

/// How long disks are waited for, and what is forgiven them. Defaults are in [`DisksConfig::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisksConfig {
    /// Without an answer for this long, reads go around a disk.
    pub reconstruct_after: Duration,
    /// Without an answer for this long, a disk is thrown out of its array.
    pub eject_after: Duration,
    /// With more unreadable places within an hour, a disk is thrown out of its array.
    pub medium_errors_max: u32,
}

impl Default for DisksConfig {
    fn default() -> Self {
        Self {
            reconstruct_after: Duration::from_secs(2),
            eject_after: Duration::from_secs(30),
            medium_errors_max: 20,
        }
    }
}

/// When and how fast arrays are scrubbed. Defaults are in [`ScrubConfig::default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Hours of the week in which scrubs start and go on by themselves; none: they don't.
    pub windows: Vec<Window>,
    /// From one completion to the next start.
    pub interval: Duration,
    /// Without a completion for this long, the verdict says so.
    pub overdue_after: Duration,
    /// Bytes read from all members of one array together, per second; `None`: clients' latency alone
    /// bounds it.
    pub bytes_per_second_max: Option<u64>,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            windows: Vec::new(),
            interval: Duration::from_hours(30 * 24),
            overdue_after: Duration::from_hours(35 * 24),
            bytes_per_second_max: None,
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
    /// How long disks are waited for, and what is forgiven them.
    pub disks: DisksConfig,
    /// What arrays keep to.
    pub arrays: ArraysConfig,
    /// Scrubs.
    pub scrub: ScrubConfig,
    /// Memory of arrays.
    pub memory: MemoryConfig,
    /// Limits of NBD exports.
    pub nbd: NbdConfig,
    /// TLS of NBD exports, if there is any.
    pub nbd_tls: Option<TlsConfig>,
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
            disks: DisksConfig::default(),
            arrays: ArraysConfig::default(),
            scrub: ScrubConfig::default(),
            memory: MemoryConfig::default(),
            nbd: NbdConfig::default(),
            nbd_tls: None,
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
        config.disks = disks(raw.disks.unwrap_or_default(), &at)?;
        config.arrays = arrays::arrays(raw.arrays.unwrap_or_default(), &at)?;
        config.scrub = scrub(raw.scrub.unwrap_or_default(), &at)?;
        config.memory = memory::memory(raw.memory.unwrap_or_default(), &at)?;
        let nbd = raw.nbd.unwrap_or_default();
        config.nbd_tls = tls::tls(&nbd, &at)?;
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

/// Makes an error of a place in the file and a sentence.
type At<'a> = &'a dyn Fn(Option<std::ops::Range<usize>>, &str) -> DaemonError;

fn disks(raw: RawDisks, at: At<'_>) -> Result<DisksConfig, DaemonError> {
    let defaults = DisksConfig::default();
    let eject_span = raw.eject_after.as_ref().map(Spanned::span);
    let reconstruct_span = raw.reconstruct_after.as_ref().map(Spanned::span);
    let disks = DisksConfig {
        reconstruct_after: time(
            raw.reconstruct_after,
            "disks.reconstruct_after",
            (Duration::from_millis(100), Duration::from_mins(1)),
            defaults.reconstruct_after,
            at,
        )?,
        eject_after: time(
            raw.eject_after,
            "disks.eject_after",
            (Duration::from_secs(1), Duration::from_mins(10)),
            defaults.eject_after,
            at,
        )?,
        medium_errors_max: raw.medium_errors_max.map_or(
            Ok(defaults.medium_errors_max),
            |errors| {
                let errors_max = in_range(&errors, 1, MEDIUM_ERRORS_MAX)
                    .map_err(|m| at(Some(errors.span()), &format!("disks.medium_errors_max {m}")));
                errors_max.map(|value| u32::try_from(value).unwrap_or(u32::MAX))
            },
        )?,
    };
    if disks.eject_after <= disks.reconstruct_after {
        return Err(at(
            eject_span.or(reconstruct_span),
            "disks.eject_after must be longer than disks.reconstruct_after: a disk is slow before \
             it is thrown out",
        ));
    }
    Ok(disks)
}

fn scrub(raw: RawScrub, at: At<'_>) -> Result<ScrubConfig, DaemonError> {
    let defaults = ScrubConfig::default();
    let mut windows = Vec::new();
    if let Some(given) = raw.windows {
        if given.get_ref().len() > WINDOWS_MAX {
            let message = format!("at most {WINDOWS_MAX} windows");
            return Err(at(Some(given.span()), &message));
        }
        for window in given.into_inner() {
            let parsed = Window::parse(window.get_ref());
            windows.push(parsed.map_err(|m| at(Some(window.span()), &m))?);
        }
    }
    let bounds = (Duration::from_hours(1), Duration::from_hours(366 * 24));
    let limit = raw.bytes_per_second_max.map(|limit| {
        in_range(&limit, 1 << 20, 1 << 40).map_err(|m| {
            at(
                Some(limit.span()),
                &format!("scrub.bytes_per_second_max {m}"),
            )
        })
    });
    Ok(ScrubConfig {
        windows,
        interval: time(
            raw.interval,
            "scrub.interval",
            bounds,
            defaults.interval,
            at,
        )?,
        overdue_after: time(
            raw.overdue_after,
            "scrub.overdue_after",
            bounds,
            defaults.overdue_after,
            at,
        )?,
        bytes_per_second_max: limit.transpose()?,
    })
}

fn time(
    value: Option<Spanned<String>>,
    name: &str,
    (min, max): (Duration, Duration),
    default: Duration,
    at: At<'_>,
) -> Result<Duration, DaemonError> {
    let Some(value) = value else {
        return Ok(default);
    };
    let text = value.get_ref();
    let refuse = |why: &str| Err(at(Some(value.span()), &format!("{name} {text:?} {why}")));
    let Some(time) = parse_time(text) else {
        return refuse("is no time: write \"500ms\", \"2s\", \"10m\", \"12h\" or \"30d\"");
    };
    if !(min..=max).contains(&time) {
        let (min, max) = (show_time(min), show_time(max));
        return refuse(&format!("must lie between {min} and {max}"));
    }
    Ok(time)
}

/// `500ms`, `2s`, `10m`, `12h` or `30d`.
fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

fn show_time(time: Duration) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ];
    let ms = time.as_millis();
    let fits = |(unit_ms, _): &&(u128, &str)| ms >= *unit_ms && ms.is_multiple_of(*unit_ms);
    match units.iter().find(fits) {
        Some((unit_ms, unit)) => format!("{}{unit}", ms / unit_ms),
        None => format!("{ms}ms"),
    }
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
    disks: Option<RawDisks>,
    arrays: Option<arrays::RawArrays>,
    scrub: Option<RawScrub>,
    memory: Option<memory::RawMemory>,
    nbd: Option<RawNbd>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDisks {
    reconstruct_after: Option<Spanned<String>>,
    eject_after: Option<Spanned<String>>,
    medium_errors_max: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawScrub {
    windows: Option<Spanned<Vec<Spanned<String>>>>,
    interval: Option<Spanned<String>>,
    overdue_after: Option<Spanned<String>>,
    bytes_per_second_max: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNbd {
    connections_max: Option<Spanned<u64>>,
    in_flight_bytes_max: Option<Spanned<u64>>,
    tls_certificate: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    tls_client_ca: Option<Spanned<PathBuf>>,
    tls_required: Option<Spanned<bool>>,
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
            (
                "[scrub]\nwindows = ['Sat 02:00-06:00',\n  'Sat 2-6']\n",
                "cairnd.toml:3:3: window \"Sat 2-6\"",
            ),
            (
                "[scrub]\nwindows = ['Samstag 02:00-06:00']\n",
                "cairnd.toml:2:12: \"Samstag\" is no day of the week",
            ),
            (
                "[scrub]\ninterval = '30'\n",
                "cairnd.toml:2:12: scrub.interval \"30\" is no time",
            ),
            (
                "[scrub]\ninterval = '10m'\n",
                "cairnd.toml:2:12: scrub.interval \"10m\" must lie between 1h and 366d",
            ),
            (
                "[scrub]\nbytes_per_second_max = 1000\n",
                "cairnd.toml:2:24: scrub.bytes_per_second_max is 1000",
            ),
            (
                "[memory]\nrow_cache_bytes = 1000\n",
                "cairnd.toml:2:19: memory.row_cache_bytes is 1000: it must lie between 16777216",
            ),
            (
                "[memory]\nrow_cache = 1\n",
                "cairnd.toml:2:1: unknown field `row_cache`",
            ),
            (
                "[scrub]\nwindow = 1\n",
                "cairnd.toml:2:1: unknown field `window`",
            ),
            (
                "[disks]\nreconstruct_after = '5 s'\n",
                "cairnd.toml:2:21: disks.reconstruct_after \"5 s\" is no time",
            ),
            (
                "[disks]\nreconstruct_after = '5s'\neject_after = '5s'\n",
                "cairnd.toml:3:15: disks.eject_after must be longer",
            ),
            (
                "[disks]\nmedium_errors_max = 0\n",
                "cairnd.toml:2:21: disks.medium_errors_max is 0: it must lie between 1 and 10000",
            ),
            (
                "[arrays]\nbypass = 'of'\n",
                "cairnd.toml:2:10: arrays.bypass is \"of\": it is \"on\" or \"off\"",
            ),
            (
                "[disks]\nreconstruct_after = '45s'\n",
                "cairnd.toml:2:21: disks.eject_after must be longer",
            ),
        ];
        for (text, expected) in cases {
            let message = refused(text);
            assert!(message.contains(expected), "{text:?} gave {message:?}");
        }
    }

    #[test]
    fn scrubs_and_what_is_asked_of_disks_and_arrays_are_read() {
        let text = "[scrub]\nwindows = ['Sat 02:00-06:00', 'Mon-Fri 22:00-04:00']\n\
                    interval = '14d'\noverdue_after = '20d'\nbytes_per_second_max = 209715200\n\
                    [disks]\nreconstruct_after = '500ms'\neject_after = '10s'\nmedium_errors_max = 5\n\
                    [arrays]\nbypass = 'off'\n";
        let config = Config::parse("f", text, None).unwrap();
        assert_eq!(config.scrub.windows.len(), 2);
        assert_eq!(config.scrub.interval, Duration::from_hours(14 * 24));
        assert_eq!(config.scrub.overdue_after, Duration::from_hours(20 * 24));
        assert_eq!(config.scrub.bytes_per_second_max, Some(200 << 20));
        assert_eq!(config.disks.reconstruct_after, Duration::from_millis(500));
        assert_eq!(config.disks.eject_after, Duration::from_secs(10));
        assert_eq!(config.disks.medium_errors_max, 5);
        assert!(!config.arrays.bypass);
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
        assert_eq!(config.disks, DisksConfig::default());
        assert_eq!(config.memory, MemoryConfig::default());
        assert_eq!(
            config.scrub,
            ScrubConfig {
                windows: config.scrub.windows.clone(),
                bytes_per_second_max: Some(200 << 20),
                ..ScrubConfig::default()
            }
        );
    }
}

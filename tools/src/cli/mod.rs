//! The command line: nouns, verbs, flags, and help that teaches.
//!
//! Parsing only: nothing here talks to the daemon.

mod array;
mod disk;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use array::{ArrayVerb, Goal, JournalPlace, SpareVerb};
pub(crate) use disk::{DiskVerb, LocateArgs};
pub(crate) use volume::VolumeVerb;

use crate::quantity::{parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  cairn demo                                    see it all work, without root, in half a minute
  cairn array create pool --level raid6 --disks /dev/sd[b-k] --spares /dev/sdl /dev/sdm
  cairn volume create pg --array pool --size 8GiB
  cairn volume export pg --nbd unix:/run/cairn/pg.sock
  cairn status                                  one screen for 3 a.m.
  cairn -o json array show pool | jq .state     for programs

Exit codes: 0 healthy or done, 1 degraded or request failed, 2 array failed, 3 usage, 4 no daemon";

/// Heading of the options that stand before or after any command.
const GLOBAL: &str = "Options of every command";

/// Cairn keeps database data alive through disk failures: arrays, spares, volumes, exports.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = EXAMPLES, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Admin socket of cairnd
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "PATH",
        env = cairn_api::SOCKET_ENV,
        default_value = cairn_api::DEFAULT_SOCKET
    )]
    pub(crate) socket: PathBuf,

    /// How to print: for people, for programs, for spreadsheets, for shells (KEY=VALUE)
    #[arg(
        short,
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// `schema: 1`, integer bytes
    Json,
    /// RFC 4180 with a header
    Csv,
    /// KEY=VALUE, quoted for a shell
    Export,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Arrays: create, watch, stop, start, destroy; their spares
    #[command(subcommand, visible_alias = "arrays")]
    Array(ArrayVerb),

    /// Disks: what they are, fail, remove, replace, locate, wipe; the spares that all arrays share
    #[command(subcommand, visible_alias = "disks")]
    Disk(DiskVerb),

    /// Volumes: create, resize, delete, export over NBD
    #[command(subcommand, visible_alias = "volumes")]
    Volume(VolumeVerb),

    /// Everything on one screen: verdict, arrays, disks, rebuild, volumes, exports
    #[command(
        after_help = "The exit code is 0 whenever the status could be shown; `cairn check` \
                            has the verdict as its exit code."
    )]
    Status,

    /// The health verdict; exits 0 when ok, 1 on a warning, 2 on an error
    #[command(after_help = "Example, in a monitoring system's plug-in:\n  \
                            cairn check || notify \"$(cairn check)\"")]
    Check,

    /// Free space of arrays and file systems, in gp_disk_free's columns first
    #[command(
        after_help = "dfspace is free space in KiB. The other columns are Cairn's own.\n\
                            Example: cairn -o csv df | psql -c '\\copy df from stdin csv header'"
    )]
    Df,

    /// What arrays, volumes and disks do at the moment, and what it costs
    #[command(
        after_help = "Reads the statistics page beside the admin socket, which cairnd writes once a second: it answers also \
                            when cairnd is busy or hangs, and says how old it is.\n\
                            On a terminal it goes on until it is interrupted; otherwise, and in other formats, it shows one \
                            sample.\n\n\
                            Times are what a request took on average, in µs. cpu_us is processor time of the array's thread for \
                            each request of a client; cpu_percent is of one processor.\n\
                            Example: cairn -o json top -n 1 --interval 10s | jq '.lines[] | select(.what == \"disk\")'\n\
                            The same counts, for Prometheus: GET /metrics on the admin socket."
    )]
    Top(TopArgs),

    /// What happened: failures, rebuilds, new arrays
    #[command(after_help = "Example: cairn -o json events -f   one JSON object per line, for ever")]
    Events(EventsArgs),

    /// Version of the daemon, its process and directories
    Version,

    /// The main job in half a minute: RAID 6 of file disks, two fail under writes, spares rebuild
    #[command(after_help = "\
Makes a temporary directory with twelve sparse file disks, starts its own cairnd there, writes
random data to a volume over NBD, fails two disks while writing, verifies every byte against a
model, waits for the spares, verifies again, and leaves nothing behind. Needs no root.

Examples:
  cairn demo
  cairn demo --seed 42 --size 1GiB --dir /var/tmp
  cairn demo --keep          leaves it running and says how to use it")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show so many samples, and end
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: Option<u32>,

    /// From one sample to the next
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on printing events as they happen
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Begin after this event id instead of with the newest
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<u64>,

    /// At most so many to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = cairn_api::events::LIMIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(cairn_api::events::LIMIT_MAX)))]
    pub(crate) limit: u32,
}

/// Bounds of `cairn demo --size`: enough to write while two disks fail, not enough to fill a disk.
const DEMO_SIZE_MIN: u64 = 64 << 20;
const DEMO_SIZE_MAX: u64 = 16 << 30;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave it running, and say how to use it and how to remove it
    #[arg(long)]
    pub(crate) keep: bool,

    /// Make the temporary directory in here instead of $TMPDIR or /tmp
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Seed of the random data and offsets; printed, so that a run can be repeated
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// How much to write
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_demo_size)]
    pub(crate) size: u64,
}

/// What every changing verb takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DryRun {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What every verb takes that may destroy data or redundancy.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Don't ask
    #[arg(short, long)]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) dry: DryRun,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        interval if interval < Duration::from_secs(1) => {
            Err("cairnd writes its page once a second: give 1s or more".to_owned())
        }
        interval => Ok(interval),
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    cairn_api::validate_name(text).map(|()| text.to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("a size of zero makes no sense here".to_owned()),
        bytes => Ok(bytes),
    }
}

fn parse_demo_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if (DEMO_SIZE_MIN..=DEMO_SIZE_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{text:?} is outside 64MiB to 16GiB"))
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_manual_parse() {
        for line in [
            "cairn array create pool --level raid6 --disks d0 d1 d2 d3 --spares s0 s1",
            "cairn array create pool --level raid6 --disks d0 d1 d2 d3 --chunk 64KiB --wipe d0 \
             --wipe d1 --journal-size 64MiB --dry-run",
            "cairn array list",
            "cairn array show pool",
            "cairn array stop pool",
            "cairn array assemble pool --scan d0 d1 --force",
            "cairn array wait pool --for clean --timeout 60s",
            "cairn array destroy pool --yes",
            "cairn array create pool --level raid5 --disks d0 d1 d2 --integrity none",
            "cairn array create pool --level raid5 --disks d0 d1 d2 --journal none",
            "cairn array scrub pool",
            "cairn array scrub pool --pause",
            "cairn array scrub pool --resume --no-wait",
            "cairn array scrub pool --stop --dry-run",
            "cairn array scrub pool --wait",
            "cairn array spare add pool s2",
            "cairn array spare remove pool s2",
            "cairn disk list",
            "cairn disk show d0",
            "cairn disk fail d0",
            "cairn disk remove d0",
            "cairn disk replace d0 s2",
            "cairn disk wipe d0 --yes",
            "cairn disk locate d0 --for 30m",
            "cairn disk locate d0 --off",
            "cairn volume create pg --array pool --size 8GiB",
            "cairn volume list",
            "cairn volume show pg",
            "cairn volume resize pg --size 16GiB",
            "cairn volume delete pg --yes",
            "cairn volume export pg --nbd unix:/run/cairn/pg.sock",
            "cairn volume export pg --nbd tcp:127.0.0.1:10809",
            "cairn volume export pg --ublk",
            "cairn volume export pg --ublk --logical-block 512 --read-only --dry-run",
            "cairn volume export pg --kernel-nbd --logical-block 512",
            "cairn volume export pg --block auto --logical-block 4096",
            "cairn volume unexport pg",
            "cairn volume unexport pg --ublk --force",
            "cairn --socket /s -o json status",
            "cairn check -o csv",
            "cairn df",
            "cairn events -f",
            "cairn demo --keep --seed 1 --size 64MiB --dir /tmp",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused_before_the_daemon_is_asked() {
        for line in [
            "cairn",
            "cairn array",
            "cairn array create pool --level raid7 --disks d0 d1",
            "cairn array create pool --level raid1",
            "cairn array create po/ol --level raid1 --disks d0 d1",
            "cairn array create pool --level raid1 --disks d0 d1 --chunk 64KB",
            "cairn array wait pool --for happy",
            "cairn array create pool --level raid1 --disks d0 d1 --integrity sha1",
            "cairn array create pool --level raid1 --disks d0 d1 --journal d2",
            "cairn array scrub",
            "cairn disk locate d0 --off --for 1m",
            "cairn disk locate d0 --for ever",
            "cairn array scrub po/ol",
            "cairn array scrub pool --pause --resume",
            "cairn array scrub pool --stop --pause",
            "cairn array scrub pool --wait --no-wait",
            "cairn array scrub pool --halt",
            "cairn volume create pg --array pool --size 0",
            "cairn volume export pg --nbd /run/pg.sock",
            "cairn volume export pg",
            "cairn volume export pg --ublk --nbd unix:/run/pg.sock",
            "cairn volume export pg --ublk --logical-block 1024",
            "cairn volume export pg --nbd tcp:127.0.0.1:1 --logical-block 512",
            "cairn events -n 0",
            "cairn -o yaml status",
            "cairn demo --size 1KiB",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

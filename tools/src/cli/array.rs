//! `cairn array …`

use std::path::PathBuf;
use std::time::Duration;

use cairn_api::{Integrity, Level, ScrubAction};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use super::{Consent, DryRun, parse_bytes, parse_name, parse_timeout};

#[derive(Debug, Subcommand)]
pub(crate) enum ArrayVerb {
    /// Make an array of disks
    #[command(after_help = "\
The disks must be blank. What bears a file system, a partition table, LVM, md or another array is
refused unless --wipe names it, once per disk. The smallest disk decides what each one gives.

Levels: raid1 (2 or more disks, all but one may fail), raid5 (3 or more, one may fail),
raid6 (4 or more, two may fail).

Examples:
  cairn array create pool --level raid6 --disks /dev/sd[b-k] --spares /dev/sdl /dev/sdm
  cairn array create cold --level raid5 --disks /dev/sd[b-e] --journal-disks /dev/nvme0n1 /dev/nvme1n1
  cairn array create logs --level raid1 --disks /dev/sdx /dev/sdy --wipe /dev/sdy
  cairn array create scratch --level raid5 --disks /dev/sd[b-e] --integrity none")]
    Create {
        /// Name for it
        #[arg(value_parser = parse_name)]
        name: String,
        /// How data is spread
        #[arg(long, value_parser = level_parser())]
        level: Level,
        /// The disks: block devices or files
        #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
        disks: Vec<PathBuf>,
        /// Disks that take over by themselves when one fails
        #[arg(long, value_name = "PATH", num_args = 1..)]
        spares: Vec<PathBuf>,
        /// Disks for the journal alone, fast ones: one more than may fail, each of 21 MiB or more
        #[arg(long, value_name = "PATH", num_args = 1..)]
        journal_disks: Vec<PathBuf>,
        /// Bytes that lie together on one disk, a power of two, such as 64KiB
        #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
        chunk: Option<u64>,
        /// Bytes for the journal on each disk [default: 1 % of it, of a journal disk all; 16MiB to 1GiB]
        #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
        journal_size: Option<u64>,
        /// What tells right blocks from wrong ones: a checksum each, or nothing
        #[arg(long, value_name = "KIND", default_value = "crc32c", value_parser = integrity_parser())]
        integrity: Integrity,
        /// Keep the journal on the members, or have none (for measurements: a crash can lose data)
        #[arg(long, value_name = "WHERE", default_value = "members", hide = true)]
        journal: JournalPlace,
        /// A disk of the above whose present content may go; repeat it for more
        #[arg(long, value_name = "PATH")]
        wipe: Vec<PathBuf>,
        #[command(flatten)]
        dry: DryRun,
    },

    /// All arrays, a line each
    #[command(visible_alias = "ls")]
    List,

    /// One array with its members, spares and background work
    #[command(after_help = "\
Examples:
  cairn array show pool
  cairn -o json array show pool | jq '.sync.eta_seconds'
  eval \"$(cairn -o export array show pool)\"; echo $STATE")]
    Show {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
    },

    /// Stop an array: exports end, everything is flushed, the disks are let go
    #[command(after_help = "It comes back with `cairn array assemble NAME`.")]
    Stop {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },

    /// Start an array from the labels on its disks
    #[command(after_help = "\
The daemon remembers where disks were seen. If that is lost, or they have moved: --scan.

--force starts an array that doesn't start by itself. What that may cost:
- Absent disks have newer data, or may have: writes since they went away are lost, acknowledged
  ones too, and the absent disks count as stale from then on.
- The array has no journal, was stopped in the middle of writes and disks are away: blocks of the
  absent disks in the rows that were being written may be wrong. Compare the data with a copy.
- --force does not help where more disks are away than the level survives, nor where too few
  copies of the journal are left: what was acknowledged last may be in the copies that are away.
The daemon says which of these it is. Bring the disks back first if you can.

Examples:
  cairn array assemble pool
  cairn array assemble pool --scan /dev/sd*")]
    Assemble {
        /// Name or UUID of the array
        #[arg(value_parser = parse_name)]
        name: String,
        /// Look at these disks, too
        #[arg(long, value_name = "PATH", num_args = 1..)]
        scan: Vec<PathBuf>,
        /// Start although newer data may be on disks that are away
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        dry: DryRun,
    },

    /// Wait until an array is as it should be, with a progress bar
    #[command(after_help = "\
Exits 0 when it is so, 1 when it can't become so by waiting or the time is up, 2 when the array
has failed.

Example: cairn array wait pool --for clean --timeout 10m")]
    Wait {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        /// What to wait for
        #[arg(long = "for", value_name = "WHAT", default_value = "clean")]
        goal: Goal,
        /// Give up after so long, such as 60s or 5m [default: never]
        #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
        timeout: Option<Duration>,
    },

    /// End an array for good: its volumes, its data, its labels
    #[command(after_help = "Refused while a volume of it is exported: \
                            `cairn volume unexport NAME` first.")]
    Destroy {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },

    /// Read all that was written, compare it with its checksums, and mend what is wrong
    #[command(after_help = "\
Without a flag it starts, or goes on with one that is paused, and shows how far it is; Ctrl-C
leaves it running. It makes way for clients, goes on after a restart, and ends by itself.

A block that doesn't match is rewritten with what the other disks say, if that verifies. What
nothing can give is listed by `cairn array show`. Without checksums, differences are counted only.

Examples:
  cairn array scrub pool
  cairn array scrub pool --pause
  cairn array scrub pool --resume --no-wait")]
    Scrub {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        verb: ScrubVerb,
        /// Wait for its end, on no terminal too
        #[arg(long, conflicts_with = "no_wait")]
        wait: bool,
        /// Don't wait for its end
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        dry: DryRun,
    },

    /// Spares of an array
    #[command(subcommand)]
    Spare(SpareVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpareVerb {
    /// Give an array a spare, or a disk back that was its member
    #[command(after_help = "\
A degraded array begins to rebuild at once. A disk that was a member gets only what it missed,
where that is known; otherwise it is refused, or with --wipe rebuilt whole. A disk of the host's pool
of spares (`cairn disk add`) leaves the pool for this array.

Example: cairn array spare add pool /dev/sdm")]
    Add {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        /// The disk
        path: PathBuf,
        /// Its present content may go
        #[arg(long)]
        wipe: bool,
        #[command(flatten)]
        dry: DryRun,
    },
    /// Take a spare away from an array
    Remove {
        /// Name of the array
        #[arg(value_parser = parse_name)]
        name: String,
        /// The disk
        path: PathBuf,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What to do with a scrub; start it without one of these.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub(crate) struct ScrubVerb {
    /// Pause it until it is resumed, over restarts too
    #[arg(long)]
    pause: bool,
    /// Go on with one that is paused
    #[arg(long)]
    resume: bool,
    /// End it; the next one begins at the beginning
    #[arg(long)]
    stop: bool,
}

impl ScrubVerb {
    /// As the daemon is asked.
    pub(crate) fn action(self) -> ScrubAction {
        match self {
            Self { pause: true, .. } => ScrubAction::Pause,
            Self { resume: true, .. } => ScrubAction::Resume,
            Self { stop: true, .. } => ScrubAction::Stop,
            _ => ScrubAction::Start,
        }
    }
}

/// Where an array keeps its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JournalPlace {
    /// On its members
    Members,
    /// Nowhere: a crash together with a failing disk can lose data
    None,
}

/// What `array wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// All members in sync, nothing left to do
    Clean,
    /// One more disk may be lost
    Redundant,
    /// No background work, however the array is
    Idle,
}

fn integrity_parser() -> impl TypedValueParser<Value = Integrity> {
    PossibleValuesParser::new(Integrity::ALL.map(Integrity::as_str))
        .try_map(|text| text.parse::<Integrity>())
}

fn level_parser() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::as_str)).try_map(|text| text.parse::<Level>())
}

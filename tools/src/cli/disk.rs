//! `cairn disk …`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Consent, DryRun, parse_timeout};

/// `cairn disk locate`.
#[derive(Debug, Args)]
pub(crate) struct LocateArgs {
    /// The disk
    pub(crate) path: PathBuf,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "5m", value_parser = parse_timeout)]
    pub(crate) time: Duration,
    /// Switch off a light that was left on
    #[arg(long, conflicts_with = "time")]
    pub(crate) off: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskVerb {
    /// All disks that the daemon knows
    #[command(visible_alias = "ls")]
    List,

    /// One disk: what it is, what is on it, its errors
    Show {
        /// The disk
        path: PathBuf,
    },

    /// Put disks in the host's pool of spares, which all its arrays share
    #[command(after_help = "\
An array that loses a member and has no spare of its own takes the smallest disk of the pool that is
large enough, and rebuilds by itself. The disks must be blank; what bears anything is refused unless
--wipe names it, once per disk. `cairn disk remove` takes a disk out again, and
`cairn array spare add` gives one to a certain array.

Example: cairn disk add /dev/sdp /dev/sdq --wipe /dev/sdq")]
    Add {
        /// The disks: block devices or files
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// A disk of these whose present content may go; repeat it for more
        #[arg(long, value_name = "PATH")]
        wipe: Vec<PathBuf>,
        #[command(flatten)]
        dry: DryRun,
    },

    /// Declare a member failed; a spare takes over by itself
    #[command(after_help = "\
Says what redundancy remains. Wants --yes, or the path typed, when it takes the last one.

Example: cairn disk fail /dev/sdc")]
    Fail {
        /// The disk
        path: PathBuf,
        #[command(flatten)]
        consent: Consent,
    },

    /// Take a failed member or a spare out of its array, or a disk out of the host's pool of spares
    #[command(after_help = "\
What is taken out is blank afterwards, as far as it is there. Wants --yes, or the path typed, for the
last spare of an array.")]
    Remove {
        /// The disk
        path: PathBuf,
        #[command(flatten)]
        consent: Consent,
    },

    /// Copy a member to a new disk, which then takes its place
    #[command(after_help = "\
The old disk goes on serving until the copy is complete, so redundancy is never less than before.

Example: cairn disk replace /dev/sdc /dev/sdn && cairn array wait pool --for clean")]
    Replace {
        /// The member
        old: PathBuf,
        /// The disk that takes its place
        new: PathBuf,
        /// The present content of the new disk may go
        #[arg(long)]
        wipe: bool,
        #[command(flatten)]
        dry: DryRun,
    },

    /// Light a disk's tray, so that the right one is pulled
    #[command(after_help = "\
On the host itself, as root. Switches on the light of its slot, where the enclosure has one that Linux
knows (SCSI enclosure services, or an LED of a PCIe port), until Ctrl-C or the time is over. A disk
without one is read in turns, so that its activity light blinks; nothing is written. A disk that is gone
can't be lit: light the others.

Example: cairn disk locate /dev/sdc --for 30m")]
    Locate(LocateArgs),

    /// Remove signatures and labels from a disk that is in no running array
    Wipe {
        /// The disk
        path: PathBuf,
        #[command(flatten)]
        consent: Consent,
    },
}

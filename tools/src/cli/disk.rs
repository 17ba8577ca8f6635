//! `cairn disk …`

use std::path::PathBuf;

use clap::Subcommand;

use super::{Consent, DryRun};

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

    /// Take a failed member or a spare out of its array
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

    /// Remove signatures and labels from a disk that is in no running array
    Wipe {
        /// The disk
        path: PathBuf,
        #[command(flatten)]
        consent: Consent,
    },
}

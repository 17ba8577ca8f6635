//! `cairn volume …`

use std::path::Path;

use cairn_api::NbdAddress;
use clap::Subcommand;

use super::{Consent, DryRun, parse_bytes, parse_name};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume; it takes space as it is written
    #[command(after_help = "\
A volume may be larger than its array (a warning says so); writes fail with \"no space\" when the
array is full.

Example: cairn volume create pg --array pool --size 8GiB")]
    Create {
        /// Name for it
        #[arg(value_parser = parse_name)]
        name: String,
        /// Name of the array that holds it
        #[arg(long, value_parser = parse_name)]
        array: String,
        /// Its size, such as 8GiB
        #[arg(long, value_parser = parse_bytes)]
        size: u64,
        #[command(flatten)]
        dry: DryRun,
    },

    /// All volumes
    #[command(visible_alias = "ls")]
    List,

    /// One volume and its exports
    Show {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
    },

    /// Make a volume larger; shrinking is refused
    #[command(after_help = "\
Clients that are connected see the new size when they connect again.

Example: cairn volume resize pg --size 16GiB")]
    Resize {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
        /// The new size, such as 16GiB
        #[arg(long, value_parser = parse_bytes)]
        size: u64,
        #[command(flatten)]
        consent: Consent,
    },

    /// Delete a volume and its data
    Delete {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },

    /// Serve a volume as a block device over NBD; it stays so over restarts
    #[command(after_help = "\
The export's name is the volume's.

Examples:
  cairn volume export pg --nbd unix:/run/cairn/pg.sock
  cairn volume export pg --nbd tcp:127.0.0.1:10809
  cairn volume export pg --kernel-nbd        as /dev/nbdN of the daemon's host
  nbd-client -unix /run/cairn/pg.sock /dev/nbd0 -N pg")]
    Export {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
        /// unix:PATH or tcp:ADDRESS:PORT (beyond loopback with TLS only)
        #[arg(long, value_name = "ADDRESS", value_parser = parse_nbd, required_unless_present = "kernel_nbd")]
        nbd: Option<NbdAddress>,
        /// A device of the daemon's host, by the kernel's NBD client (`modprobe nbd`)
        #[arg(long, conflicts_with = "nbd")]
        kernel_nbd: bool,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        #[command(flatten)]
        dry: DryRun,
    },

    /// Stop serving a volume
    Unexport {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
        /// Only this address, where there are several
        #[arg(long, value_name = "ADDRESS", value_parser = parse_nbd)]
        nbd: Option<NbdAddress>,
        /// Only the device of the kernel's NBD client
        #[arg(long, conflicts_with = "nbd")]
        kernel_nbd: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// An NBD address; a relative socket path is taken from here, not from where the daemon runs.
fn parse_nbd(text: &str) -> Result<NbdAddress, String> {
    if let Some(path) = text.strip_prefix("unix:")
        && !path.is_empty()
        && !Path::new(path).is_absolute()
    {
        let path = crate::paths::absolute(Path::new(path)).map_err(|error| error.to_string())?;
        return format!("unix:{path}").parse();
    }
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_socket_is_meant_from_here() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(
            parse_nbd("unix:pg.sock").unwrap().to_string(),
            format!("unix:{}/pg.sock", here.display())
        );
        assert!(parse_nbd("unix:").is_err());
    }
}

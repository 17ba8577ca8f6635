//! `cairn volume …`

use std::path::Path;

use cairn_api::{BlockChoice, NbdAddress};
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
NBD clients that are connected see the new size when they connect again; a block device has it at once
where the kernel can (ublk's UPDATE_SIZE), else the answer says that it must be exported again.

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

    /// Serve a volume as a block device, of this host or over NBD; it stays so over restarts
    #[command(after_help = "\
--block auto, --ublk and --kernel-nbd make a device of the daemon's host and print it. It stays through
a restart or crash of the daemon: its users see a pause. Over NBD the export's name is the volume's.

Examples:
  cairn volume export pg --block auto        as /dev/ublkbN, else as /dev/nbdN
  cairn volume export pg --nbd unix:/run/cairn/pg.sock
  cairn volume export pg --nbd tcp:127.0.0.1:10809
  nbd-client -unix /run/cairn/pg.sock /dev/nbd0 -N pg")]
    Export {
        /// Name of the volume
        #[arg(value_parser = parse_name)]
        name: String,
        /// unix:PATH or tcp:ADDRESS:PORT (beyond loopback with TLS only)
        #[arg(
            long,
            value_name = "ADDRESS",
            value_parser = parse_nbd,
            required_unless_present_any = ["block", "ublk", "kernel_nbd"],
            conflicts_with_all = ["block", "ublk", "kernel_nbd"]
        )]
        nbd: Option<NbdAddress>,
        /// As a block device of the daemon's host: by ublk if its kernel has it, else by NBD
        #[arg(long, value_name = "auto", value_parser = parse_choice, conflicts_with_all = ["ublk", "kernel_nbd"])]
        block: Option<BlockChoice>,
        /// As /dev/ublkbN of this host (the kernel's ublk_drv, Linux 6.8 or newer)
        #[arg(long, conflicts_with = "kernel_nbd")]
        ublk: bool,
        /// Logical block of the device in bytes: 512 for what can't do with 4096 [default: that of the device that
        /// is there, else 4096]
        #[arg(long, value_name = "BYTES", conflicts_with = "nbd", value_parser = parse_block)]
        logical_block: Option<u32>,
        /// As /dev/nbdN of the daemon's host, by the kernel's NBD client (`modprobe nbd`)
        #[arg(long)]
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
        /// Only the ublk device
        #[arg(long, conflicts_with_all = ["nbd", "kernel_nbd"])]
        ublk: bool,
        /// Only the device of the kernel's NBD client
        #[arg(long, conflicts_with = "nbd")]
        kernel_nbd: bool,
        /// Although its block device is mounted or open; what isn't written yet is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

fn parse_choice(text: &str) -> Result<BlockChoice, String> {
    match text {
        "auto" => Ok(BlockChoice::Auto),
        _ => Err(format!(
            "{text:?} is no choice: auto; a kind of device is named by --ublk or --kernel-nbd"
        )),
    }
}

fn parse_block(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err(format!("{text:?} is no logical block: 512 or 4096")),
    }
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

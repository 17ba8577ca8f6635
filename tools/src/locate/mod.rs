//! `cairn disk locate`: which of twenty-four trays is this disk's.
//!
//! The only command that touches a device itself: the operator is at the host, and what lights a tray is a file of
//! sysfs, which the daemon's sandbox keeps from it. What needs no light is the disk's own activity.
//!
//! Invariants
//! - Nothing is written to a disk.
//! - A light that was switched on is switched off again, whatever the way out; only SIGKILL leaves it, and `--off` is for that.

mod activity;
mod light;

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use cairn_api::Exit;
use nix::fcntl::OFlag;
use serde::Serialize;
use tokio::sync::oneshot;

use self::activity::Blinking;
use self::light::{By, Light};
use crate::cli::LocateArgs;
use crate::error::ToolError;
use crate::output::{Cell, Output, View, fact, say};
use crate::paths::absolute;
use crate::signals::Ending;

const SYSFS: &str = "/sys";

/// What is lit, and how.
#[derive(Debug, Serialize)]
struct Located {
    path: String,
    by: By,
    /// The file of sysfs that switches it.
    file: Option<String>,
    /// How long; zero: it is off.
    seconds: u64,
}

fn view(located: &Located) -> View {
    View {
        facts: vec![
            fact("path", Cell::text(&located.path)),
            fact("by", Cell::text(located.by.as_str())),
            fact("file", Cell::maybe(located.file.as_ref())),
            fact("seconds", Cell::seconds(located.seconds)),
        ],
        ..View::default()
    }
}

/// Runs it.
pub(crate) async fn run(output: Output, args: LocateArgs) -> Result<Exit, ToolError> {
    let path = absolute(&args.path)?;
    let about = look(&path)?;
    let light = Light::of(Path::new(SYSFS), about.rdev());
    let seconds = if args.off { 0 } else { args.time.as_secs() };
    let located = Located {
        path: path.clone(),
        by: light.as_ref().map_or(By::Activity, |light| light.by),
        file: light.as_ref().map(|light| light.file.display().to_string()),
        seconds,
    };
    match light {
        Some(light) => {
            let mut ending = Ending::listen()?;
            switch(&light, !args.off)?;
            // From here on it has to be switched off, by whatever else fails.
            let shown = output.show(&located, view);
            if args.off {
                shown?;
                return Ok(Exit::Done);
            }
            if shown.is_ok() {
                say(format!("{path} is lit; Ctrl-C ends it"));
                tokio::select! {
                    () = tokio::time::sleep(args.time) => {}
                    _ = ending.come() => {}
                }
            }
            switch(&light, false)?;
            shown?;
            say(format!("{path} isn't lit any more"));
        }
        None if args.off => {
            let none = format!("{path} has no light that Linux can switch, so none is on");
            let hint = "what blinks by reads ends with the command that reads";
            return Err(ToolError::failed_with(none, hint));
        }
        None => {
            let mut ending = Ending::listen()?;
            let (bytes, file) = open(&path)?;
            output.show(&located, view)?;
            say(format!(
                "{path} has no light that Linux can switch: it is read for 0.7 s, and left alone for 0.7 s, in turns; \
                 Ctrl-C ends it"
            ));
            let mut failed = blink(Blinking::new(file, bytes));
            tokio::select! {
                () = tokio::time::sleep(args.time) => {}
                _ = ending.come() => {}
                error = &mut failed => if let Ok(error) = error {
                    let hint = "light the others instead: the tray that stays dark is its";
                    return Err(ToolError::failed_with(format!("{path} can't be read: {error}"), hint));
                },
            }
        }
    }
    Ok(Exit::Done)
}

/// It reads on a thread of its own, which a disk that hangs may keep; what it waits for is an error.
fn blink(mut blinking: Blinking) -> oneshot::Receiver<io::Error> {
    let (tell, failed) = oneshot::channel();
    std::thread::spawn(move || {
        while !tell.is_closed() {
            if let Err(error) = blinking.turn() {
                // Nobody waits any more.
                let _ = tell.send(error);
                return;
            }
        }
    });
    failed
}

fn look(path: &str) -> Result<Metadata, ToolError> {
    let about = std::fs::metadata(path).map_err(|error| {
        let hint = "a disk that is gone can't be lit: light those that are there, the tray that stays dark is its";
        ToolError::failed_with(format!("{path} can't be looked at: {error}"), hint)
    })?;
    if !about.file_type().is_block_device() {
        let hint = format!(
            "light the disk that it lies on: findmnt --noheadings --output SOURCE --target {path}"
        );
        let what = format!("{path} is no block device, and in no tray");
        return Err(ToolError::usage(what, hint));
    }
    Ok(about)
}

fn switch(light: &Light, on: bool) -> Result<(), ToolError> {
    light.switch(on).map_err(|error| {
        let file = light.file.display();
        ToolError::failed_with(
            format!("{file} can't be switched: {error}"),
            "be root on the host itself, where /sys can be written to",
        )
    })
}

/// The disk, for reads past the page cache, and its length.
fn open(path: &str) -> Result<(u64, File), ToolError> {
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_DIRECT.bits());
    let opened = options.open(path).and_then(|mut file| {
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok((bytes, file))
    });
    opened.map_err(|error| {
        let hint = "be root on the host itself, or in the group that may read disks";
        ToolError::failed_with(format!("{path} can't be opened: {error}"), hint)
    })
}

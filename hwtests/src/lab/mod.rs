//! What the scripts in `hwtests/lab` need and no program has: a stopped array as md sees it, disks
//! that remember the order of what was written, and what a power cut would have left of them.
//!
//! ```text
//!   stopped ──▶ handover: md superblocks, zeros ──▶ md of the kernel ──▶ compare ◀── volumes' images
//!
//!   ext4 ─▶ /dev/ublkbN ─▶ cairnd ─▶ recorder ─▶ record ─▶ outage: any moment of it ─▶ ext4, e2fsck
//! ```
//!
//! What goes wrong is a sentence; the program exits with 1 then.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use cairn_blockdev::LocalFuture;
use cairn_raid::{ArrayEvent, EventSink, Hooks, MemoryShare, Witness, WitnessStore};

pub mod handover;
pub mod md;
pub mod outage;
pub mod promises;
pub mod record;
pub mod recorder;
pub mod stopped;
pub mod workload;

/// A result whose error is a sentence.
pub type Answer<T> = Result<T, String>;

/// What of a path went wrong.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Keeps what an array tells.
#[derive(Default)]
struct Told(RefCell<Vec<String>>);

impl Told {
    /// Hooks of a host that has no witness.
    fn hooks(self: &Rc<Self>) -> Hooks {
        Hooks {
            events: Rc::<Self>::clone(self),
            witness: Rc::<Self>::clone(self),
            memory: MemoryShare::FULL,
        }
    }
}

impl EventSink for Told {
    fn event(&self, event: ArrayEvent) {
        let disk = event.disk.unwrap_or_default();
        let line = format!("{} {disk} {}", event.kind, event.detail);
        self.0.borrow_mut().push(line);
    }
}

impl WitnessStore for Told {
    fn record(&self, _: Witness) -> LocalFuture<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

//! What is left of a queue that was given up while its device lives, until its thread is gone.
//!
//! Closing a ring cancels the commands that the kernel has, on a worker of the kernel's. Should a
//! request of the device come at that moment, kernels before 6.15 complete one command twice and
//! corrupt their memory (seen on 6.12). When the thread ends the same is done by the thread itself,
//! right after it has run the work that waits for it, so that this can't happen. Therefore the ring
//! of a live device stays open over the end of its thread.
//!
//! Invariant: nothing is dropped here before [`Remains::clear`], which is called when the threads
//! are gone that the queues were served on.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::{IoUring, cqueue, squeue};

/// A ring with commands in it, and the character device that they are for.
pub(crate) struct Remnant {
    pub(crate) _ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// As long as it is open no other server is let in.
    pub(crate) _file: Arc<File>,
}

/// Queues that were given up on one thread; clones are the same. See the module.
#[derive(Clone, Default)]
pub struct Remains(Arc<Mutex<Vec<Remnant>>>);

impl Remains {
    pub(crate) fn keep(&self, remnant: Remnant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(remnant);
    }

    /// Lets go of what was kept: devices can be taken up by others. The thread that they were served
    /// on must have been joined.
    pub fn clear(&self) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(kept);
    }
}

impl std::fmt::Debug for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remains")
    }
}

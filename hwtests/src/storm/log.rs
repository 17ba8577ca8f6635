//! What happened, as one number: every disk's completions and every client's operations go into a
//! hash, so that two runs of one seed can be compared to the letter. And the hand at the plug: the
//! log stops the world at the I/O of one's choice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cairn_blockdev::sim::{Completion, Halt, Watch};
use cairn_blockdev::{Env, IoOp};

/// A moment right after a write of one's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aim {
    /// First byte of a place on the disks.
    pub from: u64,
    /// The byte after its last.
    pub to: u64,
    /// The so-manieth write that begins there, on whichever disk,
    pub writes: u64,
    /// and so many completions more.
    pub ios: u64,
}

/// When the world stops.
enum Plug {
    /// At this completion.
    At(u64, Halt),
    /// So many completions after the first that fails.
    AfterError(u64, Halt),
    /// Right after a write.
    After(Aim, Halt),
}

/// Where everything is noted.
#[derive(Default)]
pub struct Log {
    hash: Cell<u64>,
    /// Completions on disks.
    completions: Cell<u64>,
    plug: RefCell<Option<Plug>>,
}

impl Log {
    /// Takes a word into the hash.
    pub fn note(&self, word: u64) {
        let mixed = (self.hash.get() ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
        self.hash.set(mixed);
    }

    /// The hash of all so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// I/Os that the disks have completed.
    pub fn completions(&self) -> u64 {
        self.completions.get()
    }

    /// Stops the world at the `count`-th completion from now on.
    pub fn pull_after(&self, count: u64, halt: Halt) {
        *self.plug.borrow_mut() = Some(Plug::At(self.completions.get() + count, halt));
    }

    /// Stops the world so many completions after the first operation that fails.
    pub fn pull_after_error(&self, count: u64, halt: Halt) {
        *self.plug.borrow_mut() = Some(Plug::AfterError(count, halt));
    }

    /// Stops the world right after a write.
    pub fn pull_after_write(&self, aim: Aim, halt: Halt) {
        *self.plug.borrow_mut() = Some(Plug::After(aim, halt));
    }

    /// Leaves the plug in.
    pub fn pull_no_more(&self) {
        *self.plug.borrow_mut() = None;
    }

    fn completed(&self, disk: u64, now: u64, done: &Completion) {
        let op = match done.op {
            IoOp::Read => 1,
            IoOp::Write => 2,
            IoOp::Flush => 3,
            IoOp::Discard => 4,
            IoOp::Open => 5,
        };
        let failed = u64::from(done.error.is_some());
        self.note(disk << 8 | op << 1 | failed);
        self.note(done.offset ^ done.len.rotate_left(40));
        self.note(now);
        self.completions.set(self.completions.get() + 1);
        let now = self.completions.get();
        let mut plug = self.plug.borrow_mut();
        let is_write = done.op == IoOp::Write;
        *plug = match plug.take() {
            Some(Plug::After(aim, halt))
                if is_write && (aim.from..aim.to).contains(&done.offset) =>
            {
                let left = aim.writes.saturating_sub(1);
                Some(if left == 0 {
                    Plug::At(now + aim.ios, halt)
                } else {
                    let writes = left;
                    Plug::After(Aim { writes, ..aim }, halt)
                })
            }
            Some(Plug::AfterError(count, halt)) if done.error.is_some() => {
                Some(Plug::At(now + count, halt))
            }
            Some(Plug::At(at, halt)) if now >= at => {
                halt.halt();
                None
            }
            other => other,
        };
    }
}

/// One disk's line to the log.
pub struct Wire {
    /// The log.
    pub log: Rc<Log>,
    /// Whose clock it goes by.
    pub env: Env,
    /// Which disk.
    pub disk: u64,
}

impl Watch for Wire {
    fn completed(&self, done: &Completion) {
        self.log.completed(self.disk, self.env.clock.now().0, done);
    }
}

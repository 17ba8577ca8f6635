//! Carries out one command on a device.

use std::rc::Rc;

use super::context::Contexts;
use super::exports::Export;
use super::framing::Framing;
use super::proto::Errno;
use super::reply::{Collect, Reply, ReplyTo, Runs};
use super::request::{Command, Request};
use crate::buf::{BufPool, SharedBuf};
use crate::device::{BlockDevice, WriteFlags, ZeroFlags};
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::usize_of;

/// Bytes of a device that one question for its status covers: enough to answer most requests in
/// one, small enough that a fragmented device's answer stays small.
const STATUS_WINDOW_BYTES: u64 = 1 << 30;

/// Questions to a device for one request: a client of an export beyond 4 TiB asks on.
const STATUS_WINDOWS_MAX: usize = 4096;

/// Bytes that a device is asked to discard or to zero at once: a request may be about all of it, and
/// what takes a step at a time leaves room for others in between.
const STEP_BYTES: u64 = 4 << 30;

/// An admitted request with all that it needs.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) command: Command,
    /// What is to be written; empty for all but writes.
    pub(crate) payload: Option<SharedBuf>,
    pub(crate) device: Rc<dyn BlockDevice>,
    pub(crate) framing: Framing,
    pub(crate) pool: BufPool,
}

impl Job {
    /// The job of `request` on `export`.
    pub(crate) fn new(
        request: Request,
        command: Command,
        payload: Option<SharedBuf>,
        export: &Export,
        framing: Framing,
        pool: BufPool,
    ) -> Self {
        Self {
            request,
            command,
            payload,
            device: Rc::clone(&export.device),
            framing,
            pool,
        }
    }

    /// Does it, and says what the client is answered.
    pub(crate) async fn run(self) -> Reply {
        let to = self.reply_to();
        let (offset, len) = (self.request.offset, self.request.len);
        let result = self.perform().await;
        result.unwrap_or_else(|error| {
            let errno = Errno::of(error.kind, error.op);
            // The client learns what became of its own request, not on which disk.
            let message = format!("{len} bytes at offset {offset}: {}", error.kind);
            Reply::failed(to, errno, &message)
        })
    }

    fn reply_to(&self) -> ReplyTo {
        ReplyTo::request(&self.request, self.framing)
    }

    async fn perform(self) -> Result<Reply, IoError> {
        let Request { offset, len, .. } = self.request;
        let to = self.reply_to();
        match self.command {
            Command::Read if len == 0 => return Ok(Reply::empty(to)),
            Command::Read => {
                let buf = self.pool.take(usize_of(len));
                let (buf, result) = self.device.read(offset, buf).await;
                result?;
                return Ok(Reply::data(to, buf));
            }
            Command::BlockStatus { one, contexts } => {
                return self.block_status(one, contexts).await;
            }
            Command::Flush => self.device.flush().await?,
            Command::Write { fua } => {
                if let Some(payload) = self.payload {
                    let flags = WriteFlags { fua };
                    self.device.write(offset, payload, flags).await?;
                }
            }
            Command::WriteZeroes { fua, no_hole, fast } if len > 0 => {
                let flags = ZeroFlags { fua, no_hole };
                if fast && !self.device.zeroes_fast(offset, len, flags) {
                    return Ok(Reply::failed(to, Errno::NotSup, "zeros may be as slow as data"));
                }
                self.write_zeroes(flags).await?;
            }
            Command::Trim { fua } if len > 0 => {
                self.discard().await?;
                if fua {
                    self.device.flush().await?;
                }
            }
            // A hint, and nothing below keeps what it reads.
            Command::Cache
            | Command::Trim { .. }
            | Command::WriteZeroes { .. }
            // Never become jobs.
            | Command::Disconnect
            | Command::NarrowedBlockStatus => {}
        }
        Ok(Reply::done(to))
    }

    async fn write_zeroes(&self, flags: ZeroFlags) -> Result<(), IoError> {
        let Request { offset, len, .. } = self.request;
        if len <= STEP_BYTES {
            return self.device.write_zeroes(offset, len, flags).await;
        }
        // One flush instead of one for each step.
        let without = ZeroFlags {
            fua: false,
            ..flags
        };
        for (at, len) in steps(offset, len) {
            self.device.write_zeroes(at, len, without).await?;
        }
        if flags.fua {
            self.device.flush().await?;
        }
        Ok(())
    }

    async fn discard(&self) -> Result<(), IoError> {
        for (at, len) in steps(self.request.offset, self.request.len) {
            match self.device.discard(at, len).await {
                // A hint: a device that can't follow it has done all there is to do.
                Err(error) if error.kind == IoErrorKind::Unsupported => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }

    /// Asks window by window until the request is covered or the reply is full.
    async fn block_status(&self, one: bool, contexts: Contexts) -> Result<Reply, IoError> {
        let Request { offset, len, .. } = self.request;
        let mut runs = Runs::new();
        let mut covered = 0;
        for window in 0..STATUS_WINDOWS_MAX {
            if covered == len {
                break;
            }
            if window > 0 {
                // A device may know the answer by heart; thousands of windows are long all the same, and
                // this thread's other requests have their turn.
                tokio::task::yield_now().await;
            }
            let window = (len - covered).min(STATUS_WINDOW_BYTES);
            let at = offset + covered;
            let found = self.device.block_status(at, window).await?;
            let (taken, collect) = runs.extend(&found, window, one);
            covered += taken;
            if collect == Collect::Full {
                break;
            }
            if taken == 0 {
                // The device's contract is at least one run: without one there is no answer.
                let (kind, name) = (IoErrorKind::Medium, self.device.name());
                return Err(IoError::new(kind, &name, IoOp::Read, at, window));
            }
        }
        Ok(Reply::status(self.reply_to(), contexts, &runs))
    }
}

/// A range in steps that a device can be asked for.
fn steps(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let step = (len - done).min(STEP_BYTES);
        let at = offset + done;
        done += step;
        (step > 0).then_some((at, step))
    })
}

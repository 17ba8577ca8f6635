//! Carries out one command on a device.

use std::rc::Rc;

use super::exports::Export;
use super::proto::Errno;
use super::reply::{Collect, Reply, Runs};
use super::request::{Command, Request};
use crate::buf::{BufPool, SharedBuf};
use crate::device::{BlockDevice, WriteFlags, ZeroFlags};
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::usize_of_u32;

/// Bytes of a device that one question for its status covers: enough to answer most requests in
/// one, small enough that a fragmented device's answer stays small.
const STATUS_WINDOW_BYTES: u32 = 1 << 30;

/// An admitted request with all that it needs.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) command: Command,
    /// What is to be written; empty for all but writes.
    pub(crate) payload: Option<SharedBuf>,
    pub(crate) device: Rc<dyn BlockDevice>,
    pub(crate) structured: bool,
    pub(crate) pool: BufPool,
}

impl Job {
    /// The job of `request` on `export`.
    pub(crate) fn new(
        request: Request,
        command: Command,
        payload: Option<SharedBuf>,
        export: &Export,
        structured: bool,
        pool: BufPool,
    ) -> Self {
        Self {
            request,
            command,
            payload,
            device: Rc::clone(&export.device),
            structured,
            pool,
        }
    }

    /// Does it, and says what the client is answered.
    pub(crate) async fn run(self) -> Reply {
        let (cookie, structured) = (self.request.cookie, self.structured);
        let (offset, len) = (self.request.offset, self.request.len);
        let result = self.perform().await;
        result.unwrap_or_else(|error| {
            let errno = Errno::of(error.kind, error.op);
            // The client learns what became of its own request, not on which disk.
            let message = format!("{len} bytes at offset {offset}: {}", error.kind);
            Reply::failed(cookie, errno, &message, structured)
        })
    }

    async fn perform(self) -> Result<Reply, IoError> {
        let Request { cookie, offset, .. } = self.request;
        let len = u64::from(self.request.len);
        match self.command {
            Command::Read if len == 0 => return Ok(Reply::empty(cookie, self.structured)),
            Command::Read => {
                let buf = self.pool.take(usize_of_u32(self.request.len));
                let (buf, result) = self.device.read(offset, buf).await;
                result?;
                return Ok(Reply::data(cookie, offset, buf, self.structured));
            }
            Command::BlockStatus { one } => {
                let runs = self.block_status(one).await?;
                return Ok(Reply::status(cookie, &runs));
            }
            Command::Flush => self.device.flush().await?,
            Command::Write { fua } => {
                if let Some(payload) = self.payload {
                    let flags = WriteFlags { fua };
                    self.device.write(offset, payload, flags).await?;
                }
            }
            Command::WriteZeroes { fua, no_hole } if len > 0 => {
                let flags = ZeroFlags { fua, no_hole };
                self.device.write_zeroes(offset, len, flags).await?;
            }
            Command::Trim { fua } if len > 0 => {
                match self.device.discard(offset, len).await {
                    // A hint: a device that can't follow it has done all there is to do.
                    Err(error) if error.kind == IoErrorKind::Unsupported => {}
                    result => result?,
                }
                if fua {
                    self.device.flush().await?;
                }
            }
            // A hint, and nothing below keeps what it reads.
            Command::Cache
            | Command::Trim { .. }
            | Command::WriteZeroes { .. }
            // Never becomes a job.
            | Command::Disconnect => {}
        }
        Ok(Reply::done(cookie))
    }

    /// Asks window by window until the request is covered or the reply is full.
    async fn block_status(&self, one: bool) -> Result<Runs, IoError> {
        let Request { offset, len, .. } = self.request;
        let mut runs = Runs::new();
        let mut covered = 0;
        while covered < len {
            let window = (len - covered).min(STATUS_WINDOW_BYTES);
            let at = offset + u64::from(covered);
            let found = self.device.block_status(at, u64::from(window)).await?;
            let (taken, collect) = runs.extend(&found, window, one);
            covered += taken;
            if collect == Collect::Full {
                break;
            }
            if taken == 0 {
                // The device's contract is at least one run: without one there is no answer.
                let (kind, name) = (IoErrorKind::Medium, self.device.name());
                return Err(IoError::new(kind, &name, IoOp::Read, at, u64::from(window)));
            }
        }
        Ok(runs)
    }
}

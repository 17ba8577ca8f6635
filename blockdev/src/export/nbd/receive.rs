//! Receiving: whole messages, payloads straight into their buffers, and what is skipped.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::error::NbdError;
use super::limits::Limits;
use crate::env::{Clock, Env};
use crate::export::budget::Budget;
use crate::units::{u64_of, usize_of};

/// Received ahead of need: many requests in one call of the system, and small payloads with them.
/// What of a payload isn't here yet goes into its own buffer directly.
const RECEIVE_BYTES: usize = 16 << 10;

/// Waits for a stream while it may take its time.
///
/// A connection may be silent for ever, but not while it holds memory that others wait for, nor
/// while it is being closed: then no progress for the stall timeout is its end.
pub(crate) struct Patience {
    clock: Rc<dyn Clock>,
    budget: Rc<Budget>,
    stall_timeout: Duration,
    closing: Cell<bool>,
}

impl Patience {
    pub(crate) fn new(env: &Env, limits: &Limits) -> Self {
        Self {
            clock: Rc::clone(&env.clock),
            budget: Rc::clone(&limits.budget),
            stall_timeout: limits.stall_timeout,
            closing: Cell::new(false),
        }
    }

    /// From now on the connection is only being brought to its end.
    pub(crate) fn closing(&self) {
        self.closing.set(true);
    }

    /// Waits for one step of `io`, as long as may be.
    pub(crate) async fn step<T>(
        &self,
        io: impl Future<Output = io::Result<T>>,
    ) -> Result<T, NbdError> {
        let mut io = pin!(io);
        loop {
            tokio::select! {
                biased;
                result = &mut io => return Ok(result?),
                // Inside a block, so that a timer is made only when there is something to wait for.
                () = async { self.clock.sleep(self.stall_timeout).await } => {
                    if self.closing.get() || self.budget.contended() {
                        return Err(NbdError::Stalled(self.stall_timeout));
                    }
                }
            }
        }
    }
}

/// The receiving half of a connection.
pub(crate) struct Receiver<R> {
    stream: BufReader<R>,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream: BufReader::with_capacity(RECEIVE_BYTES, stream),
        }
    }

    /// The stream itself, if nothing was received from it but what was asked for.
    pub(crate) fn into_inner(self) -> Option<R> {
        self.stream
            .buffer()
            .is_empty()
            .then(|| self.stream.into_inner())
    }

    /// The next `N` bytes, or `None` if the client closed the connection before the first of them.
    pub(crate) async fn message<const N: usize>(&mut self) -> Result<Option<[u8; N]>, NbdError> {
        if self.stream.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        let mut message = [0; N];
        self.exact(&mut message).await?;
        Ok(Some(message))
    }

    /// Fills `bytes`.
    pub(crate) async fn exact(&mut self, bytes: &mut [u8]) -> Result<(), NbdError> {
        match self.stream.read_exact(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(NbdError::Truncated),
            Err(error) => Err(error.into()),
        }
    }

    /// Fills `bytes`, memory that others may wait for.
    pub(crate) async fn payload(
        &mut self,
        bytes: &mut [u8],
        patience: &Patience,
    ) -> Result<(), NbdError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let received = patience.step(self.stream.read(rest)).await?;
            if received == 0 {
                return Err(NbdError::Truncated);
            }
            rest = rest.get_mut(received..).unwrap_or_default();
        }
        Ok(())
    }

    /// Passes over `len` bytes without keeping them.
    pub(crate) async fn skip(&mut self, len: u64) -> Result<(), NbdError> {
        let mut rest = len;
        while rest > 0 {
            let there = u64_of(self.stream.fill_buf().await?.len()).min(rest);
            if there == 0 {
                return Err(NbdError::Truncated);
            }
            self.stream.consume(usize_of(there));
            rest -= there;
        }
        Ok(())
    }
}

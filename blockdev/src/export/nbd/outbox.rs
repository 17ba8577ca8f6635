//! The way out of a connection: replies in order of completion, written by one writer in batches.
//!
//! Invariants
//! - A reply's place (its slot among the requests in flight, and its memory) is given back when the
//!   reply is written or can't be any more.
//! - The writer ends only when no more requests come, none runs, and every reply is written or
//!   given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::error::NbdError;
use super::receive::Patience;
use super::reply::Reply;
use crate::export::budget::Lent;

/// Replies written with one call of the system; two parts each stay far below its limit of 1024.
const BATCH_MAX: usize = 64;

/// What a request holds from its admission until its reply is written.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) _slot: Option<OwnedSemaphorePermit>,
    pub(crate) _memory: [Lent; 2],
}

struct Queued {
    reply: Reply,
    _place: Place,
}

/// Replies on their way, and the requests that will yet have one.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: RefCell<VecDeque<Queued>>,
    running: Cell<usize>,
    closed: Cell<bool>,
    /// For the writer: something changed.
    changed: Notify,
    /// No request runs.
    idle: Notify,
    /// The stream takes no more replies.
    broken: Notify,
}

/// A request that runs on the device, until dropped.
pub(crate) struct Running(Rc<Outbox>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.idle.notify_waiters();
            self.0.changed.notify_one();
        }
    }
}

impl Outbox {
    /// Counts a request that is given to the device.
    pub(crate) fn running(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(Rc::clone(self))
    }

    /// Hands over a reply.
    pub(crate) fn push(&self, reply: Reply, place: Place) {
        self.queue.borrow_mut().push_back(Queued {
            reply,
            _place: place,
        });
        self.changed.notify_one();
    }

    /// No more requests will come.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
    }

    /// Waits until no request runs.
    pub(crate) async fn idle(&self) {
        loop {
            // Made before the look, so that no notice between the two is missed.
            let notice = self.idle.notified();
            if self.running.get() == 0 {
                return;
            }
            notice.await;
        }
    }

    /// Waits until the writer has given up.
    pub(crate) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Writes replies to the end of the connection. After a failure the rest are dropped, but the
    /// end of running requests is still awaited.
    pub(crate) async fn write<W>(&self, stream: &mut W, patience: &Patience) -> Result<(), NbdError>
    where
        W: AsyncWrite + Unpin,
    {
        while let Some(batch) = self.next_batch().await {
            if let Err(error) = write_batch(stream, &batch, patience).await {
                drop(batch);
                self.broken.notify_one();
                while self.next_batch().await.is_some() {}
                return Err(error);
            }
        }
        Ok(())
    }

    /// Replies that are ready, at least one; `None` at the end.
    async fn next_batch(&self) -> Option<Vec<Queued>> {
        loop {
            let batch: Vec<_> = {
                let mut queue = self.queue.borrow_mut();
                let count = queue.len().min(BATCH_MAX);
                queue.drain(..count).collect()
            };
            if !batch.is_empty() {
                return Some(batch);
            }
            if self.closed.get() && self.running.get() == 0 {
                return None;
            }
            self.changed.notified().await;
        }
    }
}

async fn write_batch<W>(
    stream: &mut W,
    batch: &[Queued],
    patience: &Patience,
) -> Result<(), NbdError>
where
    W: AsyncWrite + Unpin,
{
    let mut parts: Vec<_> = batch
        .iter()
        .flat_map(|queued| queued.reply.parts())
        .collect();
    let mut rest = parts.as_mut_slice();
    while !rest.is_empty() {
        let written = patience.step(stream.write_vectored(rest)).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    patience.step(stream.flush()).await
}

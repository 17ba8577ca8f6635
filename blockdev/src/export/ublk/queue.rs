//! The queue of one device: a task per tag that fetches a request, carries it out and answers it.
//!
//! ```text
//!   kernel ──(completion of a tag's fetch)──▶ descriptor in the mapped table ──▶ Request
//!                                                                                  │
//!     ◀──(commit and fetch again, one command)── result ◀── BlockDevice ◀──────────┘
//!                                          data: read and written at the tag's place in /dev/ublkcN
//! ```
//!
//! Data is copied by a plain system call on this thread: the character device takes no requests
//! without blocking, so the ring would hand each copy to a worker, for twice the time.
//!
//! Invariants
//! - There are as many tasks as tags, and a tag has one request: memory is bounded by depth × the
//!   largest request, and by what all queues of the thread have together ([`Memory`]). A request waits
//!   for it, and for nobody but requests that the device already has.
//! - Every request that is started is answered, unless the thread ends first; then the kernel gives
//!   it to the next server.
//! - Once closed no request is started; what the kernel hands out then it gives to the next server.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use memmap2::{Mmap, MmapOptions};
use nix::libc;
use tokio::sync::Notify;

use super::remains::Remains;
use super::request::{Request, errno_of};
use super::ring::CommandRing;
use super::uapi::{
    Descriptor, IoCommand, Op, RESULT_ABORT, RESULT_OK, command_bytes, data_offset, table_bytes,
};
use crate::device::{BlockDevice, WriteFlags, ZeroFlags};
use crate::env::Env;
use crate::error::{IoError, IoErrorKind};
use crate::export::Memory;
use crate::units::usize_of_u32;

/// Without a new request for so long, nobody has one who doesn't wait for another.
const QUIET: Duration = Duration::from_millis(20);
/// How often that is looked at, at most.
const QUIET_STEPS_MAX: u32 = 50;
const DESCRIPTOR_BYTES: usize = size_of::<Descriptor>();

/// See the module.
pub(crate) struct Queue {
    ring: CommandRing,
    /// The kernel's table of descriptors, one per tag.
    table: Mmap,
    depth: u16,
    max_io: u32,
    device: Rc<dyn BlockDevice>,
    memory: Memory,
    /// Tags that fetch.
    fetching: Cell<u16>,
    /// Requests that the device has.
    running: Cell<u16>,
    closing: Cell<bool>,
    /// The kernel's answer that ended a tag otherwise than by stopping the device.
    failed: Cell<Option<i32>>,
    /// A request has ended, or a tag.
    changed: Notify,
    env: Env,
}

impl Queue {
    /// Starts fetching on the character device `file`. The kernel notices once all tags do.
    pub(crate) fn start(
        file: File,
        depth: u16,
        max_io: u32,
        device: Rc<dyn BlockDevice>,
        memory: Memory,
        env: &Env,
    ) -> io::Result<Rc<Self>> {
        // SAFETY: the mapping is the driver's memory, which only the kernel changes and which stays
        // for as long as it is mapped; it is read by volatile copies alone.
        let table = unsafe { MmapOptions::new().len(table_bytes(depth)).map(&file) }?;
        let queue = Rc::new(Self {
            ring: CommandRing::start(file, depth)?,
            table,
            depth,
            max_io,
            device,
            memory,
            fetching: Cell::new(depth),
            running: Cell::new(0),
            closing: Cell::new(false),
            failed: Cell::new(None),
            changed: Notify::new(),
            env: env.clone(),
        });
        for tag in 0..depth {
            let queue = Rc::clone(&queue);
            env.spawn.spawn(Box::pin(async move {
                queue.serve(tag).await;
                queue.fetching.set(queue.fetching.get() - 1);
                queue.changed.notify_waiters();
            }));
        }
        Ok(queue)
    }

    /// Whether requests are fetched.
    pub(crate) fn is_serving(&self) -> bool {
        self.fetching.get() == self.depth && !self.closing.get()
    }

    /// Waits until a tag has ended: the device was stopped, or the kernel refused a command.
    pub(crate) async fn ended(&self) -> io::Error {
        self.until(|queue| queue.fetching.get() < queue.depth).await;
        io::Error::from_raw_os_error(self.failed.get().unwrap_or(libc::ENODEV))
    }

    /// Requests come from now on. What the queue then leaves goes to `remains`.
    pub(crate) fn live(&self, remains: Remains) {
        self.ring.live(remains);
    }

    /// Starts no more requests, and waits until those that the device has are answered and no more
    /// come: whoever sends them waits for those that stay unanswered. To be called once, and the
    /// queue dropped after it.
    pub(crate) async fn drain(&self) {
        self.closing.set(true);
        self.until(|queue| queue.running.get() == 0).await;
        // Whoever ended last has queued its answer in the same turn.
        self.ring.submit();
        for _ in 0..QUIET_STEPS_MAX {
            let before = self.fetching.get();
            self.env.clock.sleep(QUIET).await;
            if self.fetching.get() == before {
                break;
            }
        }
        self.close();
    }

    /// Waits until the kernel has ended all tags, as it does when it stops the device.
    pub(crate) async fn stopped(&self) {
        self.until(|queue| queue.fetching.get() == 0).await;
    }

    /// Ends all tasks. Requests that the device has are left to the next server.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.ring.submit();
        self.ring.close();
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            // Made before the look, so that no notice between the two is missed.
            let notice = self.changed.notified();
            if done(self) {
                return;
            }
            notice.await;
        }
    }

    async fn serve(&self, tag: u16) {
        let mut op = Op::FETCH_REQ;
        let mut result = -1;
        loop {
            let command = IoCommand {
                q_id: 0,
                tag,
                result,
                addr: 0,
            };
            let Some(completed) = self.ring.run(tag, op, command_bytes(&command), None).await
            else {
                return;
            };
            match completed.code {
                RESULT_OK if self.closing.get() => return,
                RESULT_OK => {}
                RESULT_ABORT => return,
                code => {
                    tracing::error!(tag, code, "the kernel ends a tag of a ublk queue");
                    self.failed.set(Some(-code));
                    return;
                }
            }
            self.running.set(self.running.get() + 1);
            result = self.answer(tag).await;
            self.running.set(self.running.get() - 1);
            if self.closing.get() {
                self.changed.notify_waiters();
            }
            op = Op::COMMIT_AND_FETCH_REQ;
        }
    }

    /// Carries out the tag's request; the result as the kernel wants it.
    async fn answer(&self, tag: u16) -> i32 {
        let descriptor = self.descriptor(tag);
        let done = match Request::decode(&descriptor, self.max_io) {
            Ok(request) => self.perform(tag, request).await,
            Err(errno) => {
                tracing::warn!(?descriptor, "a ublk request is refused");
                Err(errno)
            }
        };
        match done {
            Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
            Err(errno) => -errno,
        }
    }

    fn descriptor(&self, tag: u16) -> Descriptor {
        debug_assert!(tag < self.depth);
        let at = usize::from(tag) * DESCRIPTOR_BYTES;
        // SAFETY: the table has an entry for every tag below the depth; the kernel wrote this one
        // before it completed the tag's fetch.
        let bytes = unsafe {
            let entry = self.table.as_ptr().add(at);
            entry.cast::<[u8; DESCRIPTOR_BYTES]>().read_volatile()
        };
        zerocopy::transmute!(bytes)
    }

    /// Bytes done, or a positive error number.
    async fn perform(&self, tag: u16, request: Request) -> Result<u32, i32> {
        let failed = |error: IoError| {
            tracing::warn!(%error, "a request of a block device fails");
            errno_of(error.kind)
        };
        match request {
            Request::Read { offset, len } => {
                let (_lent, buf) = self.memory.take(usize_of_u32(len)).await;
                let (buf, result) = self.device.read(offset, buf).await;
                result.map_err(failed)?;
                copied(self.ring.file().write_all_at(&buf, data_offset(tag)))?;
                Ok(len)
            }
            Request::Write { offset, len, fua } => {
                let (_lent, mut buf) = self.memory.take(usize_of_u32(len)).await;
                copied(self.ring.file().read_exact_at(&mut buf, data_offset(tag)))?;
                let flags = WriteFlags { fua };
                let written = self.device.write(offset, buf.freeze(), flags).await;
                written.map_err(failed)?;
                Ok(len)
            }
            Request::Flush => self.device.flush().await.map_err(failed).map(|()| 0),
            Request::Discard { offset, len } => match self.device.discard(offset, len).await {
                // A hint: a device that can't follow it has done all there is to do.
                Err(error) if error.kind == IoErrorKind::Unsupported => Ok(0),
                result => result.map_err(failed).map(|()| 0),
            },
            Request::Zero {
                offset,
                len,
                fua,
                no_hole,
            } => {
                let flags = ZeroFlags { fua, no_hole };
                let zeroed = self.device.write_zeroes(offset, len, flags).await;
                zeroed.map_err(failed).map(|()| 0)
            }
        }
    }
}

/// A request's data can be reached for as long as it isn't answered, unless the device is being torn
/// down.
fn copied(result: io::Result<()>) -> Result<(), i32> {
    result.map_err(|error| {
        tracing::warn!(%error, "the data of a ublk request can't be copied");
        libc::EIO
    })
}

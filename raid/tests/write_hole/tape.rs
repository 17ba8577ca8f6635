//! A tape of everything that an engine asks of its disks, and of what its clients are told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cairn_blockdev::sim::SimDisk;
use cairn_blockdev::units::usize_of;
use cairn_blockdev::{
    BlockDevice, Buf, DeviceGeometry, IoFuture, LocalFuture, ReadResult, SharedBuf, WriteFlags,
    ZeroFlags,
};

/// Zeros that a recorded history may write at once: they are kept as bytes.
const ZEROS_MAX: u64 = 1 << 20;

/// Something that happened, in the order in which it did.
#[derive(Clone)]
pub(crate) enum Event {
    /// A disk was asked to write: from here on any of its sectors may have landed.
    Begun {
        disk: usize,
        op: u64,
        offset: u64,
        data: SharedBuf,
        fua: bool,
    },
    /// The disk said that it had.
    Done { disk: usize, op: u64 },
    /// A disk was asked to flush: what was done by now is what it covers.
    FlushBegun { disk: usize, op: u64 },
    /// It did.
    Flushed { disk: usize, op: u64 },
    /// A disk was read.
    Read { disk: usize, offset: u64 },
    /// A client began to write with this step of the script.
    WriteBegun { step: usize },
    /// A row's write was acked.
    Acked { step: usize, row: usize },
    /// A flush ended that was asked for after all writes of the steps below had been acked.
    Durable { below: usize },
}

/// The tape. It records while it runs.
#[derive(Default)]
pub(crate) struct Tape {
    events: RefCell<Vec<Event>>,
    running: Cell<bool>,
    next_op: Cell<u64>,
}

impl Tape {
    pub(crate) fn start(&self) {
        self.running.set(true);
    }

    pub(crate) fn note(&self, event: Event) {
        if self.running.get() {
            self.events.borrow_mut().push(event);
        }
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        self.running.set(false);
        self.events.take()
    }

    fn op(&self) -> u64 {
        self.next_op.set(self.next_op.get() + 1);
        self.next_op.get()
    }
}

/// A disk whose every operation is on the tape.
#[derive(Clone)]
pub(crate) struct Taped {
    pub(crate) index: usize,
    pub(crate) disk: SimDisk,
    pub(crate) tape: Rc<Tape>,
}

impl BlockDevice for Taped {
    fn name(&self) -> Rc<str> {
        self.disk.name()
    }

    fn geometry(&self) -> DeviceGeometry {
        self.disk.geometry()
    }

    fn read(&self, offset: u64, buf: Buf) -> LocalFuture<ReadResult> {
        self.tape.note(Event::Read {
            disk: self.index,
            offset,
        });
        self.disk.read(offset, buf)
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let (tape, disk, op) = (Rc::clone(&self.tape), self.index, self.tape.op());
        tape.note(Event::Begun {
            disk,
            op,
            offset,
            data: data.clone(),
            fua: flags.fua,
        });
        let write = self.disk.write(offset, data, flags);
        Box::pin(async move {
            write.await?;
            tape.note(Event::Done { disk, op });
            Ok(())
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let (tape, disk, op) = (Rc::clone(&self.tape), self.index, self.tape.op());
        tape.note(Event::FlushBegun { disk, op });
        let flush = self.disk.flush();
        Box::pin(async move {
            flush.await?;
            tape.note(Event::Flushed { disk, op });
            Ok(())
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.disk.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        if !self.tape.running.get() {
            // Zeros over what was never written cost the simulated disk nothing.
            return self.disk.write_zeroes(offset, len, flags);
        }
        assert!(len <= ZEROS_MAX, "{len} bytes of zeros in a short history");
        let zeros = Buf::zeroed(usize_of(len)).freeze();
        self.write(offset, zeros, WriteFlags { fua: flags.fua })
    }
}

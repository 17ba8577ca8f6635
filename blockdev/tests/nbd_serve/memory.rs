//! A sparse device in memory that knows what it holds: written pages are data, all else is a hole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::ready;
use std::rc::Rc;

use cairn_blockdev::error::IoOp;
use cairn_blockdev::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};
use cairn_blockdev::{
    BlockDevice, BlockStatus, Buf, DeviceGeometry, IoError, IoFuture, LocalFuture, ReadResult,
    SharedBuf, StatusRun, WriteFlags, ZeroFlags,
};

type Page = Box<[u8; BLOCK_BYTES]>;

/// Memory that completes every operation at once.
pub(crate) struct MemDevice {
    name: Rc<str>,
    size: u64,
    pages: RefCell<BTreeMap<u64, Page>>,
}

/// A part of a range that lies in one page: its number, and where in it.
struct Part {
    page: u64,
    start: usize,
    len: usize,
}

/// Cuts a range at page borders.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = usize_of(at % BLOCK);
        let part = Part {
            page: at / BLOCK,
            start,
            len: usize_of(end - at).min(BLOCK_BYTES - start),
        };
        at += u64_of(part.len);
        (part.len > 0).then_some(part)
    })
}

impl MemDevice {
    /// A device of `size` zero bytes, a multiple of 512.
    pub(crate) fn new(name: &str, size: u64) -> Self {
        Self {
            name: Rc::from(name),
            size,
            pages: RefCell::default(),
        }
    }

    fn store(&self, offset: u64, data: &[u8]) {
        let mut pages = self.pages.borrow_mut();
        let mut rest = data;
        for part in parts(offset, u64_of(data.len())) {
            let (now, later) = rest.split_at(part.len);
            let page = pages
                .entry(part.page)
                .or_insert_with(|| Box::new([0; BLOCK_BYTES]));
            if let Some(to) = page.get_mut(part.start..part.start + part.len) {
                to.copy_from_slice(now);
            }
            rest = later;
        }
    }

    fn load(&self, offset: u64, data: &mut [u8]) {
        let pages = self.pages.borrow();
        let mut rest = data;
        for part in parts(offset, u64_of(rest.len())) {
            let (now, later) = rest.split_at_mut(part.len);
            let held = pages.get(&part.page);
            match held.and_then(|page| page.get(part.start..part.start + part.len)) {
                Some(held) => now.copy_from_slice(held),
                None => now.fill(0),
            }
            rest = later;
        }
    }

    /// Whole pages become holes, parts of others zeros. With `keep`, holes become pages of zeros.
    fn clear(&self, offset: u64, len: u64, keep: bool) {
        if keep {
            // In pieces, so that the zeros written from don't grow with the range.
            for part in parts(offset, len) {
                let zeros = vec![0; part.len];
                self.store(part.page * BLOCK + u64_of(part.start), &zeros);
            }
            return;
        }
        let mut pages = self.pages.borrow_mut();
        let held: Vec<u64> = pages
            .range(offset / BLOCK..(offset + len).div_ceil(BLOCK))
            .map(|(&page, _)| page)
            .collect();
        for number in held {
            let start = offset.saturating_sub(number * BLOCK);
            let end = (offset + len - number * BLOCK).min(BLOCK);
            if (start, end) == (0, BLOCK) {
                pages.remove(&number);
            } else if let Some(page) = pages.get_mut(&number)
                && let Some(part) = page.get_mut(usize_of(start)..usize_of(end))
            {
                part.fill(0);
            }
        }
    }

    fn runs(&self, offset: u64, len: u64) -> Vec<StatusRun> {
        let pages = self.pages.borrow();
        let end = offset + len;
        let mut runs = Vec::new();
        let mut push = |from: u64, to: u64, status| {
            if from < to {
                let len = to - from;
                runs.push(StatusRun { len, status });
            }
        };
        let mut at = offset;
        for &page in pages
            .range(offset / BLOCK..end.div_ceil(BLOCK))
            .map(|(page, _)| page)
        {
            let data = (page * BLOCK).max(at);
            push(at, data, BlockStatus::Hole);
            at = ((page + 1) * BLOCK).min(end);
            push(data, at, BlockStatus::Data);
        }
        push(at, end, BlockStatus::Hole);
        runs
    }

    fn after_check<T: 'static>(
        &self,
        (op, offset, len): (IoOp, u64, u64),
        act: impl FnOnce() -> T,
    ) -> IoFuture<T> {
        let result: Result<T, IoError> = self.check(op, offset, len).map(|()| act());
        Box::pin(ready(result))
    }
}

impl BlockDevice for MemDevice {
    fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            size: self.size,
            logical_block: 512,
            physical_block: 512,
            io_min: 4096,
            io_opt: 0,
            rotational: false,
            write_cache: false,
        }
    }

    fn read(&self, offset: u64, mut buf: Buf) -> LocalFuture<ReadResult> {
        let result = self.check(IoOp::Read, offset, u64_of(buf.len()));
        if result.is_ok() {
            self.load(offset, &mut buf);
        }
        Box::pin(ready((buf, result)))
    }

    fn write(&self, offset: u64, data: SharedBuf, _flags: WriteFlags) -> IoFuture<()> {
        let range = (IoOp::Write, offset, u64_of(data.len()));
        self.after_check(range, || self.store(offset, &data))
    }

    fn flush(&self) -> IoFuture<()> {
        Box::pin(ready(Ok(())))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        let range = (IoOp::Discard, offset, len);
        self.after_check(range, || self.clear(offset, len, false))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        let range = (IoOp::Write, offset, len);
        self.after_check(range, || self.clear(offset, len, flags.no_hole))
    }

    fn block_status(&self, offset: u64, len: u64) -> IoFuture<Vec<StatusRun>> {
        let range = (IoOp::Read, offset, len);
        self.after_check(range, || self.runs(offset, len))
    }
}

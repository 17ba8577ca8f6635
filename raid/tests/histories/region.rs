//! A client with a region of a volume to itself: one operation after another, others beside it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::{BlockDevice, Buf, IoError, WriteFlags, ZeroFlags};

use crate::model::{Model, SECTOR, ZERO, fill};

thread_local! {
    /// No two writes of a test bear the same stamp.
    static NEXT_STAMP: Cell<u64> = const { Cell::new(1) };
}

pub(crate) fn next_stamp() -> u64 {
    NEXT_STAMP.with(|next| next.replace(next.get() + 1))
}

/// Begins the stamps of a history anew, so that a seed gives the same bytes wherever it runs.
pub(crate) fn reset_stamps() {
    NEXT_STAMP.with(|next| next.set(1));
}

/// A client.
pub(crate) struct Region {
    pub(crate) volume: Rc<dyn BlockDevice>,
    pub(crate) model: Rc<RefCell<Model>>,
    pub(crate) rng: Rng,
    /// Sectors that it writes and reads.
    pub(crate) sectors: Range<u64>,
    /// Sectors that it may trim at once; includes `sectors`.
    pub(crate) whole: Option<Range<u64>>,
    /// Longest operation in sectors.
    pub(crate) longest: u64,
}

impl Region {
    fn pick(&mut self) -> Range<u64> {
        let count = self.sectors.end - self.sectors.start;
        let longest = if self.rng.one_in(4) { self.longest } else { 16 };
        let len = 1 + self.rng.below(longest.min(count));
        let first = self.sectors.start + self.rng.below(count - len + 1);
        first..first + len
    }

    pub(crate) async fn write(&self, range: Range<u64>, fua: bool) -> Result<(), IoError> {
        let stamp = next_stamp();
        let mut buf = Buf::zeroed(usize::try_from((range.end - range.start) * SECTOR).unwrap());
        fill(&mut buf, self.model.borrow().tag(), stamp, range.start);
        self.model.borrow_mut().begin(range.clone(), stamp);
        let flags = WriteFlags { fua };
        self.volume
            .write(range.start * SECTOR, buf.freeze(), flags)
            .await?;
        self.model.borrow_mut().acked(range, stamp, fua);
        Ok(())
    }

    pub(crate) async fn read(&self, range: Range<u64>) -> Result<(), IoError> {
        let len = usize::try_from((range.end - range.start) * SECTOR).unwrap();
        let (buf, result) = self
            .volume
            .read(range.start * SECTOR, Buf::zeroed(len))
            .await;
        result?;
        self.model
            .borrow_mut()
            .check(range.start, &buf, None, "read");
        Ok(())
    }

    pub(crate) async fn trim(&mut self, range: Range<u64>) -> Result<(), IoError> {
        self.model.borrow_mut().begin(range.clone(), ZERO);
        let (at, len) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        let mut fua = false;
        if self.rng.one_in(2) {
            self.volume.discard(at, len).await?;
        } else {
            fua = self.rng.one_in(4);
            let no_hole = self.rng.one_in(2);
            self.volume
                .write_zeroes(at, len, ZeroFlags { fua, no_hole })
                .await?;
        }
        self.model.borrow_mut().acked(range, ZERO, fua);
        Ok(())
    }

    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        let through = self.model.borrow().flush_begins();
        self.volume.flush().await?;
        self.model.borrow_mut().flushed(through);
        Ok(())
    }

    /// One random operation.
    pub(crate) async fn step(&mut self) -> Result<(), IoError> {
        let range = self.pick();
        match self.rng.below(12) {
            0..=5 => {
                let fua = self.rng.one_in(8);
                self.write(range, fua).await
            }
            6..=8 => self.read(range).await,
            9 => self.trim(range).await,
            10 => {
                let whole = self.whole.clone().unwrap_or(range);
                self.trim(whole).await
            }
            _ => self.flush().await,
        }
    }
}

/// Reads a volume's windows against its model.
pub(crate) async fn check_all(
    volume: &Rc<dyn BlockDevice>,
    model: &RefCell<Model>,
    crash: Option<crate::model::Crash>,
    what: &str,
) {
    let windows = model.borrow().windows();
    for window in windows {
        let mut at = window.start;
        while at < window.end {
            let count = (window.end - at).min(2048);
            let buf = Buf::zeroed(usize::try_from(count * SECTOR).unwrap());
            let (buf, result) = volume.read(at * SECTOR, buf).await;
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
            model.borrow_mut().check(at, &buf, crash, what);
            at += count;
        }
    }
}

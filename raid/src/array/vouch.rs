//! What checksums say to a scrub: pages compared with all their copies and held in memory, and blocks
//! compared with them.
//!
//! Does not know: how blocks are read, or mended.

use std::rc::Rc;

use super::Array;
use crate::events::EventKind;
use crate::geometry::{Columns, Row, Slot};
use crate::integrity::Ready;
use crate::integrity::cache::Verdict;
use crate::integrity::store::SumsError;

/// The sums of some columns, held until dropped.
pub(crate) struct Vouched {
    /// `None`: the array has no checksums.
    ready: Option<Ready>,
    /// Columns whose sums are lost with their page.
    blank: Vec<u64>,
}

impl Vouched {
    /// Whether the array has checksums.
    pub(crate) fn has_sums(&self) -> bool {
        self.ready.is_some()
    }

    /// Whether the sums of a column are lost with their page.
    pub(crate) fn says_nothing(&self, col: u64) -> bool {
        self.blank.contains(&col)
    }
}

impl Array {
    /// Compares the copies of the pages of some columns, and holds the pages. A page without a copy is
    /// begun anew: its columns say nothing until they are set. Fails with a sentence if a page can't
    /// be used by this version. The caller holds the lock of the columns.
    pub(crate) async fn vouch_for(
        self: &Rc<Self>,
        row: Row,
        cols: &Columns,
    ) -> Result<Vouched, String> {
        let Some(sums) = &self.sums else {
            return Ok(Vouched {
                ready: None,
                blank: Vec::new(),
            });
        };
        let disks = self.sums_disks();
        match sums.check(&disks, row, cols.clone()).await {
            Ok(()) => {}
            Err(error @ SumsError::Lost { .. }) => {
                self.report(EventKind::BadBlock, None, error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
        let ready = sums.ready_or_blank(&disks, row, cols.clone()).await;
        self.note_findings(sums);
        let ready = ready.map_err(|error| error.to_string())?;
        let blank = cols.clone().filter(|col| sums.says_nothing(row, *col));
        Ok(Vouched {
            blank: blank.collect(),
            ready: Some(ready),
        })
    }

    /// Whether blocks from `col` on match their sums; without sums, whatever could be read does.
    /// `vouched` holds their pages.
    pub(crate) fn is_vouched(
        &self,
        vouched: &Vouched,
        row: Row,
        slot: Slot,
        col: u64,
        data: &[u8],
    ) -> bool {
        match (&self.sums, vouched.has_sums()) {
            (Some(sums), true) => matches!(sums.verify(row, col, slot, data), Verdict::Good),
            _ => true,
        }
    }
}

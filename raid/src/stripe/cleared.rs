//! Rows that were trimmed by a record that isn't durable yet.
//!
//! In memory such a row was never written. After a power cut it may be written again, with all that it
//! held: what lies in place may not be overwritten as if nothing were there before the record is durable.
//!
//! Does not know: disks, flushes, what the row gets instead.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::geometry::Row;
use crate::journal::entry::Seq;

/// The rows, each with its record. Every one of them is admitted to the journal, which bounds them.
#[derive(Default)]
pub(crate) struct Cleared {
    rows: RefCell<BTreeMap<Row, Seq>>,
}

impl Cleared {
    /// A row that was written is trimmed by a record.
    pub(crate) fn note(&self, row: Row, seq: Seq) {
        self.rows.borrow_mut().insert(row, seq);
    }

    /// Whether a power cut could bring back what a row held. Records below `durable` are durable.
    pub(crate) fn may_return(&self, row: Row, durable: Seq) -> bool {
        self.rows
            .borrow()
            .get(&row)
            .is_some_and(|seq| *seq >= durable)
    }

    /// Records below `durable` are durable.
    pub(crate) fn flushed(&self, durable: Seq) {
        self.rows.borrow_mut().retain(|_, seq| *seq >= durable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trimmed_row_may_return_until_its_last_record_is_durable() {
        let cleared = Cleared::default();
        cleared.note(Row(1), Seq(5));
        cleared.note(Row(2), Seq(6));
        assert!(cleared.may_return(Row(1), Seq(5)) && !cleared.may_return(Row(1), Seq(6)));
        assert!(!cleared.may_return(Row(3), Seq(1)));
        cleared.note(Row(1), Seq(8));
        cleared.flushed(Seq(7));
        assert!(cleared.may_return(Row(1), Seq(7)) && !cleared.may_return(Row(2), Seq(1)));
    }
}

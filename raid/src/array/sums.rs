//! Placeholder
use super::*;
impl Array {
    pub(crate) async fn sums_ready(
        self: &Rc<Self>,
        _row: Row,
        _cols: &crate::geometry::Columns,
    ) -> Result<(), IoErrorKind> {
        Ok(())
    }
    pub(crate) fn note_sums(
        &self,
        _v: &RowView,
        _o: &crate::stripe::overlay::Overlay,
        _p: &[crate::stripe::transaction::NewParity],
    ) {
    }
    pub(crate) fn has_dirty_sums(&self) -> bool {
        false
    }
    pub(crate) async fn write_sums(self: &Rc<Self>) {}
    pub(crate) fn expected_sum(&self, _row: Row, _col: u64, _slot: crate::Slot) -> Option<u32> {
        None
    }
    pub(crate) async fn note_lost(&self, _v: &RowView, _i: usize, _c: u64) {}
}

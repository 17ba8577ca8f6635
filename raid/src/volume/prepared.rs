//! A volume's prepared operations: the space layer checks, and maps what a write needs. The record is
//! the array's and speaks of the volume's addresses; there is no second one.

use std::rc::Rc;

use cairn_blockdev::prepared::{
    BeforeTrim, InDoubt, LogId, Op, PREPARE_MAX, PREPARE_RANGE_MAX, PREPARE_UNIT, PreparedDevice,
    Record, Seq, Tag, Watermarks,
};
use cairn_blockdev::units::u64_of;
use cairn_blockdev::{BlockDevice, IoError, IoErrorKind, IoFuture, IoOp};

use super::Volume;
use crate::array::prepared::Ticket;
use crate::array::volumes::InUse;
use crate::logs::codec::of_op;
use crate::space::ExtentId;

/// Extents that a write needs, and what keeps them mapped until it pins them.
type Reserved = (Vec<ExtentId>, Vec<InUse>);

impl Volume {
    fn check_op(&self, op: &Op) -> Result<(), IoError> {
        let (offset, len) = op.range();
        let (kind, max) = match op {
            Op::Barrier => return Ok(()),
            Op::Write { .. } => (IoOp::Write, u64_of(PREPARE_MAX)),
            Op::Zero { .. } => (IoOp::Write, PREPARE_RANGE_MAX),
            Op::Discard { .. } => (IoOp::Discard, PREPARE_RANGE_MAX),
        };
        self.check(kind, offset, len)?;
        let unit = u64::from(PREPARE_UNIT);
        let fail = self.fail(kind, offset, len);
        if len == 0 || len > max {
            return Err(fail(IoErrorKind::OutOfRange));
        }
        if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            return Err(fail(IoErrorKind::Misaligned));
        }
        Ok(())
    }

    async fn do_prepare(
        &self,
        ticket: Ticket,
        seq: Seq,
        tag: Tag,
        op: Op,
    ) -> Result<(), IoErrorKind> {
        // A copy: the record may stay for long, and the view may be of a much larger buffer.
        let op = match op {
            Op::Write { offset, data } => Op::Write {
                offset,
                data: self.array.copy_of(&data).freeze(),
            },
            other => other,
        };
        let mark = self.uuid.as_u64_pair().0;
        let record = of_op(ticket.log().0, seq.0, mark, &tag, &op);
        let reserve = async || match &op {
            Op::Write { .. } => self.reserve(&op).await,
            _ => Ok((Vec::new(), Vec::new())),
        };
        self.array.prepare(ticket, record, reserve).await
    }

    /// Maps the extents of a write; what it mapped goes back if one can't be had.
    async fn reserve(&self, op: &Op) -> Result<Reserved, IoErrorKind> {
        let (offset, len) = op.range();
        let (mut extents, mut guards) = (Vec::new(), Vec::new());
        for part in self.parts(offset, len) {
            match self.reserve_at(part.at).await {
                Ok((extent, guard)) => {
                    extents.push(extent);
                    guards.push(guard);
                }
                Err(kind) => {
                    drop(guards);
                    for extent in extents {
                        self.array.free_if_empty(extent).await?;
                    }
                    return Err(kind);
                }
            }
        }
        Ok((extents, guards))
    }

    async fn reserve_at(&self, at: u64) -> Result<(ExtentId, InUse), IoErrorKind> {
        loop {
            let (extent, address) = self.find_or_allocate(at).await?;
            let in_use = self.array.enter_extent(extent).await;
            if self.find(at) == Some((extent, address)) {
                return Ok((extent, in_use));
            }
        }
    }

    /// `work`, to its end even if the caller gives up.
    async fn to_its_end(
        &self,
        work: impl Future<Output = Result<(), IoErrorKind>> + 'static,
    ) -> Result<(), IoErrorKind> {
        let end = self.array.detached(work).await;
        end.unwrap_or(Err(IoErrorKind::Stopped))
    }
}

impl PreparedDevice for Volume {
    fn prepare(&self, log: LogId, seq: Seq, tag: Tag, op: Op) -> IoFuture<()> {
        let (offset, len) = op.range();
        let failed = self.fail(IoOp::Write, offset, len);
        let announced = self.check_op(&op).and_then(|()| {
            let ticket = self.array.logs.announce(log, seq.0);
            ticket.map_err(&failed)
        });
        let volume = self.clone();
        Box::pin(async move {
            let (ticket, work) = (announced?, volume.clone());
            let work = async move { work.do_prepare(ticket, seq, tag, op).await };
            volume.to_its_end(work).await.map_err(failed)
        })
    }

    fn commit(&self, log: LogId, through: Seq) {
        self.array.commit_log(log, through);
    }

    fn abort(&self, log: LogId, from: Seq) -> IoFuture<Vec<InDoubt>> {
        let volume = self.clone();
        Box::pin(async move {
            let array = Rc::clone(&volume.array);
            let aborted = volume.to_its_end(async move { array.abort_log(log, from).await });
            aborted.await.map_err(volume.fail(IoOp::Write, 0, 0))?;
            // Nothing was written past the journal.
            Ok(Vec::new())
        })
    }

    fn records(&self, log: LogId, from: Seq) -> IoFuture<Vec<Record>> {
        Box::pin(std::future::ready(Ok(self.array.log_records(log, from))))
    }

    fn watermarks(&self, log: LogId) -> Watermarks {
        self.array.log_watermarks(log)
    }

    fn set_floor(&self, log: LogId, keep_from: Seq) {
        self.array.set_log_floor(log, keep_from);
    }

    fn on_trim(&self, log: LogId, hook: BeforeTrim) {
        self.array.on_log_trim(log, hook);
    }

    fn set_meta(&self, log: LogId, meta: &[u8]) -> IoFuture<()> {
        let (volume, meta) = (self.clone(), meta.to_vec());
        Box::pin(async move {
            let array = Rc::clone(&volume.array);
            let set = volume.to_its_end(async move { array.set_log_meta(log, meta).await });
            set.await.map_err(volume.fail(IoOp::Write, 0, 0))
        })
    }

    fn meta(&self, log: LogId) -> Rc<[u8]> {
        self.array.log_meta(log)
    }

    fn logs(&self) -> Vec<LogId> {
        self.array.log_ids()
    }

    fn forget(&self, log: LogId) -> IoFuture<()> {
        let volume = self.clone();
        Box::pin(async move {
            let array = Rc::clone(&volume.array);
            let forgotten = volume.to_its_end(async move { array.forget_log(log).await });
            forgotten.await.map_err(volume.fail(IoOp::Write, 0, 0))
        })
    }
}

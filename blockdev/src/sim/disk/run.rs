//! How one operation runs: what strikes it, how long it takes, what it does at its end.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::super::fault::{Effect, Fault};
use super::super::medium::{Payload, Write};
use super::{Completion, SimDisk};
use crate::buf::Buf;
use crate::device::{BlockDevice, IoFuture, LocalFuture};
use crate::error::{IoError, IoErrorKind, IoOp};
use crate::units::u64_of;

impl SimDisk {
    /// The strike that hits an operation, if one does.
    pub(super) fn struck_by(&self, op: IoOp, offset: u64, len: u64) -> Option<Effect> {
        let mut state = self.0.state.borrow_mut();
        if state.strikes.is_empty() {
            return None;
        }
        let hit = state
            .strikes
            .iter_mut()
            .rev()
            .find_map(|strike| strike.hits(op, offset, len).then_some(strike.effect));
        state.strikes.retain(|strike| strike.times > 0);
        hit
    }

    /// The time that an operation takes.
    pub(super) fn pause(&self, effect: Option<Effect>) -> LocalFuture<()> {
        let max = self.0.config.latency_us_max;
        let us = if max == 0 {
            0
        } else {
            1 + self.0.state.borrow_mut().rng.below(max)
        };
        match effect {
            Some(Effect::Hang(time)) => {
                self.0.state.borrow_mut().struck.hung += 1;
                self.hang(time)
            }
            Some(Effect::Slow(factor)) => {
                self.0.state.borrow_mut().struck.slow += 1;
                let us = us.max(1).saturating_mul(u64::from(factor));
                self.0.env.clock.sleep(Duration::from_micros(us))
            }
            _ if max == 0 => Box::pin(std::future::ready(())),
            _ => self.0.env.clock.sleep(Duration::from_micros(us)),
        }
    }

    fn hang(&self, time: Option<Duration>) -> LocalFuture<()> {
        let disk = self.clone();
        let (id, releases) = {
            let mut state = self.0.state.borrow_mut();
            state.next_op += 1;
            (state.next_op, state.releases)
        };
        let mut timer = time.map(|time| self.0.env.clock.sleep(time));
        Box::pin(poll_fn(move |context| {
            let mut state = disk.0.state.borrow_mut();
            if state.releases != releases {
                return Poll::Ready(());
            }
            let over = timer
                .as_mut()
                .is_some_and(|timer| timer.as_mut().poll(context).is_ready());
            if over {
                state.hung.remove(&id);
                return Poll::Ready(());
            }
            state.hung.insert(id, context.waker().clone());
            Poll::Pending
        }))
    }

    /// The lasting fault, or the strike, that fails an operation at its end.
    pub(super) fn verdict(
        &self,
        op: IoOp,
        offset: u64,
        len: u64,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let mut state = self.0.state.borrow_mut();
        let mut failed = match effect {
            Some(Effect::Fail(kind)) => Some(kind),
            Some(Effect::FailAndLoseCache) => Some(IoErrorKind::Medium),
            _ => None,
        };
        if op == IoOp::Write {
            state.faults.retain(|fault| {
                !matches!(fault, Fault::BadRange { offset: o, len: l }
                    if offset <= *o && o + l <= offset + len)
            });
        }
        for fault in &state.faults {
            failed = match (fault, op) {
                (Fault::Gone, _) => Some(IoErrorKind::Gone),
                (Fault::WritesFail, IoOp::Write) | (Fault::FlushFails, IoOp::Flush) => {
                    failed.or(Some(IoErrorKind::Medium))
                }
                (Fault::BadRange { offset: o, len: l }, IoOp::Read)
                    if *o < offset + len && offset < o + l =>
                {
                    failed.or(Some(IoErrorKind::Medium))
                }
                _ => failed,
            };
        }
        let Some(kind) = failed else { return Ok(()) };
        state.struck.count_error(op, kind);
        Err(IoError::new(kind, &self.0.name, op, offset, len))
    }

    pub(super) fn done<T>(&self, op: IoOp, offset: u64, len: u64, result: &Result<T, IoError>) {
        let watch = self.0.state.borrow().watch.clone();
        if let Some(watch) = watch {
            let error = result.as_ref().err().map(|error| error.kind);
            watch.completed(&Completion {
                op,
                offset,
                len,
                error,
            });
        }
    }

    pub(super) fn put(&self, offset: u64, payload: Payload, fua: bool) -> IoFuture<()> {
        let len = payload.len();
        if let Err(error) = self.check(IoOp::Write, offset, len) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let disk = self.clone();
        let effect = self.struck_by(IoOp::Write, offset, len);
        let lands = match effect {
            Some(Effect::Lose) => None,
            Some(Effect::Misdirect(to)) => Some(to.min(self.0.config.size - len)),
            _ => Some(offset),
        };
        let op = {
            let mut state = self.0.state.borrow_mut();
            state.next_op += 1;
            let op = state.next_op;
            if let Some(offset) = lands {
                let write = Write {
                    offset,
                    payload,
                    fua,
                };
                state.in_flight.insert(op, write);
            }
            op
        };
        Box::pin(async move {
            disk.pause(effect).await;
            let result = disk.finish_write(op, offset, len, effect);
            disk.done(IoOp::Write, offset, len, &result);
            result
        })
    }

    fn finish_write(
        &self,
        op: u64,
        offset: u64,
        len: u64,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let write = self.0.state.borrow_mut().in_flight.remove(&op);
        self.verdict(IoOp::Write, offset, len, effect)?;
        let mut state = self.0.state.borrow_mut();
        match (write, effect) {
            (_, Some(Effect::Lose)) => state.struck.lost_writes += 1,
            (Some(write), _) => {
                state.writes += 1;
                if let Payload::Data(data) = &write.payload {
                    state.bytes_written += u64_of(data.len());
                }
                state.medium.write(write);
                if matches!(effect, Some(Effect::Misdirect(_))) {
                    state.struck.misdirected_writes += 1;
                }
            }
            (None, _) => {
                // The disk went and came back in the meantime.
                state.struck.gone += 1;
                let gone = IoErrorKind::Gone;
                return Err(IoError::new(gone, &self.0.name, IoOp::Write, offset, len));
            }
        }
        drop(state);
        if effect == Some(Effect::Rot) {
            self.rot_somewhere(offset, len);
        }
        Ok(())
    }

    pub(super) fn finish_read(
        &self,
        offset: u64,
        buf: &mut Buf,
        effect: Option<Effect>,
    ) -> Result<(), IoError> {
        let len = u64_of(buf.len());
        if let Err(error) = self.verdict(IoOp::Read, offset, len, effect) {
            // A failed read leaves rubbish behind, so that nobody comes to rely on it.
            buf.fill(0xDB);
            return Err(error);
        }
        if effect == Some(Effect::Rot) {
            self.rot_somewhere(offset, len);
        }
        let mut state = self.0.state.borrow_mut();
        state.reads += 1;
        state.medium.load(offset, buf);
        Ok(())
    }

    pub(super) fn finish_flush(&self, through: u64, effect: Option<Effect>) -> Result<(), IoError> {
        let verdict = self.verdict(IoOp::Flush, 0, 0, effect);
        let mut state = self.0.state.borrow_mut();
        let state = &mut *state;
        if effect == Some(Effect::FailAndLoseCache) {
            state.struck.caches_lost += 1;
            let (rng, tear) = (&mut state.rng, state.tear_bytes);
            state.struck.torn_writes += state.medium.power_cut(Vec::new(), rng, tear);
        }
        verdict?;
        state.flushes += 1;
        if effect == Some(Effect::Lie) {
            state.struck.lying_flushes += 1;
        } else {
            state.medium.flush(through);
        }
        Ok(())
    }

    fn rot_somewhere(&self, offset: u64, len: u64) {
        let (at, bit) = {
            let mut state = self.0.state.borrow_mut();
            (state.rng.below(len), state.rng.below(8))
        };
        self.rot(offset + at, u8::try_from(bit).unwrap_or(0));
    }
}

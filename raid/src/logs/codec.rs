//! Records of logs as entries of the journal.
//!
//! ```text
//!  operation  kind data, zero, discard, barrier   flags PREPARED   log   log sequence
//!             offset, len: bytes of the volume     arg: the volume's mark     tag: the owner's
//!  commit     log   log sequence: the last one that takes effect       arg: the first one
//!  abort      log   log sequence: the first one void          arg: 1 if the log is forgotten
//!  state      kind meta   log   log sequence: next, 0 if none   offset: base   arg: committed
//!             tag: applied u64, bytes of metadata u32           payload: the metadata, if any
//! ```

use cairn_blockdev::prepared::{META_MAX, Op, Tag as OwnersTag};
use cairn_blockdev::units::{BLOCK_BYTES, u32_of, usize_of_u32};
use cairn_blockdev::{Buf, SharedBuf};

use crate::journal::entry::{Entry, Kind, PREPARED, Tag};

/// Bytes of a state's tag.
const STATE_TAG: usize = 12;
/// An abort that forgets the log.
const FORGET: u64 = 1;

const _: () = assert!(META_MAX <= BLOCK_BYTES);

/// What a log has come to, as one record says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// First sequence that isn't trimmed.
    pub(crate) base: u64,
    /// Sequence of the next operation; 0 before the first.
    pub(crate) next: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) meta: Vec<u8>,
}

impl State {
    fn makes_sense(&self) -> bool {
        let begun = self.next > self.committed;
        let blank = (self.base, self.next, self.committed) == (0, 0, 0);
        (begun || blank)
            && self.applied <= self.committed
            && self.base <= self.applied.saturating_add(1)
    }
}

/// What an entry says to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Prepared(u64),
    /// First and last that take effect.
    Commit(u64, u64),
    Abort(u64),
    Forget,
    State(State),
}

/// An operation as an entry and its payload.
pub(crate) fn of_op(
    log: u32,
    seq: u64,
    device: u64,
    tag: &OwnersTag,
    op: &Op,
) -> (Entry, Vec<SharedBuf>) {
    let (offset, len) = op.range();
    let (entry, payload) = match op {
        Op::Write { data, .. } => (
            Entry::with_payload(Kind::Data, offset, data),
            vec![data.clone()],
        ),
        Op::Zero { .. } => (
            Entry::without_payload(Kind::Zero, offset, len, Vec::new()),
            Vec::new(),
        ),
        Op::Discard { .. } => (
            Entry::without_payload(Kind::Discard, offset, len, Vec::new()),
            Vec::new(),
        ),
        Op::Barrier => (
            Entry::without_payload(Kind::Barrier, 0, 0, Vec::new()),
            Vec::new(),
        ),
    };
    let entry = Entry {
        flags: PREPARED,
        log,
        log_seq: seq,
        arg: device,
        tag: Tag::new(tag.bytes()).unwrap_or_default(),
        ..entry
    };
    (entry, payload)
}

/// The operation that an entry holds. `None` if no version ever prepared such a one.
pub(crate) fn to_op(entry: &Entry, payload: &[SharedBuf]) -> Option<Op> {
    let (offset, len) = (entry.offset, entry.len);
    Some(match entry.kind {
        Kind::Data => Op::Write {
            offset,
            data: payload.first()?.clone(),
        },
        Kind::Zero => Op::Zero { offset, len },
        Kind::Discard => Op::Discard { offset, len },
        Kind::Barrier => Op::Barrier,
        _ => return None,
    })
}

fn control(kind: Kind, log: u32, seq: u64) -> Entry {
    Entry {
        log,
        log_seq: seq,
        ..Entry::without_payload(kind, 0, 0, Vec::new())
    }
}

pub(crate) fn of_commit(log: u32, first: u64, through: u64) -> Entry {
    Entry {
        arg: first,
        ..control(Kind::Commit, log, through)
    }
}

pub(crate) fn of_abort(log: u32, from: u64) -> Entry {
    control(Kind::Abort, log, from)
}

pub(crate) fn of_forget(log: u32) -> Entry {
    Entry {
        arg: FORGET,
        ..control(Kind::Abort, log, 0)
    }
}

pub(crate) fn of_state(log: u32, state: &State) -> (Entry, Vec<SharedBuf>) {
    let mut tag = Vec::with_capacity(STATE_TAG);
    tag.extend(state.applied.to_le_bytes());
    tag.extend(u32_of(state.meta.len()).to_le_bytes());
    let mut payload = Vec::new();
    let mut entry = control(Kind::Meta, log, state.next);
    if !state.meta.is_empty() {
        let mut block = Buf::zeroed(BLOCK_BYTES);
        for (to, from) in block.iter_mut().zip(&state.meta) {
            *to = *from;
        }
        entry.sums = vec![cairn_blockdev::crc::crc32c(&block)];
        entry.payload_len = u32_of(BLOCK_BYTES);
        payload.push(block.freeze());
    }
    entry.offset = state.base;
    entry.arg = state.committed;
    entry.tag = Tag::new(&tag).unwrap_or_default();
    (entry, payload)
}

/// What an entry says to its log; `None` if nothing, or nothing that this version wrote.
pub(crate) fn said(entry: &Entry, payload: &[SharedBuf]) -> Option<Said> {
    Some(match entry.kind {
        Kind::Data | Kind::Zero | Kind::Discard | Kind::Barrier if entry.is_prepared() => {
            to_op(entry, payload)?;
            Said::Prepared(entry.log_seq)
        }
        Kind::Commit if entry.arg > entry.log_seq => return None,
        Kind::Commit => Said::Commit(entry.arg, entry.log_seq),
        Kind::Abort if entry.arg == FORGET => Said::Forget,
        Kind::Abort => Said::Abort(entry.log_seq),
        Kind::Meta => {
            let tag = entry.tag.bytes();
            let applied = tag.first_chunk::<8>().copied().map(u64::from_le_bytes)?;
            let len = tag
                .get(8..)?
                .first_chunk::<4>()
                .copied()
                .map(u32::from_le_bytes)?;
            let block: &[u8] = payload.first().map_or(&[], |block| block);
            let state = State {
                base: entry.offset,
                next: entry.log_seq,
                committed: entry.arg,
                applied,
                meta: block.get(..usize_of_u32(len))?.to_vec(),
            };
            if !state.makes_sense() {
                return None;
            }
            Said::State(state)
        }
        _ => return None,
    })
}

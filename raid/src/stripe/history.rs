//! What the journal has of one row, in order: pure.
//!
//! Invariants
//! - Layers are in the order of their records: data, an intent, data that came after it, ….
//! - An intent makes older notes void: the row's parity is computed anew from its data.
//! - An intent, or a note of a cycle, after another intent says that the first one's row is in place,
//!   durably: each takes the row's lock and flushes first. A note of a replay says nothing of it.
//! - Only the notes of the row's last cycle count: a cycle is durable before the next one notes.

use crate::geometry::{Columns, Role};
use crate::journal::entry::{Entry, Seq};
use crate::mutation::{Mutation, on};
use crate::stripe::overlay::Overlay;
use cairn_blockdev::SharedBuf;
use cairn_blockdev::units::{BLOCK_BYTES, SECTOR, usize_of};

/// Sectors of a block.
const SECTORS: usize = BLOCK_BYTES / 512;

/// Records of one row that stand together.
pub(crate) enum Layer {
    /// New contents.
    Data(Overlay),
    /// A complete row that was about to be written: the sum of every block, and perhaps behind them
    /// the sum of every block that it was written over.
    Intent(Vec<u32>),
}

/// Parity that was about to be written.
pub(crate) struct Note {
    pub(crate) cols: Columns,
    /// Records of the row below this are in the parity.
    below: Seq,
    p: Option<Vec<u32>>,
    q: Option<Vec<u32>>,
    is_settled: bool,
}

/// Bits of the first byte of a note's tag: which parities it has sums of, and whether a replay wrote it
/// for a row that it put together.
pub(crate) const NOTE_P: u8 = 1;
pub(crate) const NOTE_Q: u8 = 2;
pub(crate) const NOTE_SETTLED: u8 = 4;

impl Note {
    pub(crate) fn new(entry: &Entry, cols: Columns) -> Self {
        let roles = entry.tag.bytes().first().copied().unwrap_or(0);
        let each = usize_of(entry.len / SECTOR);
        let (mut p, mut q) = (None, None);
        let mut sums = entry.sums.chunks(each.max(1));
        if roles & NOTE_P != 0 {
            p = sums.next().map(<[u32]>::to_vec);
        }
        if roles & NOTE_Q != 0 {
            q = sums.next().map(<[u32]>::to_vec);
        }
        Self {
            cols,
            below: Seq(entry.arg),
            p,
            q,
            is_settled: roles & NOTE_SETTLED != 0,
        }
    }

    /// Sums of the sectors of a parity's block in column `col`, if the note speaks of it.
    pub(crate) fn sums(&self, role: Role, col: u64) -> Option<&[u32]> {
        let sums = if role == Role::P { &self.p } else { &self.q };
        let at = usize_of(col.checked_sub(self.cols.start)?) * SECTORS;
        sums.as_ref()?.get(at..at + SECTORS)
    }
}

/// A row's records.
pub(crate) struct RowHistory {
    data_chunks: usize,
    first: Seq,
    layers: Vec<Layer>,
    notes: Vec<Note>,
    /// Notes of an earlier replay that put the row together.
    settled: Vec<Note>,
    /// Data since the last intent, by its sequence.
    pieces: Vec<Piece>,
    /// Blocks that were lost since the last intent, and between that and the one before it.
    lost: [Vec<Lost>; 2],
}

/// A block that was given up.
#[derive(Debug, Clone, Copy)]
struct Lost {
    index: usize,
    col: u64,
    /// The list says so as well.
    is_listed: bool,
}

struct Piece {
    seq: Seq,
    index: usize,
    col: u64,
    data: SharedBuf,
}

impl RowHistory {
    pub(crate) fn new(data_chunks: usize, first: Seq) -> Self {
        Self {
            data_chunks,
            first,
            layers: Vec::new(),
            notes: Vec::new(),
            settled: Vec::new(),
            pieces: Vec::new(),
            lost: [Vec::new(), Vec::new()],
        }
    }

    /// The oldest record.
    pub(crate) fn first(&self) -> Seq {
        self.first
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Notes of an earlier replay: parity of the row as that had put it together. They say nothing of
    /// whether the row's intent is in place.
    pub(crate) fn settled(&self) -> &[Note] {
        &self.settled
    }

    /// A block that the journal has, and that is newer than every intent.
    pub(crate) fn newest(&self, index: usize, cols: &Columns) -> Option<SharedBuf> {
        match self.layers.last()? {
            Layer::Data(overlay) => overlay.get(index, cols),
            Layer::Intent(_) => None,
        }
    }

    /// The sums that the last intent announced.
    pub(crate) fn last_intent(&self) -> Option<&[u32]> {
        self.layers.iter().rev().find_map(|layer| match layer {
            Layer::Intent(sums) => Some(&sums[..]),
            Layer::Data(_) => None,
        })
    }

    pub(crate) fn intents(&self) -> usize {
        let intents = self.layers.iter();
        intents
            .filter(|layer| matches!(layer, Layer::Intent(_)))
            .count()
    }

    pub(crate) fn has_intent(&self) -> bool {
        self.intents() > 0
    }

    pub(crate) fn data(&mut self, seq: Seq, index: usize, col: u64, data: SharedBuf) {
        if !matches!(self.layers.last(), Some(Layer::Data(_))) {
            self.layers
                .push(Layer::Data(Overlay::new(self.data_chunks)));
        }
        if let Some(Layer::Data(overlay)) = self.layers.last_mut() {
            overlay.put(index, col, data.clone());
        }
        self.pieces.push(Piece {
            seq,
            index,
            col,
            data,
        });
    }

    /// Takes an intent. Gives the blocks that are healed by the one before it, which is in place now: what was lost
    /// before that and not since, and isn't on the list, which leaves out what it healed before another may follow.
    pub(crate) fn intent(&mut self, sums: Vec<u32>) -> Vec<(usize, u64)> {
        self.notes.clear();
        self.settled.clear();
        self.pieces.clear();
        self.layers.push(Layer::Intent(sums));
        let [since, before] = &mut self.lost;
        let is_lost_again = |lost: &Lost| {
            let mut again = since.iter();
            again.any(|other| (other.index, other.col) == (lost.index, lost.col))
        };
        let healed = before
            .iter()
            .filter(|lost| !lost.is_listed && !is_lost_again(lost));
        let healed = healed.map(|lost| (lost.index, lost.col)).collect();
        *before = std::mem::take(since);
        healed
    }

    /// A block was lost, and zeros took its place.
    pub(crate) fn lost(&mut self, index: usize, col: u64, is_listed: bool) {
        let [since, _] = &mut self.lost;
        since.push(Lost {
            index,
            col,
            is_listed,
        });
    }

    /// Whether the newest notes are a cycle's, which may not have come to its end. A replay that put the row together
    /// later, and whose records are gone as far as the row's intent, did.
    pub(crate) fn is_noted(&self) -> bool {
        let newest = |notes: &[Note]| notes.first().map(|note| note.below);
        newest(&self.notes) > newest(&self.settled)
    }

    /// Takes a note.
    pub(crate) fn note(&mut self, note: Note) {
        let notes = if note.is_settled {
            &mut self.settled
        } else {
            &mut self.notes
        };
        if notes.first().is_some_and(|other| other.below < note.below) {
            notes.clear();
        }
        notes.push(note);
    }

    /// The newest contents that the last notes cover. Records that were logged while their cycle was
    /// planning come before the notes and aren't in them.
    pub(crate) fn noted(&self) -> Overlay {
        let below = self.notes.first().map(|note| note.below);
        let mut whole = Overlay::new(self.data_chunks);
        for piece in &self.pieces {
            if Some(piece.seq) < below || on(Mutation::NoteWithoutThrough) {
                whole.put(piece.index, piece.col, piece.data.clone());
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use cairn_blockdev::units::BLOCK;

    use super::*;
    use crate::journal::entry::{Kind, Tag};

    fn note(below: u64, roles: u8) -> Note {
        let entry = Entry {
            arg: below,
            tag: Tag::new(&[roles]).unwrap(),
            ..Entry::without_payload(Kind::Note, 0, BLOCK, Vec::new())
        };
        Note::new(&entry, 0..1)
    }

    #[test]
    fn what_an_intent_healed_stays_healed_once_another_follows() {
        let mut history = RowHistory::new(2, Seq(1));
        history.lost(0, 3, false);
        history.lost(1, 3, true);
        history.lost(1, 4, false);
        assert_eq!(history.intent(Vec::new()), [], "it may not be in place");
        history.lost(1, 4, false);
        assert_eq!(
            history.intent(Vec::new()),
            [(0, 3)],
            "not what the list says, nor what was lost again"
        );
        assert_eq!(history.intent(Vec::new()), [(1, 4)]);
        assert_eq!(history.intent(Vec::new()), []);
    }

    /// A start was cut off once it had put the row in place and let its intent go: what is in place is newer than what
    /// the cycle before it had begun.
    #[test]
    fn a_cycle_that_a_replay_has_overtaken_is_not_finished() {
        let mut history = RowHistory::new(2, Seq(20));
        assert!(!history.is_noted());
        history.note(note(22, 0));
        assert!(history.is_noted());
        history.note(note(1000, NOTE_SETTLED));
        assert!(!history.is_noted());
        history.note(note(1100, 0));
        assert!(history.is_noted());
    }
}

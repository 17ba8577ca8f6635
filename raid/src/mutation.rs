//! Deliberate bugs, for the simulator to find: one that can't find planted bugs proves nothing.
//!
//! Without the feature `mutations` every site is `false` at compile time and gone. With it, a bug is
//! planted for the thread that asks for it.
//!
//! A block's checksum that doesn't cover the block's address isn't among them: sums lie by place in their pages,
//! so that what is found at a wrong place fails all the same, and no history could tell. The page itself has its
//! address in it, and that is ([`Mutation::PageWithoutNumber`]).

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// A write is acked before its record is in the journal.
    AckBeforeJournal,
    /// A record is acked before all lower ones are.
    AckOutOfSequence,
    /// A group goes to one member less than it must.
    OneCopyTooFew,
    /// Replay ends where the first copy has a gap, though others have the record.
    ReplayStopsAtFirstGap,
    /// Data is written in place before parity is.
    DataBeforeParity,
    /// No flush between parity and data.
    NoFlushBetween,
    /// An older record is replayed over a completed bypass.
    OldRecordOverBypass,
    /// An older record is trimmed before the bypassed data is flushed.
    TrimBeforeBypassFlushed,
    /// Records are trimmed before the checksum pages are flushed.
    TrimBeforePages,
    /// A bit of the missed map is cleared before the target is flushed.
    MissedMapClearedEarly,
    /// A stale member is believed.
    StaleMemberRead,
    /// Parity is computed from a block that wasn't verified.
    ParityFromUnverified,
    /// A checksum page is believed wherever it lies.
    PageWithoutNumber,
    /// The generation of a checksum page isn't compared.
    PageWithoutGeneration,
    /// An extent is used again before its unmapping is durable.
    ReuseBeforeUnmapDurable,
    /// A second replay does something else than the first.
    ReplayNotIdempotent,
    /// A replay that puts rows in place in parts lets records go that the next parts need.
    ReplayWithoutHold,
    /// A note is taken to cover records that came after its parity was computed.
    NoteWithoutThrough,
    /// A write is acked before the ejection that it caused is durable.
    AckBeforeEjection,
    /// The labels say that more is filled than was flushed.
    CursorAheadOfFlush,
    /// Disks become members before what they were filled with is flushed.
    MembersAheadOfFlush,
    /// A discard leaves older records of its range to be replayed.
    DiscardDoesNotRevoke,
    /// A group's copies on journal disks count among those on members.
    CopiesMixed,
    /// A row is overwritten as a whole before its intent is durable.
    IntentNotDurable,
    /// A read doesn't ask again whether a block was given up while it was on its way.
    LossUnseenByRead,
    /// An intent takes the lost blocks of its row off the list before the row is in place.
    IntentHeals,
    /// A start goes on needing the one disk that has a record.
    OnlyCopyNotKept,
    /// A block that a disk writes whole is taken for torn.
    WholeBlockTorn,
    /// What a slow disk may have in its cache alone counts as durable.
    SlowDiskCounted,
    /// Disks that replace members have no copies of what was logged before they are members.
    SuccessorWithoutCopies,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::AckBeforeJournal,
        Self::AckOutOfSequence,
        Self::OneCopyTooFew,
        Self::ReplayStopsAtFirstGap,
        Self::DataBeforeParity,
        Self::NoFlushBetween,
        Self::OldRecordOverBypass,
        Self::TrimBeforeBypassFlushed,
        Self::TrimBeforePages,
        Self::MissedMapClearedEarly,
        Self::StaleMemberRead,
        Self::ParityFromUnverified,
        Self::PageWithoutNumber,
        Self::PageWithoutGeneration,
        Self::ReuseBeforeUnmapDurable,
        Self::ReplayNotIdempotent,
        Self::ReplayWithoutHold,
        Self::NoteWithoutThrough,
        Self::AckBeforeEjection,
        Self::CursorAheadOfFlush,
        Self::MembersAheadOfFlush,
        Self::DiscardDoesNotRevoke,
        Self::CopiesMixed,
        Self::IntentNotDurable,
        Self::LossUnseenByRead,
        Self::IntentHeals,
        Self::OnlyCopyNotKept,
        Self::WholeBlockTorn,
        Self::SlowDiskCounted,
        Self::SuccessorWithoutCopies,
    ];
}

#[cfg(feature = "mutations")]
mod planted {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
        static REACHED: Cell<bool> = const { Cell::new(false) };
    }

    /// Plants a bug for this thread, or none.
    pub fn plant(mutation: Option<Mutation>) {
        PLANTED.set(mutation);
        REACHED.set(false);
    }

    /// Whether the code that bears the planted bug has run since.
    pub fn reached() -> bool {
        REACHED.get()
    }

    pub(crate) fn on(mutation: Mutation) -> bool {
        let on = PLANTED.get() == Some(mutation);
        if on {
            REACHED.set(true);
        }
        on
    }
}

#[cfg(feature = "mutations")]
pub(crate) use planted::on;
#[cfg(feature = "mutations")]
pub use planted::{plant, reached};

/// Whether a bug is planted: never, in a build that serves data.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn on(_: Mutation) -> bool {
    false
}

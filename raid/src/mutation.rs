//! Deliberate bugs, planted one at a time, to see whether the simulator finds them.
//!
//! Exists only with the feature `mutations`, which nothing but the simulator's own build turns on, and
//! even then does nothing until a bug is planted on the thread.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A write is acked as soon as it is queued.
    AckBeforeJournal,
    /// A record is acked although one before it isn't logged.
    AckOutOfSequence,
    /// A group goes to one member fewer than it must.
    OneCopyTooFew,
    /// Replay takes a torn group for the end of a member's journal.
    ReplayStopsAtFirstGap,
    /// Data goes in place before parity.
    DataBeforeParity,
    /// No flush between parity and data.
    NoFlushBetween,
    /// Replay puts an older record over a complete row that was written past the journal.
    OldRecordOverBypass,
    /// Older records are trimmed before a complete row that supersedes them is flushed.
    TrimBeforeBypassFlushed,
    /// Records are trimmed before the checksum pages are written.
    TrimBeforePages,
    /// A returning member's missed map is cleared before the member was flushed.
    MissedMapClearedEarly,
    /// A member that missed writes is read.
    StaleMemberRead,
    /// Parity is computed from a block that doesn't match its checksum.
    ParityFromUnverified,
    /// Checksums don't know their block's address.
    SumWithoutAddress,
    /// The first valid copy of a checksum page wins, however old.
    PageWithoutGeneration,
    /// An extent is reused before its unmapping is durable.
    ReuseBeforeUnmapDurable,
    /// A replay that is interrupted leaves what the next one can't finish.
    ReplayNotIdempotent,
    /// A note doesn't say which records its parity covers.
    NoteWithoutThrough,
    /// A write is acked before the ejection that it caused is durable.
    AckBeforeEjection,
    /// A rebuild's cursor in the labels runs ahead of what is flushed.
    CursorAheadOfFlush,
    /// Replay doesn't let a discard revoke older records.
    DiscardDoesNotRevoke,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 20] = [
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
        Self::SumWithoutAddress,
        Self::PageWithoutGeneration,
        Self::ReuseBeforeUnmapDurable,
        Self::ReplayNotIdempotent,
        Self::NoteWithoutThrough,
        Self::AckBeforeEjection,
        Self::CursorAheadOfFlush,
        Self::DiscardDoesNotRevoke,
    ];
}

#[cfg(feature = "mutations")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or takes it away.
#[cfg(feature = "mutations")]
pub fn plant(mutation: Option<Mutation>) {
    PLANTED.set(mutation);
}

/// Whether a bug is planted.
#[cfg(feature = "mutations")]
pub(crate) fn on(mutation: Mutation) -> bool {
    PLANTED.get() == Some(mutation)
}

/// Never, in a build that is for use.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn on(_mutation: Mutation) -> bool {
    false
}

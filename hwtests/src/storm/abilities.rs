//! What the engine can do so far. A cell of the matrix, or a turn of a history, that needs more is
//! not tried and is shown as waiting: the one place to say that something has come.

/// Something that a promise rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// The journal: crashes while members are missing.
    Journal,
    /// Checksums: what a disk gives without an error is verified.
    Checksums,
    /// Deadlines: a disk that hangs is read around, then ejected.
    Deadlines,
    /// The missed map: a member that was away is caught up.
    MissedMap,
    /// Scrub.
    Scrub,
}

impl Ability {
    /// Whether it is there.
    pub const fn is_there(self) -> bool {
        match self {
            Self::Journal | Self::Checksums | Self::Deadlines | Self::MissedMap | Self::Scrub => {
                true
            }
        }
    }

    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Checksums => "checksums",
            Self::Deadlines => "deadlines",
            Self::MissedMap => "missed map",
            Self::Scrub => "scrub",
        }
    }
}

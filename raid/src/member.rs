//! Member states and their transitions, in one place.
//!
//! ```text
//!   spare ──▶ rebuilding ──▶ in_sync ──▶ failed ───▶ removed
//!     └─────▶ replacing ──────▲  └─────▶ missing ──▶ removed
//!                 ▲                        │
//!                 rebuilding ◀── back ─────┘  (failed ones too: caught up, if what they missed is known)
//! ```
//!
//! A journal disk is `journal` while the ring lies on it; from there it only goes out, to `failed`,
//! `missing` or `removed`, and what comes back is a new one.
//!
//! A member that comes back is `rebuilding` until it has caught up; its entry's
//! [`Absence`](crate::label::Absence) tells it from a disk that is filled whole.
//!
//! Does not know: devices, labels, why a member failed.

use std::fmt;

/// What a disk is to its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Holds its slot's data, all of it current.
    InSync,
    /// Is being filled for a slot that has no current member.
    Rebuilding,
    /// Waits for a member to fail.
    Spare,
    /// Was thrown out after errors or by the operator; stale until caught up or rebuilt.
    Failed,
    /// Was not there when the array started; stale until caught up or rebuilt.
    Missing,
    /// Is being filled for a slot whose member still lives.
    Replacing,
    /// Belonged here once.
    Removed,
    /// Holds a ring of the journal and nothing else.
    Journal,
}

impl MemberState {
    /// The number in the label.
    pub const fn code(self) -> u8 {
        match self {
            Self::InSync => 1,
            Self::Rebuilding => 2,
            Self::Spare => 3,
            Self::Failed => 4,
            Self::Missing => 5,
            Self::Replacing => 6,
            Self::Removed => 7,
            Self::Journal => 8,
        }
    }

    /// The state of a label's number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::InSync),
            2 => Some(Self::Rebuilding),
            3 => Some(Self::Spare),
            4 => Some(Self::Failed),
            5 => Some(Self::Missing),
            6 => Some(Self::Replacing),
            7 => Some(Self::Removed),
            8 => Some(Self::Journal),
            _ => None,
        }
    }

    /// Whether a disk of this state takes part in the geometry.
    pub const fn holds_slot(self) -> bool {
        matches!(self, Self::InSync | Self::Rebuilding | Self::Replacing)
    }

    /// Whether a disk of this state is open and gets labels.
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::InSync | Self::Rebuilding | Self::Replacing | Self::Spare | Self::Journal
        )
    }

    /// Whether a disk may go from here to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Spare => !matches!(next, Self::InSync | Self::Spare | Self::Journal),
            Self::Rebuilding => {
                matches!(
                    next,
                    Self::InSync | Self::Failed | Self::Missing | Self::Spare
                )
            }
            Self::Replacing => {
                matches!(
                    next,
                    Self::InSync | Self::Rebuilding | Self::Failed | Self::Missing
                )
            }
            Self::InSync | Self::Journal => {
                matches!(next, Self::Failed | Self::Missing | Self::Removed)
            }
            // Back, with what it missed noted: the one way that isn't through a spare.
            Self::Failed | Self::Missing => matches!(next, Self::Removed | Self::Rebuilding),
            Self::Removed => false,
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InSync => "in_sync",
            Self::Rebuilding => "rebuilding",
            Self::Spare => "spare",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Replacing => "replacing",
            Self::Removed => "removed",
            Self::Journal => "journal",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_inverse_and_nothing_comes_back_from_failure_by_itself() {
        for code in 1..=8 {
            assert_eq!(MemberState::from_code(code).unwrap().code(), code);
        }
        assert_eq!(MemberState::from_code(0), None);
        assert!(!MemberState::Failed.may_become(MemberState::InSync));
        assert!(!MemberState::Missing.may_become(MemberState::InSync));
        assert!(MemberState::Missing.may_become(MemberState::Rebuilding));
        assert!(!MemberState::Removed.may_become(MemberState::Rebuilding));
        assert!(!MemberState::Spare.may_become(MemberState::InSync));
        assert!(!MemberState::Spare.may_become(MemberState::Journal));
        assert!(!MemberState::Journal.may_become(MemberState::InSync));
        assert!(!MemberState::Failed.may_become(MemberState::Journal));
    }
}

//! RAID levels and what each of them promises.

use std::fmt;
use std::str::FromStr;

/// Most members of one array. The label has room for these and for as many spares again.
pub const MEMBERS_MAX: usize = 32;

/// How members share the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Every member holds everything.
    Raid1,
    /// One parity (XOR) per row.
    Raid5,
    /// Two parities (P and Q) per row.
    Raid6,
}

impl Level {
    /// Fewest members.
    pub const fn members_min(self) -> usize {
        match self {
            Self::Raid1 => 2,
            Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }

    /// How many failed members an array of `members` survives (R in raid/README.md).
    pub const fn redundancy(self, members: usize) -> usize {
        match self {
            Self::Raid1 => members.saturating_sub(1),
            Self::Raid5 => 1,
            Self::Raid6 => 2,
        }
    }

    /// The number in the label.
    pub const fn code(self) -> u32 {
        match self {
            Self::Raid1 => 1,
            Self::Raid5 => 5,
            Self::Raid6 => 6,
        }
    }

    /// The level of a label's number.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Raid1),
            5 => Some(Self::Raid5),
            6 => Some(Self::Raid6),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raid{}", self.code())
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().trim_start_matches("raid") {
            "1" => Ok(Self::Raid1),
            "5" => Ok(Self::Raid5),
            "6" => Ok(Self::Raid6),
            _ => Err(format!("unknown level {text:?}: use raid1, raid5 or raid6")),
        }
    }
}

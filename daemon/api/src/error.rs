//! Errors of the admin API: a stable code, a message that names the thing, the next step.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the tool exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Healthy, or done.
    Done,
    /// Degraded, or the request failed.
    Failed,
    /// An array has failed.
    ArrayFailed,
    /// The command line asks for something that can't be.
    Usage,
    /// The daemon can't be reached.
    Unreachable,
}

impl Exit {
    /// The number that the process returns.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::ArrayFailed => 2,
            Self::Usage => 3,
            Self::Unreachable => 4,
        }
    }
}

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request isn't one: bad JSON, an unknown field, a body too long.
    BadRequest,
    /// An argument is out of range or contradicts another.
    InvalidArgument,
    /// It destroys data or takes the last redundancy, and `yes` wasn't given.
    ConfirmationRequired,
    /// No such route.
    UnknownRoute,
    /// No array of that name.
    UnknownArray,
    /// No such disk, or not in the array named.
    UnknownDisk,
    /// No volume of that name.
    UnknownVolume,
    /// The volume isn't exported there.
    UnknownExport,
    /// The name is taken.
    NameTaken,
    /// The disk is in an array, mounted, or open elsewhere.
    DiskInUse,
    /// The disk bears a foreign signature and `wipe` doesn't name it.
    DiskForeign,
    /// The same disk twice.
    DiskDuplicate,
    /// The disk can't be opened or used: absent, too small, permission, sector size.
    DiskUnusable,
    /// The array can't do this in its present state, or has exported volumes.
    ArrayBusy,
    /// The array can't be started now; waiting or force may help, as the hint says.
    ArrayNotStarted,
    /// More members are gone than the level survives.
    ArrayFailed,
    /// No space is left for it.
    NoSpace,
    /// The export can't listen there: path too long, address in use, not loopback.
    ExportAddress,
    /// A disk or the state directory failed underneath.
    Io,
    /// The daemon is stopping.
    Stopping,
    /// A bug in the daemon.
    Internal,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

crate::wire::wire_names!(ErrorCode {
    BadRequest => "bad_request",
    InvalidArgument => "invalid_argument",
    ConfirmationRequired => "confirmation_required",
    UnknownRoute => "unknown_route",
    UnknownArray => "unknown_array",
    UnknownDisk => "unknown_disk",
    UnknownVolume => "unknown_volume",
    UnknownExport => "unknown_export",
    NameTaken => "name_taken",
    DiskInUse => "disk_in_use",
    DiskForeign => "disk_foreign",
    DiskDuplicate => "disk_duplicate",
    DiskUnusable => "disk_unusable",
    ArrayBusy => "array_busy",
    ArrayNotStarted => "array_not_started",
    ArrayFailed => "array_failed",
    NoSpace => "no_space",
    ExportAddress => "export_address",
    Io => "io",
    Stopping => "stopping",
    Internal => "internal",
    Other => "other",
});

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest | Self::InvalidArgument | Self::ExportAddress => 400,
            Self::UnknownRoute
            | Self::UnknownArray
            | Self::UnknownDisk
            | Self::UnknownVolume
            | Self::UnknownExport => 404,
            Self::ConfirmationRequired
            | Self::NameTaken
            | Self::DiskInUse
            | Self::DiskForeign
            | Self::DiskDuplicate
            | Self::DiskUnusable
            | Self::ArrayBusy
            | Self::ArrayNotStarted => 409,
            Self::ArrayFailed | Self::Io | Self::Internal | Self::Other => 500,
            Self::Stopping => 503,
            Self::NoSpace => 507,
        }
    }

    /// How the tool exits after it.
    pub const fn exit(self) -> Exit {
        match self {
            Self::BadRequest | Self::InvalidArgument | Self::ConfirmationRequired => Exit::Usage,
            Self::ArrayFailed => Exit::ArrayFailed,
            Self::Stopping => Exit::Unreachable,
            _ => Exit::Failed,
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence that names the thing.
    pub message: String,
    /// One sentence: the next step. Empty where there is none.
    #[serde(default)]
    pub hint: String,
}

impl fmt::Display for ErrorDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Body of every reply whose HTTP status isn't 200. Wrapped in [`crate::Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_one_name_on_the_wire_and_in_print() {
        for code in [
            ErrorCode::BadRequest,
            ErrorCode::ConfirmationRequired,
            ErrorCode::DiskForeign,
            ErrorCode::Io,
        ] {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
        let later: ErrorCode = serde_json::from_str("\"no_such_code_yet\"").unwrap();
        assert_eq!(later, ErrorCode::Other);
    }

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        assert_eq!(ErrorCode::InvalidArgument.exit().code(), 3);
        assert_eq!(ErrorCode::ConfirmationRequired.exit().code(), 3);
        assert_eq!(ErrorCode::UnknownArray.exit().code(), 1);
        assert_eq!(ErrorCode::ArrayFailed.exit().code(), 2);
        assert_eq!(Exit::Unreachable.code(), 4);
        assert_eq!(Exit::Done.code(), 0);
    }
}

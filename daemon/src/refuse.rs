//! Answers that say no: a stable code, a sentence that names the thing, the next step.

use cairn_api::{ErrorCode, ErrorDetail};
use cairn_blockdev::{IoError, IoErrorKind};
use cairn_raid::RaidError;
use cairn_replication::StoreError;

/// What a request is answered with.
pub type Answer<T> = Result<T, ErrorDetail>;

/// A refusal.
pub fn refuse(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ErrorDetail {
    ErrorDetail {
        code,
        message: message.into(),
        hint: hint.into(),
    }
}

/// An argument that can't be.
pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ErrorDetail {
    refuse(ErrorCode::InvalidArgument, message, hint)
}

/// Something that wants `yes`.
pub fn confirm(message: impl Into<String>) -> ErrorDetail {
    refuse(
        ErrorCode::ConfirmationRequired,
        message,
        "if this is what you want, repeat it with --yes",
    )
}

/// No array of that name.
pub fn unknown_array(name: &str) -> ErrorDetail {
    refuse(
        ErrorCode::UnknownArray,
        format!("no array {name:?} is known here"),
        "`cairn array list` shows what there is; `cairn array assemble NAME --scan PATH…` looks at \
         further disks",
    )
}

/// No volume of that name.
pub fn unknown_volume(name: &str) -> ErrorDetail {
    refuse(
        ErrorCode::UnknownVolume,
        format!("no volume {name:?} in any running array"),
        "`cairn volume list` shows what there is; a volume of a stopped array appears when the \
         array is assembled",
    )
}

/// A bug: the sentence says what should have held.
pub fn internal(message: impl Into<String>) -> ErrorDetail {
    refuse(
        ErrorCode::Internal,
        message,
        "this is a defect of cairnd: the log has more; a restart reassembles from the labels",
    )
}

/// The metadata store's words.
pub fn store(error: &StoreError) -> ErrorDetail {
    refuse(
        ErrorCode::Io,
        error.to_string(),
        "look at the disk and the free space under the state directory",
    )
}

/// A device's words.
pub fn io(error: &IoError) -> ErrorDetail {
    let (code, hint) = match error.kind {
        IoErrorKind::NoSpace => (ErrorCode::NoSpace, "free space, or add disks"),
        IoErrorKind::Busy => (
            ErrorCode::DiskInUse,
            "find out who holds it (`fuser -v PATH`, `lsblk`) and release it",
        ),
        IoErrorKind::Stopped => (ErrorCode::Stopping, "the array or the daemon is stopping"),
        IoErrorKind::Unsupported | IoErrorKind::Misaligned => (
            ErrorCode::DiskUnusable,
            "use a block device or a regular file on a file system with direct I/O",
        ),
        _ => (ErrorCode::Io, "look at the kernel's log for this disk"),
    };
    refuse(code, error.to_string(), hint)
}

/// An array's words.
pub fn raid(error: &RaidError) -> ErrorDetail {
    let message = error.to_string();
    let (code, hint) = match error {
        RaidError::Geometry(_)
        | RaidError::BadName { .. }
        | RaidError::BadSize { .. }
        | RaidError::JournalDisks { .. }
        | RaidError::NoJournal
        | RaidError::NoScrub { .. } => (ErrorCode::InvalidArgument, ""),
        RaidError::TooSmall { .. } => (ErrorCode::DiskUnusable, "use a larger disk"),
        RaidError::VolumeExists { .. } => (ErrorCode::NameTaken, ""),
        RaidError::NoVolume { .. } => (ErrorCode::UnknownVolume, ""),
        RaidError::TooManyVolumes { .. } => (ErrorCode::NoSpace, ""),
        RaidError::NoMember { .. } => (ErrorCode::UnknownDisk, ""),
        RaidError::MemberState { .. } | RaidError::TooManyDisks { .. } => {
            (ErrorCode::ArrayBusy, "")
        }
        RaidError::NoRedundancy { .. } => (
            ErrorCode::ArrayBusy,
            "add a spare with `cairn array spare add` and let it rebuild first",
        ),
        RaidError::Cloned { .. } | RaidError::SameDisk { .. } => (ErrorCode::DiskDuplicate, ""),
        RaidError::NotStarted {
            wait_may_help,
            force_may_help,
            ..
        } => (
            ErrorCode::ArrayNotStarted,
            match (wait_may_help, force_may_help) {
                (true, true) => {
                    "connect the missing disks, or start without them with \
                     `cairn array assemble NAME --force`"
                }
                (true, false) => "connect the missing disks and assemble again",
                (false, true) => "`cairn array assemble NAME --force` starts it all the same",
                (false, false) => "restore the missing disks, or their data from a backup",
            },
        ),
        RaidError::Format { .. } => (ErrorCode::DiskUnusable, ""),
        RaidError::ReadOnly { .. } => (ErrorCode::ArrayBusy, ""),
        RaidError::Failed { .. } => (
            ErrorCode::ArrayFailed,
            "bring back failed disks that can still be read, stop the array and assemble it again",
        ),
        RaidError::Stopping { .. } => (ErrorCode::Stopping, ""),
        RaidError::Unanswered { .. } => (ErrorCode::DiskInUse, ""),
        RaidError::Io(error) => return io(error),
        RaidError::Witness { .. } => (ErrorCode::Io, ""),
    };
    match error {
        RaidError::NotStarted { array, .. } => refuse(code, message, hint.replace("NAME", array)),
        _ => refuse(code, message, hint),
    }
}

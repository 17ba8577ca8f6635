//! What can go wrong with an array, each with the thing's name and the next step.

use cairn_blockdev::IoError;
use uuid::Uuid;

use crate::geometry::GeometryError;

/// An operation on an array failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RaidError {
    /// The asked shape is impossible.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A disk is too small to be a member.
    #[error("{disk}: {size} bytes is too small: {need} bytes are needed for {what}")]
    TooSmall {
        /// Path of the disk.
        disk: String,
        /// Its bytes.
        size: u64,
        /// Bytes needed.
        need: u64,
        /// What for.
        what: String,
    },
    /// A name that can't be.
    #[error(
        "name {name:?}: use 1 to 48 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    )]
    BadName {
        /// As given.
        name: String,
    },
    /// A volume of this name exists.
    #[error("volume {name} exists already in array {array}: choose another name")]
    VolumeExists {
        /// The volume.
        name: String,
        /// The array.
        array: String,
    },
    /// No such volume.
    #[error("no volume {name} in array {array}: `cairn volume list` shows what there is")]
    NoVolume {
        /// The volume.
        name: String,
        /// The array.
        array: String,
    },
    /// No room in the volume table.
    #[error("array {array} holds its {max} volumes already: delete one, or create another array")]
    TooManyVolumes {
        /// The array.
        array: String,
        /// The bound.
        max: usize,
    },
    /// A size that can't be.
    #[error("volume {name}: {reason}")]
    BadSize {
        /// The volume.
        name: String,
        /// Why.
        reason: String,
    },
    /// No such member or spare.
    #[error("{disk} is no member or spare of array {array}: `cairn array show {array}` lists them")]
    NoMember {
        /// As given.
        disk: String,
        /// The array.
        array: String,
    },
    /// The member is in no state for this.
    #[error("{disk} is {state} in array {array}: {hint}")]
    MemberState {
        /// The disk.
        disk: String,
        /// Its state.
        state: String,
        /// The array.
        array: String,
        /// The next step.
        hint: String,
    },
    /// The last redundancy would go.
    #[error("array {array}: {disk} can't go: {reason}")]
    NoRedundancy {
        /// The array.
        array: String,
        /// The disk.
        disk: String,
        /// Why.
        reason: String,
    },
    /// The table in the label is full.
    #[error("array {array} lists {max} disks already: remove failed disks or spares first")]
    TooManyDisks {
        /// The array.
        array: String,
        /// The bound.
        max: usize,
    },
    /// A number of journal disks that can't be.
    #[error(
        "{given} journal disk(s) for {level} of {members} members: it takes {fewest} to {most}, for {lost} of them may be lost as {lost} of the members may"
    )]
    JournalDisks {
        /// Asked for.
        given: usize,
        /// The level.
        level: String,
        /// Its members.
        members: usize,
        /// R+1.
        fewest: usize,
        /// As many as make sense.
        most: usize,
        /// R.
        lost: usize,
    },
    /// Journal disks for an array without a journal.
    #[error(
        "journal disks are of no use to an array without a journal: leave out one or the other"
    )]
    NoJournal,
    /// Two disks bear the same member's label.
    #[error(
        "{first} and {second} both bear the label of member {member}: one is a copy; disconnect or wipe the copy"
    )]
    Cloned {
        /// One path.
        first: String,
        /// The other.
        second: String,
        /// The identity both claim.
        member: Uuid,
    },
    /// Two paths lead to one disk.
    #[error("{first} and {second} are the same disk by two paths: give each disk once")]
    SameDisk {
        /// One path.
        first: String,
        /// The other.
        second: String,
    },
    /// The array wasn't started.
    #[error("array {array} is not started: {reason}")]
    NotStarted {
        /// The array.
        array: String,
        /// Why.
        reason: String,
        /// Missing disks may still turn up.
        wait_may_help: bool,
        /// `--force` would start it, at the price that the reason names.
        force_may_help: bool,
    },
    /// A label or map that this version can't use.
    #[error("{disk}: {reason}")]
    Format {
        /// The disk.
        disk: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing of it may be changed.
    #[error("array {array} is read only: {reason}")]
    ReadOnly {
        /// The array.
        array: String,
        /// Why.
        reason: String,
    },
    /// More members are gone than the level survives.
    #[error("array {array} has lost more members than its level survives: {reason}")]
    Failed {
        /// The array.
        array: String,
        /// What happened.
        reason: String,
    },
    /// No scrub is under way.
    #[error("array {array}: there is no scrub to {verb}: `cairn array scrub {array}` starts one")]
    NoScrub {
        /// The array.
        array: String,
        /// What was asked.
        verb: &'static str,
    },
    /// The array is stopping.
    #[error("array {array} is stopping")]
    Stopping {
        /// The array.
        array: String,
    },
    /// A disk still owes answers, and what it was asked may yet land on it.
    #[error(
        "{disk} hasn't answered {operations} operation(s) that array {array} asked of it: a late write would spoil what is put on it now; wait until it answers, or power the disk off and on, and then try again"
    )]
    Unanswered {
        /// The disk.
        disk: String,
        /// The array.
        array: String,
        /// Operations on their way.
        operations: usize,
    },
    /// A disk failed in the middle of it.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The witness file couldn't be written.
    #[error(
        "array {array}: the event witness can't be written: {reason}; free space in the state directory"
    )]
    Witness {
        /// The array.
        array: String,
        /// Why.
        reason: String,
    },
}

//! The numbers of the NBD protocol that the client needs; all on the wire is big-endian.

/// The server's first word.
pub(super) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Opens the newstyle greeting and every option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request.
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: options are answered one by one.
pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: no padding after the old way of choosing an export.
pub(super) const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Option: describe an export and start transmission.
pub(super) const OPT_GO: u32 = 7;
/// Option: agree on structured replies.
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;

/// Option reply: done.
pub(super) const REP_ACK: u32 = 1;
/// Option reply: a piece of information.
pub(super) const REP_INFO: u32 = 3;
/// Set in every option reply that is an error.
pub(super) const REP_ERROR: u32 = 1 << 31;

/// Information: size and flags.
pub(super) const INFO_EXPORT: u16 = 0;
/// Information: block sizes.
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: takes no writes.
pub(super) const TRANSMISSION_READ_ONLY: u16 = 1 << 1;

/// The last chunk of a reply.
pub(super) const CHUNK_FLAG_DONE: u16 = 1 << 0;

/// What a chunk carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Nothing.
    None,
    /// Data at an offset.
    Data,
    /// Zeros at an offset.
    Hole,
    /// An error, perhaps with its place.
    Error,
    /// Something that wasn't asked for.
    Other,
}

impl Chunk {
    /// By the number on the wire.
    pub(super) const fn of(kind: u16) -> Self {
        match kind {
            0 => Self::None,
            1 => Self::Data,
            2 => Self::Hole,
            0x8001 | 0x8002 => Self::Error,
            _ => Self::Other,
        }
    }
}

/// A request's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
}

impl Command {
    const fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
        }
    }

    /// For messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Disconnect => "disconnect",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write of zeros",
        }
    }
}

/// A request without flags.
pub(super) fn request(command: Command, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.code().to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

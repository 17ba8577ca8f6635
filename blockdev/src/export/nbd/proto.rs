//! The numbers and fixed-size messages of the NBD protocol (`doc/proto.md` of the NBD project).
//!
//! Everything on this wire is big-endian, unlike Cairn's own formats. Names are the protocol's,
//! without the `NBD_` before them.

use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{IoErrorKind, IoOp};

/// The first word from the server: "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Opens the newstyle greeting and every option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Opens every request with extended headers.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Opens a chunk of a reply with extended headers.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Handshake and client flag: options are answered one by one.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake and client flag: the 124 zeros after EXPORT_NAME are left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Bytes of zeros that end the answer to EXPORT_NAME unless [`FLAG_NO_ZEROES`] was agreed.
pub const EXPORT_NAME_ZEROES: [u8; 124] = [0; 124];

/// Longest string (name, description, query) that the protocol allows, in bytes.
pub const STRING_MAX_BYTES: usize = 4096;

/// Largest payload of one READ or WRITE, advertised to clients: 32 MiB, which the protocol calls
/// portable.
pub const PAYLOAD_MAX_BYTES: u32 = 32 << 20;

/// Option codes.
pub mod opt {
    /// Choose an export and start transmission, the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// End the negotiation.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Start TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and start transmission.
    pub const GO: u32 = 7;
    /// Agree on structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Agree on extended headers: 64-bit lengths, replies of one width.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Reply types to options.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information on an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is unknown here.
    pub const ERR_UNSUP: u32 = (1 << 31) | 1;
    /// The option's payload breaks the protocol.
    pub const ERR_INVALID: u32 = (1 << 31) | 3;
    /// Only after STARTTLS.
    pub const ERR_TLS_REQD: u32 = (1 << 31) | 5;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) | 6;
    /// The server, or the export, is going away.
    pub const ERR_SHUTDOWN: u32 = (1 << 31) | 7;
    /// The option's payload is too large.
    pub const ERR_TOO_BIG: u32 = (1 << 31) | 9;
    /// Extended headers are agreed on, and take precedence.
    pub const ERR_EXT_HEADER_REQD: u32 = (1 << 31) | 0xa;
}

/// Information types of INFO and GO.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest I/O.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what the server does on an export.
pub mod flag {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Takes no writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is served.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is served.
    pub const SEND_FUA: u16 = 1 << 3;
    /// Spinning disk.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM is served.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is served.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// Reads can be had in one chunk.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers the writes of all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is served.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// FAST_ZERO is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// A BLOCK_STATUS may say in a payload which contexts it asks for.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Request types.
pub mod cmd {
    /// Read.
    pub const READ: u16 = 0;
    /// Write; a payload follows.
    pub const WRITE: u16 = 1;
    /// End the connection once everything before is answered.
    pub const DISC: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// Give a range back.
    pub const TRIM: u16 = 4;
    /// A range will soon be read.
    pub const CACHE: u16 = 5;
    /// Make a range zero.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask what a range holds.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Request flags.
pub mod cmd_flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES: keep the space allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ: answer in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS: one run is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES: only if faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// Extended headers: the length is that of a payload which follows.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunk types of structured replies.
pub mod chunk {
    /// The last chunk of its reply (a flag).
    pub const FLAG_DONE: u16 = 1 << 0;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Runs of one metadata context.
    pub const BLOCK_STATUS: u16 = 5;
    /// The same with 64-bit lengths, for extended headers.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The request failed.
    pub const ERROR: u16 = (1 << 15) | 1;
}

/// Flags of a run in `base:allocation`.
pub mod state {
    /// Not allocated.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeros.
    pub const ZERO: u32 = 1 << 1;
}

/// The error numbers of replies; the protocol's own, though they look like Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// Operation not permitted.
    Perm,
    /// Input/output error.
    Io,
    /// Invalid argument.
    Inval,
    /// No space left on device.
    NoSpc,
    /// Value too large.
    Overflow,
    /// Operation not supported.
    NotSup,
    /// Server is shutting down.
    Shutdown,
}

impl Errno {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// What a client is told of a device's failure.
    pub const fn of(kind: IoErrorKind, op: IoOp) -> Self {
        match kind {
            IoErrorKind::NoSpace => Self::NoSpc,
            IoErrorKind::ReadOnly => Self::Perm,
            IoErrorKind::OutOfRange if matches!(op, IoOp::Write) => Self::NoSpc,
            IoErrorKind::OutOfRange | IoErrorKind::Misaligned => Self::Inval,
            IoErrorKind::Unsupported => Self::NotSup,
            IoErrorKind::Stopped => Self::Shutdown,
            // The protocol has no number for these, and none of them is the client's doing.
            IoErrorKind::Medium
            | IoErrorKind::Gone
            | IoErrorKind::Busy
            | IoErrorKind::TimedOut
            | IoErrorKind::Lost => Self::Io,
        }
    }
}

/// The server's first message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// [`INIT_MAGIC`].
    pub init_magic: U64,
    /// [`OPTION_MAGIC`].
    pub option_magic: U64,
    /// Handshake flags.
    pub flags: U16,
}
const _: () = assert!(size_of::<Greeting>() == 18);

/// Before every option's payload.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// One of [`opt`], or anything.
    pub option: U32,
    /// Bytes of payload.
    pub len: U32,
}
const _: () = assert!(size_of::<OptionHeader>() == 16);

/// Before every option reply's payload.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionReplyHeader {
    /// [`OPTION_REPLY_MAGIC`].
    pub magic: U64,
    /// The option replied to.
    pub option: U32,
    /// One of [`rep`].
    pub kind: U32,
    /// Bytes of payload.
    pub len: U32,
}
const _: () = assert!(size_of::<OptionReplyHeader>() == 20);

/// The answer to EXPORT_NAME, before its zeros.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExportNameReply {
    /// Bytes of the export.
    pub size: U64,
    /// Transmission flags.
    pub flags: U16,
}
const _: () = assert!(size_of::<ExportNameReply>() == 10);

/// A piece of information: size and flags.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoExport {
    /// [`info::EXPORT`].
    pub kind: U16,
    /// Bytes of the export.
    pub size: U64,
    /// Transmission flags.
    pub flags: U16,
}
const _: () = assert!(size_of::<InfoExport>() == 12);

/// A piece of information: block sizes, in bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoBlockSize {
    /// [`info::BLOCK_SIZE`].
    pub kind: U16,
    /// Offsets and lengths are multiples of it.
    pub minimum: U32,
    /// Below this, I/O costs more than it need.
    pub preferred: U32,
    /// Largest payload.
    pub maximum: U32,
}
const _: () = assert!(size_of::<InfoBlockSize>() == 14);

/// A request of the transmission phase.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RequestHeader {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// Of [`cmd_flag`].
    pub flags: U16,
    /// One of [`cmd`], or anything.
    pub kind: U16,
    /// The client's own number, given back with the reply.
    pub cookie: U64,
    /// First byte of the range.
    pub offset: U64,
    /// Bytes of the range.
    pub len: U32,
}
const _: () = assert!(size_of::<RequestHeader>() == 28);

/// A request with extended headers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ExtendedRequestHeader {
    /// [`EXTENDED_REQUEST_MAGIC`].
    pub magic: U32,
    /// Of [`cmd_flag`].
    pub flags: U16,
    /// One of [`cmd`], or anything.
    pub kind: U16,
    /// The client's own number, given back with the reply.
    pub cookie: U64,
    /// First byte of the range.
    pub offset: U64,
    /// Bytes of the payload with [`cmd_flag::PAYLOAD_LEN`], of the range without.
    pub len: U64,
}
const _: () = assert!(size_of::<ExtendedRequestHeader>() == 32);

/// A simple reply; a successful READ's data follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub magic: U32,
    /// 0 or an [`Errno`]'s code.
    pub errno: U32,
    /// The request's number.
    pub cookie: U64,
}
const _: () = assert!(size_of::<SimpleReply>() == 16);

/// Before every chunk of a structured reply.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`] or 0.
    pub flags: U16,
    /// One of [`chunk`].
    pub kind: U16,
    /// The request's number.
    pub cookie: U64,
    /// Bytes of payload.
    pub len: U32,
}
const _: () = assert!(size_of::<ChunkHeader>() == 20);

/// The head of an OFFSET_DATA chunk; data follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataChunk {
    /// The chunk's header, whose length counts `offset` too.
    pub header: ChunkHeader,
    /// Where the data lies on the export.
    pub offset: U64,
}
const _: () = assert!(size_of::<DataChunk>() == 28);

/// Before every chunk of a reply with extended headers.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedChunkHeader {
    /// [`EXTENDED_CHUNK_MAGIC`].
    pub magic: U32,
    /// [`chunk::FLAG_DONE`] or 0.
    pub flags: U16,
    /// One of [`chunk`].
    pub kind: U16,
    /// The request's number.
    pub cookie: U64,
    /// The request's offset, whatever the payload is about.
    pub offset: U64,
    /// Bytes of payload.
    pub len: U64,
}
const _: () = assert!(size_of::<ExtendedChunkHeader>() == 32);

/// The head of an OFFSET_DATA chunk with extended headers; data follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedDataChunk {
    /// The chunk's header, whose length counts `offset` too.
    pub header: ExtendedChunkHeader,
    /// Where the data lies on the export.
    pub offset: U64,
}
const _: () = assert!(size_of::<ExtendedDataChunk>() == 40);

/// The head of an ERROR chunk's payload; a message follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorPayload {
    /// An [`Errno`]'s code.
    pub errno: U32,
    /// Bytes of the message.
    pub message_len: U16,
}
const _: () = assert!(size_of::<ErrorPayload>() == 6);

/// One run of a BLOCK_STATUS chunk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StatusDescriptor {
    /// Bytes of the run.
    pub len: U32,
    /// Of [`state`].
    pub flags: U32,
}
const _: () = assert!(size_of::<StatusDescriptor>() == 8);

/// One run of a BLOCK_STATUS_EXT chunk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedStatusDescriptor {
    /// Bytes of the run.
    pub len: U64,
    /// Of [`state`].
    pub flags: U64,
}
const _: () = assert!(size_of::<ExtendedStatusDescriptor>() == 16);

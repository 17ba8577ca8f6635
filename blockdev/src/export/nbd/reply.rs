//! Replies: values that can be put on the wire without copying their data.

use std::io::IoSlice;

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::context::{Context, Contexts};
use super::framing::Framing;
use super::proto::{
    CHUNK_MAGIC, ChunkHeader, DataChunk, EXTENDED_CHUNK_MAGIC, Errno, ErrorPayload,
    ExtendedChunkHeader, ExtendedDataChunk, ExtendedStatusDescriptor, SIMPLE_REPLY_MAGIC,
    SimpleReply, StatusDescriptor, chunk,
};
use super::request::Request;
use crate::buf::Buf;
use crate::device::StatusRun;
use crate::units::{u32_of, u64_of};

/// Runs of one BLOCK_STATUS chunk: 64 KiB on the wire, 128 KiB with extended headers. A client asks
/// on from where a reply ends.
pub const STATUS_RUNS_MAX: usize = 8 << 10;

/// Memory of one BLOCK_STATUS reply: its runs as they are collected, and for every context as they
/// are sent.
pub const STATUS_BYTES_MAX: usize = STATUS_RUNS_MAX
    * (size_of::<StatusRun>() + Context::ALL.len() * size_of::<ExtendedStatusDescriptor>());

/// Bytes of an error's message: the text is for people, and fixed but for a few numbers.
const MESSAGE_MAX_BYTES: usize = 256;

/// The request that is replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// Its number.
    pub cookie: u64,
    /// Its offset.
    pub offset: u64,
    /// How the reply is framed.
    pub framing: Framing,
}

impl ReplyTo {
    /// Of `request` on a connection with this framing.
    pub const fn request(request: &Request, framing: Framing) -> Self {
        Self {
            cookie: request.cookie,
            offset: request.offset,
            framing,
        }
    }
}

/// The fixed part of a reply.
#[derive(Debug)]
enum Head {
    Simple(SimpleReply),
    Chunk(ChunkHeader),
    Data(DataChunk),
    Extended(ExtendedChunkHeader),
    ExtendedData(ExtendedDataChunk),
}

/// What follows it.
#[derive(Debug)]
enum Body {
    None,
    Data(Buf),
    /// A payload, and perhaps more chunks with theirs.
    Bytes(Vec<u8>),
}

/// One reply, ready to be sent.
#[derive(Debug)]
pub struct Reply {
    head: Head,
    body: Body,
}

impl Reply {
    /// Success without data. Simple also among structured replies, which the protocol allows for
    /// all but READ: it is the shorter one.
    pub fn done(to: ReplyTo) -> Self {
        if to.framing.is_extended() {
            Self::last_chunk(to, chunk::NONE, Vec::new())
        } else {
            Self::simple(to, 0, Body::None)
        }
    }

    /// A successful READ of no bytes; there is no data chunk without data.
    pub fn empty(to: ReplyTo) -> Self {
        if to.framing.has_chunks() {
            Self::last_chunk(to, chunk::NONE, Vec::new())
        } else {
            Self::done(to)
        }
    }

    /// A successful READ.
    pub fn data(to: ReplyTo, data: Buf) -> Self {
        let len = size_of::<u64>() + data.len();
        let head = match to.framing {
            Framing::Simple => return Self::simple(to, 0, Body::Data(data)),
            Framing::Structured => Head::Data(DataChunk {
                header: chunk_header(to, chunk::FLAG_DONE, chunk::OFFSET_DATA, len),
                offset: to.offset.into(),
            }),
            Framing::Extended => Head::ExtendedData(ExtendedDataChunk {
                header: extended_header(to, chunk::FLAG_DONE, chunk::OFFSET_DATA, len),
                offset: to.offset.into(),
            }),
        };
        Self {
            head,
            body: Body::Data(data),
        }
    }

    /// A failure; `message` reaches the client where replies are chunks.
    pub fn failed(to: ReplyTo, errno: Errno, message: &str) -> Self {
        if !to.framing.has_chunks() {
            return Self::simple(to, errno.code(), Body::None);
        }
        let message = message
            .get(..message.floor_char_boundary(MESSAGE_MAX_BYTES))
            .unwrap_or_default();
        let message_len = u16::try_from(message.len()).unwrap_or_default();
        let payload = ErrorPayload {
            errno: U32::new(errno.code()),
            message_len: U16::new(message_len),
        };
        let mut bytes = payload.as_bytes().to_vec();
        bytes.extend_from_slice(message.as_bytes());
        Self::last_chunk(to, chunk::ERROR, bytes)
    }

    /// The runs of a BLOCK_STATUS, of which there is at least one: a chunk for each of `contexts`,
    /// of which there is at least one too.
    pub fn status(to: ReplyTo, contexts: Contexts, runs: &Runs) -> Self {
        let mut payloads = contexts.iter().map(|context| match to.framing {
            Framing::Extended => (chunk::BLOCK_STATUS_EXT, runs.extended_payload(context)),
            _ => (chunk::BLOCK_STATUS, runs.payload(context)),
        });
        let Some((kind, payload)) = payloads.next() else {
            return Self::failed(to, Errno::Inval, "no metadata context was agreed on");
        };
        let mut further: Vec<_> = payloads.collect();
        let Some((last_kind, last)) = further.pop() else {
            return Self::last_chunk(to, kind, payload);
        };
        let mut bytes = Vec::new();
        let head = head(to, 0, kind, payload.len());
        bytes.extend(payload);
        let last = (chunk::FLAG_DONE, last_kind, last);
        let further = further
            .into_iter()
            .map(|(kind, payload)| (0, kind, payload));
        for (flags, kind, payload) in further.chain([last]) {
            bytes.extend_from_slice(self::head(to, flags, kind, payload.len()).as_bytes());
            bytes.extend(payload);
        }
        Self {
            head,
            body: Body::Bytes(bytes),
        }
    }

    fn simple(to: ReplyTo, errno: u32, body: Body) -> Self {
        let head = SimpleReply {
            magic: SIMPLE_REPLY_MAGIC.into(),
            errno: errno.into(),
            cookie: to.cookie.into(),
        };
        Self {
            head: Head::Simple(head),
            body,
        }
    }

    fn last_chunk(to: ReplyTo, kind: u16, payload: Vec<u8>) -> Self {
        Self {
            head: head(to, chunk::FLAG_DONE, kind, payload.len()),
            body: Body::Bytes(payload),
        }
    }

    /// The reply's bytes, in at most two parts.
    pub fn parts(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let body: &[u8] = match &self.body {
            Body::None => &[],
            Body::Data(data) => data,
            Body::Bytes(bytes) => bytes,
        };
        [self.head.as_bytes(), body]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(IoSlice::new)
    }
}

impl Head {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Simple(head) => head.as_bytes(),
            Self::Chunk(head) => head.as_bytes(),
            Self::Data(head) => head.as_bytes(),
            Self::Extended(head) => head.as_bytes(),
            Self::ExtendedData(head) => head.as_bytes(),
        }
    }
}

/// The header of a chunk without an offset of its own.
fn head(to: ReplyTo, flags: u16, kind: u16, len: usize) -> Head {
    if to.framing.is_extended() {
        Head::Extended(extended_header(to, flags, kind, len))
    } else {
        Head::Chunk(chunk_header(to, flags, kind, len))
    }
}

fn chunk_header(to: ReplyTo, flags: u16, kind: u16, len: usize) -> ChunkHeader {
    ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: flags.into(),
        kind: kind.into(),
        cookie: to.cookie.into(),
        len: u32_of(len).into(),
    }
}

fn extended_header(to: ReplyTo, flags: u16, kind: u16, len: usize) -> ExtendedChunkHeader {
    ExtendedChunkHeader {
        magic: EXTENDED_CHUNK_MAGIC.into(),
        flags: flags.into(),
        kind: kind.into(),
        cookie: to.cookie.into(),
        offset: to.offset.into(),
        len: u64_of(len).into(),
    }
}

/// Runs collected for one BLOCK_STATUS reply: neighbours of one state are one run, and the sum of
/// all is never more than what was asked.
#[derive(Debug)]
pub struct Runs(Vec<StatusRun>);

/// How collecting goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collect {
    /// More runs are welcome.
    More,
    /// The reply is as large as it may be.
    Full,
}

impl Runs {
    /// No runs yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends `runs`, cut at `asked` bytes in sum; `one` keeps to a single run in all. Gives the
    /// bytes that were taken, too.
    pub fn extend(&mut self, runs: &[StatusRun], asked: u64, one: bool) -> (u64, Collect) {
        let runs_max = if one { 1 } else { STATUS_RUNS_MAX };
        let mut taken = 0;
        for run in runs {
            let len = run.len.min(asked - taken);
            if len == 0 {
                continue;
            }
            let full = self.0.len() == runs_max;
            match self.0.last_mut() {
                Some(last) if last.status == run.status => last.len += len,
                _ if full => return (taken, Collect::Full),
                _ => self.0.push(StatusRun {
                    len,
                    status: run.status,
                }),
            }
            taken += len;
        }
        (taken, Collect::More)
    }

    /// What `context` says of the runs, as lengths and flags: neighbours that are the same to it
    /// are one.
    fn seen_by(&self, context: Context) -> Vec<(u64, u32)> {
        let mut seen: Vec<(u64, u32)> = Vec::with_capacity(self.0.len());
        for run in &self.0 {
            let flags = context.flags(run.status);
            match seen.last_mut() {
                Some(last) if last.1 == flags => last.0 += run.len,
                _ => seen.push((run.len, flags)),
            }
        }
        seen
    }

    fn payload(&self, context: Context) -> Vec<u8> {
        let mut bytes = U32::new(context.id()).as_bytes().to_vec();
        for (len, flags) in self.seen_by(context) {
            let run = StatusDescriptor {
                // Never more than a compact request can ask for.
                len: u32::try_from(len).unwrap_or(u32::MAX).into(),
                flags: flags.into(),
            };
            bytes.extend_from_slice(run.as_bytes());
        }
        bytes
    }

    fn extended_payload(&self, context: Context) -> Vec<u8> {
        let seen = self.seen_by(context);
        let head = [U32::new(context.id()), U32::new(u32_of(seen.len()))];
        let mut bytes = head.as_bytes().to_vec();
        for (len, flags) in seen {
            let run = ExtendedStatusDescriptor {
                len: len.into(),
                flags: u64::from(flags).into(),
            };
            bytes.extend_from_slice(run.as_bytes());
        }
        bytes
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BlockStatus;
    use proptest::prelude::*;

    const STRUCTURED: ReplyTo = ReplyTo {
        cookie: 9,
        offset: 4096,
        framing: Framing::Structured,
    };
    const EXTENDED: ReplyTo = ReplyTo {
        framing: Framing::Extended,
        ..STRUCTURED
    };

    fn bytes(reply: &Reply) -> Vec<u8> {
        reply.parts().flat_map(|part| part.to_vec()).collect()
    }

    fn run(len: u64, status: BlockStatus) -> StatusRun {
        StatusRun { len, status }
    }

    /// Bytes in hex; blanks and line ends are for the reader.
    fn golden(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    fn both() -> Contexts {
        Contexts::ALL
    }

    fn three_runs() -> Runs {
        let mut runs = Runs::new();
        let found = [
            run(512, BlockStatus::Data),
            run(1024, BlockStatus::Zero),
            run(1 << 40, BlockStatus::Hole),
        ];
        assert_eq!(
            runs.extend(&found, u64::MAX, false),
            ((1 << 40) + 1536, Collect::More)
        );
        runs
    }

    #[test]
    fn golden_frames_of_extended_replies() {
        assert_eq!(
            bytes(&Reply::done(EXTENDED)),
            golden(
                "6e8a278c 0001 0000 0000000000000009
                 0000000000001000 0000000000000000"
            )
        );
        assert_eq!(
            bytes(&Reply::data(EXTENDED, Buf::copy_of(&[5; 4]))),
            golden(
                "6e8a278c 0001 0001 0000000000000009
                 0000000000001000 000000000000000c
                 0000000000001000 05050505"
            )
        );
        assert_eq!(
            bytes(&Reply::failed(EXTENDED, Errno::NoSpc, "full")),
            golden(
                "6e8a278c 0001 8001 0000000000000009
                 0000000000001000 000000000000000a
                 0000001c 0004 66756c6c"
            )
        );
        // Two contexts: the first chunk isn't the last, and depth sees data and zeros as one.
        assert_eq!(
            bytes(&Reply::status(EXTENDED, both(), &three_runs())),
            golden(
                "6e8a278c 0000 0006 0000000000000009
                 0000000000001000 0000000000000038
                 00000001 00000003
                 0000000000000200 0000000000000000
                 0000000000000400 0000000000000002
                 0000010000000000 0000000000000003
                 6e8a278c 0001 0006 0000000000000009
                 0000000000001000 0000000000000028
                 00000002 00000002
                 0000000000000600 0000000000000001
                 0000010000000000 0000000000000000"
            )
        );
    }

    #[test]
    fn golden_frames_of_structured_and_simple_replies() {
        let mut runs = Runs::new();
        runs.extend(&[run(512, BlockStatus::Hole)], 512, false);
        assert_eq!(
            bytes(&Reply::status(STRUCTURED, both(), &runs)),
            golden(
                "668e33ef 0000 0005 0000000000000009 0000000c
                 00000001 00000200 00000003
                 668e33ef 0001 0005 0000000000000009 0000000c
                 00000002 00000200 00000000"
            )
        );
        assert_eq!(
            bytes(&Reply::data(STRUCTURED, Buf::copy_of(&[5; 4]))),
            golden(
                "668e33ef 0001 0001 0000000000000009 0000000c
                 0000000000001000 05050505"
            )
        );
        let simple = ReplyTo {
            framing: Framing::Simple,
            ..STRUCTURED
        };
        assert_eq!(
            bytes(&Reply::failed(simple, Errno::Io, "unheard")),
            golden("67446698 00000005 0000000000000009")
        );
        // The short form is allowed where structured replies are agreed on.
        assert_eq!(bytes(&Reply::done(STRUCTURED)), bytes(&Reply::done(simple)));
    }

    #[test]
    fn a_failure_says_why_where_replies_are_chunks() {
        let long = "ü".repeat(400);
        for (to, header) in [(STRUCTURED, 20), (EXTENDED, 32)] {
            let reply = bytes(&Reply::failed(to, Errno::Io, &long));
            assert_eq!(reply[header..header + 4], 5u32.to_be_bytes());
            assert_eq!(reply[header + 4..header + 6], 256u16.to_be_bytes());
            assert!(std::str::from_utf8(&reply[header + 6..]).is_ok());
        }
    }

    #[test]
    fn one_run_is_one_run_in_every_chunk() {
        let mut runs = Runs::new();
        let found = [run(512, BlockStatus::Hole), run(512, BlockStatus::Data)];
        assert_eq!(runs.extend(&found, 4096, true), (512, Collect::Full));
        let reply = bytes(&Reply::status(STRUCTURED, both(), &runs));
        assert_eq!(reply.len(), 2 * (20 + 4 + 8));
        assert_eq!(reply[24..32], [0, 0, 2, 0, 0, 0, 0, 3]);
    }

    proptest! {
        #[test]
        fn runs_never_exceed_what_was_asked(
            lens in prop::collection::vec((0u64..1 << 34, 0u8..3), 0..50),
            asked in prop_oneof![any::<u64>(), 0u64..1 << 36],
            one: bool,
        ) {
            let status = [BlockStatus::Data, BlockStatus::Zero, BlockStatus::Hole];
            let found: Vec<_> = lens
                .iter()
                .map(|&(len, kind)| run(len, status[usize::from(kind)]))
                .collect();
            let mut runs = Runs::new();
            let (taken, _) = runs.extend(&found, asked, one);
            let sum: u64 = runs.0.iter().map(|run| run.len).sum();
            prop_assert_eq!(sum, taken);
            prop_assert!(taken <= asked && (!one || runs.0.len() <= 1));
            for context in Context::ALL {
                let seen = runs.seen_by(context);
                prop_assert_eq!(seen.iter().map(|run| run.0).sum::<u64>(), taken);
                for pair in seen.windows(2) {
                    prop_assert_ne!(pair[0].1, pair[1].1);
                }
            }
        }
    }
}

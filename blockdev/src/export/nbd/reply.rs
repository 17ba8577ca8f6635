//! Replies: values that can be put on the wire without copying their data.

use std::io::IoSlice;

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::proto::{
    ALLOCATION_CONTEXT_ID, CHUNK_MAGIC, ChunkHeader, DataChunk, Errno, ErrorPayload,
    SIMPLE_REPLY_MAGIC, SimpleReply, StatusDescriptor, chunk, state,
};
use crate::buf::Buf;
use crate::device::{BlockStatus, StatusRun};
use crate::units::u32_of;

/// Runs of one BLOCK_STATUS reply: 64 KiB on the wire. A client asks on from where a reply ends.
pub const STATUS_RUNS_MAX: usize = 8 << 10;

/// Bytes of an error's message: the text is for people, and fixed but for a few numbers.
const MESSAGE_MAX_BYTES: usize = 256;

/// The fixed part of a reply.
#[derive(Debug)]
enum Head {
    Simple(SimpleReply),
    Chunk(ChunkHeader),
    Data(DataChunk),
}

/// What follows it.
#[derive(Debug)]
enum Body {
    None,
    Data(Buf),
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
    pub fn done(cookie: u64) -> Self {
        Self::simple(cookie, 0, Body::None)
    }

    /// A successful READ of no bytes; there is no data chunk without data.
    pub fn empty(cookie: u64, structured: bool) -> Self {
        if structured {
            Self::chunk(cookie, chunk::NONE, Vec::new())
        } else {
            Self::done(cookie)
        }
    }

    /// A successful READ.
    pub fn data(cookie: u64, offset: u64, data: Buf, structured: bool) -> Self {
        if !structured {
            return Self::simple(cookie, 0, Body::Data(data));
        }
        let len = size_of::<u64>() + data.len();
        let head = DataChunk {
            header: chunk_header(cookie, chunk::OFFSET_DATA, len),
            offset: offset.into(),
        };
        Self {
            head: Head::Data(head),
            body: Body::Data(data),
        }
    }

    /// A failure; `message` reaches the client with structured replies only.
    pub fn failed(cookie: u64, errno: Errno, message: &str, structured: bool) -> Self {
        if !structured {
            return Self::simple(cookie, errno.code(), Body::None);
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
        Self::chunk(cookie, chunk::ERROR, bytes)
    }

    /// The runs of a BLOCK_STATUS, of which there is at least one.
    pub fn status(cookie: u64, runs: &Runs) -> Self {
        let mut bytes = U32::new(ALLOCATION_CONTEXT_ID).as_bytes().to_vec();
        for run in &runs.0 {
            bytes.extend_from_slice(run.as_bytes());
        }
        Self::chunk(cookie, chunk::BLOCK_STATUS, bytes)
    }

    fn simple(cookie: u64, errno: u32, body: Body) -> Self {
        let head = SimpleReply {
            magic: SIMPLE_REPLY_MAGIC.into(),
            errno: errno.into(),
            cookie: cookie.into(),
        };
        Self {
            head: Head::Simple(head),
            body,
        }
    }

    fn chunk(cookie: u64, kind: u16, payload: Vec<u8>) -> Self {
        Self {
            head: Head::Chunk(chunk_header(cookie, kind, payload.len())),
            body: Body::Bytes(payload),
        }
    }

    /// The reply's bytes, in at most two parts.
    pub fn parts(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let head = match &self.head {
            Head::Simple(head) => head.as_bytes(),
            Head::Chunk(head) => head.as_bytes(),
            Head::Data(head) => head.as_bytes(),
        };
        let body: &[u8] = match &self.body {
            Body::None => &[],
            Body::Data(data) => data,
            Body::Bytes(bytes) => bytes,
        };
        [head, body]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(IoSlice::new)
    }
}

fn chunk_header(cookie: u64, kind: u16, len: usize) -> ChunkHeader {
    ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: chunk::FLAG_DONE.into(),
        kind: kind.into(),
        cookie: cookie.into(),
        len: u32_of(len).into(),
    }
}

/// Runs collected for one BLOCK_STATUS reply: neighbours of one state are one run, and the sum of
/// all is never more than what was asked.
#[derive(Debug)]
pub struct Runs(Vec<StatusDescriptor>);

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
    pub fn extend(&mut self, runs: &[StatusRun], asked: u32, one: bool) -> (u32, Collect) {
        let runs_max = if one { 1 } else { STATUS_RUNS_MAX };
        let mut taken = 0;
        for run in runs {
            let len = u32::try_from(run.len)
                .unwrap_or(u32::MAX)
                .min(asked - taken);
            let flags = match run.status {
                BlockStatus::Data => 0,
                BlockStatus::Zero => state::ZERO,
                BlockStatus::Hole => state::HOLE | state::ZERO,
            };
            if len == 0 {
                continue;
            }
            let full = self.0.len() == runs_max;
            match self.0.last_mut() {
                Some(last) if last.flags.get() == flags => last.len = (last.len.get() + len).into(),
                _ if full => return (taken, Collect::Full),
                _ => self.0.push(StatusDescriptor {
                    len: len.into(),
                    flags: flags.into(),
                }),
            }
            taken += len;
        }
        (taken, Collect::More)
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
    use proptest::prelude::*;

    fn bytes(reply: &Reply) -> Vec<u8> {
        reply.parts().flat_map(|part| part.to_vec()).collect()
    }

    fn run(len: u64, status: BlockStatus) -> StatusRun {
        StatusRun { len, status }
    }

    #[test]
    fn a_structured_read_is_one_chunk_with_its_offset() {
        let reply = bytes(&Reply::data(9, 4096, Buf::copy_of(&[5; 512]), true));
        assert_eq!(reply.len(), 28 + 512);
        assert_eq!(reply[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(reply[16..20], (8u32 + 512).to_be_bytes());
        assert_eq!(reply[20..28], 4096u64.to_be_bytes());
        assert!(reply[28..].iter().all(|&byte| byte == 5));
    }

    #[test]
    fn a_failure_says_why_with_structured_replies() {
        let long = "ü".repeat(400);
        let reply = bytes(&Reply::failed(9, Errno::Io, &long, true));
        assert_eq!(reply[20..24], 5u32.to_be_bytes());
        assert_eq!(reply[24..26], 256u16.to_be_bytes());
        assert!(std::str::from_utf8(&reply[26..]).is_ok());
        let simple = bytes(&Reply::failed(9, Errno::Io, &long, false));
        assert_eq!((simple.len(), simple[7]), (16, 5));
    }

    #[test]
    fn one_run_is_one_run() {
        let mut runs = Runs::new();
        let found = [run(512, BlockStatus::Hole), run(512, BlockStatus::Data)];
        assert_eq!(runs.extend(&found, 4096, true), (512, Collect::Full));
        let reply = bytes(&Reply::status(1, &runs));
        assert_eq!(reply.len(), 20 + 4 + 8);
        assert_eq!(reply[24..], [0, 0, 2, 0, 0, 0, 0, 3]);
    }

    proptest! {
        #[test]
        fn runs_never_exceed_what_was_asked(
            lens in prop::collection::vec((0u64..1 << 34, 0u8..3), 0..50), asked: u32, one: bool,
        ) {
            let status = [BlockStatus::Data, BlockStatus::Zero, BlockStatus::Hole];
            let found: Vec<_> = lens
                .iter()
                .map(|&(len, kind)| run(len, status[usize::from(kind)]))
                .collect();
            let mut runs = Runs::new();
            let (taken, _) = runs.extend(&found, asked, one);
            let sum: u64 = runs.0.iter().map(|run| u64::from(run.len.get())).sum();
            prop_assert_eq!(sum, u64::from(taken));
            prop_assert!(taken <= asked && (!one || runs.0.len() <= 1));
            for pair in runs.0.windows(2) {
                prop_assert_ne!(pair[0].flags, pair[1].flags);
            }
        }
    }
}

//! A client that sends what it is told, right or wrong.

use cairn_blockdev::export::nbd::framing::Framing;
use cairn_blockdev::export::nbd::proto::{chunk, cmd, cmd_flag, opt, rep};
use cairn_blockdev::export::nbd::request::Request;
use cairn_blockdev::units::{u32_of, u64_of, usize_of, usize_of_u32};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// One end of a connection.
pub(crate) struct Client {
    pub(crate) stream: DuplexStream,
    framing: Framing,
    cookie: u64,
}

/// A chunk of a reply.
struct Chunk {
    last: bool,
    kind: u16,
    cookie: u64,
    payload: Vec<u8>,
}

/// A reply, simple or of a single chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) errno: u32,
    /// Data of a READ without its offset, runs of a BLOCK_STATUS without the context, the message
    /// of an error.
    pub(crate) data: Vec<u8>,
}

/// A string with its length before it.
pub(crate) fn counted(text: &str) -> Vec<u8> {
    let mut bytes = u32_of(text.len()).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The payload of INFO and GO.
pub(crate) fn info(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut payload = counted(name);
    payload.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    payload.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    payload
}

/// The payload of the metadata context options.
pub(crate) fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut payload = counted(name);
    payload.extend(u32_of(queries.len()).to_be_bytes());
    payload.extend(queries.iter().flat_map(|query| counted(query)));
    payload
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Client {
    pub(crate) async fn greeted(stream: DuplexStream) -> Self {
        Self::greeted_with(stream, 3).await
    }

    pub(crate) async fn greeted_with(stream: DuplexStream, flags: u32) -> Self {
        let mut client = Self {
            stream,
            framing: Framing::Simple,
            cookie: 0,
        };
        let greeting = client.bytes(18).await;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        client.send(&flags.to_be_bytes()).await;
        client
    }

    /// Sends as much as the server takes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        rest
    }

    pub(crate) async fn option(&mut self, option: u32, payload: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32_of(payload.len()).to_be_bytes());
        bytes.extend(payload);
        self.send(&bytes).await;
    }

    /// Type and payload of the next reply to `option`.
    pub(crate) async fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let header = self.bytes(20).await;
        assert_eq!(u64_at(&header, 0), 0x0003_e889_0455_65a9);
        assert_eq!(u32_at(&header, 8), option);
        let payload = self.bytes(usize_of_u32(u32_at(&header, 16))).await;
        (u32_at(&header, 12), payload)
    }

    /// Sends an option and gives all its replies, the final one included.
    pub(crate) async fn ask(&mut self, option: u32, payload: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.option(option, payload).await;
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply(option).await;
            let last = reply.0 == rep::ACK || reply.0 >> 31 == 1;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    /// The type of the final reply.
    pub(crate) async fn answer(&mut self, option: u32, payload: &[u8]) -> u32 {
        self.ask(option, payload).await.last().unwrap().0
    }

    pub(crate) async fn agree_on_everything(&mut self, name: &str) {
        assert_eq!(self.answer(opt::STRUCTURED_REPLY, &[]).await, rep::ACK);
        self.framing = Framing::Structured;
        let payload = contexts(name, &["base:allocation"]);
        let replies = self.ask(opt::SET_META_CONTEXT, &payload).await;
        assert_eq!(replies.len(), 2, "context not given");
    }

    pub(crate) async fn agree_on_extended_headers(&mut self) {
        assert_eq!(self.answer(opt::EXTENDED_HEADERS, &[]).await, rep::ACK);
        self.framing = Framing::Extended;
    }

    /// Chooses metadata contexts, and gives their numbers.
    pub(crate) async fn choose(&mut self, name: &str, queries: &[&str]) -> Vec<u32> {
        let replies = self
            .ask(opt::SET_META_CONTEXT, &contexts(name, queries))
            .await;
        assert_eq!(replies.last().unwrap().0, rep::ACK);
        let given = replies.iter().filter(|reply| reply.0 == rep::META_CONTEXT);
        given.map(|(_, payload)| u32_at(payload, 0)).collect()
    }

    pub(crate) async fn go(&mut self, name: &str) {
        let replies = self.ask(opt::GO, &info(name, &[])).await;
        assert_eq!(replies.last().unwrap().0, rep::ACK);
    }

    /// Sends a request, gives its cookie.
    pub(crate) async fn request(
        &mut self,
        (kind, flags): (u16, u16),
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> u64 {
        self.cookie += 1;
        let request = Request {
            flags,
            kind,
            cookie: self.cookie,
            offset,
            len,
        };
        if self.framing == Framing::Extended {
            let flags = match kind {
                cmd::WRITE => flags | cmd_flag::PAYLOAD_LEN,
                _ => flags,
            };
            let request = Request { flags, ..request };
            self.send(&request.encode_extended()).await;
        } else {
            self.send(&request.encode()).await;
        }
        self.send(payload).await;
        self.cookie
    }

    /// The next reply; a simple READ's data isn't read.
    pub(crate) async fn reply(&mut self) -> Reply {
        let magic = self.bytes(4).await;
        if magic == [0x67, 0x44, 0x66, 0x98] {
            let header = self.bytes(12).await;
            return Reply {
                cookie: u64_at(&header, 4),
                errno: u32_at(&header, 0),
                data: Vec::new(),
            };
        }
        let Chunk {
            last,
            kind,
            cookie,
            payload: mut data,
        } = self.chunk(&magic).await;
        assert!(last, "one chunk is the whole reply");
        let mut errno = 0;
        match kind {
            chunk::NONE => {}
            chunk::OFFSET_DATA | chunk::BLOCK_STATUS_EXT => drop(data.drain(..8)),
            chunk::BLOCK_STATUS => drop(data.drain(..4)),
            chunk::ERROR => {
                errno = u32_at(&data, 0);
                data.drain(..6);
            }
            other => panic!("chunk type {other}"),
        }
        Reply {
            cookie,
            errno,
            data,
        }
    }

    /// The rest of a chunk that begins with `magic`.
    async fn chunk(&mut self, magic: &[u8]) -> Chunk {
        let (header, len) = if self.framing == Framing::Extended {
            assert_eq!(magic, [0x6e, 0x8a, 0x27, 0x8c]);
            let header = self.bytes(28).await;
            let len = usize_of(u64_at(&header, 20));
            (header, len)
        } else {
            assert_eq!(magic, [0x66, 0x8e, 0x33, 0xef]);
            let header = self.bytes(16).await;
            let len = usize_of_u32(u32_at(&header, 12));
            (header, len)
        };
        let flags = u16::from_be_bytes([header[0], header[1]]);
        assert_eq!(flags & !chunk::FLAG_DONE, 0);
        Chunk {
            last: flags == chunk::FLAG_DONE,
            kind: u16::from_be_bytes([header[2], header[3]]),
            cookie: u64_at(&header, 4),
            payload: self.bytes(len).await,
        }
    }

    /// The payloads of a BLOCK_STATUS reply's chunks.
    pub(crate) async fn status_chunks(&mut self) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        loop {
            let magic = self.bytes(4).await;
            let chunk = self.chunk(&magic).await;
            assert!(matches!(
                chunk.kind,
                chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT
            ));
            payloads.push(chunk.payload);
            if chunk.last {
                return payloads;
            }
        }
    }

    /// One request and its reply.
    pub(crate) async fn call(
        &mut self,
        command: (u16, u16),
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> Reply {
        let cookie = self.request(command, offset, len, payload).await;
        let reply = self.reply().await;
        assert_eq!(reply.cookie, cookie);
        reply
    }

    /// The error number of one request's reply.
    pub(crate) async fn errno(&mut self, command: (u16, u16), offset: u64, len: u64) -> u32 {
        self.call(command, offset, len, &[]).await.errno
    }

    pub(crate) async fn write(&mut self, offset: u64, data: &[u8]) {
        let reply = self
            .call((cmd::WRITE, 0), offset, u64_of(data.len()), data)
            .await;
        assert_eq!(reply.errno, 0);
    }

    pub(crate) async fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        let reply = self.call((cmd::READ, 0), offset, len, &[]).await;
        assert_eq!(reply.errno, 0);
        reply.data
    }
}

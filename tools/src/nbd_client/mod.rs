//! A small NBD client over a unix socket, for `cairn demo`.
//!
//! One request at a time on one connection: who wants several in flight opens several connections,
//! which a server that advertises multi-conn treats as one.
//!
//! Invariants
//! - After an error of the stream or of the protocol the connection is of no more use; after
//!   [`NbdClientError::Refused`] it is, save during the handshake.
//! - A reply is believed only as far as it fits its request: a data chunk outside of what was asked
//!   is an error of the protocol, never a write beside the buffer.

mod error;
mod handshake;
mod wire;

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::UnixStream;

pub use error::NbdClientError;
use handshake::{Agreed, handshake};
use wire::{Chunk, Command};

type Result<T> = std::result::Result<T, NbdClientError>;

/// Longest message of a server's error that is kept, in bytes.
const MESSAGE_MAX_BYTES: u32 = 4096;

/// Sizes of I/O as the server advertised them, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub minimum: u32,
    /// Best small I/O.
    pub preferred: u32,
    /// Largest payload of one request; the client cuts larger ones.
    pub maximum: u32,
}

/// A connection to one export.
#[derive(Debug)]
pub struct Client {
    stream: BufStream<UnixStream>,
    agreed: Agreed,
    cookie: u64,
}

impl Client {
    /// Connects to the socket at `path` and opens `export`; `""` is the server's default export.
    pub async fn connect_unix(path: impl AsRef<Path>, export: &str) -> Result<Self> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| NbdClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Self::over(stream, export).await
    }

    /// Opens `export` over a connected stream.
    pub async fn over(stream: UnixStream, export: &str) -> Result<Self> {
        let mut stream = BufStream::new(stream);
        let agreed = handshake(&mut stream, export).await?;
        Ok(Self {
            stream,
            agreed,
            cookie: 0,
        })
    }

    /// Bytes of the export.
    pub const fn size(&self) -> u64 {
        self.agreed.size
    }

    /// The export takes no writes.
    pub const fn is_read_only(&self) -> bool {
        self.agreed.read_only
    }

    /// Sizes of I/O.
    pub const fn block_sizes(&self) -> BlockSizes {
        self.agreed.block_sizes
    }

    /// Fills `data` from `offset`.
    pub async fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut at = offset;
        for part in data.chunks_mut(self.payload_max()) {
            let len = length(part.len())?;
            self.send(Command::Read, at, len, &[]).await?;
            self.receive(Command::Read, at, len, part).await?;
            at += u64::from(len);
        }
        Ok(())
    }

    /// Writes `data` at `offset`.
    pub async fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut at = offset;
        for part in data.chunks(self.payload_max()) {
            let len = length(part.len())?;
            self.call(Command::Write, at, len, part).await?;
            at += u64::from(len);
        }
        Ok(())
    }

    /// Makes every write that was answered before, on any connection, durable.
    pub async fn flush(&mut self) -> Result<()> {
        self.call(Command::Flush, 0, 0, &[]).await
    }

    /// Gives `len` bytes at `offset` back.
    pub async fn trim(&mut self, offset: u64, len: u64) -> Result<()> {
        self.without_payload(Command::Trim, offset, len).await
    }

    /// Makes `len` bytes at `offset` zero.
    pub async fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<()> {
        self.without_payload(Command::WriteZeroes, offset, len)
            .await
    }

    /// Takes leave, so that the server doesn't take the end for an accident.
    pub async fn disconnect(mut self) -> Result<()> {
        self.send(Command::Disconnect, 0, 0, &[]).await?;
        Ok(self.stream.shutdown().await?)
    }

    fn payload_max(&self) -> usize {
        // The handshake makes sure that it isn't 0.
        usize::try_from(self.agreed.block_sizes.maximum).unwrap_or(usize::MAX)
    }

    /// Cuts a range into requests of 32-bit length, on the largest payload's borders.
    async fn without_payload(&mut self, command: Command, offset: u64, len: u64) -> Result<()> {
        let step = u64::from(self.agreed.block_sizes.maximum);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(step);
            let part_len = u32::try_from(part).unwrap_or(u32::MAX);
            self.call(command, offset + done, part_len, &[]).await?;
            done += part;
        }
        Ok(())
    }

    /// A request whose reply has no data.
    async fn call(
        &mut self,
        command: Command,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<()> {
        self.send(command, offset, len, payload).await?;
        self.receive(command, offset, len, &mut []).await
    }

    async fn send(
        &mut self,
        command: Command,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<()> {
        self.cookie += 1;
        let request = wire::request(command, self.cookie, offset, len);
        self.stream.write_all(&request).await?;
        self.stream.write_all(payload).await?;
        Ok(self.stream.flush().await?)
    }

    /// Receives the reply to the request just sent; a READ's data into `data`.
    async fn receive(
        &mut self,
        command: Command,
        offset: u64,
        len: u32,
        data: &mut [u8],
    ) -> Result<()> {
        let failure = match self.stream.read_u32().await? {
            wire::SIMPLE_REPLY_MAGIC => self.simple(data).await?,
            wire::CHUNK_MAGIC if self.agreed.structured => self.chunks(offset, data).await?,
            magic => {
                return Err(NbdClientError::Magic {
                    what: "reply",
                    magic: magic.into(),
                });
            }
        };
        match failure {
            None => Ok(()),
            Some(Failure { errno, message }) => Err(NbdClientError::Refused {
                command: command.name(),
                offset,
                len,
                errno,
                message,
            }),
        }
    }

    async fn simple(&mut self, data: &mut [u8]) -> Result<Option<Failure>> {
        let errno = self.stream.read_u32().await?;
        self.expect_cookie().await?;
        if errno != 0 {
            let message = String::new();
            return Ok(Some(Failure { errno, message }));
        }
        if self.agreed.structured && !data.is_empty() {
            return Err(NbdClientError::Protocol("a read was answered without data"));
        }
        self.stream.read_exact(data).await?;
        Ok(None)
    }

    /// Chunks up to the last, the magic of the first being read already.
    async fn chunks(&mut self, offset: u64, data: &mut [u8]) -> Result<Option<Failure>> {
        let mut failure = None;
        let mut filled = 0;
        loop {
            let done = self.stream.read_u16().await? & wire::CHUNK_FLAG_DONE != 0;
            let kind = self.stream.read_u16().await?;
            self.expect_cookie().await?;
            let len = self.stream.read_u32().await?;
            match Chunk::of(kind) {
                Chunk::None if len == 0 => {}
                Chunk::Data => {
                    let at = self.stream.read_u64().await?;
                    let part = part_of(data, offset, at, len.checked_sub(8))?;
                    self.stream.read_exact(part).await?;
                    filled += part.len();
                }
                Chunk::Hole if len == 12 => {
                    let at = self.stream.read_u64().await?;
                    let hole = self.stream.read_u32().await?;
                    let part = part_of(data, offset, at, Some(hole))?;
                    part.fill(0);
                    filled += part.len();
                }
                Chunk::Error => failure = Some(self.failure(len).await?),
                _ => return Err(NbdClientError::Protocol("an unexpected chunk")),
            }
            if done {
                break;
            }
            match self.stream.read_u32().await? {
                wire::CHUNK_MAGIC => {}
                magic => {
                    return Err(NbdClientError::Magic {
                        what: "chunk",
                        magic: magic.into(),
                    });
                }
            }
        }
        if failure.is_none() && filled != data.len() {
            return Err(NbdClientError::Protocol("a read was answered in part"));
        }
        Ok(failure)
    }

    /// The payload of an error chunk.
    async fn failure(&mut self, len: u32) -> Result<Failure> {
        let errno = self.stream.read_u32().await?;
        let message_len = self.stream.read_u16().await?;
        // What follows the message says where the error was, which the message says better.
        let rest_len = len.checked_sub(6).filter(|rest| *rest <= MESSAGE_MAX_BYTES);
        let Some(rest_len) = rest_len.and_then(|rest| usize::try_from(rest).ok()) else {
            return Err(NbdClientError::Protocol("an error chunk of a wrong length"));
        };
        let mut rest = vec![0; rest_len];
        self.stream.read_exact(&mut rest).await?;
        let message = rest
            .get(..usize::from(message_len))
            .ok_or(NbdClientError::Protocol(
                "an error message of a wrong length",
            ))?;
        Ok(Failure {
            errno,
            message: String::from_utf8_lossy(message).into_owned(),
        })
    }

    async fn expect_cookie(&mut self) -> Result<()> {
        if self.stream.read_u64().await? == self.cookie {
            Ok(())
        } else {
            Err(NbdClientError::Protocol("a reply to no request"))
        }
    }
}

/// What a server said of a request that it didn't carry out.
struct Failure {
    errno: u32,
    message: String,
}

/// The part of a read's buffer, which begins at `offset`, that a chunk of `len` bytes at `at` fills.
fn part_of(data: &mut [u8], offset: u64, at: u64, len: Option<u32>) -> Result<&mut [u8]> {
    let range = || {
        let start = usize::try_from(at.checked_sub(offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len?).ok()?)?;
        (start < end).then_some(start..end)
    };
    range()
        .and_then(|range| data.get_mut(range))
        .ok_or(NbdClientError::Protocol("data that wasn't asked for"))
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| NbdClientError::Protocol("a maximum beyond 32 bits"))
}

#[cfg(test)]
mod tests;

//! Fixed newstyle negotiation with GO.

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::UnixStream;

use super::{BlockSizes, NbdClientError, Result, wire};

/// Largest reply to an option that is taken.
const REPLY_MAX_BYTES: u32 = 64 << 10;

/// Replies to one option that are taken; a server has few things to say of one export.
const REPLIES_MAX: usize = 64;

/// What a server that advertises nothing is taken to want.
const BLOCK_SIZES_DEFAULT: BlockSizes = BlockSizes {
    minimum: 512,
    preferred: 4096,
    maximum: 32 << 20,
};

/// What was agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) structured: bool,
    pub(super) block_sizes: BlockSizes,
}

type Stream = BufStream<UnixStream>;

/// Brings a fresh connection to transmission on `export`.
pub(super) async fn handshake(stream: &mut Stream, export: &str) -> Result<Agreed> {
    for (what, expected) in [("first", wire::INIT_MAGIC), ("second", wire::OPTION_MAGIC)] {
        let magic = stream.read_u64().await?;
        if magic != expected {
            return Err(NbdClientError::Magic { what, magic });
        }
    }
    let flags = stream.read_u16().await?;
    if flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdClientError::TooOld);
    }
    let known = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    stream.write_u32(known.into()).await?;
    send_option(stream, wire::OPT_STRUCTURED_REPLY, &[]).await?;
    // Refused, it goes on with simple replies.
    let structured = receive_reply(stream, wire::OPT_STRUCTURED_REPLY)
        .await?
        .kind
        == wire::REP_ACK;
    go(stream, export, structured).await
}

async fn go(stream: &mut Stream, export: &str, structured: bool) -> Result<Agreed> {
    let mut payload = u32::try_from(export.len())
        .map_err(|_| NbdClientError::Protocol("an export name of 4 GiB"))?
        .to_be_bytes()
        .to_vec();
    payload.extend(export.as_bytes());
    payload.extend(1u16.to_be_bytes());
    payload.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
    send_option(stream, wire::OPT_GO, &payload).await?;

    let mut size_and_flags = None;
    let mut block_sizes = BLOCK_SIZES_DEFAULT;
    for _ in 0..REPLIES_MAX {
        let reply = receive_reply(stream, wire::OPT_GO).await?;
        match reply.kind {
            wire::REP_INFO => match Info::decode(&reply.payload)? {
                Info::Export { size, flags } => size_and_flags = Some((size, flags)),
                Info::BlockSizes(sizes) => block_sizes = sizes,
                Info::Other => {}
            },
            wire::REP_ACK => {
                let (size, flags) =
                    size_and_flags.ok_or(NbdClientError::Protocol("an export without a size"))?;
                return Ok(Agreed {
                    size,
                    read_only: flags & wire::TRANSMISSION_READ_ONLY != 0,
                    structured,
                    block_sizes,
                });
            }
            code if code & wire::REP_ERROR != 0 => {
                return Err(NbdClientError::NotOpened {
                    export: export.to_owned(),
                    code,
                    message: String::from_utf8_lossy(&reply.payload).into_owned(),
                });
            }
            _ => return Err(NbdClientError::Protocol("an unexpected reply to GO")),
        }
    }
    Err(NbdClientError::Protocol("endless replies to GO"))
}

async fn send_option(stream: &mut Stream, option: u32, payload: &[u8]) -> Result<()> {
    let len =
        u32::try_from(payload.len()).map_err(|_| NbdClientError::Protocol("an option of 4 GiB"))?;
    stream.write_u64(wire::OPTION_MAGIC).await?;
    stream.write_u32(option).await?;
    stream.write_u32(len).await?;
    stream.write_all(payload).await?;
    Ok(stream.flush().await?)
}

struct OptionReply {
    kind: u32,
    payload: Vec<u8>,
}

async fn receive_reply(stream: &mut Stream, option: u32) -> Result<OptionReply> {
    let magic = stream.read_u64().await?;
    if magic != wire::OPTION_REPLY_MAGIC {
        let what = "option reply";
        return Err(NbdClientError::Magic { what, magic });
    }
    if stream.read_u32().await? != option {
        return Err(NbdClientError::Protocol("a reply to another option"));
    }
    let kind = stream.read_u32().await?;
    let len = stream.read_u32().await?;
    if len > REPLY_MAX_BYTES {
        return Err(NbdClientError::Protocol("an option reply above 64 KiB"));
    }
    let mut payload = vec![0; usize::try_from(len).unwrap_or_default()];
    stream.read_exact(&mut payload).await?;
    Ok(OptionReply { kind, payload })
}

/// A piece of information on an export.
#[derive(Debug, PartialEq, Eq)]
enum Info {
    Export { size: u64, flags: u16 },
    BlockSizes(BlockSizes),
    Other,
}

impl Info {
    fn decode(payload: &[u8]) -> Result<Self> {
        let short = NbdClientError::Protocol("a piece of information of a wrong length");
        let Some((kind, rest)) = payload.split_first_chunk::<2>() else {
            return Err(short);
        };
        match u16::from_be_bytes(*kind) {
            wire::INFO_EXPORT => {
                let (size, flags) = rest.split_first_chunk::<8>().ok_or(short)?;
                let flags = flags.try_into().map_err(|_| {
                    NbdClientError::Protocol("transmission flags of a wrong length")
                })?;
                Ok(Self::Export {
                    size: u64::from_be_bytes(*size),
                    flags: u16::from_be_bytes(flags),
                })
            }
            wire::INFO_BLOCK_SIZE => {
                let (words, []) = rest.as_chunks::<4>() else {
                    return Err(short);
                };
                let &[minimum, preferred, maximum] = words else {
                    return Err(short);
                };
                let sizes = BlockSizes {
                    minimum: u32::from_be_bytes(minimum),
                    preferred: u32::from_be_bytes(preferred),
                    maximum: u32::from_be_bytes(maximum),
                };
                if sizes.minimum == 0 || sizes.maximum < sizes.minimum {
                    return Err(NbdClientError::Protocol("block sizes that can't be"));
                }
                Ok(Self::BlockSizes(sizes))
            }
            _ => Ok(Self::Other),
        }
    }
}

//! Why a connection ended otherwise than by the client's wish.

use std::io;
use std::time::Duration;

/// A connection that was closed by the server, or lost.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// No more connections are taken.
    #[error("{0} NBD connections are open on this listener; close some; connection refused")]
    TooManyConnections(usize),
    /// The stream failed.
    #[error("NBD connection lost: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a message.
    #[error("NBD client closed the connection in the middle of a message")]
    Truncated,
    /// The client asked for handshake flags that this server never offered.
    #[error("NBD client set unknown handshake flags {0:#x}; connection closed")]
    ClientFlags(u32),
    /// An option without its magic.
    #[error("option magic {0:#018x} is wrong: the peer doesn't speak NBD; connection closed")]
    OptionMagic(u64),
    /// An option too large to be skipped.
    #[error("option {option} with {len} bytes of payload is beyond any use; connection closed")]
    OptionTooLarge {
        /// The option.
        option: u32,
        /// Its length in bytes.
        len: u32,
    },
    /// EXPORT_NAME for something that isn't there; the protocol has no other answer than closing.
    #[error(
        "export {name:?} can't be opened; see `cairn volume list` for what is exported; \
         connection closed"
    )]
    ExportName {
        /// The name asked for.
        name: String,
    },
    /// EXPORT_NAME after extended headers, which the protocol forbids and has no other answer to.
    #[error("NBD client chose an export by EXPORT_NAME after extended headers; connection closed")]
    ExportNameExtended,
    /// EXPORT_NAME without TLS where it is required; the protocol has no other answer than closing.
    #[error("NBD client chose an export without TLS, which is required here; connection closed")]
    TlsRequired,
    /// Bytes that came behind STARTTLS in the clear: somebody may have put them there.
    #[error("NBD client, or somebody in between, sent more before TLS began; connection closed")]
    BeforeTls,
    /// TLS couldn't be agreed on.
    #[error("TLS of an NBD client failed: {0}; connection closed")]
    Tls(io::Error),
    /// A handshake that takes too long.
    #[error("NBD handshake not done after {0:?}; connection closed")]
    HandshakeTimeout(Duration),
    /// A request without its magic: the stream can't be followed any more.
    #[error("request magic {0:#010x} is wrong; connection closed")]
    RequestMagic(u32),
    /// A payload too large to be skipped.
    #[error("payload of {len} bytes is far beyond the maximum of 32 MiB; connection closed")]
    PayloadTooLarge {
        /// Its length in bytes.
        len: u64,
    },
    /// A client that neither sends the rest of its payload nor takes its replies.
    #[error("NBD client made no progress for {0:?} while holding memory others wait for; closed")]
    Stalled(Duration),
}

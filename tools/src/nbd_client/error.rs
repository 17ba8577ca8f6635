//! What can go wrong between the client and its server.

use std::io;
use std::path::PathBuf;

/// A failure of the connection, the handshake or one request.
#[derive(Debug, thiserror::Error)]
pub enum NbdClientError {
    /// The socket couldn't be reached.
    #[error("{}: can't connect to the NBD server: {source}; is the volume exported?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection was lost.
    #[error("the NBD connection was lost: {0}; see the daemon's log")]
    Io(#[from] io::Error),
    /// The peer doesn't talk as a server of this protocol does.
    #[error("the peer is no NBD server: {what} magic {magic:#x}; check the socket's path")]
    Magic {
        /// Which message.
        what: &'static str,
        /// What it began with.
        magic: u64,
    },
    /// A server of before 2011.
    #[error("the NBD server doesn't negotiate (no fixed newstyle); use a newer one")]
    TooOld,
    /// The export wasn't opened.
    #[error(
        "export {export:?} was refused: {message} (NBD reply {code:#x}); see `cairn volume list`"
    )]
    NotOpened {
        /// The export asked for.
        export: String,
        /// The reply's type.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// The server broke the protocol.
    #[error("the NBD server broke the protocol: {0}; connect again")]
    Protocol(&'static str),
    /// A request failed; the connection goes on.
    #[error("{command} of {len} bytes at offset {offset}: {}{}", io::Error::from_raw_os_error(i32::try_from(*errno).unwrap_or_default()), in_brackets(message))]
    Refused {
        /// The request's name.
        command: &'static str,
        /// First byte of its range.
        offset: u64,
        /// Bytes of its range.
        len: u32,
        /// The protocol's error number, which is Linux's.
        errno: u32,
        /// The server's words, if it had any.
        message: String,
    },
}

fn in_brackets(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(" ({message})")
    }
}

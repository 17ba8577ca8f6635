//! Drives a [`Handshake`] over a stream.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use zerocopy::IntoBytes;

use super::error::NbdError;
use super::exports::Exports;
use super::handshake::{Encryption, Handshake, Session, Step, greeting, option_header};
use super::option::{OPTION_MAX_BYTES, OPTION_SKIP_MAX_BYTES};
use super::receive::Receiver;
use crate::units::usize_of_u32;

/// What a negotiation came to.
pub(crate) enum Negotiated {
    /// The client left, which it may.
    Left,
    /// TLS is to be started, and this goes on over it.
    StartTls(Handshake),
    /// Transmission.
    Transmit(Session),
}

/// Brings a new connection to transmission, or to TLS.
pub(crate) async fn greet<R, W>(
    receiver: &mut Receiver<R>,
    stream: &mut W,
    exports: &dyn Exports,
    encryption: Encryption,
) -> Result<Negotiated, NbdError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    send(stream, greeting().as_bytes()).await?;
    let Some(client_flags) = receiver.message().await? else {
        return Ok(Negotiated::Left);
    };
    let handshake = Handshake::new(client_flags, encryption)?;
    negotiate(receiver, stream, exports, handshake).await
}

/// Takes options until they have led somewhere.
pub(crate) async fn negotiate<R, W>(
    receiver: &mut Receiver<R>,
    stream: &mut W,
    exports: &dyn Exports,
    mut handshake: Handshake,
) -> Result<Negotiated, NbdError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut payload = Vec::new();
    let mut out = Vec::new();
    loop {
        let Some(header) = receiver.message().await? else {
            return Ok(Negotiated::Left);
        };
        let (option, len) = option_header(header)?;
        out.clear();
        let step = if len <= OPTION_MAX_BYTES {
            payload.resize(usize_of_u32(len), 0);
            receiver.exact(&mut payload).await?;
            handshake.option(option, &payload, exports, &mut out)?
        } else if len <= OPTION_SKIP_MAX_BYTES {
            receiver.skip(len.into()).await?;
            Handshake::oversize(option, len, &mut out)?;
            Step::Continue
        } else {
            return Err(NbdError::OptionTooLarge { option, len });
        };
        let sent = send(stream, &out).await;
        match step {
            // A client may leave without waiting for the answer to its ABORT.
            Step::Hangup => return Ok(Negotiated::Left),
            Step::Continue => sent?,
            Step::StartTls => return sent.map(|()| Negotiated::StartTls(handshake.encrypted())),
            Step::Transmit(session) => return sent.map(|()| Negotiated::Transmit(session)),
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> Result<(), NbdError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

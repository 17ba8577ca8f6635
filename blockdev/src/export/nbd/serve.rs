//! One connection from its first byte to its last.

use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::connections::Connections;
use super::error::NbdError;
use super::exports::Exports;
use super::limits::{CONNECTIONS_MAX, Limits};
use super::negotiate::negotiate;
use super::receive::Receiver;
use super::transmit::Transmission;
use crate::env::Env;

/// Serves the accepted `stream` to its end, on the engine thread of the devices behind `exports`.
///
/// Ends when the client leaves, when it breaks the protocol, or when `listener` or the chosen
/// export's own set of connections is stopped. The connection is counted in `listener` from the
/// start, and in the export's set from the end of its handshake; once, where a listener of a single
/// export has one set for both. When this returns, no request of the connection touches a device any
/// more; the error, if any, is for the log. Requests of a connection begin when those of all that
/// ended before it are done. To end a connection, stop one of its sets: dropping the
/// future instead leaves requests running that nobody counts.
pub async fn serve<S>(
    stream: S,
    exports: Rc<dyn Exports>,
    limits: Limits,
    env: Env,
    listener: Connections,
) -> Result<(), NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if listener.count() >= CONNECTIONS_MAX {
        return Err(NbdError::TooManyConnections(CONNECTIONS_MAX));
    }
    let _counted = listener.enter();
    let (receive, mut send) = tokio::io::split(stream);
    let mut receiver = Receiver::new(receive);
    let negotiated = tokio::select! {
        biased;
        // Nothing is under way yet that would want an end of its own.
        _ = listener.stopped() => Ok(None),
        () = env.clock.sleep(limits.handshake_timeout) => {
            Err(NbdError::HandshakeTimeout(limits.handshake_timeout))
        }
        session = negotiate(&mut receiver, &mut send, &*exports) => session,
    };
    let Some(session) = negotiated? else {
        return Ok(());
    };
    let of_export = &session.export.connections;
    let _counted_in_export = (!of_export.is(&listener)).then(|| of_export.enter());
    tokio::select! {
        biased;
        _ = listener.stopped() => return Ok(()),
        _ = of_export.stopped() => return Ok(()),
        () = of_export.left() => {}
    }
    let transmission = Transmission::new(session, limits, env);
    transmission.run(receiver, &mut send, &listener).await?;
    // Replies are out; a client that is gone already doesn't mind.
    let _ = send.shutdown().await;
    Ok(())
}

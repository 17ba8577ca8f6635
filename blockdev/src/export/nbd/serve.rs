//! One connection from its first byte to its last.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsAcceptor;

use super::connections::Connections;
use super::context::Contexts;
use super::error::NbdError;
use super::exports::{Export, Exports};
use super::framing::Framing;
use super::handshake::Session;
use super::limits::{CONNECTIONS_MAX, Limits};
use super::negotiate::{Negotiated, greet, negotiate};
use super::receive::Receiver;
use super::tls::Tls;
use super::transmit::Transmission;
use crate::device::LocalFuture;
use crate::env::Env;

/// Longest wait for a stream to take its end. TLS ends with a message of its own, and a client that reads
/// nothing doesn't take it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

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
    tls: Tls,
) -> Result<(), NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if listener.count() >= CONNECTIONS_MAX {
        return Err(NbdError::TooManyConnections(CONNECTIONS_MAX));
    }
    let _counted = listener.enter();
    let mut patience = Patience {
        listener: &listener,
        // One for all of the handshake, TLS's own included.
        deadline: env.clock.sleep(limits.handshake_timeout),
        timeout: limits.handshake_timeout,
    };
    let (receive, mut send) = tokio::io::split(stream);
    let mut receiver = Receiver::new(receive);
    let greeted = greet(&mut receiver, &mut send, &*exports, tls.encryption());
    let handshake = match patience.wait(greeted).await? {
        None | Some(Negotiated::Left) => return Ok(()),
        Some(Negotiated::Transmit(session)) => {
            return transmit(session, receiver, send, limits, env, &listener).await;
        }
        Some(Negotiated::StartTls(handshake)) => handshake,
    };
    let (Some(receive), Some(config)) = (receiver.into_inner(), tls.config()) else {
        return Err(NbdError::BeforeTls);
    };
    let accepting = TlsAcceptor::from(config).accept(receive.unsplit(send));
    let accepting = async { accepting.await.map_err(NbdError::Tls) };
    let Some(stream) = patience.wait(accepting).await? else {
        return Ok(());
    };
    let (receive, mut send) = tokio::io::split(stream);
    let mut receiver = Receiver::new(receive);
    let negotiated = negotiate(&mut receiver, &mut send, &*exports, handshake);
    match patience.wait(negotiated).await? {
        Some(Negotiated::Transmit(session)) => {
            transmit(session, receiver, send, limits, env, &listener).await
        }
        // TLS isn't started twice.
        None | Some(Negotiated::Left | Negotiated::StartTls(_)) => {
            farewell(&mut send, &env).await;
            Ok(())
        }
    }
}

/// Serves a `stream` whose other end needs no handshake, as the kernel's client doesn't: replies are
/// simple. The rest is as for [`serve()`], with the export's own set of connections for both.
pub async fn serve_agreed<S>(
    stream: S,
    export: Export,
    limits: Limits,
    env: Env,
) -> Result<(), NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connections = export.connections.clone();
    let _counted = connections.enter();
    let session = Session {
        export,
        framing: Framing::Simple,
        contexts: Contexts::default(),
    };
    let (receive, send) = tokio::io::split(stream);
    let receiver = Receiver::new(receive);
    transmit(session, receiver, send, limits, env, &connections).await
}

/// How long a handshake is waited for.
struct Patience<'a> {
    listener: &'a Connections,
    deadline: LocalFuture<()>,
    timeout: Duration,
}

impl Patience<'_> {
    /// Waits for a step of the handshake; `None` if the listener was stopped meanwhile.
    async fn wait<T>(
        &mut self,
        step: impl Future<Output = Result<T, NbdError>>,
    ) -> Result<Option<T>, NbdError> {
        tokio::select! {
            biased;
            // Nothing is under way yet that would want an end of its own.
            _ = self.listener.stopped() => Ok(None),
            () = &mut self.deadline => Err(NbdError::HandshakeTimeout(self.timeout)),
            done = step => done.map(Some),
        }
    }
}

async fn transmit<S>(
    session: Session,
    receiver: Receiver<ReadHalf<S>>,
    mut send: WriteHalf<S>,
    limits: Limits,
    env: Env,
    listener: &Connections,
) -> Result<(), NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let of_export = session.export.connections.clone();
    let _counted_in_export = (!of_export.is(listener)).then(|| of_export.enter());
    tokio::select! {
        biased;
        _ = listener.stopped() => return Ok(()),
        _ = of_export.stopped() => return Ok(()),
        () = of_export.left() => {}
    }
    let transmission = Transmission::new(session, limits, env.clone());
    transmission.run(receiver, &mut send, listener).await?;
    // Replies are out.
    farewell(&mut send, &env).await;
    Ok(())
}

async fn farewell<W: AsyncWrite + Unpin>(stream: &mut W, env: &Env) {
    tokio::select! {
        biased;
        // A client that is gone already doesn't mind.
        _ = stream.shutdown() => {}
        () = async { env.clock.sleep(FAREWELL_TIMEOUT).await } => {}
    }
}

//! The transmission phase: a reader that admits requests, a task for each, one writer.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::connections::{Connections, Stop};
use super::error::NbdError;
use super::handshake::Session;
use super::limits::{CONNECTION_BYTES_MAX, IN_FLIGHT_MAX, Limits};
use super::outbox::{Outbox, Place};
use super::proto::Errno;
use super::receive::{Patience, Receiver};
use super::reply::{Reply, ReplyTo, STATUS_BYTES_MAX};
use super::request::{
    Command, PAYLOAD_SKIP_MAX_BYTES, Refusal, Request, STATUS_PAYLOAD_MAX_BYTES, Terms,
};
use super::run::Job;
use crate::buf::SharedBuf;
use crate::env::Env;
use crate::export::budget::Budget;
use crate::units::usize_of;

/// A connection in transmission.
pub(crate) struct Transmission {
    session: Session,
    limits: Limits,
    env: Env,
    patience: Patience,
    outbox: Rc<Outbox>,
    slots: Arc<Semaphore>,
    memory: Budget,
    /// Requests are answered with ESHUTDOWN.
    refusing: Cell<bool>,
}

impl Transmission {
    pub(crate) fn new(session: Session, limits: Limits, env: Env) -> Self {
        Self {
            patience: Patience::new(&env, &limits),
            session,
            limits,
            env,
            outbox: Rc::default(),
            slots: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            memory: Budget::new(CONNECTION_BYTES_MAX),
            refusing: Cell::new(false),
        }
    }

    /// Serves requests until the client leaves or breaks the protocol, or `listener` or the export
    /// is stopped; then finishes what was admitted.
    pub(crate) async fn run<R, W>(
        &self,
        mut receiver: Receiver<R>,
        stream: &mut W,
        listener: &Connections,
    ) -> Result<(), NbdError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut leaving = None;
        let reading = async {
            let end = tokio::select! {
                biased;
                // The writer's own error says why.
                () = self.outbox.broken() => Ok(()),
                end = self.read_until_stopped(&mut receiver, listener) => end,
            };
            self.patience.closing();
            self.outbox.close();
            leaving = Some(self.session.export.connections.leave());
            end
        };
        let (read, written) = tokio::join!(reading, self.outbox.write(stream, &self.patience));
        drop(leaving);
        read.and(written)
    }

    async fn read_until_stopped<R: AsyncRead + Unpin>(
        &self,
        receiver: &mut Receiver<R>,
        listener: &Connections,
    ) -> Result<(), NbdError> {
        let stopped = async {
            tokio::select! {
                how = self.session.export.connections.stopped() => how,
                how = listener.stopped() => how,
            }
        };
        let mut requests = pin!(self.read_requests(receiver));
        let how = tokio::select! {
            biased;
            how = stopped => how,
            end = &mut requests => return end,
        };
        self.patience.closing();
        match how {
            Stop::Restart => Ok(()),
            Stop::Unexport => {
                self.refusing.set(true);
                tokio::select! {
                    biased;
                    () = self.outbox.idle() => Ok(()),
                    end = requests => end,
                }
            }
        }
    }

    async fn read_requests<R: AsyncRead + Unpin>(
        &self,
        receiver: &mut Receiver<R>,
    ) -> Result<(), NbdError> {
        while let Some(request) = self.next_request(receiver).await? {
            let terms = self.terms();
            match request.judge(&terms) {
                Ok(Command::Disconnect) => break,
                Ok(Command::NarrowedBlockStatus) => {
                    let mut payload = [0; STATUS_PAYLOAD_MAX_BYTES];
                    let len = usize_of(request.payload_len(terms.framing));
                    let payload = payload.get_mut(..len).unwrap_or_default();
                    receiver.exact(payload).await?;
                    match request.narrowed(payload, &terms) {
                        Ok((request, command)) => self.admit(request, command, receiver).await?,
                        Err(refusal) => self.refuse(&request, refusal, self.place(0).await),
                    }
                }
                Ok(command) => self.admit(request, command, receiver).await?,
                Err(refusal) => {
                    skip_payload(request.payload_len(terms.framing), receiver).await?;
                    let place = self.place(0).await;
                    self.refuse(&request, refusal, place);
                }
            }
        }
        Ok(())
    }

    /// `None` if the client has closed the connection.
    async fn next_request<R: AsyncRead + Unpin>(
        &self,
        receiver: &mut Receiver<R>,
    ) -> Result<Option<Request>, NbdError> {
        if self.session.framing.is_extended() {
            let bytes = receiver.message().await?;
            bytes.map(Request::decode_extended).transpose()
        } else {
            receiver.message().await?.map(Request::decode).transpose()
        }
    }

    /// Asked anew for each request: a device may have grown.
    fn terms(&self) -> Terms {
        let export = &self.session.export;
        let geometry = export.device.geometry();
        Terms {
            size: geometry.size,
            block: export.block_sizes().minimum,
            read_only: export.read_only,
            framing: self.session.framing,
            contexts: self.session.contexts,
        }
    }

    /// Waits for the request's place, receives its payload and starts it.
    async fn admit<R: AsyncRead + Unpin>(
        &self,
        request: Request,
        command: Command,
        receiver: &mut Receiver<R>,
    ) -> Result<(), NbdError> {
        let place = self.place(memory_of(&request, command)).await;
        let payload = match command {
            Command::Write { .. } if request.len > 0 => {
                Some(self.payload(request.len, receiver).await?)
            }
            _ => None,
        };
        if self.refusing.get() {
            let refusal = Refusal {
                errno: Errno::Shutdown,
                why: "the export is being closed",
            };
            self.refuse(&request, refusal, place);
            return Ok(());
        }
        let job = Job::new(
            request,
            command,
            payload,
            &self.session.export,
            self.session.framing,
            self.limits.pool.clone(),
        );
        let outbox = Rc::clone(&self.outbox);
        let running = outbox.running();
        self.env.spawn.spawn(Box::pin(async move {
            outbox.push(job.run().await, place);
            drop(running);
        }));
        Ok(())
    }

    async fn payload<R: AsyncRead + Unpin>(
        &self,
        len: u64,
        receiver: &mut Receiver<R>,
    ) -> Result<SharedBuf, NbdError> {
        let mut buf = self.limits.pool.take(usize_of(len));
        receiver.payload(&mut buf, &self.patience).await?;
        Ok(buf.freeze())
    }

    /// Waits for a slot among the requests in flight, and for memory.
    async fn place(&self, memory_bytes: usize) -> Place {
        Place {
            // The semaphore is never closed.
            _slot: Arc::clone(&self.slots).acquire_owned().await.ok(),
            // The connection's own share first: who has used it up keeps nothing from others.
            _memory: [
                self.memory.lend(memory_bytes).await,
                self.limits.budget.lend(memory_bytes).await,
            ],
        }
    }

    fn refuse(&self, request: &Request, refusal: Refusal, place: Place) {
        let Refusal { errno, why } = refusal;
        let to = ReplyTo::request(request, self.session.framing);
        let reply = Reply::failed(to, errno, why);
        self.outbox.push(reply, place);
    }
}

/// Memory that a request takes until it is answered.
fn memory_of(request: &Request, command: Command) -> usize {
    match command {
        Command::Read | Command::Write { .. } => usize_of(request.len),
        Command::BlockStatus { .. } => STATUS_BYTES_MAX,
        _ => 0,
    }
}

/// Passes over the payload of a request that is refused, unless it is absurd.
async fn skip_payload<R: AsyncRead + Unpin>(
    len: u64,
    receiver: &mut Receiver<R>,
) -> Result<(), NbdError> {
    if len > PAYLOAD_SKIP_MAX_BYTES {
        return Err(NbdError::PayloadTooLarge { len });
    }
    receiver.skip(len).await
}

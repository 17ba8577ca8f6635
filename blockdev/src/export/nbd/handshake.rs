//! Negotiation as a state machine: an option in, reply bytes and the next step out.
//!
//! Does not know: streams, time. `negotiate` feeds it.
//!
//! Invariants
//! - Every option but EXPORT_NAME is answered with exactly one final reply.
//! - Block status is agreed only for the export that it was asked for, and only together with
//!   structured replies or extended headers.
//! - Extended headers, once agreed on, take precedence and stay.
//! - Where TLS is required, nothing of the exports is told before it.
//! - Nothing that was agreed on before TLS is kept.

use zerocopy::IntoBytes;
use zerocopy::network_endian::{U16, U32};

use super::context::Contexts;
use super::error::NbdError;
use super::exports::{Export, Exports};
use super::framing::Framing;
use super::option::OptionRequest;
use super::proto::{
    EXPORT_NAME_ZEROES, ExportNameReply, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Greeting, INIT_MAGIC,
    InfoBlockSize, InfoExport, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReplyHeader,
    info, opt, rep,
};
use crate::units::u32_of;

/// What was agreed on: everything that transmission needs.
#[derive(Debug, Clone)]
pub struct Session {
    /// The export.
    pub export: Export,
    /// How requests and replies are framed.
    pub framing: Framing,
    /// What may be asked about with BLOCK_STATUS.
    pub contexts: Contexts,
}

/// What a negotiation knows of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// There is none.
    #[default]
    Unavailable,
    /// It may be started.
    Offered,
    /// It must be started before anything else.
    Required,
    /// It protects the connection.
    Running,
}

/// What follows an option, once its reply is sent.
#[derive(Debug)]
pub enum Step {
    /// The next option.
    Continue,
    /// The end of the connection, as the client wished.
    Hangup,
    /// TLS, and the negotiation from its begin.
    StartTls,
    /// Transmission.
    Transmit(Session),
}

/// The state of a negotiation.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    no_zeroes: bool,
    encryption: Encryption,
    framing: Framing,
    /// The contexts that were chosen, and for which export name.
    chosen: Option<(String, Contexts)>,
}

/// The server's first message.
pub fn greeting() -> Greeting {
    Greeting {
        init_magic: INIT_MAGIC.into(),
        option_magic: OPTION_MAGIC.into(),
        flags: (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).into(),
    }
}

/// Option code and payload length of a header.
pub fn option_header(bytes: [u8; 16]) -> Result<(u32, u32), NbdError> {
    let header: OptionHeader = zerocopy::transmute!(bytes);
    match header.magic.get() {
        OPTION_MAGIC => Ok((header.option.get(), header.len.get())),
        magic => Err(NbdError::OptionMagic(magic)),
    }
}

impl Handshake {
    /// A negotiation that begins with the client's answer to the greeting.
    pub fn new(client_flags: [u8; 4], encryption: Encryption) -> Result<Self, NbdError> {
        let flags = u32::from_be_bytes(client_flags);
        let no_zeroes = u32::from(FLAG_NO_ZEROES);
        if flags & !(u32::from(FLAG_FIXED_NEWSTYLE) | no_zeroes) != 0 {
            return Err(NbdError::ClientFlags(flags));
        }
        Ok(Self {
            no_zeroes: flags & no_zeroes != 0,
            encryption,
            ..Self::default()
        })
    }

    /// The negotiation that begins once TLS protects the connection.
    pub fn encrypted(self) -> Self {
        Self {
            no_zeroes: self.no_zeroes,
            encryption: Encryption::Running,
            ..Self::default()
        }
    }

    /// Takes one option and appends what the client is answered to `out`.
    pub fn option(
        &mut self,
        option: u32,
        payload: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, NbdError> {
        let mut replies = Replies { option, out };
        let is_open_to_all = matches!(option, opt::STARTTLS | opt::ABORT);
        if self.encryption == Encryption::Required && !is_open_to_all {
            if option == opt::EXPORT_NAME {
                return Err(NbdError::TlsRequired);
            }
            replies.error(rep::ERR_TLS_REQD, "this server wants TLS first");
            return Ok(Step::Continue);
        }
        let request = match OptionRequest::decode(option, payload) {
            Ok(request) => request,
            // This option has no way to say no.
            Err(_) if option == opt::EXPORT_NAME => {
                let name = String::from_utf8_lossy(payload).into_owned();
                return Err(NbdError::ExportName { name });
            }
            Err(error) => {
                replies.error(rep::ERR_INVALID, &error.to_string());
                return Ok(Step::Continue);
            }
        };
        match request {
            OptionRequest::ExportName(name) => return self.export_name(name, exports, out),
            OptionRequest::Abort => {
                replies.ack();
                return Ok(Step::Hangup);
            }
            OptionRequest::List => list(exports, &mut replies),
            OptionRequest::Info { go, name, wanted } => {
                if let Some(session) = self.info(&name, &wanted, exports, &mut replies)
                    && go
                {
                    return Ok(Step::Transmit(session));
                }
            }
            OptionRequest::StructuredReply if self.framing.is_extended() => {
                replies.error(
                    rep::ERR_EXT_HEADER_REQD,
                    "extended headers are agreed on, and replace structured replies",
                );
            }
            OptionRequest::StructuredReply => {
                self.framing = Framing::Structured;
                replies.ack();
            }
            OptionRequest::ExtendedHeaders => {
                self.framing = Framing::Extended;
                replies.ack();
            }
            OptionRequest::MetaContext { set, name, queries } => {
                self.meta_context(set, name, &queries, exports, &mut replies);
            }
            OptionRequest::StartTls => match self.encryption {
                Encryption::Unavailable => {
                    replies.error(rep::ERR_UNSUP, "TLS is not available on this server");
                }
                Encryption::Running => {
                    replies.error(rep::ERR_INVALID, "TLS is running already");
                }
                Encryption::Offered | Encryption::Required => {
                    replies.ack();
                    return Ok(Step::StartTls);
                }
            },
            OptionRequest::Unknown => {
                replies.error(rep::ERR_UNSUP, "this server doesn't know the option");
            }
        }
        Ok(Step::Continue)
    }

    /// Answers an option whose payload was too large and has been skipped.
    pub fn oversize(option: u32, len: u32, out: &mut Vec<u8>) -> Result<(), NbdError> {
        if option == opt::EXPORT_NAME {
            return Err(NbdError::OptionTooLarge { option, len });
        }
        let mut replies = Replies { option, out };
        replies.error(rep::ERR_TOO_BIG, "the option's payload is too large");
        Ok(())
    }

    fn session(&self, name: &str, export: Export) -> Session {
        Session {
            export,
            framing: self.framing,
            contexts: self.contexts(name),
        }
    }

    /// What was chosen for the export of this name.
    fn contexts(&self, name: &str) -> Contexts {
        match &self.chosen {
            Some((of, contexts)) if of == name => *contexts,
            _ => Contexts::default(),
        }
    }

    fn export_name(
        &self,
        name: String,
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, NbdError> {
        let export = match exports.open(&name) {
            // The protocol forbids it after extended headers.
            _ if self.framing.is_extended() => return Err(NbdError::ExportNameExtended),
            Some(export) if export.connections.stopping().is_none() => export,
            _ => return Err(NbdError::ExportName { name }),
        };
        let reply = ExportNameReply {
            size: export.device.geometry().size.into(),
            flags: export.flags(self.framing, self.contexts(&name)).into(),
        };
        out.extend_from_slice(reply.as_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&EXPORT_NAME_ZEROES);
        }
        Ok(Step::Transmit(self.session(&name, export)))
    }

    /// Describes an export, and says what a session on it would be.
    fn info(
        &self,
        name: &str,
        wanted: &[u16],
        exports: &dyn Exports,
        replies: &mut Replies<'_>,
    ) -> Option<Session> {
        let export = open(name, exports, replies)?;
        let geometry = export.device.geometry();
        let size = InfoExport {
            kind: info::EXPORT.into(),
            size: geometry.size.into(),
            flags: export.flags(self.framing, self.contexts(name)).into(),
        };
        replies.one(rep::INFO, &[size.as_bytes()]);
        // Sent unasked too, as the protocol allows: who overlooks it assumes 512 bytes.
        let sizes = export.block_sizes();
        let block_size = InfoBlockSize {
            kind: info::BLOCK_SIZE.into(),
            minimum: sizes.minimum.into(),
            preferred: sizes.preferred.into(),
            maximum: sizes.maximum.into(),
        };
        replies.one(rep::INFO, &[block_size.as_bytes()]);
        for (kind, text) in [
            (info::NAME, &export.name),
            (info::DESCRIPTION, &export.description),
        ] {
            if wanted.contains(&kind) {
                replies.one(rep::INFO, &[U16::new(kind).as_bytes(), text.as_bytes()]);
            }
        }
        replies.ack();
        Some(self.session(name, export))
    }

    fn meta_context(
        &mut self,
        set: bool,
        name: String,
        queries: &[String],
        exports: &dyn Exports,
        replies: &mut Replies<'_>,
    ) {
        if set {
            // Whatever comes of it, a new choice ends the old one.
            self.chosen = None;
        }
        if !self.framing.has_chunks() {
            replies.error(
                rep::ERR_INVALID,
                "structured replies or extended headers must be agreed on first",
            );
            return;
        }
        if open(&name, exports, replies).is_none() {
            return;
        }
        let contexts = if set {
            Contexts::chosen(queries)
        } else {
            Contexts::listed(queries)
        };
        for context in contexts.iter() {
            let id = U32::new(if set { context.id() } else { 0 });
            replies.one(
                rep::META_CONTEXT,
                &[id.as_bytes(), context.name().as_bytes()],
            );
        }
        replies.ack();
        if set {
            self.chosen = Some((name, contexts));
        }
    }
}

/// Opens an export, or answers why not.
fn open(name: &str, exports: &dyn Exports, replies: &mut Replies<'_>) -> Option<Export> {
    let Some(export) = exports.open(name) else {
        replies.error(rep::ERR_UNKNOWN, "no export of that name is served here");
        return None;
    };
    if export.connections.stopping().is_some() {
        replies.error(rep::ERR_SHUTDOWN, "the export is being closed");
        return None;
    }
    Some(export)
}

fn list(exports: &dyn Exports, replies: &mut Replies<'_>) {
    for export in exports.list() {
        let name_len = U32::new(u32_of(export.name.len()));
        replies.one(
            rep::SERVER,
            &[
                name_len.as_bytes(),
                export.name.as_bytes(),
                export.description.as_bytes(),
            ],
        );
    }
    replies.ack();
}

/// Replies to one option.
struct Replies<'a> {
    option: u32,
    out: &'a mut Vec<u8>,
}

impl Replies<'_> {
    fn one(&mut self, kind: u32, payload: &[&[u8]]) {
        let len = payload.iter().map(|part| part.len()).sum();
        let header = OptionReplyHeader {
            magic: OPTION_REPLY_MAGIC.into(),
            option: self.option.into(),
            kind: kind.into(),
            len: u32_of(len).into(),
        };
        self.out.extend_from_slice(header.as_bytes());
        for part in payload {
            self.out.extend_from_slice(part);
        }
    }

    fn ack(&mut self) {
        self.one(rep::ACK, &[]);
    }

    fn error(&mut self, kind: u32, message: &str) {
        self.one(kind, &[message.as_bytes()]);
    }
}

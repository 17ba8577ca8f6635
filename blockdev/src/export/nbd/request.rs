//! Requests: decoded, and judged against what was agreed on.
//!
//! Pure. Everything a request can have wrong is found here, before memory is taken for it or the
//! device is asked.

use zerocopy::FromBytes;
use zerocopy::network_endian::{U32, U64};

use super::context::{Context, Contexts};
use super::error::NbdError;
use super::framing::Framing;
use super::proto::{
    EXTENDED_REQUEST_MAGIC, Errno, ExtendedRequestHeader, PAYLOAD_MAX_BYTES, REQUEST_MAGIC,
    RequestHeader, cmd, cmd_flag,
};
use crate::units::u64_of;

/// Bytes of a compact request before its payload.
pub const REQUEST_BYTES: usize = size_of::<RequestHeader>();
/// Bytes of an extended request before its payload.
pub const EXTENDED_REQUEST_BYTES: usize = size_of::<ExtendedRequestHeader>();

/// Largest payload of a refused write that is skipped to keep the connection. Beyond it the client
/// isn't one that kept to the maximum and made a small mistake.
pub const PAYLOAD_SKIP_MAX_BYTES: u64 = 64 << 20;

/// Largest payload of a BLOCK_STATUS: a length, and every context once.
pub const STATUS_PAYLOAD_MAX_BYTES: usize =
    size_of::<U64>() + Context::ALL.len() * size_of::<U32>();

/// A request as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of [`cmd_flag`].
    pub flags: u16,
    /// One of [`cmd`], or anything.
    pub kind: u16,
    /// The client's own number for it.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range, or of the payload if that alone is said.
    pub len: u64,
}

/// What requests are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the export.
    pub size: u64,
    /// Offsets and lengths are multiples of it, in bytes.
    pub block: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// How requests and replies are framed.
    pub framing: Framing,
    /// What BLOCK_STATUS may ask about.
    pub contexts: Contexts,
}

/// A request that may be carried out: its range is aligned and inside the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read `len` bytes.
    Read,
    /// Write the payload.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// Finish and close.
    Disconnect,
    /// Make completed writes durable.
    Flush,
    /// Give the range back.
    Trim {
        /// Durable before the reply.
        fua: bool,
    },
    /// The range will soon be read.
    Cache,
    /// Make the range zero.
    WriteZeroes {
        /// Durable before the reply.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Only if that costs less than writing them as data.
        fast: bool,
    },
    /// Say what the range holds.
    BlockStatus {
        /// In one run.
        one: bool,
        /// In which respects.
        contexts: Contexts,
    },
    /// The same, of a range and in respects that are in the request's payload: see
    /// [`Request::narrowed`]. Its length isn't looked at before.
    NarrowedBlockStatus,
}

/// A request that isn't carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is answered.
    pub errno: Errno,
    /// And why.
    pub why: &'static str,
}

const fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

impl Request {
    /// Decodes a compact request; fails only where the stream can't be followed any more.
    pub fn decode(bytes: [u8; REQUEST_BYTES]) -> Result<Self, NbdError> {
        let header: RequestHeader = zerocopy::transmute!(bytes);
        match header.magic.get() {
            REQUEST_MAGIC => Ok(Self {
                flags: header.flags.get(),
                kind: header.kind.get(),
                cookie: header.cookie.get(),
                offset: header.offset.get(),
                len: header.len.get().into(),
            }),
            magic => Err(NbdError::RequestMagic(magic)),
        }
    }

    /// Decodes an extended request; fails only where the stream can't be followed any more.
    pub fn decode_extended(bytes: [u8; EXTENDED_REQUEST_BYTES]) -> Result<Self, NbdError> {
        let header: ExtendedRequestHeader = zerocopy::transmute!(bytes);
        match header.magic.get() {
            EXTENDED_REQUEST_MAGIC => Ok(Self {
                flags: header.flags.get(),
                kind: header.kind.get(),
                cookie: header.cookie.get(),
                offset: header.offset.get(),
                len: header.len.get(),
            }),
            magic => Err(NbdError::RequestMagic(magic)),
        }
    }

    /// The request as a client with extended headers sends it.
    pub fn encode_extended(&self) -> [u8; EXTENDED_REQUEST_BYTES] {
        let header = ExtendedRequestHeader {
            magic: EXTENDED_REQUEST_MAGIC.into(),
            flags: self.flags.into(),
            kind: self.kind.into(),
            cookie: self.cookie.into(),
            offset: self.offset.into(),
            len: self.len.into(),
        };
        zerocopy::transmute!(header)
    }

    /// The request as a client with compact headers sends it, who can't say a length beyond 32
    /// bits and sends the largest instead.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: self.flags.into(),
            kind: self.kind.into(),
            cookie: self.cookie.into(),
            offset: self.offset.into(),
            len: u32::try_from(self.len).unwrap_or(u32::MAX).into(),
        };
        zerocopy::transmute!(header)
    }

    /// Bytes of payload that follow the header.
    pub const fn payload_len(&self, framing: Framing) -> u64 {
        // With extended headers the flag says so, for a write too; but qemu's client (10.0) sends
        // writes without it, and their data all the same, which its server takes.
        let has_flag = framing.is_extended() && self.flags & cmd_flag::PAYLOAD_LEN != 0;
        if self.kind == cmd::WRITE || has_flag {
            self.len
        } else {
            0
        }
    }

    /// What is to be done, or why nothing is.
    pub fn judge(&self, terms: &Terms) -> Result<Command, Refusal> {
        let command = self.command(terms)?;
        let writes = matches!(
            command,
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
        );
        if writes && terms.read_only {
            return refuse(Errno::Perm, "the export is read-only");
        }
        match command {
            Command::Disconnect | Command::NarrowedBlockStatus => return Ok(command),
            Command::Flush if self.offset == 0 && self.len == 0 => return Ok(command),
            Command::Flush => return refuse(Errno::Inval, "a flush has no range"),
            Command::Read if self.len > u64::from(PAYLOAD_MAX_BYTES) => {
                return if self.flags & cmd_flag::DF != 0 {
                    refuse(Errno::Overflow, "the read is too large for one chunk")
                } else {
                    refuse(Errno::Inval, "the read is larger than 32 MiB")
                };
            }
            Command::Write { .. } if self.len > u64::from(PAYLOAD_MAX_BYTES) => {
                return refuse(Errno::Inval, "the write is larger than 32 MiB");
            }
            // An answer has at least one run, so that there must be something to answer for.
            Command::BlockStatus { .. } if self.len == 0 => {
                return refuse(Errno::Inval, "the range is empty");
            }
            _ => {}
        }
        self.check_range(terms, command)?;
        Ok(command)
    }

    /// The BLOCK_STATUS whose range and contexts are in `payload`, of at most
    /// [`STATUS_PAYLOAD_MAX_BYTES`].
    pub fn narrowed(&self, payload: &[u8], terms: &Terms) -> Result<(Self, Command), Refusal> {
        let malformed = Refusal {
            errno: Errno::Inval,
            why: "the payload is no length with contexts that were agreed on, each once",
        };
        let (len, ids) = U64::read_from_prefix(payload).map_err(|_| malformed)?;
        let ids = <[U32]>::ref_from_bytes(ids).map_err(|_| malformed)?;
        let contexts = terms.contexts.narrowed(ids.iter().map(|id| id.get()));
        let Some(contexts) = contexts.filter(|contexts| !contexts.is_empty()) else {
            return Err(malformed);
        };
        // From here on it is as if the header had said so.
        let request = Self {
            flags: self.flags & !cmd_flag::PAYLOAD_LEN,
            len: len.get(),
            ..*self
        };
        let terms = Terms { contexts, ..*terms };
        Ok((request, request.judge(&terms)?))
    }

    /// The command by its number, with flags that belong to it.
    fn command(&self, terms: &Terms) -> Result<Command, Refusal> {
        let has = |flag| self.flags & flag != 0;
        let fua = has(cmd_flag::FUA);
        let extended = terms.framing.is_extended();
        let (command, own_flags) = match self.kind {
            cmd::READ if terms.framing.has_chunks() => (Command::Read, cmd_flag::DF),
            cmd::READ => (Command::Read, 0),
            cmd::WRITE if extended => (Command::Write { fua }, cmd_flag::PAYLOAD_LEN),
            cmd::WRITE => (Command::Write { fua }, 0),
            cmd::DISC => return Ok(Command::Disconnect),
            cmd::FLUSH => (Command::Flush, 0),
            cmd::TRIM => (Command::Trim { fua }, 0),
            cmd::CACHE => (Command::Cache, 0),
            cmd::WRITE_ZEROES => {
                let command = Command::WriteZeroes {
                    fua,
                    no_hole: has(cmd_flag::NO_HOLE),
                    fast: has(cmd_flag::FAST_ZERO),
                };
                (command, cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO)
            }
            cmd::BLOCK_STATUS if terms.contexts.is_empty() => {
                return refuse(Errno::Inval, "no metadata context was agreed on");
            }
            cmd::BLOCK_STATUS if extended && has(cmd_flag::PAYLOAD_LEN) => {
                if self.len > u64_of(STATUS_PAYLOAD_MAX_BYTES) {
                    return refuse(Errno::Inval, "the payload has more contexts than there are");
                }
                let flags = cmd_flag::REQ_ONE | cmd_flag::PAYLOAD_LEN;
                (Command::NarrowedBlockStatus, flags)
            }
            cmd::BLOCK_STATUS => {
                let (one, contexts) = (has(cmd_flag::REQ_ONE), terms.contexts);
                (Command::BlockStatus { one, contexts }, cmd_flag::REQ_ONE)
            }
            _ => return refuse(Errno::Inval, "unknown command"),
        };
        // FUA is allowed everywhere: some clients set it on what writes nothing.
        if self.flags & !(own_flags | cmd_flag::FUA) != 0 {
            return refuse(Errno::Inval, "unknown command flag");
        }
        Ok(command)
    }

    fn check_range(&self, terms: &Terms, command: Command) -> Result<(), Refusal> {
        let end = self.offset.checked_add(self.len);
        if end.is_none_or(|end| end > terms.size) {
            let errno = match command {
                Command::Write { .. } | Command::WriteZeroes { .. } => Errno::NoSpc,
                _ => Errno::Inval,
            };
            return refuse(errno, "the range runs past the end of the export");
        }
        let block = u64::from(terms.block);
        if !self.offset.is_multiple_of(block) || !self.len.is_multiple_of(block) {
            return refuse(
                Errno::Inval,
                "offset or length is not a multiple of the minimum block size",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        size: 1 << 30,
        block: 512,
        read_only: false,
        framing: Framing::Structured,
        contexts: Contexts::ALL,
    };

    fn request(kind: u16, flags: u16, offset: u64, len: u64) -> Request {
        Request {
            flags,
            kind,
            cookie: 7,
            offset,
            len,
        }
    }

    fn errno(request: Request, terms: Terms) -> Option<Errno> {
        request.judge(&terms).err().map(|refusal| refusal.errno)
    }

    fn framing() -> impl Strategy<Value = Framing> {
        prop::sample::select(vec![
            Framing::Simple,
            Framing::Structured,
            Framing::Extended,
        ])
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u64,
        ) {
            let request = Request { flags, kind, cookie, offset, len };
            let extended = Request::decode_extended(request.encode_extended()).unwrap();
            prop_assert_eq!(extended, request);
            let request = Request { len: len >> 32, ..request };
            prop_assert_eq!(Request::decode(request.encode()).unwrap(), request);
        }

        #[test]
        fn a_payload_of_any_bytes_narrows_to_what_was_agreed_on_or_is_refused(
            payload in prop::collection::vec(prop_oneof![2 => Just(0u8), 1 => 0u8..4], 0..20),
        ) {
            let terms = Terms { framing: Framing::Extended, ..TERMS };
            let flags = cmd_flag::PAYLOAD_LEN;
            let asking = request(cmd::BLOCK_STATUS, flags, 0, u64_of(payload.len()));
            match asking.narrowed(&payload, &terms) {
                Err(refusal) => prop_assert_eq!(refusal.errno, Errno::Inval),
                Ok((narrowed, command)) => {
                    let Command::BlockStatus { contexts, .. } = command else {
                        panic!("{command:?}");
                    };
                    prop_assert_eq!(8 + 4 * contexts.iter().count(), payload.len());
                    prop_assert!(narrowed.len > 0 && narrowed.len <= terms.size);
                }
            }
        }

        #[test]
        fn bytes_without_the_magic_are_no_request(bytes in any::<[u8; REQUEST_BYTES]>()) {
            let magic = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            prop_assert_eq!(Request::decode(bytes).is_ok(), magic == REQUEST_MAGIC);
        }

        #[test]
        fn what_is_accepted_is_aligned_inside_and_within_the_maximum(
            flags in 0u16..64,
            kind in 0u16..10,
            offset in prop_oneof![any::<u64>(), (0u64..4 << 20).prop_map(|n| n * 512), 0..9000u64],
            len in prop_oneof![any::<u64>(), (0u64..1 << 17).prop_map(|n| n * 512)],
            read_only: bool,
            framing in framing(),
        ) {
            let terms = Terms { read_only, framing, ..TERMS };
            let maximum = u64::from(PAYLOAD_MAX_BYTES);
            let request = request(kind, flags, offset, len);
            match request.judge(&terms) {
                Err(_) | Ok(Command::Disconnect | Command::NarrowedBlockStatus) => {}
                Ok(command) => {
                    prop_assert!(offset + len <= terms.size);
                    prop_assert!(offset % 512 == 0 && len % 512 == 0);
                    match command {
                        Command::Read => prop_assert!(len <= maximum),
                        Command::Write { .. } => {
                            prop_assert!(len <= maximum && !read_only);
                        }
                        Command::Trim { .. } | Command::WriteZeroes { .. } => {
                            prop_assert!(!read_only);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn past_the_end_is_no_space_for_writers_and_invalid_for_others() {
        for (kind, expected) in [
            (cmd::READ, Errno::Inval),
            (cmd::WRITE, Errno::NoSpc),
            (cmd::WRITE_ZEROES, Errno::NoSpc),
            (cmd::TRIM, Errno::Inval),
            (cmd::CACHE, Errno::Inval),
            (cmd::BLOCK_STATUS, Errno::Inval),
        ] {
            for offset in [TERMS.size, TERMS.size - 512, u64::MAX - 511] {
                let request = request(kind, 0, offset, 1024);
                assert_eq!(errno(request, TERMS), Some(expected), "{kind} at {offset}");
            }
        }
    }

    #[test]
    fn writers_are_refused_on_a_read_only_export() {
        let terms = Terms {
            read_only: true,
            ..TERMS
        };
        for kind in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(errno(request(kind, 0, 0, 512), terms), Some(Errno::Perm));
        }
        assert_eq!(errno(request(cmd::READ, 0, 0, 512), terms), None);
        assert_eq!(errno(request(cmd::FLUSH, 0, 0, 0), terms), None);
    }

    #[test]
    fn oversize_requests_are_refused_by_their_kind() {
        let len = u64::from(PAYLOAD_MAX_BYTES) + 512;
        assert_eq!(
            errno(request(cmd::READ, 0, 0, len), TERMS),
            Some(Errno::Inval)
        );
        let unfragmented = request(cmd::READ, cmd_flag::DF, 0, len);
        assert_eq!(errno(unfragmented, TERMS), Some(Errno::Overflow));
        assert_eq!(
            errno(request(cmd::WRITE, 0, 0, len), TERMS),
            Some(Errno::Inval)
        );
        // These carry no payload, so that only the export's end bounds them.
        assert_eq!(errno(request(cmd::TRIM, 0, 0, len), TERMS), None);
        assert_eq!(errno(request(cmd::WRITE_ZEROES, 0, 0, len), TERMS), None);
    }

    #[test]
    fn flags_belong_to_their_commands() {
        let refused = |kind, flags| errno(request(kind, flags, 0, 512), TERMS);
        assert_eq!(refused(cmd::READ, cmd_flag::FUA), None);
        assert_eq!(refused(cmd::READ, cmd_flag::DF), None);
        assert_eq!(refused(cmd::WRITE, cmd_flag::DF), Some(Errno::Inval));
        assert_eq!(refused(cmd::READ, cmd_flag::REQ_ONE), Some(Errno::Inval));
        assert_eq!(refused(cmd::WRITE, 1 << 9), Some(Errno::Inval));
        assert_eq!(refused(cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO), None);
        assert_eq!(refused(cmd::CACHE, cmd_flag::FAST_ZERO), Some(Errno::Inval));
        let payload = cmd_flag::PAYLOAD_LEN;
        assert_eq!(refused(cmd::WRITE, payload), Some(Errno::Inval), "compact");
        let extended = Terms {
            framing: Framing::Extended,
            ..TERMS
        };
        for (kind, flags, expected) in [
            (cmd::WRITE, payload, None),
            (cmd::WRITE, 0, None),
            (cmd::READ, payload, Some(Errno::Inval)),
            (cmd::TRIM, payload, Some(Errno::Inval)),
            (cmd::BLOCK_STATUS, 0, None),
        ] {
            assert_eq!(errno(request(kind, flags, 0, 512), extended), expected);
        }
        let narrowed = |len| errno(request(cmd::BLOCK_STATUS, payload, 0, len), extended);
        assert_eq!((narrowed(12), narrowed(20)), (None, Some(Errno::Inval)));
        let simple = Terms {
            framing: Framing::Simple,
            contexts: Contexts::default(),
            ..TERMS
        };
        let unfragmented = request(cmd::READ, cmd_flag::DF, 0, 512);
        assert_eq!(errno(unfragmented, simple), Some(Errno::Inval));
        let status = request(cmd::BLOCK_STATUS, 0, 0, 512);
        assert_eq!(errno(status, simple), Some(Errno::Inval));
    }
}

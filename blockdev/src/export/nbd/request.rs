//! Requests: decoded, and judged against what was agreed on.
//!
//! Pure. Everything a request can have wrong is found here, before memory is taken for it or the
//! device is asked.

use super::error::NbdError;
use super::proto::{Errno, PAYLOAD_MAX_BYTES, REQUEST_MAGIC, RequestHeader, cmd, cmd_flag};

/// Bytes of a request before its payload.
pub const REQUEST_BYTES: usize = size_of::<RequestHeader>();

/// Largest payload of a refused write that is skipped to keep the connection. Beyond it the client
/// isn't one that kept to the maximum and made a small mistake.
pub const PAYLOAD_SKIP_MAX_BYTES: u32 = 64 << 20;

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
    /// Bytes of the range.
    pub len: u32,
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
    /// Replies are structured.
    pub structured: bool,
    /// `base:allocation` was agreed on.
    pub block_status: bool,
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
    },
    /// Say what the range holds.
    BlockStatus {
        /// In one run.
        one: bool,
    },
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
    /// Decodes a request; fails only where the stream can't be followed any more.
    pub fn decode(bytes: [u8; REQUEST_BYTES]) -> Result<Self, NbdError> {
        let header: RequestHeader = zerocopy::transmute!(bytes);
        match header.magic.get() {
            REQUEST_MAGIC => Ok(Self {
                flags: header.flags.get(),
                kind: header.kind.get(),
                cookie: header.cookie.get(),
                offset: header.offset.get(),
                len: header.len.get(),
            }),
            magic => Err(NbdError::RequestMagic(magic)),
        }
    }

    /// The request as a client sends it.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: self.flags.into(),
            kind: self.kind.into(),
            cookie: self.cookie.into(),
            offset: self.offset.into(),
            len: self.len.into(),
        };
        zerocopy::transmute!(header)
    }

    /// Bytes of payload that follow the header.
    pub const fn payload_len(&self) -> u32 {
        match self.kind {
            cmd::WRITE => self.len,
            _ => 0,
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
            Command::Disconnect => return Ok(command),
            Command::Flush if self.offset == 0 && self.len == 0 => return Ok(command),
            Command::Flush => return refuse(Errno::Inval, "a flush has no range"),
            Command::Read if self.len > PAYLOAD_MAX_BYTES => {
                return if self.flags & cmd_flag::DF != 0 {
                    refuse(Errno::Overflow, "the read is too large for one chunk")
                } else {
                    refuse(Errno::Inval, "the read is larger than 32 MiB")
                };
            }
            Command::Write { .. } if self.len > PAYLOAD_MAX_BYTES => {
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

    /// The command by its number, with flags that belong to it.
    fn command(&self, terms: &Terms) -> Result<Command, Refusal> {
        let has = |flag| self.flags & flag != 0;
        let fua = has(cmd_flag::FUA);
        let (command, own_flags) = match self.kind {
            cmd::READ if terms.structured => (Command::Read, cmd_flag::DF),
            cmd::READ => (Command::Read, 0),
            cmd::WRITE => (Command::Write { fua }, 0),
            cmd::DISC => return Ok(Command::Disconnect),
            cmd::FLUSH => (Command::Flush, 0),
            cmd::TRIM => (Command::Trim { fua }, 0),
            cmd::CACHE => (Command::Cache, 0),
            cmd::WRITE_ZEROES => {
                // A device doesn't say whether zeros cost it less than data, so this isn't
                // advertised; who asks all the same learns it the way the protocol provides.
                if has(cmd_flag::FAST_ZERO) {
                    return refuse(Errno::NotSup, "zeros may be as slow as data");
                }
                let no_hole = has(cmd_flag::NO_HOLE);
                (Command::WriteZeroes { fua, no_hole }, cmd_flag::NO_HOLE)
            }
            cmd::BLOCK_STATUS if terms.block_status => {
                let one = has(cmd_flag::REQ_ONE);
                (Command::BlockStatus { one }, cmd_flag::REQ_ONE)
            }
            cmd::BLOCK_STATUS => {
                return refuse(Errno::Inval, "no metadata context was agreed on");
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
        let end = self.offset.checked_add(u64::from(self.len));
        if end.is_none_or(|end| end > terms.size) {
            let errno = match command {
                Command::Write { .. } | Command::WriteZeroes { .. } => Errno::NoSpc,
                _ => Errno::Inval,
            };
            return refuse(errno, "the range runs past the end of the export");
        }
        let block = terms.block;
        if !self.offset.is_multiple_of(u64::from(block)) || !self.len.is_multiple_of(block) {
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
        structured: true,
        block_status: true,
    };

    fn request(kind: u16, flags: u16, offset: u64, len: u32) -> Request {
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

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u32,
        ) {
            let request = Request { flags, kind, cookie, offset, len };
            prop_assert_eq!(Request::decode(request.encode()).unwrap(), request);
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
            len in prop_oneof![any::<u32>(), (0u32..1 << 17).prop_map(|n| n * 512)],
            read_only: bool,
            structured: bool,
        ) {
            let terms = Terms { read_only, structured, block_status: structured, ..TERMS };
            let request = request(kind, flags, offset, len);
            match request.judge(&terms) {
                Err(_) | Ok(Command::Disconnect) => {}
                Ok(command) => {
                    prop_assert!(offset + u64::from(len) <= terms.size);
                    prop_assert!(offset % 512 == 0 && len % 512 == 0);
                    match command {
                        Command::Read => prop_assert!(len <= PAYLOAD_MAX_BYTES),
                        Command::Write { .. } => {
                            prop_assert!(len <= PAYLOAD_MAX_BYTES && !read_only);
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
        let len = PAYLOAD_MAX_BYTES + 512;
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
        assert_eq!(
            refused(cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO),
            Some(Errno::NotSup)
        );
        let simple = Terms {
            structured: false,
            block_status: false,
            ..TERMS
        };
        let unfragmented = request(cmd::READ, cmd_flag::DF, 0, 512);
        assert_eq!(errno(unfragmented, simple), Some(Errno::Inval));
        let status = request(cmd::BLOCK_STATUS, 0, 0, 512);
        assert_eq!(errno(status, simple), Some(Errno::Inval));
    }
}

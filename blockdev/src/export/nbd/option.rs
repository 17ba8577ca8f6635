//! Payloads of options, decoded.
//!
//! Pure: bytes in, a value or the reason why not out. Nothing is allocated but the strings and
//! lists that the payload itself spells out.

use zerocopy::FromBytes;
use zerocopy::network_endian::{U16, U32};

use super::proto::{STRING_MAX_BYTES, opt};
use crate::units::usize_of_u32;

/// Largest payload that is looked at: sixteen of the longest strings, far above what clients send.
pub const OPTION_MAX_BYTES: u32 = 64 << 10;

/// Largest payload that is skipped, to answer "too big". Beyond it the connection is closed.
pub const OPTION_SKIP_MAX_BYTES: u32 = 1 << 20;

/// An option, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionRequest {
    /// Choose an export and start transmission, the old way.
    ExportName(String),
    /// End the negotiation.
    Abort,
    /// List the exports.
    List,
    /// Describe an export; with `go`, start transmission.
    Info {
        /// Start transmission.
        go: bool,
        /// Export name.
        name: String,
        /// Information types wanted.
        wanted: Vec<u16>,
    },
    /// Agree on structured replies.
    StructuredReply,
    /// List, or with `set` choose, metadata contexts.
    MetaContext {
        /// Choose, don't only list.
        set: bool,
        /// Export name.
        name: String,
        /// Queries; none means all for a list, none at all for a choice.
        queries: Vec<String>,
    },
    /// Agree on extended headers.
    ExtendedHeaders,
    /// Start TLS.
    StartTls,
    /// Something else.
    Unknown,
}

/// What is wrong with an option's payload; its text is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It ends too early.
    #[error("the option's payload is cut short")]
    Short,
    /// It goes on after its end.
    #[error("the option's payload has bytes too many")]
    Long,
    /// A string above the protocol's maximum.
    #[error("a string is longer than 4096 bytes")]
    StringTooLong,
    /// A string that isn't text.
    #[error("a string is not UTF-8, or contains NUL")]
    NotText,
}

impl OptionRequest {
    /// Decodes the payload of `option`.
    pub fn decode(option: u32, payload: &[u8]) -> Result<Self, OptionError> {
        let mut fields = Fields(payload);
        let request = match option {
            opt::EXPORT_NAME => Self::ExportName(fields.text(payload.len())?),
            // The protocol lets a server overlook what an ABORT carries: the client goes anyway.
            opt::ABORT => return Ok(Self::Abort),
            opt::LIST => Self::List,
            opt::STRUCTURED_REPLY => Self::StructuredReply,
            opt::EXTENDED_HEADERS => Self::ExtendedHeaders,
            opt::STARTTLS => Self::StartTls,
            opt::INFO | opt::GO => Self::Info {
                go: option == opt::GO,
                name: fields.counted_text()?,
                wanted: fields.info_types()?,
            },
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => Self::MetaContext {
                set: option == opt::SET_META_CONTEXT,
                name: fields.counted_text()?,
                queries: fields.queries()?,
            },
            _ => return Ok(Self::Unknown),
        };
        fields.end()?;
        Ok(request)
    }
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<T: FromBytes>(&mut self) -> Result<T, OptionError> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| OptionError::Short)?;
        self.0 = rest;
        Ok(value)
    }

    fn text(&mut self, len: usize) -> Result<String, OptionError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(OptionError::Short)?;
        if len > STRING_MAX_BYTES {
            return Err(OptionError::StringTooLong);
        }
        self.0 = rest;
        match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.contains(&0) => Ok(text.to_owned()),
            _ => Err(OptionError::NotText),
        }
    }

    fn counted_text(&mut self) -> Result<String, OptionError> {
        let len = self.take::<U32>()?.get();
        self.text(usize_of_u32(len))
    }

    fn info_types(&mut self) -> Result<Vec<u16>, OptionError> {
        let count = self.take::<U16>()?.get();
        (0..count).map(|_| Ok(self.take::<U16>()?.get())).collect()
    }

    fn queries(&mut self) -> Result<Vec<String>, OptionError> {
        let count = self.take::<U32>()?.get();
        // Grows with what is really there: a count of four billion ends at the first short string.
        (0..count).map(|_| self.counted_text()).collect()
    }

    fn end(&self) -> Result<(), OptionError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(OptionError::Long)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::u32_of;
    use proptest::prelude::*;

    fn counted(out: &mut Vec<u8>, text: &str) {
        out.extend(u32_of(text.len()).to_be_bytes());
        out.extend(text.as_bytes());
    }

    /// What a client sends for `request`.
    fn encode(request: &OptionRequest) -> (u32, Vec<u8>) {
        let mut out = Vec::new();
        let option = match request {
            OptionRequest::ExportName(name) => {
                out.extend(name.as_bytes());
                opt::EXPORT_NAME
            }
            OptionRequest::Abort => opt::ABORT,
            OptionRequest::List => opt::LIST,
            OptionRequest::StructuredReply => opt::STRUCTURED_REPLY,
            OptionRequest::ExtendedHeaders => opt::EXTENDED_HEADERS,
            OptionRequest::StartTls => opt::STARTTLS,
            OptionRequest::Unknown => 4711,
            OptionRequest::Info { go, name, wanted } => {
                counted(&mut out, name);
                out.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
                out.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
                if *go { opt::GO } else { opt::INFO }
            }
            OptionRequest::MetaContext { set, name, queries } => {
                counted(&mut out, name);
                out.extend(u32_of(queries.len()).to_be_bytes());
                for query in queries {
                    counted(&mut out, query);
                }
                if *set {
                    opt::SET_META_CONTEXT
                } else {
                    opt::LIST_META_CONTEXT
                }
            }
        };
        (option, out)
    }

    fn request() -> impl Strategy<Value = OptionRequest> {
        let text = "[^\\x00]{0,40}";
        prop_oneof![
            text.prop_map(OptionRequest::ExportName),
            Just(OptionRequest::Abort),
            Just(OptionRequest::List),
            Just(OptionRequest::StructuredReply),
            Just(OptionRequest::ExtendedHeaders),
            Just(OptionRequest::StartTls),
            Just(OptionRequest::Unknown),
            (
                any::<bool>(),
                text,
                prop::collection::vec(any::<u16>(), 0..9)
            )
                .prop_map(|(go, name, wanted)| OptionRequest::Info {
                    go,
                    name,
                    wanted
                }),
            (any::<bool>(), text, prop::collection::vec(text, 0..9))
                .prop_map(|(set, name, queries)| OptionRequest::MetaContext { set, name, queries }),
        ]
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_what_is_decoded(request in request()) {
            let (option, payload) = encode(&request);
            prop_assert_eq!(OptionRequest::decode(option, &payload), Ok(request));
        }

        #[test]
        fn every_cut_of_a_payload_is_an_error_or_another_request(
            request in request(), cut in any::<prop::sample::Index>(),
        ) {
            let (option, payload) = encode(&request);
            if !payload.is_empty() {
                let cut = cut.index(payload.len());
                prop_assert_ne!(OptionRequest::decode(option, &payload[..cut]), Ok(request));
            }
        }

        #[test]
        fn arbitrary_bytes_decode_to_no_more_than_they_hold(
            option in 0u32..14, payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            match OptionRequest::decode(option, &payload) {
                Ok(OptionRequest::MetaContext { name, queries, .. }) => {
                    let held: usize = queries.iter().map(|query| 4 + query.len()).sum();
                    prop_assert_eq!(8 + name.len() + held, payload.len());
                }
                Ok(OptionRequest::Info { name, wanted, .. }) => {
                    prop_assert_eq!(6 + name.len() + 2 * wanted.len(), payload.len());
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_huge_count_or_length_ends_with_the_payload() {
        let mut payload = Vec::new();
        counted(&mut payload, "pg");
        payload.extend(u32::MAX.to_be_bytes());
        let decoded = OptionRequest::decode(opt::SET_META_CONTEXT, &payload);
        assert_eq!(decoded, Err(OptionError::Short));
        let decoded = OptionRequest::decode(opt::GO, &u32::MAX.to_be_bytes());
        assert_eq!(decoded, Err(OptionError::Short));
    }

    #[test]
    fn names_are_text_of_at_most_4096_bytes() {
        let decode = |payload: &[u8]| OptionRequest::decode(opt::EXPORT_NAME, payload);
        assert!(decode(&[b'a'; 4096]).is_ok());
        assert_eq!(decode(&[b'a'; 4097]), Err(OptionError::StringTooLong));
        assert_eq!(decode(b"p\0g"), Err(OptionError::NotText));
        assert_eq!(decode(b"\xff"), Err(OptionError::NotText));
    }

    #[test]
    fn options_without_payload_refuse_one() {
        let bare = [
            opt::LIST,
            opt::STRUCTURED_REPLY,
            opt::EXTENDED_HEADERS,
            opt::STARTTLS,
        ];
        for option in bare {
            assert_eq!(OptionRequest::decode(option, b"x"), Err(OptionError::Long));
        }
    }
}

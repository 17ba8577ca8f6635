//! Generic netlink messages: a thin layer, pure, of what the `nbd` family needs.
//!
//! ```text
//! nlmsghdr  (16): len u32 │ type u16 │ flags u16 │ sequence u32 │ port u32
//! genlmsghdr (4): command u8 │ version u8 │ reserved u16
//! attribute     : len u16 (header and content) │ type u16 │ content, padded to 4
//! ```
//! All of it in the machine's byte order, as the kernel has it (`linux/netlink.h`,
//! `linux/genetlink.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::units::u32_of;

/// The family that resolves the others: its number is fixed.
pub const GENL_ID_CTRL: u16 = 16;
/// Message type: an error, or with number 0 an acknowledgement.
pub const NLMSG_ERROR: u16 = 2;
/// Message type: the end of several.
pub const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Bits of an attribute's type that say how it is to be read.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
/// Of these, the one that says that it holds attributes.
const NESTED: u16 = 0x8000;
const VERSION: u8 = 1;

/// Before every message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MessageHeader {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}
const _: () = assert!(size_of::<MessageHeader>() == 16);

/// Before the attributes of a generic message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct GenericHeader {
    command: u8,
    version: u8,
    reserved: u16,
}
const _: () = assert!(size_of::<GenericHeader>() == 4);

/// Before an attribute's content.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AttributeHeader {
    len: u16,
    kind: u16,
}
const _: () = assert!(size_of::<AttributeHeader>() == 4);

/// Attributes, being put together.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes. Of what is too long for an attribute nothing is appended.
    #[must_use]
    pub fn bytes(mut self, kind: u16, content: &[u8]) -> Self {
        let len = size_of::<AttributeHeader>() + content.len();
        if let Ok(len) = u16::try_from(len) {
            self.0
                .extend_from_slice(AttributeHeader { len, kind }.as_bytes());
            self.0.extend_from_slice(content);
            self.0.resize(self.0.len().next_multiple_of(4), 0);
        }
        self
    }

    /// Appends a number of 32 bits.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, value.as_bytes())
    }

    /// Appends a number of 64 bits.
    #[must_use]
    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, value.as_bytes())
    }

    /// Appends text, ended by NUL as the kernel wants it.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends attributes within one.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// A request to `family`, to be acknowledged.
pub fn request(family: u16, command: u8, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let len = size_of::<MessageHeader>() + size_of::<GenericHeader>() + attributes.0.len();
    let header = MessageHeader {
        len: u32_of(len),
        kind: family,
        flags: NLM_F_REQUEST | NLM_F_ACK,
        sequence,
        port: 0,
    };
    let generic = GenericHeader {
        command,
        version: VERSION,
        reserved: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(generic.as_bytes());
    bytes.extend_from_slice(&attributes.0);
    bytes
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'a> {
    /// The request of this sequence ended: with 0, or a negative error number.
    Ended {
        /// Of the request.
        sequence: u32,
        /// 0 is success.
        errno: i32,
    },
    /// A generic message.
    Message {
        /// Of the request that it answers; 0 for what was sent to a group.
        sequence: u32,
        /// The family that it is from.
        family: u16,
        /// Its command.
        command: u8,
        /// Its attributes.
        attributes: List<'a>,
    },
}

/// The messages of one datagram; what is malformed ends it.
pub fn received(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (header, _) = MessageHeader::read_from_prefix(rest).ok()?;
        let len = usize::try_from(header.len).ok()?;
        let message = rest.get(size_of::<MessageHeader>()..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        let sequence = header.sequence;
        match header.kind {
            NLMSG_ERROR => {
                let (errno, _) = i32::read_from_prefix(message).ok()?;
                Some(Received::Ended { sequence, errno })
            }
            NLMSG_DONE => Some(Received::Ended { sequence, errno: 0 }),
            family => {
                let (generic, attributes) = GenericHeader::read_from_prefix(message).ok()?;
                Some(Received::Message {
                    sequence,
                    family,
                    command: generic.command,
                    attributes: List(attributes),
                })
            }
        }
    })
}

/// Attributes that were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// Their types and contents; what is malformed ends them.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (header, _) = AttributeHeader::read_from_prefix(rest).ok()?;
            let len = usize::from(header.len);
            let content = rest.get(size_of::<AttributeHeader>()..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((header.kind & !ATTRIBUTE_FLAGS, content))
        })
    }

    fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, content)| content)
    }

    /// A number of 16 bits.
    pub fn u16(self, kind: u16) -> Option<u16> {
        u16::read_from_bytes(self.find(kind)?).ok()
    }

    /// A number of 32 bits.
    pub fn u32(self, kind: u16) -> Option<u32> {
        u32::read_from_bytes(self.find(kind)?).ok()
    }

    /// Text, without the NUL that ends it.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let text = std::str::from_utf8(self.find(kind)?).ok()?;
        Some(text.trim_end_matches('\0'))
    }

    /// Attributes within one.
    pub fn nested(self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self)
    }

    /// The members of a list: each attribute's content, whatever its type, holds attributes.
    pub fn nested_items(self) -> impl Iterator<Item = List<'a>> {
        self.iter().map(|(_, content)| Self(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn golden_frame_of_a_request() {
        let inner = Attributes::new().u32(1, 7);
        let attributes = Attributes::new().text(2, "nbd").nested(7, &inner);
        let expected = [
            // Header: 40 bytes, family 16, request with acknowledgement, sequence 5.
            40, 0, 0, 0, 16, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0, //
            // Command 3, version 1.
            3, 1, 0, 0, //
            8, 0, 2, 0, b'n', b'b', b'd', 0, //
            12, 0, 7, 0x80, 8, 0, 1, 0, 7, 0, 0, 0,
        ];
        assert_eq!(request(GENL_ID_CTRL, 3, 5, &attributes), expected);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let inner = Attributes::new().u32(1, 7).text(3, "x");
        let attributes = Attributes::new()
            .u64(2, 1 << 40)
            .nested(7, &inner)
            .text(10, "pg");
        let bytes = request(20, 1, 9, &attributes);
        let twice = [&bytes[..], &bytes[..]].concat();
        let messages: Vec<_> = received(&twice).collect();
        assert_eq!(messages.len(), 2);
        let Received::Message {
            sequence: 9,
            family: 20,
            command: 1,
            attributes,
        } = messages[1]
        else {
            panic!("{messages:?}");
        };
        assert_eq!(attributes.text(10), Some("pg"));
        assert_eq!(attributes.u32(2), None, "another width");
        let inner = attributes.nested(7).unwrap();
        assert_eq!((inner.u32(1), inner.text(3)), (Some(7), Some("x")));
    }

    #[test]
    fn an_error_is_a_number() {
        let mut bytes = request(NLMSG_ERROR, 0, 3, &Attributes::new());
        bytes[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        let messages: Vec<_> = received(&bytes).collect();
        let expected = Received::Ended {
            sequence: 3,
            errno: -2,
        };
        assert_eq!(messages, [expected]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), len: u8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = len;
            }
            if bytes.len() > 4 {
                bytes[1..4].fill(0);
            }
            for message in received(&bytes) {
                if let Received::Message { attributes, .. } = message {
                    let held: usize = attributes.iter().map(|(_, content)| content.len()).sum();
                    prop_assert!(held <= bytes.len());
                    if let Some(inner) = attributes.nested(7) {
                        inner.iter().count();
                    }
                }
            }
        }
    }
}

//! How a value lies in the redb table: its two revisions, then its bytes.
//!
//! ```text
//! 0        8        16
//! ┌────────┬────────┬──────────┐
//! │ create │  mod   │ value …  │   revisions: u64 little-endian
//! └────────┴────────┴──────────┘
//! ```

use crate::store::Revision;

/// A stored value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    pub(super) value: &'a [u8],
}

pub(super) fn encode(stored: Stored<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + stored.value.len());
    bytes.extend_from_slice(&stored.create_revision.0.to_le_bytes());
    bytes.extend_from_slice(&stored.mod_revision.0.to_le_bytes());
    bytes.extend_from_slice(stored.value);
    bytes
}

/// `None` for bytes that no release wrote.
pub(super) fn decode(bytes: &[u8]) -> Option<Stored<'_>> {
    let (create, rest) = bytes.split_first_chunk::<8>()?;
    let (modified, value) = rest.split_first_chunk::<8>()?;
    let (create_revision, mod_revision) = (
        Revision(u64::from_le_bytes(*create)),
        Revision(u64::from_le_bytes(*modified)),
    );
    (create_revision <= mod_revision).then_some(Stored {
        create_revision,
        mod_revision,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_less_is_refused() {
        let stored = Stored {
            create_revision: Revision(3),
            mod_revision: Revision(0x0102_0304_0506_0708),
            value: b"tcp:127.0.0.1:10809",
        };
        let bytes = encode(stored);
        assert_eq!(
            bytes[8..16],
            [8, 7, 6, 5, 4, 3, 2, 1],
            "format 1 is little-endian"
        );
        assert_eq!(decode(&bytes), Some(stored));
        for short in 0..16 {
            assert_eq!(decode(&bytes[..short]), None);
        }
    }

    #[test]
    fn a_value_modified_before_its_creation_is_refused() {
        let mut bytes = encode(Stored {
            create_revision: Revision(1),
            mod_revision: Revision(1),
            value: b"",
        });
        bytes[0] = 2;
        assert_eq!(decode(&bytes), None);
    }
}

//! What was done to some disks, in one order: the record that [`super::recorder`] writes and
//! [`super::outage`] reads.
//!
//! ```text
//!  0 magic  4 kind  5 disk  6 fua  7 zero  8 offset  16 length  24 data, of kind write alone
//! ```
//! Little-endian. Whoever asked for an operation hears of its end after its entry is in the record: so
//! what he knows to be done lies before the record's length at that moment.
//!
//! Does not know: arrays, what a power cut leaves.

use std::io::{ErrorKind, Read, Write};

use cairn_blockdev::units::{u64_of, usize_of};

use super::Answer;

const MAGIC: [u8; 4] = *b"RCRD";
const HEAD_BYTES: usize = 24;
/// No request is longer: what says so is no record.
const LEN_MAX: u64 = 1 << 30;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Bytes.
    Write {
        /// First byte.
        offset: u64,
        /// They.
        data: Vec<u8>,
        /// They are durable.
        fua: bool,
    },
    /// Zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// They are durable.
        fua: bool,
    },
    /// All before it is durable.
    Flush,
}

/// An entry of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The disk.
    pub disk: u8,
    /// What was done to it.
    pub deed: Deed,
}

impl Entry {
    /// Bytes of it in the record.
    pub fn encoded_len(&self) -> u64 {
        let data = match &self.deed {
            Deed::Write { data, .. } => data.len(),
            _ => 0,
        };
        u64_of(HEAD_BYTES + data)
    }

    /// Appends it, by one write: it is there whole or not at all.
    pub fn append(&self, to: &mut impl Write) -> std::io::Result<()> {
        let (kind, offset, len, fua, data) = match &self.deed {
            Deed::Write { offset, data, fua } => (1, *offset, u64_of(data.len()), *fua, &**data),
            Deed::Zero { offset, len, fua } => (2, *offset, *len, *fua, &[][..]),
            Deed::Flush => (3, 0, 0, false, &[][..]),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + data.len());
        bytes.extend(MAGIC);
        bytes.extend([kind, self.disk, u8::from(fua), 0]);
        bytes.extend(offset.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(data);
        to.write_all(&bytes)
    }

    /// The next entry; `None` at the end.
    pub fn read(from: &mut impl Read) -> Answer<Option<Self>> {
        let mut head = [0; HEAD_BYTES];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            done => done.map_err(|error| format!("the record: {error}"))?,
        }
        let (magic, rest) = head.split_at(MAGIC.len());
        let (flags, numbers) = rest.split_at(4);
        let (offset, len) = numbers.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let (offset, len) = (number(offset), number(len));
        let &[kind, disk, fua, _] = flags else {
            return Err("the record's head is too short".into());
        };
        let fua = fua != 0;
        if magic != MAGIC || len > LEN_MAX {
            return Err("that is no record, or its middle".into());
        }
        let deed = match kind {
            1 => {
                let mut data = vec![0; usize_of(len)];
                let read = from.read_exact(&mut data);
                read.map_err(|error| format!("the record's last entry: {error}"))?;
                Deed::Write { offset, data, fua }
            }
            2 => Deed::Zero { offset, len, fua },
            3 => Deed::Flush,
            kind => return Err(format!("the record has an entry of kind {kind}")),
        };
        Ok(Some(Self { disk, deed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_in_its_order_and_has_the_length_that_it_says() {
        let deeds = [
            Deed::Write {
                offset: 4096,
                data: vec![7; 512],
                fua: true,
            },
            Deed::Flush,
            Deed::Zero {
                offset: 1 << 40,
                len: 1 << 20,
                fua: false,
            },
        ];
        let entries = deeds.map(|deed| Entry { disk: 3, deed });
        let mut bytes = Vec::new();
        for entry in &entries {
            let before = bytes.len();
            entry.append(&mut bytes).unwrap();
            assert_eq!(u64_of(bytes.len() - before), entry.encoded_len());
        }
        let mut from = &bytes[..];
        for entry in entries {
            assert_eq!(Entry::read(&mut from), Ok(Some(entry)));
        }
        assert_eq!(Entry::read(&mut from), Ok(None));
        assert!(Entry::read(&mut &[0; 64][..]).is_err());
    }
}

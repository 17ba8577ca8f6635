//! A page of checksums on disk: 4 KiB.
//!
//! ```text
//!  0 magic  8 version  12 members  16 array uuid  32 page  40 generation  48 words  52 reserved
//!  60 sums: words × members × u32, word by word, slot by slot; the rest zero … 4092 crc32c
//! ```
//!
//! `generation` is the last sequence of the journal that the page holds, or more: it rises with
//! every write of a page, is above that of whatever lay in the place it is written to, and of a page's
//! valid copies the highest one is the page.
//!
//! Does not know: where copies are, what a sum is made of.

use cairn_blockdev::units::{u32_of, usize_of_u32};
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::place::PageNumber;
use crate::mutation::{Mutation, on};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Sums that a page can hold.
pub const SUMS_MAX: usize = 1008;

const MAGIC: [u8; 8] = *b"CAIRNSUM";
const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPage {
    magic: [u8; 8],
    version: U32,
    members: U32,
    array_uuid: [u8; 16],
    page: U64,
    generation: U64,
    words: U32,
    reserved: [u8; 8],
    sums: [U32; SUMS_MAX],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawPage>() == PAGE_BYTES);

/// Which page it is, and its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageId {
    /// The array.
    pub array: Uuid,
    /// The page.
    pub page: PageNumber,
    /// Words in it.
    pub words: usize,
    /// Sums of a word.
    pub members: usize,
}

/// Why 4 KiB aren't the page that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Zeros: never written.
    #[error("blank checksum page")]
    Blank,
    /// Torn, rotten, or another page.
    #[error("damaged checksum page")]
    Damaged,
    /// A newer structure.
    #[error(
        "checksum page has version {0}, this Cairn knows {VERSION}: use the version that wrote it"
    )]
    Version(u32),
}

/// A valid page, as it lies in the bytes it was read into.
#[derive(Debug, Clone, Copy)]
pub struct SumsPage<'a> {
    generation: u64,
    sums: &'a [U32],
}

fn sum(bytes: &[u8]) -> u32 {
    cairn_blockdev::crc::crc32c(
        bytes
            .split_at(bytes.len().saturating_sub(size_of::<U32>()))
            .0,
    )
}

impl<'a> SumsPage<'a> {
    /// Checks that `bytes` are the page `id`.
    pub fn decode(id: &PageId, bytes: &'a [u8]) -> Result<Self, PageError> {
        let raw = RawPage::ref_from_bytes(bytes).map_err(|_| PageError::Damaged)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(PageError::Blank);
        }
        let ours = raw.magic == MAGIC
            && raw.crc32c.get() == sum(bytes)
            && raw.array_uuid == id.array.into_bytes()
            && (raw.page.get() == id.page.0 || on(Mutation::PageWithoutNumber));
        if !ours {
            return Err(PageError::Damaged);
        }
        if raw.version.get() != VERSION {
            return Err(PageError::Version(raw.version.get()));
        }
        let shaped = usize_of_u32(raw.words.get()) == id.words
            && usize_of_u32(raw.members.get()) == id.members
            && raw.generation.get() > 0;
        let (sums, rest) = raw
            .sums
            .split_at_checked(id.words.saturating_mul(id.members))
            .ok_or(PageError::Damaged)?;
        if !shaped || rest.iter().any(|sum| sum.get() != 0) {
            return Err(PageError::Damaged);
        }
        Ok(Self {
            generation: raw.generation.get(),
            sums,
        })
    }

    /// Its generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its sums, word by word.
    pub fn sums(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.sums.iter().map(|sum| sum.get())
    }

    /// Whether two copies say the same of every block.
    pub fn agrees(&self, other: &SumsPage<'_>) -> bool {
        self.sums == other.sums
    }
}

/// The page `id` with these sums.
///
/// # Panics
/// If there aren't `words * members` sums, or they are more than a page holds, or the generation is
/// 0, which stands for a page that was never written.
pub fn encode(id: &PageId, generation: u64, sums: &[u32]) -> Box<[u8]> {
    assert!(
        sums.len() == id.words * id.members && sums.len() <= SUMS_MAX && generation > 0,
        "page {} of generation {generation} with {} sums",
        id.page.0,
        sums.len()
    );
    let mut raw = RawPage::new_zeroed();
    raw.magic = MAGIC;
    raw.version = VERSION.into();
    raw.members = u32_of(id.members).into();
    raw.array_uuid = id.array.into_bytes();
    raw.page = id.page.0.into();
    raw.generation = generation.into();
    raw.words = u32_of(id.words).into();
    for (to, from) in raw.sums.iter_mut().zip(sums) {
        *to = (*from).into();
    }
    raw.crc32c = sum(raw.as_bytes()).into();
    raw.as_bytes().into()
}

/// Gives an encoded page another generation.
///
/// # Panics
/// If it isn't as long as a page, or the generation is 0.
pub(super) fn regenerate(page: &mut [u8], generation: u64) {
    assert!(generation > 0, "a page that was written has a generation");
    let raw = RawPage::mut_from_bytes(page);
    assert!(raw.is_ok(), "a checksum page of another size");
    if let Ok(raw) = raw {
        raw.generation = generation.into();
        raw.crc32c = sum(raw.as_bytes()).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: PageId = PageId {
        array: Uuid::from_bytes([7; 16]),
        page: PageNumber(5),
        words: 100,
        members: 10,
    };

    fn sample() -> Box<[u8]> {
        let sums: Vec<u32> = (0..1000)
            .map(|i: u32| i.wrapping_mul(0x9E37_79B9))
            .collect();
        encode(&ID, 0x0123_4567_89AB, &sums)
    }

    #[test]
    fn the_page_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../../tests/golden/sums-page-v1.bin");
        let page = SumsPage::decode(&ID, golden).unwrap();
        assert_eq!(page.generation(), 0x0123_4567_89AB);
        assert_eq!(page.sums().nth(3), Some(3u32.wrapping_mul(0x9E37_79B9)));
        assert_eq!(&sample()[..], golden, "the encoding of version 1 changed");
    }

    #[test]
    fn only_the_page_that_is_looked_for_is_taken() {
        let bytes = sample();
        let others = [
            PageId {
                array: Uuid::from_bytes([8; 16]),
                ..ID
            },
            PageId {
                page: PageNumber(6),
                ..ID
            },
            PageId { words: 99, ..ID },
            PageId { members: 9, ..ID },
        ];
        for other in others {
            assert_eq!(
                SumsPage::decode(&other, &bytes).unwrap_err(),
                PageError::Damaged
            );
        }
        assert_eq!(
            SumsPage::decode(&ID, &[0; PAGE_BYTES]).unwrap_err(),
            PageError::Blank
        );
    }

    #[test]
    fn a_newer_version_is_named_and_not_taken_for_damage() {
        let mut bytes = sample();
        bytes[8] = 2;
        let crc = cairn_blockdev::crc::crc32c(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            SumsPage::decode(&ID, &bytes).unwrap_err(),
            PageError::Version(2)
        );
    }

    #[test]
    fn d8_any_flipped_bit_of_a_page_is_seen() {
        let mut bytes = sample();
        for bit in 0..PAGE_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SumsPage::decode(&ID, &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn pages_come_back_as_they_were_written(
            members in 2usize..=32, page in any::<u64>(), generation in 1..u64::MAX,
            seed in any::<u32>(),
        ) {
            let words = SUMS_MAX / members;
            let id = PageId { page: PageNumber(page), words, members, ..ID };
            let sums: Vec<u32> = (0..u32_of(words * members)).map(|i| i ^ seed).collect();
            let bytes = encode(&id, generation, &sums);
            let back = SumsPage::decode(&id, &bytes).unwrap();
            prop_assert_eq!(back.generation(), generation);
            prop_assert_eq!(back.sums().collect::<Vec<_>>(), &sums[..]);
            let mut other = encode(&id, 1, &sums);
            regenerate(&mut other, generation);
            prop_assert_eq!(other, bytes);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(
            head in proptest::collection::vec(any::<u8>(), 0..200),
            len in 0usize..5000, ours in any::<bool>(),
        ) {
            let mut bytes = if ours { sample().into_vec() } else { vec![0; 4096] };
            for (to, from) in bytes[40..].iter_mut().zip(&head) {
                *to = *from;
            }
            bytes.resize(if ours { 4096 } else { len }, 0);
            if ours {
                let crc = cairn_blockdev::crc::crc32c(&bytes[..4092]);
                bytes[4092..].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(page) = SumsPage::decode(&ID, &bytes) {
                let sums: Vec<u32> = page.sums().collect();
                let again = encode(&ID, page.generation(), &sums);
                let back = SumsPage::decode(&ID, &again).unwrap();
                prop_assert!(back.agrees(&page));
            }
        }
    }
}

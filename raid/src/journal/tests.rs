//! Groups and headers as bytes, rings on simulated disks, and unions against a naive model.

mod bytes;
mod rings;
mod unions;

use cairn_blockdev::units::{BLOCK_BYTES, u32_of, usize_of};
use proptest::prelude::*;
use uuid::Uuid;

use super::entry::{Entry, Kind, PREPARED, Seq, Tag};
use super::group::{Head, encode, escape, group_bytes};

const ARRAY: Uuid = Uuid::from_bytes([7; 16]);
const EPOCH: u64 = 3;

fn head(first: u64) -> Head {
    Head {
        array: ARRAY,
        epoch: EPOCH,
        lane: 0,
        first: Seq(first),
        durable_through: Seq(first - 1),
        floor: Seq(1),
    }
}

/// An entry without a payload.
fn bare(kind: Kind, sums: Vec<u32>) -> Entry {
    Entry {
        kind,
        flags: 0,
        log: 0,
        log_seq: 0,
        offset: 0,
        len: 0,
        arg: 0,
        tag: Tag::default(),
        sums,
        payload_len: 0,
    }
}

fn sums_of(payload: &[u8]) -> Vec<u32> {
    payload
        .chunks(BLOCK_BYTES)
        .map(cairn_blockdev::crc::crc32c)
        .collect()
}

/// A write of `payload`.
fn data(offset: u64, payload: &[u8]) -> Entry {
    Entry {
        offset,
        len: payload.len() as u64,
        payload_len: u32_of(payload.len()),
        ..bare(Kind::Data, sums_of(payload))
    }
}

/// The bytes of a group as they go to a member.
fn bytes_of(head: &Head, entries: &[Entry], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xEE; group_bytes(entries)];
    encode(head, entries, &mut bytes);
    let at = bytes.len() - payload.len();
    bytes[at..].copy_from_slice(payload);
    escape(&mut bytes[at..]);
    bytes
}

/// A group of one write, payload filled with `fill`.
fn write_group(first: u64, blocks: usize, fill: u8) -> Vec<u8> {
    let payload = vec![fill; blocks * BLOCK_BYTES];
    bytes_of(&head(first), &[data(4096, &payload)], &payload)
}

prop_compose! {
    /// Any entry, with its payload.
    fn any_entry()(
        kind in proptest::sample::select(&Kind::ALL[..]),
        prepared: bool,
        numbers: (u32, u64, u64, u32),
        arg: u64,
        tag in proptest::collection::vec(any::<u8>(), 0..=64),
        bare_sums in proptest::collection::vec(any::<u32>(), 0..40),
        fills in proptest::collection::vec(any::<u8>(), 0..4),
        // Blocks that look like descriptors, or like descriptors that were made not to.
        starts in proptest::collection::vec(
            proptest::option::of(proptest::sample::select(vec![*b"CAIRNGRP", inverted()])), 4),
    ) -> (Entry, Vec<u8>) {
        let mut payload: Vec<u8> = fills.iter().flat_map(|&fill| [fill; BLOCK_BYTES]).collect();
        for (block, start) in payload.chunks_mut(BLOCK_BYTES).zip(starts) {
            if let Some(start) = start {
                block[..8].copy_from_slice(&start);
            }
        }
        let sums = if payload.is_empty() { bare_sums } else { sums_of(&payload) };
        let entry = Entry {
            kind,
            flags: if prepared { PREPARED } else { 0 },
            log: numbers.0,
            log_seq: numbers.1,
            offset: numbers.2,
            len: u64::from(numbers.3).min(u64::MAX - numbers.2),
            arg,
            tag: Tag::new(&tag).unwrap(),
            sums,
            payload_len: u32_of(payload.len()),
        };
        (entry, payload)
    }
}

fn inverted() -> [u8; 8] {
    b"CAIRNGRP".map(|byte| !byte)
}

prop_compose! {
    fn any_head()(
        array: u128,
        epoch: u64,
        lane: u16,
        first in 1..u64::MAX - 100,
        durable: proptest::sample::Index,
        floor: proptest::sample::Index,
    ) -> Head {
        let below = |index: proptest::sample::Index| Seq(index.index(usize_of(first)) as u64);
        Head {
            array: Uuid::from_u128(array),
            epoch,
            lane,
            first: Seq(first),
            durable_through: below(durable),
            floor: below(floor),
        }
    }
}

prop_compose! {
    /// A group: head, entries, and the payload as it was given.
    fn any_group()(
        head in any_head(),
        parts in proptest::collection::vec(any_entry(), 1..12),
    ) -> (Head, Vec<Entry>, Vec<u8>) {
        let (entries, payloads): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        (head, entries, payloads.concat())
    }
}

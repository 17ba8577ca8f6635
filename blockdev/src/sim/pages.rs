//! The bytes of a simulated disk: sparse pages of 4 KiB behind a directory of two levels.
//!
//! A copy shares every page until one side writes it, so an image of a disk costs next to nothing:
//! what a power cut may bring back, what an older disk held, what a reboot finds.
//!
//! Invariants
//! - A page that isn't there reads as zeros.

use std::rc::Rc;

use crate::units::{BLOCK, BLOCK_BYTES, u64_of, usize_of};

/// One page.
pub(super) type Page = Rc<[u8; BLOCK_BYTES]>;

/// Pages of one leaf of the directory: 1 MiB.
const LEAF_PAGES: usize = 256;

#[derive(Clone)]
struct Leaf([Option<Page>; LEAF_PAGES]);

impl Leaf {
    fn new() -> Self {
        Self(std::array::from_fn(|_| None))
    }
}

/// Sparse bytes.
#[derive(Clone, Default)]
pub(super) struct Pages {
    leaves: Vec<Option<Rc<Leaf>>>,
}

fn place(page: u64) -> (usize, usize) {
    let page = usize_of(page);
    (page / LEAF_PAGES, page % LEAF_PAGES)
}

/// The pieces of a range that lie in one page each: (page, first byte in it, bytes).
pub(super) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + u64_of(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let within = usize_of(at % BLOCK);
        let n = (BLOCK_BYTES - within).min(usize_of(end - at));
        let piece = (at / BLOCK, within, n);
        at += u64_of(n);
        Some(piece)
    })
}

impl Pages {
    /// A page, if anything was ever written there.
    pub(super) fn get(&self, page: u64) -> Option<&Page> {
        let (leaf, at) = place(page);
        self.leaves.get(leaf)?.as_ref()?.0.get(at)?.as_ref()
    }

    fn slot(&mut self, page: u64) -> &mut Option<Page> {
        let (leaf, at) = place(page);
        if self.leaves.len() <= leaf {
            self.leaves.resize(leaf + 1, None);
        }
        let leaf = self
            .leaves
            .get_mut(leaf)
            .map(|leaf| Rc::make_mut(leaf.get_or_insert_with(|| Rc::new(Leaf::new()))));
        leaf.and_then(|leaf| leaf.0.get_mut(at))
            .unwrap_or_else(|| unreachable!("the directory was made long enough"))
    }

    /// Puts a page, or zeros, in its place.
    pub(super) fn set(&mut self, page: u64, to: Option<Page>) {
        if to.is_some() || self.get(page).is_some() {
            *self.slot(page) = to;
        }
    }

    /// Copies a range out.
    pub(super) fn load(&self, offset: u64, bytes: &mut [u8]) {
        let mut rest = bytes;
        for (page, within, n) in pieces(offset, rest.len()) {
            let (head, tail) = rest.split_at_mut(n);
            match self.get(page).and_then(|page| page.get(within..within + n)) {
                Some(from) => head.copy_from_slice(from),
                None => head.fill(0),
            }
            rest = tail;
        }
    }

    /// Copies a range in.
    pub(super) fn store(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (page, within, n) in pieces(offset, bytes.len()) {
            let (head, tail) = rest.split_at(n);
            store_in_page(self.slot(page), within, head);
            rest = tail;
        }
    }

    /// Pages of a range that hold something.
    pub(super) fn present(&self, offset: u64, len: u64) -> Vec<u64> {
        let (mut page, end) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        let mut found = Vec::new();
        while page < end {
            let (leaf, at) = place(page);
            let Some(Some(leaf)) = self.leaves.get(leaf) else {
                page += u64_of(LEAF_PAGES - at);
                continue;
            };
            if leaf.0.get(at).is_some_and(Option::is_some) {
                found.push(page);
            }
            page += 1;
        }
        found
    }
}

/// Copies `bytes` into a page; a page that somebody else sees as well is copied first.
pub(super) fn store_in_page(page: &mut Option<Page>, within: usize, bytes: &[u8]) {
    if let Ok(whole) = <&[u8; BLOCK_BYTES]>::try_from(bytes) {
        match page.as_mut().and_then(Rc::get_mut) {
            Some(own) => own.copy_from_slice(whole),
            // What was there needn't be copied to be overwritten.
            None => *page = Some(Rc::new(*whole)),
        }
        return;
    }
    let page = page.get_or_insert_with(|| Rc::new([0; BLOCK_BYTES]));
    if let Some(to) = Rc::make_mut(page).get_mut(within..within + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

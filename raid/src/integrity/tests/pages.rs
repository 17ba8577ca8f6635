//! The cache: what is verified, what stays, what goes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::integrity::cache::{Content, ENTRY_BYTES, Sides};

fn places() -> Places {
    // 6 members: 168 words, of which 160 are used.
    let geometry = Geometry::new(Level::Raid6, 6, 65536).unwrap();
    Places::new(&geometry, 64 << 20)
}

fn cache(pages: usize) -> SumsCache {
    SumsCache::new(ARRAY, places(), pages * ENTRY_BYTES)
}

#[test]
fn a_run_is_verified_block_by_block() {
    let mut cache = cache(4);
    assert_eq!(cache.verify(Row(0), 0, Slot(2), &block(1)), Verdict::Absent);
    cache.blank(PageNumber(0));
    cache.set(Slot(2), Row(1), 3, &[crc(1), crc(2), crc(3)]);
    let data = [block(1), block(2), block(3)].concat();
    assert_eq!(cache.verify(Row(1), 3, Slot(2), &data), Verdict::Good);
    let rotten = [block(1), block(9), block(3)].concat();
    assert_eq!(
        cache.verify(Row(1), 3, Slot(2), &rotten),
        Verdict::Bad(vec![4])
    );
    assert_eq!(
        cache.verify(Row(1), 2, Slot(2), &[block(0), block(1)].concat()),
        Verdict::Bad(vec![2])
    );
    assert_eq!(cache.crc(Slot(2), Row(1), 4), Some(crc(2)));
}

#[test]
fn d7_the_right_block_at_a_wrong_place_fails() {
    let mut cache = cache(4);
    cache.blank(PageNumber(0));
    for slot in (0..6).map(Slot) {
        cache.set(slot, Row(2), 0, &[crc(5), crc(5)]);
    }
    assert_eq!(cache.verify(Row(2), 1, Slot(1), &block(5)), Verdict::Good);
    // The same bytes, written by mistake at the same place of another member: the sums of that
    // place are what they were.
    let bytes = cache.take_dirty(&[PageNumber(0)], 1).remove(0).bytes;
    let id = cache.id(PageNumber(0));
    let stored: Vec<u32> = SumsPage::decode(&id, &bytes).unwrap().sums().collect();
    let of_row: BTreeSet<u32> = stored.iter().skip(2 * 16 * 6).take(12).copied().collect();
    assert_eq!(of_row.len(), 12, "equal blocks have equal sums");
}

#[test]
fn a_page_that_is_changed_while_it_is_written_stays_dirty() {
    let mut cache = cache(4);
    cache.blank(PageNumber(0));
    cache.set(Slot(0), Row(0), 0, &[1]);
    let first = cache.take_dirty(&cache.dirty_pages(), 10).remove(0);
    assert_eq!(first.generation, 10);
    cache.set(Slot(0), Row(0), 0, &[2]);
    cache.written(first.page, first.generation);
    assert_eq!(cache.dirty_count(), 1);
    // The journal's sequence hasn't moved: the generation has to, all the same.
    let second = cache.take_dirty(&cache.dirty_pages(), 10).remove(0);
    assert_eq!(second.generation, 11);
    cache.written(first.page, first.generation);
    assert_eq!(cache.dirty_count(), 1, "an older snapshot says nothing");
    cache.written(second.page, second.generation);
    assert_eq!(cache.dirty_count(), 0);
    cache.set(Slot(0), Row(0), 0, &[2]);
    assert_eq!(cache.dirty_count(), 0, "nothing has changed");
}

#[test]
fn a_pinned_page_and_a_dirty_one_outlive_any_crowd() {
    let mut cache = cache(2);
    for page in 0..3 {
        cache.blank(PageNumber(page));
    }
    cache.set(Slot(0), Row(0), 0, &[1]);
    cache.unpin(PageNumber(0));
    cache.unpin(PageNumber(2));
    assert!(cache.has(PageNumber(0)) && cache.has(PageNumber(1)));
    assert!(!cache.has(PageNumber(2)), "two pages are the bound");
    cache.unpin(PageNumber(1));
    for page in 3..20 {
        cache.blank(PageNumber(page));
        cache.unpin(PageNumber(page));
    }
    assert!(cache.has(PageNumber(0)) && !cache.has(PageNumber(1)));
    assert_eq!(cache.crc(Slot(0), Row(0), 0), Some(1));
    assert_eq!(cache.len(), 2);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let mut cache = cache(2);
    for page in 0..2 {
        cache.blank(PageNumber(page));
        cache.unpin(PageNumber(page));
    }
    let _ = cache.verify(Row(0), 0, Slot(0), &block(0));
    cache.blank(PageNumber(2));
    assert!(cache.has(PageNumber(0)) && !cache.has(PageNumber(1)));
}

#[test]
fn a_disk_that_joins_leaves_no_page_with_a_side_that_was_never_seen() {
    let mut cache = cache(8);
    let copies = |page| places().copies(PageNumber(page)).collect::<Vec<_>>();
    // Pages 0, 2 and 4 have copies on slots 0 to 2, pages 1, 3 and 5 on the others.
    assert_eq!(copies(2)[0].slot, Slot(0));
    for page in 0..6 {
        if page == 4 {
            // It says nothing, and isn't written over what the disk may bring.
            cache.blank(PageNumber(page));
        } else {
            let content = Content {
                generation: 1,
                sums: vec![7; places().sums_per_page()].into(),
                sides: Sides::default(),
            };
            cache.insert(PageNumber(page), content, false);
        }
        cache.note_side(PageNumber(page), 0, Some(Side::B));
        cache.note_side(PageNumber(page), 1, Some(Side::A));
    }
    for page in [0, 1] {
        cache.unpin(PageNumber(page));
    }
    cache.joined(Slot(0));
    assert!(!cache.has(PageNumber(0)) && cache.has(PageNumber(1)));
    assert_eq!(cache.dirty_pages(), [PageNumber(2)]);
    let taken = cache.take_dirty(&[PageNumber(2)], 1).remove(0);
    assert_eq!(taken.sides.get(0), None);
    assert_eq!(taken.sides.get(1), Some(Side::A));
}

#[derive(Debug, Clone)]
enum Step {
    Set(u64, u64, usize, u32),
    Pin(u64),
    Unpin,
    Checkpoint { between: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..1024, 0u64..16, 0usize..6, any::<u32>())
            .prop_map(|(row, col, slot, crc)| Step::Set(row, col, slot, crc)),
        2 => (0u64..100).prop_map(Step::Pin),
        2 => Just(Step::Unpin),
        1 => any::<bool>().prop_map(|between| Step::Checkpoint { between }),
    ];
    proptest::collection::vec(step, 1..200)
}

/// The disks: the newest snapshot of each page.
type Disks = BTreeMap<PageNumber, (u64, Box<[u8]>)>;

fn load(cache: &mut SumsCache, disks: &Disks, page: PageNumber) {
    if cache.pin(page) {
        return;
    }
    let Some((_, bytes)) = disks.get(&page) else {
        return cache.blank(page);
    };
    let decoded = SumsPage::decode(&cache.id(page), bytes).unwrap();
    let content = Content {
        generation: decoded.generation(),
        sums: decoded.sums().collect(),
        sides: Sides::default(),
    };
    cache.insert(page, content, false);
}

fn page_of(row: u64, col: u64) -> PageNumber {
    places().runs(Row(row), col..col + 1).next().unwrap().page
}

proptest! {
    #[test]
    fn the_bound_holds_and_nothing_is_forgotten(steps in steps(), pages in 1usize..8) {
        let mut cache = cache(pages);
        let mut disks = Disks::new();
        let mut model = BTreeMap::new();
        let mut pinned = Vec::new();
        for step in steps {
            match step {
                Step::Set(row, col, slot, crc) => {
                    let page = page_of(row, col);
                    load(&mut cache, &disks, page);
                    cache.set(Slot(slot), Row(row), col, &[crc]);
                    cache.unpin(page);
                    model.insert((row, col, slot), crc);
                }
                Step::Pin(page) => {
                    load(&mut cache, &disks, PageNumber(page));
                    pinned.push(PageNumber(page));
                }
                Step::Unpin => {
                    if let Some(page) = pinned.pop() {
                        cache.unpin(page);
                    }
                }
                Step::Checkpoint { between } => {
                    for taken in cache.take_dirty(&cache.dirty_pages(), 1) {
                        let before = disks.get(&taken.page).map_or(0, |(g, _)| *g);
                        prop_assert!(taken.generation > before);
                        disks.insert(taken.page, (taken.generation, taken.bytes));
                        if between {
                            let row = taken.page.0 * 10;
                            cache.set(Slot(0), Row(row), 0, &[77]);
                            model.insert((row, 0, 0), 77);
                        }
                        cache.written(taken.page, taken.generation);
                    }
                }
            }
            let kept = pinned.iter().copied().chain(cache.dirty_pages());
            let kept = kept.collect::<BTreeSet<_>>().len();
            prop_assert!(cache.len() <= pages.max(kept));
        }
        for ((row, col, slot), crc) in model {
            let page = page_of(row, col);
            load(&mut cache, &disks, page);
            prop_assert_eq!(cache.crc(Slot(slot), Row(row), col), Some(crc));
            cache.unpin(page);
        }
    }
}

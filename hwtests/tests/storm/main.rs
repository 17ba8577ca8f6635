//! The simulator's own promises, and a little of each of its ways: CI runs more of them by the
//! command line (`storm --matrix`, `storm --seconds`).
#![cfg(test)]

use std::time::Duration;

use cairn_hwtests::storm::aimed::{self, Turn};
use cairn_hwtests::storm::exhaustive::{Place, Subject, cut_everywhere};
use cairn_hwtests::storm::history::history;
use cairn_hwtests::storm::hunt;
use cairn_hwtests::storm::matrix::{self, Choice};
use cairn_raid::Level;

#[test]
fn a_seed_replays_to_the_letter_and_another_tells_another_story() {
    let mut hashes = Vec::new();
    for seed in 1..5 {
        let (first, second) = (history(seed, 2500), history(seed, 2500));
        assert_eq!(first.finding, None, "seed {seed}");
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.totals.ops, second.totals.ops);
        assert_eq!(first.totals.faults, second.totals.faults);
        hashes.push(first.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 4);
}

#[test]
fn a_spare_that_joined_after_the_last_check_may_be_the_member_that_a_crash_takes() {
    assert_eq!(history(758_485_797_361, 6000).finding, None);
}

#[test]
fn a_row_is_not_completed_by_a_write_that_covers_a_logged_block_in_part() {
    assert_eq!(history(818_565_780_191, 6000).finding, None);
}

#[test]
fn a_journal_disk_that_is_asked_again_after_a_minute_and_hangs_has_its_time_too() {
    assert_eq!(history(32_482_898_033, 6000).finding, None);
}

#[test]
fn parities_of_two_versions_give_a_block_beside_one_whose_old_contents_are_gone() {
    assert_eq!(history(463_308_887_189, 6000).finding, None);
}

#[test]
fn a_write_waits_for_the_extent_that_a_trim_is_giving_back() {
    assert_eq!(history(764_239_891_265, 6000).finding, None);
}

#[test]
fn a_row_that_a_power_cut_left_in_part_is_not_held_for_one_in_place() {
    assert_eq!(history(365_172_847_232, 6000).finding, None);
}

#[test]
fn d7_a_page_that_went_astray_before_anything_was_written_there_costs_no_write() {
    assert_eq!(history(887_429_030_211, 6000).finding, None);
}

/// Some cells of the matrix with this seed and the next, of which the second has disks that tear no block.
fn cells(fault: &str, state: &str, first_seed: u64) {
    let outcome = matrix::run(&Choice {
        seeds: 2,
        jobs: 1,
        fault: Some(fault.to_owned()),
        state: Some(state.to_owned()),
        first_seed,
    });
    assert_eq!(outcome.failures, Vec::<String>::new());
}

#[test]
fn d8_rot_in_a_row_that_a_crash_cut_off_is_no_content_where_disks_tear_no_block() {
    cells("D8 rot in data", "replaying", 59);
    cells("D8 rot in data", "replaying", 219);
}

#[test]
fn h2_a_row_that_a_power_cut_takes_back_is_known_though_its_sums_are_written() {
    cells("H1", "journal full", 9);
}

#[test]
fn d3_a_member_that_fails_while_a_replay_begins_takes_nothing_along_that_was_acked() {
    cells("D3", "replaying", 9);
}

#[test]
fn d4_a_member_that_hangs_while_the_journal_is_read_takes_nothing_along_that_was_acked() {
    cells("D4 a disk hangs", "replaying", 31);
}

#[test]
fn a2_a_block_that_is_given_up_under_a_read_is_an_error_and_not_zeros() {
    cells("D6 lost writes", "rebuilding", 27);
}

#[test]
fn a2_a_replay_takes_a_lost_block_off_the_list_only_if_it_is_what_an_intent_announced() {
    cells("D7", "degraded 2", 23);
}

#[test]
fn a_hunt_tells_of_what_it_did() {
    let caught = hunt::hunt(1, Duration::from_secs(3), 1);
    if let Some((seed, finding)) = caught.finding {
        panic!("storm --seed {seed}: {finding}");
    }
    let totals = caught.totals;
    assert!(totals.ops.total() > 0 && totals.ios > totals.ops.total());
}

fn cut(level: Level) {
    // At every I/O of the load; `storm --exhaustive` does the same at every poll, and in the start.
    let all = Subject::all(3).into_iter();
    for subject in all.filter(|s| s.level == level && s.place == Place::Io) {
        let outcome = cut_everywhere(subject, 2);
        if let Some((at, finding)) = outcome.finding {
            panic!("{subject:?}, cut {at}: {finding}");
        }
        assert!(outcome.cuts > 20, "{subject:?}: {} cuts", outcome.cuts);
    }
}

#[test]
fn h2_a_short_history_on_mirrors_may_be_cut_off_anywhere() {
    cut(Level::Raid1);
}

#[test]
fn h2_a_short_history_on_raid5_may_be_cut_off_anywhere() {
    cut(Level::Raid5);
}

#[test]
fn h2_a_short_history_on_raid6_may_be_cut_off_anywhere() {
    cut(Level::Raid6);
}

fn take(turn: Turn, level: Level, seed: u64) {
    if let Some(finding) = aimed::alone(turn, level, seed).finding {
        panic!("{turn:?} on {level}, seed {seed}: {finding}");
    }
}

/// A power cut took the trim back after the row had been overwritten without an intent.
#[test]
fn a9_a_row_that_was_trimmed_and_is_written_again_survives_a_power_cut() {
    for seed in [12, 14, 26] {
        take(Turn::Reuse, Level::Raid5, seed);
    }
    take(Turn::Reuse, Level::Raid1, 26);
}

#[test]
fn turns_that_aim_at_one_schedule_each_cost_nothing() {
    for turn in Turn::ALL {
        for level in [Level::Raid1, Level::Raid5, Level::Raid6] {
            for seed in 1..7 {
                take(turn, level, seed);
            }
        }
    }
}

/// Run with `--features mutations`.
#[cfg(feature = "mutations")]
#[test]
fn every_planted_bug_is_found() {
    use cairn_hwtests::storm::mutations::{NOT_PLANTED, look_for_all};
    use cairn_raid::mutation::Mutation;

    for search in look_for_all(&Mutation::ALL, 2) {
        let waits = NOT_PLANTED.contains(&search.mutation);
        assert_eq!(
            search.reached, !waits,
            "{:?}: the list of what isn't planted yet is wrong, or its code never runs",
            search.mutation
        );
        assert_eq!(search.found.is_some(), !waits, "{search:?}");
    }
}

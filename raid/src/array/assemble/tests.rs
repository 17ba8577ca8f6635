use super::*;
use crate::label::tests::sample;

/// Labels of an array of five with all members in sync, and a spare.
fn healthy() -> Vec<Label> {
    let mut one = sample();
    for entry in &mut one.array.table {
        if entry.slot.is_some() {
            entry.state = MemberState::InSync;
            entry.cursor_rows = 0;
        }
    }
    (1..=6)
        .map(|n| {
            let mut label = one.clone();
            label.member_uuid = Uuid::from_bytes([n; 16]);
            label
        })
        .collect()
}

#[test]
fn a_newcomer_s_label_of_a_commit_that_was_given_up_doesn_t_make_a_later_stop_clean() {
    let mut labels = healthy();
    for label in &mut labels {
        (label.array.generation, label.array.clean) = (500, false);
    }
    let newcomer = labels.last_mut().unwrap();
    newcomer.array.event_count += 1;
    (newcomer.array.generation, newcomer.array.clean) = (13, true);
    let verdict = judge(&labels, &options()).unwrap();
    assert_eq!(verdict.reference.event_count, labels[5].array.event_count);
    assert!(verdict.unclean, "the others were written to since");
    assert_eq!(
        verdict.reference.generation, 500,
        "what comes next is newer than all"
    );
    // A crash in the last commit of a clean stop leaves some labels behind, and nothing else.
    for label in &mut labels {
        (label.array.generation, label.array.clean) = (12, false);
    }
    let first = labels.first_mut().unwrap();
    first.array.event_count += 1;
    (first.array.generation, first.array.clean) = (13, true);
    assert!(!judge(&labels, &options()).unwrap().unclean);
}

fn options() -> AssembleOptions {
    AssembleOptions {
        force: false,
        waited: true,
        home_host: Uuid::nil(),
        witness: None,
    }
}

fn uuid(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

#[test]
fn all_present_and_clean_starts_without_waiting() {
    let verdict = judge(
        &healthy(),
        &AssembleOptions {
            waited: false,
            ..options()
        },
    )
    .unwrap();
    assert!(verdict.absent.is_empty() && !verdict.resync);
    assert_eq!(verdict.trusted.len(), 6);
}

#[test]
fn order_of_disks_does_not_matter() {
    let mut labels = healthy();
    let first = judge(&labels, &options()).unwrap();
    labels.reverse();
    let mut second = judge(&labels, &options()).unwrap();
    second.trusted.reverse();
    assert_eq!(first, second);
}

#[test]
fn an_absent_member_is_waited_for_and_then_done_without() {
    let mut labels = healthy();
    labels.remove(0);
    let refusal = judge(
        &labels,
        &AssembleOptions {
            waited: false,
            ..options()
        },
    )
    .unwrap_err();
    assert!(refusal.wait_may_help);
    let verdict = judge(&labels, &options()).unwrap();
    assert_eq!(verdict.absent, [uuid(1)]);
}

#[test]
fn too_few_members_are_not_started_even_with_force() {
    let labels = healthy().split_off(3);
    let refusal = judge(
        &labels,
        &AssembleOptions {
            force: true,
            ..options()
        },
    )
    .unwrap_err();
    assert!(
        !refusal.force_may_help && refusal.reason.contains("3 are needed"),
        "{}",
        refusal.reason
    );
}

#[test]
fn members_that_another_label_calls_failed_are_stale() {
    let mut labels = healthy();
    // Everybody but the first learned of event 6, in which the first was failed.
    for label in &mut labels[1..] {
        label.array.event_count += 1;
        label.array.table[0].state = MemberState::Failed;
    }
    let verdict = judge(&labels, &options()).unwrap();
    assert!(!verdict.trusted.contains(&uuid(1)));
    assert!(verdict.absent.is_empty());
}

#[test]
fn a_crash_between_two_labels_leaves_nobody_stale() {
    let mut labels = healthy();
    labels[2].array.event_count += 1;
    labels[2].array.table[0].state = MemberState::Failed;
    let verdict = judge(&labels, &options()).unwrap();
    assert_eq!(verdict.reference.event_count, 6);
    assert!(verdict.absent.is_empty() && verdict.trusted.contains(&uuid(2)));
}

#[test]
fn an_old_image_of_a_member_is_stale() {
    let mut labels = healthy();
    for label in &mut labels[1..] {
        label.array.event_count += 2;
    }
    let verdict = judge(&labels, &options()).unwrap();
    assert_eq!(verdict.absent, [uuid(1)]);
}

#[test]
fn two_that_ejected_the_third_of_a_mirror_outvote_nobody_but_are_newer() {
    // A three-way mirror of which one went on alone: the single newer label wins.
    let mut labels = healthy();
    labels.truncate(3);
    let geometry = crate::Geometry::new(crate::Level::Raid1, 3, 65536).unwrap();
    for label in &mut labels {
        label.array.geometry = geometry;
        label.array.table.truncate(3);
    }
    labels[0].array.event_count += 2;
    labels[0].array.table[1].state = MemberState::Failed;
    labels[0].array.table[2].state = MemberState::Failed;
    let verdict = judge(&labels, &options()).unwrap();
    assert_eq!(verdict.trusted, [uuid(1)]);
}

#[test]
fn half_of_a_mirror_needs_the_witness_or_force() {
    let mut labels = healthy();
    labels.truncate(1);
    let geometry = crate::Geometry::new(crate::Level::Raid1, 2, 65536).unwrap();
    labels[0].array.geometry = geometry;
    labels[0].array.table.truncate(2);
    let refusal = judge(&labels, &options()).unwrap_err();
    assert!(refusal.force_may_help, "{}", refusal.reason);
    let witness = |event_count| {
        Some(Witness {
            array: Uuid::nil(),
            event_count,
            members: Vec::new(),
        })
    };
    let agrees = AssembleOptions {
        witness: witness(5),
        ..options()
    };
    assert_eq!(judge(&labels, &agrees).unwrap().absent, [uuid(2)]);
    let knows_more = AssembleOptions {
        witness: witness(6),
        ..options()
    };
    assert!(judge(&labels, &knows_more).is_err());
    assert!(
        judge(
            &labels,
            &AssembleOptions {
                force: true,
                ..options()
            }
        )
        .is_ok()
    );
}

#[test]
fn unclean_and_whole_recomputes_parity() {
    let mut labels = healthy();
    for label in &mut labels {
        label.array.clean = false;
    }
    assert!(judge(&labels, &options()).unwrap().resync);
    // The first commit of a write that hadn't reached the other labels yet.
    let mut labels = healthy();
    labels[3].array.clean = false;
    labels[3].array.generation += 1;
    assert!(judge(&labels, &options()).unwrap().resync);
    // The last commit of a clean stop that hadn't reached one: everything was flushed by then.
    for label in &mut labels {
        label.array.clean = false;
    }
    labels[2].array.clean = true;
    labels[2].array.generation += 2;
    assert!(!judge(&labels, &options()).unwrap().resync);
}

#[test]
fn unclean_and_degraded_wants_force() {
    let mut labels = healthy();
    for label in &mut labels {
        label.array.clean = false;
    }
    labels.remove(4);
    let refusal = judge(&labels, &options()).unwrap_err();
    assert!(refusal.force_may_help && refusal.reason.contains("--force"));
    assert!(
        judge(
            &labels,
            &AssembleOptions {
                force: true,
                ..options()
            }
        )
        .is_ok()
    );
}

#[test]
fn unclean_and_rebuilding_wants_force() {
    let mut labels = healthy();
    for label in &mut labels {
        label.array.clean = false;
        label.array.table[2].state = MemberState::Rebuilding;
    }
    assert!(judge(&labels, &options()).unwrap_err().force_may_help);
}

#[test]
fn o4_labels_with_unknown_ro_compat_bits_start_only_after_a_clean_stop() {
    let mut labels = healthy();
    for label in &mut labels {
        label.array.ro_compat = 1 << 9;
    }
    assert!(judge(&labels, &options()).is_ok());
    for label in &mut labels {
        label.array.clean = false;
    }
    let refusal = judge(&labels, &options()).unwrap_err();
    assert!(!refusal.force_may_help && refusal.reason.contains("0x200"));
}

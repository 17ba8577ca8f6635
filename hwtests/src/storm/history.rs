//! A long random story of one array: clients, one fault after another, crashes and restarts, for as
//! many operations as are asked for.

use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_raid::layout::{LABEL_A, ZONES_START, ZoneKind};
use cairn_raid::{Level, MemberState};

use super::aimed::Turn;
use super::faults::Fault;
use super::harm::{Harm, restart};
use super::load::{Cut, Mix};
use super::log::Aim;
use super::model::Crash;
use super::shape::{LARGE_CHUNK, Shape};
use super::tell::{Told, tell};
use super::world::World;

/// Operations of a chapter, between two turns of the story.
const CHAPTER: u64 = 250;

/// The world of a seed: level, members, chunk and what its disks tear follow from it.
pub fn shape_of(seed: u64) -> Shape {
    let mut rng = Rng::new(seed ^ 0x5AFE);
    let (level, members) = match rng.below(4) {
        0 => (Level::Raid1, 2 + usize_of(rng.below(2))),
        1 => (Level::Raid5, 3 + usize_of(rng.below(3))),
        _ => (Level::Raid6, 4 + usize_of(rng.below(4))),
    };
    let shape = Shape {
        level,
        members,
        spares: 2,
        journal_disks: 0,
        chunk_bytes: chunk_of(seed, &mut rng),
        tear_bytes: if rng.one_in(2) { 512 } else { 4096 },
        rows: 16 + rng.below(32),
        // By what has no part in anything else of it.
        integrity: seed % 6 != 4,
        logs: seed % 3 == 1,
    };
    if !rng.one_in(3) {
        return shape;
    }
    let mut shape = shape.with_journal_disks();
    shape.journal_disks += usize::from(rng.one_in(3));
    shape
}

/// The chunk of a seed's world. One of eight has rows so large that memory doesn't have room for all of them at once.
fn chunk_of(seed: u64, rng: &mut Rng) -> u32 {
    let chunk = 4096 << rng.below(3);
    if seed % 8 == 7 { LARGE_CHUNK } else { chunk }
}

/// The story of a seed, `ops` client operations long.
pub fn history(seed: u64, ops: u64) -> Told {
    tell(World::new(seed, shape_of(seed)), |world| {
        world.create(usize_of(seed % 2));
        while world.rules.ops.get().total() < ops {
            chapter(world);
        }
        end(world);
    })
}

/// Clients alone on six members of RAID 6, nothing else happening: for how fast it goes.
pub fn undisturbed(seed: u64, ops: u64) -> Told {
    tell(World::new(seed, Shape::of(Level::Raid6)), |world| {
        world.create(0);
        world.load(ops);
        end(world);
    })
}

/// A chapter: clients, with something happening in the middle of them.
fn chapter(world: &mut World) {
    let len = CHAPTER / 2 + world.rng.below(CHAPTER);
    match world.rng.below(10) {
        0 => {
            world.load(len);
            world.check();
        }
        1 | 2 => cut_off(world, len),
        3 => {
            world.load(len);
            restart(world);
        }
        4 => {
            world.load(len / 2);
            change_volumes(world);
            world.load(len / 2);
        }
        5 => {
            world.load(len / 2);
            bring_back(world);
            world.load(len / 2);
        }
        6 => aimed_turn(world, len),
        7 if world.shape.journal_disks > 0 => world.ring_fault(len),
        _ => fault(world, len),
    }
}

/// A turn that aims at one schedule, if the array survives it as it is now.
fn aimed_turn(world: &mut World, len: u64) {
    world.load(len / 4);
    let turns = Turn::of_stories();
    let at = usize_of(world.rng.below(u64_of(turns.len())));
    let turn = turns.get(at).copied();
    let left = world.array().status().redundancy_left;
    if let Some(turn) = turn.filter(|turn| turn.needs() <= left) {
        turn.take(world);
    }
    world.load(len / 4);
}

/// The clients are cut off by a kill or a power cut, and the array comes back.
fn cut_off(world: &mut World, len: u64) {
    let left = world.array().status().redundancy_left;
    let cut = match world.rng.below(5) {
        0 | 1 => Cut::Polls(50 + world.rng.below(len * 40)),
        2 | 3 => Cut::Ios(1 + world.rng.below(len * 8)),
        _ => after_a_meta_write(world),
    };
    let rings = world.lost_rings();
    world.load_cut(len, Mix::Any, cut);
    // A member may not come back from it (fault A8).
    let lost = left > 0 && world.rng.one_in(4);
    let member = lost.then(|| world.any_member());
    let gone: Vec<usize> = member.into_iter().chain(rings).collect();
    let crash = any_crash(world);
    come_back_after(world, crash, &gone);
}

/// Right after a write of a label, or of something in one of the zones.
fn after_a_meta_write(world: &mut World) -> Cut {
    let member = world.any_member();
    let (from, to) = match world.rng.below(5) {
        0 => (LABEL_A, ZONES_START),
        1 => {
            // The journal's headers.
            let zone = world.zone(member, ZoneKind::Journal);
            (zone.start, zone.start + 4 * BLOCK)
        }
        kind => {
            let kinds = [ZoneKind::Checksums, ZoneKind::Maps, ZoneKind::DirtyMaps];
            let kind = kinds.get(usize_of(kind - 2)).copied();
            let zone = world.zone(member, kind.unwrap_or(ZoneKind::Maps));
            (zone.start, zone.end)
        }
    };
    Cut::After(Aim {
        from,
        to,
        writes: 1 + world.rng.below(24),
        ios: world.rng.below(5),
    })
}

pub(super) fn any_crash(world: &mut World) -> Crash {
    if world.rng.one_in(2) {
        Crash::Kill
    } else {
        Crash::Power
    }
}

/// Crashes, starts again without those (perhaps cut off in that as well) and checks everything.
fn come_back_after(world: &mut World, crash: Crash, gone: &[usize]) {
    world.crash(crash);
    let present = world.without(gone);
    while world.rng.one_in(3) {
        let ios = 1 + world.rng.below(400);
        if !world.start_cut_after(ios, &present) {
            world.check();
            return;
        }
        let crash = any_crash(world);
        world.crash(crash);
    }
    if let Err(error) = world.start_with(&present) {
        panic!("start after {crash:?}, without {gone:?}: {error}");
    }
    world.check();
}

/// A volume goes, another comes: its extents are used again.
fn change_volumes(world: &mut World) {
    let at = usize_of(world.rng.below(u64_of(world.volumes.len())));
    world.delete_volume(at);
    world.add_volume();
}

/// Disks that were thrown out come back as spares, so that the story can go on; a member is replaced.
fn bring_back(world: &mut World) {
    let failed = world.in_state(MemberState::Failed);
    let missing = world.in_state(MemberState::Missing);
    for disk in failed.into_iter().chain(missing) {
        world.disk(disk).heal();
        if world.is_for_journal(disk) {
            world.restore_ring(disk);
        } else {
            world.add_spare(disk);
        }
    }
    if world.rng.one_in(4) {
        world.wait_for_sync();
    }
}

/// A fault that the array survives as it is now.
fn fault(world: &mut World, len: u64) {
    let left = world.array().status().redundancy_left;
    let of_members = |fault: &Fault| fault.plan().rings == 0;
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(of_members).collect();
    let at = usize_of(world.rng.below(u64_of(faults.len())));
    let Some(fault) = faults.get(at).copied() else {
        return;
    };
    let plan = fault.plan();
    let usable = (world.shape.integrity || !plan.checksums)
        && plan.story
        && plan.disks <= left
        && (plan.disks > 0 || left > 0);
    if !usable {
        world.load(len);
        return;
    }
    world.load(len / 4);
    let mut harm = Harm::strike(world, fault);
    world.load(len);
    harm.pass(world);
    // One fault at a time: the next finds an array that has dealt with this one.
    harm.is_over(world);
    if plan.latent {
        world.make_whole();
        restart(world);
    }
    if plan.disks == 0 || world.rng.one_in(3) {
        world.wait_for_sync();
    }
}

/// The last page: everything is read, the disks are audited, and read again.
fn end(world: &mut World) {
    world.sleep(Duration::from_millis(200));
    world.check();
    world.stop_and_audit();
    if let Err(error) = world.start() {
        panic!("the last start: {error}");
    }
    world.check();
}

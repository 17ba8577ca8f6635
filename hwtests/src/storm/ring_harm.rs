//! The rows of the fault table, struck on a journal disk.
//!
//! Journal disks have a budget of their own: any R of them may be lost, whatever befalls members at the
//! same time. So every state of the array is within redundancy for them.

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::{BLOCK, u64_of, usize_of};
use cairn_raid::MemberState;
use cairn_raid::layout::{LABEL_A, LABEL_B, ZoneKind, label_copy};

use super::faults::Fault;
use super::harm::{EJECTED_AFTER, Harm, SOON, allow_refusal, restart, rot};
use super::history::any_crash;
use super::load::{Cut, Mix};
use super::world::World;

/// Places that rot in a ring.
const ROTTEN: usize = 4;
/// Writes that a journal disk loses.
const LOST: u64 = 3;

impl Harm {
    /// As [`Harm::strike`].
    pub(super) fn strike_ring(&mut self, world: &mut World) {
        let mut rings = world.rings();
        if self.fault == Fault::RingAllVanish {
            // In a crash that would be too many: only while it runs.
            if world.is_running() {
                self.all_rings_vanish(world);
            }
            return;
        }
        if rings.is_empty() {
            return;
        }
        let at = usize_of(world.rng.below(u64_of(rings.len())));
        let victim = rings.swap_remove(at);
        self.victims.push(victim);
        let disk = world.disk(victim);
        let after = world.rng.below(SOON);
        let fail = Effect::Fail(IoErrorKind::Medium);
        let strike = |on, effect| Strike::new(on, effect);
        match self.fault {
            Fault::RingWriteFails | Fault::RingWriteFailsAndCrash => {
                disk.strike(strike(On::Write, fail).after(after));
            }
            Fault::RingFlushFailsOnce => {
                disk.strike(strike(On::Flush, Effect::FailAndLoseCache).after(after % 3));
            }
            Fault::RingFlushFailsAlways => {
                disk.strike(strike(On::Flush, fail).after(after % 3).always());
            }
            Fault::RingHangs => {
                disk.strike(strike(On::Any, Effect::Hang(None)).after(after).always());
            }
            Fault::RingLateWrite => {
                disk.strike(strike(On::Write, Effect::Hang(None)).after(after).always());
            }
            Fault::RingSlow => disk.strike(strike(On::Any, Effect::Slow(400)).times(100)),
            Fault::RingLostWrites => {
                let zone = world.zone(victim, ZoneKind::Journal);
                let lose = strike(On::Write, Effect::Lose).after(after).times(LOST);
                disk.strike(lose.within(zone));
            }
            Fault::RingRotInLabel => {
                let places = [LABEL_A, LABEL_B, label_copy(world.size(victim))];
                let at = usize_of(world.rng.below(u64_of(places.len())));
                let place = places.get(at).copied().unwrap_or(LABEL_A);
                let at = place + world.rng.below(BLOCK);
                rot(world, victim, at);
            }
            Fault::RingVanishes => disk.vanish(false),
            Fault::RingCacheLost => disk.vanish(true),
            Fault::RingOlderImage => self.image = Some(disk.image()),
            // Before the start, if one is about to come; else in a crash, when this passes.
            Fault::RingRot | Fault::RingReadFails if !world.is_running() => {
                self.spoil_ring(world, victim);
            }
            _ => {}
        }
    }

    /// As [`Harm::pass`].
    pub(super) fn pass_ring(&mut self, world: &mut World) {
        if self.fault == Fault::RingAllVanish && self.victims.is_empty() {
            self.all_rings_vanish(world);
            world.load(60);
        }
        let Some(&victim) = self.victims.first() else {
            return;
        };
        match self.fault {
            Fault::RingWriteFailsAndCrash | Fault::RingLostWrites => {
                let crash = any_crash(world);
                self.cut_off(world, crash);
            }
            Fault::RingRot | Fault::RingReadFails => {
                cut_anywhere(world);
                self.came += 1;
                self.spoil_ring(world, victim);
                allow_refusal(world, World::start);
                world.check();
            }
            Fault::RingRotInLabel => restart(world),
            Fault::RingVanishes | Fault::RingCacheLost | Fault::RingAllVanish => {
                for victim in self.victims.clone() {
                    world.until_ring_noticed(victim);
                }
                // Until all that was logged with them is in place, a crash is one thing too many.
                world.run_till("drained", || {
                    let status = world.array().status();
                    status.failure.is_some() || status.journal.is_none_or(|j| !j.draining)
                });
            }
            Fault::RingHangs | Fault::RingLateWrite => {
                world.load(60);
                // Not what it is asked later, as by the first label after a while.
                let hangs = world.disk(victim).hung() > 0;
                world.sleep(EJECTED_AFTER);
                world.load(60);
                let serves = world.in_state(MemberState::Journal).contains(&victim);
                assert!(
                    !(hangs && serves),
                    "journal disk {victim} hangs and stays in service; the array told: {:#?}",
                    world.told()
                );
                world.disk(victim).heal();
                world.sleep(std::time::Duration::from_secs(1));
            }
            Fault::RingOlderImage => self.an_older_ring_is_put_back(world, victim),
            Fault::RingsGoneInCrash => {
                let gone = some_rings(world, world.shape.redundancy());
                cut_anywhere(world);
                self.came += 1;
                let present = world.without(&gone);
                allow_refusal(world, |world| world.start_with(&present));
                world.check();
            }
            Fault::RingsTooManyGone => self.too_many_rings_gone(world),
            _ => {}
        }
    }

    /// What was on it is as good as before, or it is out: then it may serve again as a new one.
    pub(super) fn ring_is_over(&self, world: &mut World) {
        for victim in self.victims.clone() {
            if world.disk(victim).is_gone() {
                world.until_ring_noticed(victim);
            }
            world.disk(victim).heal();
            let out = world.in_state(MemberState::Failed).contains(&victim);
            if out && world.array().status().failure.is_none() && world.rng.one_in(2) {
                world.restore_ring(victim);
            }
        }
    }

    fn all_rings_vanish(&mut self, world: &mut World) {
        for ring in world.rings() {
            self.victims.push(ring);
            world.disk(ring).vanish(false);
        }
    }

    /// Something in its ring rots, or can't be read.
    fn spoil_ring(&mut self, world: &mut World, victim: usize) {
        let zone = world.zone(victim, ZoneKind::Journal);
        if self.fault == Fault::RingReadFails {
            let fail = Strike::new(On::Read, Effect::Fail(IoErrorKind::Medium));
            let after = world.rng.below(3);
            let strike = fail.after(after).times(1 + world.rng.below(3));
            world.disk(victim).strike(strike.within(zone));
            return;
        }
        let used = world.disk(victim).stored(zone.start, zone.end - zone.start);
        for _ in 0..ROTTEN {
            let at = usize_of(world.rng.below(u64_of(used.len())));
            if let Some(page) = used.get(at) {
                let at = page + world.rng.below(BLOCK);
                rot(world, victim, at);
            }
        }
    }

    /// An older image of it, but for its labels, which are today's: after a crash, or a clean stop.
    fn an_older_ring_is_put_back(&mut self, world: &mut World, victim: usize) {
        let Some(image) = self.image.take() else {
            return;
        };
        if world.rng.one_in(2) {
            cut_anywhere(world);
        } else if !world.stop() {
            return;
        }
        let disk = world.disk(victim);
        let places = [LABEL_A, LABEL_B, label_copy(world.size(victim))];
        let labels = places.map(|place| disk.peek(place, usize_of(BLOCK)));
        disk.set_image(&image);
        for (place, label) in places.into_iter().zip(labels) {
            disk.poke(place, &label);
        }
        self.came += 1;
        allow_refusal(world, World::start);
        world.check();
    }

    /// One journal disk more than may be goes in a crash: not started, and nothing lost once they are back.
    fn too_many_rings_gone(&mut self, world: &mut World) {
        if world.rings().len() != world.shape.journal_disks {
            return;
        }
        // All acked since the last cycle may be on these alone.
        world.load(20);
        let gone = some_rings(world, world.shape.redundancy() + 1);
        cut_anywhere(world);
        let present = world.without(&gone);
        let refused = world.start_with(&present);
        assert!(
            refused.is_err(),
            "started after a crash without {gone:?}, which may have had what was acked"
        );
        self.came += 1;
        allow_refusal(world, World::start);
        world.check();
    }
}

/// So many journal disks, by chance.
fn some_rings(world: &mut World, count: usize) -> Vec<usize> {
    let mut rings = world.rings();
    while rings.len() > count {
        let at = usize_of(world.rng.below(u64_of(rings.len())));
        rings.swap_remove(at);
    }
    rings
}

/// Clients are cut off at some I/O.
fn cut_anywhere(world: &mut World) {
    let ios = 1 + world.rng.below(600);
    world.load_cut(100, Mix::Any, Cut::Ios(ios));
    let crash = any_crash(world);
    world.crash(crash);
}

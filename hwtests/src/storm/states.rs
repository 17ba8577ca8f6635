//! Every state that an array can be in when a fault strikes.

use std::time::Duration;

use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::u64_of;
use cairn_raid::MemberState;
use cairn_raid::layout::JOURNAL_MIN;

use super::abilities::Ability;
use super::load::{BURST_BYTES, Cut, Mix};
use super::model::Crash;
use super::shape::Shape;
use super::world::World;

/// A state of the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All members in sync.
    Healthy,
    /// One member is gone, and nothing fills its slot.
    Degraded1,
    /// Two are.
    Degraded2,
    /// A spare is being filled for a member that is gone.
    Rebuilding,
    /// A disk is being filled for a member that still lives.
    Replacing,
    /// Everything is read and compared.
    Scrubbing,
    /// It was cut off; the fault strikes while it starts.
    Replaying,
    /// Writes wait for room in the journal.
    JournalFull,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Degraded1,
        Self::Degraded2,
        Self::Rebuilding,
        Self::Replacing,
        Self::Scrubbing,
        Self::Replaying,
        Self::JournalFull,
    ];

    /// In a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded1 => "degraded 1",
            Self::Degraded2 => "degraded 2",
            Self::Rebuilding => "rebuilding",
            Self::Replacing => "replacing",
            Self::Scrubbing => "scrubbing",
            Self::Replaying => "replaying",
            Self::JournalFull => "journal full",
        }
    }

    /// Members that are gone in it.
    pub const fn missing(self) -> usize {
        match self {
            Self::Degraded2 => 2,
            Self::Degraded1 | Self::Rebuilding => 1,
            _ => 0,
        }
    }

    /// Whether an array of this shape can be in it.
    pub fn fits(self, shape: &Shape) -> bool {
        self.missing() <= shape.redundancy()
    }

    /// What it takes to be in it.
    pub const fn needs(self) -> &'static [Ability] {
        match self {
            Self::Scrubbing => &[Ability::Scrub],
            Self::Replaying | Self::JournalFull => &[Ability::Journal],
            _ => &[],
        }
    }

    /// Brings a healthy array into it.
    pub fn enter(self, world: &mut World) {
        match self {
            Self::Healthy => {}
            Self::Degraded1 => lose(world, 1),
            Self::Degraded2 => lose(world, 2),
            Self::Rebuilding => {
                lose(world, 1);
                let spare = world.add_slow_spare();
                world.run_till("rebuilding", || {
                    world.in_state(MemberState::Rebuilding).contains(&spare) || world.is_full()
                });
            }
            Self::Replacing => world.begin_replacing(),
            Self::Scrubbing => world.begin_scrub(),
            Self::Replaying => {
                let ios = 100 + world.rng.below(500);
                world.load_cut(200, Mix::Any, Cut::Ios(ios));
                let kill = world.rng.one_in(2);
                world.crash(if kill { Crash::Kill } else { Crash::Power });
            }
            Self::JournalFull => fill_the_journal(world),
        }
    }
}

/// So many members vanish, and the array notices.
fn lose(world: &mut World, count: usize) {
    for _ in 0..count {
        let victim = world.any_member();
        world.disk(victim).vanish(false);
        world.until_noticed(victim);
    }
    world.sleep(Duration::from_millis(50));
}

/// What is in place takes its time, so that what is to come there piles up in the journal: a ringful
/// is written, and more keeps coming.
fn fill_the_journal(world: &mut World) {
    for disk in world.members() {
        let rows = world.rows_on_disk(disk);
        let slow = Strike::new(On::Write, Effect::Slow(300)).within(rows);
        world.disk(disk).strike(slow.always());
    }
    let shape = world.shape;
    let copies = u64_of(shape.redundancy()) + 1;
    let ring = u64_of(shape.members) * JOURNAL_MIN / copies;
    let ops = ring / BURST_BYTES * 5 / 4;
    world.load_cut(ops, Mix::Burst, Cut::Never);
    world.load_cut(ops, Mix::Burst, Cut::Polls(2000));
}

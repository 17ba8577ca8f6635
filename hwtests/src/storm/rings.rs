//! Journal disks: faults that strike them in a random history, those that a crash takes, and how they come
//! back into service.
//!
//! They have a budget of their own: any R of them may be lost, whatever befalls members at the same time.
//! One that is out counts until all that was logged with it is in place.

use cairn_blockdev::IoErrorKind;
use cairn_blockdev::sim::{Effect, On, Strike};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::MemberState;

use super::world::World;

/// How soon: the strike hits one of the next so many operations.
const SOON: u64 = 30;
/// Loads in which an array has to notice that a journal disk is gone.
const LOADS_TO_NOTICE: usize = 20;

impl World {
    /// Whether a disk is one of those that were made for the journal.
    pub fn is_for_journal(&self, disk: usize) -> bool {
        disk >= self.shape.members + self.shape.spares
    }

    /// Journal disks that may be lost now.
    fn rings_to_lose(&self) -> usize {
        let status = self.array().status();
        let Some(journal) = status.journal else {
            return 0;
        };
        let members = status.members.iter();
        let out = members.filter(|member| member.journal && member.state != MemberState::Journal);
        let lost = if journal.draining { out.count() } else { 0 };
        self.shape.redundancy().saturating_sub(lost)
    }

    /// Journal disks whose loss in a crash must cost nothing, by chance.
    pub fn lost_rings(&mut self) -> Vec<usize> {
        let mut rings = self.in_state(MemberState::Journal);
        let most = self.rings_to_lose().min(rings.len());
        let count = usize_of(self.rng.below(u64_of(most) + 1));
        while rings.len() > count {
            let at = usize_of(self.rng.below(u64_of(rings.len())));
            rings.remove(at);
        }
        rings
    }

    /// Something befalls a journal disk while clients run. In the end it is as good as new, or out.
    pub fn strike_ring(&mut self, ops: u64) {
        let rings = self.in_state(MemberState::Journal);
        let at = usize_of(self.rng.below(u64_of(rings.len().max(1))));
        let Some(&victim) = rings.get(at).filter(|_| self.rings_to_lose() > 0) else {
            return self.load(ops);
        };
        let after = self.rng.below(SOON);
        let disk = self.disk(victim);
        let fail = Effect::Fail(IoErrorKind::Medium);
        match self.rng.below(6) {
            0 => disk.strike(Strike::new(On::Write, fail).after(after)),
            1 => disk.strike(Strike::new(On::Flush, Effect::FailAndLoseCache).after(after % 3)),
            2 => disk.strike(
                Strike::new(On::Any, Effect::Hang(None))
                    .after(after)
                    .always(),
            ),
            3 => disk.strike(Strike::new(On::Any, Effect::Slow(400)).times(100)),
            4 => disk.strike(
                Strike::new(On::Write, Effect::Hang(None))
                    .after(after)
                    .always(),
            ),
            _ => disk.vanish(after.is_multiple_of(2)),
        }
        self.load(ops);
        if disk.is_gone() {
            for _ in 0..LOADS_TO_NOTICE {
                if !self.in_state(MemberState::Journal).contains(&victim) {
                    break;
                }
                self.load(30);
            }
            let stays = self.in_state(MemberState::Journal).contains(&victim);
            assert!(!stays, "a vanished journal disk stays in service");
        }
        self.disk(victim).heal();
    }

    /// A journal disk that is out is put in service again, as a new one. May be refused while it owes
    /// answers.
    pub fn restore_ring(&mut self, disk: usize) {
        let (array, path) = (self.array(), self.path(disk));
        let member = self.member(disk);
        let restored = self.run(async move { array.replace_member(&path, member).await });
        if let Err(error) = restored {
            assert!(
                self.rules.errors_allowed.get(),
                "a journal disk's return: {error}"
            );
        }
    }
}

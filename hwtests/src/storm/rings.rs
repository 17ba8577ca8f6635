//! Journal disks: faults that strike them in a random history, those that a crash takes, and how they come
//! back into service.
//!
//! They have a budget of their own: any R of them may be lost, whatever befalls members at the same time.
//! One that is out counts until all that was logged with it is in place.

use cairn_blockdev::units::{u64_of, usize_of};
use cairn_raid::MemberState;

use super::faults::Fault;
use super::harm::Harm;
use super::world::World;

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

    /// Journal disks in service; all that were made for it, while the array doesn't run.
    pub fn rings(&self) -> Vec<usize> {
        if self.is_running() {
            return self.in_state(MemberState::Journal);
        }
        (self.shape.members + self.shape.spares..self.disks.len()).collect()
    }

    /// Clients run until the array has noticed that a journal disk is gone.
    pub fn until_ring_noticed(&mut self, ring: usize) {
        for _ in 0..LOADS_TO_NOTICE {
            if !self.is_running()
                || self.array().status().failure.is_some()
                || !self.in_state(MemberState::Journal).contains(&ring)
            {
                return;
            }
            self.load(30);
        }
        panic!(
            "a vanished journal disk stays in service; the array told: {:#?}",
            self.told()
        );
    }

    /// Something befalls a journal disk while clients run. In the end it is as good as new, or out.
    pub fn ring_fault(&mut self, ops: u64) {
        let faults = Fault::ALL.into_iter();
        let faults: Vec<Fault> = faults
            .filter(|fault| fault.plan().rings > 0 && fault.plan().story)
            .collect();
        let at = usize_of(self.rng.below(u64_of(faults.len())));
        let fault = faults.get(at).copied();
        let Some(fault) = fault.filter(|_| self.rings_to_lose() > 0) else {
            return self.load(ops);
        };
        let mut harm = Harm::strike(self, fault);
        self.load(ops);
        harm.pass(self);
        harm.is_over(self);
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

//! The end of a boot of the host, and the beginning of the next: kills, power cuts, clean stops, starts.

use std::future::Future;
use std::rc::Rc;

use cairn_blockdev::BufPool;
use cairn_blockdev::sim::Sim;
use cairn_raid::{Array, AssembleOptions, MemberDisk, RaidError, assemble};

use super::model::Crash;
use super::owner::Replica;
use super::world::{HOST, Life, POLLS_MAX, POOL_BYTES, World, wire};

impl World {
    /// The daemon is killed, or power goes: nothing of this boot runs on.
    pub fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::Kill => self.done.kills += 1,
            Crash::Power => self.done.power_cuts += 1,
        }
        let worst = if self.rules.cache_lost.get() {
            Crash::Power
        } else {
            crash
        };
        self.worst = self.worst.max(Some(worst));
        self.crowds.clear();
        self.last_members = self.members();
        self.array = None;
        self.sim.drop_tasks();
        self.log.pull_no_more();
        for volume in &self.volumes {
            *volume.device.borrow_mut() = None;
            volume.model.borrow_mut().crashed();
        }
        self.close_replica();
        for disk in &self.disks {
            match crash {
                Crash::Kill => disk.kill(),
                Crash::Power => disk.power_cut(),
            }
        }
        self.boot();
    }

    /// The array is stopped cleanly; everything acked is durable then. True if it went well.
    pub fn stop(&mut self) -> bool {
        self.hush();
        let array = self.array();
        self.last_members = self.members();
        let flushes: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| volume.model.borrow_mut().flush_begins())
            .collect();
        let stopped = self.run(array.stop());
        if let Err(error) = &stopped {
            assert!(self.rules.errors_allowed.get(), "stop: {error}");
        } else {
            for (volume, began) in self.volumes.iter().zip(flushes) {
                volume.model.borrow_mut().flushed(began);
            }
            for owner in self.replica.iter().flat_map(|replica| &replica.owners) {
                owner.stopped();
            }
        }
        drop(array);
        // What was acked is durable now, and a power cut is the strictest way to ask for it.
        self.worst = Some(Crash::Power);
        self.array = None;
        self.sim.drop_tasks();
        for volume in &self.volumes {
            *volume.device.borrow_mut() = None;
            volume.model.borrow_mut().crashed();
        }
        self.close_replica();
        self.boot();
        stopped.is_ok()
    }

    fn boot(&mut self) {
        self.boots += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.boots);
        self.sim = Sim::new(seed);
        let env = self.sim.env();
        for (disk, i) in self.disks.iter_mut().zip(0u64..) {
            self.struck += disk.struck();
            *disk = disk.reborn(&env, seed ^ (i << 32));
            wire(disk, i, &self.log, &env);
        }
    }

    /// Starts the array with the disks that are here.
    pub fn start(&mut self) -> Result<(), RaidError> {
        let all = self.without(&[]);
        self.start_with(&all)
    }

    /// Starts it with some of the disks.
    pub fn start_with(&mut self, present: &[usize]) -> Result<(), RaidError> {
        let disks = present.iter().map(|&i| self.member(i)).collect();
        self.start_from(disks)
    }

    /// Starts it with whatever these are.
    pub fn start_from(&mut self, disks: Vec<MemberDisk>) -> Result<(), RaidError> {
        let started = self.run(self.assembly(disks));
        self.adopt(started)
    }

    /// Starts it with some of the disks and stops in that after so many I/Os: true if it came that far.
    pub fn start_cut_after(&mut self, ios: u64, present: &[usize]) -> bool {
        let all = present.iter().map(|&i| self.member(i)).collect();
        self.log.pull_after(ios, self.sim.halt());
        let started = self.sim.run_until(self.assembly(all), POLLS_MAX);
        self.log.pull_no_more();
        match started {
            None => true,
            Some(started) => {
                if let Err(error) = self.adopt(started) {
                    panic!("start: {error}");
                }
                false
            }
        }
    }

    fn assembly(
        &self,
        disks: Vec<MemberDisk>,
    ) -> impl Future<Output = Result<Rc<Array>, RaidError>> + use<> {
        let options = AssembleOptions {
            force: false,
            waited: true,
            home_host: HOST,
            witness: self.host.witness.borrow().clone(),
        };
        let pool = BufPool::new(POOL_BYTES);
        assemble(self.sim.env(), pool, disks, options, self.hooks())
    }

    fn adopt(&mut self, started: Result<Rc<Array>, RaidError>) -> Result<(), RaidError> {
        match started {
            Ok(array) => {
                self.done.starts += 1;
                array.set_bypass(self.bypasses());
                self.array = Some(array);
                let here = self.members();
                let is_gone = |member: &usize| !here.contains(member);
                self.lost_in_crash |= self.checked_members.iter().any(is_gone);
                self.note_offsets();
                self.settle_volumes();
                Ok(())
            }
            Err(error) => {
                self.done.refusals += 1;
                Err(error)
            }
        }
    }

    /// Which volumes there are: those that must be, and perhaps those that came or went.
    fn settle_volumes(&mut self) {
        let mut there: Vec<String> = Vec::new();
        for volume in self.array().volumes() {
            there.push(volume.name);
        }
        let with_logs = there.len();
        there.retain(|name| name != Replica::NAME);
        let found = there.len() < with_logs;
        assert_eq!(found, self.replica.is_some(), "{}", Replica::NAME);
        self.volumes.retain(|volume| {
            let found = there.contains(&volume.name);
            let must = volume.life.get() == Life::There;
            assert!(found || !must, "volume {} is lost", volume.name);
            volume.life.set(Life::There);
            found
        });
        for name in there {
            let known = self.volumes.iter().any(|volume| volume.name == name);
            assert!(known, "volume {name} is there again, or nobody's");
        }
        self.open_volumes();
        self.open_replica();
    }

    /// Opens the volumes that are there.
    pub fn open_volumes(&self) {
        let array = self.array();
        for volume in &self.volumes {
            if volume.life.get() != Life::There || volume.device.borrow().is_some() {
                continue;
            }
            match array.open_volume(&volume.name) {
                Ok(device) => *volume.device.borrow_mut() = Some(device),
                Err(error) => assert!(
                    self.rules.errors_allowed.get(),
                    "volume {} doesn't open: {error}",
                    volume.name
                ),
            }
        }
    }

    /// Opens the volume of the logs, and has their owners look at them.
    pub(super) fn open_replica(&self) {
        let Some(replica) = &self.replica else {
            return;
        };
        let device = match self.array().open_prepared(Replica::NAME) {
            Ok(device) => device,
            Err(error) => {
                let allowed = self.rules.errors_allowed.get();
                assert!(allowed, "{} doesn't open: {error}", Replica::NAME);
                return;
            }
        };
        for owner in &replica.owners {
            self.run(owner.recover(&device, &self.rules));
        }
        *replica.device.borrow_mut() = Some(device);
    }

    fn close_replica(&self) {
        if let Some(replica) = &self.replica {
            *replica.device.borrow_mut() = None;
        }
    }
}

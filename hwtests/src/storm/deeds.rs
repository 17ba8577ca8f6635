//! What an operator, or fate, does to the world between and beside the clients: spares, replacements,
//! volumes that come and go, a clone of a disk.

use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::{Effect, On, SimDisk, SimDiskConfig, Strike};
use cairn_blockdev::units::{SECTOR, usize_of};
use cairn_blockdev::{BlockDevice, Buf, WriteFlags};
use cairn_raid::defects::ScrubState;
use cairn_raid::{MemberDisk, MemberState, RaidError};

use super::load::Cut;
use super::world::{Life, World};

/// A disk that is filled while something else is to happen takes so many times as long.
const SLOW: u32 = 30;
/// Loads in which an array has to notice that a disk is gone.
const LOADS_TO_NOTICE: usize = 20;

impl World {
    /// Whether a disk holds no slot in sync any more.
    pub fn is_out(&self, disk: usize) -> bool {
        !self.in_state(MemberState::InSync).contains(&disk)
    }

    /// All disks but these.
    pub fn without(&self, gone: &[usize]) -> Vec<usize> {
        let all = 0..self.disks.len();
        all.filter(|disk| !gone.contains(disk)).collect()
    }

    /// Clients run until the array has noticed that a disk is gone. A handle to a disk that vanished
    /// stays dead, so the disk can't come back before.
    pub fn until_noticed(&mut self, disk: usize) {
        for _ in 0..LOADS_TO_NOTICE {
            if !self.is_running() || self.is_out(disk) || self.array().status().failure.is_some() {
                return;
            }
            self.load(30);
        }
        panic!(
            "a vanished disk stays a member; the array told: {:#?}",
            self.told()
        );
    }

    /// A flush finds out that a disk is gone, and changes nothing else.
    pub fn notice_by_flush(&mut self, disk: usize) {
        if let Some(device) = self.volumes.first().and_then(|volume| volume.device()) {
            let flushed = self.run(device.flush());
            let fine = flushed.is_ok() || self.rules.errors_allowed.get();
            assert!(fine, "a flush: {flushed:?}");
        }
        self.until_noticed(disk);
    }

    /// Bytes of a disk.
    pub fn size(&self, disk: usize) -> u64 {
        self.disk(disk).geometry().size
    }

    /// Adds a disk: one that was a member is caught up if it can be, any other becomes a spare.
    pub fn add_spare(&mut self, disk: usize) {
        if let Err(error) = self.try_add_spare(disk) {
            assert!(self.rules.errors_allowed.get(), "a spare: {error}");
        }
    }

    /// As [`World::add_spare`], and it may be refused.
    pub fn try_add_spare(&mut self, disk: usize) -> Result<(), RaidError> {
        let array = self.array();
        let member = self.member(disk);
        self.run(async move {
            if array.unanswered(&member.path).is_some() {
                // A look at it might never end; the array says no without one.
                return array.add_spare(member).await;
            }
            let probe = cairn_raid::probe(&*member.device).await?;
            let ours = |probe| match probe {
                cairn_raid::Probe::Member(identity) => identity.array_uuid == array.uuid(),
                _ => false,
            };
            if ours(probe) {
                array.readd_member(member).await.map(drop)
            } else {
                array.add_spare(member).await
            }
        })
    }

    /// A disk that the array doesn't know.
    fn blank(&self) -> Option<usize> {
        let known: Vec<String> = self
            .array()
            .status()
            .members
            .into_iter()
            .map(|member| member.path)
            .collect();
        let disks = 0..self.shape.members + self.shape.spares;
        disks
            .into_iter()
            .find(|disk| !known.contains(&self.path(*disk).to_string()))
    }

    /// Adds a blank disk as a spare, so many times slower than others. `None`: there is none left.
    pub fn add_blank_spare(&mut self, slow: u32) -> Option<usize> {
        let disk = self.blank()?;
        self.slow_down(disk, slow);
        self.add_spare(disk);
        Some(disk)
    }

    /// Adds a spare whose filling takes a while.
    pub fn add_slow_spare(&mut self) -> usize {
        match self.add_blank_spare(SLOW) {
            Some(disk) => disk,
            None => panic!("no blank disk is left"),
        }
    }

    fn slow_down(&self, disk: usize, factor: u32) {
        if factor > 1 {
            let rows = self.rows_on_disk(disk);
            let slow = Strike::new(On::Write, Effect::Slow(factor)).within(rows);
            self.disk(disk).strike(slow.always());
        }
    }

    /// A blank disk begins to replace a member, slowly.
    pub fn begin_replacing(&mut self) {
        let old = self.any_member();
        let Some(new) = self.blank() else {
            panic!("no blank disk is left");
        };
        self.slow_down(new, SLOW);
        let (array, path) = (self.array(), self.path(old));
        let begun = self.run(array.replace_member(&path, self.member(new)));
        if let Err(error) = begun {
            panic!("a replacement: {error}");
        }
    }

    /// A blank disk, if there is one, begins to replace this member.
    pub fn replace(&mut self, old: usize) -> bool {
        let Some(new) = self.blank() else {
            return false;
        };
        let (array, path) = (self.array(), self.path(old));
        self.run(array.replace_member(&path, self.member(new)))
            .is_ok()
    }

    /// A scrub begins.
    pub fn begin_scrub(&mut self) {
        let array = self.array();
        if let Err(error) = self.run(async move { array.scrub_start().await }) {
            assert!(self.rules.errors_allowed.get(), "scrub: {error}");
        }
    }

    /// Waits until no scrub runs.
    fn wait_for_scrub(&self) {
        let array = self.array();
        self.run_till("scrubbed", || {
            let state = array.scrub_record().state;
            !matches!(state, ScrubState::Running | ScrubState::Waiting)
                || array.status().failure.is_some()
        });
    }

    /// Deletes a volume.
    pub fn delete_volume(&mut self, at: usize) {
        let Some(volume) = self.volumes.get(at).map(Rc::clone) else {
            return;
        };
        volume.life.set(Life::Going);
        let array = self.array();
        match self.run(array.delete_volume(&volume.name)) {
            Ok(()) => self.volumes.retain(|other| !Rc::ptr_eq(other, &volume)),
            Err(error) => assert!(self.rules.errors_allowed.get(), "a deletion: {error}"),
        }
    }

    /// Begins to delete a volume soon, while clients run. A crash has to follow: nobody waits for its end.
    pub fn delete_soon(&mut self, at: usize, delay: Duration) {
        let Some(volume) = self.volumes.get(at).map(Rc::clone) else {
            return;
        };
        let (array, clock) = (self.array(), self.env().clock);
        let allowed = self.rules.errors_allowed.get();
        self.env().spawn.spawn(Box::pin(async move {
            clock.sleep(delay).await;
            volume.life.set(Life::Going);
            if let Err(error) = array.delete_volume(&volume.name).await {
                assert!(allowed, "a deletion: {error}");
            }
        }));
    }

    /// Deletes the first volume and makes and writes another, and is stopped in that at an I/O.
    /// A crash has to follow.
    pub fn change_volumes_cut(&mut self, ios: u64) {
        if !self.is_running() {
            return;
        }
        let Some(old) = self.volumes.first().map(Rc::clone) else {
            return;
        };
        let new = self.plan_volume();
        let array = self.array();
        let row = self.shape.row_bytes();
        old.life.set(Life::Going);
        self.log.pull_after(ios, self.sim.halt());
        let change = async {
            array.delete_volume(&old.name).await?;
            let size = new.model.borrow().sectors() * SECTOR;
            array.create_volume(&new.name, size).await?;
            new.life.set(Life::There);
            let device = array.open_volume(&new.name)?;
            for i in 0..4 {
                let sectors = i * row / SECTOR..i * row / SECTOR + 9;
                let id = new.model.borrow_mut().begin_write(sectors.clone(), false);
                let mut buf = Buf::zeroed(usize_of((sectors.end - sectors.start) * SECTOR));
                new.model.borrow().fill(id, sectors.start, &mut buf);
                let at = sectors.start * SECTOR;
                device
                    .write(at, buf.freeze(), WriteFlags::default())
                    .await?;
                new.model.borrow_mut().acked(id);
            }
            Ok::<(), RaidError>(())
        };
        let changed = self.sim.run_until(change, u64::MAX);
        self.log.pull_no_more();
        if let Some(Err(error)) = changed {
            assert!(self.rules.errors_allowed.get(), "volumes change: {error}");
        }
    }

    /// The operator fails a member, a spare takes its slot, and a plug is pulled; a crash has to follow.
    pub fn fail_member_cut(&mut self, member: usize, cut: Cut) {
        let (array, path) = (self.array(), self.path(member));
        let clock = self.env().clock;
        let polls = self.cut_at(cut);
        let rebuild = async {
            let failed = array.fail_member(&path).await;
            while array.status().sync.is_some() {
                clock.sleep(Duration::from_millis(1)).await;
            }
            clock.sleep(Duration::from_millis(20)).await;
            failed
        };
        let failed = self.sim.run_until(rebuild, polls);
        self.log.pull_no_more();
        if let Some(Err(error)) = failed {
            panic!("failing a member: {error}");
        }
    }

    /// Waits until nothing is being filled, or the plug is pulled.
    pub fn wait_for_sync_cut(&mut self, cut: Cut) {
        let array = self.array();
        let clock = self.env().clock;
        let polls = self.cut_at(cut);
        let filled = async {
            while array.status().sync.is_some() {
                clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = self.sim.run_until(filled, polls);
        self.log.pull_no_more();
    }

    /// More volumes than there is space for, all written to.
    pub fn fill_up(&mut self) {
        for _ in 0..4 {
            self.add_volume();
        }
        self.load(200);
    }

    /// What lies latent on the disks is gone: by a scrub.
    pub fn make_whole(&mut self) {
        self.wait_for_sync();
        // One that runs already may be past what is latent.
        self.wait_for_scrub();
        self.begin_scrub();
        self.wait_for_scrub();
    }

    /// Writes every volume whole, row by row, so that nothing latent is left in their rows.
    pub fn write_all(&mut self) {
        let row = self.shape.row_bytes() / SECTOR;
        for volume in self.volumes.clone() {
            let Some(device) = volume.device() else {
                continue;
            };
            let sectors = volume.model.borrow().sectors();
            let mut first = 0;
            while first < sectors {
                let range = first..(first + row).min(sectors);
                let id = volume.model.borrow_mut().begin_write(range.clone(), false);
                let mut buf = Buf::zeroed(usize_of((range.end - range.start) * SECTOR));
                volume.model.borrow().fill(id, first, &mut buf);
                let write = device.write(first * SECTOR, buf.freeze(), WriteFlags::default());
                match self.run(write) {
                    Ok(()) => volume.model.borrow_mut().acked(id),
                    Err(error) => {
                        volume.model.borrow_mut().failed(id);
                        let allowed = self.rules.errors_allowed.get();
                        assert!(allowed, "writing everything: {error}");
                    }
                }
                first = range.end;
            }
        }
    }

    /// A copy of a disk, at a path of its own.
    pub fn clone_of(&self, disk: usize) -> MemberDisk {
        let original = self.disk(disk);
        let config = SimDiskConfig {
            size: self.size(disk),
            logical_block: original.geometry().logical_block,
            latency_us_max: 0,
        };
        let clone = SimDisk::new("/dev/clone", config, &self.env(), self.seed);
        clone.set_image(&original.image());
        MemberDisk {
            path: clone.name(),
            device: Rc::new(clone),
        }
    }

    /// The wall clock jumps.
    pub fn jump_wall_clock(&mut self, ms: i64) {
        self.sim.jump_wall_clock(ms);
    }
}

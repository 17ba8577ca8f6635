//! Two halves that could each run alone: what was acknowledged on one is never hidden by the other.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_raid::{Array, Level, MemberState, RaidError};
use tokio::sync::oneshot;

use crate::model::{Crash, Model};
use crate::region::{Region, check_all};
use crate::world::{Shape, World};

const SECTORS: u64 = 64;

struct Mirror {
    world: World,
    array: Rc<Array>,
    model: Rc<RefCell<Model>>,
}

impl Mirror {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, Shape::new(Level::Raid1, 2, 0, 4096));
        let array = world.create();
        world.run(array.create_volume("v", 1 << 20)).unwrap();
        let model = Rc::new(RefCell::new(Model::new(
            7,
            std::slice::from_ref(&(0..SECTORS)),
        )));
        let mirror = Self {
            world,
            array,
            model,
        };
        mirror.write();
        mirror
    }

    fn client(&self) -> Region {
        Region {
            volume: self.array.open_volume("v").unwrap(),
            model: Rc::clone(&self.model),
            rng: Rng::new(1),
            sectors: 0..SECTORS,
            whole: None,
            longest: 16,
        }
    }

    /// Acked and durable.
    fn write(&self) {
        self.world
            .run(self.client().write(0..SECTORS, true))
            .unwrap();
    }

    fn check(&self, when: &str) {
        self.check_after(None, when);
    }

    fn check_after(&self, crash: Option<Crash>, when: &str) {
        let volume = self.array.open_volume("v").unwrap();
        self.world.run(check_all(&volume, &self.model, crash, when));
    }

    /// A disk goes away, and is found out.
    fn pull(&self, disk: usize) {
        self.world.disks[disk].vanish(false);
        let path = self.world.path(disk).to_string();
        let array = Rc::clone(&self.array);
        let client = self.client();
        self.world.run(async move {
            // A read may go around it; a write can't.
            client.write(0..SECTORS, true).await.unwrap();
            let members = array.status().members;
            let gone = members.iter().find(|member| member.path == path).unwrap();
            assert!(!gone.state.is_live(), "{:?}", gone.state);
        });
    }

    fn stop(&mut self) {
        self.world.run(self.array.stop()).unwrap();
        self.world.crash(Crash::Power);
    }

    fn start(&mut self, present: &[usize], force: bool) -> Result<(), RaidError> {
        self.array = self.world.assemble(present, force)?;
        Ok(())
    }

    fn state(&self, disk: usize) -> MemberState {
        let path = self.world.path(disk).to_string();
        let members = self.array.status().members;
        members.iter().find(|m| m.path == path).unwrap().state
    }
}

fn wants_force(refused: Result<(), RaidError>) -> String {
    match refused {
        Err(RaidError::NotStarted {
            reason,
            force_may_help: true,
            ..
        }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_half_isn_t_started_when_the_witness_couldn_t_be_written() {
    let mut mirror = Mirror::new(1);
    mirror.world.host.is_full.set(true);
    mirror.pull(1);
    assert!(mirror.world.host.saw("WitnessFailed"));
    mirror.write();
    mirror.stop();
    wants_force(mirror.start(&[1], false));
    // What has run last says itself that it could.
    mirror.start(&[0], false).unwrap();
    mirror.check("of the half that ran on");
}

#[test]
fn nothing_is_acked_when_a_witness_that_vouches_for_a_stale_half_can_t_be_removed() {
    let mut mirror = Mirror::new(2);
    mirror.world.host.is_read_only.set(true);
    mirror.world.disks[1].vanish(false);
    let client = mirror.client();
    mirror
        .world
        .run(client.write(0..SECTORS, true))
        .unwrap_err();
    let failure = mirror.array.status().failure.unwrap();
    assert!(failure.contains("state directory"), "{failure}");
    drop(client);
    mirror.world.crash(Crash::Power);
    // Mended; nothing that was acked is lacking on the stale half.
    mirror.world.host.is_read_only.set(false);
    mirror.start(&[1], false).unwrap();
    mirror.check_after(Some(Crash::Power), "of the half that was thrown out");
}

#[test]
fn nobody_is_acked_before_the_witness_is_recorded() {
    let mirror = Mirror::new(3);
    let (tell, told) = oneshot::channel();
    *mirror.world.host.recording.borrow_mut() = Some(told);
    mirror.world.disks[1].vanish(false);
    let clients: Vec<Region> = (0..4).map(|_| mirror.client()).collect();
    let env = mirror.world.env.clone();
    let acked = Rc::new(RefCell::new(0));
    // One after the other: those that come while it is being recorded wait as well.
    for (client, at) in clients.into_iter().zip(0u64..) {
        let (clock, acked) = (Rc::clone(&env.clock), Rc::clone(&acked));
        env.spawn.spawn(Box::pin(async move {
            clock.sleep(Duration::from_millis(200 * at)).await;
            client.write(8 * at..8 * (at + 1), true).await.unwrap();
            *acked.borrow_mut() += 1;
        }));
    }
    mirror.world.sleep(5_000);
    assert!(
        mirror.world.host.recording.borrow().is_none(),
        "never asked for"
    );
    assert_eq!(*acked.borrow(), 0);
    tell.send(()).unwrap();
    mirror.world.sleep(1_000);
    assert_eq!(*acked.borrow(), 4);
}

#[test]
fn a_witness_that_a_crash_left_behind_catches_up_at_the_start() {
    let mut mirror = Mirror::new(4);
    let before = mirror.world.host.witness.borrow().clone();
    mirror.pull(1);
    mirror.stop();
    // The labels told of it, and the power went before the witness did.
    *mirror.world.host.witness.borrow_mut() = before;
    mirror.start(&[0], false).unwrap();
    mirror.write();
    mirror.stop();
    wants_force(mirror.start(&[1], false));
}

#[test]
fn what_was_started_by_force_outranks_what_had_run_without_it() {
    for cut_off in [false, true] {
        let mut mirror = Mirror::new(5);
        mirror.pull(1);
        // Some more events on the half that goes on.
        for _ in 0..3 {
            mirror.stop();
            mirror.start(&[0], false).unwrap();
        }
        mirror.stop();
        wants_force(mirror.start(&[1], false));
        mirror.start(&[1], true).unwrap();
        assert!(mirror.world.host.saw("Forced"));
        assert!(
            mirror
                .array
                .forced_over()
                .is_some_and(|price| price.contains("old"))
        );
        mirror.write();
        if cut_off {
            mirror.world.crash(Crash::Kill);
        } else {
            mirror.stop();
        }
        mirror.start(&[0, 1], false).unwrap();
        mirror.check("of what was started by force");
        assert_eq!(mirror.state(1), MemberState::InSync);
        assert!(
            !mirror.state(0).is_live(),
            "its rows differ where nobody knows"
        );
    }
}

use cairn_blockdev::BlockDevice;
use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::{BufPool, LocalFuture};
use uuid::Uuid;

use super::*;
use crate::defects::ScrubState;
use crate::events::{ArrayEvent, EventSink, Hooks, Witness, WitnessStore};
use crate::geometry::{Row, Set, Slot};
use crate::level::Level;
use crate::memory::MemoryShare;
use crate::{AssembleOptions, CreateSpec, MemberDisk, assemble, create};

const HOST: Uuid = Uuid::from_bytes([1; 16]);

#[derive(Default)]
struct Host(std::cell::RefCell<Vec<ArrayEvent>>);

impl EventSink for Host {
    fn event(&self, event: ArrayEvent) {
        self.0.borrow_mut().push(event);
    }
}

impl WitnessStore for Host {
    fn record(&self, _: Witness) -> LocalFuture<Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Bench {
    sim: Sim,
    host: Rc<Host>,
    disks: Vec<SimDisk>,
}

impl Bench {
    fn new(disks: usize) -> Self {
        Self::with_seed(disks, 1)
    }

    fn with_seed(disks: usize, seed: u64) -> Self {
        let sim = Sim::new(seed);
        let env = sim.env();
        let config = SimDiskConfig {
            size: 256 << 20,
            logical_block: 4096,
            latency_us_max: 0,
        };
        let disk =
            |i: usize| SimDisk::new(&format!("/dev/sim{i}"), config, &env, seed * 64 + u64_of(i));
        Self {
            disks: (0..disks).map(disk).collect(),
            sim,
            host: Rc::default(),
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks {
            events: Rc::<Host>::clone(&self.host),
            witness: Rc::<Host>::clone(&self.host),
            memory: MemoryShare::FULL,
        }
    }

    fn member(&self, at: usize) -> MemberDisk {
        MemberDisk {
            path: self.disks[at].name(),
            device: Rc::new(self.disks[at].clone()),
        }
    }

    /// A RAID 6 of four with one volume of 1 MiB, fully written.
    fn create(&self) -> Rc<Array> {
        let spec = CreateSpec {
            name: "pool".into(),
            level: Level::Raid6,
            chunk_bytes: 65536,
            home_host: HOST,
            journal_bytes: None,
            integrity: false,
            journal: true,
        };
        let members = (0..4).map(|at| self.member(at)).collect();
        let made = create(
            self.sim.env(),
            BufPool::new(1 << 20),
            spec,
            members,
            Vec::new(),
            self.hooks(),
        );
        let array = self.sim.block_on(made).unwrap();
        self.sim
            .block_on(array.create_volume("v", 1 << 20))
            .unwrap();
        let volume = array.open_volume("v").unwrap();
        let data = Buf::zeroed(1 << 20).freeze();
        let write = volume.write(0, data, WriteFlags::default());
        self.sim.block_on(write).unwrap();
        array
    }

    fn assemble(&self, present: &[usize]) -> Rc<Array> {
        let options = AssembleOptions {
            force: true,
            waited: true,
            home_host: HOST,
            witness: None,
        };
        let members = present.iter().map(|at| self.member(*at)).collect();
        let started = assemble(
            self.sim.env(),
            BufPool::new(1 << 20),
            members,
            options,
            self.hooks(),
        );
        self.sim.block_on(started).unwrap()
    }

    fn save(&self, array: &Rc<Array>) {
        self.sim.block_on(async {
            array.save_defects().await.unwrap();
            array.flush_all().await.unwrap();
        });
    }

    fn stop(&self, array: &Rc<Array>) {
        self.sim.block_on(array.stop()).unwrap();
    }
}

fn place(row: u64, col: u32, slot: usize) -> Place {
    Place {
        row: Row(row),
        col,
        slot: Slot(slot),
    }
}

const BAD: Defect = Defect {
    since_ms: 5,
    reason: Reason::Unreadable,
};

fn zone_offset(array: &Array, disk: &SimDisk) -> u64 {
    let ledger = array.ledger.borrow();
    let disk = ledger.disk(ledger.find(&disk.name()).unwrap()).unwrap();
    let layout = disk.layout.get().unwrap();
    layout.zone(ZoneKind::BadBlocks).offset
}

#[test]
fn bad_blocks_are_known_after_a_restart_and_healed_ones_are_not() {
    let bench = Bench::new(4);
    let array = bench.create();
    // Row 0 of a RAID 6 of four, left-symmetric: P on 3, Q on 0, data on 1 and 2.
    assert_eq!(array.geometry.data_slot(Row(0), 1), Slot(2));
    {
        let mut defects = array.defects.borrow_mut();
        for place in [
            place(0, 3, 2),
            place(0, 4, 2),
            place(0, 9, 3),
            place(1, 0, 0),
        ] {
            assert!(defects.note(place, BAD));
        }
        defects.set_scrub(ScrubRecord {
            state: ScrubState::Running,
            cursor: Row(2),
            ..ScrubRecord::default()
        });
    }
    bench.save(&array);
    assert_eq!(
        array
            .defects
            .borrow_mut()
            .heal(Row(1), &(0..16), Set::first(4)),
        1
    );
    bench.save(&array);
    bench.stop(&array);
    let array = bench.assemble(&[0, 1, 2, 3]);
    let status = array.status();
    assert_eq!(status.bad_blocks_total, 3);
    assert_eq!(status.scrub.cursor, Row(2));
    let data = array.data_offset("/dev/sim2").unwrap();
    let shown = &status.bad_blocks;
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!((shown[0].slot, shown[0].len), (2, 8192));
    assert_eq!(shown[0].offset, data + 3 * 4096);
    assert_eq!(shown[0].path, "/dev/sim2");
    assert_eq!(shown[0].volume, Some(("v".into(), 65536 + 3 * 4096)));
    assert_eq!((shown[1].slot, &shown[1].volume), (3, &None));
}

#[test]
fn any_one_member_keeps_the_list_and_the_others_get_it_again() {
    for keeper in 0..4 {
        let bench = Bench::new(4);
        let array = bench.create();
        array.defects.borrow_mut().note(place(1, 1, 1), BAD);
        bench.save(&array);
        let zones: Vec<u64> = bench.disks.iter().map(|d| zone_offset(&array, d)).collect();
        bench.stop(&array);
        for (at, (disk, zone)) in bench.disks.iter().zip(&zones).enumerate() {
            if at != keeper {
                disk.poke(zone + slot_offset(1), &[0x55; 4096]);
            }
        }
        let array = bench.assemble(&[0, 1, 2, 3]);
        assert_eq!(array.status().bad_blocks_total, 1);
        bench.stop(&array);
        // The one that had it is lost now.
        bench.disks[keeper].poke(zones[keeper] + slot_offset(1), &[0x55; 4096]);
        bench.disks[keeper].poke(zones[keeper] + slot_offset(2), &[0x55; 4096]);
        let array = bench.assemble(&[0, 1, 2, 3]);
        assert!(array.defects.borrow().is_bad(place(1, 1, 1)));
    }
}

#[test]
fn a_list_that_is_damaged_everywhere_is_told_of_and_not_taken_for_an_empty_one() {
    let bench = Bench::new(4);
    let array = bench.create();
    array.defects.borrow_mut().note(place(1, 1, 1), BAD);
    bench.save(&array);
    for disk in &bench.disks {
        disk.poke(zone_offset(&array, disk) + slot_offset(1), &[0x55; 4096]);
    }
    bench.stop(&array);
    bench.assemble(&[0, 1, 2, 3]);
    let events = bench.host.0.borrow();
    assert!(
        events
            .iter()
            .any(|event| event.kind == crate::EventKind::BadBlock)
    );
}

#[test]
fn a_torn_save_leaves_the_list_before_it() {
    let bench = Bench::new(4);
    let array = bench.create();
    array.defects.borrow_mut().note(place(1, 1, 1), BAD);
    bench.save(&array);
    array.defects.borrow_mut().note(place(1, 2, 1), BAD);
    bench.save(&array);
    for disk in &bench.disks {
        let at = zone_offset(&array, disk) + slot_offset(2) + 512;
        disk.poke(at - 512, &[0xAA; 512]);
    }
    bench.stop(&array);
    let array = bench.assemble(&[0, 1, 2, 3]);
    assert!(array.defects.borrow().is_bad(place(1, 1, 1)));
    assert!(!array.defects.borrow().is_bad(place(1, 2, 1)));
}

#[test]
fn a_rebuilt_member_has_the_list_too() {
    let bench = Bench::new(5);
    let array = bench.create();
    array.defects.borrow_mut().note(place(1, 1, 1), BAD);
    bench.save(&array);
    bench.sim.block_on(array.fail_member("/dev/sim0")).unwrap();
    bench
        .sim
        .block_on(array.add_spare(bench.member(4)))
        .unwrap();
    let clock = bench.sim.env().clock;
    while array.status().redundancy_left < 2 {
        let pause = clock.sleep(std::time::Duration::from_millis(1));
        bench.sim.block_on(pause);
    }
    let zone = zone_offset(&array, &bench.disks[4]);
    let held = [1, 2].map(|generation| {
        let bytes = bench.disks[4].peek(zone + slot_offset(generation), 4096);
        Defects::decode(&bytes, array.uuid()).is_ok_and(|list| list.is_bad(place(1, 1, 1)))
    });
    assert!(held.contains(&true));
}

#[test]
fn a_list_with_places_outside_the_array_is_not_taken() {
    let bench = Bench::new(4);
    let array = bench.create();
    array.defects.borrow_mut().note(place(1 << 50, 1, 1), BAD);
    bench.save(&array);
    bench.stop(&array);
    let array = bench.assemble(&[0, 1, 2, 3]);
    assert_eq!(array.status().bad_blocks_total, 0);
}

#[test]
fn a_list_that_somebody_else_has_written_is_flushed_before_records_go() {
    for seed in 0..100 {
        let bench = Bench::with_seed(4, seed);
        let array = bench.create();
        // Records that are replayed would heal it as well.
        bench.sim.block_on(array.drain()).unwrap();
        let bad = array.space.borrow().next_written(Row(0)).unwrap();
        assert!(array.defects.borrow_mut().note(place(bad.0, 1, 1), BAD));
        bench.save(&array);
        array.heal_row(bad);
        bench.sim.block_on(async {
            // A scrub saves now and then, and flushes later.
            array.save_defects().await.unwrap();
            array.settle_losses().await.unwrap();
        });
        for disk in &bench.disks {
            disk.power_cut();
        }
        drop(array);
        let array = bench.assemble(&[0, 1, 2, 3]);
        assert_eq!(array.status().bad_blocks_total, 0, "seed {seed}");
    }
}

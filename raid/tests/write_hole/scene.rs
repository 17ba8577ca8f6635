//! The array of a case: rows with known contents, all of it in place, the journal empty; and what the
//! engine asks of the disks when the script runs.

use std::cell::RefCell;
use std::rc::Rc;

use cairn_blockdev::sim::{Image, Sim, SimDisk, SimDiskConfig};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, BufPool, Env, LocalFuture, WriteFlags};
use cairn_raid::{
    Array, ArrayEvent, AssembleOptions, CreateSpec, EventSink, Geometry, Hooks, MemberDisk,
    MemoryShare, RaidError, Role, Row, Witness, WitnessStore, assemble, create,
};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::script::{CHUNK, Case, SECTOR, Step, contents, payload};
use crate::tape::{Event, Tape, Taped};

const HOST: Uuid = Uuid::from_bytes([0xAB; 16]);
const DISK_BYTES: u64 = 256 << 20;
/// A restart that takes more task polls than this hangs.
const POLLS_MAX: u64 = 5_000_000;
/// Rows of a case: each is in a state of its own after a crash, so that one restart tries many.
pub(crate) const ROWS: usize = 64;

/// What the host keeps.
#[derive(Default)]
pub(crate) struct Host {
    pub(crate) events: RefCell<Vec<ArrayEvent>>,
    witness: RefCell<Option<Witness>>,
}

impl EventSink for Host {
    fn event(&self, event: ArrayEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl WitnessStore for Host {
    fn record(&self, witness: Witness) -> LocalFuture<Result<(), String>> {
        *self.witness.borrow_mut() = Some(witness);
        Box::pin(std::future::ready(Ok(())))
    }
}

fn hooks(host: &Rc<Host>) -> Hooks {
    Hooks {
        events: Rc::<Host>::clone(host),
        witness: Rc::<Host>::clone(host),
        memory: MemoryShare::FULL,
    }
}

/// How parity came about when the script was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Nothing in place was read.
    Nothing,
    /// Data alone: a reconstruct-write.
    Data,
    /// Parity too: a read-modify-write.
    Parity,
}

/// A case that has run once.
pub(crate) struct Scene {
    pub(crate) case: Case,
    pub(crate) geometry: Geometry,
    /// The row of the array that each row of the case lies in.
    pub(crate) rows: Vec<Row>,
    /// The disk of each slot, and where its data zone begins.
    pub(crate) slots: Vec<(usize, u64)>,
    /// The disks before the script.
    pub(crate) base: Vec<SimDisk>,
    pub(crate) tape: Vec<Event>,
    witness: Option<Witness>,
}

fn config(latency_us_max: u64) -> SimDiskConfig {
    SimDiskConfig {
        size: DISK_BYTES,
        logical_block: 512,
        latency_us_max,
    }
}

fn boxed(disk: impl BlockDevice + 'static) -> Rc<dyn BlockDevice> {
    Rc::new(disk)
}

fn members(disks: impl IntoIterator<Item = Rc<dyn BlockDevice>>) -> Vec<MemberDisk> {
    let disks = disks.into_iter();
    disks
        .map(|device| MemberDisk {
            path: device.name(),
            device,
        })
        .collect()
}

impl Scene {
    /// Makes the array and runs the script on all rows at once.
    pub(crate) fn new(case: Case, seed: u64) -> Self {
        let sim = Sim::new(seed);
        let env = sim.env();
        let tape = Rc::<Tape>::default();
        let disks: Vec<Taped> = (0..case.members)
            .map(|index| Taped {
                index,
                disk: SimDisk::new(
                    &format!("/dev/sim{index}"),
                    config(100),
                    &env,
                    u64_of(index),
                ),
                tape: Rc::clone(&tape),
            })
            .collect();
        let host = Rc::<Host>::default();
        let spec = CreateSpec {
            name: "pool".into(),
            level: case.level,
            chunk_bytes: u32::try_from(CHUNK).unwrap(),
            home_host: HOST,
            journal_bytes: None,
            integrity: true,
            journal: true,
        };
        let given = disks.iter().cloned();
        let given = members(given.map(boxed));
        let made = create(
            env,
            BufPool::new(32 << 20),
            spec,
            given,
            Vec::new(),
            hooks(&host),
        );
        let array = sim.block_on(made).unwrap();
        let geometry =
            Geometry::new(case.level, case.members, u32::try_from(CHUNK).unwrap()).unwrap();
        let row_bytes = geometry.row_bytes();
        // One row more: its write leaves the labels dirty and the extent mapped.
        let size = u64_of(ROWS + 1) * row_bytes;
        sim.block_on(array.create_volume("v", size)).unwrap();
        let volume = array.open_volume("v").unwrap();
        sim.block_on(async {
            for row in 0..=ROWS {
                if case.fresh && row < ROWS {
                    continue;
                }
                let all = 0..case.row_sectors();
                let bytes: Vec<u8> = all.flat_map(|s| contents(&case, row, s, 0)).collect();
                let at = u64_of(row) * row_bytes;
                let data = Buf::copy_of(&bytes).freeze();
                volume.write(at, data, WriteFlags::default()).await.unwrap();
            }
            volume.flush().await.unwrap();
            // The second trims what the first one logged.
            array.drain().await.unwrap();
            array.drain().await.unwrap();
            volume.flush().await.unwrap();
        });
        let status = array.status();
        let slots = (0..case.members)
            .map(|slot| {
                let member = status
                    .members
                    .iter()
                    .find(|m| m.slot == Some(slot))
                    .unwrap();
                let disk = disks.iter().position(|disk| *disk.name() == member.path);
                (disk.unwrap(), array.data_offset(&member.path).unwrap())
            })
            .collect();
        // The volume's extent is the array's first: the last row is the one that is written.
        let last = array.written_rows().last().unwrap().0;
        let rows = (last - u64_of(ROWS)..last).map(Row).collect();
        let base: Vec<SimDisk> = disks
            .iter()
            .map(|disk| disk.disk.reborn(&sim.env(), 0))
            .collect();
        let witness = host.witness.borrow().clone();
        tape.start();
        sim.block_on(run(&case, &array, &volume, &tape, row_bytes));
        let tape = tape.take();
        drop((volume, array));
        Self {
            case,
            geometry,
            rows,
            slots,
            base,
            tape,
            witness,
        }
    }

    /// The row of the case, and the chunk's role in it, that a disk's offset lies in.
    pub(crate) fn find(&self, disk: usize, offset: u64) -> Option<(usize, Role)> {
        let slot = self.slots.iter().position(|(index, _)| *index == disk)?;
        let within = offset.checked_sub(self.slots[slot].1)?;
        let first = self.rows.first()?.0;
        let row = usize_of((within / u64_of(CHUNK)).checked_sub(first)?);
        let at = self.rows.get(row)?;
        Some((row, self.geometry.role(*at, cairn_raid::Slot(slot))))
    }

    /// What the script's last application read in place.
    pub(crate) fn read(&self) -> Read {
        let mut read = Read::Nothing;
        for event in &self.tape {
            let Event::Read { disk, offset } = event else {
                continue;
            };
            match self.find(*disk, *offset) {
                Some((_, Role::Data(_))) if read == Read::Nothing => read = Read::Data,
                Some((_, Role::P | Role::Q)) => read = Read::Parity,
                _ => {}
            }
        }
        read
    }

    /// What the disks held before the script.
    pub(crate) fn images(&self) -> Vec<Image> {
        self.base.iter().map(SimDisk::image).collect()
    }

    /// Blank disks of another boot, for images.
    pub(crate) fn disks(&self, env: &Env) -> Vec<SimDisk> {
        self.base
            .iter()
            .map(|disk| SimDisk::new(&disk.name(), config(0), env, 0))
            .collect()
    }

    /// Starts with those of the disks that aren't lost.
    pub(crate) fn start(
        &self,
        sim: &Sim,
        disks: &[SimDisk],
        lost: &[usize],
        pool: &BufPool,
        host: &Rc<Host>,
    ) -> Result<Rc<Array>, RaidError> {
        let options = AssembleOptions {
            force: false,
            waited: true,
            home_host: HOST,
            witness: self.witness.clone(),
        };
        let present = disks.iter().enumerate();
        let present = present.filter(|(index, _)| !lost.contains(index));
        let given = members(present.map(|(_, disk)| boxed(disk.clone())));
        let start = assemble(sim.env(), pool.clone(), given, options, hooks(host));
        settled(sim, start)
    }
}

/// Runs a future to its end; a hang is a failure of the test.
pub(crate) fn settled<T>(sim: &Sim, main: impl Future<Output = T>) -> T {
    sim.run_until(main, POLLS_MAX).expect("it hangs")
}

async fn run(
    case: &Case,
    array: &Rc<Array>,
    volume: &Rc<dyn BlockDevice>,
    tape: &Rc<Tape>,
    row_bytes: u64,
) {
    for (step, what) in case.script.iter().enumerate() {
        match what {
            Step::Write { sectors, .. } => {
                tape.note(Event::WriteBegun { step });
                let writes = (0..ROWS).map(|row| async move {
                    let bytes = payload(case, row, step, sectors);
                    let at = u64_of(row) * row_bytes + u64_of(sectors.start * SECTOR);
                    let data = Buf::copy_of(&bytes).freeze();
                    volume.write(at, data, WriteFlags::default()).await.unwrap();
                    tape.note(Event::Acked { step, row });
                });
                join_all(writes).await;
            }
            Step::Flush => {
                volume.flush().await.unwrap();
                tape.note(Event::Durable { below: step });
            }
            Step::Apply => {
                array.drain().await.unwrap();
                array.drain().await.unwrap();
            }
        }
    }
}

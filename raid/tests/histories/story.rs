//! A long story of one array: volumes come, grow and go while clients write to them; it is cut off
//! anywhere, checked against what was promised, and goes on.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::sim::Rng;
use cairn_blockdev::{Buf, IoErrorKind, WriteFlags};
use cairn_raid::defects::Reason;
use cairn_raid::{Array, RaidError};
use futures_util::future::{join, join_all};

use crate::model::{Crash, Model, SECTOR, ZERO};
use crate::region::Region;
use crate::world::{Shape, World};

/// Volumes at once.
const VOLUMES: u64 = 3;
/// Volumes grow by so much.
const GROWTH: u64 = 64 << 10;

/// What is known of a volume's existence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Being created: may be there after a crash.
    Coming,
    There,
    /// Being deleted: may be gone after a crash.
    Going,
}

/// A volume of the story.
pub(crate) struct Vol {
    name: String,
    life: Cell<Life>,
    /// Size, and the size that it is being given.
    size: Cell<u64>,
    growing_to: Cell<u64>,
    pub(crate) model: Rc<RefCell<Model>>,
}

/// What the story's actors share.
#[derive(Default)]
pub(crate) struct Plot {
    pub(crate) vols: RefCell<Vec<Rc<Vol>>>,
    next_tag: Cell<u64>,
    /// Operations may fail: too much is lost.
    errors_expected: Cell<bool>,
    ended: Cell<bool>,
}

pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) plot: Rc<Plot>,
    pub(crate) seed: u64,
    rng: Rng,
}

/// Sectors of a client: the beginning, and the beginning of the second extent.
fn windows(extent: u64) -> [Range<u64>; 2] {
    let second = extent / SECTOR;
    [0..96, second..second + 40]
}

impl Vol {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Plot {
    fn went_well<T>(&self, result: Result<T, RaidError>) -> bool {
        match result {
            Ok(_) => true,
            Err(error) => {
                assert!(self.errors_expected.get(), "{error}");
                false
            }
        }
    }
}

impl Story {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            world: World::new(seed, shape),
            plot: Rc::default(),
            seed,
            rng: Rng::new(seed),
        }
    }

    /// The manager and the clients, as one future: `steps` of the manager.
    pub(crate) fn chapter(
        &mut self,
        array: &Rc<Array>,
        steps: usize,
    ) -> impl Future<Output = ()> + use<> {
        self.plot.ended.set(false);
        let (array, plot, env) = (
            Rc::clone(array),
            Rc::clone(&self.plot),
            self.world.env.clone(),
        );
        let mut rng = Rng::new(self.rng.next_u64());
        let clients = (0..VOLUMES).flat_map(|place| (0..3).map(move |part| (place, part)));
        let clients: Vec<_> = clients
            .map(|(place, part)| {
                let rng = Rng::new(rng.next_u64());
                client(
                    Rc::clone(&array),
                    Rc::clone(&plot),
                    env.clone(),
                    usize::try_from(place).unwrap(),
                    part,
                    rng,
                )
            })
            .collect();
        async move {
            let manager = async {
                for _ in 0..steps {
                    manage(&array, &plot, &mut rng).await;
                    env.clock
                        .sleep(Duration::from_micros(rng.below(1500)))
                        .await;
                }
                plot.ended.set(true);
            };
            join(manager, join_all(clients)).await;
        }
    }

    /// From here on operations may fail.
    pub(crate) fn expect_errors(&self) {
        self.plot.errors_expected.set(true);
    }

    /// Cuts the story off, after which nothing of it runs on.
    pub(crate) fn cut(&mut self, crash: Crash) {
        self.world.crash(crash);
    }

    /// Volumes, sizes, contents, parity and space are as promised.
    pub(crate) fn check(&mut self, array: &Rc<Array>, crash: Crash, suspicious: bool) {
        let what = format!("seed {}", self.seed);
        let vols = self.plot.vols.take();
        let extent = array.status().space.extent_bytes;
        let mut kept = Vec::new();
        for vol in vols {
            let found = array.volume(&vol.name);
            match (found, vol.life.get()) {
                (Ok(info), _) => {
                    let sizes = [vol.size.get(), vol.growing_to.get()];
                    assert!(
                        sizes.contains(&info.size_bytes),
                        "{what}: {} has {} not {sizes:?}",
                        vol.name,
                        info.size_bytes
                    );
                    vol.size.set(info.size_bytes);
                    vol.growing_to.set(info.size_bytes);
                    vol.life.set(Life::There);
                    self.check_contents(array, &vol, crash, suspicious);
                    kept.push(vol);
                }
                (Err(error), Life::There) => panic!("{what}: {} is lost: {error}", vol.name),
                (Err(_), _) => {}
            }
        }
        let mut names: Vec<String> = array.volumes().into_iter().map(|v| v.name).collect();
        let mut known: Vec<String> = kept.iter().map(|v| v.name.clone()).collect();
        names.sort();
        known.sort();
        assert_eq!(names, known, "{what}: volumes that nobody knows");
        assert!(extent > 0);
        *self.plot.vols.borrow_mut() = kept;
        if !suspicious {
            self.world.audit(array);
        }
        self.world.check_space(array);
    }

    fn check_contents(&self, array: &Rc<Array>, vol: &Vol, crash: Crash, suspicious: bool) {
        let volume = array.open_volume(&vol.name).unwrap();
        let row = array.status().row_bytes / SECTOR;
        let seed = self.seed;
        let windows = vol.model.borrow().windows();
        for window in windows {
            let bytes = usize::try_from((window.end - window.start) * SECTOR).unwrap();
            let (volume, first) = (Rc::clone(&volume), window.start);
            let (buf, result) = self.world.run(async move {
                volume
                    .read(first * SECTOR, cairn_blockdev::Buf::zeroed(bytes))
                    .await
            });
            let buf = match result {
                Ok(()) => buf.to_vec(),
                Err(_) => self.read_around_what_was_cut_off(array, vol, &window, crash),
            };
            let mut model = vol.model.borrow_mut();
            // Started by force: rows with writes under way at the crash are not to be trusted.
            let doubtful: Vec<bool> = (window.start..window.end)
                .map(|sector| {
                    let first = sector - sector % row;
                    suspicious && model.unsettled(first..first + row, crash)
                })
                .collect();
            let doubt = |sector: u64| doubtful[usize::try_from(sector - window.start).unwrap()];
            model.check_but(
                window.start,
                &buf,
                Some(crash),
                doubt,
                &format!("seed {seed} {}", vol.name),
            );
        }
    }

    /// The one exception: blocks of complete rows that were being overwritten when the crash took a
    /// member along. Each is on the list for that reason, and heals when it is written.
    fn read_around_what_was_cut_off(
        &self,
        array: &Rc<Array>,
        vol: &Vol,
        window: &Range<u64>,
        crash: Crash,
    ) -> Vec<u8> {
        const BLOCK_SECTORS: u64 = 8;
        let volume = array.open_volume(&vol.name).unwrap();
        let mut bytes = Vec::new();
        for first in window.clone().step_by(8) {
            let block = first..first + BLOCK_SECTORS;
            let read = volume.read(first * SECTOR, Buf::zeroed(4096));
            let (buf, result) = self.world.run(read);
            bytes.extend_from_slice(&buf);
            let Err(error) = result else {
                continue;
            };
            let listed = array.status().bad_blocks;
            let mut model = vol.model.borrow_mut();
            assert!(
                model.unsettled(block.clone(), crash)
                    && !listed.is_empty()
                    && listed.iter().all(|bad| bad.reason == Reason::CutOff),
                "seed {}: {error}; listed: {listed:?}",
                self.seed
            );
            let flags = WriteFlags { fua: true };
            let zeros = Buf::zeroed(4096).freeze();
            let healed = volume.write(first * SECTOR, zeros, flags);
            self.world.run(healed).unwrap();
            model.begin(block.clone(), ZERO);
            model.acked(block, ZERO, true);
            let from = bytes.len() - 4096;
            bytes[from..].fill(0);
        }
        bytes
    }

    /// Deletes every volume: all space is free then, and after a restart too.
    pub(crate) fn end(mut self, array: Rc<Array>) {
        for vol in self.plot.vols.take() {
            self.world.run(array.delete_volume(&vol.name)).unwrap();
        }
        let space = array.status().space;
        assert_eq!(
            space.free_bytes, space.total_bytes,
            "seed {}: space leaks",
            self.seed
        );
        drop(array);
        self.world.crash(Crash::Power);
        let labelled = self.world.labelled();
        let array = self.world.assemble(&labelled, false).unwrap();
        let space = array.status().space;
        assert_eq!(
            space.free_bytes, space.total_bytes,
            "seed {}: space comes back",
            self.seed
        );
        assert_eq!(space.written_bytes, 0, "seed {}", self.seed);
    }
}

async fn manage(array: &Rc<Array>, plot: &Plot, rng: &mut Rng) {
    let place = usize::try_from(rng.below(VOLUMES)).unwrap();
    let name = format!("v{place}");
    let known = plot
        .vols
        .borrow()
        .iter()
        .find(|vol| vol.name == name)
        .map(Rc::clone);
    let extent = array.status().space.extent_bytes;
    match known {
        None => {
            let size = 2 * extent;
            plot.next_tag.set(plot.next_tag.get() + 1);
            let vol = Rc::new(Vol {
                name: name.clone(),
                life: Cell::new(Life::Coming),
                size: Cell::new(size),
                growing_to: Cell::new(size),
                model: Rc::new(RefCell::new(Model::new(
                    0x7A60 + plot.next_tag.get(),
                    &windows(extent),
                ))),
            });
            plot.vols.borrow_mut().push(Rc::clone(&vol));
            if plot.went_well(array.create_volume(&name, size).await) {
                vol.life.set(Life::There);
            }
        }
        Some(vol) if rng.one_in(2) => {
            vol.life.set(Life::Going);
            if plot.went_well(array.delete_volume(&name).await) {
                plot.vols
                    .borrow_mut()
                    .retain(|other| !Rc::ptr_eq(other, &vol));
            }
        }
        Some(vol) => {
            vol.growing_to.set(vol.size.get() + GROWTH);
            let resized = array.resize_volume(&name, vol.growing_to.get()).await;
            if plot.went_well(resized) {
                vol.size.set(vol.growing_to.get());
            }
        }
    }
}

/// A client of whatever volume is in a place, with a part of it to itself.
async fn client(
    array: Rc<Array>,
    plot: Rc<Plot>,
    env: cairn_blockdev::Env,
    place: usize,
    part: u64,
    mut rng: Rng,
) {
    let name = format!("v{place}");
    while !plot.ended.get() {
        let there = plot
            .vols
            .borrow()
            .iter()
            .find(|v| v.name == name && v.life.get() == Life::There)
            .map(Rc::clone);
        let Some(vol) = there else {
            env.clock.sleep(Duration::from_micros(200)).await;
            continue;
        };
        let [first, second] = windows(array.status().space.extent_bytes);
        let Ok(volume) = array.open_volume(&name) else {
            env.clock.sleep(Duration::from_micros(200)).await;
            continue;
        };
        let mut region = Region {
            model: Rc::clone(&vol.model),
            rng: Rng::new(rng.next_u64()),
            // A border inside a block, and inside a row.
            sectors: match part {
                0 => 0..37,
                1 => 37..first.end,
                _ => second.clone(),
            },
            whole: (part == 2).then(|| second.start..volume.geometry().size / SECTOR),
            longest: 24,
            volume,
        };
        while vol.life.get() == Life::There && !plot.ended.get() {
            if let Err(error) = region.step().await {
                // Thin: the space of the others may not be back yet.
                if error.kind == IoErrorKind::NoSpace {
                    continue;
                }
                if plot.errors_expected.get() {
                    env.clock.sleep(Duration::from_micros(200)).await;
                    continue;
                }
                assert!(
                    vol.life.get() == Life::Going || !there_is(&plot, &vol),
                    "{error}"
                );
                break;
            }
        }
    }
}

fn there_is(plot: &Plot, vol: &Rc<Vol>) -> bool {
    plot.vols
        .borrow()
        .iter()
        .any(|other| Rc::ptr_eq(other, vol))
}

//! Tries crash states: each is put on disks, the array is started without some of them, and everything
//! that it then says is compared with what it may say.

use std::fmt;
use std::ops::AddAssign;
use std::rc::Rc;

use cairn_blockdev::sim::{Rng, Sim, SimDisk};
use cairn_blockdev::units::{u64_of, usize_of};
use cairn_blockdev::{BlockDevice, Buf, BufPool};
use cairn_raid::defects::ScrubState;
use cairn_raid::parity::{compute_p, compute_q};
use cairn_raid::{Array, Role, Slot};

use crate::cuts::{Cut, Free, choose, cuts, states};
use crate::scene::{Host, ROWS, Scene, settled};
use crate::script::{
    CHUNK, Case, Known, SECTOR, announced, contents, is_exposed, is_journalled_since, versions,
};

const BLOCK_SECTORS: usize = CHUNK / SECTOR;
/// States of one row at one cut that are tried without leaving one out.
const ROW_STATES_MAX: usize = 1 << 10;
/// Samples of each row's states where there are more, or where the rows are not at the same place.
const ROW_SAMPLES: usize = 4;
/// States of everything that isn't a row: journal, checksum pages, maps. Beyond this they are sampled.
const REST_STATES_MAX: usize = 8;
/// Samples where there are more.
const REST_SAMPLES: usize = 4;
/// Sets of lost members that a state is tried with while no row is being written: others each time.
const SETS: usize = 2;

/// What was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) cuts: u64,
    /// Cuts at which every state of every row was tried.
    pub(crate) exhaustive: u64,
    pub(crate) starts: u64,
    /// States of rows, each with a set of lost members.
    pub(crate) rows: u64,
    pub(crate) scrubs: u64,
    /// Blocks of complete rows that were being overwritten, on lost members: the one documented exception
    /// speaks of these.
    pub(crate) exposed: u64,
    /// Those of them that were lost.
    pub(crate) exceptions: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.exhaustive += other.exhaustive;
        self.starts += other.starts;
        self.rows += other.rows;
        self.scrubs += other.scrubs;
        self.exposed += other.exposed;
        self.exceptions += other.exceptions;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts ({} with every state of the rows), {} starts, {} row states, \
             {} scrubs, {} of {} exposed blocks lost",
            self.cuts,
            self.exhaustive,
            self.starts,
            self.rows,
            self.scrubs,
            self.exceptions,
            self.exposed
        )
    }
}

/// Something that must not be.
#[derive(Debug)]
pub(crate) struct Finding(pub(crate) String);

/// Sets of at most `most` lost members.
fn lost_sets(members: usize, most: usize) -> Vec<Vec<usize>> {
    let mut sets = vec![Vec::new()];
    for first in 0..members {
        sets.push(vec![first]);
        if most > 1 {
            sets.extend((first + 1..members).map(|second| vec![first, second]));
        }
    }
    sets
}

/// Runs a case and tries every crash of it.
pub(crate) fn explore(case: Case, seed: u64) -> Result<Counts, Finding> {
    let scene = Scene::new(case, seed);
    let base = |(disk, offset): (usize, u64)| scene.base[disk].peek(offset, SECTOR);
    let cuts = cuts(&scene.tape, ROWS, &base);
    let mut explorer = Explorer {
        scene: &scene,
        pool: BufPool::new(32 << 20),
        counts: Counts::default(),
    };
    for (number, cut) in cuts.iter().enumerate() {
        explorer.try_cut(cut).map_err(|Finding(what)| {
            Finding(format!(
                "{}, seed {seed}, cut {number} ({:?} before event {} of {}), {what}",
                scene.case.name,
                cut.crash,
                cut.at,
                scene.tape.len()
            ))
        })?;
    }
    println!(
        "{}: {}; reads {:?}",
        scene.case.name,
        explorer.counts,
        scene.read()
    );
    Ok(explorer.counts)
}

struct Explorer<'a> {
    scene: &'a Scene,
    pool: BufPool,
    counts: Counts,
}

impl Explorer<'_> {
    fn try_cut(&mut self, cut: &Cut) -> Result<(), Finding> {
        let scene = self.scene;
        let mut rows: Vec<Vec<(usize, &Free)>> = vec![Vec::new(); ROWS];
        let mut rest: Vec<&Free> = Vec::new();
        for free in &cut.free {
            match scene.find(free.place.0, free.place.1) {
                Some((row, role)) => {
                    let order = match role {
                        Role::P => 0,
                        Role::Q => 1,
                        Role::Data(index) => 2 + index,
                    };
                    rows[row].push((order, free));
                }
                None => rest.push(free),
            }
        }
        // By role: state n of one row is state n of every other.
        let rows: Vec<Vec<&Free>> = rows
            .into_iter()
            .map(|mut row| {
                row.sort_by_key(|(order, free)| (*order, free.place.1));
                row.into_iter().map(|(_, free)| free).collect()
            })
            .collect();
        let all: Vec<Option<usize>> = rows.iter().map(|row| states(row, ROW_STATES_MAX)).collect();
        let same = all.windows(2).all(|pair| pair[0] == pair[1]);
        let is_whole = same && all.iter().all(Option::is_some);
        let rows_most = all
            .iter()
            .flatten()
            .max()
            .copied()
            .unwrap_or(ROW_STATES_MAX);
        // Where all rows have the same states each tries a part of them.
        let row_turns = if is_whole {
            rows_most.div_ceil(ROWS)
        } else {
            rows_most.min(ROW_SAMPLES)
        };
        let rest_all = states(&rest, REST_STATES_MAX);
        let rest_turns = rest_all.unwrap_or(REST_SAMPLES);
        // With both, every state of the one meets some of the other.
        let turns = row_turns.max(rest_turns);
        self.counts.cuts += 1;
        self.counts.exhaustive += u64::from(is_whole);
        let lost_sets = lost_sets(scene.case.members, scene.case.parities());
        for turn in 0..turns {
            let mut rng = Rng::new(u64_of(cut.at) << 20 | u64_of(turn));
            let mut pokes: Vec<((usize, u64), &[u8])> = Vec::new();
            for (place, data) in &cut.fixed {
                pokes.push((*place, data));
            }
            for (index, row) in rows.iter().enumerate() {
                let state = match all[index] {
                    Some(0) | None => usize_of(rng.below(1 << 40)),
                    Some(all) if same => (turn * ROWS + index) % all,
                    Some(all) => usize_of(rng.below(u64_of(all))),
                };
                pick(row, all[index].map(|_| state), &mut rng, &mut pokes);
            }
            pick(&rest, rest_all.map(|all| turn % all), &mut rng, &mut pokes);
            let env = Sim::new(1).env();
            let disks = self.scene.disks(&env);
            for (disk, image) in disks.iter().zip(self.scene.images()) {
                disk.set_image(&image);
            }
            for ((disk, offset), data) in pokes {
                disks[disk].poke(offset, data);
            }
            let is_row_open = rows.iter().any(|row| !row.is_empty());
            let (skip, take) = if is_row_open || rest.is_empty() {
                (0, lost_sets.len())
            } else {
                ((usize_of(self.counts.cuts) + turn) * SETS, SETS)
            };
            for lost in lost_sets.iter().cycle().skip(skip).take(take) {
                self.start(cut, &disks, lost).map_err(|Finding(what)| {
                    Finding(format!("turn {turn}, without {lost:?}: {what}"))
                })?;
            }
        }
        Ok(())
    }

    /// Starts with what a crash left, without some members, and looks at everything.
    fn start(&mut self, cut: &Cut, left: &[SimDisk], lost: &[usize]) -> Result<(), Finding> {
        let scene = self.scene;
        let sim = Sim::new(u64_of(cut.at));
        let disks = scene.disks(&sim.env());
        for (disk, left) in disks.iter().zip(left) {
            disk.set_image(&left.image());
        }
        let host = Rc::<Host>::default();
        self.counts.starts += 1;
        self.counts.rows += u64_of(ROWS);
        let array = scene
            .start(&sim, &disks, lost, &self.pool, &host)
            .map_err(|error| Finding(format!("it doesn't start: {error}")))?;
        self.check_contents(cut, &sim, &array, left, lost)?;
        settled(&sim, array.drain()).map_err(|error| Finding(error.to_string()))?;
        let written = array.written_rows();
        for row in (0..ROWS).filter(|row| written.contains(&scene.rows[*row])) {
            self.check_parity(&disks, lost, row)?;
        }
        if lost.is_empty() {
            self.scrub(&sim, &array)?;
        }
        Ok(())
    }

    fn check_contents(
        &mut self,
        cut: &Cut,
        sim: &Sim,
        array: &Rc<Array>,
        left: &[SimDisk],
        lost: &[usize],
    ) -> Result<(), Finding> {
        let scene = self.scene;
        let volume = array
            .open_volume("v")
            .map_err(|error| Finding(error.to_string()))?;
        let row_bytes = scene.case.row_sectors() * SECTOR;
        let whole = read(sim, &volume, 0, ROWS * row_bytes);
        for row in 0..ROWS {
            let known = &cut.known[row];
            for block in 0..row_bytes / CHUNK {
                let at = row * row_bytes + block * CHUNK;
                let bytes = match &whole {
                    Some(whole) => Some(whole[at..at + CHUNK].to_vec()),
                    None => read(sim, &volume, at, CHUNK),
                };
                let slot = scene.geometry.data_slot(scene.rows[row], block);
                let is_gone = lost.contains(&scene.slots[slot.0].0);
                let is_exposed = is_gone && !scene.case.fresh && is_exposed(&scene.case, known);
                self.counts.exposed += u64::from(is_exposed);
                let Some(bytes) = bytes else {
                    if is_exposed && !self.must_be_kept(cut, left, lost, row) {
                        self.counts.exceptions += 1;
                        continue;
                    }
                    return Err(Finding(format!("row {row}, block {block} is lost")));
                };
                for (at, bytes) in bytes.chunks(SECTOR).enumerate() {
                    let sector = block * BLOCK_SECTORS + at;
                    let may = versions(&scene.case, sector, known);
                    let is =
                        |version: &usize| contents(&scene.case, row, sector, *version) == bytes;
                    if !may.iter().any(is) {
                        let all = 0..=scene.case.script.len();
                        let what = all.into_iter().find(is);
                        return Err(Finding(format!(
                            "row {row}, sector {sector} is of version {what:?}, not of {may:?}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a crash left so much of a row that nothing of it may be lost with these members: every
    /// block of data is wholly of one version, the parities are those of what is there, so that it can be
    /// solved; and it can be told from a row that was acked and then rotted, because what is lost was new
    /// or something that can be read is old, with no newer record of it in the journal.
    fn must_be_kept(&self, cut: &Cut, left: &[SimDisk], lost: &[usize], row: usize) -> bool {
        let scene = self.scene;
        let at = scene.rows[row];
        let announced = announced(&scene.case, &cut.known[row]);
        let (mut is_lost_new, mut is_left_old) = (true, false);
        for (slot, (disk, zone)) in scene.slots.iter().enumerate() {
            let Role::Data(index) = scene.geometry.role(at, Slot(slot)) else {
                continue;
            };
            let there = left[*disk].peek(zone + at.0 * u64_of(CHUNK), CHUNK);
            let is_of = |step: usize| {
                let known = Known {
                    begun: step,
                    kept: step,
                };
                let mut sectors = (index * BLOCK_SECTORS..).zip(there.chunks(SECTOR));
                sectors.all(|(sector, bytes)| {
                    let version = versions(&scene.case, sector, &known)[0];
                    contents(&scene.case, row, sector, version) == bytes
                })
            };
            let (is_new, is_old) = (is_of(announced), (0..announced).any(is_of));
            if !is_new && !is_old {
                return false;
            }
            if lost.contains(disk) {
                is_lost_new &= is_new;
            } else {
                is_left_old |= !is_new && !is_journalled_since(&scene.case, &cut.known[row], index);
            }
        }
        (is_lost_new || is_left_old) && self.check_parity(left, &[], row).is_ok()
    }

    /// Parity in place fits the data in place, as far as there are members to tell it by.
    fn check_parity(&self, disks: &[SimDisk], lost: &[usize], row: usize) -> Result<(), Finding> {
        let scene = self.scene;
        let at = scene.rows[row];
        let mut data = vec![None; scene.case.data_chunks()];
        let (mut p, mut q) = (None, None);
        for (slot, (disk, offset)) in scene.slots.iter().enumerate() {
            let there = !lost.contains(disk);
            let chunk = there.then(|| disks[*disk].peek(offset + at.0 * u64_of(CHUNK), CHUNK));
            match scene.geometry.role(at, Slot(slot)) {
                Role::Data(index) => data[index] = chunk,
                Role::P => p = chunk,
                Role::Q => q = chunk,
            }
        }
        let gone: Vec<usize> = (0..data.len())
            .filter(|index| data[*index].is_none())
            .collect();
        if let ([index], Some(p), true) = (&gone[..], &p, q.is_some()) {
            // The lost chunk by P; then Q must agree.
            let mut solved = p.clone();
            for chunk in data.iter().flatten() {
                solved
                    .iter_mut()
                    .zip(chunk)
                    .for_each(|(to, from)| *to ^= from);
            }
            data[*index] = Some(solved);
        } else if !gone.is_empty() {
            return Ok(());
        }
        let data: Vec<Vec<u8>> = data.into_iter().flatten().collect();
        let sources = || data.iter().map(Vec::as_slice);
        let mut want = vec![0; CHUNK];
        compute_p(sources(), &mut want);
        if p.is_some_and(|p| p != want) {
            return Err(Finding(format!("P of row {row} doesn't fit")));
        }
        compute_q(sources(), &mut want);
        if q.is_some_and(|q| q != want) {
            return Err(Finding(format!("Q of row {row} doesn't fit")));
        }
        Ok(())
    }

    fn scrub(&mut self, sim: &Sim, array: &Rc<Array>) -> Result<(), Finding> {
        self.counts.scrubs += 1;
        let clock = sim.env().clock;
        settled(sim, async {
            array
                .scrub_start()
                .await
                .map_err(|error| Finding(error.to_string()))?;
            while array.status().scrub.state != ScrubState::Idle {
                clock.sleep(std::time::Duration::from_millis(1)).await;
            }
            let scrub = array.status().scrub;
            let found = (scrub.repaired, scrub.mismatched, scrub.unrepairable);
            if found == (0, 0, 0) && scrub.runs == 1 {
                Ok(())
            } else {
                Err(Finding(format!("a scrub finds {scrub:?}")))
            }
        })
    }
}

/// Adds what a state leaves of these sectors, or of a seeded one: everything, nothing, whole blocks or
/// any of the sectors.
fn pick<'a>(
    free: &'a [&'a Free],
    state: Option<usize>,
    rng: &mut Rng,
    pokes: &mut Vec<((usize, u64), &'a [u8])>,
) {
    if let Some(state) = state {
        pokes.extend(choose(free, state).filter_map(|(place, data)| Some((place, &data?[..]))));
        return;
    }
    let by_block = rng.one_in(3);
    let mut last = None;
    let mut keep = false;
    for sector in free {
        let block = (sector.place.0, sector.place.1 / u64_of(CHUNK));
        if !by_block || last != Some(block) {
            keep = rng.one_in(2);
            last = Some(block);
        }
        let newest = sector.options.len() - 1;
        let choice = match (by_block, keep) {
            (true, true) => newest,
            (true, false) => 0,
            _ => usize_of(rng.below(u64_of(newest + 1))),
        };
        if let Some(data) = &sector.options[choice] {
            pokes.push((sector.place, data));
        }
    }
}

fn read(sim: &Sim, volume: &Rc<dyn BlockDevice>, offset: usize, len: usize) -> Option<Vec<u8>> {
    let (buf, result) = settled(sim, volume.read(u64_of(offset), Buf::zeroed(len)));
    result.is_ok().then(|| buf.to_vec())
}

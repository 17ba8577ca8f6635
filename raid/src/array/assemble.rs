//! From disks with labels to a running array: the decision, and then the work.
//!
//! [`judge`] is pure: labels in, verdict out. The rules (raid/README.md, Assembly):
//! - The label with the highest (event count, generation) says who is in sync.
//! - A member that it calls in sync but whose own label is more than one event behind is an old image
//!   of itself: stale. One event is what a crash between two disks' labels leaves.
//! - With members absent, the array starts only if enough are left, the disks had their time to turn
//!   up, and the absent could not have run without the present, or this host's witness knows nothing
//!   newer than the labels here. Everything else wants `force`.
//! - A start by force counts [`FORCED_EVENTS`] events: from then on what it started from outranks whatever was
//!   absent, also what had run without it.
//! - That label says whether the stop was clean: the labels say *dirty* on all before the first write,
//!   and *clean* on any only after the last flush.
//! - After an unclean stop with more journal disks gone than the level survives, only `force` starts it.
//! - After an unclean stop the journal is replayed, whoever is absent. Without a journal parity is
//!   doubtful: with nobody absent it is recomputed before anything is served; with somebody absent
//!   only `force` starts the array.

use std::collections::BTreeMap;
use std::rc::Rc;

use cairn_blockdev::{BlockDevice, Buf, BufPool, Env};
use futures_util::future::{LocalBoxFuture, join_all};
use uuid::Uuid;

use super::bad_blocks::load_defects;
use super::create::read_map_slots;
use super::disk::Disk;
use super::durable::WrittenPage;
use super::journal_disks::{lost_journal_disks, too_few_copies};
use super::probe::{best_label, rank};
use super::watch::{Watch, Watched};
use super::{Array, MemberDisk, Parts};
use crate::error::RaidError;
use crate::events::{EventKind, Hooks, Witness};
use crate::geometry::Row;
use crate::journal::open::Opened;
use crate::label::{ArrayLabel, Label};
use crate::member::MemberState;
use crate::mutation::{self, Mutation};
use crate::space::{PageError, SpaceMap, page_generation};

/// Events that a start by force counts: more than any array sees in a life.
const FORCED_EVENTS: u64 = 1 << 24;

/// How an array is to be started.
#[derive(Debug, Clone)]
pub struct AssembleOptions {
    /// The operator wants it started at the price that the refusal named.
    pub force: bool,
    /// The disks had their time to turn up.
    pub waited: bool,
    /// This host; the array is its own from now on.
    pub home_host: Uuid,
    /// What this host remembers of the array.
    pub witness: Option<Witness>,
}

/// What to do with the labels found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    /// The label that counts.
    reference: ArrayLabel,
    /// Disks that take part, by UUID; all others are stale.
    trusted: Vec<Uuid>,
    /// Members that are in sync by the label and not here, or stale.
    absent: Vec<Uuid>,
    /// Whether parity has to be recomputed first.
    /// Parity has to be recomputed.
    resync: bool,
    /// Writes were on their way.
    unclean: bool,
    /// Records may be gone with journal disks.
    lossy: bool,
}

/// A refusal, before it gets the array's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    reason: String,
    wait_may_help: bool,
    force_may_help: bool,
}

/// Decides over labels alone.
fn judge(labels: &[Label], options: &AssembleOptions) -> Result<Verdict, Refusal> {
    let refuse = |reason: String, wait_may_help, force_may_help| {
        Err(Refusal {
            reason,
            wait_may_help,
            force_may_help,
        })
    };
    let newest = labels.iter().max_by_key(|label| rank(&label.array));
    let believed = if mutation::on(Mutation::StaleMemberRead) {
        labels.iter().min_by_key(|label| rank(&label.array))
    } else {
        newest
    };
    let Some(best) = believed else {
        return refuse("no disk with a usable label is here".into(), true, false);
    };
    let mut reference = best.array.clone();
    if !reference.writable() && !reference.clean {
        return refuse(
            format!(
                "its labels carry features without which this Cairn must not write (ro-compat {:#x}), \
                 and it wasn't stopped cleanly, so that a start has to; use the version that wrote them",
                reference.ro_compat_unknown()
            ),
            false,
            false,
        );
    }
    let trusted: Vec<Uuid> = labels
        .iter()
        .filter(|label| is_current(label.array.event_count, reference.event_count))
        .filter(|label| {
            reference
                .entry(label.member_uuid)
                .is_some_and(|e| e.state.is_live())
        })
        .map(|label| label.member_uuid)
        .collect();
    let in_sync: Vec<Uuid> = reference
        .table
        .iter()
        .filter(|entry| entry.state == MemberState::InSync)
        .map(|entry| entry.uuid)
        .collect();
    let (present, absent): (Vec<Uuid>, Vec<Uuid>) =
        in_sync.iter().partition(|uuid| trusted.contains(uuid));
    let geometry = reference.geometry;
    let enough = geometry.members() - geometry.redundancy();
    // A commit that only a newcomer's label tells of, and that the others went on without, is the newest event and was
    // written long ago: what it says of the writes since is nothing.
    let mut unclean = !best.array.clean;
    for label in labels {
        let is_later = label.array.generation > best.array.generation;
        if is_later && trusted.contains(&label.member_uuid) {
            unclean |= !label.array.clean;
            reference.generation = reference.generation.max(label.array.generation);
        }
    }
    let (journal_absent, journal_lost) =
        lost_journal_disks(&reference, |uuid| trusted.contains(&uuid));
    let lossy = unclean && journal_lost.len() > geometry.redundancy();
    let verdict = Verdict {
        unclean,
        lossy,
        resync: unclean && !reference.has_journal(),
        reference,
        trusted,
        absent,
    };
    let (reference, absent) = (&verdict.reference, &verdict.absent);
    if present.len() < enough {
        return refuse(
            format!(
                "{} of {} members are here and current, {enough} are needed; missing: {}",
                present.len(),
                geometry.members(),
                list(absent)
            ),
            true,
            false,
        );
    }
    let newer_elsewhere = options
        .witness
        .as_ref()
        .is_some_and(|w| w.event_count > reference.event_count);
    if newer_elsewhere && !options.force {
        return refuse(
            format!(
                "this host has seen event {} of it, the newest label here says {}: the disks here \
                 are old; find the others ({}), or start from old data with --force",
                options.witness.as_ref().map_or(0, |w| w.event_count),
                reference.event_count,
                list(absent)
            ),
            true,
            true,
        );
    }
    if absent.is_empty() && journal_absent.is_empty() && !lossy {
        let degraded = in_sync.len() < geometry.members();
        if degraded && verdict.resync && !options.force {
            return refuse(UNCLEAN_DEGRADED.into(), false, true);
        }
        return Ok(verdict);
    }
    if !options.waited && !options.force {
        let mut waited_for = absent.clone();
        waited_for.extend(journal_absent);
        return refuse(
            format!(
                "waiting for {} absent member(s): {}",
                waited_for.len(),
                list(&waited_for)
            ),
            true,
            true,
        );
    }
    if verdict.resync && !options.force {
        return refuse(UNCLEAN_DEGRADED.into(), true, true);
    }
    let could_run_alone = absent.len() >= enough;
    if could_run_alone && options.witness.is_none() && !options.force {
        return refuse(
            format!(
                "the absent members ({}) could have run without the ones here, and this host has \
                 no record that they didn't; --force starts it with what the disks here hold",
                list(absent)
            ),
            true,
            true,
        );
    }
    if lossy && !options.force {
        return refuse(too_few_copies(&journal_lost), true, true);
    }
    Ok(verdict)
}

/// Whether a label tells of the newest event, or was left one behind by a crash in its commit.
fn is_current(event: u64, newest: u64) -> bool {
    let behind = newest.saturating_sub(event);
    behind <= 1 || behind == 1 + FORCED_EVENTS
}

const UNCLEAN_DEGRADED: &str = "it was stopped in the middle of writes and members are gone: blocks of the missing members \
     that share a row with those writes can't be told right from wrong; bring the members back, or \
     start with --force and check the data";

fn list(uuids: &[Uuid]) -> String {
    let names: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
    names.join(", ")
}

/// Assembles the array whose candidates `disks` are, and starts it.
pub fn assemble(
    env: Env,
    pool: BufPool,
    disks: Vec<MemberDisk>,
    options: AssembleOptions,
    hooks: Hooks,
) -> LocalBoxFuture<'static, Result<Rc<Array>, RaidError>> {
    Box::pin(async move {
        let watch = Watch::new(&env);
        let disks: Vec<Candidate> = disks
            .into_iter()
            .map(|disk| Candidate {
                device: watch.over(&disk.path, &disk.device),
                path: disk.path,
            })
            .collect();
        let mut found: BTreeMap<Uuid, (Candidate, Label)> = BTreeMap::new();
        let labels = join_all(disks.iter().map(|disk| best_label(&disk.device))).await;
        let mut unreadable = Vec::new();
        let mut seen: BTreeMap<Uuid, Rc<str>> = BTreeMap::new();
        let mut short = Vec::new();
        for (disk, label) in disks.into_iter().zip(labels) {
            let label = match label {
                Ok(label) => label,
                Err(error) => {
                    unreadable.push(format!("{}: {error}", disk.path));
                    continue;
                }
            };
            let uuid = label.member_uuid;
            if let Some(first) = seen.insert(uuid, Rc::clone(&disk.path)) {
                return Err(RaidError::Cloned {
                    first: first.to_string(),
                    second: disk.path.to_string(),
                    member: uuid,
                });
            }
            // As good as absent: part of what it should hold isn't there.
            if let Some(reason) = cut_short(disk.device.geometry().size, &label) {
                unreadable.push(format!("{}: {reason}", disk.path));
                short.push((uuid, disk.path, reason));
                continue;
            }
            found.insert(uuid, (disk, label));
        }
        let labels: Vec<Label> = found.values().map(|(_, label)| label.clone()).collect();
        let name = labels
            .first()
            .map_or_else(String::new, |label| label.array.name.clone());
        let verdict = judge(&labels, &options).map_err(|refusal| RaidError::NotStarted {
            array: name.clone(),
            reason: match unreadable.as_slice() {
                [] => refusal.reason,
                disks => format!("{} (not usable: {})", refusal.reason, disks.join("; ")),
            },
            wait_may_help: refusal.wait_may_help,
            force_may_help: refusal.force_may_help,
        })?;
        // What it costs to start it all the same.
        let price = judge(&labels, &without_force(&options)).err();
        let parties = Parties {
            found,
            short,
            price: price.map(|refusal| refusal.reason),
            verdict,
            watch,
        };
        start(env, pool, parties, options, hooks).await
    })
}

/// What is said of a disk of `size` bytes, if that is less than it had when it got its label.
fn cut_short(size: u64, label: &Label) -> Option<String> {
    (size < label.disk_bytes).then(|| {
        format!(
            "it has {size} bytes, its label says {}: it was truncated, or copied to a smaller disk; \
             bring the whole disk back, or replace it",
            label.disk_bytes
        )
    })
}

/// A disk that may belong to the array.
struct Candidate {
    path: Rc<str>,
    device: Watched,
}

/// The disks found, what is to become of them, and who watches them.
struct Parties {
    found: BTreeMap<Uuid, (Candidate, Label)>,
    /// Disks that are smaller than they were, with what is said of them.
    short: Vec<(Uuid, Rc<str>, String)>,
    /// Why it isn't started without force.
    price: Option<String>,
    verdict: Verdict,
    watch: Rc<Watch>,
}

async fn start(
    env: Env,
    pool: BufPool,
    parties: Parties,
    options: AssembleOptions,
    hooks: Hooks,
) -> Result<Rc<Array>, RaidError> {
    let Parties {
        found,
        short,
        price,
        verdict,
        watch,
    } = parties;
    let label = verdict.reference;
    let mut paths = Vec::new();
    let mut disks = Vec::new();
    let mut stale = Vec::new();
    for (uuid, (member, its)) in found {
        paths.push((uuid, Rc::clone(&member.path)));
        if verdict.trusted.contains(&uuid) {
            let disk = Disk::new(uuid, member.path, member.device, Some(its.layout));
            disk.labelled.set(its.array.generation);
            disks.push(disk);
        } else {
            stale.push((member, its));
        }
    }
    let read_only = read_only(&label);
    if read_only.is_some() {
        // What the others still need isn't looked up, as it can't be brought up to date.
        disks.retain(|disk| is_in_sync(&label, disk));
        watch.forbid_writes();
    }
    let in_sync: Vec<Rc<Disk>> = disks
        .iter()
        .filter(|disk| is_in_sync(&label, disk))
        .map(Rc::clone)
        .collect();
    let (space, map_behind) = load_space(&label, &in_sync).await?;
    let ended = Ended {
        unclean: verdict.unclean,
        resync: verdict.resync,
        lossy: verdict.lossy,
    };
    let loaded = load_defects(&label, &in_sync).await?;
    let degraded_by = verdict.absent;
    let array = Array::from_parts(Parts {
        env,
        pool,
        hooks,
        label,
        disks,
        space,
        watch,
        defects: loaded.defects,
    });
    for (uuid, path) in paths {
        array.ledger.borrow_mut().remember_path(uuid, path);
    }
    for (uuid, path, reason) in short {
        array.report(EventKind::DiskError, Some(&path), reason);
        array.ledger.borrow_mut().remember_path(uuid, path);
    }
    if let Err(error) = array.check_sums_fit() {
        array.abandon();
        return Err(error);
    }
    if loaded.lost {
        array.report(
            EventKind::BadBlock,
            None,
            "the list of bad blocks is damaged on every member; a scrub finds them again".into(),
        );
    }
    let behind = Behind {
        maps: map_behind,
        lists: loaded.behind,
    };
    if let Some(why) = read_only {
        if let Err(error) = array.open_read_only(&why).await {
            array.abandon();
            return Err(error);
        }
        return Ok(array);
    }
    let outranks = price.is_some();
    *array.forced_over.borrow_mut() = price;
    let opening = Opening {
        outranks,
        absent: degraded_by,
        ended,
        stale,
        behind,
    };
    if let Err(error) = array.open_for_business(opening, &options).await {
        array.abandon();
        return Err(error);
    }
    if let Some(price) = array.forced_over() {
        array.report(
            EventKind::Forced,
            None,
            format!("started all the same: {price}"),
        );
    }
    Ok(array)
}

fn is_in_sync(label: &ArrayLabel, disk: &Disk) -> bool {
    let entry = label.entry(disk.uuid);
    entry.is_some_and(|entry| entry.state == MemberState::InSync)
}

/// Why nothing may be written, if so.
fn read_only(label: &ArrayLabel) -> Option<String> {
    (!label.writable()).then(|| {
        format!(
            "its labels carry features without which this Cairn must not write (ro-compat {:#x}); \
             use the version that wrote them to write",
            label.ro_compat_unknown()
        )
    })
}

fn without_force(options: &AssembleOptions) -> AssembleOptions {
    AssembleOptions {
        force: false,
        ..options.clone()
    }
}

/// How the last run of the array ended.
#[derive(Clone, Copy)]
struct Ended {
    /// Writes were on their way.
    unclean: bool,
    /// And there is no journal that knows of them.
    resync: bool,
    /// Records may be gone with journal disks.
    lossy: bool,
}

/// What there is to see to at the start.
struct Opening {
    /// It wouldn't be started without force: disks that aren't here may tell of more events.
    outranks: bool,
    /// Members that should be in sync and aren't here.
    absent: Vec<Uuid>,
    ended: Ended,
    /// Disks of the array that are behind.
    stale: Vec<(Candidate, Label)>,
    behind: Behind,
}

/// Members that a crash, or rot, left without the newest copy of something that has two slots. They get
/// it as it is before a newer one is written anywhere: that would go over the only copy that they have.
struct Behind {
    /// Map pages.
    maps: Vec<(Rc<Disk>, Vec<WrittenPage>)>,
    /// The bad-block list.
    lists: Vec<Rc<Disk>>,
}

/// A map page and its generation.
pub(super) type PageCopy = (u64, Box<[u8]>);

/// The newest valid copy of each map page among the members that are in sync; and who lacks which.
async fn load_space(
    label: &ArrayLabel,
    in_sync: &[Rc<Disk>],
) -> Result<(SpaceMap, Vec<(Rc<Disk>, Vec<WrittenPage>)>), RaidError> {
    let blank = SpaceMap::new(label.uuid, &label.geometry, label.data_bytes);
    let pages = blank.pages();
    let mut best: Vec<Option<PageCopy>> = vec![None; pages];
    let mut seen: Vec<Vec<Option<u64>>> = Vec::new();
    for disk in in_sync {
        let slots = read_map_slots(disk, pages).await;
        let mut generations = Vec::with_capacity(pages);
        for (page, (copies, best)) in slots.into_iter().zip(best.iter_mut()).enumerate() {
            let newest =
                newest_copy(copies, label.uuid, page).map_err(|error| RaidError::Format {
                    disk: disk.path.to_string(),
                    reason: error.to_string(),
                })?;
            let generation = newest.as_ref().map(|(generation, _)| *generation);
            generations.push(generation);
            if generation > best.as_ref().map(|(generation, _)| *generation) {
                *best = newest;
            }
        }
        seen.push(generations);
    }
    if let Some(page) = best.iter().position(Option::is_none) {
        return Err(RaidError::Format {
            disk: in_sync
                .first()
                .map_or_else(String::new, |disk| disk.path.to_string()),
            reason: format!(
                "map page {page} of array {} is unreadable on every member: the map of its volumes \
                 is lost; restore from a copy",
                label.name
            ),
        });
    }
    let mut behind = Vec::new();
    for (disk, seen) in in_sync.iter().zip(seen) {
        let lacking = best.iter().enumerate().zip(seen);
        let lacking = lacking.filter_map(|((page, copy), seen)| {
            let (generation, bytes) = copy.as_ref()?;
            let lacks = seen != Some(*generation);
            lacks.then(|| (page, *generation, Buf::copy_of(bytes).freeze()))
        });
        let lacking: Vec<WrittenPage> = lacking.collect();
        if !lacking.is_empty() {
            behind.push((Rc::clone(disk), lacking));
        }
    }
    let copies = best
        .into_iter()
        .map(|copy| copy.map(|(_, bytes)| bytes))
        .collect();
    let space =
        SpaceMap::load(label.uuid, &label.geometry, label.data_bytes, copies).map_err(|error| {
            RaidError::Format {
                disk: in_sync
                    .first()
                    .map_or_else(String::new, |disk| disk.path.to_string()),
                reason: error.to_string(),
            }
        })?;
    Ok((space, behind))
}

/// The valid copy with the highest generation. Damaged copies don't count; a newer format does.
pub(super) fn newest_copy(
    copies: [Option<Box<[u8]>>; 2],
    array: Uuid,
    page: usize,
) -> Result<Option<PageCopy>, PageError> {
    let mut newest: Option<PageCopy> = None;
    for bytes in copies.into_iter().flatten() {
        match page_generation(&bytes, array, page) {
            Ok(generation) if newest.as_ref().is_none_or(|(known, _)| generation > *known) => {
                newest = Some((generation, bytes));
            }
            Err(error @ PageError::Version(_)) => return Err(error),
            _ => {}
        }
    }
    Ok(newest)
}

impl Array {
    /// Serves reads, and touches no disk: nothing is mended, noted or brought up to date.
    async fn open_read_only(self: &Rc<Self>, why: &str) -> Result<(), RaidError> {
        *self.read_only.borrow_mut() = Some(why.to_owned());
        if let Some(sums) = &self.sums {
            sums.set_read_only();
        }
        let has_journal = self.ledger.borrow().label().has_journal();
        if has_journal {
            // Its records are in place, but the headers tell older images.
            let read = Opened::read(self.uuid, self.with_rings(), true, false).await;
            self.throw_out_older_images(&read.map_err(|error| self.journal_error(&error))?);
        }
        self.open.set(true);
        let detail = format!(
            "{} of {}, read only: {why}",
            self.geometry.level(),
            self.geometry.members()
        );
        self.report(EventKind::Started, None, detail);
        Ok(())
    }

    /// Notes who is absent, mends the map, recomputes parity if it must, and starts to serve.
    async fn open_for_business(
        self: &Rc<Self>,
        opening: Opening,
        options: &AssembleOptions,
    ) -> Result<(), RaidError> {
        let ended = opening.ended;
        let AssembleOptions {
            force: forced,
            home_host,
            ..
        } = *options;
        let resync = ended.resync;
        self.dirty.set(ended.unclean);
        self.ledger.borrow_mut().set_clean(!ended.unclean);
        // Before the labels say who is absent: they also say where what the absent miss begins.
        let has_journal = self.ledger.borrow().label().has_journal();
        let opened = if has_journal {
            let disks = self.with_rings();
            let read = Opened::read(self.uuid, disks, !ended.unclean, ended.lossy).await;
            Some(read.map_err(|error| self.journal_error(&error))?)
        } else {
            None
        };
        if let Some(opened) = &opened {
            self.throw_out_older_images(opened);
            self.throw_out_blind_journal_disks(opened);
        }
        let lossy = self.check_journal_copies(ended.unclean, forced)?;
        if lossy && !ended.lossy {
            self.note_price(too_few_copies(&self.journal_disks_lost()));
        }
        let floor = opened.as_ref().map(Opened::floor);
        if let Some(floor) = floor {
            self.load_missed(floor).await;
        }
        let held = self.labels.lock().await;
        // What those that aren't here have at least.
        let newest = self.ledger.borrow().label().generation.saturating_sub(1);
        if self.ledger.borrow().is_uneven() {
            // A crash left some one commit behind: a change of membership would leave them two behind.
            self.commit(&held).await?;
        }
        self.ledger.borrow_mut().set_home_host(home_host);
        self.ledger.borrow_mut().note_returned();
        let changed = self.note_absent(&opening.absent, floor, newest);
        if opening.outranks {
            // After the absences: from the event that comes next here on, whoever is absent and knows of one was
            // used without these.
            self.ledger.borrow_mut().count_events(FORCED_EVENTS);
        }
        let label_event = self.ledger.borrow().label().event_count;
        let is_behind = |witness: &Witness| witness.event_count < label_event;
        if changed || opening.outranks {
            self.commit_event(&held).await?;
            // One more: who isn't here may be the only one to have the label of a commit that was cut off, of an event of the
            // same number, and is not to speak for those who go on without it.
            self.commit_event(&held).await?;
            let missing = self.ledger.borrow().slots_missing();
            if missing > 0 {
                let detail = format!("started with {missing} member(s) missing");
                self.report(EventKind::DegradedArray, None, detail);
            }
        } else {
            self.commit(&held).await?;
            // So does the witness: one that stayed behind would vouch for disks that were thrown out since.
            if options.witness.as_ref().is_some_and(is_behind) {
                self.record_witness().await;
            }
        }
        drop(held);
        let Behind { maps, lists } = opening.behind;
        self.bring_maps_level(&maps).await;
        self.bring_lists_level(&lists).await;
        self.settle().await;
        self.check_unbroken()?;
        if self.space.borrow().is_dirty() {
            self.checkpoint().await.map_err(|_| self.lost_error())?;
            self.flush_all().await.map_err(|_| self.lost_error())?;
        }
        self.settle_losses().await.map_err(|_| self.lost_error())?;
        if let Some(opened) = opened {
            self.open_journal(&opened, ended.unclean, lossy).await?;
        }
        if resync {
            // A write may have reached a member and not its replacement: copy it again.
            self.ledger.borrow().restart_replacements();
            let unsynced = self.resync().await?;
            self.doubtful.set(unsynced.rows > 0);
            if self.has_thrown_out() {
                if !forced {
                    return Err(self.lost_in_resync());
                }
                self.note_price(UNCLEAN_DEGRADED.into());
            }
            if let Some(row) = unsynced.first {
                let why = self.why_doubtful(row);
                if !forced {
                    return Err(self.doubtful_row(why));
                }
                self.note_price(why);
            }
            self.mark_clean().await?;
        }
        self.heal_what_is_nobodys();
        self.settle_losses().await.map_err(|_| self.lost_error())?;
        self.open.set(true);
        self.settle().await;
        self.check_unbroken()?;
        self.report(
            EventKind::Started,
            None,
            format!("{} of {}", self.geometry.level(), self.geometry.members()),
        );
        if self.journal_is_displaced() {
            self.say_on_members();
        }
        // Before spares are looked for: a member that is back needs less than a spare would.
        for (member, label) in opening.stale {
            let Candidate { path, device } = member;
            let back = self.return_by_itself(&path, device, &label).await;
            if let Err(error) = back {
                self.report(EventKind::MemberStale, Some(&path), error.to_string());
            }
            self.check_unbroken()?;
        }
        self.start_idle_work();
        self.start_applying();
        self.kick_sync();
        self.kick_journal_drain();
        self.kick_scrub();
        Ok(())
    }

    fn lost_in_resync(&self) -> RaidError {
        RaidError::NotStarted {
            array: self.name.to_string(),
            reason: UNCLEAN_DEGRADED.into(),
            wait_may_help: false,
            force_may_help: true,
        }
    }

    fn why_doubtful(&self, row: Row) -> String {
        format!(
            "it was stopped in the middle of writes, and row {} (byte {} of the data zones) can't be read from \
             every member: parity can't be trusted to stand in; --force starts it with what it gives, check the \
             data then",
            row.0,
            row.0 * self.geometry.chunk_bytes()
        )
    }

    fn doubtful_row(&self, reason: String) -> RaidError {
        RaidError::NotStarted {
            array: self.name.to_string(),
            reason,
            wait_may_help: false,
            force_may_help: true,
        }
    }

    /// Notes a further thing that a start by force may have cost.
    fn note_price(&self, reason: String) {
        let mut price = self.forced_over.borrow_mut();
        *price = Some(match price.take() {
            Some(before) if before.contains(&reason) => before,
            Some(before) => format!("{before}; {reason}"),
            None => reason,
        });
    }
}

mod absent;
#[cfg(test)]
mod tests;

//! The logs that a set of disks hold, read without starting the array: on incomplete arrays a peer's
//! rebuild wants to know what was prepared.
//!
//! Invariants
//! - Nothing on the disks is changed.
//! - Only disks that the newest label here calls in sync, or journal disks in service, are asked.
//! - What is missing is said: records behind a hole are listed, and whether they are committed is then
//!   only what the rest of the journal says.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cairn_blockdev::Env;
use cairn_blockdev::prepared::{LogId, Record, Seq as LogSeq, Watermarks};
use futures_util::future::LocalBoxFuture;
use uuid::Uuid;

use crate::array::MemberDisk;
use crate::array::disk::Disk;
use crate::array::journal_disks::lost_journal_disks;
use crate::array::probe::{best_label, rank};
use crate::array::watch::Watch;
use crate::error::RaidError;
use crate::journal::open::Opened;
use crate::label::{ArrayLabel, Entry, Label};
use crate::logs::book::Book;
use crate::logs::log::Log;
use crate::member::MemberState;

/// A log as its array's disks have it.
#[derive(Debug, Clone)]
pub struct ListedLog {
    /// Which.
    pub log: LogId,
    /// How far it had come.
    pub watermarks: Watermarks,
    /// Its metadata.
    pub meta: Vec<u8>,
    /// Its untrimmed records, in order.
    pub records: Vec<Record>,
}

/// Lists the logs of the array whose disks these are. Says also whether the disks have all of the
/// journal that was durable: all but R members, and all but R of its journal disks, do.
pub fn list_logs(
    env: &Env,
    disks: Vec<MemberDisk>,
) -> LocalBoxFuture<'_, Result<(Vec<ListedLog>, bool), RaidError>> {
    Box::pin(async move {
        let watch = Watch::new(env);
        let mut found: BTreeMap<Uuid, (Label, Rc<Disk>)> = BTreeMap::new();
        for disk in disks {
            let device = watch.over(&disk.path, &disk.device);
            if let Ok(label) = best_label(&device).await {
                let uuid = label.member_uuid;
                let disk = Disk::new(uuid, disk.path, device, Some(label.layout));
                found.insert(uuid, (label, disk));
            }
        }
        let newest = found.values().map(|(label, _)| &label.array);
        let Some(reference) = newest.max_by_key(|label| rank(label)).cloned() else {
            return Err(cannot("", "no disk with a usable label is here"));
        };
        if !reference.has_journal() {
            return Ok((Vec::new(), true));
        }
        let in_sync: Vec<Rc<Disk>> = found
            .into_values()
            .filter(|(label, disk)| {
                let entry = reference.entry(disk.uuid);
                label.array.event_count + 1 >= reference.event_count
                    && entry.is_some_and(|entry| {
                        matches!(entry.state, MemberState::InSync | MemberState::Journal)
                    })
            })
            .map(|(_, disk)| disk)
            .collect();
        let here: BTreeSet<Uuid> = in_sync.iter().map(|disk| disk.uuid).collect();
        let survey = Opened::survey(reference.uuid, in_sync).await;
        let (opened, unbroken) =
            survey.map_err(|error| cannot(&reference.name, &error.to_string()))?;
        let mut complete = unbroken && are_enough(&reference, &here);
        let mut book = Book::default();
        for record in opened.records() {
            let mut payload = Vec::new();
            if record.entry.payload_len > 0 && is_of_a_log(&record.entry) {
                let Ok(data) = opened.payload(record).await else {
                    complete = false;
                    continue;
                };
                payload.push(data);
            }
            drop(book.take(record.seq, &record.entry, payload));
        }
        book.end_of_replay();
        let listed = book.ids().into_iter().map(|log| ListedLog {
            log,
            watermarks: book.get(log).map(Log::watermarks).unwrap_or_default(),
            meta: book
                .get(log)
                .map_or_else(Vec::new, |log| log.meta().to_vec()),
            records: book.records(log, LogSeq::NONE),
        });
        Ok((listed.collect(), complete))
    })
}

/// Whether whatever was durable has a copy on one of these. What is on none of them leaves no hole either.
fn are_enough(label: &ArrayLabel, here: &BTreeSet<Uuid>) -> bool {
    let geometry = &label.geometry;
    let is_member = |entry: &&Entry| entry.state == MemberState::InSync;
    let members = label.table.iter().filter(is_member);
    let members = members.filter(|entry| here.contains(&entry.uuid)).count();
    let (_, lost) = lost_journal_disks(label, |uuid| here.contains(&uuid));
    members + geometry.redundancy() >= geometry.members() && lost.len() <= geometry.redundancy()
}

fn is_of_a_log(entry: &crate::journal::entry::Entry) -> bool {
    entry.is_prepared() || entry.kind == crate::journal::entry::Kind::Meta
}

fn cannot(array: &str, reason: &str) -> RaidError {
    RaidError::NotStarted {
        array: array.to_owned(),
        reason: format!("its logs can't be listed: {reason}"),
        wait_may_help: true,
        force_may_help: false,
    }
}

//! Exports: made, ended, and brought back when their array runs again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use cairn_api::{
    Changed, ErrorCode, Export, ExportState, ExportVolume, NbdAddress, UBLK, UnexportVolume,
};
use cairn_blockdev::BlockDevice;
use cairn_blockdev::export::nbd::Stop;
use cairn_blockdev::units::usize_of_u32;
use uuid::Uuid;

use super::block::{LOGICAL_BLOCK_BYTES, check_logical_block, check_unused, other_block};
use super::volumes::Found;
use super::{Entry, Run, Snapshot, Supervisor, locked};
use crate::engine::{Engine, EngineHandle};
use crate::events::NewEvent;
use crate::inherited::Inherited;
use crate::kernel_nbd;
use crate::record::{ExportRecord, forget_export, save_export};
use crate::refuse::{self, Answer, confirm, invalid, refuse};
use crate::serving::{Served, Serving, check_address};
use crate::tls::TlsShelf;

/// An export that the operator asked for.
pub(super) struct ExportEntry {
    pub(super) record: ExportRecord,
    /// Why it isn't served although its array runs.
    pub(super) error: Option<String>,
}

impl ExportEntry {
    pub(super) fn new(record: ExportRecord) -> Self {
        Self {
            record,
            error: None,
        }
    }
}

impl Supervisor {
    /// Every export with its state, by volume and address.
    pub(super) fn export_map(&self, snapshots: &[Snapshot]) -> BTreeMap<(Uuid, String), Export> {
        let exports = locked(&self.exports);
        let show = |(key, entry): (&(Uuid, String), &ExportEntry)| {
            let record = &entry.record;
            let snapshot = snapshots
                .iter()
                .find(|s| s.uuid == record.array && s.running);
            let connected = snapshot.and_then(|s| s.connections.get(key).copied());
            let taken = snapshot.is_some_and(|s| s.taken.contains(key));
            let (state, error) = match (&entry.error, snapshot, connected) {
                _ if taken => (ExportState::Failed, Some(super::block::TAKEN.to_owned())),
                (_, _, Some(_)) => (ExportState::Listening, None),
                (Some(error), Some(_), None) => (ExportState::Failed, Some(error.clone())),
                (None, Some(_), None) => (ExportState::Waiting, Some("it is being opened".into())),
                (_, None, None) => (
                    ExportState::Waiting,
                    Some("its array doesn't run".to_owned()),
                ),
            };
            let uri = match &record.ublk {
                Some(block) => super::block::device_path(block),
                None => record
                    .address
                    .parse::<NbdAddress>()
                    .map_or_else(|_| String::new(), |address| self.uri(&address, record)),
            };
            let export = Export {
                volume: record.name.clone(),
                nbd: record.address.clone(),
                uri,
                read_only: record.read_only,
                state,
                connections: u32::try_from(connected.unwrap_or(0)).unwrap_or(u32::MAX),
                error,
            };
            (key.clone(), export)
        };
        exports.iter().map(show).collect()
    }

    /// How clients are told to reach an export: a URI, or the device.
    fn uri(&self, address: &NbdAddress, record: &ExportRecord) -> String {
        let name = &record.name;
        if *address == NbdAddress::Kernel {
            kernel_nbd::device_of(record.volume).unwrap_or_default()
        } else if self.tls.is_required(address) {
            address.tls_uri(name)
        } else {
            address.uri(name)
        }
    }

    /// Every export, by volume and address.
    pub(super) fn export_list(&self, snapshots: &[Snapshot]) -> Vec<Export> {
        let mut list: Vec<Export> = self.export_map(snapshots).into_values().collect();
        list.sort_by(|a, b| (&a.volume, &a.nbd).cmp(&(&b.volume, &b.nbd)));
        list
    }

    /// Serves a volume under an address, now and after every restart.
    pub async fn export_volume(&self, name: &str, request: ExportVolume) -> Answer<Changed> {
        let found = self.find_volume(name).await?;
        let _within = found.entry.changes.lock().await;
        self.check_running()?;
        let (request, remark) = self.choose_block(&found, request).await?;
        check_logical_block(request.logical_block)?;
        let mut changed = if request.ublk {
            self.export_block(&found, &request).await?
        } else {
            self.export_nbd(&found, &request).await?
        };
        changed.warnings.extend(remark);
        Ok(changed)
    }

    async fn export_nbd(&self, found: &Found, request: &ExportVolume) -> Answer<Changed> {
        let Found {
            entry,
            engine,
            info,
        } = found;
        let name = info.name.clone();
        let address: NbdAddress = request
            .nbd
            .parse()
            .map_err(|why: String| refuse(ErrorCode::ExportAddress, why, ""))?;
        let is_kernel = address == NbdAddress::Kernel;
        if request.logical_block.is_some() && !is_kernel {
            return Err(invalid(
                "a logical block is a block device's: NBD clients choose theirs",
                "leave it out, or export the volume as a block device",
            ));
        }
        self.check_one_writer(info.uuid, &address.to_string(), request.read_only)?;
        let text = address.to_string();
        let remark = self
            .check_left(engine, (info.uuid, &name), &text, request.read_only)
            .await?;
        let key = (info.uuid, address.to_string());
        let present = locked(&self.exports)
            .get(&key)
            .map(|export| (export.record.clone(), export.error.is_none()));
        // What has failed, or was ended by somebody, is made again as it was.
        let before = present.as_ref().and_then(|(record, _)| record.kernel_block);
        let present = match present {
            Some(_) if entry.snapshot().await.taken.contains(&key) => None,
            present => present,
        };
        let is_alike = |record: &ExportRecord| {
            let block = record.kernel_block.unwrap_or(LOGICAL_BLOCK_BYTES);
            record.read_only == request.read_only
                && request.logical_block.is_none_or(|asked| asked == block)
        };
        match &present {
            Some((record, true)) if is_alike(record) => {
                return Ok(Changed {
                    dry_run: request.dry_run,
                    summary: format!("volume {name} is exported at {address} already"),
                    volume: Some(self.volume(&info.uuid.to_string()).await?),
                    ..Changed::default()
                });
            }
            Some((record, true)) => {
                let how = if record.read_only == request.read_only {
                    "with another logical block"
                } else {
                    "in the other mode"
                };
                let option = if is_kernel {
                    "--kernel-nbd".to_owned()
                } else {
                    format!("--nbd {address}")
                };
                return Err(refuse(
                    ErrorCode::ExportAddress,
                    format!("volume {name} is exported at {address} {how}"),
                    format!("`cairn volume unexport {name} {option}` first"),
                ));
            }
            _ => {}
        }
        let other = locked(&self.exports)
            .iter()
            .find(|((volume, at), _)| *at == key.1 && *volume != key.0)
            // Every volume can be a device of its own.
            .filter(|_| !is_kernel)
            .map(|(_, export)| export.record.name.clone());
        if let Some(other) = other {
            return Err(refuse(
                ErrorCode::ExportAddress,
                format!("{address} is where volume {other} is exported"),
                "choose another address: each export has a socket or port of its own",
            ));
        }
        check_address(&address, &self.tls, &self.inherited)
            .map_err(|why| refuse(ErrorCode::ExportAddress, why, ""))?;
        let block = request.logical_block.or(before);
        let mut record = ExportRecord {
            array: entry.uuid(),
            volume: info.uuid,
            name: name.clone(),
            address: address.to_string(),
            read_only: request.read_only,
            ublk: None,
            kernel_block: is_kernel.then(|| block.unwrap_or(LOGICAL_BLOCK_BYTES)),
        };
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!("would export volume {name} at {address}"),
                warnings: remark.into_iter().collect(),
                ..Changed::default()
            });
        }
        let served = self.serve(engine, &record).await;
        record.kernel_block = served.map_err(|why| refuse(ErrorCode::ExportAddress, why, ""))?;
        // Served first, so that an address that can't be is never remembered.
        if let Err(error) = save_export(self.store.as_ref(), &record).await {
            self.end(Some(engine), &record).await?;
            return Err(refuse::store(&error));
        }
        let kept = record
            .kernel_block
            .and_then(|has| other_block(request.logical_block, has));
        let served = record.clone();
        locked(&self.exports).insert(key, ExportEntry::new(record));
        self.events.record(
            NewEvent::new("VolumeExported", format!("at {address}"))
                .array(&entry.name())
                .volume(&name),
        );
        Ok(Changed {
            changed: true,
            summary: format!("exported volume {name}: {}", self.uri(&address, &served)),
            volume: Some(self.volume(&info.uuid.to_string()).await?),
            warnings: remark.into_iter().chain(kept).collect(),
            ..Changed::default()
        })
    }

    /// Ends exports of a volume, after what their clients have in flight is answered.
    pub async fn unexport_volume(&self, name: &str, request: UnexportVolume) -> Answer<Changed> {
        let (entry, records) = self.exports_named(name).await?;
        let _within = match &entry {
            Some(entry) => Some(entry.changes.lock().await),
            None => None,
        };
        self.check_running()?;
        if let Some(entry) = &entry
            && matches!(entry.run(), Run::Starting)
        {
            // What it brings back would come after what is ended here.
            entry.running()?;
        }
        let wanted = match &request.nbd {
            None => None,
            Some(text) if text == UBLK => Some(text.clone()),
            Some(text) => {
                let parsed: Result<NbdAddress, String> = text.parse();
                let address = parsed.map_err(|why| invalid(why, "see `cairn volume show`"))?;
                Some(address.to_string())
            }
        };
        let ending: Vec<ExportRecord> = records
            .into_iter()
            .filter(|record| wanted.as_ref().is_none_or(|at| *at == record.address))
            .collect();
        let (Some(first), Some(addresses)) = (ending.first(), join(&ending)) else {
            return Err(refuse(
                ErrorCode::UnknownExport,
                match &wanted {
                    Some(at) => format!("volume {name} isn't exported at {at}"),
                    None => format!("volume {name} isn't exported"),
                },
                "`cairn volume list` shows the exports",
            ));
        };
        let name = first.name.clone();
        let clients = match &entry {
            None => 0,
            Some(entry) => {
                let connections = entry.snapshot().await.connections;
                // Whoever uses a block device is named, and force is asked for, not yes.
                let over_nbd = ending.iter().filter(|record| record.ublk.is_none());
                let count = |record: &ExportRecord| {
                    // The kernel's sockets are no clients: who uses the device is asked below.
                    if is_kernel(record) {
                        return 0;
                    }
                    let key = (record.volume, record.address.clone());
                    connections.get(&key).copied().unwrap_or(0)
                };
                over_nbd.map(count).sum()
            }
        };
        for record in &ending {
            let user = match &record.ublk {
                Some(block) => super::block::user_of(block).await,
                None if is_kernel(record) => kernel_nbd::user_of(record.volume).await,
                None => None,
            };
            check_unused(&name, user, request.force)?;
        }
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: clients > 0,
                summary: format!("would end the export of volume {name} at {addresses}"),
                ..Changed::default()
            });
        }
        if clients > 0 && !request.yes {
            return Err(confirm(format!(
                "{clients} clients are connected to volume {name}"
            )));
        }
        for record in &ending {
            let engine = entry.as_ref().and_then(|entry| entry.engine());
            self.end(engine.as_ref(), record).await?;
            forget_export(self.store.as_ref(), record.volume, &record.address)
                .await
                .map_err(|error| refuse::store(&error))?;
            locked(&self.exports).remove(&(record.volume, record.address.clone()));
            self.events.record(
                NewEvent::new("VolumeUnexported", format!("from {}", record.address)).volume(&name),
            );
        }
        Ok(Changed {
            changed: true,
            summary: format!("ended the export of volume {name} at {addresses}"),
            volume: self.volume(&first.volume.to_string()).await.ok(),
            ..Changed::default()
        })
    }

    /// Exports remembered under a volume's name or UUID. The volume itself may be away, with its
    /// array; its exports can be ended all the same.
    async fn exports_named(&self, name: &str) -> Answer<(Option<Arc<Entry>>, Vec<ExportRecord>)> {
        let known = |uuid: Option<Uuid>| -> Vec<ExportRecord> {
            let exports = locked(&self.exports);
            let records = exports.values().map(|export| export.record.clone());
            records
                .filter(|r| match uuid {
                    Some(uuid) => r.volume == uuid,
                    None => r.name == name || r.volume.to_string() == name,
                })
                .collect()
        };
        match self.find_volume(name).await {
            Ok(found) => Ok((Some(found.entry), known(Some(found.info.uuid)))),
            Err(detail) if detail.code == ErrorCode::UnknownVolume => {
                let records = known(None);
                let Some(first) = records.first() else {
                    return Err(detail);
                };
                let mut entries = self.entries().into_iter();
                let entry = entries.find(|entry| entry.uuid() == first.array);
                Ok((entry, records))
            }
            Err(detail) => Err(detail),
        }
    }

    /// Brings back the exports of an array that has just been started.
    pub(super) async fn restore_exports(&self, array: Uuid, engine: &EngineHandle) {
        for record in self.exports_of(array) {
            let (volume, name) = (record.volume, record.name.as_str());
            let alone = self
                .check_left(engine, (volume, name), &record.address, record.read_only)
                .await;
            let restored = match (alone, &record.ublk) {
                (Err(why), _) => Err(format!("{}: {}", why.message, why.hint)),
                (Ok(remark), block) => {
                    if let Some(remark) = remark {
                        tracing::warn!(volume = name, "{remark}");
                    }
                    match block {
                        Some(_) => self.restore_block(engine, &record).await,
                        None => self.restore_nbd(engine, &record).await,
                    }
                }
            };
            let error = restored.err();
            if let Some(error) = &error {
                tracing::error!(volume = record.name, "not exported: {error}");
                self.events
                    .record(NewEvent::new("ExportFailed", error.clone()).volume(&record.name));
            }
            let key = (record.volume, record.address.clone());
            if let Some(entry) = locked(&self.exports).get_mut(&key) {
                entry.error = error;
            }
        }
        self.tell_leftovers(array, engine).await;
    }

    async fn restore_nbd(
        &self,
        engine: &EngineHandle,
        record: &ExportRecord,
    ) -> Result<(), String> {
        let kernel_block = self.serve(engine, record).await?;
        let record = record.clone();
        self.correct(ExportRecord {
            kernel_block,
            ..record
        })
        .await;
        Ok(())
    }

    /// Serves an export; the answer is the logical block of the kernel's device, if that is what it is.
    async fn serve(
        &self,
        engine: &EngineHandle,
        record: &ExportRecord,
    ) -> Result<Option<u32>, String> {
        let record = record.clone();
        let connections_max = usize_of_u32(self.config().nbd.connections_max);
        let (tls, inherited) = (self.tls.clone(), self.inherited.clone());
        let doors = Doors {
            connections_max,
            tls,
            inherited,
        };
        let served = engine
            .call(move |engine| async move { serve(&engine, &record, doors).await })
            .await;
        served.map_err(|detail| detail.message)?
    }

    /// Ends an export for good, with its device if that is what it is: also where its array doesn't run.
    async fn end(&self, engine: Option<&EngineHandle>, record: &ExportRecord) -> Answer<()> {
        if record.ublk.is_some() {
            return self.remove_block(engine, record).await;
        }
        if is_kernel(record) {
            self.remove_kernel(engine, record).await?;
        }
        match engine {
            Some(engine) => self.unserve(engine, record, Stop::Unexport).await,
            None => Ok(()),
        }
    }

    async fn unserve(&self, engine: &EngineHandle, record: &ExportRecord, how: Stop) -> Answer<()> {
        let key = (record.volume, record.address.clone());
        engine
            .call(move |engine| async move {
                let serving = engine.exports.borrow_mut().remove(&key);
                if let Some(serving) = serving
                    && !serving.stop(how).await
                {
                    tracing::warn!(
                        address = key.1,
                        "clients of this export didn't drain in time"
                    );
                }
            })
            .await
    }
}

pub(super) fn is_kernel(record: &ExportRecord) -> bool {
    record.address.parse() == Ok(NbdAddress::Kernel)
}

/// What an export's listener needs besides its volume.
struct Doors {
    connections_max: usize,
    tls: TlsShelf,
    inherited: Inherited,
}

fn join(records: &[ExportRecord]) -> Option<String> {
    let addresses: Vec<&str> = records.iter().map(|r| r.address.as_str()).collect();
    (!addresses.is_empty()).then(|| addresses.join(" and "))
}

/// The volume that a record is about, on the engine's thread.
pub(super) fn open(
    engine: &Engine,
    record: &ExportRecord,
) -> Result<(String, Rc<dyn BlockDevice>), String> {
    let array = engine.array().map_err(|detail| detail.message)?;
    // By identity: the name is only what it was called when it was exported.
    let volumes = array.volumes();
    let volume = volumes
        .iter()
        .find(|volume| volume.uuid == record.volume)
        .ok_or_else(|| format!("volume {} is no longer in its array", record.name))?;
    let device = array
        .open_volume(&volume.name)
        .map_err(|error| error.to_string())?;
    Ok((volume.name.clone(), device))
}

/// Whether it was asked for, or its array takes no writes.
pub(super) fn is_read_only(engine: &Engine, record: &ExportRecord) -> bool {
    let array = engine.array.borrow();
    record.read_only || array.as_ref().is_some_and(|array| array.is_read_only())
}

/// On the engine's thread.
async fn serve(
    engine: &Engine,
    record: &ExportRecord,
    doors: Doors,
) -> Result<Option<u32>, String> {
    let address: NbdAddress = record.address.parse()?;
    let (name, device) = open(engine, record)?;
    let served = Served {
        name,
        device,
        read_only: is_read_only(engine, record),
        connections_max: doors.connections_max,
        tls: doors.tls,
        inherited: doors.inherited,
    };
    let serving = if address == NbdAddress::Kernel {
        let block = record.kernel_block.unwrap_or(LOGICAL_BLOCK_BYTES);
        Serving::attach(engine, record.volume, block, served).await?
    } else {
        Serving::start(engine, &address, served)?
    };
    let key = (record.volume, record.address.clone());
    let block = serving.block();
    engine.exports.borrow_mut().insert(key, Rc::new(serving));
    Ok(block)
}

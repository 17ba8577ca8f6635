//! Volumes: list, show, make, resize, delete.

use std::sync::Arc;

use cairn_api::{
    Changed, CreateVolume, DeleteVolume, ErrorCode, ResizeVolume, Volume, validate_name,
};
use cairn_raid::VolumeInfo;
use uuid::Uuid;

use super::{Entry, Snapshot, Supervisor};
use crate::engine::EngineHandle;
use crate::events::NewEvent;
use crate::refuse::{self, Answer, confirm, invalid, refuse, unknown_volume};

/// Volumes have whole blocks of this size, so that every client can use the last byte.
const SIZE_UNIT_BYTES: u64 = 4096;

/// A volume that was found by its name.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    pub(super) engine: EngineHandle,
    pub(super) info: VolumeInfo,
}

impl Supervisor {
    /// Every volume of a running array.
    pub async fn volumes(&self) -> Vec<Volume> {
        self.volume_list(&self.snapshots().await)
    }

    pub(super) fn volume_list(&self, snapshots: &[Snapshot]) -> Vec<Volume> {
        let exports = self.export_map(snapshots);
        let mut volumes = Vec::new();
        for snapshot in snapshots {
            for info in &snapshot.volumes {
                let exported = exports
                    .iter()
                    .filter(|((volume, _), _)| *volume == info.uuid);
                volumes.push(Volume {
                    name: info.name.clone(),
                    uuid: info.uuid.to_string(),
                    array: snapshot.array.name.clone(),
                    size_bytes: info.size_bytes,
                    allocated_bytes: info.allocated_bytes,
                    exports: exported.map(|(_, export)| export.clone()).collect(),
                });
            }
        }
        volumes.sort_by(|a, b| (&a.name, &a.array).cmp(&(&b.name, &b.array)));
        volumes
    }

    /// One volume.
    pub async fn volume(&self, name: &str) -> Answer<Volume> {
        let found = self.find_volume(name).await?;
        self.shown_volume(found.info.uuid).await
    }

    async fn shown_volume(&self, uuid: Uuid) -> Answer<Volume> {
        let uuid = uuid.to_string();
        let mut volumes = self.volumes().await.into_iter();
        volumes
            .find(|volume| volume.uuid == uuid)
            .ok_or_else(|| unknown_volume(&uuid))
    }

    /// The volume of that name or UUID.
    pub(super) async fn find_volume(&self, name: &str) -> Answer<Found> {
        let mut found = Vec::new();
        for entry in self.entries() {
            let snapshot = entry.snapshot().await;
            let Some(engine) = entry.engine() else {
                continue;
            };
            for info in snapshot.volumes {
                if info.name == name || info.uuid.to_string() == name {
                    found.push(Found {
                        entry: Arc::clone(&entry),
                        engine: engine.clone(),
                        info,
                    });
                }
            }
        }
        match (found.pop(), found.pop()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(unknown_volume(name)),
            // Names are unique when volumes are made; an array from elsewhere may bring one along.
            (Some(one), Some(other)) => Err(refuse(
                ErrorCode::InvalidArgument,
                format!(
                    "arrays {} and {} both have a volume called {name:?}",
                    one.entry.name(),
                    other.entry.name()
                ),
                format!("use a UUID: {} or {}", one.info.uuid, other.info.uuid),
            )),
        }
    }

    /// Makes a volume.
    pub async fn create_volume(&self, request: CreateVolume) -> Answer<Changed> {
        let entry = self.find(&request.array)?;
        let _within = entry.changes.lock().await;
        self.check_running()?;
        let engine = entry.running()?;
        let (name, size_bytes) = (request.name.clone(), request.size_bytes);
        validate_name(&name).map_err(|why| invalid(why, "choose another name"))?;
        check_size(size_bytes)?;
        match self.find_volume(&name).await {
            Err(detail) if detail.code == ErrorCode::UnknownVolume => {}
            _ => {
                return Err(refuse(
                    ErrorCode::NameTaken,
                    format!("a volume called {name:?} is there already"),
                    "choose another name, or `cairn volume resize` it",
                ));
            }
        }
        let snapshot = entry.snapshot().await;
        let warnings = overcommit(&snapshot, 0, size_bytes);
        let array = snapshot.array.name;
        let what = format!("volume {name} of {size_bytes} bytes in array {array}");
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!("would make {what}"),
                warnings,
                ..Changed::default()
            });
        }
        let asked = name.clone();
        let info = engine
            .call(move |engine| async move {
                let made = engine.array()?.create_volume(&asked, size_bytes).await;
                made.map_err(|error| refuse::raid(&error))
            })
            .await??;
        self.events.record(
            NewEvent::new("VolumeCreated", what.clone())
                .array(&array)
                .volume(&name),
        );
        Ok(Changed {
            changed: true,
            summary: format!("made {what}"),
            warnings,
            volume: Some(self.shown_volume(info.uuid).await?),
            ..Changed::default()
        })
    }

    /// Changes a volume's size.
    pub async fn resize_volume(&self, name: &str, request: ResizeVolume) -> Answer<Changed> {
        let found = self.find_volume(name).await?;
        let _within = found.entry.changes.lock().await;
        self.check_running()?;
        let size_bytes = request.size_bytes;
        check_size(size_bytes)?;
        let Found {
            entry,
            engine,
            info,
        } = &found;
        let name = info.name.clone();
        let old = info.size_bytes;
        if size_bytes == old {
            return Ok(Changed {
                dry_run: request.dry_run,
                summary: format!("volume {name} has {old} bytes already"),
                volume: Some(self.shown_volume(info.uuid).await?),
                ..Changed::default()
            });
        }
        let shrinks = size_bytes < old;
        let exported = self.exports_of(entry.uuid());
        if shrinks && let Some(export) = exported.iter().find(|e| e.volume == info.uuid) {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!(
                    "volume {name} is exported at {}, and clients of a device that shrinks lose data",
                    export.address
                ),
                format!("`cairn volume unexport {name}` first"),
            ));
        }
        if shrinks {
            // Not even with yes: a file system on it doesn't know.
            return Err(invalid(
                format!(
                    "volume {name} has {old} bytes and doesn't shrink to {size_bytes}: what lies \
                     past the new end would be lost"
                ),
                "make a smaller volume and copy what you need to it",
            ));
        }
        let mut warnings = overcommit(&entry.snapshot().await, old, size_bytes);
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!("would change volume {name} from {old} to {size_bytes} bytes"),
                warnings,
                ..Changed::default()
            });
        }
        let asked = name.clone();
        engine
            .call(move |engine| async move {
                let resized = engine.array()?.resize_volume(&asked, size_bytes).await;
                resized.map_err(|error| refuse::raid(&error))
            })
            .await??;
        warnings.extend(self.grow_block(engine, info.uuid, &name).await);
        let summary = format!("changed volume {name} from {old} to {size_bytes} bytes");
        self.events.record(
            NewEvent::new("VolumeResized", summary.clone())
                .array(&entry.name())
                .volume(&name),
        );
        Ok(Changed {
            changed: true,
            summary,
            warnings,
            volume: Some(self.shown_volume(info.uuid).await?),
            ..Changed::default()
        })
    }

    /// Deletes a volume and its data.
    pub async fn delete_volume(&self, name: &str, request: DeleteVolume) -> Answer<Changed> {
        let found = self.find_volume(name).await?;
        let _within = found.entry.changes.lock().await;
        self.check_running()?;
        let Found {
            entry,
            engine,
            info,
        } = &found;
        let name = info.name.clone();
        let exported = self.exports_of(entry.uuid());
        if let Some(export) = exported.iter().find(|export| export.volume == info.uuid) {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!("volume {name} is exported at {}", export.address),
                format!("`cairn volume unexport {name}` first"),
            ));
        }
        let what = format!(
            "volume {name} of {} bytes, {} of them allocated",
            info.size_bytes, info.allocated_bytes
        );
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: true,
                summary: format!("would delete {what}"),
                ..Changed::default()
            });
        }
        if !request.yes {
            return Err(confirm(format!("this deletes {what}, and its data")));
        }
        let asked = name.clone();
        engine
            .call(move |engine| async move {
                let deleted = engine.array()?.delete_volume(&asked).await;
                deleted.map_err(|error| refuse::raid(&error))
            })
            .await??;
        self.events.record(
            NewEvent::new("VolumeDeleted", what.clone())
                .array(&entry.name())
                .volume(&name),
        );
        Ok(Changed {
            changed: true,
            summary: format!("deleted {what}"),
            ..Changed::default()
        })
    }
}

fn check_size(size_bytes: u64) -> Answer<()> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SIZE_UNIT_BYTES) {
        return Err(invalid(
            format!("a volume of {size_bytes} bytes can't be"),
            format!("give a size above 0 that is a multiple of {SIZE_UNIT_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// Says so if the volumes together become larger than their array.
fn overcommit(snapshot: &Snapshot, old_bytes: u64, new_bytes: u64) -> Vec<String> {
    let array = &snapshot.array;
    let sizes = snapshot.volumes.iter().map(|v| v.size_bytes);
    let provisioned = sizes.fold(0, u64::saturating_add);
    let after = provisioned
        .saturating_sub(old_bytes)
        .saturating_add(new_bytes);
    if after <= array.size_bytes || new_bytes <= old_bytes || array.size_bytes == 0 {
        return Vec::new();
    }
    let percent = u128::from(after) * 100 / u128::from(array.size_bytes);
    vec![format!(
        "array {} is overcommitted to {percent} %: its volumes have {after} bytes together, it holds \
         {}; when it is full, writes get \"no space left\"",
        array.name, array.size_bytes
    )]
}

//! Ending an array for good, running or not.
//!
//! Invariants
//! - From the first label that goes until the array is forgotten its record says so, and it is never
//!   started by itself: a crash in between leaves an array that is shown and can be destroyed again.
//! - Labels go from disks that bear them, and that this host owns.

use std::path::PathBuf;

use cairn_api::{Changed, DestroyArray, ErrorCode};
use uuid::Uuid;

use super::{Entry, Run, Supervisor};
use crate::events::NewEvent;
use crate::looking::{self, wipe};
use crate::refuse::{self, Answer, confirm, refuse};

impl Supervisor {
    /// Ends an array for good.
    pub async fn destroy_array(&self, name: &str, request: DestroyArray) -> Answer<Changed> {
        let _changes = self.changes.lock().await;
        self.check_running()?;
        let entry = self.find(name)?;
        let name = entry.name();
        let uuid = entry.uuid();
        // From the look at its exports on: one that was asked for before is seen, and one that is asked for now waits.
        let within = entry.changes.lock().await;
        let exported = self.exports_of(uuid);
        if let Some(export) = exported.first() {
            return Err(refuse(
                ErrorCode::ArrayBusy,
                format!(
                    "array {name} has exported volumes: {} at {}{}",
                    export.name,
                    export.address,
                    match exported.len() {
                        1 => String::new(),
                        n => format!(", and {} more", n - 1),
                    }
                ),
                format!("`cairn volume unexport {}` first", export.name),
            ));
        }
        let snapshot = entry.snapshot().await;
        let loses = if snapshot.running {
            format!(
                "array {name} with {} volumes and {} allocated bytes",
                snapshot.volumes.len(),
                snapshot.array.space.allocated_bytes
            )
        } else {
            format!("array {name}, which doesn't run, with the labels of its disks that are found")
        };
        if request.dry_run {
            return Ok(Changed {
                dry_run: true,
                changed: true,
                needs_yes: true,
                summary: format!("would destroy {loses}"),
                array: Some(snapshot.array),
                ..Changed::default()
            });
        }
        if !request.yes {
            return Err(confirm(format!("this destroys {loses}")));
        }
        // Known before the first label goes: a crash from here on must not bring back half of it.
        entry.update(|record| record.destroying = true);
        self.remember(&entry).await;
        let runs = entry.engine().is_some();
        if runs {
            self.destroy_running(&entry).await?;
        } else {
            entry.set_run(Run::half_destroyed(&name));
        }
        let warnings = match self.wipe_labels(uuid).await {
            // What is left are disks that had failed before.
            Err(left) if runs => vec![format!("a label stays: {left}")],
            wiped => wiped?,
        };
        self.forget(uuid).await;
        drop(within);
        self.events
            .record(NewEvent::new("ArrayDestroyed", "destroyed by request").array(&name));
        Ok(Changed {
            changed: true,
            summary: format!("destroyed {loses}"),
            warnings,
            ..Changed::default()
        })
    }

    /// Stops a running array and removes its labels.
    async fn destroy_running(&self, entry: &Entry) -> Answer<()> {
        let engine = entry.running()?;
        let destroyed = engine
            .call(|engine| async move {
                let array = engine.array()?;
                array.destroy().await.map_err(|error| refuse::raid(&error))
            })
            .await;
        engine.shut_down().await;
        entry.set_run(Run::half_destroyed(&entry.name()));
        destroyed?
    }

    /// Removes the labels of an array that doesn't run from the disks that are found. What another
    /// host has taken over is left alone. Gives what there is to warn of.
    async fn wipe_labels(&self, uuid: Uuid) -> Answer<Vec<String>> {
        let mut found = self.scan(Vec::new()).await;
        let Some(array) = found.remove(&uuid) else {
            return Ok(Vec::new());
        };
        if array.home_host != self.host.uuid {
            return Ok(vec![format!(
                "the labels on its disks stay: they name another host, {}, which may use them",
                array.home_host
            )]);
        }
        let paths: Vec<PathBuf> = array.disks.into_iter().map(|(path, _)| path).collect();
        self.scanner
            .call(move |engine| async move {
                // All are open before the first label goes.
                let mut disks = Vec::new();
                for path in &paths {
                    let disk = looking::open(&engine, path).await;
                    disks.push(disk.map_err(|error| looking::open_error(&error))?);
                }
                for disk in &disks {
                    if looking::is_of(disk, uuid).await {
                        wipe(disk).await?;
                    }
                }
                Ok(Vec::new())
            })
            .await?
    }
}

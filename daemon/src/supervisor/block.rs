//! Volumes as block devices of this host: made, taken up again, resized, removed.

use std::path::PathBuf;
use std::rc::Rc;

use cairn_api::{Changed, ErrorCode, ExportVolume, KERNEL, NbdAddress, UBLK};
use cairn_blockdev::export::ublk::{self, Grown, Identity, Origin, UblkError};
use uuid::Uuid;

use super::exports::{ExportEntry, is_kernel, is_read_only, open};
use super::volumes::Found;
use super::{Supervisor, locked};
use crate::block::BlockServing;
use crate::claim::claimant;
use crate::engine::EngineHandle;
use crate::events::NewEvent;
use crate::kernel_nbd;
use crate::record::{ExportRecord, UblkRecord, save_export};
use crate::refuse::{self, Answer, invalid, refuse};
use crate::serving::DRAIN_TIMEOUT;

/// Why an export that was served has no device any more.
pub(super) const TAKEN: &str = "its block device was removed by somebody else";

/// Logical block of a device that nobody has asked for by its block: the unit that volumes are checksummed in.
pub(super) const LOGICAL_BLOCK_BYTES: u32 = 4096;

/// Refuses a logical block that a device can't have.
pub(super) fn check_logical_block(asked: Option<u32>) -> Answer<()> {
    match asked {
        None | Some(512 | 4096) => Ok(()),
        Some(bytes) => Err(invalid(
            format!("a logical block of {bytes} bytes can't be"),
            "512 or 4096",
        )),
    }
}

/// What is said of a device that was left with another logical block than was asked for.
pub(super) fn other_block(asked: Option<u32>, has: u32) -> Option<String> {
    let differs = asked.is_some_and(|asked| asked != has);
    differs.then(|| {
        format!(
            "the device was there already, left by an earlier daemon: its logical block stays {has} bytes, by \
             which what is on it goes"
        )
    })
}

/// Where the device is; empty if that isn't known.
pub(super) fn device_path(block: &UblkRecord) -> String {
    let path = block.number.map(ublk::path);
    path.map_or_else(String::new, |path| path.display().to_string())
}

/// Who uses the device, as a sentence.
pub(super) async fn user_of(block: &UblkRecord) -> Option<String> {
    let number = block.number?;
    let asked = tokio::task::spawn_blocking(move || ublk::holder(number));
    match asked.await.ok().flatten() {
        Some(holder) => Some(holder),
        None => claimant(ublk::path(number)).await,
    }
}

/// Refuses to take away a device that somebody uses, unless forced.
pub(super) fn check_unused(name: &str, user: Option<String>, force: bool) -> Answer<()> {
    match user {
        Some(user) if !force => Err(refuse(
            ErrorCode::DiskInUse,
            format!("volume {name} is in use: {user}"),
            "end that first (umount, swapoff, stop the program); with --force it goes all the same, \
             and what isn't written yet is lost",
        )),
        _ => Ok(()),
    }
}

impl Supervisor {
    /// Refuses a second way to write to a volume where one of the two is a block device: the host
    /// caches what it reads and writes there, and doesn't hear of others.
    pub(super) fn check_one_writer(
        &self,
        volume: Uuid,
        address: &str,
        read_only: bool,
    ) -> Answer<()> {
        let exports = locked(&self.exports);
        let is_block = address == UBLK || address.parse() == Ok(NbdAddress::Kernel);
        let other = exports.values().map(|export| &export.record).find(|other| {
            other.volume == volume
                && other.address != address
                && (is_block || other.ublk.is_some() || is_kernel(other))
                && !(read_only && other.read_only)
        });
        match other {
            None => Ok(()),
            Some(other) => Err(refuse(
                ErrorCode::ExportAddress,
                format!(
                    "volume {} is exported at {}: beside a block device, which the host caches, \
                     nobody else may write, nor read what is being written",
                    other.name, other.address
                ),
                format!(
                    "`cairn volume unexport {}` first, or export it read-only both ways",
                    other.name
                ),
            )),
        }
    }

    /// Refuses to export a volume beside a block device of it that this daemon knows nothing of, as its state
    /// directory was lost, or is an older one: what waits there would be written later, over what is written meanwhile.
    /// Who doesn't write may: what waits is carried out by a device that is written to alone. The answer is a
    /// remark, where it can't be looked.
    pub(super) async fn check_left(
        &self,
        engine: &EngineHandle,
        (volume, name): (Uuid, &str),
        address: &str,
        read_only: bool,
    ) -> Answer<Option<String>> {
        if read_only {
            return Ok(None);
        }
        // What is known here is looked at by `check_one_writer`.
        let is_known = |place: &str| {
            address == place || locked(&self.exports).contains_key(&(volume, place.to_owned()))
        };
        let (of_ublk, of_kernel) = (is_known(UBLK), is_known(KERNEL));
        let mut left = None;
        let mut remark = None;
        if !of_kernel {
            let device = tokio::task::spawn_blocking(move || kernel_nbd::device_of(volume)).await;
            left = device.ok().flatten().map(|path| (path, "--kernel-nbd"));
        }
        if left.is_none() && !of_ublk {
            let asked = engine.call(move |_| async move {
                // Without devices nothing is asked, so that it fails for nobody who has no ublk.
                let left = ublk::leftovers(&[Identity::of(volume)]).await;
                left.map_err(|error| error.to_string())
            });
            match asked.await? {
                Ok(numbers) => {
                    let path = |number| ublk::path(number).display().to_string();
                    left = numbers.first().map(|(_, number)| (path(*number), "--ublk"));
                }
                Err(error) => {
                    tracing::info!(volume = name, "whose this host's ublk devices are: {error}");
                    remark = Some(
                        "this host has ublk devices, and whose they are can't be asked: if an earlier daemon has \
                         left one of this volume, what waits there would be written over what is written meanwhile"
                            .to_owned(),
                    );
                }
            }
        }
        let is_exported = locked(&self.exports).keys().any(|(of, _)| *of == volume);
        match left {
            None => Ok(remark),
            Some((path, option)) => Err(refuse(
                ErrorCode::ExportAddress,
                format!(
                    "volume {name} is {path} already, left by an earlier daemon, or still in use after its \
                     export's end: what waits there would be written over what is written meanwhile"
                ),
                format!(
                    "end what uses it; or {} takes it up, and `cairn volume unexport {name}` ends it then",
                    taking_up(name, option, is_exported)
                ),
            )),
        }
    }

    /// Makes a volume a block device of this host, now and after every restart.
    pub(super) async fn export_block(
        &self,
        found: &Found,
        request: &ExportVolume,
    ) -> Answer<Changed> {
        let Found {
            entry,
            engine,
            info,
        } = found;
        let name = info.name.clone();
        if !request.nbd.is_empty() {
            return Err(invalid(
                "an export is either at an NBD address or a block device",
                "export twice, read-only",
            ));
        }
        let key = (info.uuid, UBLK.to_owned());
        let present = locked(&self.exports)
            .get(&key)
            .map(|export| (export.record.clone(), export.error.is_none()));
        let mut record = ExportRecord {
            array: entry.uuid(),
            volume: info.uuid,
            name: name.clone(),
            address: UBLK.to_owned(),
            read_only: request.read_only,
            ublk: Some(UblkRecord {
                number: None,
                logical_block: request.logical_block.unwrap_or(LOGICAL_BLOCK_BYTES),
            }),
            kernel_block: None,
        };
        if let Some((old, served)) = present {
            let block = old.ublk.as_ref();
            let differs = |asked| block.is_some_and(|block| block.logical_block != asked);
            if old.read_only != request.read_only || request.logical_block.is_some_and(differs) {
                return Err(refuse(
                    ErrorCode::ExportAddress,
                    format!("volume {name} is a block device already, of another kind"),
                    format!("`cairn volume unexport {name} --ublk` first"),
                ));
            }
            let taken = entry.snapshot().await.taken.contains(&key);
            if served && !taken {
                let path = block.map(device_path).unwrap_or_default();
                return Ok(Changed {
                    dry_run: request.dry_run,
                    summary: format!("volume {name} is exported already: {path}"),
                    volume: Some(self.volume(&info.uuid.to_string()).await?),
                    ..Changed::default()
                });
            }
            record = old;
        }
        self.check_one_writer(info.uuid, UBLK, request.read_only)?;
        self.check_left(engine, (info.uuid, &name), UBLK, request.read_only)
            .await?;
        if request.dry_run {
            // As far as can be told without making one.
            let probed = engine.call(|_| async { ublk::probe().await.map_err(|e| e.to_string()) });
            probed.await?.map_err(unusable)?;
            return Ok(Changed {
                dry_run: true,
                changed: true,
                summary: format!("would export volume {name} as a block device"),
                ..Changed::default()
            });
        }
        let served = self.serve_block(engine, &record).await.map_err(unusable)?;
        let (number, logical_block) = served;
        record.ublk = Some(UblkRecord {
            number: Some(number),
            logical_block,
        });
        // Served first, so that what can't be is never remembered.
        if let Err(error) = save_export(self.store.as_ref(), &record).await {
            self.remove_block(Some(engine), &record).await?;
            return Err(refuse::store(&error));
        }
        let path = ublk::path(number);
        locked(&self.exports).insert(key, ExportEntry::new(record));
        self.events.record(
            NewEvent::new("VolumeExported", format!("as {}", path.display()))
                .array(&entry.name())
                .volume(&name),
        );
        Ok(Changed {
            changed: true,
            summary: format!("exported volume {name}: {}", path.display()),
            volume: Some(self.volume(&info.uuid.to_string()).await?),
            warnings: other_block(request.logical_block, logical_block)
                .into_iter()
                .collect(),
            ..Changed::default()
        })
    }

    /// Brings a device back after a start, and remembers its number and block if it has others.
    pub(super) async fn restore_block(
        &self,
        engine: &EngineHandle,
        record: &ExportRecord,
    ) -> Result<(), String> {
        let (number, logical_block) = self.serve_block(engine, record).await?;
        let ublk = Some(UblkRecord {
            number: Some(number),
            logical_block,
        });
        let record = record.clone();
        self.correct(ExportRecord { ublk, ..record }).await;
        Ok(())
    }

    /// Remembers an export as it is, if it was remembered otherwise.
    pub(super) async fn correct(&self, record: ExportRecord) {
        let key = (record.volume, record.address.clone());
        match locked(&self.exports).get_mut(&key) {
            Some(entry) if entry.record != record => entry.record = record.clone(),
            _ => return,
        }
        if let Err(error) = save_export(self.store.as_ref(), &record).await {
            self.store_failed(&error.to_string());
        }
    }

    /// Tells of devices of this array's volumes that wait for a server although nobody asked for
    /// them here: their users hang until they are exported again.
    pub(super) async fn tell_leftovers(&self, array: Uuid, engine: &EngineHandle) {
        let exports = self.exports_of(array);
        let known = |place: &str| -> Vec<Uuid> {
            let of_place = exports.iter().filter(|record| record.address == place);
            of_place.map(|record| record.volume).collect()
        };
        let (wanted, of_kernel) = (known(UBLK), known(KERNEL));
        let left = engine.call(move |engine| async move {
            let all = engine.array().map(|array| array.volumes());
            let all = all.unwrap_or_default();
            let others: Vec<(Uuid, String)> = all
                .iter()
                .filter(|volume| !of_kernel.contains(&volume.uuid))
                .map(|volume| (volume.uuid, volume.name.clone()))
                .collect();
            let of_kernel = tokio::task::spawn_blocking(move || {
                let device =
                    |(uuid, name)| Some((name, kernel_nbd::device_of(uuid)?, "--kernel-nbd"));
                others.into_iter().filter_map(device).collect::<Vec<_>>()
            });
            let volumes: Vec<_> = all
                .into_iter()
                .filter(|volume| !wanted.contains(&volume.uuid))
                .map(|volume| (Identity::of(volume.uuid), volume.name))
                .collect();
            let identities: Vec<Identity> = volumes.iter().map(|(identity, _)| *identity).collect();
            // Whoever may not look is told so when it is exported.
            let left = ublk::leftovers(&identities).await.unwrap_or_default();
            let name = |of: Identity| volumes.iter().find(|(identity, _)| *identity == of);
            let named = left.iter().filter_map(|(identity, number)| {
                let path = ublk::path(*number).display().to_string();
                name(*identity).map(|(_, name)| (name.clone(), path, "--ublk"))
            });
            let mut named: Vec<(String, String, &'static str)> = named.collect();
            named.extend(of_kernel.await.unwrap_or_default());
            named
        });
        for (name, path, option) in left.await.unwrap_or_default() {
            let of_name = exports.iter().any(|record| record.name == name);
            let what = format!(
                "{path} is left by an earlier daemon and waits: {} takes it up",
                taking_up(&name, option, of_name)
            );
            tracing::warn!("{what}");
            self.events
                .record(NewEvent::new("DeviceLeft", what).volume(&name));
        }
    }

    /// Serves the device; the answer is its number, and its logical block.
    async fn serve_block(
        &self,
        engine: &EngineHandle,
        record: &ExportRecord,
    ) -> Result<(u32, u32), String> {
        let asked = record.clone();
        let served = engine.call(move |engine| async move {
            let block = asked.ublk.as_ref().ok_or("the export is no block device")?;
            let (_, device) = open(&engine, &asked)?;
            // One that was taken away makes place.
            let old = engine.devices.borrow_mut().remove(&asked.volume);
            drop(old);
            let (volume, read_only) = (asked.volume, is_read_only(&engine, &asked));
            let (serving, origin) =
                BlockServing::start(&engine, volume, block, read_only, device).await?;
            let shown = (serving.number().ok_or(TAKEN)?, serving.logical_block());
            let serving = Rc::new(serving);
            engine.devices.borrow_mut().insert(volume, serving);
            Ok((shown, origin))
        });
        let served: Result<((u32, u32), Origin), String> =
            served.await.map_err(|error| error.message)?;
        let (shown, origin) = served?;
        let (number, _) = shown;
        if origin == Origin::TakenUp {
            let path = ublk::path(number);
            tracing::info!(volume = record.name, path = %path.display(), "taken up again");
            self.events.record(
                NewEvent::new("DeviceTakenUp", format!("{} goes on", path.display()))
                    .volume(&record.name),
            );
        }
        Ok(shown)
    }

    /// Takes the device of a volume from the host, served or left over.
    pub(super) async fn remove_block(
        &self,
        engine: Option<&EngineHandle>,
        record: &ExportRecord,
    ) -> Answer<()> {
        let failed = |why: String| refuse(ErrorCode::Io, why, "see `cairn events` and the log");
        let volume = record.volume;
        if let Some(engine) = engine {
            let serving = engine
                .call(move |engine| async move {
                    let devices = engine.devices.borrow();
                    devices.get(&volume).and_then(|serving| serving.number())
                })
                .await?;
            if let Some(number) = serving {
                write_back(ublk::path(number)).await;
                let removed = engine
                    .call(move |engine| async move {
                        let serving = engine.devices.borrow().get(&volume).cloned();
                        if let Some(serving) = serving {
                            serving.remove().await?;
                        }
                        engine.devices.borrow_mut().remove(&volume);
                        Ok(())
                    })
                    .await?;
                return removed.map_err(failed);
            }
            engine
                .call(move |engine| async move {
                    let gone = engine.devices.borrow_mut().remove(&volume);
                    drop(gone);
                })
                .await?;
        }
        let removed = self.scanner.call(move |engine| async move {
            let left = ublk::remove_leftover(Identity::of(volume), &engine.env);
            match tokio::time::timeout(DRAIN_TIMEOUT, left).await {
                // Without the driver there is no device.
                Ok(Ok(_) | Err(UblkError::NoModule | UblkError::TooOld { .. })) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the kernel doesn't let the device go; its users must end".into()),
            }
        });
        removed.await?.map_err(failed)
    }

    /// Takes the kernel's NBD device of a volume from the host, served or left over. Its requests are
    /// answered until it is gone; ending the export is the caller's.
    pub(super) async fn remove_kernel(
        &self,
        engine: Option<&EngineHandle>,
        record: &ExportRecord,
    ) -> Answer<()> {
        let failed = |why: String| refuse(ErrorCode::Io, why, "see `cairn events` and the log");
        let volume = record.volume;
        let key = (volume, record.address.clone());
        let is_served = match engine {
            None => false,
            Some(engine) => {
                let key = key.clone();
                engine
                    .call(move |engine| async move { engine.exports.borrow().contains_key(&key) })
                    .await?
            }
        };
        let (Some(engine), true) = (engine, is_served) else {
            return kernel_nbd::detach(volume).await.map_err(failed);
        };
        if let Some(path) = kernel_nbd::device_of(volume) {
            write_back(path.into()).await;
        }
        let detached = engine
            .call(move |engine| async move {
                let serving = engine.exports.borrow().get(&key).cloned();
                match serving {
                    Some(serving) => serving.detach().await,
                    None => Ok(()),
                }
            })
            .await?;
        detached.map_err(failed)
    }

    /// Shows a volume's new size on its device, if it has one; what hindered it.
    pub(super) async fn grow_block(
        &self,
        engine: &EngineHandle,
        volume: Uuid,
        name: &str,
    ) -> Option<String> {
        let grown = engine.call(move |engine| async move {
            let serving = engine.devices.borrow().get(&volume).cloned()?;
            let path = ublk::path(serving.number()?);
            Some((path, serving.grow().await))
        });
        let keeps = |path: PathBuf, why: String| {
            Some(format!(
                "{} keeps its size ({why}): `cairn volume unexport {name} --ublk` and export it again",
                path.display()
            ))
        };
        match grown.await.ok().flatten()? {
            (_, Ok(Grown::Shown)) => None,
            (path, Ok(Grown::Unsupported)) => {
                keeps(path, "this kernel can't resize a ublk device".to_owned())
            }
            (path, Err(why)) => keeps(path, why),
        }
    }
}

/// The commands that take a device up which was left: what the volume is exported as beside it has to end.
fn taking_up(name: &str, option: &str, is_exported: bool) -> String {
    let first = if is_exported {
        format!("`cairn volume unexport {name}`, then ")
    } else {
        String::new()
    };
    format!("{first}`cairn volume export {name} {option}`")
}

fn unusable(why: String) -> cairn_api::ErrorDetail {
    refuse(ErrorCode::ExportAddress, why, "")
}

/// Has the kernel write what it caches of the device, as far as that goes in time: whoever removes a
/// device in use has been told that the rest is lost.
async fn write_back(path: PathBuf) {
    let written = tokio::task::spawn_blocking(move || {
        let device = std::fs::OpenOptions::new().write(true).open(path)?;
        device.sync_all()
    });
    match tokio::time::timeout(DRAIN_TIMEOUT, written).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::debug!(%error, "a device can't be written back"),
        Ok(Err(_)) | Err(_) => tracing::warn!("a device isn't written back in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logical_block_is_one_of_two_or_left_out() {
        for good in [None, Some(512), Some(4096)] {
            check_logical_block(good).unwrap();
        }
        for bad in [0, 1, 1024, 8192, u32::MAX] {
            let refusal = check_logical_block(Some(bad)).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidArgument);
            assert!(refusal.message.contains(&bad.to_string()));
        }
    }

    #[test]
    fn what_stands_beside_a_device_ends_before_it_is_taken_up() {
        assert_eq!(
            taking_up("pg", "--ublk", false),
            "`cairn volume export pg --ublk`"
        );
        assert_eq!(
            taking_up("pg", "--ublk", true),
            "`cairn volume unexport pg`, then `cairn volume export pg --ublk`"
        );
    }

    #[test]
    fn a_block_that_stays_another_is_told_to_who_asked_alone() {
        assert_eq!(other_block(None, 512), None);
        assert_eq!(other_block(Some(512), 512), None);
        assert!(
            other_block(Some(4096), 512)
                .unwrap()
                .contains("stays 512 bytes")
        );
    }
}

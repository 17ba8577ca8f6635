//! Requests about disks.

use axum::extract::State;
use cairn_api::{
    AddDisks, Changed, Disk, DiskList, DiskQuery, FailDisk, RemoveDisk, ReplaceDisk, WipeDisk,
};

use super::Shared;
use super::body::{Ask, Body, Result, change, reply};

pub(super) async fn list(State(daemon): State<Shared>) -> Result<DiskList> {
    reply(DiskList {
        disks: daemon.disks().await,
    })
}

pub(super) async fn show(State(daemon): State<Shared>, Ask(query): Ask<DiskQuery>) -> Result<Disk> {
    reply(daemon.disk(&query.path).await?)
}

pub(super) async fn add(
    State(daemon): State<Shared>,
    Body(request): Body<AddDisks>,
) -> Result<Changed> {
    change(async move { daemon.add_disks(request).await }).await
}

pub(super) async fn fail(
    State(daemon): State<Shared>,
    Body(request): Body<FailDisk>,
) -> Result<Changed> {
    change(async move { daemon.fail_disk(request).await }).await
}

pub(super) async fn remove(
    State(daemon): State<Shared>,
    Body(request): Body<RemoveDisk>,
) -> Result<Changed> {
    change(async move { daemon.remove_disk(request).await }).await
}

pub(super) async fn replace(
    State(daemon): State<Shared>,
    Body(request): Body<ReplaceDisk>,
) -> Result<Changed> {
    change(async move { daemon.replace_disk(request).await }).await
}

pub(super) async fn wipe(
    State(daemon): State<Shared>,
    Body(request): Body<WipeDisk>,
) -> Result<Changed> {
    change(async move { daemon.wipe_disk(request).await }).await
}

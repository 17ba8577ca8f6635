//! Requests about volumes and their exports.

use axum::extract::State;
use cairn_api::{
    Changed, CreateVolume, DeleteVolume, ExportVolume, ResizeVolume, UnexportVolume, Volume,
    VolumeList,
};

use super::Shared;
use super::body::{Body, Named, Result, change, reply};

pub(super) async fn list(State(daemon): State<Shared>) -> Result<VolumeList> {
    reply(VolumeList {
        volumes: daemon.volumes().await,
    })
}

pub(super) async fn show(State(daemon): State<Shared>, Named(name): Named) -> Result<Volume> {
    reply(daemon.volume(&name).await?)
}

pub(super) async fn create(
    State(daemon): State<Shared>,
    Body(request): Body<CreateVolume>,
) -> Result<Changed> {
    change(async move { daemon.create_volume(request).await }).await
}

pub(super) async fn resize(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<ResizeVolume>,
) -> Result<Changed> {
    change(async move { daemon.resize_volume(&name, request).await }).await
}

pub(super) async fn delete(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<DeleteVolume>,
) -> Result<Changed> {
    change(async move { daemon.delete_volume(&name, request).await }).await
}

pub(super) async fn export(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<ExportVolume>,
) -> Result<Changed> {
    change(async move { daemon.export_volume(&name, request).await }).await
}

pub(super) async fn unexport(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<UnexportVolume>,
) -> Result<Changed> {
    change(async move { daemon.unexport_volume(&name, request).await }).await
}

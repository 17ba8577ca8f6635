//! Requests about arrays and their spares.

use axum::extract::State;
use cairn_api::{
    Array, ArrayList, AssembleArray, Changed, CreateArray, DestroyArray, ScrubArray, SpareChange,
    StopArray,
};

use super::Shared;
use super::body::{Body, Named, Result, change, reply};

pub(super) async fn list(State(daemon): State<Shared>) -> Result<ArrayList> {
    reply(ArrayList {
        arrays: daemon.arrays().await,
    })
}

pub(super) async fn show(State(daemon): State<Shared>, Named(name): Named) -> Result<Array> {
    reply(daemon.array(&name).await?)
}

pub(super) async fn create(
    State(daemon): State<Shared>,
    Body(request): Body<CreateArray>,
) -> Result<Changed> {
    change(async move { daemon.create_array(request).await }).await
}

pub(super) async fn stop(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<StopArray>,
) -> Result<Changed> {
    change(async move { daemon.stop_array(&name, request).await }).await
}

pub(super) async fn assemble(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<AssembleArray>,
) -> Result<Changed> {
    change(async move { daemon.assemble_array(&name, request).await }).await
}

pub(super) async fn destroy(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<DestroyArray>,
) -> Result<Changed> {
    change(async move { daemon.destroy_array(&name, request).await }).await
}

pub(super) async fn scrub(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<ScrubArray>,
) -> Result<Changed> {
    change(async move { daemon.scrub_array(&name, request).await }).await
}

pub(super) async fn spare_add(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<SpareChange>,
) -> Result<Changed> {
    change(async move { daemon.add_spare(&name, request).await }).await
}

pub(super) async fn spare_remove(
    State(daemon): State<Shared>,
    Named(name): Named,
    Body(request): Body<SpareChange>,
) -> Result<Changed> {
    change(async move { daemon.remove_spare(&name, request).await }).await
}

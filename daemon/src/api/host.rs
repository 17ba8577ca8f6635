//! Reads about the host as a whole.

use axum::extract::State;
use cairn_api::{Df, EventPage, EventsQuery, Health, Status, Version};

use super::Shared;
use super::body::{Ask, Result, reply};

pub(super) async fn version(State(daemon): State<Shared>) -> Result<Version> {
    reply(daemon.version())
}

pub(super) async fn status(State(daemon): State<Shared>) -> Result<Status> {
    reply(daemon.status().await)
}

pub(super) async fn health(State(daemon): State<Shared>) -> Result<Health> {
    reply(daemon.health().await)
}

pub(super) async fn df(State(daemon): State<Shared>) -> Result<Df> {
    reply(daemon.df().await)
}

pub(super) async fn events(
    State(daemon): State<Shared>,
    Ask(query): Ask<EventsQuery>,
) -> Result<EventPage> {
    reply(daemon.events().page(&query).await)
}

//! Reads about the host as a whole.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use cairn_api::{Df, EventPage, EventsQuery, Health, Status, Version};

use super::Shared;
use super::body::{Ask, Result, reply};

/// The text that Prometheus reads.
pub(super) async fn metrics(State(daemon): State<Shared>) -> axum::response::Response {
    let now = jiff::Timestamp::now().as_millisecond();
    let text = crate::metrics::text(&daemon.work(), u64::try_from(now).unwrap_or(0));
    // Writing into memory doesn't fail.
    let text = text.unwrap_or_default();
    ([(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response()
}

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

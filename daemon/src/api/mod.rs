//! The admin API's server side: cairn-api's routes over HTTP/1 on a unix socket.
//!
//! Who may use it is decided by the socket's file: it has mode 0600, so only the daemon's own user
//! (root) can open it. Peer credentials are logged with each change, not checked again.
//!
//! Invariants
//! - Every answer is JSON with `schema`, errors too, for unknown routes and malformed bodies as well; but `/metrics`.
//! - A body is at most [`cairn_api::REQUEST_BYTES_MAX`] bytes.
//! - A change runs to its end even if its client goes away.

mod arrays;
mod body;
mod disks;
mod host;
mod volumes;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use cairn_api::routes::{self, Route};
use cairn_api::{ErrorCode, REQUEST_BYTES_MAX};

use crate::refuse::refuse;
use crate::supervisor::Supervisor;
use body::Failure;

/// What handlers share.
pub type Shared = Arc<Supervisor>;

/// All routes.
pub fn router(supervisor: Shared) -> Router {
    let mut router = Router::new();
    let gets = [
        (routes::METRICS, get(host::metrics)),
        (routes::VERSION, get(host::version)),
        (routes::STATUS, get(host::status)),
        (routes::HEALTH, get(host::health)),
        (routes::DF, get(host::df)),
        (routes::EVENTS, get(host::events)),
        (routes::ARRAYS, get(arrays::list)),
        (routes::ARRAY, get(arrays::show)),
        (routes::DISKS, get(disks::list)),
        (routes::DISK, get(disks::show)),
        (routes::VOLUMES, get(volumes::list)),
        (routes::VOLUME, get(volumes::show)),
    ];
    let posts = [
        (routes::ARRAY_CREATE, post(arrays::create)),
        (routes::ARRAY_STOP, post(arrays::stop)),
        (routes::ARRAY_ASSEMBLE, post(arrays::assemble)),
        (routes::ARRAY_DESTROY, post(arrays::destroy)),
        (routes::ARRAY_SCRUB, post(arrays::scrub)),
        (routes::SPARE_ADD, post(arrays::spare_add)),
        (routes::SPARE_REMOVE, post(arrays::spare_remove)),
        (routes::DISK_ADD, post(disks::add)),
        (routes::DISK_FAIL, post(disks::fail)),
        (routes::DISK_REMOVE, post(disks::remove)),
        (routes::DISK_REPLACE, post(disks::replace)),
        (routes::DISK_WIPE, post(disks::wipe)),
        (routes::VOLUME_CREATE, post(volumes::create)),
        (routes::VOLUME_RESIZE, post(volumes::resize)),
        (routes::VOLUME_DELETE, post(volumes::delete)),
        (routes::VOLUME_EXPORT, post(volumes::export)),
        (routes::VOLUME_UNEXPORT, post(volumes::unexport)),
    ];
    for (Route { path, .. }, handler) in gets.into_iter().chain(posts) {
        router = router.route(path, handler);
    }
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_route)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(supervisor)
}

async fn unknown_route(method: axum::http::Method, uri: axum::http::Uri) -> Failure {
    Failure(refuse(
        ErrorCode::UnknownRoute,
        format!("{method} {} is no request of this API", uri.path()),
        "use a `cairn` of the daemon's version",
    ))
}

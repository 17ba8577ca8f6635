//! Requests in, replies out: JSON with `schema`, and errors in the same envelope.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use cairn_api::{ErrorBody, ErrorCode, ErrorDetail, REQUEST_BYTES_MAX, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refuse::{Answer, internal, refuse};

/// A refusal as an HTTP answer.
#[derive(Debug)]
pub(super) struct Failure(pub(super) ErrorDetail);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = %self.0.code, "{}", self.0.message);
        }
        (status, Json(Reply::of(ErrorBody { error: self.0 }))).into_response()
    }
}

impl From<ErrorDetail> for Failure {
    fn from(detail: ErrorDetail) -> Self {
        Self(detail)
    }
}

/// What every handler gives.
pub(super) type Result<T> = std::result::Result<Json<Reply<T>>, Failure>;

/// A body as a reply.
pub(super) fn reply<T: Serialize>(body: T) -> Result<T> {
    Ok(Json(Reply::of(body)))
}

/// Runs a change in a task of its own, so that it goes on when its client hangs up, and replies.
pub(super) async fn change<T>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Result<T>
where
    T: Serialize + Send + 'static,
{
    let done = tokio::spawn(work).await;
    match done {
        Ok(answer) => reply(answer?),
        Err(error) => Err(Failure(internal(format!(
            "the request's task ended: {error}"
        )))),
    }
}

/// A JSON body; a malformed one is answered in the API's own words. An empty one is `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Failure> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|error| bad_request(&unread(&error)))?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| bad_request(&format!("the request's body is malformed: {error}")))
    }
}

/// The name in a route's path. One that isn't text names nothing.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> std::result::Result<Self, Failure> {
        let path: std::result::Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(bad_request(&error.body_text())),
        }
    }
}

/// A query string, refused in the API's own words.
pub(super) struct Ask<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Ask<T> {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> std::result::Result<Self, Failure> {
        let query: std::result::Result<Query<T>, QueryRejection> =
            Query::from_request_parts(parts, state).await;
        match query {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(bad_request(&error.body_text())),
        }
    }
}

fn unread(error: &BytesRejection) -> String {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return format!("the request's body is longer than {REQUEST_BYTES_MAX} bytes");
    }
    error.body_text()
}

fn bad_request(message: &str) -> Failure {
    Failure(refuse(
        ErrorCode::BadRequest,
        message,
        "use a `cairn` of the daemon's version",
    ))
}

//! The admin API over its unix socket: one connection per request.
//!
//! Bounded: connecting, the wait for an answer and the size of the answer. Knows no noun.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_api::routes::Route;
use cairn_api::{ErrorBody, REPLY_BYTES_MAX, Reply, SCHEMA, SOCKET_PATH_BYTES_MAX};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::ToolError;

/// Connecting to a local socket takes longer only if the daemon's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A read is answered from memory; a daemon that needs longer hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A change waits for disks: creating wipes and labels every member, stopping drains.
const CHANGE_TIMEOUT: Duration = Duration::from_mins(10);
/// Enough of a foreign page to recognise it.
const FOREIGN_CHARS_SHOWN: usize = 200;

/// The daemon behind one socket.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Connects with each request.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET of a route without a variable part.
    pub(crate) async fn get<T: DeserializeOwned>(&self, route: Route) -> Result<T, ToolError> {
        self.get_at(route.path, Duration::ZERO).await
    }

    /// GET of `target`, a filled-in path with its query; the daemon may take `wait` on purpose.
    pub(crate) async fn get_at<T: DeserializeOwned>(
        &self,
        target: &str,
        wait: Duration,
    ) -> Result<T, ToolError> {
        self.request(Method::GET, target, Bytes::new(), READ_TIMEOUT + wait)
            .await
    }

    /// POST of `body` as JSON to `target`, a filled-in path.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        target: &str,
        body: &B,
    ) -> Result<T, ToolError> {
        let body = serde_json::to_vec(body)
            .map_err(|source| ToolError::failed(format!("the request has no JSON: {source}")))?;
        self.request(Method::POST, target, Bytes::from(body), CHANGE_TIMEOUT)
            .await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<T, ToolError> {
        let (status, bytes) = tokio::time::timeout(timeout, self.exchange(method, target, body))
            .await
            .map_err(|_| self.no_answer(target, timeout))??;
        self.decode(status, &bytes)
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ToolError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // The connection is driven beside the request and ends with it.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(hyper::header::HOST, "cairnd")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ToolError::failed(format!("{target} is no request: {error}")))?;
        let reply = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))?;
        let status = reply.status();
        let bytes = Limited::new(reply.into_body(), REPLY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| self.protocol(format!("{target}: {error}")))?
            .to_bytes();
        driver.abort();
        Ok((status, bytes))
    }

    async fn connect(&self) -> Result<UnixStream, ToolError> {
        let length = self.socket.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(ToolError::usage(
                format!(
                    "the socket path {} has {length} bytes, a unix socket takes at most \
                     {SOCKET_PATH_BYTES_MAX}",
                    self.socket.display()
                ),
                "use a shorter state directory, or a relative path to the socket",
            ));
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.not_connected(&error)),
            Err(_) => Err(self.unreachable(
                format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
                "the daemon hangs; look at its log: journalctl -u cairnd",
            )),
        }
    }

    fn not_connected(&self, error: &std::io::Error) -> ToolError {
        let start = "start it with `systemctl start cairnd` or `cairnd --state-dir DIR`, and name \
                     its socket with --socket or CAIRN_SOCKET (DIR/cairnd.sock)";
        match error.kind() {
            std::io::ErrorKind::NotFound => self.unreachable("there is no such socket", start),
            std::io::ErrorKind::ConnectionRefused => {
                self.unreachable("nobody listens there (the daemon isn't running)", start)
            }
            std::io::ErrorKind::PermissionDenied => self.unreachable(
                "permission denied",
                "run as root, or as a user that may open the socket",
            ),
            _ => self.unreachable(error.to_string(), start),
        }
    }

    fn decode<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        bytes: &[u8],
    ) -> Result<T, ToolError> {
        if status.is_success() {
            let reply: Reply<T> =
                serde_json::from_slice(bytes).map_err(|error| self.protocol(error.to_string()))?;
            if reply.schema != SCHEMA {
                return Err(self.protocol(format!(
                    "it has schema {}, this cairn reads {SCHEMA}",
                    reply.schema
                )));
            }
            return Ok(reply.body);
        }
        if let Ok(reply) = serde_json::from_slice::<Reply<ErrorBody>>(bytes) {
            return Err(ToolError::Refused(reply.body.error));
        }
        let text: String = String::from_utf8_lossy(bytes)
            .chars()
            .take(FOREIGN_CHARS_SHOWN)
            .collect();
        Err(self.protocol(format!("{status}: {text:?}")))
    }

    fn unreachable(&self, reason: impl Into<String>, hint: impl Into<String>) -> ToolError {
        ToolError::Unreachable {
            socket: self.socket.clone(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    fn no_answer(&self, target: &str, timeout: Duration) -> ToolError {
        let seconds = timeout.as_secs();
        if timeout >= CHANGE_TIMEOUT {
            // An array that recomputes its parity takes hours.
            return self.unreachable(
                format!("{target} isn't done after {seconds} s, and goes on in the daemon"),
                "see how far it is: cairn status, cairn events",
            );
        }
        self.unreachable(
            format!("no answer to {target} within {seconds} s: the daemon hangs or its disks do"),
            "look at its log: journalctl -u cairnd",
        )
    }

    fn broken(&self, error: &hyper::Error) -> ToolError {
        self.unreachable(
            format!("the connection broke before the answer: {error}"),
            "the daemon may have stopped; look at its log, then ask again",
        )
    }

    fn protocol(&self, what: impl Into<String>) -> ToolError {
        ToolError::Protocol {
            socket: self.socket.clone(),
            what: what.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_api::{Df, ErrorCode};

    fn client() -> Client {
        Client::new(PathBuf::from("/s"))
    }

    #[test]
    fn a_reply_of_another_schema_is_refused_by_number() {
        let error = client()
            .decode::<Df>(StatusCode::OK, br#"{"schema":2,"rows":[]}"#)
            .unwrap_err();
        assert!(error.to_string().contains("schema 2"), "{error}");
    }

    #[test]
    fn an_error_body_is_the_daemons_refusal_and_a_foreign_page_is_shown() {
        let body = br#"{"schema":1,"error":{"code":"name_taken","message":"m","hint":"h"}}"#;
        let error = client()
            .decode::<Df>(StatusCode::CONFLICT, body)
            .unwrap_err();
        assert!(
            matches!(&error, ToolError::Refused(d) if d.code == ErrorCode::NameTaken),
            "{error}"
        );
        let error = client()
            .decode::<Df>(StatusCode::BAD_GATEWAY, b"<html>")
            .unwrap_err();
        assert!(error.to_string().contains("<html>"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_exits_4_and_names_it() {
        let client = Client::new(PathBuf::from("/no/such/cairnd.sock"));
        let error = client.get::<Df>(cairn_api::routes::DF).await.unwrap_err();
        assert_eq!(error.exit().code(), 4);
        assert!(error.to_string().contains("/no/such/cairnd.sock"));
    }

    /// A daemon that answers one request with `answer` and goes away.
    async fn ask_one_that_says(answer: Vec<u8>) -> Result<Df, ToolError> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let name = format!("cairn-client-test-{}-{}", std::process::id(), answer.len());
        let socket = std::env::temp_dir().join(name);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            // The client may hang up on what is too long.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let result = Client::new(socket.clone()).get(cairn_api::routes::DF).await;
        let request = server.await.unwrap();
        std::fs::remove_file(socket).unwrap();
        assert!(request.starts_with("GET /v1/df HTTP/1.1\r\n"), "{request}");
        result
    }

    #[tokio::test]
    async fn an_answer_is_read_over_the_socket() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"schema\":1,\"rows\":[]}";
        let df = ask_one_that_says(answer.to_vec()).await.unwrap();
        assert_eq!(df.rows.len(), 0);
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            u64::MAX / 2
        )
        .into_bytes();
        answer.resize(REPLY_BYTES_MAX + (1 << 20), b' ');
        let error = ask_one_that_says(answer).await.unwrap_err();
        assert_eq!(error.exit().code(), 1, "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_up_counts_as_unreachable() {
        let error = ask_one_that_says(Vec::new()).await.unwrap_err();
        assert_eq!(error.exit().code(), 4, "{error}");
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_a_usage_error() {
        let client = Client::new(PathBuf::from(format!("/{}", "x".repeat(107))));
        let error = client.get::<Df>(cairn_api::routes::DF).await.unwrap_err();
        assert_eq!(error.exit().code(), 3);
    }
}

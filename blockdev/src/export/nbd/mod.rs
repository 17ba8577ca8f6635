//! The NBD server: fixed newstyle negotiation and transmission over any
//! [`BlockDevice`](crate::BlockDevice).
//!
//! ```text
//!  bytes ──▶ option ──▶ handshake ──▶ Session        pure: values in, values out
//!                           └─▶ TLS ─▶ handshake
//!  bytes ──▶ request ──▶ Command ──▶ reply ──▶ bytes
//!
//!  serve: stream ─▶ negotiate ─▶ transmit ┬▶ reader ─▶ run (a task per request) ─▶ outbox ┐
//!                                         └◀──────────── writer ◀──────────────────────────┘
//! ```
//!
//! The protocol is that of the NBD project's `doc/proto.md`. Served are LIST, INFO, GO, ABORT,
//! EXPORT_NAME, simple and structured replies, extended headers (of the protocol's branch
//! `extension-ext-header`), two metadata contexts, and STARTTLS with X.509 certificates.
//!
//! Invariants
//! - Whatever a client sends is answered as the protocol says or ends its connection; nothing of it
//!   panics.
//! - Memory is bounded: there are at most [`CONNECTIONS_MAX`](limits::CONNECTIONS_MAX) connections
//!   on a listener; a connection holds its receive buffer and at most
//!   [`IN_FLIGHT_MAX`](limits::IN_FLIGHT_MAX) requests, whose payloads fit its own share and the
//!   budget that all connections have together ([`Limits`]).
//! - [`serve()`] returns only when no request of its connection touches the device any more.
//! - A request's memory and its place are given back when its reply is written, so the queue of
//!   replies needs no bound of its own.
//!
//! Does not know: sockets, who may connect, clocks (one is injected), what a device is made of.

pub mod connections;
pub mod context;
pub mod error;
pub mod exports;
pub mod framing;
pub mod handshake;
pub mod limits;
pub mod option;
pub mod proto;
pub mod reply;
pub mod request;
pub mod tls;

mod negotiate;
mod outbox;
mod receive;
mod run;
mod serve;
mod transmit;

pub use connections::{Connections, Entered, Stop};
pub use error::NbdError;
pub use exports::{Export, Exports, Listed};
pub use limits::Limits;
pub use serve::{serve, serve_agreed};
pub use tls::Tls;

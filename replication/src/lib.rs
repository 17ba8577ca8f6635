//! Replica sets over peers. Today this crate is the metadata store alone: what a host must remember
//! outside its arrays (exports, settings, hints, history).
//!
//! - [`store`]: the [`MetaStore`] trait and its vocabulary, shaped so that etcd fits behind it.
//! - [`local`]: the backend of a single host, a redb file in the state directory.
//!
//! Does not know: arrays, disks, what the keys mean.

pub mod error;
pub mod local;
pub mod store;
pub mod watch;

pub use error::StoreError;
pub use local::LocalStore;
pub use store::{
    Compare, Key, KeyRange, KeyValue, MetaStore, Op, Outcome, Page, Revision, StoreFuture,
    Transaction,
};
pub use watch::Watch;

//! Revisioned keys, ranges, transactions and watches: what the API server keeps its objects in.
//!
//! [`Store`] is the contract. [`Embedded`] is the store inside the binary: an ordered index in memory, a log with group
//! commit and background snapshots on a [`disk::Disk`]. The formats on disk are described in [`mod@format`].
//!
//! Architecture Invariant: nothing of Kubernetes is known here; keys and values are bytes.

mod committer;
mod contract;
pub mod disk;
mod embedded;
mod entry;
mod error;
pub mod format;
mod history;
mod index;
mod log;
mod recovery;
mod shared;
mod snapshot;
mod staging;
mod transform;

pub use contract::{
    Batch, Compare, Cursor, Event, Op, RangeRequest, RangeResponse, Store, TXN_BYTES_MAX, TXN_OPS_MAX, TxnOutcome,
    VALUE_BYTES_MAX, Watch, WatchItem,
};
pub use embedded::{Embedded, Options};
pub use entry::Entry;
pub use error::{OpenError, StoreError};
pub use transform::{Plain, Transform};

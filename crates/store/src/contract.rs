//! What a store is: its requests, its answers and the trait that both kinds of store implement.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stdx::BoxFuture;

use crate::entry::Entry;
use crate::error::StoreError;

/// The longest value, in bytes: etcd's default limit of a request, which holds for every store.
pub const VALUE_BYTES_MAX: usize = 1536 * 1024;

/// The most bytes of keys and values in one transaction; etcd's default limit of a request.
pub const TXN_BYTES_MAX: usize = 1536 * 1024;

/// The most operations in one transaction (and, counted apart, the most comparisons); etcd's default.
pub const TXN_OPS_MAX: usize = 128;

/// Revisioned keys with transactions and watches.
///
/// Every transaction that changes something has a revision of its own, one above the one before. Nobody sees a
/// revision before it is durable. Values are opaque bytes.
pub trait Store: Send + Sync + 'static {
    /// Reads a consistent picture of a range of keys, in key order, at the newest or an older revision.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::FutureRevision`] when the asked revision cannot be read.
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>>;

    /// Reads one key at the newest revision.
    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Arc<Entry>>, StoreError>> {
        let request = RangeRequest { limit: 1, ..RangeRequest::key(key) };
        Box::pin(async move { Ok(self.range(request).await?.entries.into_iter().next()) })
    }

    /// Carries out `ops` as one, at one new revision, if every comparison holds.
    ///
    /// A key may be named by at most one operation. When nothing changes (no operation, or only deletions of absent
    /// keys) the answer is `Committed` with the current revision and no revision is spent.
    ///
    /// # Errors
    /// After [`StoreError::Unknown`] the transaction may or may not have happened: the caller has to read. After every
    /// other error it has not happened and never will.
    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome, StoreError>>;

    /// Starts a cursor over all transactions whose revision is at least `from_revision`; it may lie in the future.
    ///
    /// So a watch that continues a read at revision R starts from R + 1.
    fn watch(&self, from_revision: u64) -> Watch;

    /// The newest revision, not older than any that was acknowledged before the call.
    fn current(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Forgets all versions superseded at or before `revision`: reads below it and watches from it or below then answer
    /// [`StoreError::Compacted`].
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when that much was compacted before, [`StoreError::FutureRevision`] above the current.
    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Which keys, as of when, and how many of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// The first key.
    pub start: Bytes,
    /// The first key no longer in the range; `None` for no end.
    pub end: Option<Bytes>,
    /// Only keys above this one, to continue after the last key of an earlier page.
    pub after: Option<Bytes>,
    /// The revision to read at; `None` for the newest.
    pub revision: Option<u64>,
    /// The most entries to answer; 0 for all.
    pub limit: usize,
    /// Leaves the values out.
    pub keys_only: bool,
}

impl RangeRequest {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        RangeRequest { start: Bytes::copy_from_slice(prefix), end: prefix_end(prefix), ..Default::default() }
    }

    /// Exactly one key.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        let end = [key, &[0]].concat();
        RangeRequest { start: Bytes::copy_from_slice(key), end: Some(end.into()), ..Default::default() }
    }
}

/// The first key above all keys that begin with `prefix`, if there is one.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// A page of a consistent picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResponse {
    /// The revision the picture shows; continue the list, or watch from the one above, with it.
    pub revision: u64,
    /// The entries in key order; without values when only keys were asked for.
    pub entries: Vec<Arc<Entry>>,
    /// How many keys the range holds above `after`, this page included.
    pub count: usize,
    /// Whether the limit cut entries off.
    pub more: bool,
}

/// A condition of a transaction: the key's newest version is the one written at `mod_revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key that is looked at.
    pub key: Bytes,
    /// The revision its newest version has to have; 0 when the key has to be absent.
    pub mod_revision: u64,
}

impl Compare {
    /// The key is at the version written at `mod_revision`.
    pub fn unchanged(key: impl Into<Bytes>, mod_revision: u64) -> Self {
        Compare { key: key.into(), mod_revision }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Compare { key: key.into(), mod_revision: 0 }
    }
}

/// A change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value, of at most [`VALUE_BYTES_MAX`] bytes.
        value: Bytes,
        /// The key is deleted, as by an ordinary transaction, this long after (to the second, rounded up).
        ttl: Option<Duration>,
    },
    /// Deletes a key, if it exists.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// Writes a key that stays.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), ttl: None }
    }

    /// Writes a key that is deleted `ttl` later.
    pub fn put_for(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Self {
        Op::Put { key: key.into(), value: value.into(), ttl: Some(ttl) }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Op::Delete { key: key.into() }
    }

    /// The key that the operation changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It happened.
    Committed {
        /// The revision of everything it wrote; the current revision when it changed nothing.
        revision: u64,
    },
    /// A comparison did not hold; nothing happened.
    Failed {
        /// The newest entry of each compared key, in the order of the comparisons.
        current: Vec<Option<Arc<Entry>>>,
    },
}

/// One transaction as a watcher sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its revision.
    pub revision: u64,
    /// What it changed, in the order of its operations.
    pub events: Vec<Event>,
}

/// One changed key of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// What is there now; `None` after a deletion.
    pub value: Option<Arc<Entry>>,
    /// What was there before; `None` before a creation.
    pub prev: Option<Arc<Entry>>,
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// A whole transaction. Batches come in the order of their revisions, each exactly once.
    Batch(Arc<Batch>),
    /// Everything up to this revision was yielded.
    Progress(u64),
}

/// A cursor over transactions. It holds no buffer: a slow reader falls behind until what it needs is compacted.
pub struct Watch(Box<dyn Cursor>);

impl Watch {
    /// Wraps a store's cursor.
    pub fn new(cursor: impl Cursor + 'static) -> Self {
        Watch(Box::new(cursor))
    }

    /// The next item, as soon as there is one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the reader was too slow or began too early, [`StoreError::Closed`] when the store
    /// is closed and everything was yielded. The watch is then over.
    pub async fn next(&mut self) -> Result<WatchItem, StoreError> {
        std::future::poll_fn(|context| self.0.poll_next(context)).await
    }

    /// The next item if there is one now.
    pub fn try_next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match self.0.poll_next(&mut context) {
            std::task::Poll::Ready(item) => Some(item),
            std::task::Poll::Pending => None,
        }
    }

    /// Asks for a [`WatchItem::Progress`] once everything there is now was yielded.
    pub fn request_progress(&mut self) {
        self.0.request_progress();
    }
}

/// What a store implements behind a [`Watch`].
pub trait Cursor: Send {
    /// The next item, or registers the task to be woken.
    fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<WatchItem, StoreError>>;
    /// See [`Watch::request_progress`].
    fn request_progress(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_that_can_grow_has_grown() {
        let check = |prefix: &[u8], end: Option<&[u8]>| assert_eq!(prefix_end(prefix).as_deref(), end);
        check(b"/pods/", Some(b"/pods0"));
        check(b"a\xff", Some(b"b"));
        check(b"\xff\xff", None);
        check(b"", None);
    }
}

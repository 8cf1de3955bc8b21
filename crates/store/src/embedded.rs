//! The store inside the binary: everything in memory, every transaction in a log on disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stdx::{BoxFuture, Cancel};
use tokio::sync::{mpsc, oneshot};

use crate::committer::{Committer, Flags, Reply, Request, Storage};
use crate::contract::{Compare, Op, RangeRequest, RangeResponse, Store, TxnOutcome, Watch};
use crate::disk::{ClaimError, Disk};
use crate::entry::Entry;
use crate::error::{OpenError, StoreError};
use crate::history::Limits;
use crate::log::{AppendError, Log};
use crate::recovery::recover;
use crate::shared::{Health, Shared};
use crate::staging::{self, Staging};
use crate::transform::Transform;

/// So many transactions wait for the committer at most; who comes later waits to wait.
const QUEUE_MAX: usize = 1024;

/// What can be chosen about an embedded store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many bytes of keys, values and index the newest versions may take together.
    pub quota_bytes: u64,
    /// The size of log segments, which are written out with zeros before they are used.
    pub segment_bytes: u64,
    /// A snapshot is made once this much was appended to the log since the last one, or half of what the newest
    /// versions take, whichever is more.
    pub snapshot_log_bytes: u64,
    /// How often everything superseded before the last time is forgotten, as upstream's API server does; `None` never.
    pub compact_interval: Option<Duration>,
    /// The most transactions that reads at old revisions and watches can go back.
    pub history_batches_max: usize,
    /// The most bytes of superseded versions that are kept in memory for that.
    pub history_bytes_max: u64,
    /// After a restore or a migration: continue above this revision, with everything before compacted.
    pub revision_at_least: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            quota_bytes: 2 * 1024 * 1024 * 1024,
            segment_bytes: 16 * 1024 * 1024,
            snapshot_log_bytes: 32 * 1024 * 1024,
            compact_interval: Some(Duration::from_secs(5 * 60)),
            history_batches_max: 1_000_000,
            history_bytes_max: 64 * 1024 * 1024,
            revision_at_least: 0,
        }
    }
}

impl Options {
    pub(crate) fn limits(&self) -> Limits {
        Limits { batches_max: self.history_batches_max, superseded_bytes_max: self.history_bytes_max }
    }
}

/// The embedded store. Clones share it; it closes when the last one is dropped, or by [`Embedded::close`].
///
/// Reads are answered from memory at once. Writes are made durable in groups by one task, the committer: nobody sees a
/// revision before it is durable.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    transform: Arc<dyn Transform>,
    closing: Cancel,
    broken: Cancel,
    ended: Cancel,
}

impl Embedded {
    /// Opens the store that lies on `disk`, or begins one on an empty disk.
    ///
    /// # Errors
    /// Every reason not to open leaves the disk as it was, but for half made files and those that a snapshot replaced.
    pub async fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        transform: Arc<dyn Transform>,
    ) -> Result<Embedded, OpenError> {
        let claim = disk.claim().map_err(|error| match error {
            ClaimError::InUse { pid } => OpenError::InUse { directory: disk.name(), pid },
            ClaimError::Disk(source) => OpenError::Disk { operation: "lock", file: disk.name(), source },
        })?;
        let recovered = recover(&*disk, &*transform, &options.limits()).await?;
        let revision = recovered.history.revision();
        let begun = Log::begin(disk.clone(), options.segment_bytes, recovered.log_end).await;
        let log = begun.map_err(|source| OpenError::Disk {
            operation: "begin a log segment in",
            file: disk.name(),
            source,
        })?;
        let staging = Staging { index: recovered.index.clone(), revision, quota_bytes: options.quota_bytes };
        let shared = Arc::new(Shared::new(recovered.index, recovered.history));
        let (requests, receiver) = mpsc::channel(QUEUE_MAX);
        let (closing, broken, ended) = (Cancel::default(), Cancel::default(), Cancel::default());
        let flags = Flags { closing: closing.clone(), broken: broken.clone(), ended: ended.clone() };
        let storage = Storage { disk, transform: transform.clone(), claim: Some(claim), log };
        let floor = options.revision_at_least;
        let mut committer = Committer::new(shared.clone(), storage, flags, options, staging, recovered.snapshot);
        if floor > revision {
            committer.advance(floor).await.map_err(advance_failed)?;
        }
        drop(stdx::spawn(committer.run(receiver)));
        Ok(Embedded { shared, requests, transform, closing, broken, ended })
    }

    /// Reads like [`Store::range`], at once.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub fn range_now(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        self.shared.range(request)
    }

    /// The newest entry of a key, at once.
    pub fn get_now(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.shared.newest().0.get(key).cloned()
    }

    /// The newest revision, at once.
    pub fn revision(&self) -> u64 {
        self.shared.revision()
    }

    /// The oldest revision that can be read.
    pub fn compact_revision(&self) -> u64 {
        self.shared.compact_revision()
    }

    /// Writes a snapshot now and waits for it. After a change of encryption keys this leaves nothing under the old ones
    /// but what a later log holds.
    ///
    /// # Errors
    /// The reason why there is none; the store goes on without.
    pub async fn snapshot(&self) -> Result<(), StoreError> {
        self.ask(|reply| Request::Snapshot { reply }).await.map(drop)
    }

    /// Resolves with the reason once the disk failed in a way that lets no more be written. The process should then
    /// end, to begin anew from what is on the disk.
    pub async fn broken(&self) -> String {
        self.broken.cancelled().await;
        match self.shared.health() {
            Health::Broken(reason) => reason,
            Health::Open | Health::Closed => "the store is closed".into(),
        }
    }

    /// Takes no more transactions, finishes those under way, and gives up the disk.
    pub async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<TxnOutcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(match self.shared.health() {
                Health::Broken(reason) => StoreError::Broken { reason },
                Health::Open | Health::Closed => StoreError::Closed,
            });
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unknown { reason: "the committer has ended".into() }))
    }

    /// Seals values (`None` where that changes nothing) in the caller's task, so that the committer has only to append them.
    fn seal(&self, ops: &[Op]) -> Result<Vec<Option<Bytes>>, StoreError> {
        ops.iter().map(|op| self.sealed(op)).collect()
    }

    fn sealed(&self, op: &Op) -> Result<Option<Bytes>, StoreError> {
        let Op::Put { key, value, .. } = op else { return Ok(None) };
        match self.transform.seal(key, value) {
            Ok(std::borrow::Cow::Borrowed(_)) => Ok(None),
            Ok(std::borrow::Cow::Owned(sealed)) => Ok(Some(sealed.into())),
            Err(reason) => Err(StoreError::Seal { key: key.escape_ascii().to_string(), reason }),
        }
    }
}

fn advance_failed(error: AppendError) -> OpenError {
    let (AppendError::NoSpace(source) | AppendError::Broken(source)) = error;
    OpenError::Disk { operation: "append to", file: "log".into(), source }
}

impl Store for Embedded {
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(std::future::ready(self.range_now(&request)))
    }

    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Arc<Entry>>, StoreError>> {
        Box::pin(std::future::ready(Ok(self.get_now(key))))
    }

    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        Box::pin(async move {
            staging::check(&compares, &ops)?;
            let sealed = self.seal(&ops)?;
            self.ask(|reply| Request::Txn { compares, ops, sealed, reply }).await
        })
    }

    fn watch(&self, from_revision: u64) -> Watch {
        Watch::new(self.shared.cursor(from_revision))
    }

    fn current(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Ok(self.revision())))
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.ask(|reply| Request::Compact { revision, reply }).await.map(drop) })
    }
}

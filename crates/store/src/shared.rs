//! What the committer publishes and everybody reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use crate::contract::{Batch, Cursor, RangeRequest, RangeResponse, WatchItem};
use crate::error::StoreError;
use crate::history::History;
use crate::index::Index;

/// The durable state. Locks are held for moments only, never while waiting.
pub(crate) struct Shared {
    published: RwLock<Published>,
    /// Tasks that wait for the next transaction, by the number of their cursor: woken in a fixed order.
    waiting: Mutex<BTreeMap<u64, Waker>>,
    cursors: AtomicU64,
}

struct Published {
    index: Index,
    history: History,
    health: Health,
}

/// Whether writes are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Open,
    Broken(String),
    Closed,
}

const POISONED: &str = "no holder of this lock panics";

impl Shared {
    pub(crate) fn new(index: Index, history: History) -> Shared {
        let published = RwLock::new(Published { index, history, health: Health::Open });
        Shared { published, waiting: Mutex::default(), cursors: AtomicU64::new(0) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Published> {
        self.published.read().expect(POISONED)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.read().history.revision()
    }

    pub(crate) fn compact_revision(&self) -> u64 {
        self.read().history.compact_revision()
    }

    pub(crate) fn health(&self) -> Health {
        self.read().health.clone()
    }

    /// The newest index and its revision.
    pub(crate) fn newest(&self) -> (Index, u64) {
        let published = self.read();
        (published.index.clone(), published.history.revision())
    }

    /// Lets `apply` look at the history.
    pub(crate) fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.read().history)
    }

    /// The page that is asked for. Everything slow happens on a copy, outside the lock.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let (way_back, revision) = {
            let published = self.read();
            let revision = request.revision.unwrap_or_else(|| published.history.revision());
            (published.history.way_back(revision, &published.index)?, revision)
        };
        let index = way_back.walk();
        let response = index.page(request, revision);
        if response.more {
            self.published.write().expect(POISONED).history.keep(revision, index);
        }
        Ok(response)
    }

    /// Shows durable transactions (with the roots to keep), the last of which leaves `index` behind, and forgets what is
    /// compacted.
    pub(crate) fn publish(&self, batches: Vec<(Arc<Batch>, Option<Index>)>, index: &Index, compact: Option<u64>) {
        let mut published = self.published.write().expect(POISONED);
        published.index.clone_from(index);
        for (batch, root) in batches {
            published.history.push(batch, root);
        }
        if let Some(revision) = compact {
            published.history.compact(revision);
        }
        drop(published);
        self.wake();
    }

    /// Continues at `revision`, with everything before compacted.
    pub(crate) fn advance(&self, revision: u64) {
        self.published.write().expect(POISONED).history = History::after(revision);
        self.wake();
    }

    /// No more writes will be taken.
    pub(crate) fn end(&self, health: Health) {
        let mut published = self.published.write().expect(POISONED);
        if published.health != Health::Closed {
            published.health = health;
        }
        drop(published);
        self.wake();
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().expect(POISONED));
        waiting.into_values().for_each(Waker::wake);
    }

    /// A cursor that begins at `from_revision`.
    pub(crate) fn cursor(self: &Arc<Self>, from_revision: u64) -> SharedCursor {
        let number = self.cursors.fetch_add(1, Ordering::Relaxed);
        SharedCursor { shared: self.clone(), number, next: from_revision, progress_wanted: false }
    }
}

/// A place in the history.
pub(crate) struct SharedCursor {
    shared: Arc<Shared>,
    number: u64,
    next: u64,
    progress_wanted: bool,
}

impl SharedCursor {
    fn item(&mut self) -> Option<Result<WatchItem, StoreError>> {
        let published = self.shared.read();
        let compact_revision = published.history.compact_revision();
        if self.next <= compact_revision {
            return Some(Err(StoreError::Compacted { compact_revision }));
        }
        if let Some(batch) = published.history.batch(self.next) {
            self.next += 1;
            return Some(Ok(WatchItem::Batch(batch.clone())));
        }
        if self.progress_wanted {
            self.progress_wanted = false;
            return Some(Ok(WatchItem::Progress(published.history.revision())));
        }
        (published.health == Health::Closed).then_some(Err(StoreError::Closed))
    }
}

impl Cursor for SharedCursor {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        if let Some(item) = self.item() {
            return Poll::Ready(item);
        }
        self.shared.waiting.lock().expect(POISONED).insert(self.number, context.waker().clone());
        // What was published between the look and the registration woke nobody.
        self.item().map_or(Poll::Pending, Poll::Ready)
    }

    fn request_progress(&mut self) {
        self.progress_wanted = true;
    }
}

impl Drop for SharedCursor {
    fn drop(&mut self) {
        self.shared.waiting.lock().expect(POISONED).remove(&self.number);
    }
}

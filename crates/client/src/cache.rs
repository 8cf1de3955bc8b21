//! A local copy of the objects of one kind and selector, kept up by list and watch, read as immutable snapshots.

mod index;
mod snapshot;
mod subscribe;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use stdx::{Backoff, TaskTree, backoff::jittered};
use tokio::sync::watch;

use crate::error::ClientError;
use crate::object::Key;
use crate::request::{ListOptions, Target, WatchOptions};
use crate::transport::{ObjectList, WatchEvent, WatchStream};
use crate::verbs::Client;

pub use index::Index;
pub use snapshot::Snapshot;
pub use subscribe::{Change, Changes};

use subscribe::Subscribers;

/// Which objects a cache holds, and how they are found in it.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub target: Target,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub indexes: Vec<Index>,
    /// How many objects a page of the list holds; 0 for one page of all, the right size in process.
    pub page: u32,
}

impl Watched {
    /// All objects of a target.
    pub fn new(target: Target) -> Watched {
        Watched { target, ..Watched::default() }
    }

    /// All objects of a typed kind.
    pub fn of<T: k8s_openapi::Resource>() -> Watched {
        Watched::new(Target::of::<T>())
    }

    /// Only those with these labels.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Watched {
        self.label_selector = Some(selector.into());
        self
    }

    /// Only those with these fields.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Watched {
        self.field_selector = Some(selector.into());
        self
    }

    /// Also found by this index.
    #[must_use]
    pub fn index(mut self, index: Index) -> Watched {
        self.indexes.push(index);
        self
    }
}

/// How long the first failure rests, and the longest rest; upstream's reflector rests as long.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30));
/// A watch is asked to end after 5 to 10 minutes, so that load moves on when servers come and go.
const WATCH_SECONDS: u32 = 300;
/// A watch that says nothing for so long after its end should have come is taken for dead.
const SILENCE_SLACK: Duration = Duration::from_secs(30);
/// A watch that ends sooner is counted as a failure, lest a server that ends each at once is asked without rest.
const WATCH_SHORT: Duration = Duration::from_secs(1);
/// So many events are applied at once at most, so that readers see progress under a flood.
const BATCH_MAX: usize = 512;

/// The cache; clones share it.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    client: Client,
    watched: Watched,
    published: watch::Sender<Arc<Snapshot>>,
    /// Held while a snapshot is made and told to subscribers, so that a new subscriber misses and repeats nothing.
    subscribers: Mutex<Subscribers>,
}

/// Why a watch is over.
enum WatchEnd {
    Closed,
    Failed(ClientError),
}

impl Cache {
    /// A cache that is empty until [`Cache::run`] is polled.
    pub fn new(client: Client, watched: Watched) -> Cache {
        let empty = Arc::new(Snapshot::empty(watched.indexes.clone()));
        Cache(Arc::new(Inner { client, watched, published: watch::Sender::new(empty), subscribers: Mutex::default() }))
    }

    /// A cache kept up by a task of `tree`.
    pub fn start(tree: &TaskTree, client: Client, watched: Watched) -> Cache {
        let cache = Cache::new(client, watched);
        let running = cache.clone();
        tree.spawn("cache", async move { running.run().await });
        cache
    }

    /// What the cache holds.
    pub fn watched(&self) -> &Watched {
        &self.0.watched
    }

    /// The objects as they were at some recent revision. Cheap; immutable.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.published.borrow().clone()
    }

    /// Whether a whole list has come in.
    pub fn is_synced(&self) -> bool {
        self.0.published.borrow().is_synced()
    }

    /// Waits for the first whole list.
    pub async fn synced(&self) -> Arc<Snapshot> {
        self.wait_for(0).await
    }

    /// Waits until the cache has seen everything up to `revision`.
    pub async fn wait_for(&self, revision: u64) -> Arc<Snapshot> {
        let mut published = self.0.published.subscribe();
        let has_come = |snapshot: &Arc<Snapshot>| snapshot.is_synced() && snapshot.revision() >= revision;
        let snapshot = published.wait_for(has_come).await.expect("the sender lives in self");
        snapshot.clone()
    }

    /// Waits until the snapshot differs from the one of `revision`, be it by a bookmark only.
    pub async fn progressed(&self, revision: u64) -> Arc<Snapshot> {
        let mut published = self.0.published.subscribe();
        let snapshot = published.wait_for(|snapshot| snapshot.revision() > revision).await;
        snapshot.expect("the sender lives in self").clone()
    }

    /// Changes from now on; the objects present now come first, as additions.
    pub fn subscribe(&self) -> Changes {
        let mut subscribers = self.subscribers();
        subscribers.add(&self.snapshot())
    }

    /// Lists, watches, lists again when it must, for ever. Exactly one caller polls this.
    pub async fn run(&self) {
        let mut backoff = BACKOFF;
        loop {
            match self.list().await {
                Ok(revision) => {
                    backoff.succeed();
                    self.follow(revision, &mut backoff).await;
                }
                Err(error) => self.rest(&mut backoff, "list", &error).await,
            }
        }
    }

    async fn rest(&self, backoff: &mut Backoff, what: &str, error: &ClientError) {
        let delay = jittered(backoff.fail(), stdx::random_u64());
        let resource = &self.0.watched.target.resource;
        tracing::warn!(%resource, %error, source = source_text(error), delay_ms = delay.as_millis() as u64, "{what} failed");
        stdx::sleep(delay).await;
    }

    async fn list(&self) -> Result<u64, ClientError> {
        let Watched { target, label_selector, field_selector, page, .. } = &self.0.watched;
        let options = ListOptions {
            label_selector: label_selector.clone(),
            field_selector: field_selector.clone(),
            ..ListOptions::default()
        };
        let list = self.0.client.list_pages(target.clone(), options, *page).await?;
        let revision = list.revision;
        self.replace(list);
        Ok(revision)
    }

    /// Watches from `revision` on until a new list is needed.
    async fn follow(&self, mut revision: u64, backoff: &mut Backoff) {
        loop {
            let start = stdx::mono();
            let end = self.watch(&mut revision).await;
            match end {
                WatchEnd::Failed(error) if error.is_expired() => return,
                WatchEnd::Failed(error @ ClientError::Decode { .. }) => {
                    // What came in between is lost to us; only a list tells how things are.
                    return self.rest(backoff, "watch", &error).await;
                }
                WatchEnd::Failed(error) => self.rest(backoff, "watch", &error).await,
                WatchEnd::Closed if stdx::mono() - start < WATCH_SHORT => {
                    stdx::sleep(jittered(backoff.fail(), stdx::random_u64())).await;
                }
                WatchEnd::Closed => backoff.succeed(),
            }
        }
    }

    async fn watch(&self, revision: &mut u64) -> WatchEnd {
        let Watched { target, label_selector, field_selector, .. } = &self.0.watched;
        let seconds = WATCH_SECONDS + (stdx::random_u64() % u64::from(WATCH_SECONDS)) as u32;
        let options = WatchOptions {
            label_selector: label_selector.clone(),
            field_selector: field_selector.clone(),
            resource_version: Some(revision.to_string()),
            allow_bookmarks: true,
            timeout_seconds: Some(seconds),
            ..WatchOptions::default()
        };
        let mut stream = match self.0.client.watch(target.clone(), options).await {
            Ok(stream) => stream,
            Err(error) => return WatchEnd::Failed(error),
        };
        let patience = Duration::from_secs(seconds.into()) + SILENCE_SLACK;
        loop {
            let Ok(event) = stdx::timeout(patience, stream.next()).await else { return WatchEnd::Closed };
            let (batch, end) = batch(event, &mut stream);
            if !batch.is_empty() {
                *revision = self.apply(batch).max(*revision);
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Applies events and tells subscribers; the revision reached.
    fn apply(&self, events: Vec<WatchEvent>) -> u64 {
        let mut subscribers = self.subscribers();
        let mut next = Snapshot::clone(&self.snapshot());
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    next.advance(object.revision());
                    let key = object.key().clone();
                    let old = next.insert(object.clone());
                    changes.push(Change { key, old, new: Some(object) });
                }
                WatchEvent::Deleted(object) => {
                    next.advance(object.revision());
                    if let Some(old) = next.remove(object.key()) {
                        changes.push(Change { key: object.key().clone(), old: Some(old), new: None });
                    }
                }
                WatchEvent::Bookmark { revision, .. } => next.advance(revision),
            }
        }
        let revision = next.revision();
        self.publish(&mut subscribers, next, changes);
        revision
    }

    /// Takes a whole list for the truth.
    fn replace(&self, list: ObjectList) {
        let mut subscribers = self.subscribers();
        let old = self.snapshot();
        let mut next = Snapshot::empty(self.0.watched.indexes.clone());
        next.finish_list(list.revision);
        for object in list.items {
            next.insert(object);
        }
        let changes = differences(&old, &next);
        self.publish(&mut subscribers, next, changes);
    }

    fn publish(&self, subscribers: &mut Subscribers, next: Snapshot, changes: Vec<Change>) {
        // Published first: whoever hears of a change finds it in the snapshot.
        self.0.published.send_replace(Arc::new(next));
        subscribers.tell(changes);
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.0.subscribers.lock().expect("no holder of this lock panics")
    }
}

/// The event at hand and all that have come in behind it.
fn batch(
    first: Option<Result<WatchEvent, ClientError>>,
    stream: &mut WatchStream,
) -> (Vec<WatchEvent>, Option<WatchEnd>) {
    let mut batch = Vec::new();
    let mut event = first;
    loop {
        match event {
            None => return (batch, Some(WatchEnd::Closed)),
            Some(Err(error)) => return (batch, Some(WatchEnd::Failed(error))),
            Some(Ok(arrived)) => batch.push(arrived),
        }
        if batch.len() >= BATCH_MAX {
            return (batch, None);
        }
        match stream.next().now_or_never() {
            Some(next) => event = next,
            None => return (batch, None),
        }
    }
}

fn differences(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let gone = old.iter().filter(|object| new.get_key(object.key()).is_none());
    let mut changes: Vec<Change> =
        gone.map(|object| Change { key: object.key().clone(), old: Some(object.clone()), new: None }).collect();
    for object in new.iter() {
        let before = old.get_key(object.key());
        if before.is_none_or(|before| before.revision() != object.revision() || before.uid() != object.uid()) {
            changes.push(Change { key: object.key().clone(), old: before.cloned(), new: Some(object.clone()) });
        }
    }
    changes
}

fn source_text(error: &ClientError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// The least key, where a range over all keys starts.
fn least_key() -> Key {
    Key::new("", "")
}

#[cfg(test)]
mod tests;

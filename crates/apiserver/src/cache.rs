//! The cluster's objects in memory, fed by one watch of the whole store.
//!
//! One task applies transactions in their order, so all resources together have one revision ([`Cache::revision`]).
//! Readers take immutable snapshots and wait for nobody, except when they ask for a revision that is not applied yet.

pub(crate) mod resource;
pub(crate) mod selection;
pub(crate) mod token;
pub(crate) mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Gvk, Key, Object};
use imbl::OrdMap;
use store::{RangeRequest, Store, StoreError, WatchItem};
use tokio::sync::watch;

pub(crate) use resource::{Change, Event, ResourceCache, Snapshot, TooOld};
pub(crate) use selection::Selection;
pub(crate) use token::ContinueToken;
pub(crate) use watcher::{Lagged, Told, Watcher};

use crate::catalog::Catalog;
use crate::forms::JsonForms;
use crate::refusal::{Outcome, Refusal};

/// Everything lies below this in the store, as upstream's.
pub(crate) const ROOT: &str = "/registry/";

/// How long a read waits for a revision that was seen elsewhere. Upstream waits as long.
const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);

/// The cluster's objects.
pub struct Cache {
    store: Arc<dyn Store>,
    /// By key prefix.
    resources: BTreeMap<&'static str, Arc<ResourceCache>>,
    /// The revision up to which every transaction was applied.
    applied: watch::Sender<u64>,
    /// What was encoded of objects so far.
    pub(crate) json: JsonForms,
}

/// The cache could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The store refused.
    #[error("read the store")]
    Store(#[from] StoreError),
    /// Something in the store is not what its key says.
    #[error("decode {key}")]
    Object {
        key: String,
        #[source]
        source: client::ClientError,
    },
}

type Objects = BTreeMap<&'static str, OrdMap<Key, Arc<Object>>>;

impl Cache {
    /// Reads the whole store. [`Cache::feed`] then keeps it current.
    pub async fn load(store: Arc<dyn Store>, catalog: &Catalog) -> Result<Cache, CacheError> {
        let mut kinds: BTreeMap<&'static str, (&'static dyn resources::AnyResource, Arc<Gvk>)> = BTreeMap::new();
        for served in catalog.iter() {
            let facts = served.facts();
            if let Some(prefix) = served.key_prefix() {
                kinds.insert(prefix, (served.def, Arc::new(Gvk::new(facts.group, stored_version(facts), facts.kind))));
            }
        }
        let named = kinds.iter().map(|(prefix, (_, kind))| (*prefix, kind.clone())).collect();
        let (revision, mut objects) = read_all(&*store, &named).await?;
        let caches = kinds.into_iter().map(|(prefix, (def, kind))| {
            let objects = objects.remove(prefix).unwrap_or_default();
            (prefix, Arc::new(ResourceCache::new(def, kind, objects, revision)))
        });
        Ok(Cache {
            store,
            resources: caches.collect(),
            applied: watch::Sender::new(revision),
            json: JsonForms::default(),
        })
    }

    /// Applies what the store commits, until it is closed.
    pub async fn feed(&self) {
        loop {
            let mut watch = self.store.watch(self.revision() + 1);
            let error = loop {
                match watch.next().await {
                    Ok(WatchItem::Batch(batch)) => self.apply(&batch),
                    Ok(WatchItem::Progress(revision)) => self.advance(revision),
                    Err(error) => break error,
                }
            };
            match error {
                StoreError::Closed => return,
                StoreError::Compacted { .. } => {
                    tracing::warn!("the cache fell behind the store's compaction and is read anew");
                    if let Err(error) = self.reload().await {
                        tracing::error!(%error, "read the cache anew");
                        stdx::sleep(Duration::from_secs(1)).await;
                    }
                }
                error => {
                    tracing::error!(%error, "watch the store");
                    stdx::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), CacheError> {
        let named = self.resources.iter().map(|(prefix, cache)| (*prefix, cache.kind.clone())).collect();
        let (revision, mut objects) = read_all(&*self.store, &named).await?;
        for (prefix, cache) in &self.resources {
            cache.reset(objects.remove(prefix).unwrap_or_default(), revision);
        }
        self.advance(revision);
        Ok(())
    }

    fn apply(&self, batch: &store::Batch) {
        let mut changes: BTreeMap<&'static str, Vec<Change>> = BTreeMap::new();
        for event in &batch.events {
            let Some((prefix, key)) = self.locate(&event.key) else { continue };
            let kind = &self.resources[prefix].kind;
            let object = event.value.as_ref().map(|entry| object_of(kind, entry));
            match object.transpose() {
                Ok(object) => changes.entry(prefix).or_default().push(Change { key, object }),
                // Only a foreign writer of the store can cause this; the object stays as it was last readable.
                Err(error) => tracing::error!(key = %String::from_utf8_lossy(&event.key), %error, "undecodable object"),
            }
        }
        for (prefix, changes) in changes {
            self.resources[prefix].apply(batch.revision, changes);
        }
        self.advance(batch.revision);
    }

    fn advance(&self, revision: u64) {
        self.applied.send_if_modified(|applied| {
            let newer = revision > *applied;
            *applied = (*applied).max(revision);
            newer
        });
    }

    fn locate(&self, key: &[u8]) -> Option<(&'static str, Key)> {
        locate(key, |prefix| self.resources.get_key_value(prefix).map(|(prefix, _)| *prefix))
    }

    /// The resource that lies under a key prefix.
    pub fn resource(&self, key_prefix: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(key_prefix)
    }

    /// All resources, by key prefix.
    pub fn resources(&self) -> impl Iterator<Item = (&'static str, &Arc<ResourceCache>)> {
        self.resources.iter().map(|(prefix, cache)| (*prefix, cache))
    }

    /// The revision up to which every transaction was applied.
    pub fn revision(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until something is so, looking again after each transaction.
    pub(crate) async fn when(&self, so: impl Fn() -> bool) {
        let mut applied = self.applied.subscribe();
        while !so() {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until a write of this server is applied, so that its writer finds it everywhere. The write has happened; a cache
    /// that lags does not change that.
    pub(crate) async fn catch_up(&self, revision: u64) {
        if let Err(refusal) = self.wait_for(revision).await {
            tracing::warn!(%refusal, "the cache lags behind a write");
        }
    }

    /// Waits until what was committed before the call is applied; gives the revision reached.
    pub async fn fresh(&self) -> Outcome<u64> {
        let current = self.store.current().await.map_err(store_refusal)?;
        self.wait_for(current).await
    }

    /// Waits until `revision` is applied; gives the revision reached, or refuses after upstream's patience.
    pub async fn wait_for(&self, revision: u64) -> Outcome<u64> {
        if self.revision() >= revision {
            return Ok(self.revision());
        }
        let mut applied = self.applied.subscribe();
        let reached = stdx::timeout(FRESHNESS_TIMEOUT, applied.wait_for(|applied| *applied >= revision)).await;
        match reached {
            Ok(Ok(applied)) => Ok(*applied),
            Ok(Err(_)) | Err(stdx::Elapsed) => Err(Refusal::too_large_revision(revision, self.revision())),
        }
    }
}

/// The version in which objects of a kind are kept.
pub(crate) fn stored_version(facts: &resources::Facts) -> &'static str {
    match facts.backing {
        resources::Backing::Stored { version, .. } => version,
        resources::Backing::Computed | resources::Backing::Measured => facts.version,
    }
}

/// Splits a store key into a resource's prefix and the object's key. Prefixes have one segment or two.
fn locate<'k>(key: &'k [u8], find: impl Fn(&'k str) -> Option<&'static str>) -> Option<(&'static str, Key)> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let mut ends = path.match_indices('/').map(|(at, _)| at).take(2);
    ends.find_map(|end| {
        let prefix = find(&path[..end])?;
        let (namespace, name) = path[end + 1..].rsplit_once('/').unwrap_or(("", &path[end + 1..]));
        Some((prefix, Key::new(namespace, name)))
    })
}

fn object_of(kind: &Arc<Gvk>, entry: &store::Entry) -> Result<Arc<Object>, client::ClientError> {
    Object::from_body(kind.clone(), entry.mod_revision, entry.value.clone()).map(Arc::new)
}

async fn read_all(store: &dyn Store, kinds: &BTreeMap<&'static str, Arc<Gvk>>) -> Result<(u64, Objects), CacheError> {
    let answer = store.range(RangeRequest::prefix(ROOT)).await?;
    let mut objects = Objects::new();
    for entry in &answer.entries {
        let found = locate(&entry.key, |prefix| kinds.get_key_value(prefix).map(|(prefix, _)| *prefix));
        let Some((prefix, key)) = found else { continue };
        let object = object_of(&kinds[prefix], entry)
            .map_err(|source| CacheError::Object { key: String::from_utf8_lossy(&entry.key).into_owned(), source })?;
        objects.entry(prefix).or_default().insert(key, object);
    }
    Ok((answer.revision, objects))
}

/// What a client is told about a failure of the store.
pub(crate) fn store_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Unknown { .. } => Refusal::timeout("request did not complete within requested timeout"),
        StoreError::Compacted { .. } => Refusal::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        ),
        error => {
            tracing::error!(%error, "store");
            Refusal::internal(error)
        }
    }
}

//! Caches against a little server in memory that can lose watches, compact, and fail.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use api::status::Status;
use futures_util::stream;
use proptest::prelude::*;
use stdx::{BoxFuture, Mono};

use super::*;
use crate::error::TransportError;
use crate::object::{Gvk, Object};
use crate::request::{Action, Request};
use crate::transport::{Response, Transport, bare_status};

/// A clock that stands still until the test moves it.
struct Clock(watch::Sender<Duration>);

impl stdx::context::Context for Clock {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn mono(&self) -> Mono {
        Mono(*self.0.borrow())
    }

    fn spawn(&self, _future: BoxFuture<'static, ()>) {
        unreachable!("a cache spawns nothing itself");
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (end, mut now) = (*self.0.borrow() + duration, self.0.subscribe());
        Box::pin(async move {
            // The clock outlives the tests.
            drop(now.wait_for(|now| *now >= end).await);
        })
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(0x55);
    }
}

/// A future polled under a clock.
struct Under<F>(Arc<Clock>, Pin<Box<F>>);

impl<F: Future> Future for Under<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let clock = self.0.clone();
        stdx::context::with(clock, || self.1.as_mut().poll(context))
    }
}

#[derive(Default)]
struct World {
    objects: BTreeMap<String, Arc<Object>>,
    revision: u64,
    log: Vec<(u64, WatchEvent)>,
    compacted: u64,
    /// Watches of earlier epochs have ended.
    epoch: u64,
    failures: u32,
}

/// A server of ConfigMaps.
#[derive(Default)]
struct Server {
    world: watch::Sender<World>,
    lists: AtomicU32,
    watches: AtomicU32,
}

fn object(key: &str, revision: u64, label: &str) -> Arc<Object> {
    let (namespace, name) = key.split_once('/').expect("namespace/name");
    let body = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{key}","labels":{{"app":"{label}"}}}}}}"#
    );
    let kind = Arc::new(Gvk::new("", "v1", "ConfigMap"));
    Arc::new(Object::from_body(kind, revision, body.into()).expect("an object"))
}

impl Server {
    fn put(&self, key: &str, label: &str) -> u64 {
        self.change(|world| {
            let object = object(key, world.revision, label);
            let known = world.objects.insert(key.to_owned(), object.clone()).is_some();
            let event = if known { WatchEvent::Modified(object) } else { WatchEvent::Added(object) };
            world.log.push((world.revision, event));
        })
    }

    fn delete(&self, key: &str) -> u64 {
        self.change(|world| {
            if let Some(object) = world.objects.remove(key) {
                let last = Arc::new(object.at_revision(world.revision));
                world.log.push((world.revision, WatchEvent::Deleted(last)));
            }
        })
    }

    fn bookmark(&self) -> u64 {
        self.change(|world| {
            let revision = world.revision;
            world.log.push((revision, WatchEvent::Bookmark { revision, initial_events_end: false }));
        })
    }

    fn cut(&self) {
        self.world.send_modify(|world| world.epoch += 1);
    }

    fn compact(&self) {
        self.world.send_modify(|world| {
            world.compacted = world.revision;
            world.log.clear();
            world.epoch += 1;
        });
    }

    fn fail(&self, times: u32) {
        self.world.send_modify(|world| world.failures = times);
    }

    fn change(&self, change: impl FnOnce(&mut World)) -> u64 {
        self.world.send_modify(|world| {
            world.revision += 1;
            change(world);
        });
        self.world.borrow().revision
    }

    fn failure(&self) -> Option<ClientError> {
        let mut fails = false;
        self.world.send_if_modified(|world| {
            fails = world.failures > 0;
            world.failures = world.failures.saturating_sub(1);
            false
        });
        fails.then(|| ClientError::Transport(TransportError::Lost("planted".to_owned())))
    }

    fn events(&self, from: u64) -> WatchStream {
        let (receiver, epoch) = (self.world.subscribe(), self.world.borrow().epoch);
        Box::pin(stream::unfold((receiver, from), move |(mut receiver, from)| async move {
            let next = |world: &World| world.log.iter().find(|(revision, _)| *revision > from).cloned();
            let world = receiver.wait_for(|world| world.epoch != epoch || next(world).is_some()).await.ok()?;
            if world.epoch != epoch {
                return None;
            }
            let (revision, event) = next(&world)?;
            drop(world);
            Some((Ok(event), (receiver, revision)))
        }))
    }
}

impl Transport for Server {
    fn call(&self, _request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async { Err(TransportError::Unreached("caches only list and watch".to_owned())) })
    }

    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>> {
        assert!(matches!(request.action, Action::List(_)));
        self.lists.fetch_add(1, Ordering::Relaxed);
        let result = self.failure().map_or_else(
            || {
                let world = self.world.borrow();
                let items = world.objects.values().cloned().collect();
                Ok(ObjectList { revision: world.revision, items, continue_token: None })
            },
            Err,
        );
        Box::pin(async { result })
    }

    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>> {
        let Action::Watch(options) = request.action else { panic!("not a watch") };
        self.watches.fetch_add(1, Ordering::Relaxed);
        let from: u64 = options.resource_version.expect("a revision").parse().expect("a number");
        let result = match self.failure() {
            Some(error) => Err(error),
            None if from < self.world.borrow().compacted => Err(Status::expired("too old resource version").into()),
            None => Ok(self.events(from)),
        };
        Box::pin(async { result })
    }
}

struct Fixture {
    server: Arc<Server>,
    clock: Arc<Clock>,
    cache: Cache,
    tree: TaskTree,
}

impl Fixture {
    fn new() -> Fixture {
        let server = Arc::new(Server::default());
        let clock = Arc::new(Clock(watch::Sender::new(Duration::ZERO)));
        let target = Target::new("", "v1", "configmaps");
        let watched = Watched::new(target).index(Index::label("app", "app")).index(Index::uid());
        let cache = Cache::new(Client::new(server.clone(), "test"), watched);
        Fixture { server, clock, cache, tree: TaskTree::default() }
    }

    fn start(&self) {
        let cache = self.cache.clone();
        self.tree.spawn("cache", Under(self.clock.clone(), Box::pin(async move { cache.run().await })));
    }

    /// Waits while time goes on.
    async fn until<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..100_000 {
            if let Some(output) = (&mut future).now_or_never() {
                return output;
            }
            self.clock.0.send_modify(|now| *now += Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
        panic!("nothing came of it");
    }

    fn keys(&self) -> Vec<String> {
        self.cache.snapshot().iter().map(|object| object.key().to_string()).collect()
    }
}

fn described(changes: &[Change]) -> Vec<String> {
    let revision = |object: &Option<Arc<Object>>| object.as_ref().map_or(0, |object| object.revision());
    changes.iter().map(|change| format!("{} {}>{}", change.key, revision(&change.old), revision(&change.new))).collect()
}

#[tokio::test]
async fn follows_what_happens() {
    let fixture = Fixture::new();
    fixture.server.put("a/x", "1");
    let mut changes = fixture.cache.subscribe();
    fixture.start();
    fixture.until(fixture.cache.synced()).await;
    assert_eq!(described(&fixture.until(changes.next()).await), ["a/x 0>1"]);
    fixture.server.put("a/y", "1");
    fixture.server.put("b/z", "2");
    let revision = fixture.server.put("a/x", "2");
    let snapshot = fixture.until(fixture.cache.wait_for(revision)).await;
    assert_eq!(fixture.keys(), ["a/x", "a/y", "b/z"]);
    let names = |objects: Vec<&Arc<Object>>| objects.iter().map(|object| object.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(snapshot.by_namespace("a").collect()), ["x", "y"]);
    assert_eq!(names(snapshot.by_index("app", "2").collect()), ["x", "z"]);
    assert_eq!(names(snapshot.by_index("app", "1").collect()), ["y"]);
    assert_eq!(names(snapshot.by_index("uid", "b/z").collect()), ["z"]);
    assert_eq!(snapshot.get("a", "x").map(|object| object.revision()), Some(4));
    let revision = fixture.server.delete("a/y");
    fixture.until(fixture.cache.wait_for(revision)).await;
    // The addition and deletion of a/y cancel out; the two changes of a/x are one.
    assert_eq!(described(&changes.next().await), ["a/x 1>4", "b/z 0>3"]);
    assert_eq!(fixture.keys(), ["a/x", "b/z"]);
    // The old snapshot has not changed.
    assert_eq!(snapshot.len(), 3);
    // Who comes late is told what is there.
    assert_eq!(described(&fixture.cache.subscribe().take()), ["a/x 0>4", "b/z 0>3"]);
    assert_eq!(fixture.server.lists.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn goes_on_after_a_lost_watch_without_listing() {
    let fixture = Fixture::new();
    fixture.start();
    fixture.until(fixture.cache.synced()).await;
    for round in 0..5 {
        fixture.server.cut();
        let revision = fixture.server.put("a/x", &round.to_string());
        fixture.until(fixture.cache.wait_for(revision)).await;
    }
    assert_eq!(fixture.server.lists.load(Ordering::Relaxed), 1);
    assert!(fixture.server.watches.load(Ordering::Relaxed) >= 5);
}

#[tokio::test]
async fn lists_anew_when_its_revision_is_compacted() {
    let fixture = Fixture::new();
    fixture.server.put("a/gone", "1");
    fixture.server.put("a/kept", "1");
    fixture.server.put("a/changed", "1");
    let mut changes = fixture.cache.subscribe();
    fixture.start();
    fixture.until(fixture.cache.synced()).await;
    changes.next().await;
    fixture.server.fail(u32::MAX);
    fixture.server.cut();
    fixture.server.delete("a/gone");
    fixture.server.put("a/changed", "2");
    let revision = fixture.server.put("a/new", "1");
    fixture.server.compact();
    fixture.server.fail(0);
    fixture.until(fixture.cache.wait_for(revision)).await;
    assert_eq!(described(&changes.next().await), ["a/changed 3>5", "a/gone 1>0", "a/new 0>6"]);
    assert_eq!(fixture.server.lists.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn tries_again_with_rests_in_between() {
    let fixture = Fixture::new();
    fixture.server.fail(6);
    fixture.server.put("a/x", "1");
    fixture.start();
    fixture.until(fixture.cache.synced()).await;
    assert_eq!(fixture.keys(), ["a/x"]);
    // 0.8 + 1.6 + … + 25.6 seconds at least.
    assert!(*fixture.clock.0.borrow() >= Duration::from_secs(50), "{:?}", fixture.clock.0.borrow());
    assert_eq!(fixture.server.lists.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn bookmarks_move_the_revision() {
    let fixture = Fixture::new();
    fixture.start();
    let before = fixture.until(fixture.cache.synced()).await;
    let revision = fixture.server.bookmark();
    let after = fixture.until(fixture.cache.progressed(before.revision())).await;
    assert_eq!(after.revision(), revision);
    assert!(after.is_empty());
}

#[test]
fn statuses_without_words_have_reasons() {
    assert!(ClientError::from(bare_status(410, "")).is_expired());
    assert!(ClientError::from(bare_status(409, "")).is_conflict());
    assert!(ClientError::from(bare_status(404, "")).is_not_found());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Bookmark,
    Cut,
    Compact,
    Fail(u32),
    Read,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, 0u8..3).prop_map(|(key, label)| Step::Put(key, label)),
        3 => (0u8..6).prop_map(Step::Delete),
        1 => Just(Step::Bookmark),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        1 => (0u32..3).prop_map(Step::Fail),
        2 => Just(Step::Read),
    ]
}

async fn run_steps(steps: Vec<Step>) {
    let fixture = Fixture::new();
    let mut changes = fixture.cache.subscribe();
    let mut replayed = BTreeMap::new();
    let mut replay = |changes: Vec<Change>| {
        for change in changes {
            let revision = |object: &Arc<Object>| object.revision();
            assert_eq!(replayed.get(&change.key).copied(), change.old.as_ref().map(revision), "{change:?}");
            match change.new {
                Some(object) => replayed.insert(change.key, object.revision()),
                None => replayed.remove(&change.key),
            };
        }
        replayed.clone()
    };
    fixture.start();
    let key = |key: u8| format!("{}/{}", ["a", "b"][usize::from(key % 2)], key);
    for step in steps {
        match step {
            Step::Put(at, label) => drop(fixture.server.put(&key(at), &label.to_string())),
            Step::Delete(at) => drop(fixture.server.delete(&key(at))),
            Step::Bookmark => drop(fixture.server.bookmark()),
            Step::Cut => fixture.server.cut(),
            Step::Compact => fixture.server.compact(),
            Step::Fail(times) => fixture.server.fail(times),
            Step::Read => drop(replay(changes.take())),
        }
        tokio::task::yield_now().await;
    }
    fixture.server.fail(0);
    let revision = fixture.server.bookmark();
    let snapshot = fixture.until(fixture.cache.wait_for(revision)).await;
    let held: BTreeMap<Key, u64> = snapshot.iter().map(|object| (object.key().clone(), object.revision())).collect();
    let truth: BTreeMap<Key, u64> = fixture
        .server
        .world
        .borrow()
        .objects
        .values()
        .map(|object| (object.key().clone(), object.revision()))
        .collect();
    assert_eq!(held, truth);
    assert_eq!(replay(changes.take()), truth);
    for label in ["0", "1", "2"] {
        let by_label = |object: &&Arc<Object>| object.meta().labels.get("app") == Some(label);
        let indexed: Vec<&Key> = snapshot.by_index("app", label).map(|object| object.key()).collect();
        let expected: Vec<&Key> = snapshot.iter().filter(by_label).map(|object| object.key()).collect();
        assert_eq!(indexed, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn ends_up_with_the_truth_whatever_is_lost(steps in proptest::collection::vec(any_step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(run_steps(steps));
    }
}

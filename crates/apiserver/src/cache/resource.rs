//! One resource's objects in memory: the current snapshot, a bounded window of past events, and who watches what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use client::{Gvk, Key, Object};
use imbl::OrdMap;
use resources::AnyResource;

use super::selection::{Selection, Values};
use super::watcher::{Topic, TopicKey, Watcher};
use crate::forms::Forms;

/// Events kept for watches that resume: as many as upstream keeps at most for a busy resource, as long as they are small.
const WINDOW_EVENTS_MAX: usize = 16_384;
/// Bytes of bodies kept in the window beside those that are current.
const WINDOW_BYTES_MAX: usize = 16 << 20;

/// The objects of a resource at one revision.
#[derive(Clone)]
pub struct Snapshot {
    /// The revision of the last change to this resource.
    pub revision: u64,
    pub objects: OrdMap<Key, Arc<Object>>,
}

/// One change of one object.
pub struct Event {
    pub revision: u64,
    /// The object after the change; none when it was deleted.
    pub object: Option<Arc<Object>>,
    /// The object before the change; none when it was created.
    pub previous: Option<Arc<Object>>,
    /// The object as it was last, at the revision of its deletion (or of leaving a selector).
    gone: std::sync::OnceLock<Arc<Object>>,
    /// What was encoded of this event so far.
    pub forms: Forms,
}

impl Event {
    /// The last state, at this event's revision; none for a creation.
    pub fn gone(&self) -> Option<&Arc<Object>> {
        let previous = self.previous.as_ref()?;
        Some(self.gone.get_or_init(|| Arc::new(previous.at_revision(self.revision))))
    }

    fn bytes(&self) -> usize {
        self.previous.as_ref().map_or(0, |previous| previous.body().len())
    }
}

/// What happened to a key: its new object, or its deletion.
pub struct Change {
    pub key: Key,
    pub object: Option<Arc<Object>>,
}

/// A revision is no longer in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// Events after this revision are still known.
    pub floor: u64,
}

/// One resource's part of the cache.
pub struct ResourceCache {
    pub def: &'static dyn AnyResource,
    /// The kind in its stored version.
    pub kind: Arc<Gvk>,
    snapshot: ArcSwap<Snapshot>,
    hub: Mutex<Hub>,
}

struct Hub {
    window: VecDeque<Arc<Event>>,
    window_bytes: usize,
    /// All events after this revision are in the window.
    floor: u64,
    topics: BTreeMap<TopicKey, Arc<Topic>>,
    index: Option<Index>,
}

/// The current objects by the value of the field that their kind is indexed by; made when somebody asks for it first.
struct Index {
    place: usize,
    by_value: BTreeMap<String, BTreeMap<Key, Arc<Object>>>,
}

impl Index {
    fn of(def: &'static dyn AnyResource, place: usize, objects: &OrdMap<Key, Arc<Object>>) -> Index {
        let mut index = Index { place, by_value: BTreeMap::new() };
        objects.values().for_each(|object| index.add(def, object));
        index
    }

    /// Objects without the value are many and nobody's; they are left out.
    fn value<'o>(&self, def: &'static dyn AnyResource, object: &'o Object) -> Option<&'o str> {
        Values::of(object, def).get(self.place).filter(|value| !value.is_empty())
    }

    fn add(&mut self, def: &'static dyn AnyResource, object: &Arc<Object>) {
        if let Some(value) = self.value(def, object) {
            let objects = self.by_value.entry(value.to_owned()).or_default();
            objects.insert(object.key().clone(), object.clone());
        }
    }

    fn remove(&mut self, def: &'static dyn AnyResource, object: &Object) {
        let Some(value) = self.value(def, object) else { return };
        if let Some(objects) = self.by_value.get_mut(value) {
            objects.remove(object.key());
            if objects.is_empty() {
                self.by_value.remove(value);
            }
        }
    }

    fn follow(&mut self, def: &'static dyn AnyResource, event: &Event) {
        if let Some(previous) = &event.previous {
            self.remove(def, previous);
        }
        if let Some(object) = &event.object {
            self.add(def, object);
        }
    }
}

impl ResourceCache {
    /// A cache that holds these objects, as of `revision`.
    pub fn new(
        def: &'static dyn AnyResource,
        kind: Arc<Gvk>,
        objects: OrdMap<Key, Arc<Object>>,
        revision: u64,
    ) -> ResourceCache {
        let hub =
            Hub { window: VecDeque::new(), window_bytes: 0, floor: revision, topics: BTreeMap::new(), index: None };
        ResourceCache {
            def,
            kind,
            snapshot: ArcSwap::from_pointee(Snapshot { revision, objects }),
            hub: Mutex::new(hub),
        }
    }

    /// The current objects. Never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().expect("no holder of this lock panics")
    }

    /// Takes in what one transaction changed here. Called by one task, in the order of revisions.
    pub fn apply(&self, revision: u64, changes: Vec<Change>) {
        let mut next = (*self.snapshot()).clone();
        next.revision = revision;
        let mut events = Vec::with_capacity(changes.len());
        for Change { key, object } in changes {
            let previous = match &object {
                Some(object) => next.objects.insert(key, object.clone()),
                None => next.objects.remove(&key),
            };
            if object.is_some() || previous.is_some() {
                let (gone, forms) = Default::default();
                events.push(Arc::new(Event { revision, object, previous, gone, forms }));
            }
        }
        let mut hub = self.hub();
        // Under the lock, so that a watch that starts now sees these events either in the snapshot or in its topic.
        self.snapshot.store(Arc::new(next));
        for event in events {
            if let Some(index) = &mut hub.index {
                index.follow(self.def, &event);
            }
            hub.publish(self.def, event);
        }
    }

    /// Those of the objects of the current `snapshot` whose indexed field has this value, in the order of their keys. None when that
    /// is not known: the field (by its place in the declaration) is not the indexed one, or the snapshot is not current any more.
    pub fn narrowed(&self, snapshot: &Arc<Snapshot>, place: usize, value: &str) -> Option<Vec<Arc<Object>>> {
        if self.def.indexed() != Some(place) || value.is_empty() {
            return None;
        }
        let mut hub = self.hub();
        if !Arc::ptr_eq(snapshot, &self.snapshot()) {
            return None;
        }
        let index = hub.index.get_or_insert_with(|| Index::of(self.def, place, &snapshot.objects));
        Some(index.by_value.get(value).map(|objects| objects.values().cloned().collect()).unwrap_or_default())
    }

    /// Forgets everything and starts over with these objects; open watches end as too slow.
    pub fn reset(&self, objects: OrdMap<Key, Arc<Object>>, revision: u64) {
        let mut hub = self.hub();
        self.snapshot.store(Arc::new(Snapshot { revision, objects }));
        hub.window.clear();
        hub.window_bytes = 0;
        hub.index = None;
        hub.floor = revision;
        for topic in std::mem::take(&mut hub.topics).into_values() {
            topic.close();
        }
    }

    /// Starts a watch behind `after`: first what is in the window since, then what comes.
    pub fn watch(self: &Arc<Self>, after: u64, selection: Arc<Selection>) -> Result<Watcher, TooOld> {
        let mut hub = self.hub();
        if after < hub.floor {
            return Err(TooOld { floor: hub.floor });
        }
        let start = hub.window.partition_point(|event| event.revision <= after);
        let backlog = hub.window.range(start..).filter(|event| selection.concerns(event)).cloned().collect();
        Ok(self.register(&mut hub, selection, backlog).after(after))
    }

    /// Starts a watch behind the snapshot that is returned with it.
    pub fn watch_from_now(self: &Arc<Self>, selection: Arc<Selection>) -> (Arc<Snapshot>, Watcher) {
        let mut hub = self.hub();
        let snapshot = self.snapshot();
        let watcher = self.register(&mut hub, selection, VecDeque::new());
        (snapshot, watcher)
    }

    fn register(self: &Arc<Self>, hub: &mut Hub, selection: Arc<Selection>, backlog: VecDeque<Arc<Event>>) -> Watcher {
        let key = selection.topic();
        let topic = hub.topics.entry(key.clone()).or_default().clone();
        Watcher::new(self.clone(), key, topic, selection, backlog)
    }

    /// Forgets a topic that nobody watches any more.
    pub(super) fn leave(&self, key: &TopicKey, topic: &Arc<Topic>) {
        let mut hub = self.hub();
        // One reference is the map's and one the leaving watcher's.
        if Arc::strong_count(topic) <= 2 && hub.topics.get(key).is_some_and(|known| Arc::ptr_eq(known, topic)) {
            hub.topics.remove(key);
        }
    }

    /// What happened after `revision`.
    pub fn events_since(&self, revision: u64) -> Result<Vec<Arc<Event>>, TooOld> {
        let hub = self.hub();
        if revision < hub.floor {
            return Err(TooOld { floor: hub.floor });
        }
        let start = hub.window.partition_point(|event| event.revision <= revision);
        Ok(hub.window.range(start..).cloned().collect())
    }

    /// The objects as they were at `revision`, as far back as the window reaches.
    pub fn snapshot_at(&self, revision: u64) -> Result<Snapshot, TooOld> {
        let hub = self.hub();
        let mut past = (*self.snapshot()).clone();
        if revision >= past.revision {
            return Ok(past);
        }
        if revision < hub.floor {
            return Err(TooOld { floor: hub.floor });
        }
        for event in hub.window.iter().rev().take_while(|event| event.revision > revision) {
            match (&event.previous, &event.object) {
                (Some(previous), _) => drop(past.objects.insert(previous.key().clone(), previous.clone())),
                (None, Some(object)) => drop(past.objects.remove(object.key())),
                (None, None) => {}
            }
        }
        past.revision = revision;
        Ok(past)
    }

    /// How many watches are open.
    pub fn watchers(&self) -> usize {
        self.hub().topics.values().map(|topic| Arc::strong_count(topic) - 1).sum()
    }
}

impl Hub {
    fn publish(&mut self, def: &'static dyn AnyResource, event: Arc<Event>) {
        self.window_bytes += event.bytes();
        self.window.push_back(event.clone());
        while self.window.len() > WINDOW_EVENTS_MAX || self.window_bytes > WINDOW_BYTES_MAX {
            let Some(oldest) = self.window.pop_front() else { break };
            self.window_bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
        for key in self.topics_of(def, &event) {
            if let Some(topic) = self.topics.get(&key) {
                topic.push(event.clone(), self.floor);
            }
        }
    }

    /// The topics that an event concerns, among those that somebody watches.
    fn topics_of(&self, def: &'static dyn AnyResource, event: &Event) -> Vec<TopicKey> {
        let Some(object) = event.object.as_ref().or(event.previous.as_ref()) else { return Vec::new() };
        let mut keys = vec![TopicKey::All, TopicKey::Name(object.name().to_owned())];
        if !object.namespace().is_empty() {
            keys.push(TopicKey::Namespace(object.namespace().to_owned()));
        }
        let fields = TopicKey::Field(0, String::new())..;
        if self.topics.range(fields).next().is_some() {
            let states = event.object.iter().chain(&event.previous);
            for values in states.map(|state| Values::of(state, def)) {
                keys.extend(values.iter().enumerate().map(|(index, value)| TopicKey::Field(index, value.to_owned())));
            }
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }
}

//! The objects of a cache at one revision.

use std::sync::Arc;

use imbl::OrdMap;

use super::{Index, least_key};
use crate::object::{Key, Object};

/// Objects at one revision; making the next from it copies only what changes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    objects: OrdMap<Key, Arc<Object>>,
    indexes: Vec<(Index, Entries)>,
    revision: u64,
    synced: bool,
}

/// Objects by an index's value, then by key.
type Entries = OrdMap<(Arc<str>, Key), Arc<Object>>;

impl Snapshot {
    pub(super) fn empty(indexes: Vec<Index>) -> Snapshot {
        let indexes = indexes.into_iter().map(|index| (index, OrdMap::new())).collect();
        Snapshot { objects: OrdMap::new(), indexes, revision: 0, synced: false }
    }

    /// A snapshot of given objects, for tests of pure functions that read one.
    pub fn of(indexes: Vec<Index>, revision: u64, objects: impl IntoIterator<Item = Arc<Object>>) -> Snapshot {
        let mut snapshot = Snapshot::empty(indexes);
        snapshot.finish_list(revision);
        for object in objects {
            snapshot.insert(object);
        }
        snapshot
    }

    /// Whether this comes from a whole list.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Everything up to this revision is in.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object of this name; `namespace` is empty for cluster-scoped ones.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.get_key(&Key::new(namespace, name))
    }

    /// The object at this key.
    pub fn get_key(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// All objects, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// The objects of a namespace, by name.
    pub fn by_namespace<'s>(&'s self, namespace: &'s str) -> impl Iterator<Item = &'s Arc<Object>> {
        // `namespace/` is before every `namespace/name`, and those lie side by side.
        let start = Key::new(namespace, "");
        self.objects.range(start..).map(|(_, object)| object).take_while(move |object| object.namespace() == namespace)
    }

    /// The objects for which a declared index gives this value, by key. No objects if there is no such index.
    pub fn by_index<'s>(&'s self, index: &str, value: &'s str) -> impl Iterator<Item = &'s Arc<Object>> {
        let found = self.indexes.iter().find(|(declared, _)| declared.name == index);
        debug_assert!(found.is_some(), "index {index} was not declared");
        let start: (Arc<str>, Key) = (value.into(), least_key());
        found.into_iter().flat_map(move |(_, entries)| {
            entries
                .range(start.clone()..)
                .take_while(move |((entry, _), _)| &**entry == value)
                .map(|(_, object)| object)
        })
    }

    pub(super) fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    pub(super) fn finish_list(&mut self, revision: u64) {
        self.revision = revision;
        self.synced = true;
    }

    /// Puts an object in and gives the one it replaces.
    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let old = self.objects.insert(object.key().clone(), object.clone());
        if let Some(old) = &old {
            self.unindex(old);
        }
        for (index, entries) in &mut self.indexes {
            index.each(&object, |value| {
                entries.insert((value.into(), object.key().clone()), object.clone());
            });
        }
        old
    }

    /// Takes an object out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        let old = self.objects.remove(key)?;
        self.unindex(&old);
        Some(old)
    }

    fn unindex(&mut self, object: &Object) {
        for (index, entries) in &mut self.indexes {
            index.each(object, |value| {
                entries.remove(&(value.into(), object.key().clone()));
            });
        }
    }
}

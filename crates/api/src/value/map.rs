//! Objects of the tree: a short list in insertion order, an ordered tree when there are many members.

use std::collections::{BTreeMap, btree_map};

use super::{Key, Value};

/// More members than this are kept sorted in a tree, so that hostile objects with very many keys cost no quadratic time.
/// No message has this many fields: such objects are maps, whose order means nothing and which are encoded sorted anyway.
const SMALL_MAX: usize = 64;

/// The members of an object, each key once. Iterates in insertion order, or sorted by key when there are more than 64.
#[derive(Clone)]
pub struct Map(Repr);

#[derive(Clone)]
#[expect(clippy::box_collection, reason = "a tree of its own would make every value of the tree a word larger")]
enum Repr {
    Small(Vec<(Key, Value)>),
    Large(Box<BTreeMap<Key, Value>>),
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

impl Map {
    /// An object without members.
    pub const fn new() -> Self {
        Self(Repr::Small(Vec::new()))
    }

    /// An empty object with room for `capacity` members.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Repr::Small(Vec::with_capacity(capacity.min(SMALL_MAX))))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::Small(entries) => entries.len(),
            Repr::Large(entries) => entries.len(),
        }
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match &self.0 {
            Repr::Small(entries) => entries.iter().find(|(k, _)| k.as_str() == key).map(|(_, v)| v),
            Repr::Large(entries) => entries.get(key),
        }
    }

    /// The value of `key`; faster than [`Map::get`] when the key is at hand.
    pub fn get_key(&self, key: &Key) -> Option<&Value> {
        match &self.0 {
            Repr::Small(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            Repr::Large(entries) => entries.get(key.as_str()),
        }
    }

    /// The value of `key`, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        match &mut self.0 {
            Repr::Small(entries) => entries.iter_mut().find(|(k, _)| k.as_str() == key).map(|(_, v)| v),
            Repr::Large(entries) => entries.get_mut(key),
        }
    }

    /// Whether `key` is a member.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets `key` to `value`, in its old place if it was there, and returns what it replaced.
    pub fn insert(&mut self, key: impl Into<Key>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match &mut self.0 {
            Repr::Small(entries) => match entries.iter_mut().find(|(k, _)| *k == key) {
                Some((_, old)) => Some(std::mem::replace(old, value)),
                None => {
                    self.push_new(key, value);
                    None
                }
            },
            Repr::Large(entries) => entries.insert(key, value),
        }
    }

    /// Adds a member whose key is known not to be there yet.
    pub(crate) fn push_new(&mut self, key: Key, value: Value) {
        match &mut self.0 {
            Repr::Small(entries) if entries.len() < SMALL_MAX => entries.push((key, value)),
            Repr::Small(entries) => {
                let mut large: BTreeMap<Key, Value> = std::mem::take(entries).into_iter().collect();
                large.insert(key, value);
                self.0 = Repr::Large(Box::new(large));
            }
            Repr::Large(entries) => {
                entries.insert(key, value);
            }
        }
    }

    /// The key that was added last, as far as order is kept.
    pub(crate) fn last_key(&self) -> Option<&Key> {
        match &self.0 {
            Repr::Small(entries) => entries.last().map(|(key, _)| key),
            Repr::Large(_) => None,
        }
    }

    /// The value of `key`, which is there and probably last.
    pub(crate) fn get_or_last_mut(&mut self, key: &Key) -> &mut Value {
        let found = match &mut self.0 {
            Repr::Small(entries) => entries.iter_mut().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            Repr::Large(entries) => entries.get_mut(key.as_str()),
        };
        found.expect("the caller has seen it")
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        match &mut self.0 {
            Repr::Small(entries) => {
                let at = entries.iter().position(|(k, _)| k.as_str() == key)?;
                Some(entries.remove(at).1)
            }
            Repr::Large(entries) => entries.remove(key),
        }
    }

    /// Keeps the members for which `keep` answers true.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        match &mut self.0 {
            Repr::Small(entries) => entries.retain_mut(|(k, v)| keep(k, v)),
            Repr::Large(entries) => entries.retain(|k, v| keep(k, v)),
        }
    }

    /// Takes every member out.
    pub fn clear(&mut self) {
        self.0 = Repr::Small(Vec::new());
    }

    /// The members.
    pub fn iter(&self) -> Iter<'_> {
        match &self.0 {
            Repr::Small(entries) => Iter::Small(entries.iter()),
            Repr::Large(entries) => Iter::Large(entries.iter()),
        }
    }

    /// The members, values to change.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        match &mut self.0 {
            Repr::Small(entries) => IterMut::Small(entries.iter_mut()),
            Repr::Large(entries) => IterMut::Large(entries.iter_mut()),
        }
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(key, _)| key)
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.iter().map(|(_, value)| value)
    }

    /// The value of `key`, inserted as `Null` if it is absent.
    pub fn get_or_insert_null(&mut self, key: &str) -> &mut Value {
        if !self.contains_key(key) {
            self.push_new(Key::new(key), Value::Null);
        }
        self.get_mut(key).expect("was there or was just inserted")
    }

    /// The object at `key`. Whatever else is there (nothing, null, a scalar) is replaced by an empty object.
    pub fn get_or_insert_object(&mut self, key: &str) -> &mut Map {
        let value = self.get_or_insert_null(key);
        if !matches!(value, Value::Object(_)) {
            *value = Value::Object(Map::new());
        }
        value.as_object_mut().expect("was just made an object")
    }

    /// The array at `key`. Whatever else is there is replaced by an empty array.
    pub fn get_or_insert_array(&mut self, key: &str) -> &mut Vec<Value> {
        let value = self.get_or_insert_null(key);
        if !matches!(value, Value::Array(_)) {
            *value = Value::Array(Vec::new());
        }
        value.as_array_mut().expect("was just made an array")
    }
}

impl PartialEq for Map {
    /// Equal members, in whatever order.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().zip(other.iter()).all(|((key, value), (other_key, other_value))| {
                let counterpart = if key == other_key { Some(other_value) } else { other.get_key(key) };
                counterpart.is_some_and(|counterpart| counterpart == value)
            })
    }
}

/// Iterates over the members of a [`Map`].
pub enum Iter<'a> {
    #[doc(hidden)]
    Small(std::slice::Iter<'a, (Key, Value)>),
    #[doc(hidden)]
    Large(btree_map::Iter<'a, Key, Value>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Key, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Small(entries) => entries.next().map(|(k, v)| (k, v)),
            Iter::Large(entries) => entries.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Iter::Small(entries) => entries.size_hint(),
            Iter::Large(entries) => entries.size_hint(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Iterates over the members of a [`Map`], values to change.
pub enum IterMut<'a> {
    #[doc(hidden)]
    Small(std::slice::IterMut<'a, (Key, Value)>),
    #[doc(hidden)]
    Large(btree_map::IterMut<'a, Key, Value>),
}

impl<'a> Iterator for IterMut<'a> {
    type Item = (&'a Key, &'a mut Value);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            IterMut::Small(entries) => entries.next().map(|(k, v)| (&*k, v)),
            IterMut::Large(entries) => entries.next(),
        }
    }
}

/// Iterates over the members of a [`Map`] by value.
pub enum IntoIter {
    #[doc(hidden)]
    Small(std::vec::IntoIter<(Key, Value)>),
    #[doc(hidden)]
    Large(btree_map::IntoIter<Key, Value>),
}

impl Iterator for IntoIter {
    type Item = (Key, Value);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            IntoIter::Small(entries) => entries.next(),
            IntoIter::Large(entries) => entries.next(),
        }
    }
}

impl IntoIterator for Map {
    type Item = (Key, Value);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        match self.0 {
            Repr::Small(entries) => IntoIter::Small(entries.into_iter()),
            Repr::Large(entries) => IntoIter::Large(entries.into_iter()),
        }
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Key, &'a Value);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Map {
    type Item = (&'a Key, &'a mut Value);
    type IntoIter = IterMut<'a>;

    fn into_iter(self) -> IterMut<'a> {
        self.iter_mut()
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        let mut map = Self::new();
        map.extend(members);
        map
    }
}

impl<K: Into<Key>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, members: I) {
        for (key, value) in members {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_of_insertion_and_replaces_in_place() {
        let mut map: Map = [("b", 1), ("a", 2), ("zz-unknown", 3)].into_iter().collect();
        assert_eq!(map.insert("a", 5), Some(Value::Int(2)));
        let keys: Vec<&str> = map.keys().map(|key| key.as_str()).collect();
        assert_eq!(keys, ["b", "a", "zz-unknown"]);
        assert_eq!(map.remove("b"), Some(Value::Int(1)));
        assert_eq!(map.get("b"), None);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn large_maps_behave_as_small_ones() {
        let mut map: Map = (0..200).map(|i| (format!("k{i}"), i)).collect();
        assert_eq!(map.len(), 200);
        assert_eq!(map.get("k199"), Some(&Value::Int(199)));
        assert_eq!(map.insert("k7", "seven"), Some(Value::Int(7)));
        assert_eq!(map.remove("k8"), Some(Value::Int(8)));
        map.retain(|key, _| key.as_str() < "k2");
        assert!(map.iter().all(|(key, _)| key.as_str() < "k2"));
        let reversed: Map = map.clone().into_iter().collect::<Vec<_>>().into_iter().rev().collect();
        assert_eq!(map, reversed);
    }

    #[test]
    fn order_does_not_matter_to_equality() {
        let left: Map = [("a", 1), ("b", 2)].into_iter().collect();
        let right: Map = [("b", 2), ("a", 1)].into_iter().collect();
        assert_eq!(left, right);
        let other: Map = [("b", 2), ("c", 1)].into_iter().collect();
        assert_ne!(left, other);
    }

    #[test]
    fn containers_are_made_where_there_were_none() {
        let mut map: Map = [("metadata", Value::Null)].into_iter().collect();
        map.get_or_insert_object("metadata").insert("name", "x");
        map.get_or_insert_array("items").push(Value::Int(1));
        assert_eq!(map.get("metadata").and_then(|m| m.get("name")), Some(&Value::from("x")));
        assert_eq!(map.get("items").and_then(Value::as_array).map(<[_]>::len), Some(1));
    }
}

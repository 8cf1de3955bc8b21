//! Hash maps whose order is the same in every run.
#![allow(clippy::disallowed_types, reason = "with a fixed hasher the order no longer differs from run to run")]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// A hash map with a fixed hasher. Only for keys that an attacker cannot choose, or maps bounded elsewhere.
pub type FixedMap<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// A hash set with a fixed hasher; see [`FixedMap`].
pub type FixedSet<K> = HashSet<K, BuildHasherDefault<DefaultHasher>>;

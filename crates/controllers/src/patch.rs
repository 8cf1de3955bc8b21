//! Trees for merge patches.

use std::collections::BTreeMap;

use api::value::{Map, Value};

/// An object of these fields.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut map = Map::default();
    for (name, value) in fields {
        map.insert(name, value);
    }
    Value::Object(map)
}

/// A list.
pub(crate) fn list(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

/// What makes a map of texts say `wanted`: what is no longer wanted is named, so that merging removes it.
pub(crate) fn texts(present: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> Value {
    let mut map = Map::default();
    for name in present.into_iter().flatten().map(|(name, _)| name) {
        map.insert(name.as_str(), Value::Null);
    }
    for (name, value) in wanted {
        map.insert(name.as_str(), value.as_str());
    }
    Value::Object(map)
}

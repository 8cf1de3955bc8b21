//! Missing read as empty, as upstream's types have it: a nil list is a list of nothing, an absent string is "".

use std::collections::BTreeMap;

/// The text, or "".
pub(crate) fn text(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or("")
}

/// The items, or none.
pub(crate) fn list<T>(option: &Option<Vec<T>>) -> &[T] {
    option.as_deref().unwrap_or(&[])
}

/// The items to change, or none.
pub(crate) fn list_mut<T>(option: &mut Option<Vec<T>>) -> &mut [T] {
    option.as_deref_mut().unwrap_or(&mut [])
}

/// The entries in the order of their keys, or none.
pub(crate) fn entries<V>(option: &Option<BTreeMap<String, V>>) -> impl Iterator<Item = (&String, &V)> {
    option.iter().flatten()
}

/// The value of `key`, or `None` where there is no map.
pub(crate) fn entry<'a, V>(option: &'a Option<BTreeMap<String, V>>, key: &str) -> Option<&'a V> {
    option.as_ref().and_then(|map| map.get(key))
}

/// Sets the text where it is absent or empty.
pub(crate) fn default_text(option: &mut Option<String>, value: &str) {
    if text(option).is_empty() {
        *option = Some(value.to_owned());
    }
}

/// Makes an empty list absent, so that two objects that mean the same compare as equal.
pub(crate) fn drop_empty<T>(option: &mut Option<Vec<T>>) {
    if option.as_ref().is_some_and(Vec::is_empty) {
        *option = None;
    }
}

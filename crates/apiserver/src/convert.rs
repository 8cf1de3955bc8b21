//! Between the version that is stored and the versions that are served.

use api::meta;
use api::value::{Map, Value};
use client::Object;

use crate::cache::stored_version;
use crate::catalog::{Served, group_version};
use crate::refusal::{Outcome, Refusal};

/// Fields of `v1 Event` and what they are called in `events.k8s.io/v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether the served version is the one that is stored.
pub(crate) fn is_stored(served: &Served) -> bool {
    let facts = served.facts();
    (served.group, served.version) == (facts.group, stored_version(facts))
}

/// The object as a tree in the served version, with type and resourceVersion.
pub(crate) fn tree(object: &Object, served: &Served) -> Outcome<Value> {
    let mut tree = object.tree().map_err(Refusal::internal)?;
    if !is_stored(served) {
        rename(&mut tree, EVENT_FIELDS.iter().copied());
        meta::set_type(&mut tree, &served.api_version(), served.kind);
    }
    Ok(tree)
}

/// Turns a tree in the served version into one in the version that is stored.
pub(crate) fn to_stored(tree: &mut Value, served: &Served) {
    if !is_stored(served) {
        let facts = served.facts();
        rename(tree, EVENT_FIELDS.iter().map(|(core, events)| (*events, *core)));
        meta::set_type(tree, &group_version(facts.group, stored_version(facts)), facts.kind);
    }
}

fn rename(tree: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)> + Clone) {
    let Some(members) = tree.as_object_mut() else { return };
    let renamed: Map = std::mem::take(members)
        .into_iter()
        .map(|(key, value)| {
            let new = names.clone().find(|(from, _)| key == *from).map(|(_, to)| to);
            (new.map_or(key, api::value::Key::new), value)
        })
        .collect();
    *members = renamed;
}

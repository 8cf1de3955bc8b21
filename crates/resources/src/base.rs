//! What most kinds have in common, so that a kind's file states only what is its own.

use crate::def::{ALL_VERBS, Backing, Facts, ResourceDef, Scope};
use crate::names;

/// A namespaced stored kind of the core group without subresources; a kind's facts override what differs.
pub(crate) const CORE: Facts = Facts {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    scope: Scope::Namespaced,
    backing: Backing::Computed,
    short_names: &[],
    categories: &[],
    subresources: &[],
    also_served: &[],
    verbs: ALL_VERBS,
};

/// Where a `v1` kind is stored.
pub(crate) const fn stored(key_prefix: &'static str) -> Backing {
    Backing::Stored { key_prefix, version: "v1" }
}

/// The facts of a kind that only answers to `create`.
pub(crate) const fn computed(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Facts {
    Facts { group, kind, plural, singular, scope: Scope::Cluster, verbs: &["create"], ..CORE }
}

impl<T: 'static> ResourceDef<T> {
    /// A kind without defaults, resets, rules of its own, columns or selectable fields, named by a DNS subdomain.
    pub const fn plain(facts: Facts) -> ResourceDef<T> {
        ResourceDef {
            facts,
            name_faults: names::subdomain_name,
            selectable: &[],
            indexed: None,
            read_selectable: None,
            default: |_, _| {},
            reset: |_, _, _, _| {},
            validate: |_, _, _, _, _| {},
            warnings: |_, _| Vec::new(),
            grace_seconds: None,
            columns: &[],
        }
    }
}

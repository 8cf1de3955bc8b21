//! Which resources are served under which group and version.

use std::collections::BTreeMap;

use resources::{AnyResource, Backing, Facts, Scope, Subresource};

/// A resource under one of the groups and versions in which it is served.
#[derive(Clone, Copy)]
pub struct Served {
    pub def: &'static dyn AnyResource,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

impl Served {
    /// The facts of the resource.
    pub fn facts(&self) -> &'static Facts {
        self.def.facts()
    }

    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.facts().scope == Scope::Namespaced
    }

    /// The key prefix in the store; none for what is worked out or measured.
    pub fn key_prefix(&self) -> Option<&'static str> {
        match self.facts().backing {
            Backing::Stored { key_prefix, .. } => Some(key_prefix),
            Backing::Computed | Backing::Measured => None,
        }
    }

    /// Whether `verb` is served for the object itself.
    pub fn serves(&self, verb: &str) -> bool {
        self.facts().verbs.contains(&verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.facts().subresources.iter().copied().find(|subresource| subresource_name(subresource) == name)
    }

    /// The schema of the kind in this version.
    pub fn message(&self) -> Option<&'static api::schema::Message> {
        api::schema::kind(self.group, self.version, self.kind)
    }
}

/// The last segment of a subresource's path.
pub(crate) fn subresource_name(subresource: &Subresource) -> &'static str {
    match subresource {
        Subresource::Status => "status",
        Subresource::Scale { .. } => "scale",
        Subresource::Other { name, .. } => name,
    }
}

/// The verbs of a subresource.
pub(crate) fn subresource_verbs(subresource: &Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status | Subresource::Scale { .. } => &["get", "patch", "update"],
        Subresource::Other { verbs, .. } => verbs,
    }
}

/// `group/version`, or the version alone in the core group.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Everything that is served.
#[derive(Default)]
pub struct Catalog {
    served: BTreeMap<(&'static str, &'static str, &'static str), Served>,
}

/// Groups in upstream's order of priority; clients take the first group that knows a short name or category.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    "metrics.k8s.io",
];

impl Catalog {
    /// The catalog of these resources, each in all versions it is served in.
    pub fn new(resources: &'static [&'static dyn AnyResource]) -> Catalog {
        let mut served = BTreeMap::new();
        for def in resources {
            let facts = def.facts();
            let own = (facts.group, facts.version, facts.kind);
            for (group, version, kind) in std::iter::once(own).chain(facts.also_served.iter().copied()) {
                served.insert((group, version, facts.plural), Served { def: *def, group, version, kind });
            }
        }
        Catalog { served }
    }

    /// A resource by its plural.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        self.served.get(&(group, version, plural) as &dyn TextKey3).copied()
    }

    /// All resources under a group and version, by plural.
    pub fn of_version(&self, group: &str, version: &str) -> Vec<Served> {
        self.served.values().filter(|served| served.group == group && served.version == version).copied().collect()
    }

    /// All groups in order of priority, each with its versions, the preferred one first.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: BTreeMap<&'static str, Vec<&'static str>> = BTreeMap::new();
        for (group, version, _) in self.served.keys() {
            let versions = groups.entry(group).or_default();
            if !versions.contains(version) {
                versions.push(version);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.iter_mut().for_each(|(_, versions)| versions.sort_by_key(|version| version_order(version)));
        let place = |group: &str| GROUP_ORDER.iter().position(|known| *known == group).unwrap_or(GROUP_ORDER.len());
        groups.sort_by_key(|(group, _)| place(group));
        groups
    }

    /// Every served resource, by group, version and plural.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }
}

/// Stable before beta before alpha, and newer before older.
fn version_order(version: &str) -> (u8, std::cmp::Reverse<String>) {
    let stage = if version.contains("alpha") { 2 } else { u8::from(version.contains("beta")) };
    (stage, std::cmp::Reverse(version.to_owned()))
}

/// Lets a key of static texts be looked up by borrowed ones.
trait TextKey3 {
    fn key(&self) -> (&str, &str, &str);
}

impl TextKey3 for (&str, &str, &str) {
    fn key(&self) -> (&str, &str, &str) {
        *self
    }
}

impl PartialEq for dyn TextKey3 + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn TextKey3 + '_ {}

impl PartialOrd for dyn TextKey3 + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn TextKey3 + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a> std::borrow::Borrow<dyn TextKey3 + 'a> for (&'static str, &'static str, &'static str) {
    fn borrow(&self) -> &(dyn TextKey3 + 'a) {
        self
    }
}

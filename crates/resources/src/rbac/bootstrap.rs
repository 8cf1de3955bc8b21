//! The roles and bindings that every cluster has from its first start. Upstream: `bootstrappolicy`, level 1.36.

mod cluster_roles;
mod controller_roles;
mod namespaced;

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::absent::{entries, entry, list};

/// Objects with this label are the server's own …
const LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// … and with this annotation are brought up to date at every start.
const ANNOTATION: (&str, &str) = ("rbac.authorization.kubernetes.io/autoupdate", "true");
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ_UPDATE: &[&str] = &["get", "list", "patch", "update", "watch"];

/// Whoever acts tells what happened.
const EVENTS: Rule = allow(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]);

/// A rule as a constant.
#[derive(Clone, Copy)]
struct Rule {
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    names: &'static [&'static str],
    urls: &'static [&'static str],
}

const fn allow(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> Rule {
    Rule { verbs, groups, resources, names: &[], urls: &[] }
}

const fn allow_named(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    names: &'static [&'static str],
) -> Rule {
    Rule { verbs, groups, resources, names, urls: &[] }
}

const fn allow_urls(verbs: &'static [&'static str], urls: &'static [&'static str]) -> Rule {
    Rule { verbs, groups: &[], resources: &[], names: &[], urls }
}

impl Rule {
    fn policy(&self) -> PolicyRule {
        let texts = |texts: &[&str]| {
            let mut texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            texts.sort_unstable();
            texts
        };
        let some = |list: &[&str]| (!list.is_empty()).then(|| texts(list));
        PolicyRule {
            api_groups: some(self.groups),
            non_resource_urls: some(self.urls),
            resource_names: some(self.names),
            resources: some(self.resources),
            verbs: texts(self.verbs),
        }
    }
}

/// A cluster role as a constant: its name, what it is a part of, what it is made of, and its own rules.
struct RoleFacts {
    name: &'static str,
    /// The roles that take this one's rules in.
    part_of: &'static [&'static str],
    /// The role is the sum of the roles that are parts of this name.
    sum_of: Option<&'static str>,
    rules: &'static [Rule],
}

const fn role(name: &'static str, rules: &'static [Rule]) -> RoleFacts {
    RoleFacts { name, part_of: &[], sum_of: None, rules }
}

impl RoleFacts {
    fn cluster_role(&self) -> ClusterRole {
        let mut metadata = metadata(self.name, None);
        for whole in self.part_of {
            metadata.labels.get_or_insert_default().insert(format!("{AGGREGATE}{whole}"), "true".to_owned());
        }
        let aggregation_rule = self.sum_of.map(|whole| AggregationRule {
            cluster_role_selectors: Some(vec![LabelSelector {
                match_labels: Some(BTreeMap::from([(format!("{AGGREGATE}{whole}"), "true".to_owned())])),
                ..LabelSelector::default()
            }]),
        });
        let rules = self.rules.iter().map(Rule::policy).collect();
        ClusterRole { metadata, aggregation_rule, rules: Some(rules) }
    }
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    let pair = |(key, value): (&str, &str)| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(pair(LABEL)),
        annotations: Some(pair(ANNOTATION)),
        ..ObjectMeta::default()
    }
}

/// A subject as a constant.
#[derive(Clone, Copy)]
enum Who {
    User(&'static str),
    Group(&'static str),
    /// An account in `kube-system`.
    Account(&'static str),
}

impl Who {
    fn subject(&self) -> Subject {
        let (kind, name, group, namespace) = match self {
            Who::User(name) => ("User", name, Some(super::GROUP), None),
            Who::Group(name) => ("Group", name, Some(super::GROUP), None),
            Who::Account(name) => ("ServiceAccount", name, None, Some("kube-system")),
        };
        Subject {
            kind: kind.to_owned(),
            name: (*name).to_owned(),
            api_group: group.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
        }
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(super::GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn subjects(who: &[Who]) -> Option<Vec<Subject>> {
    (!who.is_empty()).then(|| who.iter().map(Who::subject).collect())
}

/// The cluster roles. Sums are summed up already, as the aggregation controller would, so that they are right from the
/// first moment on.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let facts = cluster_roles::ROLES.iter().chain(controller_roles::ROLES);
    let mut roles: Vec<ClusterRole> = facts.map(RoleFacts::cluster_role).collect();
    roles.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
    // A sum may be part of another: view of edit, edit of admin.
    for name in ["view", "edit", "admin"] {
        let Some(at) = roles.iter().position(|role| role.metadata.name.as_deref() == Some(name)) else { continue };
        roles[at].rules = Some(sum(&roles[at], &roles));
    }
    roles
}

/// The rules of all roles that the role's selectors name, in the order of names, each once.
pub fn sum(role: &ClusterRole, roles: &[ClusterRole]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref().map_or(&[][..], |rule| list(&rule.cluster_role_selectors));
    let matches = |selector: &LabelSelector, other: &ClusterRole| {
        other.metadata.name != role.metadata.name
            && entries(&selector.match_labels).all(|(key, value)| entry(&other.metadata.labels, key) == Some(value))
    };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        for other in roles.iter().filter(|other| matches(selector, other)) {
            for rule in list(&other.rules) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

/// The cluster role bindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let binding = |name: &str, who: &[Who]| ClusterRoleBinding {
        metadata: metadata(name, None),
        role_ref: role_ref("ClusterRole", name),
        subjects: subjects(who),
    };
    let system = cluster_roles::BINDINGS.iter().map(|(name, who)| binding(name, who));
    let controllers = controller_roles::ROLES.iter().map(|role| {
        let mut made = binding(role.name, &[]);
        let account = Subject {
            kind: "ServiceAccount".to_owned(),
            name: role.name.trim_start_matches(controller_roles::PREFIX).to_owned(),
            namespace: Some("kube-system".to_owned()),
            api_group: None,
        };
        made.subjects = Some(vec![account]);
        made
    });
    system.chain(controllers).collect()
}

/// The roles in the system's namespaces.
pub fn roles() -> Vec<Role> {
    let role = |(namespace, name, rules): &(&str, &str, &[Rule])| Role {
        metadata: metadata(name, Some(namespace)),
        rules: Some(rules.iter().map(Rule::policy).collect()),
    };
    namespaced::ROLES.iter().map(role).collect()
}

/// The role bindings in the system's namespaces.
pub fn role_bindings() -> Vec<RoleBinding> {
    let binding = |(namespace, name, role, who): &(&str, &str, &str, &[Who])| RoleBinding {
        metadata: metadata(name, Some(namespace)),
        role_ref: role_ref("Role", role),
        subjects: subjects(who),
    };
    namespaced::BINDINGS.iter().map(binding).collect()
}

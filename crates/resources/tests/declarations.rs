//! Properties of every declared kind.

mod judge;

use std::collections::BTreeSet;

use api::projection::Source;
use judge::{created, defaulted, prepared, resource_of, samples, tree};
use resources::rbac::bootstrap;
use resources::{AnyResource, Backing, RESOURCES, SUBRESOURCE_KINDS, Scope, Subresource, Writer};

#[test]
fn there_is_a_sample_of_every_kind() {
    let key = |resource: &dyn AnyResource| (resource.facts().group, resource.facts().kind);
    let declared: BTreeSet<_> = RESOURCES.iter().chain(SUBRESOURCE_KINDS).map(|resource| key(*resource)).collect();
    let sampled: BTreeSet<_> = samples().iter().map(|sample| key(resource_of(sample))).collect();
    assert_eq!(declared, sampled);
    assert_eq!(declared.len(), RESOURCES.len() + SUBRESOURCE_KINDS.len(), "a kind is declared twice");
}

#[test]
fn defaulting_twice_changes_nothing_more() {
    for sample in samples() {
        let once = defaulted(&sample);
        assert_eq!(defaulted(&once), once);
    }
}

#[test]
fn good_objects_are_accepted_and_stay_good() {
    for sample in samples() {
        let stored = created(&sample);
        assert_eq!(defaulted(&stored), stored, "what is stored is defaulted");
        let (again, faults) = prepared(&stored, Some(&stored), Writer::Main);
        assert_eq!(faults, Vec::<String>::new(), "{stored:#}");
        assert_eq!(again, stored, "an update that changes nothing changes nothing");
    }
}

#[test]
fn a_row_has_a_cell_for_every_column() {
    for sample in samples() {
        let resource = resource_of(&sample);
        let row = resource.row(&tree(&sample)).expect("the sample has its kind's shape");
        assert_eq!(row.len(), resource.columns().len());
        let shown = resource.facts().backing != Backing::Computed;
        assert_eq!(shown, !row.is_empty(), "{} is shown in lists, if there are any", resource.facts().kind);
    }
}

#[test]
fn selectable_values_come_in_the_order_of_their_names() {
    for sample in samples() {
        let resource = resource_of(&sample);
        let values = resource.selectable_values(&tree(&sample)).expect("the sample has its kind's shape");
        assert_eq!(values.len(), resource.selectable().len());
    }
}

#[test]
fn selectable_values_read_from_the_stored_form_are_those_of_the_typed_object() {
    for sample in samples() {
        let resource = resource_of(&sample);
        let facts = resource.facts();
        let tree = tree(&sample);
        let message = api::schema::kind(facts.group, facts.version, facts.kind).expect("a schema");
        let body = api::codec::protobuf::encode(&tree, message).expect("a sample has a protobuf form");
        let source = Source { group: facts.group, version: facts.version, kind: facts.kind, body: &body, meta: None };
        let read = resource.read_selectable(&source).expect("it was just written");
        assert_eq!(read, resource.selectable_values(&tree).expect("its kind's shape"), "{}", facts.kind);
    }
}

#[test]
fn store_keys_are_distinct() {
    let prefixes: Vec<_> = RESOURCES
        .iter()
        .filter_map(|resource| match resource.facts().backing {
            Backing::Stored { key_prefix, .. } => Some(key_prefix),
            Backing::Computed | Backing::Measured => None,
        })
        .collect();
    let distinct: BTreeSet<_> = prefixes.iter().collect();
    assert_eq!(distinct.len(), prefixes.len());
}

/// Group, kind, plural, singular, short names and categories, namespaced, verbs, subresources with their verbs: as
/// upstream's discovery says, verbs by their first letters.
#[allow(clippy::type_complexity)] // a table
const DISCOVERY: &[(&str, &str, &str, &str, &str, bool, &str, &str)] = &[
    ("", "Binding", "bindings", "binding", "", true, "c", ""),
    ("", "ConfigMap", "configmaps", "configmap", "cm", true, "cdDglpuw", ""),
    ("", "Endpoints", "endpoints", "endpoints", "ep", true, "cdDglpuw", ""),
    ("", "Event", "events", "event", "ev", true, "cdDglpuw", ""),
    ("", "Namespace", "namespaces", "namespace", "ns", false, "cdglpuw", "finalize:u status:gpu"),
    ("", "Node", "nodes", "node", "no", false, "cdDglpuw", "proxy:cdgpu status:gpu"),
    (
        "",
        "Pod",
        "pods",
        "pod",
        "po all",
        true,
        "cdDglpuw",
        "attach:cg binding:c ephemeralcontainers:gpu eviction:c exec:cg log:g portforward:cg proxy:cdgpu resize:gpu status:gpu",
    ),
    ("", "Secret", "secrets", "secret", "", true, "cdDglpuw", ""),
    ("", "ServiceAccount", "serviceaccounts", "serviceaccount", "sa", true, "cdDglpuw", "token:c"),
    ("", "Service", "services", "service", "svc all", true, "cdDglpuw", "proxy:cdgpu status:gpu"),
    ("apps", "Deployment", "deployments", "deployment", "deploy all", true, "cdDglpuw", "scale:gpu status:gpu"),
    ("apps", "ReplicaSet", "replicasets", "replicaset", "rs all", true, "cdDglpuw", "scale:gpu status:gpu"),
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", "", false, "c", ""),
    ("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview", "", false, "c", ""),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "",
        true,
        "c",
        "",
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "",
        false,
        "c",
        "",
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "",
        false,
        "c",
        "",
    ),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", "", false, "c", ""),
    (
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
        "csr",
        false,
        "cdDglpuw",
        "approval:gpu status:gpu",
    ),
    ("coordination.k8s.io", "Lease", "leases", "lease", "", true, "cdDglpuw", ""),
    ("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslice", "", true, "cdDglpuw", ""),
    ("metrics.k8s.io", "NodeMetrics", "nodes", "", "", false, "gl", ""),
    ("metrics.k8s.io", "PodMetrics", "pods", "", "", true, "gl", ""),
    ("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass", "", false, "cdDglpuw", ""),
    (
        "policy",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        "pdb",
        true,
        "cdDglpuw",
        "status:gpu",
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "clusterrolebindings",
        "clusterrolebinding",
        "",
        false,
        "cdDglpuw",
        "",
    ),
    ("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", "clusterrole", "", false, "cdDglpuw", ""),
    ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", "rolebinding", "", true, "cdDglpuw", ""),
    ("rbac.authorization.k8s.io", "Role", "roles", "role", "", true, "cdDglpuw", ""),
    ("scheduling.k8s.io", "PriorityClass", "priorityclasses", "priorityclass", "pc", false, "cdDglpuw", ""),
];

fn letters(verbs: &[&str]) -> String {
    verbs.iter().map(|verb| if *verb == "deletecollection" { "D" } else { &verb[..1] }).collect()
}

fn subresource(subresource: &Subresource) -> String {
    match subresource {
        Subresource::Status => "status:gpu".to_owned(),
        Subresource::Scale { .. } => "scale:gpu".to_owned(),
        Subresource::Other { name, verbs, .. } => format!("{name}:{}", letters(verbs)),
    }
}

#[test]
fn identity_equals_upstreams_discovery() {
    let found: Vec<_> = RESOURCES
        .iter()
        .map(|resource| {
            let facts = resource.facts();
            let words: Vec<&str> = facts.short_names.iter().chain(facts.categories).copied().collect();
            let subresources: Vec<String> = facts.subresources.iter().map(subresource).collect();
            (facts, words.join(" "), letters(facts.verbs), subresources.join(" "))
        })
        .collect();
    assert_eq!(found.len(), DISCOVERY.len());
    for ((facts, words, verbs, subresources), expected) in found.iter().zip(DISCOVERY) {
        let namespaced = facts.scope == Scope::Namespaced;
        let row = (
            facts.group,
            facts.kind,
            facts.plural,
            facts.singular,
            words.as_str(),
            namespaced,
            verbs.as_str(),
            subresources.as_str(),
        );
        assert_eq!(row, *expected);
        assert_eq!(facts.version, if facts.group == "metrics.k8s.io" { "v1beta1" } else { "v1" });
    }
}

#[test]
fn bootstrap_objects_are_good_objects() {
    fn all<T: serde::Serialize>(objects: Vec<T>) -> impl Iterator<Item = serde_json::Value> {
        objects.into_iter().map(|object| serde_json::to_value(object).expect("a typed object is JSON"))
    }
    let rbac = all(bootstrap::cluster_roles()).chain(all(bootstrap::cluster_role_bindings()));
    let namespaced = all(bootstrap::roles()).chain(all(bootstrap::role_bindings()));
    let classes = all(resources::scheduling::priority_class::system_classes());
    let mut seen = BTreeSet::new();
    for object in rbac.chain(namespaced).chain(classes) {
        let stored = created(&object);
        let metadata = &stored["metadata"];
        assert!(
            seen.insert(format!("{} {} {}", stored["kind"], metadata["namespace"], metadata["name"])),
            "{stored:#}"
        );
    }
}

#[test]
fn every_bootstrap_binding_gives_a_role_there_is() {
    let named = |name: &Option<String>| name.clone().expect("a bootstrap object has a name");
    let cluster_roles: BTreeSet<String> =
        bootstrap::cluster_roles().iter().map(|role| named(&role.metadata.name)).collect();
    for binding in bootstrap::cluster_role_bindings() {
        assert!(cluster_roles.contains(&binding.role_ref.name), "{}", binding.role_ref.name);
    }
    let roles: BTreeSet<_> =
        bootstrap::roles().into_iter().map(|role| (role.metadata.namespace, named(&role.metadata.name))).collect();
    for binding in bootstrap::role_bindings() {
        assert!(
            roles.contains(&(binding.metadata.namespace, binding.role_ref.name.clone())),
            "{}",
            binding.role_ref.name
        );
    }
}

#[test]
fn admin_sums_up_edit_and_view() {
    let roles = bootstrap::cluster_roles();
    let rules = |name: &str| {
        let role = roles.iter().find(|role| role.metadata.name.as_deref() == Some(name));
        role.and_then(|role| role.rules.clone()).unwrap_or_else(|| panic!("{name} has rules"))
    };
    let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
    assert!(view.iter().all(|rule| edit.contains(rule)) && edit.iter().all(|rule| admin.contains(rule)));
    assert!(view.len() < edit.len() && edit.len() < admin.len());
    let can = |rules: &[k8s_openapi::api::rbac::v1::PolicyRule], verb: &str, resource: &str| {
        rules.iter().any(|rule| {
            rule.verbs.iter().any(|found| found == verb)
                && rule.resources.iter().flatten().any(|found| found == resource)
        })
    };
    assert!(can(&admin, "create", "roles") && !can(&edit, "create", "roles"));
    assert!(can(&edit, "get", "secrets") && !can(&view, "get", "secrets"));
}

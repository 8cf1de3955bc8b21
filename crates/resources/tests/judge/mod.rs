//! Puts an object through default, reset and validation, as the API server does.
#![allow(dead_code)] // each test file uses its part

use api::value::{Value, from_value, to_value};
use resources::{AnyResource, Rules, Writer};
use serde_json::{Value as Json, json};

/// The moment of every request of these tests.
pub fn rules() -> Rules<'static> {
    Rules { now: jiff::Timestamp::UNIX_EPOCH, user: "tester", dry_run: false }
}

pub fn resource_of(object: &Json) -> &'static dyn AnyResource {
    let api_version = object["apiVersion"].as_str().expect("an apiVersion");
    let kind = object["kind"].as_str().expect("a kind");
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    resources::find(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind} is declared"))
}

pub fn tree(json: &Json) -> Value {
    to_value(json).expect("JSON is a tree")
}

pub fn json(tree: &Value) -> Json {
    from_value(tree).expect("a tree is JSON")
}

pub fn defaulted(object: &Json) -> Json {
    let mut tree = tree(object);
    resource_of(object).default(&mut tree, &rules()).expect("the object has its kind's shape");
    json(&tree)
}

/// The object to store and its faults, one a line.
pub fn prepared(new: &Json, old: Option<&Json>, writer: Writer) -> (Json, Vec<String>) {
    let resource = resource_of(new);
    let mut new = tree(&defaulted(new));
    let old = old.map(tree);
    let faults = resource.prepare(&mut new, old.as_ref(), writer, &rules()).expect("the object has its kind's shape");
    let lines = faults.faults().iter().map(ToString::to_string).collect();
    (json(&new), lines)
}

/// The object as it is stored when it is created.
pub fn created(object: &Json) -> Json {
    let (stored, faults) = prepared(object, None, Writer::Create);
    assert_eq!(faults, Vec::<String>::new(), "{object:#}");
    stored
}

/// The object with values put at JSON pointers; `null` removes, a missing parent appears.
pub fn with(object: &Json, changes: &[(&str, Json)]) -> Json {
    let mut object = object.clone();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = parent_at(&mut object, parent);
        match parent {
            Json::Array(items) if key == "-" => items.push(value.clone()),
            Json::Array(items) => items[key.parse::<usize>().expect("an index")] = value.clone(),
            Json::Object(fields) if value.is_null() => drop(fields.remove(&key.replace("~1", "/"))),
            Json::Object(fields) => drop(fields.insert(key.replace("~1", "/"), value.clone())),
            other => panic!("{pointer}: {other} has no fields"),
        }
    }
    object
}

fn parent_at<'a>(object: &'a mut Json, pointer: &str) -> &'a mut Json {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        at = match at {
            Json::Array(items) => &mut items[key.parse::<usize>().expect("an index")],
            Json::Object(fields) => fields.entry(key.replace("~1", "/")).or_insert_with(|| json!({})),
            other => panic!("{pointer}: {other} has no fields"),
        };
    }
    at
}

/// Creating the object with these changes has exactly these faults, whatever their order.
#[track_caller]
pub fn check(object: &Json, changes: &[(&str, Json)], expected: &[&str]) {
    let (_, faults) = prepared(&with(object, changes), None, Writer::Create);
    same(faults, expected);
}

/// Changing the stored object so has exactly these faults.
#[track_caller]
pub fn check_update(object: &Json, changes: &[(&str, Json)], expected: &[&str]) {
    let stored = created(object);
    let (_, faults) = prepared(&with(&stored, changes), Some(&stored), Writer::Main);
    same(faults, expected);
}

#[track_caller]
pub fn same(mut found: Vec<String>, expected: &[&str]) {
    let mut expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "\nfound:\n{}\n", found.join("\n"));
}

pub fn pod() -> Json {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "nginx:1"}]}
    })
}

pub fn deployment() -> Json {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "nginx:1"}]}
            }
        }
    })
}

pub fn service() -> Json {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 3000}]}
    })
}

pub fn signing_request() -> Json {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "a"},
        "spec": {"request": "", "signerName": "example.com/ours", "usages": ["client auth"]}
    })
}

/// One good object of every kind.
pub fn samples() -> Vec<Json> {
    let named =
        |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": "default"}});
    let of = |api_version: &str, kind: &str, rest: Json| {
        let mut object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "default"}});
        for (key, value) in rest.as_object().expect("an object") {
            object[key] = value.clone();
        }
        object
    };
    let cluster = |mut object: Json| {
        object["metadata"].as_object_mut().expect("metadata").remove("namespace");
        object
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let (who, may) = ("authentication.k8s.io/v1", "authorization.k8s.io/v1");
    let role_ref = json!({"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"});
    let asked = json!({"user": "a", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}});
    let mut slices = of("discovery.k8s.io/v1", "EndpointSlice", json!({"addressType": "IPv4"}));
    slices["endpoints"] = json!([{"addresses": ["10.0.0.1"]}]);
    slices["ports"] = json!([{"port": 80}]);
    let mut replica_set = deployment();
    replica_set["kind"] = json!("ReplicaSet");
    let bare = |api_version: &str, kind: &str, spec: Json| json!({"apiVersion": api_version, "kind": kind, "metadata": {}, "spec": spec});
    let mut all = vec![
        pod(),
        deployment(),
        replica_set,
        service(),
        slices,
        with(&named("Binding"), &[("/target/kind", json!("Node")), ("/target/name", json!("n"))]),
        with(&named("ConfigMap"), &[("/data/a", json!("b"))]),
        with(
            &named("Endpoints"),
            &[("/subsets", json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]))],
        ),
        with(
            &named("Event"),
            &[("/involvedObject/namespace", json!("default")), ("/involvedObject/kind", json!("Pod"))],
        ),
        cluster(named("Namespace")),
        cluster(named("Node")),
        with(&named("Secret"), &[("/stringData/a", json!("b"))]),
        named("ServiceAccount"),
        of("coordination.k8s.io/v1", "Lease", json!({"spec": {"leaseDurationSeconds": 40}})),
        of(rbac, "Role", json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
        cluster(of(rbac, "ClusterRole", json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}))),
        of(rbac, "RoleBinding", json!({"roleRef": role_ref.clone(), "subjects": [{"kind": "User", "name": "a"}]})),
        cluster(of(
            rbac,
            "ClusterRoleBinding",
            json!({"roleRef": role_ref, "subjects": [{"kind": "Group", "name": "a"}]}),
        )),
        cluster(of("scheduling.k8s.io/v1", "PriorityClass", json!({"value": 7}))),
        bare(may, "SubjectAccessReview", asked.clone()),
        bare(may, "SelfSubjectAccessReview", json!({"nonResourceAttributes": {"verb": "get", "path": "/"}})),
        bare(may, "SelfSubjectRulesReview", json!({"namespace": "default"})),
        with(&bare(may, "LocalSubjectAccessReview", asked), &[("/metadata/namespace", json!("default"))]),
        bare(who, "TokenReview", json!({"token": "t"})),
        json!({"apiVersion": who, "kind": "SelfSubjectReview", "metadata": {}}),
        bare(who, "TokenRequest", json!({"audiences": ["a"]})),
    ];
    all.extend(node_life());
    all
}

/// Of the kinds by which nodes come, go and are emptied.
fn node_life() -> [Json; 6] {
    let meta = json!({"name": "a", "namespace": "default"});
    let selector = json!({"matchLabels": {"app": "a"}});
    [
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}),
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta,
            "spec": {"minAvailable": "50%", "selector": selector},
        }),
        json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "a"}, "handler": "runc",
            "overhead": {"podFixed": {"memory": "64Mi"}},
        }),
        signing_request(),
        json!({
            "apiVersion": "metrics.k8s.io/v1beta1", "kind": "NodeMetrics", "metadata": {"name": "a"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "10.5s", "usage": {"cpu": "1n", "memory": "4Ki"},
        }),
        json!({
            "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": meta,
            "timestamp": "2026-01-01T00:00:00Z", "window": "10.5s",
            "containers": [{"name": "c", "usage": {"cpu": "1n", "memory": "4Ki"}}],
        }),
    ]
}

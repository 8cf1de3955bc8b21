//! The other kinds: configuration, identities, nodes, events, leases, rights and questions about them.

mod judge;

use judge::{check, check_update, created, defaulted, prepared, resource_of, same, samples, tree, with};
use resources::{Cell, Writer};
use serde_json::{Value as Json, json};

fn sample(kind: &str) -> Json {
    samples().into_iter().find(|sample| sample["kind"] == kind).unwrap_or_else(|| panic!("a sample {kind}"))
}

fn row(object: &Json) -> Vec<String> {
    let cells = resource_of(object).row(&tree(object)).expect("the object has its kind's shape");
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        Cell::Int(number) => number.to_string(),
        Cell::Bool(truth) => truth.to_string(),
        Cell::Since(moment) => moment.map_or("<unknown>".to_owned(), |moment| moment.to_string()),
        other => format!("{other:?}"),
    };
    cells.iter().map(text).collect()
}

const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

#[test]
fn configuration_has_good_keys_and_an_end() {
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| check(&sample("ConfigMap"), changes, expected);
    refuse(&[("/data", json!({"a/b": ""}))], &[&format!("data[a/b]: Invalid value: \"a/b\": {KEY}")]);
    refuse(
        &[("/binaryData", json!({"a": "AA=="}))],
        &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
    );
    refuse(&[("/data/a", json!("x".repeat(1024 * 1024 + 1)))], &[": Too long: may not be more than 1048576 bytes"]);
    let frozen = with(&sample("ConfigMap"), &[("/immutable", json!(true))]);
    check_update(
        &frozen,
        &[("/immutable", json!(false)), ("/data/a", json!("c"))],
        &[
            "data: Forbidden: field is immutable when `immutable` is set",
            "immutable: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    assert_eq!(row(&with(&sample("ConfigMap"), &[("/binaryData", json!({"b": "AA=="}))]))[1], "2");
}

#[test]
fn a_secret_is_of_a_type() {
    let stored = created(&with(&sample("Secret"), &[("/data/a", json!("eA=="))]));
    assert_eq!(
        (&stored["type"], &stored["data"], &stored["stringData"]),
        (&json!("Opaque"), &json!({"a": "Yg=="}), &Json::Null)
    );
    let refuse = |type_: &str, expected: &[&str]| check(&sample("Secret"), &[("/type", json!(type_))], expected);
    refuse("kubernetes.io/tls", &["data[tls.crt]: Required value", "data[tls.key]: Required value"]);
    refuse("kubernetes.io/dockerconfigjson", &["data[.dockerconfigjson]: Required value"]);
    refuse("kubernetes.io/dockercfg", &["data[.dockercfg]: Required value"]);
    refuse("kubernetes.io/basic-auth", &["data[password]: Required value", "data[username]: Required value"]);
    refuse("kubernetes.io/ssh-auth", &["data[ssh-privatekey]: Required value"]);
    refuse(
        "kubernetes.io/service-account-token",
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    check_update(&sample("Secret"), &[("/type", json!("a"))], &["type: Invalid value: \"a\": field is immutable"]);
    let json = ("/stringData", json!({".dockerconfigjson": "{"}));
    let (_, faults) = prepared(
        &with(&sample("Secret"), &[("/type", json!("kubernetes.io/dockerconfigjson")), json]),
        None,
        Writer::Create,
    );
    assert!(
        faults[0].starts_with("data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": "),
        "{faults:?}"
    );
    check(
        &sample("Secret"),
        &[("/stringData/a", json!("x".repeat(1024 * 1024 + 1)))],
        &["data: Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn a_namespace_starts_active_with_its_finalizer_and_label() {
    let stored = created(&sample("Namespace"));
    assert_eq!(stored["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(stored["status"], json!({"phase": "Active"}));
    assert_eq!(stored["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
    let emptied = with(&stored, &[("/spec/finalizers", json!([]))]);
    assert_eq!(prepared(&emptied, Some(&stored), Writer::Main).0["spec"], stored["spec"]);
    assert_eq!(prepared(&emptied, Some(&stored), Writer::Finalize).0["spec"]["finalizers"], json!([]));
    let ended = with(&stored, &[("/status/phase", json!("Terminating"))]);
    same(
        prepared(&ended, Some(&stored), Writer::Status).1,
        &["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"],
    );
    check(
        &sample("Namespace"),
        &[("/spec/finalizers", json!(["x"]))],
        &["spec.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"],
    );
    check(
        &sample("Namespace"),
        &[("/metadata/namespace", json!("b"))],
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
}

#[test]
fn finalizers_do_not_join_a_funeral() {
    let mut stored = created(&sample("Namespace"));
    stored["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    let late = with(&stored, &[("/metadata/finalizers", json!(["a.b/c"]))]);
    same(
        prepared(&late, Some(&stored), Writer::Main).1,
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/c\"}",
        ],
    );
    let alive = with(&stored, &[("/metadata/deletionTimestamp", json!(null))]);
    assert_eq!(
        prepared(&alive, Some(&stored), Writer::Main).0["metadata"]["deletionTimestamp"],
        "2024-01-01T00:00:00Z"
    );
}

#[test]
fn refuses_bad_nodes() {
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| check(&sample("Node"), changes, expected);
    refuse(
        &[(
            "/spec/taints",
            json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": ""}]),
        )],
        &[
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            "metadata.taints[2].effect: Required value",
        ],
    );
    refuse(
        &[("/spec/podCIDRs", json!(["10.0.0.0/24", "10.0.1.0/24"]))],
        &[
            "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
        ],
    );
    refuse(
        &[("/status/capacity", json!({"cpu": "-1"}))],
        &[
            "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
            "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    let given = with(&sample("Node"), &[("/spec/podCIDR", json!("10.0.0.0/24")), ("/spec/providerID", json!("a"))]);
    assert_eq!(created(&given)["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
    check_update(
        &given,
        &[
            ("/spec/podCIDR", json!("10.0.1.0/24")),
            ("/spec/podCIDRs", json!(["10.0.1.0/24"])),
            ("/spec/providerID", json!("b")),
        ],
        &[
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
        ],
    );
}

#[test]
fn nodes_are_shown_with_status_and_roles() {
    let ready = |status: &str| ("/status/conditions", json!([{"type": "Ready", "status": status}]));
    let check = |changes: &[(&str, Json)], expected: [&str; 2]| {
        assert_eq!(row(&with(&sample("Node"), changes))[1..3], expected);
    };
    check(&[], ["Unknown", "<none>"]);
    check(
        &[ready("True"), ("/metadata/labels", json!({"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a"}))],
        ["Ready", "a,b"],
    );
    check(&[ready("False"), ("/spec/unschedulable", json!(true))], ["NotReady,SchedulingDisabled", "<none>"]);
    let wide =
        row(&with(&sample("Node"), &[("/status/addresses", json!([{"type": "InternalIP", "address": "10.0.0.1"}]))]));
    assert_eq!(wide[5..], ["10.0.0.1", "<none>", "<unknown>", "<unknown>", "<unknown>"]);
}

#[test]
fn events_are_about_their_namespace() {
    let event = sample("Event");
    check(
        &event,
        &[("/involvedObject/namespace", json!("other"))],
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    let newer = ("/eventTime", json!("2024-01-01T00:00:00.000000Z"));
    check(
        &event,
        &[newer],
        &[
            "action: Required value",
            "reason: Required value",
            "reportingComponent: Invalid value: \"\": name part must be non-empty",
            "reportingComponent: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "reportingComponent: Required value",
            "reportingInstance: Required value",
        ],
    );
    let object = with(
        &event,
        &[
            ("/involvedObject/name", json!("p")),
            ("/lastTimestamp", json!("2024-01-02T00:00:00Z")),
            ("/firstTimestamp", json!("2024-01-01T00:00:00Z")),
            ("/source", json!({"component": "kubelet", "host": "n"})),
            ("/reason", json!("Started")),
            ("/type", json!("Normal")),
            ("/message", json!(" hello ")),
        ],
    );
    assert_eq!(
        row(&object),
        [
            "2024-01-02T00:00:00Z",
            "Normal",
            "Started",
            "pod/p",
            "",
            "kubelet, n",
            "hello",
            "2024-01-01T00:00:00Z",
            "1",
            "a"
        ]
    );
    let resource = resource_of(&object);
    let values = resource.selectable_values(&tree(&object)).expect("the event has its shape");
    let source = resource.selectable().iter().position(|field| *field == "source").expect("source is selectable");
    assert_eq!(values[source], "kubelet");
}

#[test]
fn refuses_bad_leases_classes_and_bindings() {
    check(
        &sample("Lease"),
        &[("/spec", json!({"leaseDurationSeconds": 0, "leaseTransitions": -1}))],
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    let class = sample("PriorityClass");
    check(
        &class,
        &[("/value", json!(1_000_000_001))],
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    check(
        &class,
        &[("/metadata/name", json!("system-mine"))],
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
        ],
    );
    check_update(&class, &[("/value", json!(8))], &["value: Forbidden: may not be changed in an update."]);
    check(
        &sample("Binding"),
        &[("/target", json!({"kind": "Pod"}))],
        &[
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value",
        ],
    );
    assert_eq!(row(&class), ["a", "7", "false", "<unknown>", ""]);
}

#[test]
fn refuses_bad_roles() {
    let rules = |kind: &str, rules: Json, expected: &[&str]| check(&sample(kind), &[("/rules", rules)], expected);
    rules(
        "Role",
        json!([{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/"], "resources": ["a"]}]),
        &[
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[1].nonResourceURLs: Invalid value: [\"/\"]: namespaced rules cannot apply to non-resource URLs",
            "rules[1].nonResourceURLs: Invalid value: [\"/\"]: rules cannot apply to both regular resources and non-resource URLs",
        ],
    );
    check(
        &sample("ClusterRole"),
        &[("/aggregationRule", json!({})), ("/metadata/name", json!("a:b"))],
        &[
            "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
        ],
    );
    check(
        &sample("ClusterRole"),
        &[("/metadata/name", json!("a/b"))],
        &["metadata.name: Invalid value: \"a/b\": may not contain '/'"],
    );
}

#[test]
fn refuses_bad_role_bindings() {
    let binding = sample("ClusterRoleBinding");
    check(
        &binding,
        &[("/roleRef", json!({"kind": "Role", "name": "", "apiGroup": "x"}))],
        &[
            "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "roleRef.name: Required value",
        ],
    );
    check(
        &binding,
        &[("/subjects", json!([{"kind": "ServiceAccount", "name": "a"}, {"kind": "Robot", "name": ""}]))],
        &[
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            "subjects[1].name: Required value",
        ],
    );
    check_update(
        &binding,
        &[("/roleRef/name", json!("edit"))],
        &[
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef",
        ],
    );
    let stored = defaulted(&sample("RoleBinding"));
    assert_eq!(stored["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let account = with(&stored, &[("/subjects/-", json!({"kind": "ServiceAccount", "name": "s", "namespace": "n"}))]);
    assert_eq!(row(&account)[1..], ["ClusterRole/view", "<unknown>", "a", "", "n/s"]);
}

#[test]
fn questions_have_rules_too() {
    check(
        &sample("SubjectAccessReview"),
        &[("/spec/user", json!(null)), ("/spec/nonResourceAttributes", json!({"path": "/"}))],
        &[
            "spec.nonResourceAttributes: Invalid value: {\"path\":\"/\"}: cannot be specified in combination with resourceAttributes",
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ],
    );
    check(
        &sample("LocalSubjectAccessReview"),
        &[("/spec/resourceAttributes/namespace", json!("other"))],
        &["spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"],
    );
    check(&sample("TokenReview"), &[("/spec/token", json!(""))], &["spec.token: Required value"]);
    check(
        &sample("TokenRequest"),
        &[("/spec/expirationSeconds", json!(599))],
        &["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"],
    );
    assert_eq!(defaulted(&sample("TokenRequest"))["spec"]["expirationSeconds"], 3600);
}

#[test]
fn an_account_keeps_names_of_secrets_only() {
    let account = with(&sample("ServiceAccount"), &[("/secrets", json!([{"name": "a", "kind": "Secret"}]))]);
    let stored = created(&account);
    assert_eq!(stored["secrets"], json!([{"name": "a"}]));
    assert_eq!(row(&stored)[1], "1");
}

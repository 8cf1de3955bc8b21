//! Where pods go by what they say of nodes and of one another: nodes that are there by name only, so that there are several.

use serde_json::{Value, json};

use super::{apply, pod, with};
use crate::clock::{until, until_right};
use crate::cluster::Cluster;

/// A node without an agent, which has room.
fn node(name: &str, labels: Value, taints: Value) -> Value {
    let labels = with(json!({"fake": "yes", "kubernetes.io/hostname": name}), &labels);
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})
}

/// Four of them in three zones; one of them is not for everybody.
fn nodes(cluster: &Cluster) {
    let taint = json!([{"key": "only", "value": "gpu", "effect": "NoSchedule"}]);
    let all = [
        node("a", json!({"zone": "x", "disk": "ssd", "size": "3"}), json!([])),
        node("b", json!({"zone": "x", "disk": "hdd", "size": "9"}), json!([])),
        node("c", json!({"zone": "y", "disk": "hdd"}), json!([])),
        node("d", json!({"zone": "z", "disk": "hdd"}), taint),
    ];
    apply(cluster, &all);
    let status = json!({"status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "50"}, "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "50"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2100-01-01T00:00:00Z"}]}});
    for name in ["a", "b", "c", "d"] {
        cluster.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]);
    }
    until("they are taken for ready", || {
        let nodes = cluster.get(&["nodes", "-l", "fake=yes"])["items"].to_string();
        (!nodes.contains("node.kubernetes.io/not-ready")).then_some(())
    });
}

/// A pod for these nodes with labels of its own.
fn placed(name: &str, labels: Value, spec: Value) -> Value {
    let mut pod = pod(name, "true", with(json!({"nodeSelector": {"fake": "yes"}}), &spec), json!({}));
    pod["metadata"]["labels"] = labels;
    pod
}

/// Where each has to be; nowhere is an empty name.
fn check(cluster: &Cluster, pods: &[(&str, Value, Value)], expected: &[(&str, &str)]) {
    apply(
        cluster,
        &pods.iter().map(|(name, labels, spec)| placed(name, labels.clone(), spec.clone())).collect::<Vec<_>>(),
    );
    until_right("every pod is where it has to be", || {
        let all = cluster.get(&["pods"])["items"].as_array().cloned().unwrap_or_default();
        let wrong = expected.iter().filter_map(|(name, nodes)| {
            let pod = all.iter().find(|pod| pod["metadata"]["name"] == *name)?;
            let at = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            // It has been thought about by then.
            let judged = !at.is_empty() || pod["status"]["conditions"].to_string().contains("\"PodScheduled\"");
            let right = judged && nodes.split(' ').any(|node| node == at);
            (!right).then(|| format!("{name} is at {at:?} and not at {nodes:?}: {}", pod["status"]["conditions"]))
        });
        wrong.collect::<Vec<_>>().join("\n")
    });
}

fn of_nodes() -> Vec<(&'static str, Value, Value, &'static str)> {
    let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let expression =
        |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
    let matches = |expressions: Value| json!([{"matchExpressions": expressions}]);
    let prefer = |ssd: i32, y: i32| {
        let preference = |key: &str, value: &str| json!({"matchExpressions": [expression(key, "In", json!([value]))]});
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": ssd, "preference": preference("disk", "ssd")}, {"weight": y, "preference": preference("zone", "y")}]}}})
    };
    let tolerate = |toleration: Value| json!({"nodeSelector": {"zone": "z"}, "tolerations": [toleration]});
    let none = || json!({});
    vec![
        ("selector", none(), json!({"nodeSelector": {"disk": "ssd"}}), "a"),
        ("greater", none(), required(matches(json!([expression("size", "Gt", json!(["5"]))]))), "b"),
        ("within", none(), required(matches(json!([expression("zone", "In", json!(["y", "w"]))]))), "c"),
        ("without", none(), required(matches(json!([expression("size", "DoesNotExist", json!([]))]))), "c"),
        (
            "not-in",
            none(),
            required(matches(json!([
                expression("zone", "NotIn", json!(["y"])),
                expression("disk", "NotIn", json!(["ssd"])),
                expression("fake", "Exists", json!([]))
            ]))),
            "b",
        ),
        ("fields", none(), required(json!([{"matchFields": [expression("metadata.name", "In", json!(["b"]))]}])), "b"),
        ("rather-ssd", none(), prefer(100, 1), "a"),
        ("rather-y", none(), prefer(1, 100), "c"),
        ("shut-out", none(), json!({"nodeSelector": {"zone": "z"}}), ""),
        (
            "equal",
            none(),
            tolerate(json!({"key": "only", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"})),
            "d",
        ),
        ("exists", none(), tolerate(json!({"key": "only", "operator": "Exists"})), "d"),
        ("wrong-value", none(), tolerate(json!({"key": "only", "value": "tpu", "effect": "NoSchedule"})), ""),
        ("wrong-effect", none(), tolerate(json!({"key": "only", "value": "gpu", "effect": "NoExecute"})), ""),
    ]
}

fn of_pods() -> Vec<(&'static str, Value, Value, &'static str)> {
    let near = json!({"matchLabels": {"app": "near"}});
    let expressed = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["near"]}]});
    let term = |selector: &Value, more: Value| with(json!({"labelSelector": selector, "topologyKey": "zone"}), &more);
    let required = |kind: &str, term: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let preferred = |kind: &str, term: Value| json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}}});
    let (to, from) = ("podAffinity", "podAntiAffinity");
    let none = || json!({});
    let version = |number: &str| json!({"app": "versions", "version": number});
    let versions = json!({"matchLabels": {"app": "versions"}});
    vec![
        ("near", json!({"app": "near"}), json!({"nodeSelector": {"zone": "y"}}), "c"),
        ("to", none(), required(to, term(&near, none())), "c"),
        ("to-expressed", none(), required(to, term(&expressed, none())), "c"),
        ("rather-to", none(), preferred(to, term(&near, none())), "c"),
        ("from", none(), required(from, term(&near, none())), "a b"),
        ("rather-from", none(), preferred(from, term(&near, none())), "a b"),
        ("to-elsewhere", none(), required(to, term(&near, json!({"namespaces": ["other"]}))), "a b"),
        (
            "to-selected",
            none(),
            required(
                to,
                term(&near, json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}})),
            ),
            "a b",
        ),
        // Of one version at most one a zone, of several as many as there are.
        (
            "version-1",
            version("1"),
            with(
                required(from, term(&versions, json!({"matchLabelKeys": ["version"]}))),
                &json!({"nodeSelector": {"zone": "y"}}),
            ),
            "c",
        ),
        (
            "version-1-more",
            version("1"),
            with(
                required(from, term(&versions, json!({"matchLabelKeys": ["version"]}))),
                &json!({"nodeSelector": {"zone": "y"}}),
            ),
            "",
        ),
        (
            "version-2",
            version("2"),
            with(
                required(from, term(&versions, json!({"matchLabelKeys": ["version"]}))),
                &json!({"nodeSelector": {"zone": "y"}}),
            ),
            "c",
        ),
        (
            "others",
            json!({"app": "mates", "version": "1"}),
            with(
                required(
                    from,
                    term(&json!({"matchLabels": {"app": "versions"}}), json!({"mismatchLabelKeys": ["version"]})),
                ),
                &json!({"nodeSelector": {"zone": "y"}}),
            ),
            "",
        ),
    ]
}

/// Spread over zones; `z` is there only for who tolerates it.
fn of_spread() -> Vec<(&'static str, Value, Value, &'static str)> {
    let spread = |app: &str, zone: &str, more: Value| {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}}});
        let constraint = with(constraint, &more);
        let selector = if zone.is_empty() { json!({"fake": "yes"}) } else { json!({"zone": zone}) };
        json!({"nodeSelector": selector, "topologySpreadConstraints": [constraint]})
    };
    let app = |name: &str| json!({"app": name});
    let honor = || json!({"nodeTaintsPolicy": "Honor"});
    let all = || json!({"nodeAffinityPolicy": "Ignore"});
    let none = || json!({});
    vec![
        ("even-1", app("even"), spread("even", "", honor()), "a b c"),
        ("even-2", app("even"), spread("even", "", honor()), "a b c"),
        ("even-3", app("even"), spread("even", "", honor()), "a b c"),
        // A zone where nothing may run counts as empty, unless taints are honoured.
        ("odd-1", app("odd"), spread("odd", "", none()), "a b c"),
        ("odd-2", app("odd"), spread("odd", "", none()), "a b c"),
        ("odd-3", app("odd"), spread("odd", "", none()), ""),
        // Of the zones that the pod may go to there is one, and it is even by itself.
        ("own-1", app("own"), spread("own", "y", none()), "c"),
        ("own-2", app("own"), spread("own", "y", none()), "c"),
        ("all-1", app("all"), spread("all", "y", all()), "c"),
        ("all-2", app("all"), spread("all", "y", all()), ""),
        ("few-1", app("few"), spread("few", "y", json!({"minDomains": 2})), "c"),
        ("few-2", app("few"), spread("few", "y", json!({"minDomains": 2})), ""),
        (
            "any-1",
            app("any"),
            spread("any", "y", json!({"minDomains": null, "whenUnsatisfiable": "ScheduleAnyway"})),
            "c",
        ),
        (
            "any-2",
            app("any"),
            spread("any", "y", json!({"whenUnsatisfiable": "ScheduleAnyway", "nodeAffinityPolicy": "Ignore"})),
            "c",
        ),
        (
            "keyed-1",
            json!({"app": "keyed", "version": "1"}),
            spread("keyed", "y", json!({"nodeAffinityPolicy": "Ignore", "matchLabelKeys": ["version"]})),
            "c",
        ),
        (
            "keyed-2",
            json!({"app": "keyed", "version": "2"}),
            spread("keyed", "y", json!({"nodeAffinityPolicy": "Ignore", "matchLabelKeys": ["version"]})),
            "c",
        ),
        ("wide-1", app("wide"), spread("wide", "y", json!({"nodeAffinityPolicy": "Ignore", "maxSkew": 2})), "c"),
        ("wide-2", app("wide"), spread("wide", "y", json!({"nodeAffinityPolicy": "Ignore", "maxSkew": 2})), "c"),
    ]
}

#[test]
fn pods_go_where_their_fields_say() {
    let cluster = Cluster::start();
    nodes(&cluster);
    cluster.kubectl(&["create", "namespace", "other"]);
    let mut far = placed("far", json!({"app": "near"}), json!({"nodeSelector": {"disk": "ssd"}}));
    far["metadata"]["namespace"] = "other".into();
    apply(&cluster, &[far]);
    until("the pod of the other namespace has its node", || {
        (cluster.get(&["pod", "far", "-n", "other"])["spec"]["nodeName"] == "a").then_some(())
    });
    for group in [of_nodes(), of_pods(), of_spread()] {
        let expected: Vec<(&str, &str)> = group.iter().map(|(name, _, _, nodes)| (*name, *nodes)).collect();
        let pods: Vec<_> = group.iter().map(|(name, labels, spec, _)| (*name, labels.clone(), spec.clone())).collect();
        check(&cluster, &pods, &expected);
    }
    of_turns(&cluster);
}

/// When it is a pod's turn, and whose.
fn of_turns(cluster: &Cluster) {
    let class = |name: &str, value: u32, policy: &str| json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
    apply(cluster, &[class("polite", 1000, "Never"), class("pushing", 2000, "PreemptLowerPriority")]);
    let all = || json!({"resources": {"requests": {"memory": "7Gi"}}});
    let on_b = |more: Value| with(json!({"nodeSelector": {"size": "9"}}), &more);
    let gates = json!({"schedulingGates": [{"name": "example.com/wait"}]});
    apply(
        cluster,
        &[
            pod("first", "true", on_b(json!({})), all()),
            pod("gated", "true", on_b(gates), json!({})),
            pod("foreign", "true", on_b(json!({"schedulerName": "somebody"})), json!({})),
        ],
    );
    let scheduled = |name: &str| {
        let pod = cluster.get(&["pod", name]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "PodScheduled").unwrap_or_default()
    };
    until("it has the room", || (scheduled("first")["status"] == "True").then_some(()));
    assert_eq!(scheduled("gated")["reason"], "SchedulingGated");
    apply(cluster, &[pod("polite", "true", on_b(json!({"priorityClassName": "polite"})), all())]);
    until("it waits its turn", || {
        let message = scheduled("polite")["message"].to_string();
        message.contains("not eligible due to preemptionPolicy=Never").then_some(())
    });
    let polite = cluster.get(&["pod", "polite"]);
    assert_eq!((&polite["spec"]["priority"], &polite["spec"]["preemptionPolicy"]), (&1000.into(), &"Never".into()));
    apply(cluster, &[pod("pushing", "true", on_b(json!({"priorityClassName": "pushing"})), all())]);
    until("it has the room of the least", || (scheduled("pushing")["status"] == "True").then_some(()));
    let left = cluster.try_kubectl(&["get", "pod", "first", "-o", "jsonpath={.metadata.deletionTimestamp}"]);
    assert!(left.code == Some(1) || !left.stdout.is_empty(), "{left:?}");
    cluster.kubectl(&[
        "patch",
        "pod",
        "gated",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#,
    ]);
    until("the gate is open", || (scheduled("gated")["status"] == "True").then_some(()));
    assert_eq!(scheduled("foreign"), Value::Null, "another scheduler's pod is left alone");
}

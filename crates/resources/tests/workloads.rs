//! Deployments, ReplicaSets, Services and where their traffic goes.

mod judge;

use judge::{
    check, check_update, created, defaulted, deployment, prepared, resource_of, same, samples, service, tree, with,
};
use resources::{Cell, Writer};
use serde_json::{Value as Json, json};

fn sample(kind: &str) -> Json {
    samples().into_iter().find(|sample| sample["kind"] == kind).unwrap_or_else(|| panic!("a sample {kind}"))
}

/// The cells as text.
fn row(object: &Json) -> Vec<String> {
    let cells = resource_of(object).row(&tree(object)).expect("the object has its kind's shape");
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        Cell::Int(number) => number.to_string(),
        Cell::Since(moment) => moment.map_or("<unknown>".to_owned(), |moment| moment.to_string()),
        other => format!("{other:?}"),
    };
    cells.iter().map(text).collect()
}

#[test]
fn a_deployment_says_what_was_left_out() {
    let spec = defaulted(&deployment())["spec"].clone();
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
    let template = &spec["template"]["spec"];
    assert_eq!((&template["restartPolicy"], &template["enableServiceLinks"]), (&json!("Always"), &Json::Null));
}

#[test]
fn a_template_keeps_limits_apart_from_requests() {
    let limits = ("/spec/template/spec/containers/0/resources/limits", json!({"cpu": "1"}));
    let spec = defaulted(&with(&deployment(), &[limits]))["spec"].clone();
    assert_eq!(spec["template"]["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
}

#[test]
fn refuses_bad_deployments() {
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| check(&deployment(), changes, expected);
    refuse(&[("/spec/replicas", json!(-1))], &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    refuse(
        &[("/spec/selector", json!(null))],
        &[
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
    refuse(
        &[("/spec/selector/matchLabels/app", json!("other"))],
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
    refuse(
        &[("/spec/strategy/rollingUpdate", json!({"maxSurge": 0, "maxUnavailable": "0%"}))],
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
    );
    refuse(
        &[("/spec/strategy/rollingUpdate", json!({"maxSurge": "a", "maxUnavailable": "101%"}))],
        &[
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"a\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ],
    );
    refuse(
        &[("/spec/strategy", json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}))],
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    refuse(
        &[("/spec/strategy", json!({"type": "Hope"}))],
        &["spec.strategy.type: Unsupported value: \"Hope\": supported values: \"Recreate\", \"RollingUpdate\""],
    );
    refuse(
        &[("/spec/progressDeadlineSeconds", json!(5)), ("/spec/minReadySeconds", json!(5))],
        &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
    );
    refuse(
        &[
            ("/spec/template/spec/restartPolicy", json!("Never")),
            ("/spec/template/spec/activeDeadlineSeconds", json!(1)),
        ],
        &[
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    refuse(
        &[("/spec/template/spec/containers/0/image", json!(""))],
        &["spec.template.spec.containers[0].image: Required value"],
    );
    check_update(
        &deployment(),
        &[
            ("/spec/selector/matchLabels", json!({"app": "web", "tier": "a"})),
            ("/spec/template/metadata/labels/tier", json!("a")),
        ],
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"a\"}}: field is immutable"],
    );
}

#[test]
fn a_deployments_generation_counts_changes_of_wish() {
    let stored = created(&deployment());
    let after = |changes: &[(&str, Json)], writer: Writer| {
        prepared(&with(&stored, changes), Some(&stored), writer).0["metadata"]["generation"].clone()
    };
    assert_eq!(stored["metadata"]["generation"], 1);
    assert_eq!(after(&[], Writer::Main), 1);
    assert_eq!(after(&[("/spec/replicas", json!(3))], Writer::Main), 2);
    assert_eq!(after(&[("/metadata/annotations", json!({"a": "b"}))], Writer::Main), 2);
    assert_eq!(after(&[("/metadata/labels", json!({"a": "b"}))], Writer::Main), 1);
    assert_eq!(after(&[("/spec/replicas", json!(3))], Writer::Status), 1);
    assert_eq!(after(&[("/metadata/generation", json!(9))], Writer::Main), 1);
}

#[test]
fn a_deployments_status_adds_up() {
    let stored = created(&deployment());
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| {
        same(prepared(&with(&stored, changes), Some(&stored), Writer::Status).1, expected);
    };
    refuse(
        &[("/status", json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}))],
        &[
            "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ],
    );
    refuse(
        &[("/status", json!({"unavailableReplicas": -1}))],
        &["status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    let mut set = created(&sample("ReplicaSet"));
    set["status"] = json!({"replicas": 1, "fullyLabeledReplicas": 2});
    same(
        prepared(&set, Some(&set), Writer::Status).1,
        &["status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas"],
    );
}

#[test]
fn workloads_are_shown_with_their_counts() {
    let status = ("/status", json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}));
    let changes =
        [("/spec/replicas", json!(4)), status, ("/metadata/creationTimestamp", json!("2024-01-01T00:00:00Z"))];
    assert_eq!(
        row(&with(&deployment(), &changes)),
        ["web", "2/4", "3", "1", "2024-01-01T00:00:00Z", "main", "nginx:1", "app=web"]
    );
    let set = with(
        &sample("ReplicaSet"),
        &[("/spec/replicas", json!(4)), ("/status", json!({"replicas": 3, "readyReplicas": 2}))],
    );
    assert_eq!(row(&set), ["web", "4", "3", "2", "<unknown>", "main", "nginx:1", "app=web"]);
}

#[test]
fn a_service_says_what_was_left_out() {
    let spec = |changes: &[(&str, Json)]| defaulted(&with(&service(), changes))["spec"].clone();
    let plain = spec(&[("/spec/ports/0/targetPort", json!(null))]);
    assert_eq!(plain["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!((&plain["type"], &plain["sessionAffinity"]), (&json!("ClusterIP"), &json!("None")));
    assert_eq!((&plain["internalTrafficPolicy"], &plain["externalTrafficPolicy"]), (&json!("Cluster"), &Json::Null));
    let sticky = spec(&[("/spec/sessionAffinity", json!("ClientIP"))]);
    assert_eq!(sticky["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    let balanced = spec(&[("/spec/type", json!("LoadBalancer"))]);
    assert_eq!(
        (&balanced["externalTrafficPolicy"], &balanced["allocateLoadBalancerNodePorts"]),
        (&json!("Cluster"), &json!(true))
    );
}

#[test]
fn refuses_bad_services() {
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| check(&service(), changes, expected);
    refuse(&[("/spec/ports", json!([]))], &["spec.ports: Required value"]);
    refuse(&[("/spec/ports", json!([])), ("/spec/clusterIP", json!("None"))], &[]);
    refuse(
        &[("/spec/ports", json!([{"port": 80}, {"port": 80, "name": "a.b", "nodePort": 30000}]))],
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Invalid value: \"a.b\": must not contain dots",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ],
    );
    refuse(
        &[("/spec/ports/0", json!({"port": 0, "targetPort": "UP", "protocol": "X"}))],
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.ports[0].targetPort: Invalid value: \"UP\": must contain at least one letter (a-z)",
            "spec.ports[0].targetPort: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ],
    );
    refuse(
        &[("/spec/type", json!("Magic"))],
        &[
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    refuse(&[("/spec/type", json!("ExternalName"))], &["spec.externalName: Required value"]);
    refuse(
        &[("/spec/type", json!("NodePort")), ("/spec/clusterIP", json!("None"))],
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    refuse(
        &[("/spec/sessionAffinity", json!("Friend"))],
        &["spec.sessionAffinity: Unsupported value: \"Friend\": supported values: \"ClientIP\", \"None\""],
    );
    refuse(
        &[
            ("/spec/sessionAffinity", json!("ClientIP")),
            ("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 0}})),
        ],
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
        ],
    );
    refuse(
        &[("/spec/externalIPs", json!(["127.0.0.1", "x"]))],
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    refuse(
        &[("/spec/loadBalancerSourceRanges", json!(["10.0.0.1/8"]))],
        &[
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
        ],
    );
    refuse(
        &[("/spec/clusterIPs", json!(["10.0.0.1"]))],
        &["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"],
    );
    refuse(
        &[("/spec/clusterIP", json!("10.0.0.1")), ("/spec/clusterIPs", json!(["10.0.0.1", "10.0.0.2"]))],
        &[
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        ],
    );
    refuse(
        &[("/spec/ipFamilies", json!(["IPv5"])), ("/spec/ipFamilyPolicy", json!("Both"))],
        &[
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
        ],
    );
    refuse(
        &[("/spec/externalTrafficPolicy", json!("Local"))],
        &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"],
    );
    refuse(
        &[("/spec/internalTrafficPolicy", json!("Some"))],
        &["spec.internalTrafficPolicy: Unsupported value: \"Some\": supported values: \"Cluster\", \"Local\""],
    );
    refuse(
        &[("/spec/loadBalancerClass", json!("a.b/c"))],
        &["spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    );
    refuse(
        &[("/metadata/name", json!("1web"))],
        &[
            "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
}

/// A service that was given addresses and ports.
fn allocated() -> Json {
    with(
        &created(&with(&service(), &[("/spec/type", json!("NodePort"))])),
        &[
            ("/spec/clusterIP", json!("10.0.0.1")),
            ("/spec/clusterIPs", json!(["10.0.0.1"])),
            ("/spec/ipFamilies", json!(["IPv4"])),
            ("/spec/ipFamilyPolicy", json!("SingleStack")),
            ("/spec/ports/0/nodePort", json!(30001)),
        ],
    )
}

#[test]
fn an_update_keeps_what_was_allocated() {
    let old = allocated();
    let silent = with(
        &old,
        &[("/spec/clusterIP", json!(null)), ("/spec/clusterIPs", json!(null)), ("/spec/ports/0/nodePort", json!(null))],
    );
    let (kept, faults) = prepared(&silent, Some(&old), Writer::Main);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(kept["spec"], old["spec"]);
}

#[test]
fn a_change_of_type_drops_what_it_has_no_use_for() {
    let old = allocated();
    let (plain, faults) = prepared(&with(&old, &[("/spec/type", json!("ClusterIP"))]), Some(&old), Writer::Main);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        (&plain["spec"]["ports"][0]["nodePort"], &plain["spec"]["externalTrafficPolicy"]),
        (&Json::Null, &Json::Null)
    );
    let named = [("/spec/type", json!("ExternalName")), ("/spec/externalName", json!("example.com"))];
    let (named, faults) = prepared(&with(&old, &named), Some(&old), Writer::Main);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!((&named["spec"]["clusterIP"], &named["spec"]["clusterIPs"]), (&Json::Null, &Json::Null));
}

#[test]
fn an_address_stays_once_given() {
    let old = allocated();
    let (_, faults) = prepared(&with(&old, &[("/spec/clusterIP", json!("10.0.0.2"))]), Some(&old), Writer::Main);
    same(faults, &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    let (_, faults) = prepared(&with(&old, &[("/spec/ipFamilies", json!(["IPv6"]))]), Some(&old), Writer::Main);
    same(
        faults,
        &[
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set",
        ],
    );
}

#[test]
fn a_services_status_belongs_to_its_type() {
    let old = allocated();
    let ingress = ("/status/loadBalancer/ingress", json!([{"ip": "1.2.3.4", "ipMode": "VIP"}]));
    let (_, faults) = prepared(&with(&old, &[ingress]), Some(&old), Writer::Status);
    same(faults, &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]);
}

#[test]
fn services_are_shown_with_their_addresses() {
    let check = |changes: &[(&str, Json)], expected: [&str; 7]| assert_eq!(row(&with(&allocated(), changes)), expected);
    check(&[], ["web", "NodePort", "10.0.0.1", "<none>", "80:30001/TCP", "<unknown>", "app=web"]);
    check(
        &[("/spec/type", json!("LoadBalancer")), ("/spec/selector", json!(null))],
        ["web", "LoadBalancer", "10.0.0.1", "<pending>", "80:30001/TCP", "<unknown>", "<none>"],
    );
    check(
        &[
            ("/spec/type", json!("ExternalName")),
            ("/spec/externalName", json!("a.b")),
            ("/spec/clusterIPs", json!(null)),
            ("/spec/ports", json!([])),
        ],
        ["web", "ExternalName", "<none>", "a.b", "<none>", "<unknown>", "app=web"],
    );
}

#[test]
fn refuses_bad_endpoints() {
    let refuse = |subsets: Json, expected: &[&str]| check(&sample("Endpoints"), &[("/subsets", subsets)], expected);
    refuse(json!([{}]), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
    refuse(
        json!([{"addresses": [{"ip": "169.254.0.1", "hostname": "A"}], "ports": [{"port": 0}]}]),
        &[
            "subsets[0].addresses[0].hostname: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    let subsets = json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81, "name": "b"}]}]);
    let shown = row(&with(&sample("Endpoints"), &[("/subsets", subsets)]));
    assert_eq!(shown[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...");
}

#[test]
fn refuses_bad_slices() {
    let refuse = |changes: &[(&str, Json)], expected: &[&str]| check(&sample("EndpointSlice"), changes, expected);
    refuse(
        &[("/addressType", json!("IPX"))],
        &["addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    refuse(
        &[("/endpoints", json!([{"addresses": []}, {"addresses": ["::1"]}]))],
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "endpoints[1].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
        ],
    );
    refuse(&[("/ports", json!([{"port": 80}, {"port": 81}]))], &["ports[1].name: Duplicate value: \"\""]);
    check_update(
        &sample("EndpointSlice"),
        &[("/addressType", json!("IPv6")), ("/endpoints", json!([]))],
        &["addressType: Invalid value: \"IPv6\": field is immutable"],
    );
    let stored = created(&sample("EndpointSlice"));
    assert_eq!(stored["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(row(&stored)[1..4], ["IPv4", "80", "10.0.0.1"]);
}

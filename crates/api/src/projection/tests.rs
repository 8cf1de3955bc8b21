//! Every projection reads the same from protobuf and from JSON, and its tables agree with the schema.

use std::fmt::Debug;

use super::*;
use crate::decide::resources::Stage;
use crate::schema::{self, Message};
use crate::selector::Selector;

fn tree(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).expect("a quantity")
}

/// Reads the object from its protobuf, bare and enveloped, and from JSON; all must give the same.
fn projected<P: Projection + PartialEq + Debug>(group: &str, version: &str, kind: &str, json: &str) -> P {
    let object = tree(json);
    let message = schema::kind(group, version, kind).expect("a built-in kind");
    let bare = crate::codec::protobuf::encode(&object, message).expect("an object of its kind");
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let enveloped = crate::codec::envelope::wrap(&api_version, kind, &bare);
    let from = |body: &[u8]| P::project(&Source { group, version, kind, body, meta: None }).expect("a readable object");
    let projection = from(&bare);
    assert_eq!(projection, from(&enveloped), "enveloped");
    assert_eq!(projection, from(json.trim().as_bytes()), "JSON");
    assert_eq!(projection, P::of_tree(&object).expect("a readable object"), "tree");
    projection
}

const POD: &str = r#"{
  "apiVersion": "v1", "kind": "Pod",
  "metadata": {
    "name": "a", "namespace": "n", "uid": "u", "generation": 3,
    "creationTimestamp": "2024-01-02T03:04:05Z", "deletionTimestamp": "2024-01-02T03:05:05Z", "deletionGracePeriodSeconds": 60,
    "labels": {"app": "api", "tier": "x"}, "annotations": {"k": "v", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": true, "blockOwnerDeletion": true}],
    "finalizers": ["f"]
  },
  "spec": {
    "nodeName": "node", "schedulerName": "default-scheduler", "serviceAccountName": "default", "restartPolicy": "Always",
    "priority": 7, "hostNetwork": true, "hostname": "h", "subdomain": "s", "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
    "initContainers": [{"name": "i", "image": "j"}, {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}}],
    "containers": [{"name": "c", "image": "d", "ports": [{"name": "http", "containerPort": 3000, "hostPort": 80, "protocol": "TCP"}],
      "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}],
    "affinity": {
      "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
          {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}], "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
          {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["many"]}]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": {"matchExpressions": [{"key": "z", "operator": "Exists"}]}}]},
      "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone",
        "namespaces": ["m"], "namespaceSelector": {}}]},
      "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": {"topologyKey": "host"}}]}},
    "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 3,
      "labelSelector": {"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]},
      "nodeAffinityPolicy": "Ignore", "nodeTaintsPolicy": "Honor"}, {"maxSkew": 1, "topologyKey": "host", "whenUnsatisfiable": "ScheduleAnyway"}],
    "preemptionPolicy": "Never",
    "readinessGates": [{"conditionType": "x/y"}], "schedulingGates": [{"name": "g"}], "overhead": {"cpu": "10m"}
  },
  "status": {
    "phase": "Running", "reason": "r", "nominatedNodeName": "nn", "qosClass": "Burstable", "hostIP": "10.0.0.1",
    "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}], "startTime": "2024-01-02T03:04:06Z", "observedGeneration": 2,
    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-02T03:04:07Z", "reason": "R", "message": "M"}],
    "initContainerStatuses": [{"name": "i", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2024-01-02T03:04:08Z", "startedAt": null}}}],
    "containerStatuses": [{"name": "c", "ready": true, "started": true, "restartCount": 2, "containerID": "x://1", "image": "", "imageID": "",
      "state": {"running": {"startedAt": "2024-01-02T03:04:09Z"}}, "lastState": {"waiting": {"reason": "CrashLoopBackOff"}}}]
  }
}"#;

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().expect("a time"))
}

#[test]
fn reads_pods() {
    let pod: PodLite = projected("", "v1", "Pod", POD);
    assert_eq!((&*pod.meta.namespace, &*pod.meta.name, &*pod.meta.uid, pod.meta.generation), ("n", "a", "u", 3));
    assert_eq!(pod.meta.creation, time("2024-01-02T03:04:05Z"));
    assert_eq!((pod.meta.deletion, pod.meta.deletion_grace_seconds), (time("2024-01-02T03:05:05Z"), Some(60)));
    assert_eq!(pod.meta.labels, Texts::from_iter([("app", "api"), ("tier", "x")]));
    assert_eq!(pod.meta.annotations, Texts::from_iter([("k", "v")]));
    assert!(pod.meta.is_controlled_by("o") && pod.meta.has_finalizer("f"));
    let spec = &pod.spec;
    assert_eq!((&*spec.node_name, &*spec.scheduler_name, spec.priority), ("node", "default-scheduler", 7));
    assert_eq!((&*spec.service_account, &*spec.restart_policy), ("default", "Always"));
    assert_eq!((spec.network.host_network, &*spec.network.hostname, &*spec.network.subdomain), (true, "h", "s"));
    assert_eq!(spec.node_selector.get("disk"), Some("ssd"));
    assert_eq!((&*spec.tolerations[0].key, spec.tolerations[0].seconds), ("k", Some(300)));
    let stages: Vec<_> = spec.containers.iter().map(|container| (&*container.name, container.stage)).collect();
    assert_eq!(stages, [("i", Stage::Init), ("side", Stage::Sidecar), ("c", Stage::Main)]);
    assert_eq!((spec.containers[2].ports[0].container_port, spec.containers[2].ports[0].host_port), (3000, 80));
    assert_eq!(spec.resources.requests().get("cpu"), Some(quantity("360m")));
    assert_eq!(spec.resources.limits().get("memory"), Some(quantity("128Mi")));
    assert_eq!((&*spec.readiness_gates[0], &*spec.scheduling_gates[0]), ("x/y", "g"));
    let affinity = spec.affinity.as_ref().expect("an affinity");
    let terms = affinity.node_required.as_ref().expect("required terms");
    assert_eq!((terms[0].labels[0].to_string(), terms[0].broken), ("disk in (ssd)".to_owned(), false));
    assert_eq!((terms[0].names[0].is_in, &*terms[0].names[0].names[0]), (false, "n1"));
    assert!(terms[1].broken, "what is compared with a number must be one");
    assert_eq!((affinity.node_preferred[0].0, affinity.node_preferred[0].1.labels[0].key()), (5, "z"));
    let near = &affinity.pod.required[0];
    assert_eq!((near.selector.to_string(), &*near.namespaces[0], &*near.topology_key), ("app=db".into(), "m", "zone"));
    assert_eq!(near.namespace_selector, Some(Selector::EVERYTHING));
    let (weight, apart) = &affinity.anti.preferred[0];
    assert_eq!((*weight, &apart.selector, &apart.namespace_selector), (7, &Selector::Nothing, &None));
    let [hard, soft] = spec.spread.as_slice() else { panic!("{:?}", spec.spread) };
    assert_eq!(
        (hard.max_skew, hard.is_hard, hard.min_domains, hard.selector.to_string()),
        (2, true, 3, "!a,b=c".into())
    );
    assert_eq!((hard.honors_affinity, hard.honors_taints), (false, true));
    assert_eq!((soft.is_hard, soft.min_domains, soft.honors_affinity, soft.honors_taints), (false, 1, true, false));
    assert!(spec.never_preempts);
    let status = &pod.status;
    assert_eq!(
        (&*status.phase, &*status.reason, &*status.nominated_node, &*status.qos_class),
        ("Running", "r", "nn", "Burstable")
    );
    assert_eq!((&*status.host_ip, &*status.pod_ips[1], status.observed_generation), ("10.0.0.1", "fd00::2", 2));
    assert_eq!(status.started, time("2024-01-02T03:04:06Z"));
    assert_eq!(status.conditions[0].last_transition, time("2024-01-02T03:04:07Z"));
    let terminated =
        ContainerState::Terminated { exit_code: 3, reason: "Error".into(), finished: time("2024-01-02T03:04:08Z") };
    assert_eq!((status.containers[0].kind, &status.containers[0].state), (ContainerKind::Init, &terminated));
    let main = &status.containers[1];
    assert_eq!(main.state, ContainerState::Running { started: time("2024-01-02T03:04:09Z") });
    assert_eq!(main.last, Some(ContainerState::Waiting { reason: "CrashLoopBackOff".into() }));
    assert_eq!((main.ready, main.started, main.restart_count, &*main.container_id), (true, true, 2, "x://1"));
}

#[test]
fn a_pod_that_is_resized_counts_for_the_more_of_what_it_has_and_asks_for() {
    let check = |asked: &str, reason: &str, expected: &str| {
        let json = format!(
            r#"{{"spec":{{"containers":[{{"name":"a","resources":{{"requests":{{"cpu":"{asked}"}}}}}}]}},
            "status":{{"containerStatuses":[{{"name":"a","allocatedResources":{{"cpu":"2"}}}}],
            "conditions":[{{"type":"PodResizePending","status":"True","reason":"{reason}"}}]}}}}"#
        );
        let pod: PodLite = projected("", "v1", "Pod", &json);
        assert_eq!(pod.spec.resources.requests().get("cpu"), Some(quantity(expected)), "{asked} {reason}");
    };
    check("3", "Deferred", "3");
    check("1", "Deferred", "2");
    check("300", "Infeasible", "2");
}

#[test]
fn reads_what_selects_pods() {
    let budget: BudgetLite = projected(
        "policy",
        "v1",
        "PodDisruptionBudget",
        r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}},
            "status":{"disruptionsAllowed":2,"currentHealthy":3,"desiredHealthy":1,"expectedPods":3,"disruptedPods":{"p":"2024-01-02T03:04:05Z"}}}"#,
    );
    assert_eq!((budget.selector.to_string(), budget.disruptions_allowed), ("a=b".to_owned(), 2));
    assert_eq!(budget.disrupted_pods, ["p".into()]);
    for kind in ["ReplicaSet", "StatefulSet"] {
        let json = r#"{"metadata":{"name":"r"},"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#;
        let set: SelectingLite = projected("apps", "v1", kind, json);
        assert_eq!(set.selector.to_string(), "a=b");
    }
    let controller: ReplicationControllerLite =
        projected("", "v1", "ReplicationController", r#"{"metadata":{"name":"r"},"spec":{"selector":{"a":"b"}}}"#);
    assert_eq!(controller.selector, Texts::from_iter([("a", "b")]));
}

#[test]
fn reads_nodes() {
    let node: NodeLite = projected(
        "",
        "v1",
        "Node",
        r#"{"metadata":{"name":"n"},"spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24"],"providerID":"p","unschedulable":true,
            "taints":[{"key":"k","value":"v","effect":"NoExecute","timeAdded":"2024-01-02T03:04:05Z"}]},
            "status":{"capacity":{"cpu":"4"},"allocatable":{"cpu":"3900m","memory":"1Gi"},
            "conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],
            "daemonEndpoints":{"kubeletEndpoint":{"Port":10250}},"images":[{"names":["a","b"],"sizeBytes":5}]}}"#,
    );
    assert!(node.unschedulable && crate::decide::conditions::is_node_ready(&node));
    assert_eq!((&*node.pod_cidrs[0], &*node.provider_id, node.kubelet_port), ("10.1.0.0/24", "p", 10250));
    assert_eq!((&*node.taints[0].key, node.taints[0].added), ("k", time("2024-01-02T03:04:05Z")));
    assert_eq!((node.capacity.amount("cpu"), node.allocatable.amount("cpu")), (quantity("4"), quantity("3900m")));
    assert_eq!(node.address("InternalIP"), Some("10.0.0.1"));
    assert_eq!((node.images[0].names.len(), node.images[0].size_bytes), (2, 5));
}

#[test]
fn reads_services() {
    let service: ServiceLite = projected(
        "",
        "v1",
        "Service",
        r#"{"metadata":{"name":"s","namespace":"n"},"spec":{"type":"NodePort","clusterIP":"10.96.0.5","clusterIPs":["10.96.0.5"],
            "ipFamilies":["IPv4"],"selector":{"app":"api"},"externalIPs":["1.2.3.4"],"publishNotReadyAddresses":true,
            "externalTrafficPolicy":"Local","internalTrafficPolicy":"Cluster","healthCheckNodePort":31000,"loadBalancerSourceRanges":["10.0.0.0/8"],
            "sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},"trafficDistribution":"PreferClose",
            "ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":3000,"nodePort":30080},{"name":"x","port":81,"targetPort":"web","appProtocol":"h2c"}]},
            "status":{"loadBalancer":{"ingress":[{"ip":"5.6.7.8"}]}}}"#,
    );
    assert_eq!((&*service.kind, service.is_headless()), ("NodePort", false));
    assert_eq!(service.selector, Some(Texts::from_iter([("app", "api")])));
    assert_eq!(
        (&*service.cluster_ips[0], &*service.ip_families[0], &*service.external_ips[0]),
        ("10.96.0.5", "IPv4", "1.2.3.4")
    );
    assert_eq!((&*service.ingress_ips[0], service.publish_not_ready_addresses), ("5.6.7.8", true));
    let traffic = &service.traffic;
    assert_eq!(
        (&*traffic.external_policy, &*traffic.internal_policy, &*traffic.distribution),
        ("Local", "Cluster", "PreferClose")
    );
    assert_eq!(
        (traffic.client_ip_seconds, traffic.health_check_node_port, &*traffic.source_ranges[0]),
        (Some(60), 31000, "10.0.0.0/8")
    );
    assert_eq!(
        (service.ports[0].port, &service.ports[0].target_port, service.ports[0].node_port),
        (80, &IntOrText::Int(3000), 30080)
    );
    assert_eq!(
        (&service.ports[1].target_port, &*service.ports[1].app_protocol),
        (&IntOrText::Text("web".into()), "h2c")
    );
    let headless: ServiceLite = projected(
        "",
        "v1",
        "Service",
        r#"{"metadata":{"name":"s"},"spec":{"clusterIP":"None","clusterIPs":["None"]}}"#,
    );
    assert!(headless.is_headless() && headless.selector.is_none());
}

#[test]
fn reads_slices() {
    let slice: SliceLite = projected(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        r#"{"metadata":{"name":"s-1","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4",
            "ports":[{"name":"http","protocol":"TCP","port":3000,"appProtocol":"h2c"}],
            "endpoints":[{"addresses":["10.1.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true},"hostname":"h",
            "nodeName":"n","zone":"z","hints":{"forZones":[{"name":"z"}],"forNodes":[{"name":"n"}]},
            "targetRef":{"kind":"Pod","name":"p","namespace":"n","uid":"u"}},{"addresses":["10.1.0.3"]}]}"#,
    );
    assert_eq!((slice.service(), &*slice.address_type), (Some("s"), "IPv4"));
    assert_eq!((slice.ports[0].port, &*slice.ports[0].app_protocol), (Some(3000), "h2c"));
    let [leaving, plain] = slice.endpoints.as_slice() else { panic!("{slice:?}") };
    assert!(!leaving.is_ready() && leaving.is_serving() && leaving.terminating);
    assert_eq!((&*leaving.hostname, &*leaving.node_name, &*leaving.zone), ("h", "n", "z"));
    assert_eq!((&*leaving.for_zones[0], &*leaving.for_nodes[0]), ("z", "n"));
    assert_eq!((&*leaving.target_kind, &*leaving.target_name, &*leaving.target_uid), ("Pod", "p", "u"));
    assert!(plain.is_ready() && plain.is_serving() && !plain.terminating);
}

#[test]
fn refuses_what_is_no_object() {
    let read = |body: &[u8]| PodLite::project(&Source { group: "", version: "v1", kind: "Pod", body, meta: None });
    assert!(matches!(read(b"{"), Err(ReadError::Json(_))));
    assert!(matches!(read(b"\x0a\xff"), Err(ReadError::Raw(_))));
    assert!(matches!(read(br#"{"spec":[1]}"#), Err(ReadError::Shape { .. })));
    assert!(matches!(read(br#"{"metadata":{"name":1}}"#), Err(ReadError::Shape { field: "name", .. })));
    assert_eq!(read(b"").map(|pod| pod.meta.name.len()), Ok(0));
}

#[test]
fn fractions_of_times_survive_in_protobuf() {
    let (mut seconds, mut zero) = (Vec::new(), Vec::new());
    raw::put_bytes(&mut seconds, 9, &[0x08, 0x05, 0x10, 0x07]);
    raw::put_bytes(&mut zero, 9, &[]);
    let meta = |message: &[u8]| {
        let mut meta = Meta::default();
        meta.read(Reader::new("metadata", Encoded::Raw(Raw::Bytes(message)))).expect("readable metadata");
        meta
    };
    assert_eq!(meta(&seconds).deletion, Timestamp::new(5, 7).ok());
    assert_eq!(meta(&zero).deletion, None);
}

fn agrees(message: &Message, fields: &Fields) {
    for (number, name) in fields {
        let field = message.field(name).unwrap_or_else(|| panic!("{} has no {name}", message.name()));
        assert_eq!(field.number, *number, "{}.{name}", message.name());
    }
}

#[test]
fn tables_of_slices_agree_with_the_schema() {
    let discovery =
        |name: &str| schema::message(&format!("io.k8s.api.discovery.v1.{name}")).expect("a discovery message");
    for (name, fields) in [
        ("EndpointSlice", slice::SLICE),
        ("Endpoint", slice::ENDPOINT),
        ("EndpointConditions", slice::CONDITIONS),
        ("EndpointHints", slice::HINTS),
        ("ForZone", slice::FOR),
        ("ForNode", slice::FOR),
        ("EndpointPort", slice::PORT),
    ] {
        agrees(discovery(name), fields);
    }
}

#[test]
fn tables_of_budgets_and_of_what_selects_pods_agree_with_the_schema() {
    let other = |name: &str| schema::message(&format!("io.k8s.api.{name}")).expect("a message");
    for (name, fields) in [
        ("policy.v1.PodDisruptionBudget", budget::BUDGET),
        ("policy.v1.PodDisruptionBudgetSpec", budget::SPEC),
        ("policy.v1.PodDisruptionBudgetStatus", budget::STATUS),
        ("apps.v1.ReplicaSet", selecting::OBJECT),
        ("apps.v1.ReplicaSetSpec", selecting::SPEC),
        ("apps.v1.StatefulSet", selecting::OBJECT),
        ("apps.v1.StatefulSetSpec", selecting::SPEC),
        ("core.v1.ReplicationController", selecting::OBJECT),
        ("core.v1.ReplicationControllerSpec", selecting::SPEC),
    ] {
        agrees(other(name), fields);
    }
}

#[test]
fn tables_agree_with_the_schema() {
    let core = |name: &str| schema::message(&format!("io.k8s.api.core.v1.{name}")).expect("a core message");
    let meta =
        |name: &str| schema::message(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")).expect("a meta message");
    agrees(core("Pod"), super::meta::OBJECT);
    agrees(meta("ObjectMeta"), super::meta::META);
    agrees(meta("OwnerReference"), super::meta::OWNER);
    agrees(meta("LabelSelector"), affinity::SELECTOR);
    agrees(meta("LabelSelectorRequirement"), affinity::REQUIREMENT);
    for (name, fields) in [
        ("Pod", pod::POD),
        ("PodSpec", pod::SPEC),
        ("PodReadinessGate", pod::READINESS_GATE),
        ("PodSchedulingGate", pod::SCHEDULING_GATE),
        ("Container", pod::CONTAINER),
        ("ContainerPort", pod::CONTAINER_PORT),
        ("ResourceRequirements", pod::RESOURCES),
        ("Toleration", pod::TOLERATION),
        ("Affinity", affinity::AFFINITY),
        ("NodeAffinity", affinity::TERMS),
        ("NodeSelector", affinity::NODE_SELECTOR),
        ("NodeSelectorTerm", affinity::NODE_TERM),
        ("NodeSelectorRequirement", affinity::REQUIREMENT),
        ("PreferredSchedulingTerm", affinity::PREFERRED_NODE),
        ("PodAffinity", affinity::TERMS),
        ("PodAntiAffinity", affinity::TERMS),
        ("WeightedPodAffinityTerm", affinity::PREFERRED_POD),
        ("PodAffinityTerm", affinity::POD_TERM),
        ("TopologySpreadConstraint", affinity::SPREAD),
        ("PodStatus", pod::STATUS),
        ("PodIP", pod::POD_IP),
        ("PodCondition", pod::CONDITION),
        ("ContainerStatus", pod::CONTAINER_STATUS),
        ("ContainerState", pod::STATE),
        ("ContainerStateWaiting", pod::WAITING),
        ("ContainerStateRunning", pod::RUNNING),
        ("ContainerStateTerminated", pod::TERMINATED),
        ("Node", node::NODE),
        ("NodeSpec", node::SPEC),
        ("NodeStatus", node::STATUS),
        ("Taint", node::TAINT),
        ("NodeAddress", node::ADDRESS),
        ("NodeCondition", node::CONDITION),
        ("ContainerImage", node::IMAGE),
        ("NodeDaemonEndpoints", node::DAEMON_ENDPOINTS),
        ("DaemonEndpoint", node::DAEMON_ENDPOINT),
        ("Service", service::SERVICE),
        ("ServiceSpec", service::SPEC),
        ("ServicePort", service::PORT),
        ("SessionAffinityConfig", service::AFFINITY),
        ("ClientIPConfig", service::CLIENT_IP),
        ("ServiceStatus", service::STATUS),
        ("LoadBalancerStatus", service::LOAD_BALANCER),
        ("LoadBalancerIngress", service::INGRESS),
        ("ObjectReference", slice::TARGET),
    ] {
        agrees(core(name), fields);
    }
}

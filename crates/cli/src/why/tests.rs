//! Cases: what is so, and what is said of it.

use serde_json::{Value as Json, json};

use super::*;

fn tree(json: &Json) -> Value {
    api::value::to_value(json).expect("JSON is a tree")
}

fn trees(all: &[Json]) -> Vec<Value> {
    all.iter().map(tree).collect()
}

/// Merges members into an object, deep.
fn with(mut object: Json, more: Json) -> Json {
    match (object.as_object_mut(), more) {
        (Some(members), Json::Object(more)) => {
            for (key, value) in more {
                let old = members.remove(&key).unwrap_or(Json::Null);
                members.insert(key, with(old, value));
            }
            object
        }
        (_, more) => more,
    }
}

/// A pod on a node, of a ReplicaSet of Deployment `web`, whose container `c` has this status.
fn pod(status: Json) -> Json {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "p1", "labels": {"app": "web"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-a", "uid": "s1", "controller": true}],
        },
        "spec": {"nodeName": "n", "restartPolicy": "Always", "containers": [{
            "name": "c", "image": "r.example/web:1", "command": ["run"], "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"limits": {"memory": "20Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
        }]},
        "status": {"phase": "Running", "containerStatuses": [status]},
    })
}

fn status(more: Json) -> Json {
    with(json!({"name": "c", "ready": false, "started": true, "restartCount": 0}), more)
}

fn waiting(reason: &str, message: &str) -> Json {
    status(json!({"state": {"waiting": {"reason": reason, "message": message}}}))
}

fn crashing(code: i64, reason: &str) -> Json {
    let last = json!({"exitCode": code, "reason": reason, "finishedAt": "2026-01-01T00:00:00Z"});
    let message = "back-off 1m20s restarting failed container=c pod=web-1_shop(p1)";
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
    status(json!({"restartCount": 3, "lastState": {"terminated": last}, "state": waiting}))
}

fn event(reason: &str, field: &str, message: &str) -> Json {
    json!({
        "kind": "Event", "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Pod", "name": "web-1", "uid": "p1", "fieldPath": field},
    })
}

fn world() -> World {
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": "web-a", "namespace": "shop", "uid": "s1", "annotations": {"deployment.kubernetes.io/revision": "2"},
            "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d1", "controller": true}],
        },
        "spec": {"replicas": 2},
    });
    World {
        replica_sets: trees(&[set]),
        keys: BTreeMap::from([("configmap/m".to_owned(), vec!["GREETING".to_owned()])]),
        logs: BTreeMap::from([("web-1/c".to_owned(), vec!["no such file: /etc/web.conf".to_owned()])]),
        ..World::default()
    }
}

/// The findings, each as `REASON: WHAT`, and everything that is said to help.
#[track_caller]
fn check(kind: Kind, object: &Json, world: &World, expected: &[&str], help: &[&str]) {
    let found = findings(kind, &tree(object), world);
    let said: Vec<String> = found.iter().map(|finding| format!("{}: {}", finding.reason, finding.what)).collect();
    assert_eq!(said, expected, "{found:#?}");
    let text = report("it", "well", &found, &[]);
    for help in help {
        assert!(text.contains(help), "{help:?} is not in\n{text}");
    }
}

#[test]
fn of_images() {
    let check = |reason: &str, message: &str, help: &[&str]| {
        let said = format!("{reason}: The image \"r.example/web:1\" of container \"c\" cannot be had.");
        super::tests::check(Kind::Pod, &pod(waiting(reason, message)), &world(), &[&said], help);
    };
    check(
        "ErrImagePull",
        "pull r.example/web:1: manifest unknown",
        &["no such image", "kubectl -n shop set image deployment/web c=IMAGE:TAG", "manifest unknown"],
    );
    let backed_off = "Back-off pulling image \"r.example/web:1\": ErrImagePull: 401 Unauthorized";
    check("ImagePullBackOff", backed_off, &["create secret docker-registry", "--docker-server=r.example"]);
    check("ErrImagePull", "dial tcp: lookup r.example: no such host", &["does not answer this node"]);
    check("ErrImageNeverPull", "not present with pull policy of Never", &["isopod image load ARCHIVE"]);
    check("InvalidImageName", "Failed to apply default image tag", &["is no image's name"]);
}

#[test]
fn of_missing_configuration() {
    let check = |message: &str, help: &[&str]| {
        let said = format!(
            "CreateContainerConfigError: Container \"c\" cannot start, for its configuration is not there: {message}."
        );
        super::tests::check(Kind::Pod, &pod(waiting("CreateContainerConfigError", message)), &world(), &[&said], help);
    };
    check("configmap \"x\" not found", &["kubectl -n shop create configmap x --from-literal=KEY=VALUE"]);
    check("secret \"x\" not found", &["kubectl -n shop create secret generic x --from-literal=KEY=VALUE"]);
    check(
        "couldn't find key GREETNG in ConfigMap shop/m",
        &[
            "There is a key \"GREETING\": was that meant?",
            "its keys are GREETING",
            r#"patch configmap m --type merge -p '{"data":{"GREETNG":"VALUE"}}'"#,
        ],
    );
}

#[test]
fn of_containers_that_end() {
    let check = |code, reason: &str, how: &str, help: &[&str]| {
        let said =
            format!("CrashLoopBackOff: Container \"c\" ends again and again: it {how}; it was started again 3 times.");
        super::tests::check(Kind::Pod, &pod(crashing(code, reason)), &world(), &[&said], help);
    };
    let words = ["no such file: /etc/web.conf", "[2026-01-01T00:01:20Z]: the next try is not before"];
    check(1, "Error", "ended with exit code 1", &words);
    check(1, "Error", "ended with exit code 1", &["kubectl -n shop rollout undo deployment/web"]);
    check(
        127,
        "Error",
        "ended with exit code 127: its command was not found",
        &["Correct the command, which is [\"run\"]"],
    );
    check(0, "Completed", "ended by itself, with exit code 0", &["make it a Job"]);
    let killed = "was killed because it needed more memory than its limit of 20Mi";
    check(137, "OOMKilled", killed, &["kubectl -n shop set resources deployment/web -c c --limits=memory=40Mi"]);
    let running = json!({"ready": true, "state": {"running": {}, "waiting": null}});
    super::tests::check(
        Kind::Pod,
        &pod(with(crashing(137, "OOMKilled"), running)),
        &world(),
        &[&format!("OOMKilled: Container \"c\" runs, but was started again 3 times: the last time it {killed}.")],
        &["--limits=memory=40Mi"],
    );
    let world = World {
        events: trees(&[
            event("Unhealthy", "spec.containers{c}", "Liveness probe failed: timeout"),
            event("Killing", "spec.containers{c}", "Container c failed liveness probe, will be restarted"),
        ]),
        ..world()
    };
    let ended = "CrashLoopBackOff: Container \"c\" ends again and again: it was ended by SIGTERM: it was asked to end (exit code 143); it was started again 3 times.";
    super::tests::check(
        Kind::Pod,
        &pod(crashing(143, "Error")),
        &world,
        &[ended],
        &["Liveness probe failed: timeout", "give the container more time"],
    );
}

#[test]
fn of_probes_and_gates() {
    let failed = "Readiness probe failed: dial tcp 10.0.0.1:80: connection refused";
    let world = World { events: trees(&[event("Unhealthy", "spec.containers{c}", failed)]), ..world() };
    let unready = pod(status(json!({"state": {"running": {}}})));
    let said = format!("ContainersNotReady: Container \"c\" runs and is not ready: {failed}.");
    check(
        Kind::Pod,
        &unready,
        &world,
        &[&said],
        &[
            "the container declares port 8080: ask that",
            r#"kubectl -n shop patch deployment/web -p '{"spec""#,
            r#""port":8080"#,
        ],
    );
    let starting = pod(status(json!({"started": false, "state": {"running": {}}})));
    check(
        Kind::Pod,
        &starting,
        &super::tests::world(),
        &["ContainersNotReady: Container \"c\" runs and has not passed its startup probe yet."],
        &[],
    );
    let gated = with(
        pod(status(json!({"ready": true, "state": {"running": {}}}))),
        json!({
            "spec": {"readinessGates": [{"conditionType": "example.com/in"}]},
            "status": {"conditions": [
                {"type": "ContainersReady", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": "closed"},
            ]},
        }),
    );
    check(
        Kind::Pod,
        &gated,
        &super::tests::world(),
        &["ReadinessGatesNotReady: All containers are ready, but example.com/in is not told to be True."],
        &["Whoever sets the condition example.com/in"],
    );
}

#[test]
fn of_pods_without_a_node() {
    let mut unplaced = pod(json!(null));
    unplaced["spec"]["nodeName"] = Json::Null;
    unplaced["status"] = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."},
    ]});
    let placement = Placement {
        refusals: vec![Refusal {
            node: "n".into(),
            plugin: "NodeResourcesFit".into(),
            reasons: vec!["Insufficient cpu".into()],
        }],
        nearest: Some("Node \"n\" would do if 2 more cpu were free there.".into()),
        commands: vec!["kubectl get pods".into()],
    };
    let world = World { placements: BTreeMap::from([("web-1".to_owned(), placement)]), ..world() };
    let help = [
        "node/n NodeResourcesFit: Insufficient cpu",
        "-> Node \"n\" would do if 2 more cpu were free there.",
        "      kubectl get pods",
    ];
    check(Kind::Pod, &unplaced, &world, &["Unschedulable: No node takes the pod."], &help);
    unplaced["spec"]["schedulingGates"] = json!([{"name": "example.com/hold"}]);
    let said = "SchedulingGated: The pod is held back by scheduling gates, which whoever set them takes away.";
    check(Kind::Pod, &unplaced, &world, &[said], &["example.com/hold"]);
}

#[test]
fn of_pods_that_were_ended() {
    let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
        Container c was using 30Mi, request is 0, has larger consumption of memory. ";
    let evicted = with(
        pod(json!(null)),
        json!({"status": {"phase": "Failed", "reason": "Evicted", "message": message, "containerStatuses": null}}),
    );
    let said = "Evicted: The node had 50Mi of memory left, less than the 100Mi that it keeps, and ended the pod to get some back.";
    check(
        Kind::Pod,
        &evicted,
        &world(),
        &[said],
        &[
            "Container \"c\" used 30Mi and asked for 0",
            "kubectl -n shop set resources deployment/web -c c --requests=memory=30Mi",
        ],
    );
}

#[test]
fn of_volumes_that_are_missing() {
    let events =
        trees(&[event("FailedMount", "", "MountVolume.SetUp failed for volume \"v\" : configmap \"x\" not found")]);
    let said = "FailedMount: A volume of the pod cannot be put in place, and no container starts before that.";
    let world = World { events, ..world() };
    check(Kind::Pod, &pod(waiting("ContainerCreating", "")), &world, &[said], &["kubectl -n shop create configmap x"]);
}

fn deployment(more: Json) -> Json {
    let base = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop", "uid": "d1", "generation": 2},
        "spec": {"replicas": 2, "progressDeadlineSeconds": 60},
        "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2},
    });
    with(base, more)
}

#[test]
fn of_roll_outs() {
    let old = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "s0", "ownerReferences": [{"uid": "d1", "kind": "Deployment", "name": "web"}]},
        "spec": {"replicas": 2}, "status": {"replicas": 2, "availableReplicas": 2},
    });
    let mut world = World { pods: trees(&[pod(crashing(1, "Error"))]), ..world() };
    world.replica_sets.push(tree(&old));
    let late = json!({"status": {"conditions": [{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"web-a\" has timed out progressing.",
    }]}});
    check(
        Kind::Deployment,
        &deployment(late),
        &world,
        &[
            "ProgressDeadlineExceeded: The roll-out made no progress within its 60 seconds: 1 of 2 pods are of the new revision, 2 are available.",
            "CrashLoopBackOff: Pod \"web-1\": Container \"c\" ends again and again: it ended with exit code 1; it was started again 3 times.",
        ],
        &["kubectl -n shop rollout undo deployment/web", "old revision 0: 2 of 2 pods", "no such file"],
    );
    let failure = json!({"status": {"availableReplicas": 2, "updatedReplicas": 2, "replicas": 2, "conditions": [{
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "pods \"web-a-\" is forbidden: error looking up service account shop/robot: serviceaccount \"robot\" not found",
    }]}});
    check(
        Kind::Deployment,
        &deployment(failure),
        &world,
        &["FailedCreate: The API server refuses its pods."],
        &["kubectl -n shop create serviceaccount robot"],
    );
    let back = json!({"status": {"updatedReplicas": 2, "replicas": 2, "conditions": [
        {"type": "RolledBack", "status": "True", "reason": "ProgressDeadlineExceeded", "message": "Rolled back from a to b."},
    ]}});
    check(
        Kind::Deployment,
        &deployment(back),
        &world,
        &["RolledBack: The last change was taken back by itself. Rolled back from a to b."],
        &[],
    );
}

fn service(selector: Json, port: Json) -> Json {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": port}]},
    })
}

#[test]
fn of_services_that_lead_nowhere() {
    let unready = pod(crashing(1, "Error"));
    // Another pod has such a label, too, with a value that nobody can have meant.
    let other = with(unready.clone(), json!({"metadata": {"name": "zebra", "labels": {"app": "zebra"}}}));
    let world = World { pods: trees(&[unready, other]), ..world() };
    let none = "NoEndpoints: No pod in namespace \"shop\" has the labels that the Service selects.";
    check(
        Kind::Service,
        &service(json!({"app": "wbe"}), json!("http")),
        &world,
        &[none],
        &[
            "Pod \"web-1\" comes nearest; it lacks app=wbe",
            r#"patch service web -p '{"spec":{"selector":{"app":"web"}}}'"#,
        ],
    );
    check(
        Kind::Service,
        &service(json!({"App": "web"}), json!("http")),
        &world,
        &[none],
        &[r#"{"spec":{"selector":{"App":null,"app":"web"}}}"#],
    );
    check(
        Kind::Service,
        &with(service(json!({"app": "web"}), json!("http")), json!({"metadata": {"namespace": "default"}})),
        &world,
        &["NoEndpoints: No pod in namespace \"default\" has the labels that the Service selects."],
        &["Such pods are in namespace \"shop\""],
    );
    check(
        Kind::Service,
        &service(json!({"app": "web"}), json!("http")),
        &world,
        &[
            "NoEndpoints: The Service has no endpoints: the one pod that it selects is not ready.",
            "CrashLoopBackOff: Pod \"web-1\": Container \"c\" ends again and again: it ended with exit code 1; it was started again 3 times.",
        ],
        &[],
    );
    check(
        Kind::Service,
        &service(json!({"app": "web"}), json!("htpp")),
        &world,
        &["NoSuchPort: The Service leads to a port named \"htpp\", which no container of its pods has."],
        &["Lead to \"http\"", r#""path":"/spec/ports/0/targetPort","value":"http""#, "http (8080)"],
    );
    check(
        Kind::Service,
        &service(json!({"app": "web"}), json!(80)),
        &world,
        &["OtherPort: The Service leads to port 80, and its pods declare port 8080 only."],
        &[r#""value":8080"#],
    );
}

#[test]
fn of_nodes() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "spec": {"unschedulable": true, "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, {"key": "own", "value": "team", "effect": "NoSchedule"},
        ]},
        "status": {"conditions": [
            {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."},
            {"type": "MemoryPressure", "status": "True"},
        ]},
    });
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "shop"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2},
    });
    let world = World { pods: trees(&[pod(json!(null))]), budgets: trees(&[budget]), ..World::default() };
    check(
        Kind::Node,
        &node,
        &world,
        &[
            "NodeNotReady: The node's agent has not been heard of: the machine, its network or the agent is down.",
            "MemoryPressure: The node runs short of memory: pods that promise nothing are not taken, and some are ended.",
            "Cordoned: The node is cordoned: no new pods come to it.",
            "Tainted: The node keeps pods off that do not tolerate its taints.",
            "DisruptionBudget: The budget \"b\" in namespace \"shop\" lets no pod go: it needs 2 healthy ones, and 2 of 2 are. A drain waits at pod/web-1.",
        ],
        &[
            "kubectl uncordon n",
            "kubectl taint nodes n own:NoSchedule-",
            r#"patch pdb b --type merge -p '{"spec":{"minAvailable":1}}'"#,
        ],
    );
}

#[test]
fn of_namespaces_that_do_not_go() {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes"]},
    });
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "old", "finalizers": ["example.com/x"]}});
    let world = World { left: trees(&[held]), ..World::default() };
    check(
        Kind::Namespace,
        &namespace,
        &world,
        &[
            "Terminating: The namespace is being deleted, and holds objects still: 1 ConfigMap.",
            "Finalizers: ConfigMap \"m\" is kept by finalizers: example.com/x.",
        ],
        &[r#"kubectl -n old patch configmap/m --type merge -p '{"metadata":{"finalizers":null}}'"#],
    );
}

#[test]
fn of_what_may_not_be_done() {
    let role = |name: &str, verbs: Json, resources: Json| json!({"metadata": {"name": name}, "rules": [{"apiGroups": ["apps"], "verbs": verbs, "resources": resources}]});
    let roles = access::Roles {
        cluster_roles: trees(&[
            role("all", json!(["*"]), json!(["*"])),
            role("scaler", json!(["get", "patch"]), json!(["deployments", "deployments/scale"])),
            role("system:scaler", json!(["patch"]), json!(["deployments/scale"])),
        ]),
        roles: Vec::new(),
    };
    let question = access::Question {
        namespace: "shop".into(),
        user: "jane".into(),
        ..access::Question::parse("patch", "deployments.apps/scale")
    };
    let finding = access::denied(&question, "", &roles);
    assert_eq!(finding.what, "User \"jane\" may not patch deployments.apps/scale in namespace \"shop\".");
    let text = report("it", "", &[finding], &[]);
    for part in [
        "kind: Role\n",
        "metadata: {name: patch-deployments-apps-scale, namespace: shop}",
        "- {apiGroups: [\"apps\"], resources: [deployments/scale], verbs: [patch]}",
        "kind: User, name: \"jane\"",
        "kubectl -n shop create rolebinding NAME --clusterrole=scaler --user=jane",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let account = access::Question {
        user: "system:serviceaccount:shop:robot".into(),
        ..access::Question::parse("get", "pods/web-1")
    };
    let text = account.smallest_role();
    assert!(text.contains("kind: ClusterRole\n") && text.contains("resourceNames: [web-1]"), "{text}");
    assert!(text.contains("{kind: ServiceAccount, name: robot, namespace: shop}"), "{text}");
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let good = with(pod(status(json!({"ready": true, "state": {"running": {}}}))), json!({ "status": ready }));
    check(Kind::Pod, &good, &world(), &[], &["it: well"]);
    assert_eq!(well(Kind::Pod, &tree(&good), &world()), "it runs and is ready");
    let done = deployment(json!({"status": {"replicas": 2, "updatedReplicas": 2}}));
    check(Kind::Deployment, &done, &world(), &[], &[]);
}

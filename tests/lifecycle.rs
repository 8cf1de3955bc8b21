//! The life of pods: sidecars, ephemeral containers, deadlines, gates, last words, refusals.

use serde_json::Value;

use crate::clock::until;
use crate::cluster::Cluster;

/// A pod of busybox; `containers` and the rest of its specification as JSON.
fn pod(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":5,{spec}}}}}"#
    )
}

/// A container of busybox that runs a line of shell, with more fields.
fn shell(name: &str, line: &str, more: &str) -> String {
    format!(r#"{{"name":"{name}","image":"busybox:test","command":["/bin/sh","-c","{line}"]{more}}}"#)
}

fn phase(cluster: &Cluster, name: &str) -> String {
    cluster.get(&["pod", name])["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

fn condition(pod: &Value, type_: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == type_);
    found.map_or_else(String::new, |condition| condition["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
pub fn sidecars_begin_before_the_rest_and_end_after_it() {
    let cluster = Cluster::start();
    let mount = r#","volumeMounts":[{"name":"v","mountPath":"/v"}]"#;
    let life = |name: &str| {
        format!(
            "echo +{name} >>/v/log; trap 'echo -{name} >>/v/log; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"
        )
    };
    let started = r#","restartPolicy":"Always","startupProbe":{"exec":{"command":["/bin/cat","/tmp/up"]},"periodSeconds":1,"failureThreshold":20}"#;
    let first = shell("first", &life("first"), &format!("{mount}{started}"));
    let second = shell("second", &life("second"), &format!("{mount}{started}"));
    let init = shell("init", "echo +init >>/v/log", mount);
    // What its process left is told by the sidecar that ends last.
    let main = shell("main", "echo +main >>/v/log; sleep 1; echo -main >>/v/log", mount);
    let teller = shell(
        "teller",
        "trap 'sleep 0.5; cat /v/log; exit 0' TERM; while :; do sleep 0.1; done",
        &format!(r#"{mount},"restartPolicy":"Always""#),
    );
    cluster.apply(&pod(
        "life",
        &format!(
            r#""restartPolicy":"Never","volumes":[{{"name":"v","emptyDir":{{}}}}],"initContainers":[{teller},{first},{init},{second}],"containers":[{main}]"#
        ),
    ));
    until("the pod succeeds", || (phase(&cluster, "life") == "Succeeded").then_some(()));
    let log = cluster.kubectl(&["logs", "life", "-c", "teller"]);
    let order: Vec<&str> = log.lines().collect();
    assert_eq!(order, ["+first", "+init", "+second", "+main", "-main", "-second", "-first"]);
    let pod = cluster.get(&["pod", "life"]);
    let inits = pod["status"]["initContainerStatuses"].as_array().expect("statuses");
    assert!(inits.iter().all(|status| status["state"]["terminated"]["exitCode"] == 0), "{inits:#?}");
}

#[test]
pub fn a_container_is_added_to_a_running_pod_and_sees_its_target() {
    let cluster = Cluster::start();
    cluster.apply(&pod("plain", &format!(r#""containers":[{}]"#, shell("main", "sleep 1000", ""))));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/plain", "--timeout=30s"]);
    cluster.kubectl(&[
        "debug",
        "plain",
        "--image=busybox:test",
        "--image-pull-policy=IfNotPresent",
        "--target=main",
        "-c",
        "look",
        "--profile=general",
        "--",
        "/bin/sh",
        "-c",
        "ps; exit 3",
    ]);
    let status = until("it has ended", || {
        let pod = cluster.get(&["pod", "plain"]);
        let status = pod["status"]["ephemeralContainerStatuses"][0].clone();
        (!status["state"]["terminated"].is_null()).then_some(status)
    });
    assert_eq!((&status["name"], &status["state"]["terminated"]["exitCode"]), (&"look".into(), &3.into()));
    let seen = cluster.kubectl(&["logs", "plain", "-c", "look"]);
    assert!(seen.contains("sleep 1000"), "the target's processes: {seen}");
    let pod = cluster.get(&["pod", "plain"]);
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["targetContainerName"], "main");
    assert_eq!((phase(&cluster, "plain").as_str(), condition(&pod, "Ready").as_str()), ("Running", "True"));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn a_file_on_the_machine_is_a_pod_with_a_mirror_in_the_api() {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    let manifests = cluster.machine.folder.join("manifests");
    std::fs::create_dir(&manifests).expect("make a folder");
    let file = manifests.join("web.json");
    std::fs::write(&file, pod("web", &format!(r#""containers":[{}]"#, shell("main", "echo hello; sleep 1000", ""))))
        .expect("write a manifest");
    let options = ["--pod-manifest-path", manifests.to_str().expect("a plain path")].map(str::to_owned);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    cluster.up(&options);
    cluster.node_is_ready();
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let name = format!("web-{node}");
    let mirror = until("the mirror is ready", || {
        let ran = cluster.try_kubectl(&["get", "pod", &name, "-o", "json"]);
        let pod: Value = serde_json::from_str(&ran.stdout).ok()?;
        (condition(&pod, "Ready") == "True").then_some(pod)
    });
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(cluster.kubectl(&["logs", &name]), "hello\n");
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    cluster.kubectl(&["delete", "pod", &name, "--wait=false"]);
    let again = until("the mirror is back, and ready", || {
        let ran = cluster.try_kubectl(&["get", "pod", &name, "-o", "json"]);
        let pod: Value = serde_json::from_str(&ran.stdout).ok()?;
        (pod["metadata"]["uid"] != mirror["metadata"]["uid"] && condition(&pod, "Ready") == "True").then_some(pod)
    });
    assert_eq!(container(&again), container(&mirror), "the pod itself goes on");
    std::fs::remove_file(&file).expect("remove the manifest");
    until("the pod ends", || (cluster.try_kubectl(&["get", "pod", &name]).code == Some(1)).then_some(()));
    until("and so do its processes", || (!cluster.machine.shell("ps ax").contains("sleep 1000")).then_some(()));
}

#[test]
fn pods_end_wait_and_are_refused_for_reasons_that_are_told() {
    let cluster = Cluster::start();
    let main = shell("main", "sleep 1000", "");
    cluster.apply(&pod("late", &format!(r#""activeDeadlineSeconds":2,"containers":[{main}]"#)));
    cluster.apply(&pod(
        "gated",
        &format!(r#""readinessGates":[{{"conditionType":"example.com/gate"}}],"containers":[{main}]"#),
    ));
    let greedy = shell("main", "sleep 1000", r#","resources":{"requests":{"cpu":"1000"}}"#);
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.apply(&pod("greedy", &format!(r#""nodeName":"{node}","containers":[{greedy}]"#)));
    let words = shell("file", "echo -n done >/dev/termination-log", "");
    let log = shell("log", "echo why; exit 1", r#","terminationMessagePolicy":"FallbackToLogsOnError""#);
    cluster.apply(&pod("words", &format!(r#""restartPolicy":"Never","containers":[{words},{log}]"#)));
    let rules = r#","restartPolicy":"Never","restartPolicyRules":[{"action":"Restart","exitCodes":{"operator":"In","values":[42]}}]"#;
    let again = shell(
        "main",
        "[ -f /v/ran ] || { touch /v/ran; exit 42; }; exit 0",
        &format!(r#"{rules},"volumeMounts":[{{"name":"v","mountPath":"/v"}}]"#),
    );
    cluster.apply(&pod(
        "rules",
        &format!(r#""restartPolicy":"Never","volumes":[{{"name":"v","emptyDir":{{}}}}],"containers":[{again}]"#),
    ));

    let late = until("the deadline ends the pod", || {
        (phase(&cluster, "late") == "Failed").then(|| cluster.get(&["pod", "late"]))
    });
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    assert_eq!(late["status"]["message"], "Pod was active on the node longer than the specified deadline");
    let greedy =
        until("the node refuses", || (phase(&cluster, "greedy") == "Failed").then(|| cluster.get(&["pod", "greedy"])));
    assert_eq!(greedy["status"]["reason"], "OutOfcpu");
    let message = greedy["status"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: "),
        "{message}"
    );
    let words =
        until("both have ended", || (phase(&cluster, "words") == "Failed").then(|| cluster.get(&["pod", "words"])));
    let said = |index: usize| words["status"]["containerStatuses"][index]["state"]["terminated"]["message"].clone();
    assert_eq!((said(0), said(1)), ("done".into(), "why\n".into()));
    until("a rule restarts the container", || (phase(&cluster, "rules") == "Succeeded").then_some(()));
    assert_eq!(cluster.get(&["pod", "rules"])["status"]["containerStatuses"][0]["restartCount"], 1);

    cluster.kubectl(&["wait", "--for=condition=ContainersReady", "pod/gated", "--timeout=30s"]);
    assert_eq!(condition(&cluster.get(&["pod", "gated"]), "Ready"), "False");
    let open = r#"{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}"#;
    cluster.kubectl(&["patch", "pod", "gated", "--subresource=status", "--type=strategic", "-p", open]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/gated", "--timeout=30s"]);
    let events = cluster.kubectl(&["get", "events", "-A"]);
    for reason in ["NodeHasSufficientMemory", "NodeReady", "Starting", "OutOfcpu", "DeadlineExceeded"] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
}

#[test]
fn the_end_of_one_container_has_the_whole_pod_start_anew_in_place() {
    let cluster = Cluster::start();
    let rules = r#","restartPolicy":"Never","restartPolicyRules":[{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]"#;
    let mounts = r#","volumeMounts":[{"name":"v","mountPath":"/v"}]"#;
    let init = shell("init", "echo init >>/v/runs", mounts);
    let side = shell("side", "trap 'exit 0' TERM; sleep 1000 & wait", r#","restartPolicy":"Always""#);
    let once = shell("once", "exit 0", "");
    let main = "echo main >>/v/runs; [ $(grep -c main /v/runs) = 1 ] || exec sleep 1000; until [ -f /v/go ]; do sleep 0.1; done; exit 42";
    let main = shell("main", main, &format!("{rules}{mounts}"));
    cluster.apply(&pod(
        "anew",
        &format!(
            r#""restartPolicy":"Never","volumes":[{{"name":"v","emptyDir":{{}}}}],"initContainers":[{init},{side}],"containers":[{once},{main}]"#
        ),
    ));
    let status = |pod: &Value, list: &str, index: usize| pod["status"][list][index].clone();
    let before = until("one container has ended and one runs", || {
        let pod = cluster.get(&["pod", "anew"]);
        let once = status(&pod, "containerStatuses", 0)["state"]["terminated"]["exitCode"] == 0;
        (once && !status(&pod, "containerStatuses", 1)["state"]["running"].is_null()).then_some(pod)
    });
    assert_eq!(condition(&before, "AllContainersRestarting"), "False");
    cluster.kubectl(&["exec", "anew", "-c", "main", "--", "touch", "/v/go"]);
    let after = until("all have run again", || {
        let pod = cluster.get(&["pod", "anew"]);
        let again = status(&pod, "containerStatuses", 0)["restartCount"] == 1
            && !status(&pod, "containerStatuses", 0)["state"]["terminated"].is_null();
        (again && !status(&pod, "containerStatuses", 1)["state"]["running"].is_null()).then_some(pod)
    });
    for (list, index) in [("initContainerStatuses", 0), ("initContainerStatuses", 1), ("containerStatuses", 1)] {
        let status = status(&after, list, index);
        assert_eq!(status["restartCount"], 1, "{status}");
    }
    assert_eq!(status(&after, "containerStatuses", 1)["lastState"]["terminated"]["exitCode"], 42);
    assert_eq!(condition(&after, "AllContainersRestarting"), "False");
    assert_eq!(condition(&after, "Initialized"), "True");
    for field in ["podIP", "phase"] {
        assert_eq!(before["status"][field], after["status"][field], "{field}");
    }
    let runs = cluster.kubectl(&["exec", "anew", "-c", "main", "--", "cat", "/v/runs"]);
    assert_eq!(runs, "init\nmain\ninit\nmain\n");
}

#[test]
fn a_node_that_runs_short_keeps_pods_out_and_ends_what_runs() {
    // A bound that no machine reaches.
    let cluster = Cluster::start_with(&["--eviction-hard", "memory.available<100000Gi"]);
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl(&["wait", "--for=condition=MemoryPressure", "nodes", "--all", "--timeout=30s"]);
    let plain = shell("main", "sleep 1000", "");
    cluster.apply(&pod("plain", &format!(r#""nodeName":"{node}","containers":[{plain}]"#)));
    let asking = shell("main", "sleep 1000", r#","resources":{"requests":{"cpu":"10m"}}"#);
    cluster.apply(&pod("asking", &format!(r#""nodeName":"{node}","containers":[{asking}]"#)));
    let ended = |name: &str| {
        until("it is evicted", || (phase(&cluster, name) == "Failed").then(|| cluster.get(&["pod", name])))
    };
    let refused = ended("plain");
    assert_eq!(refused["status"]["reason"], "Evicted");
    assert_eq!(refused["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    let evicted = ended("asking");
    assert_eq!(evicted["status"]["reason"], "Evicted");
    let message = evicted["status"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100000Gi, available: "),
        "{message}"
    );
    assert_eq!(condition(&evicted, "DisruptionTarget"), "True");
    assert!(!evicted["status"]["containerStatuses"][0]["state"]["terminated"].is_null(), "it ran and was ended");
}

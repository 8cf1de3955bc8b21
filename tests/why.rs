//! `isopod why`: what is wrong, by what one sees that, and what would help.

use serde_json::{Value, json};

use crate::clock::until;
use crate::cluster::{Cluster, ran};

/// What is said of an object.
fn why(cluster: &Cluster, arguments: &[&str]) -> String {
    let ran = ran(&mut cluster.isopod(&[&["why"], arguments].concat()));
    assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    ran.stdout
}

/// Waits until all of this is said of an object.
#[track_caller]
fn says(cluster: &Cluster, object: &str, parts: &[&str]) {
    let mut last = String::new();
    let start = stdx::mono();
    while (stdx::mono() - start).as_secs() < 20 {
        last = why(cluster, &[object]);
        if parts.iter().all(|part| last.contains(part)) {
            return;
        }
        crate::clock::pause(std::time::Duration::from_millis(100));
    }
    panic!("{parts:?} is not all said of {object}:\n{last}");
}

/// A pod whose container `c` of busybox runs a line of shell, with more of the container and of the pod.
fn pod(name: &str, line: &str, container: Value) -> String {
    let mut main = json!({"name": "c", "image": "busybox:test", "command": ["sh", "-c", line]});
    for (key, value) in container.as_object().expect("fields") {
        main[key] = value.clone();
    }
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [main]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
        .to_string()
}

#[test]
fn says_what_is_wrong_and_what_would_help() {
    let cluster = Cluster::start();
    cluster.apply(&pod("huge", "sleep 1000", json!({"resources": {"requests": {"cpu": "1000"}}})));
    cluster.apply(&pod("nowhere", "sleep 1000", json!({"image": "127.0.0.1:9/none:1", "imagePullPolicy": "Always"})));
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"GREETING": "x"}})
            .to_string(),
    );
    let reference = json!({"configMapKeyRef": {"name": "settings", "key": "GREETNG"}});
    cluster.apply(&pod("keyless", "sleep 1000", json!({"env": [{"name": "A", "valueFrom": reference}]})));
    let eat = "x=0123456789; while :; do x=$x$x; done";
    cluster.apply(&pod("greedy", eat, json!({"resources": {"limits": {"memory": "20Mi"}}})));
    let probe = json!({"tcpSocket": {"port": 81}, "periodSeconds": 1});
    cluster.apply(&pod(
        "unready",
        "sleep 1000",
        json!({"readinessProbe": probe, "ports": [{"name": "http", "containerPort": 80}]}),
    ));
    cluster.apply(&pod("crash", "echo no such file: web.conf; exit 3", json!({})));
    for (name, selector) in [("lost", "unreayd"), ("waits", "unready")] {
        let ports = json!([{"port": 80, "targetPort": "http"}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": selector}, "ports": ports}});
        cluster.apply(&service.to_string());
    }
    let short = [
        "No node takes the pod. (Unschedulable)",
        "0/1 nodes are available: 1 Insufficient cpu.",
        "more cpu were free there.",
    ];
    says(&cluster, "pod/huge", &short);
    let describe = cluster.kubectl(&["describe", "pod", "huge"]);
    assert!(describe.contains("Insufficient cpu.") && describe.contains("more cpu were free there."), "{describe}");
    says(
        &cluster,
        "pod/nowhere",
        &["127.0.0.1:9/none:1", "cannot be had", "does not answer this node", "set image pod/nowhere c=IMAGE:TAG"],
    );
    says(
        &cluster,
        "pod/keyless",
        &[
            "couldn't find key GREETNG in ConfigMap default/settings",
            "There is a key \"GREETING\"",
            "kubectl -n default patch configmap settings",
        ],
    );
    says(&cluster, "pod/greedy", &["it needed more memory than its limit of 20Mi", "--limits=memory=40Mi"]);
    says(&cluster, "pod/unready", &["Readiness probe failed", "the container declares port 80: ask that"]);
    says(&cluster, "pod/crash", &["ended with exit code 3", "no such file: web.conf"]);
    says(
        &cluster,
        "service/lost",
        &[
            "has the labels that the Service selects",
            "Pod \"unready\" comes nearest",
            r#"{"spec":{"selector":{"app":"unready"}}}"#,
        ],
    );
    says(&cluster, "svc/waits", &["the one pod that it selects is not ready", "Readiness probe failed"]);
    let json: Value = serde_json::from_str(&why(&cluster, &["pod/greedy", "-o", "json"])).expect("JSON");
    assert!(json["well"] == false && json["findings"][0]["changes"][0]["command"].is_string(), "{json}");
    access(&cluster);
    namespace(&cluster);
}

/// What helps somebody who may not do something does help.
fn access(cluster: &Cluster) {
    let asked = ["auth", "list", "pods", "--as", "jane", "-n", "default", "-o", "json"];
    let denied: Value = serde_json::from_str(&why(cluster, &asked)).expect("JSON");
    let command = denied["findings"][0]["changes"][0]["command"].as_str().expect("a command").to_owned();
    let manifest: Vec<&str> = command.lines().filter(|line| !line.starts_with("kubectl") && *line != "END").collect();
    cluster.apply(&manifest.join("\n"));
    let allowed = why(cluster, &asked[..7]);
    assert!(allowed.contains("user \"jane\" may do that"), "{allowed}");
}

/// A namespace that an object's finalizer keeps.
fn namespace(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "old"]);
    let meta = json!({"name": "kept", "namespace": "old", "finalizers": ["example.com/look"]});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}).to_string());
    cluster.kubectl(&["delete", "namespace", "old", "--wait=false"]);
    says(
        cluster,
        "namespace/old",
        &["holds objects still", "ConfigMap \"kept\" is kept by finalizers: example.com/look"],
    );
    cluster.kubectl(&[
        "-n",
        "old",
        "patch",
        "configmap/kept",
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    until("the namespace goes", || (cluster.try_kubectl(&["get", "namespace", "old"]).code != Some(0)).then_some(()));
}

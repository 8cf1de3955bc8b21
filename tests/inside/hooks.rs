//! What runs after a container's start and before its end, and how it is asked to end.

use std::path::Path;

use serde_json::{Value, json};

use super::{apply, case, check, event, pod, with};
use crate::clock::until;
use crate::cluster::Cluster;

/// A server in the node's network that writes down what it is asked.
const MARKER: &str = "mkdir -p /tmp/www/cgi-bin; cd /tmp/www/cgi-bin; \
    printf '#!/bin/sh\\necho \"$QUERY_STRING $HTTP_COOKIE\" >>/tmp/marks\\nprintf \"\\\\n\"\\n' >mark; chmod +x mark; exec httpd -f -p 8077 -h /tmp/www";

/// A hook that asks that server.
fn asks(what: &str) -> Value {
    json!({"httpGet": {"host": "127.0.0.1", "port": "mark", "scheme": "HTTP", "path": format!("/cgi-bin/mark?{what}"),
        "httpHeaders": [{"name": "Cookie", "value": "word"}]}})
}

/// A pod that runs until it is asked to end, with a folder of the node.
fn long(name: &str, script: &str, host: &Path, lifecycle: Value, spec: Value) -> Value {
    let volumes =
        json!({"volumes": [{"name": "host", "hostPath": {"path": host}}], "terminationGracePeriodSeconds": 20});
    let container = json!({"lifecycle": lifecycle, "ports": [{"name": "mark", "containerPort": 8077}],
        "volumeMounts": [{"name": "host", "mountPath": "/host"}]});
    pod(name, script, with(volumes, &spec), container)
}

#[test]
fn hooks_run_at_a_containers_start_and_end() {
    let cluster = Cluster::start();
    let host = cluster.machine.folder.join("host");
    std::fs::create_dir(&host).expect("make a folder");
    apply(&cluster, &[pod("marker", MARKER, json!({"hostNetwork": true}), json!({}))]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/marker", "--timeout=30s"]);
    let marks = || cluster.kubectl(&["exec", "marker", "--", "sh", "-c", "sort /tmp/marks 2>/dev/null; true"]);
    until("the server serves", || crate::load::request("127.0.0.1:8077".parse().ok()?, "GET", "/cgi-bin/mark?up").ok());
    let ends =
        |signal: &str| format!("trap 'echo $(date +%s) {signal} >/host/$HOSTNAME; exit 0' {signal}; sleep 1000 & wait");
    let exec = |line: &str| json!({"exec": {"command": ["sh", "-c", line]}});
    let term = ends("TERM");
    let both = format!("trap 'echo term >/host/$HOSTNAME; exit 0' TERM; {}", ends("USR1"));
    let hook = |when: &str, what: Value| json!({when: what});
    let none = json!({});
    apply(
        &cluster,
        &[
            long("start-http", &term, &host, hook("postStart", asks("start")), none.clone()),
            long("start-sleep", &term, &host, hook("postStart", json!({"sleep": {"seconds": 3}})), none.clone()),
            long(
                "start-tcp",
                &term,
                &host,
                hook("postStart", json!({"tcpSocket": {"host": "127.0.0.1", "port": 8077}})),
                none.clone(),
            ),
            long("start-fails", &term, &host, hook("postStart", exec("exit 1")), none.clone()),
            long("stop-exec", &term, &host, hook("preStop", exec("echo asked >/host/hook")), none.clone()),
            long("stop-http", &term, &host, hook("preStop", asks("stop")), none.clone()),
            long("stop-sleep", &term, &host, hook("preStop", json!({"sleep": {"seconds": 3}})), none.clone()),
            long(
                "stop-tcp",
                &term,
                &host,
                hook("preStop", json!({"tcpSocket": {"host": "127.0.0.1", "port": 8077}})),
                none,
            ),
            long("signal", &both, &host, json!({"stopSignal": "SIGUSR1"}), json!({"os": {"name": "linux"}})),
        ],
    );
    let hooked = json!({"lifecycle": hook("postStart", exec("echo hooked >/tmp/hook"))});
    check(
        &cluster,
        &[case("start-exec", "until [ -s /tmp/hook ]; do sleep 0.1; done; cat /tmp/hook", &["hooked"])
            .container(hooked)],
    );
    let mut lasting = vec!["start-http", "start-sleep", "stop-exec", "stop-http", "stop-sleep", "stop-tcp"];
    if cluster.containerd.is_some() {
        // None of those that are tried here knows it yet.
        assert_eq!(event(&cluster, "signal", "Failed"), "Error: stop_signal is not supported by this runtime");
    } else {
        lasting.push("signal");
    }
    let names: Vec<String> = lasting.iter().map(|name| format!("pod/{name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=30s"], &names[..]].concat());
    assert!(marks().contains("start word"), "{}", marks());
    for name in ["start-tcp", "start-fails"] {
        assert_eq!(event(&cluster, name, "FailedPostStartHook"), "PostStartHook failed");
    }
    let slept = cluster.kubectl(&["get", "pod", "start-sleep", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt} {.status.conditions[?(@.type=='Ready')].lastTransitionTime}"]);
    let times: Vec<i64> = slept
        .split(' ')
        .map(|time| cluster.machine.shell(&format!("date -d {time} +%s")).trim().parse().expect("a time"))
        .collect();
    assert!((2..=6).contains(&(times[1] - times[0])), "it is ready when the hook has ended: {slept}");
    ends_as_asked(&cluster, &host, &names);
    assert!(marks().contains("stop word"), "{}", marks());
}

/// Deletes the pods and reads what their processes wrote at their end.
fn ends_as_asked(cluster: &Cluster, host: &Path, names: &[&str]) {
    let now: i64 = cluster.machine.shell("date +%s").trim().parse().expect("a time");
    cluster.kubectl(&[&["delete", "--timeout=30s"], names].concat());
    let wrote = |name: &str| std::fs::read_to_string(host.join(name)).expect("the pod wrote it");
    assert_eq!(wrote("hook"), "asked\n");
    if names.contains(&"pod/signal") {
        assert!(wrote("signal").ends_with("USR1\n"), "{}", wrote("signal"));
    }
    let after = |name: &str| {
        let (time, signal) = wrote(name)
            .split_once(' ')
            .map(|(time, signal)| (time.parse::<i64>().expect("a time"), signal.to_owned()))
            .expect("two words");
        assert_eq!(signal, "TERM\n", "{name}");
        time - now
    };
    assert!((2..=9).contains(&after("stop-sleep")), "asked to end after the hook: {}", after("stop-sleep"));
    for name in ["stop-exec", "stop-http", "stop-tcp"] {
        assert!(after(name) <= 2, "{name}: {}", after(name));
    }
    assert_eq!(event(cluster, "stop-tcp", "FailedPreStopHook"), "PreStopHook failed");
}

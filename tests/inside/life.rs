//! When containers start, start again and end; what they read and what they leave behind.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{apply, case, check, ended, event, pod, waits};
use crate::clock::until;
use crate::cluster::{Cluster, kubectls};

fn status(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&["pod", name])["status"]["containerStatuses"][0].clone()
}

#[test]
fn containers_start_again_and_end_as_the_pod_says() {
    let cluster = Cluster::start();
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let restarts = |policy: &str| json!({"restartPolicy": policy});
    let none = || json!({});
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let rules = |operator: &str| json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": operator, "values": [3]}}]});
    let pull = |policy: &str, image: &str| json!({"imagePullPolicy": policy, "image": image});
    let deadline = json!({"activeDeadlineSeconds": 2});
    let gate = json!({"readinessGates": [{"conditionType": "example.com/gate"}]});
    let long = "exec sleep 1000";
    apply(
        &cluster,
        &[
            pod("always", "exit 0", restarts("Always"), none()),
            pod("on-failure", "exit 3", restarts("OnFailure"), none()),
            pod("once-well", "exit 0", restarts("OnFailure"), none()),
            pod("never", "exit 3", restarts("Never"), none()),
            pod("own-policy", "exit 0", restarts("Never"), json!({"restartPolicy": "Always"})),
            pod("rule-in", "exit 3", restarts("Never"), rules("In")),
            pod("rule-not-in", "exit 3", restarts("Never"), rules("NotIn")),
            pod("stubborn", stubborn, json!({"terminationGracePeriodSeconds": 2}), none()),
            pod("late", long, deadline, none()),
            pod("gated", long, gate, none()),
            pod("here", "true", json!({"nodeName": node}), none()),
            pod("other-system", "true", json!({"os": {"name": "windows"}}), none()),
            pod("pull-never", "true", none(), pull("Never", "absent:test")),
            pod("pull-always", "true", none(), pull("Always", "127.0.0.1:9/absent:test")),
            pod("pull-not", "true", none(), pull("IfNotPresent", "busybox:test")),
        ],
    );
    for name in ["always", "on-failure", "own-policy", "rule-in"] {
        until(&format!("{name} runs again"), || {
            (status(&cluster, name)["restartCount"].as_u64() >= Some(1)).then_some(())
        });
    }
    for (name, phase) in [
        ("never", "Failed"),
        ("once-well", "Succeeded"),
        ("rule-not-in", "Failed"),
        ("here", "Succeeded"),
        ("pull-not", "Succeeded"),
    ] {
        assert_eq!(ended(&cluster, name)["status"]["phase"], phase, "{name}");
        assert_eq!(status(&cluster, name)["restartCount"], 0, "{name}");
    }
    assert_eq!(ended(&cluster, "late")["status"]["reason"], "DeadlineExceeded");
    assert_eq!(ended(&cluster, "other-system")["status"]["reason"], "PodOSNotSupported");
    assert_eq!(
        waits(&cluster, "pull-never", "ErrImageNeverPull"),
        "Container image \"absent:test\" is not present with pull policy of Never"
    );
    assert_eq!(event(&cluster, "pull-always", "Pulling"), "Pulling image \"127.0.0.1:9/absent:test\"");
    assert!(event(&cluster, "pull-not", "Pulled").contains("already present on machine"));
    let scheduled = cluster.get(&["events", "--field-selector", "involvedObject.name=here,reason=Scheduled"]);
    assert_eq!(scheduled["items"], json!([]), "nobody chose its node");
    until("the gate alone keeps it from being ready", || {
        let conditions = cluster.get(&["pod", "gated"])["status"]["conditions"].to_string();
        (conditions.contains("ReadinessGatesNotReady") && status(&cluster, "gated")["ready"] == true).then_some(())
    });
    is_killed_in_the_end(&cluster);
}

/// A container that does not end when it is asked to has as long as the pod says.
fn is_killed_in_the_end(cluster: &Cluster) {
    cluster.kubectl(&["patch", "pod", "stubborn", "-p", r#"{"metadata":{"finalizers":["example.com/look"]}}"#]);
    let before = stdx::mono();
    cluster.kubectl(&["delete", "pod", "stubborn", "--wait=false"]);
    let killed = until("it is killed", || {
        let terminated = status(cluster, "stubborn")["state"]["terminated"].clone();
        (!terminated.is_null()).then_some(terminated)
    });
    let seconds = (stdx::mono() - before).as_secs();
    assert_eq!(killed["exitCode"], 137);
    assert!((1..=5).contains(&seconds), "after {seconds} s");
    cluster.kubectl(&["patch", "pod", "stubborn", "-p", r#"{"metadata":{"finalizers":null}}"#]);
}

/// Sends a line to a container, and goes away.
fn attach(cluster: &Cluster, name: &str, line: &str) {
    let mut command = cluster.kubectl_command(&kubectls()[1]);
    command.args(["attach", "-i", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run kubectl");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(line.as_bytes()).expect("write to kubectl");
    if name == "kept" {
        // It goes on reading when its input ends, and kubectl with it: what was sent has arrived when it is in the log.
        until("the line arrives", || cluster.kubectl(&["logs", name]).contains(line.trim()).then_some(()));
        child.kill().expect("end kubectl");
    }
    drop(input);
    child.wait().expect("wait for kubectl");
}

#[test]
fn containers_read_and_leave_what_the_pod_says() {
    let cluster = Cluster::start();
    let reads = "while read line; do echo heard $line; done; echo end";
    let input = |once: bool| json!({"stdin": true, "stdinOnce": once});
    apply(&cluster, &[pod("once", reads, json!({}), input(true)), pod("kept", reads, json!({}), input(false))]);
    let terminal = "test -t 0 && echo in; test -t 1 && echo out; tty; true";
    check(
        &cluster,
        &[
            case("no-input", reads, &["end"]),
            case("no-terminal", terminal, &["not a tty"]).container(json!({"stdin": false, "tty": false})),
        ],
    );
    apply(
        &cluster,
        &[
            pod("terminal", terminal, json!({}), json!({"stdin": true, "tty": true})),
            pod("words", "printf own >/tmp/last", json!({}), json!({"terminationMessagePath": "/tmp/last"})),
            pod(
                "usual",
                "printf usual >/dev/termination-log; echo log; exit 1",
                json!({}),
                json!({"terminationMessagePolicy": "File"}),
            ),
            pod("silent", "echo log; exit 1", json!({}), json!({"terminationMessagePolicy": "File"})),
            pod(
                "fallback",
                "echo log; exit 1",
                json!({}),
                json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
            ),
            pod("fallback-well", "echo log", json!({}), json!({"terminationMessagePolicy": "FallbackToLogsOnError"})),
        ],
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/once", "pod/kept", "--timeout=30s"]);
    attach(&cluster, "once", "hello\n");
    ended(&cluster, "once");
    assert_eq!(cluster.kubectl(&["logs", "once"]), "heard hello\nend\n");
    attach(&cluster, "kept", "hello\n");
    attach(&cluster, "kept", "again\n");
    assert_eq!(cluster.kubectl(&["logs", "kept"]), "heard hello\nheard again\n");
    ended(&cluster, "terminal");
    assert_eq!(cluster.kubectl(&["logs", "terminal"]).replace('\r', ""), "in\nout\n/dev/pts/0\n");
    for (name, message) in [
        ("words", json!("own")),
        ("usual", json!("usual")),
        ("silent", Value::Null),
        ("fallback", json!("log\n")),
        ("fallback-well", Value::Null),
    ] {
        ended(&cluster, name);
        assert_eq!(status(&cluster, name)["state"]["terminated"]["message"], message, "{name}");
    }
}

#[test]
fn processes_of_a_pod_see_one_another_where_it_says_so() {
    let cluster = Cluster::start();
    let count = "ps -o comm | grep -c sleep; true";
    let other = json!({"name": "other", "image": "busybox:test", "command": ["sleep", "5"]});
    let main = json!({"name": "main", "image": "busybox:test", "command": ["sh", "-c", "sleep 1; ps -o comm | grep -c '^sleep$'; true"]});
    let both = json!([main, other]);
    let machine = |fields: Value| super::with(json!({"restartPolicy": "Never"}), &fields);
    check(
        &cluster,
        &[
            case("shared", "", &["1"]).spec(machine(json!({"shareProcessNamespace": true, "containers": both}))),
            case("apart", "", &["0"]).spec(machine(json!({"shareProcessNamespace": false, "containers": both}))),
            case("alone", count, &["0"]),
        ],
    );
    let link = |kind: &str| cluster.machine.shell(&format!("readlink /proc/self/ns/{kind}")).trim().to_owned();
    let spaces = "for kind in net pid ipc uts; do readlink /proc/self/ns/$kind; done";
    let of_node = pod("of-node", spaces, json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), json!({}));
    let own = pod("own", spaces, json!({}), json!({}));
    apply(&cluster, &[of_node, own]);
    let lines = |name: &str| {
        ended(&cluster, name);
        cluster.kubectl(&["logs", name]).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines("of-node"), ["net", "pid", "ipc", "uts"].map(link));
    let own = lines("own");
    for (kind, own) in ["net", "pid", "ipc", "uts"].iter().zip(&own) {
        assert_ne!(*own, link(kind));
    }
}

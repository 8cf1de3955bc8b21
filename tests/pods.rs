//! Show 5: probes, restarts, replacement, limits.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::clock::{pause, until, within};
use crate::cluster::Cluster;
use crate::example::service_address;
use crate::load::{Aim, Connections, request, requests};

/// One pod of the example's image with both probes, a memory limit and a tenth of a processor.
fn pod(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"probed"}}}},"spec":{{
        "terminationGracePeriodSeconds":1,"containers":[{{"name":"api","image":"my-registry/api:v1.2.3",
        "livenessProbe":{{"httpGet":{{"path":"/health","port":3000}},"periodSeconds":1,"failureThreshold":2}},
        "readinessProbe":{{"httpGet":{{"path":"/ready","port":3000}},"periodSeconds":1,"failureThreshold":1}},
        "resources":{{"limits":{{"memory":"64Mi","cpu":"100m"}}}}}}]}}}}"#
    )
}

const SERVICE: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"probed"},
    "spec":{"selector":{"app":"probed"},"ports":[{"port":80,"targetPort":3000}]}}"#;

fn address(cluster: &Cluster, name: &str) -> SocketAddr {
    let pod = cluster.get(&["pod", name]);
    let address = pod["status"]["podIP"].as_str().expect("a running pod has an address").to_owned();
    format!("{address}:3000").parse().expect("the server gives addresses")
}

fn started(names: &[&str]) -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(SERVICE);
    names.iter().for_each(|name| cluster.apply(&pod(name)));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s"]);
    cluster
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[test]
pub fn a_failing_liveness_probe_restarts_the_container_counts_and_backs_off() {
    let cluster = started(&["one"]);
    request(address(&cluster, "one"), "POST", "/health/fail").expect("the server answers");
    until("the container is restarted", || (status(&cluster.get(&["pod", "one"]))["restartCount"] == 1).then_some(()));
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=one"]);
    assert!(
        events.contains("Unhealthy")
            && events.contains("Liveness probe failed: HTTP probe failed with statuscode: 503"),
        "{events}"
    );
    assert!(
        events.contains("Killing") && events.contains("Container api failed liveness probe, will be restarted"),
        "{events}"
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]);
    let pod = cluster.get(&["pod", "one"]);
    assert_eq!(status(&pod)["lastState"]["terminated"]["exitCode"], 0, "the server drains on TERM: {}", status(&pod));
    request(address(&cluster, "one"), "POST", "/health/fail").expect("the server answers");
    until("the next restart waits", || {
        let pod = cluster.get(&["pod", "one"]);
        let waiting = &status(&pod)["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        (waiting["reason"] == "CrashLoopBackOff").then(|| {
            assert!(message.starts_with("back-off 10s restarting failed container=api pod=one_default("), "{message}")
        })
    });
    until("and comes", || (status(&cluster.get(&["pod", "one"]))["restartCount"] == 2).then_some(()));
}

#[test]
fn a_failing_readiness_probe_takes_the_pod_out_of_the_rules_within_a_second() {
    let cluster = started(&["one", "two"]);
    let service = Aim::Address(service_address(&cluster, "default", "probed"));
    assert_eq!(requests(20, &service, Connections::New).answers.len(), 2);
    request(address(&cluster, "one"), "POST", "/ready/fail").expect("the server answers");
    // The probe's period is a second: its result fails by then, and the rules follow within another.
    within(Duration::from_secs(3), "the pod is out of the rules", || {
        let tally = requests(20, &service, Connections::New);
        assert!(tally.failures.is_empty(), "{tally:?}");
        (tally.answers.len() == 1).then_some(())
    });
    assert_eq!(cluster.get(&["pod", "one"])["status"]["containerStatuses"][0]["ready"], false);
    request(address(&cluster, "one"), "POST", "/ready/mend").expect("the server answers");
    within(Duration::from_secs(3), "the pod is back in the rules", || {
        (requests(20, &service, Connections::New).answers.len() == 2).then_some(())
    });
}

#[test]
fn a_deleted_pod_of_a_deployment_is_replaced() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "deployment", "web", "--image=my-registry/api:v1.2.3", "--replicas=2"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let first = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl(&["delete", "pod", &first]);
    cluster.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=2", "deployment/web", "--timeout=30s"]);
    let names = cluster.kubectl(&["get", "pods", "-o", "name"]);
    assert!(names.lines().count() == 2 && !names.contains(&first), "{names}");
}

#[test]
pub fn a_container_above_its_memory_limit_is_oom_killed() {
    let cluster = started(&["one"]);
    // The server does not live to answer.
    assert!(request(address(&cluster, "one"), "POST", "/hog?megabytes=100").is_err());
    let pod = until("the kill is seen", || {
        let pod = cluster.get(&["pod", "one"]);
        (!status(&pod)["lastState"]["terminated"].is_null() || !status(&pod)["state"]["terminated"].is_null())
            .then_some(pod)
    });
    let (last, now) = (&status(&pod)["lastState"]["terminated"], &status(&pod)["state"]["terminated"]);
    let ended = if last.is_null() { now } else { last };
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]);
}

/// What the kernel says of a container's group: processor time in seconds, and how often it was held back.
fn processor(cluster: &Cluster) -> (f64, u64) {
    let text = cluster.machine.shell(
        "for file in $(find /sys/fs/cgroup -path '*kubepods*' -name cpuacct.usage -o -path '*kubepods*' -name cpu.stat | sort -r); do \
         echo \"$file $(tr '\\n' ' ' <$file)\"; done",
    );
    let (mut seconds, mut throttled) = (0_f64, 0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |name: &str| {
            words
                .iter()
                .position(|word| *word == name)
                .and_then(|at| words.get(at + 1))
                .and_then(|text| text.parse::<u64>().ok())
        };
        if words[0].ends_with("cpuacct.usage") {
            seconds = seconds.max(words[1].parse::<f64>().unwrap_or(0.0) / 1e9);
        }
        seconds = seconds.max(value("usage_usec").unwrap_or(0) as f64 / 1e6);
        throttled = throttled.max(value("nr_throttled").unwrap_or(0));
    }
    (seconds, throttled)
}

#[test]
fn a_container_gets_no_more_processor_than_its_limit() {
    let cluster = started(&["one"]);
    let (before, _) = processor(&cluster);
    request(address(&cluster, "one"), "POST", "/burn?seconds=12").expect("the server answers");
    pause(Duration::from_secs(10));
    let (after, throttled) = processor(&cluster);
    let used = after - before;
    assert!(used <= 1.0 * 1.1, "{used} s of processor time in ten seconds at a limit of a tenth");
    assert!(used > 0.5, "only {used} s were used: nothing was measured");
    assert!(throttled > 0, "the kernel never held it back");
}

#[test]
pub fn an_init_container_runs_first_and_volumes_hold_what_they_should() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "volumes.yaml"]);
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/volumes", "--timeout=30s"]);
    let said = cluster.kubectl(&["logs", "volumes"]);
    let expected = "from init\nblue\nswordfish\nvolumes\nblue 100m 64\nuid=1000 gid=3000 groups=3000\n444\n";
    assert_eq!(said, expected);
}

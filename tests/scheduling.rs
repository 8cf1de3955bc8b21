//! Where pods go, and what is said when they go nowhere.

use crate::clock::until;
use crate::cluster::Cluster;

/// A pod of busybox that sleeps, with more of its spec and of its container's.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":1{spec},
        "containers":[{{"name":"c","image":"busybox:test","imagePullPolicy":"Never","command":["sleep","1000"]{container}}}]}}}}"#
    )
}

/// What the condition PodScheduled says, once it is False.
fn refusal(cluster: &Cluster, name: &str) -> String {
    until("the pod is refused", || {
        let pod = cluster.get(&["pod", name]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let scheduled = conditions.into_iter().find(|condition| condition["type"] == "PodScheduled")?;
        (scheduled["status"] == "False" && scheduled["reason"] == "Unschedulable")
            .then(|| scheduled["message"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_pod_waits_for_a_node_that_will_do_and_says_why() {
    let cluster = Cluster::start();
    let affinity = r#","affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[
        {"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]}]}}}"#;
    cluster.apply(&pod("choosy", affinity, ""));
    let nobody = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
        preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    // Upstream's words first, then plain ones.
    let node = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(
        refusal(&cluster, "choosy"),
        format!("{nobody} Node {node:?} would do if its labels met disk in (ssd).")
    );
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=choosy"]);
    assert!(events.contains("FailedScheduling") && events.contains(nobody), "{events}");
    cluster.kubectl(&["label", "nodes", "--all", "disk=ssd"]);
    cluster.kubectl(&["wait", "--for=condition=PodScheduled", "pod/choosy", "--timeout=10s"]);
    let port = r#","ports":[{"containerPort":8080,"hostPort":18080}]"#;
    cluster.apply(&pod("first", "", port));
    cluster.kubectl(&["wait", "--for=condition=PodScheduled", "pod/first", "--timeout=10s"]);
    cluster.apply(&pod("second", "", port));
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
        preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(
        refusal(&cluster, "second"),
        format!("{taken} Node {node:?} would do if nothing else held its port 18080/TCP.")
    );
    cluster.kubectl(&["delete", "pod", "first", "--timeout=20s"]);
    cluster.kubectl(&["wait", "--for=condition=PodScheduled", "pod/second", "--timeout=10s"]);
}

#[test]
fn an_important_pod_pushes_out_a_lesser_one() {
    let cluster = Cluster::start();
    cluster.apply(
        r#"{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"urgent"},"value":1000}"#,
    );
    let node = &cluster.get(&["nodes"])["items"][0];
    let cpus: i64 =
        node["status"]["allocatable"]["cpu"].as_str().expect("a quantity").parse().expect("whole processors");
    // Both together ask for more than there is.
    let half = format!(r#","resources":{{"requests":{{"cpu":"{}m"}}}}"#, cpus * 600);
    cluster.apply(&pod("lesser", "", &half));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/lesser", "--timeout=20s"]);
    // With a finalizer the victim stays to be looked at.
    cluster.kubectl(&["patch", "pod", "lesser", "-p", r#"{"metadata":{"finalizers":["example.com/look"]}}"#]);
    cluster.apply(&pod("urgent", r#","priorityClassName":"urgent""#, &half));
    let lesser = until("the lesser pod is told to go", || {
        let pod = cluster.get(&["pod", "lesser"]);
        (!pod["metadata"]["deletionTimestamp"].is_null()).then_some(pod)
    });
    let conditions = lesser["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").expect("it is told why");
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (
            &"True".into(),
            &"PreemptionByScheduler".into(),
            &"default-scheduler: preempting to accommodate a higher priority pod".into()
        )
    );
    let urgent = cluster.get(&["pod", "urgent"]);
    let name = node["metadata"]["name"].as_str().expect("a name");
    let events = until("the event is told", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=lesser"]);
        events.contains("Preempted ").then_some(events)
    });
    let by = format!("Preempted by pod {} on node {name}", urgent["metadata"]["uid"].as_str().expect("a uid"));
    assert!(events.contains(&by), "{events}");
    cluster.kubectl(&["patch", "pod", "lesser", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/urgent", "--timeout=20s"]);
    assert!(cluster.get(&["pod", "urgent"])["status"]["nominatedNodeName"].is_null(), "the room is taken");
}

//! The fields of a pod, each seen at work from inside real containers: tables of pods that run at once, and what each is to say.
//!
//! `crates/node/src/pod/unhonoured/honoured.rs` names for every field the test that shows it.

use serde_json::{Value, json};

use crate::clock::until;
use crate::cluster::Cluster;

mod files;
mod hooks;
mod life;
mod placement;
mod probes;
mod rights;
mod sandbox;
mod variables;

/// A pod of busybox that runs a script to its end, and the lines that it says then.
struct Case {
    name: &'static str,
    script: String,
    /// More fields of its spec and of its container.
    spec: Value,
    container: Value,
    metadata: Value,
    /// `{/status/podIP}` is what stands there in the pod as the API shows it.
    says: Vec<String>,
}

/// A pod that says these lines.
fn case(name: &'static str, script: &str, says: &[&str]) -> Case {
    let says = says.iter().map(|line| (*line).to_owned()).collect();
    Case { name, script: script.to_owned(), spec: json!({}), container: json!({}), metadata: json!({}), says }
}

impl Case {
    fn spec(self, spec: Value) -> Case {
        Case { spec, ..self }
    }

    fn container(self, container: Value) -> Case {
        Case { container, ..self }
    }

    fn metadata(self, metadata: Value) -> Case {
        Case { metadata, ..self }
    }

    fn manifest(&self) -> Value {
        let metadata = with(json!({"name": self.name, "labels": {"case": "yes"}}), &self.metadata);
        object(&metadata, &self.script, &self.spec, &self.container)
    }
}

/// A pod of its own, with more fields of its spec and of its container.
fn pod(name: &str, script: &str, spec: Value, container: Value) -> Value {
    object(&json!({"name": name}), script, &spec, &container)
}

fn object(metadata: &Value, script: &str, spec: &Value, container: &Value) -> Value {
    let main = json!({"name": "main", "image": "busybox:test", "command": ["sh", "-c", script]});
    let whole =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [with(main, container)]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": with(whole, spec)})
}

/// An object with the fields of another in place of its own.
fn with(mut object: Value, more: &Value) -> Value {
    let fields = object.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    object
}

/// Creates all at once.
fn apply(cluster: &Cluster, objects: &[Value]) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
}

/// Runs every pod to its end, all of them at once, and compares what each said.
fn check(cluster: &Cluster, cases: &[Case]) {
    let manifests: Vec<Value> = cases.iter().map(Case::manifest).collect();
    apply(cluster, &manifests);
    let pods = until("every pod has ended", || {
        let pods = cluster.get(&["pods", "-l", "case=yes"])["items"].as_array().cloned().unwrap_or_default();
        let ended = |pod: &Value| ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
        (pods.len() == cases.len() && pods.iter().all(ended)).then_some(pods)
    });
    let wrong: Vec<String> = cases.iter().filter_map(|case| fault(cluster, case, &pods)).collect();
    assert!(wrong.is_empty(), "{} of {} pods:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What a pod said that it should not have.
fn fault(cluster: &Cluster, case: &Case, pods: &[Value]) -> Option<String> {
    let pod = pods.iter().find(|pod| pod["metadata"]["name"] == case.name)?;
    let said = cluster.kubectl(&["logs", case.name, "-c", "main"]);
    let expected: Vec<String> = case.says.iter().map(|line| filled(line, pod)).collect();
    let same = said.lines().eq(expected.iter().map(String::as_str));
    (!same || pod["status"]["phase"] != "Succeeded").then(|| {
        format!("--- {}, {}, said:\n{said}--- and not:\n{}", case.name, pod["status"]["phase"], expected.join("\n"))
    })
}

/// A line with what it names of the pod.
fn filled(line: &str, pod: &Value) -> String {
    let mut text = line.to_owned();
    while let Some((before, (pointer, after))) =
        text.split_once("{/").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        let value = pod.pointer(&format!("/{pointer}")).and_then(Value::as_str);
        let value = value.unwrap_or_else(|| panic!("no text at /{pointer} of {pod:#}"));
        text = format!("{before}{value}{after}");
    }
    text
}

/// Waits for an event about an object with this reason; its message.
fn event(cluster: &Cluster, name: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name={name},reason={reason}");
    until(&format!("event {reason} about {name}"), || {
        let events = cluster.get(&["events", "--field-selector", &selector]);
        events["items"][0]["message"].as_str().map(str::to_owned)
    })
}

/// What a pod's first container waits for, by reason; the message.
fn waits(cluster: &Cluster, name: &str, reason: &str) -> String {
    until(&format!("{name} waits for {reason}"), || {
        let pod = cluster.get(&["pod", name]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// The pod, once it ended.
fn ended(cluster: &Cluster, name: &str) -> Value {
    until(&format!("{name} ends"), || {
        let pod = cluster.get(&["pod", name]);
        ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase).then_some(pod)
    })
}

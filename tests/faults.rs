//! Show 9: bad input, and what cannot be done, answered as upstream answers.

use crate::clock::until;
use crate::cluster::{Cluster, kubectls};
use crate::script;

#[test]
fn bad_input_is_answered_with_upstreams_status() {
    script::run_with(&Cluster::start(), "bad-input", &kubectls()[1], "space", &[]);
}

/// A pod with one container, of which `more` tells more.
fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":0,
        "containers":[{{"name":"main","image":"{image}"{more}}}]}}}}"#
    )
}

/// Waits until the container waits for that reason, and an event of the pod says that.
pub fn waits(cluster: &Cluster, name: &str, reason: &str, event: &str) {
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    let mut seen = String::new();
    until(&format!("{name} waits with {reason}, and an event says {event}"), || {
        seen = cluster.kubectl(&["get", "pod", name, "-o", path]);
        let events = cluster.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
        (reason.split('|').any(|reason| reason == seen) && events.contains(event)).then_some(())
    });
}

#[test]
fn a_missing_image_is_told_by_status_and_event() {
    let cluster = Cluster::start();
    cluster.apply(&pod("absent", "127.0.0.1:1/absent:1", ""));
    waits(&cluster, "absent", "ErrImagePull|ImagePullBackOff", "Failed to pull image \"127.0.0.1:1/absent:1\"");
    waits(&cluster, "absent", "ImagePullBackOff", "Back-off pulling image \"127.0.0.1:1/absent:1\"");
    cluster.apply(&pod("never", "absent:1", r#","imagePullPolicy":"Never""#));
    waits(
        &cluster,
        "never",
        "ErrImageNeverPull",
        "Container image \"absent:1\" is not present with pull policy of Never",
    );
    cluster.apply(&pod("ill-named", "Not/A/Name", ""));
    waits(&cluster, "ill-named", "InvalidImageName", "Failed to apply default image tag \"Not/A/Name\"");
}

#[test]
fn a_missing_configmap_or_key_is_told_by_status_and_event_and_made_good() {
    let cluster = Cluster::start();
    let from = |reference: &str| format!(r#","envFrom":[{{{reference}}}]"#);
    cluster.apply(&pod("no-map", "my-registry/api:v1.2.3", &from(r#""configMapRef":{"name":"absent"}"#)));
    waits(&cluster, "no-map", "CreateContainerConfigError", "Error: configmap \"absent\" not found");
    cluster.apply(&pod("no-secret", "my-registry/api:v1.2.3", &from(r#""secretRef":{"name":"absent"}"#)));
    waits(&cluster, "no-secret", "CreateContainerConfigError", "Error: secret \"absent\" not found");
    cluster.kubectl(&["create", "configmap", "present", "--from-literal=a=1"]);
    let key = r#","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"present","key":"b"}}}]"#;
    cluster.apply(&pod("no-key", "my-registry/api:v1.2.3", key));
    waits(&cluster, "no-key", "CreateContainerConfigError", "Error: couldn't find key b in ConfigMap default/present");
    cluster.kubectl(&["create", "configmap", "absent", "--from-literal=a=1"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/no-map", "--timeout=60s"]);
}

#[test]
fn a_missing_volume_source_is_told_by_event() {
    let cluster = Cluster::start();
    cluster.apply(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"no-volume"},"spec":{"volumes":[{"name":"v","configMap":{"name":"absent"}}],
        "containers":[{"name":"main","image":"my-registry/api:v1.2.3","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}}"#,
    );
    waits(
        &cluster,
        "no-volume",
        "ContainerCreating",
        "MountVolume.SetUp failed for volume \"v\" : configmap \"absent\" not found",
    );
}

#[test]
fn an_impossible_request_stays_pending_and_says_why() {
    let cluster = Cluster::start();
    cluster.apply(&pod("huge", "my-registry/api:v1.2.3", r#","resources":{"requests":{"cpu":"1000"}}"#));
    let message = until("the scheduler says why", || {
        let pod = cluster.get(&["pod", "huge"]);
        let condition = pod["status"]["conditions"]
            .as_array()?
            .iter()
            .find(|condition| condition["type"] == "PodScheduled")?
            .clone();
        (condition["reason"] == "Unschedulable").then(|| condition["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=huge"]);
    assert!(
        events.contains("FailedScheduling") && events.contains("0/1 nodes are available: 1 Insufficient cpu."),
        "{events}"
    );
}

#[test]
fn a_program_that_is_not_there_is_told_by_status_and_event() {
    let cluster = Cluster::start();
    cluster.apply(&pod("no-program", "my-registry/api:v1.2.3", r#","command":["/absent"]"#));
    let state = until("the start fails", || {
        let pod = cluster.get(&["pod", "no-program"]);
        let status = pod["status"]["containerStatuses"][0].clone();
        let ended = [&status["lastState"]["terminated"], &status["state"]["terminated"]];
        ended.into_iter().find(|ended| !ended.is_null()).cloned()
    });
    assert_eq!((&state["reason"], &state["exitCode"]), (&"StartError".into(), &128.into()), "{state}");
    assert!(
        state["message"]
            .as_str()
            .unwrap_or_default()
            .contains("exec: \"/absent\": stat /absent: no such file or directory"),
        "{state}"
    );
}

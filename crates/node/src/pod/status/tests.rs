//! Cases: phase, conditions and container states, worded as upstream.

use std::collections::BTreeMap;

use cri::{
    ContainerExit, ContainerMetadata, ContainerTimes, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use super::super::memory::Health;
use k8s_openapi::api::core::v1::PodCondition;

use super::*;

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn pod(spec: &str, status: &str) -> Pod {
    serde_json::from_str(&format!(
        r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u","generation":3}},"spec":{{{spec}}},"status":{status}}}"#
    ))
    .unwrap()
}

const ONE: &str = r#""containers":[{"name":"a","image":"i"}]"#;

fn container(name: &str, attempt: u32, state: State, code: i32) -> Status {
    let times = ContainerTimes {
        started_at: (NOW - 60) * 1_000_000_000,
        finished_at: (NOW - 1) * 1_000_000_000,
        ..ContainerTimes::default()
    };
    Status {
        id: format!("{name}{attempt}"),
        pod_sandbox_id: "s".into(),
        metadata: ContainerMetadata { name: name.into(), attempt },
        state,
        times,
        exit: ContainerExit {
            exit_code: code,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            ..ContainerExit::default()
        },
        ..Status::default()
    }
}

fn up(containers: impl IntoIterator<Item = Status>) -> Seen {
    let sandbox = PodSandboxStatus {
        id: "s".into(),
        state: PodSandboxState::Ready,
        network: PodSandboxNetworkStatus { ip: "10.1.0.7".parse().ok(), additional_ips: vec![] },
        ..PodSandboxStatus::default()
    };
    Seen { sandboxes: vec![sandbox], containers: containers.into_iter().collect(), ..Seen::default() }
}

fn healthy(ids: &[&str]) -> Memory {
    let health = ids.iter().map(|id| ((*id).to_owned(), Health { started: true, ready: true })).collect();
    Memory { health, ..Memory::default() }
}

fn told(pod: &Pod, stage: Stage, seen: &Seen, memory: &Memory) -> PodStatus {
    let facts = Facts { host_ip: "192.0.2.1".into(), runtime_name: "fake".into(), ..Facts::default() };
    status(pod, stage, seen, memory, &[], &facts, now())
}

/// Conditions by type: status, and the reason where there is one.
fn conditions(status: &PodStatus) -> BTreeMap<String, String> {
    let shown = |condition: &PodCondition| {
        (
            condition.type_.clone(),
            format!("{} {}", condition.status, condition.reason.as_deref().unwrap_or_default()).trim_end().to_owned(),
        )
    };
    status.conditions.iter().flatten().map(shown).collect()
}

fn state(status: &PodStatus, index: usize) -> String {
    let state = status.container_statuses.as_ref().unwrap()[index].state.clone().unwrap();
    match (state.waiting, state.running, state.terminated) {
        (Some(waiting), _, _) => waiting.reason.unwrap(),
        (_, Some(_), _) => "running".into(),
        (_, _, Some(terminated)) => format!("{} {}", terminated.reason.unwrap_or_default(), terminated.exit_code),
        _ => "nothing".into(),
    }
}

#[test]
fn a_pod_comes_up() {
    let pod = pod(ONE, "{}");
    let begun = told(&pod, Stage::Wanted, &Seen::default(), &Memory::default());
    assert_eq!((begun.phase.as_deref(), state(&begun, 0).as_str()), (Some("Pending"), "ContainerCreating"));
    assert_eq!(conditions(&begun)["Ready"], "False ContainersNotReady");
    assert_eq!(conditions(&begun)["PodReadyToStartContainers"], "False");
    let message = begun.conditions.unwrap()[2].message.clone();
    assert_eq!(message.as_deref(), Some("containers with unready status: [a]"));
    let running = told(&pod, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &healthy(&["a0"]));
    assert_eq!((running.phase.as_deref(), state(&running, 0).as_str()), (Some("Running"), "running"));
    assert_eq!((running.pod_ip.as_deref(), running.host_ip.as_deref()), (Some("10.1.0.7"), Some("192.0.2.1")));
    assert_eq!(running.observed_generation, Some(3));
    let all = conditions(&running);
    assert!(
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
            .iter()
            .all(|name| all[*name] == "True")
    );
    let container = &running.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        (container.container_id.as_deref(), container.ready, container.started),
        (Some("fake://a0"), true, Some(true))
    );
}

#[test]
fn a_container_is_ready_when_its_probes_say_so() {
    let pod = pod(ONE, "{}");
    for (started, ready, expected) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut memory = Memory::default();
        memory.health.insert("a0".into(), Health { started, ready });
        let told = told(&pod, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &memory);
        assert_eq!(told.container_statuses.unwrap()[0].ready, expected, "started {started}, ready {ready}");
        assert_eq!(told.phase.as_deref(), Some("Running"));
    }
}

#[test]
fn init_containers_hold_the_rest_up() {
    let pod = pod(r#""initContainers":[{"name":"i"}],"containers":[{"name":"a"}]"#, "{}");
    let waiting = told(&pod, Stage::Wanted, &up([container("i", 0, State::Running, 0)]), &healthy(&["i0"]));
    assert_eq!((waiting.phase.as_deref(), state(&waiting, 0).as_str()), (Some("Pending"), "PodInitializing"));
    assert_eq!(conditions(&waiting)["Initialized"], "False ContainersNotInitialized");
    let done = up([container("i", 0, State::Exited, 0), container("a", 0, State::Running, 0)]);
    let done = told(&pod, Stage::Wanted, &done, &healthy(&["a0"]));
    assert_eq!((done.phase.as_deref(), conditions(&done)["Initialized"].as_str()), (Some("Running"), "True"));
}

#[test]
fn phases_of_ended_pods_follow_the_restart_policy() {
    for (policy, code, expected) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let pod = pod(&format!(r#""restartPolicy":"{policy}",{ONE}"#), "{}");
        let told = told(&pod, Stage::Wanted, &up([container("a", 0, State::Exited, code)]), &Memory::default());
        assert_eq!(told.phase.as_deref(), Some(expected), "{policy} {code}");
    }
    let ended = pod(ONE, r#"{"phase":"Failed"}"#);
    let told = told(&ended, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &healthy(&["a0"]));
    assert_eq!(told.phase.as_deref(), Some("Failed"), "an ended pod does not come back to life");
}

#[test]
fn restarts_are_counted_and_the_last_end_is_told() {
    let pod = pod(ONE, "{}");
    let seen = up([container("a", 1, State::Running, 0), container("a", 0, State::Exited, 3)]);
    let told = told(&pod, Stage::Wanted, &seen, &healthy(&["a1"]));
    let container = &told.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 1);
    let last = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (3, Some("fake://a0")));
}

#[test]
fn what_waits_says_why() {
    let pod = pod(ONE, "{}");
    let mut memory = Memory::default();
    memory.waiting.insert("a".into(), Waiting { reason: "ErrImagePull".into(), message: "not found".into() });
    let pulls = told(&pod, Stage::Wanted, &up([]), &memory);
    assert_eq!(state(&pulls, 0), "ErrImagePull");
    let waiting = [("a".to_owned(), Waiting { reason: "CrashLoopBackOff".into(), message: "back-off".into() })];
    let seen = up([container("a", 0, State::Exited, 3)]);
    let loops = status(&pod, Stage::Wanted, &seen, &Memory::default(), &waiting, &Facts::default(), now());
    assert_eq!((state(&loops, 0).as_str(), loops.phase.as_deref()), ("CrashLoopBackOff", Some("Running")));
    let last = loops.container_statuses.unwrap()[0].last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 3);
}

#[test]
fn what_is_not_started_again_does_not_wait_for_what_failed_before_it_ended() {
    let pod = pod(&format!(r#"{ONE},"restartPolicy":"Never""#), "{}");
    let mut memory = Memory::default();
    memory.waiting.insert("a".into(), Waiting { reason: "CreateContainerError".into(), message: "busy".into() });
    let ended = told(&pod, Stage::Wanted, &up([container("a", 0, State::Exited, 3)]), &memory);
    assert_eq!((state(&ended, 0).as_str(), ended.phase.as_deref()), ("Error 3", Some("Failed")));
    assert_eq!(ended.container_statuses.unwrap()[0].last_state, None);
}

#[test]
fn transition_times_stay_while_the_condition_does() {
    let old = r#"{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2020-01-01T00:00:00Z"}]}"#;
    let pod = pod(ONE, old);
    let since = |told: &PodStatus| {
        let ready = told.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == "Ready").unwrap();
        ready.last_transition_time.as_ref().unwrap().0
    };
    let ready = told(&pod, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &healthy(&["a0"]));
    assert_eq!(since(&ready), "2020-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let unready = told(&pod, Stage::Wanted, &up([]), &Memory::default());
    assert_eq!(since(&unready), now());
}

#[test]
fn conditions_of_others_stay() {
    let gate = r#"{"conditions":[{"type":"example.com/gate","status":"True"}]}"#;
    let pod = pod(ONE, gate);
    let first = told(&pod, Stage::Wanted, &up([]), &Memory::default());
    assert_eq!(conditions(&first)["example.com/gate"], "True");
    let newer: PodStatus =
        serde_json::from_str(r#"{"conditions":[{"type":"Ready","status":"True"},{"type":"other","status":"False"}]}"#)
            .unwrap();
    let merged = with_others_conditions(&first, Some(&newer));
    let all = conditions(&merged);
    assert_eq!((all.get("other").map(String::as_str), all.contains_key("example.com/gate")), (Some("False"), false));
    assert_eq!(all["Ready"], "False ContainersNotReady", "what this node told is newer");
}

#[test]
fn a_deleted_pod_says_how_it_ended() {
    let ending = Stage::Ending { grace_seconds: 30 };
    let over = |code: i32| {
        let running = pod(ONE, "{}");
        let seen = up([container("a", 0, State::Exited, code)]);
        let ended = told(&running, ending, &seen, &Memory::default());
        // Then everything is removed.
        let mut last = running.clone();
        last.status = Some(ended);
        let facts = Facts { over: true, ..Facts::default() };
        status(&last, ending, &Seen::default(), &Memory::default(), &[], &facts, now())
    };
    assert_eq!((over(0).phase.as_deref(), state(&over(0), 0).as_str()), (Some("Succeeded"), "Completed 0"));
    assert_eq!((over(143).phase.as_deref(), state(&over(143), 0).as_str()), (Some("Failed"), "Error 143"));
    let facts = Facts { over: true, ..Facts::default() };
    let never = status(&pod(ONE, "{}"), ending, &Seen::default(), &Memory::default(), &[], &facts, now());
    assert_eq!((never.phase.as_deref(), state(&never, 0).as_str()), (Some("Failed"), "ContainerStatusUnknown 137"));
}

#[test]
fn a_container_that_a_restart_of_the_machine_lost_is_told_as_upstream_tells_it() {
    let running = r#"{"phase":"Running","containerStatuses":[{"name":"a","image":"i","imageID":"","ready":true,"restartCount":4,"state":{"running":{}}}]}"#;
    let check = |policy: &str, stage: Stage, expected: (&str, &str, i32)| {
        let pod = pod(&format!(r#""restartPolicy":"{policy}",{ONE}"#), running);
        let told = told(&pod, stage, &Seen::default(), &Memory::default());
        let count = told.container_statuses.as_ref().unwrap()[0].restart_count;
        assert_eq!((told.phase.as_deref().unwrap(), &*state(&told, 0), count), expected, "{policy} {stage:?}");
    };
    check("Always", Stage::Wanted, ("Running", "ContainerCreating", 5));
    check("Never", Stage::Wanted, ("Failed", "ContainerStatusUnknown 137", 4));
    check("Always", Stage::Ending { grace_seconds: 1 }, ("Failed", "ContainerStatusUnknown 137", 4));
}

#[test]
fn a_container_that_is_made_again_keeps_how_it_ended() {
    let seen = up([container("a", 1, State::Created, 0), container("a", 0, State::Exited, 3)]);
    let told = told(&pod(ONE, "{}"), Stage::Wanted, &seen, &Memory::default());
    let status = &told.container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!((told.phase.as_deref(), status.restart_count), (Some("Running"), 0));
}

const SIDECAR: &str = r#""initContainers":[{"name":"s","restartPolicy":"Always","readinessProbe":{}}],"containers":[{"name":"a","image":"i"}]"#;

#[test]
fn a_sidecar_counts_for_readiness_but_not_for_the_end() {
    let pod = pod(SIDECAR, "{}");
    let both = up([container("s", 0, State::Running, 0), container("a", 0, State::Running, 0)]);
    let mut memory = healthy(&["a0"]);
    memory.health.insert("s0".into(), Health { started: true, ready: false });
    let unready = told(&pod, Stage::Wanted, &both, &memory);
    assert_eq!((unready.phase.as_deref(), conditions(&unready)["Initialized"].as_str()), (Some("Running"), "True"));
    assert_eq!(conditions(&unready)["ContainersReady"], "False ContainersNotReady");
    let ready = told(&pod, Stage::Wanted, &both, &healthy(&["a0", "s0"]));
    let sidecar = &ready.init_container_statuses.as_ref().unwrap()[0];
    assert_eq!((sidecar.started, sidecar.ready, conditions(&ready)["Ready"].as_str()), (Some(true), true, "True"));
    // One that has not started holds the pod up; one that restarts later does not.
    let waits = told(&pod, Stage::Wanted, &up([container("s", 0, State::Running, 0)]), &Memory::default());
    assert_eq!(
        (waits.phase.as_deref(), conditions(&waits)["Initialized"].as_str()),
        (Some("Pending"), "False ContainersNotInitialized")
    );
    let back = up([container("s", 0, State::Exited, 1), container("a", 0, State::Running, 0)]);
    let back = told(&pod, Stage::Wanted, &back, &healthy(&["a0"]));
    assert_eq!((back.phase.as_deref(), conditions(&back)["Initialized"].as_str()), (Some("Running"), "True"));
}

#[test]
fn a_pod_has_not_ended_while_its_sidecars_run() {
    let pod = pod(&format!(r#""restartPolicy":"Never",{SIDECAR}"#), r#"{"phase":"Running"}"#);
    let phase = |sidecar: State, code: i32| {
        let seen = up([container("s", 0, sidecar, 143), container("a", 0, State::Exited, code)]);
        told(&pod, Stage::Wanted, &seen, &Memory::default()).phase.unwrap()
    };
    assert_eq!(phase(State::Running, 0), "Running");
    assert_eq!(phase(State::Exited, 0), "Succeeded");
    assert_eq!(phase(State::Exited, 1), "Failed");
}

#[test]
fn a_verdict_is_told_when_nothing_runs_any_more() {
    let verdict = super::super::memory::Verdict {
        reason: "Evicted".into(),
        message: "The node was low on resource: memory.".into(),
        grace_seconds: None,
        disrupted: true,
    };
    let memory = Memory { verdict: Some(verdict), ..healthy(&["a0"]) };
    let pod = pod(ONE, r#"{"phase":"Running"}"#);
    let runs = told(&pod, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &memory);
    assert_eq!((runs.phase.as_deref(), runs.reason), (Some("Running"), None));
    let over = told(&pod, Stage::Wanted, &up([container("a", 0, State::Exited, 143)]), &memory);
    assert_eq!((over.phase.as_deref(), over.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(conditions(&over)["DisruptionTarget"], "True TerminationByKubelet");
    // It stays told once the agent has forgotten why.
    let mut later = pod.clone();
    later.status = Some(over);
    let kept = told(&later, Stage::Wanted, &up([]), &Memory::default());
    assert_eq!((kept.reason.as_deref(), kept.message.is_some()), (Some("Evicted"), true));
    assert_eq!(conditions(&kept)["DisruptionTarget"], "True TerminationByKubelet");
}

#[test]
fn readiness_gates_wait_for_the_conditions_of_others() {
    let gate = r#""readinessGates":[{"conditionType":"example.com/gate"}]"#;
    let check = |status: &str, expected: (&str, &str)| {
        let pod = pod(&format!("{gate},{ONE}"), status);
        let told = told(&pod, Stage::Wanted, &up([container("a", 0, State::Running, 0)]), &healthy(&["a0"]));
        let ready = told.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.message.as_deref().unwrap_or_default()), expected);
        assert_eq!(conditions(&told)["ContainersReady"], "True");
    };
    let missing = r#"corresponding condition of pod readiness gate "example.com/gate" does not exist."#;
    check("{}", ("False", missing));
    let closed = r#"the status of pod readiness gate "example.com/gate" is not "True", but False"#;
    check(r#"{"conditions":[{"type":"example.com/gate","status":"False"}]}"#, ("False", closed));
    check(r#"{"conditions":[{"type":"example.com/gate","status":"True"}]}"#, ("True", ""));
}

#[test]
fn an_ephemeral_container_is_told_apart_and_counts_for_nothing() {
    let pod = pod(&format!(r#"{ONE},"ephemeralContainers":[{{"name":"e","image":"x"}}]"#), "{}");
    let seen = up([container("e", 0, State::Exited, 1), container("a", 0, State::Running, 0)]);
    let told = told(&pod, Stage::Wanted, &seen, &healthy(&["a0"]));
    let ephemeral = &told.ephemeral_container_statuses.as_ref().unwrap()[0];
    assert_eq!((ephemeral.started, ephemeral.ready), (None, false));
    assert_eq!((told.phase.as_deref(), conditions(&told)["Ready"].as_str()), (Some("Running"), "True"));
}

#[test]
fn the_last_words_of_all_containers_together_are_bounded() {
    let names: Vec<String> = (0..4).map(|index| format!(r#"{{"name":"c{index}"}}"#)).collect();
    let pod = pod(&format!(r#""restartPolicy":"Never","containers":[{}]"#, names.join(",")), "{}");
    let containers = (0..4).map(|index| {
        let mut status = container(&format!("c{index}"), 0, State::Exited, 0);
        status.exit.message = "é".repeat(2048);
        status
    });
    let told = told(&pod, Stage::Wanted, &up(containers.collect::<Vec<_>>()), &Memory::default());
    for status in told.container_statuses.unwrap() {
        let message = status.state.unwrap().terminated.unwrap().message.unwrap();
        assert_eq!(message.len(), 12 * 1024 / 4);
    }
}

//! Cases: what is done next for a pod, given what runs of it.

use cri::{ContainerExit, ContainerMetadata, ContainerTimes, PodSandboxMetadata, PodSandboxStatus};

use super::super::memory::Tries;
use super::*;

const NOW: i64 = 1_000_000;

fn moment() -> Moment {
    Moment { wall: Timestamp::from_second(NOW).unwrap(), mono: Mono(Duration::from_secs(1000)) }
}

fn pod(spec: &str) -> Pod {
    serde_json::from_str(&format!(
        r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"}},"spec":{{"terminationGracePeriodSeconds":20,{spec}}}}}"#
    ))
    .unwrap()
}

const TWO: &str = r#""containers":[{"name":"a"},{"name":"b"}]"#;
const INITS: &str = r#""initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"a"}]"#;

fn sandbox(attempt: u32, state: PodSandboxState) -> PodSandboxStatus {
    PodSandboxStatus {
        id: format!("s{attempt}"),
        metadata: PodSandboxMetadata { attempt, ..PodSandboxMetadata::default() },
        state,
        ..PodSandboxStatus::default()
    }
}

fn container(name: &str, attempt: u32, state: ContainerState, code: i32) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}{attempt}"),
        pod_sandbox_id: "s0".into(),
        metadata: ContainerMetadata { name: name.into(), attempt },
        state,
        times: ContainerTimes { finished_at: (NOW - 1) * 1_000_000_000, ..ContainerTimes::default() },
        exit: ContainerExit { exit_code: code, ..ContainerExit::default() },
        ..ContainerStatus::default()
    }
}

fn running(name: &str) -> ContainerStatus {
    container(name, 0, ContainerState::Running, 0)
}

fn exited(name: &str, code: i32) -> ContainerStatus {
    container(name, 0, ContainerState::Exited, code)
}

/// A pod with its sandbox up and these containers, newest first.
fn up(containers: impl IntoIterator<Item = ContainerStatus>) -> Seen {
    Seen {
        sandboxes: vec![sandbox(0, PodSandboxState::Ready)],
        containers: containers.into_iter().collect(),
        ..Seen::default()
    }
}

fn ready() -> Memory {
    Memory { volumes_ready: true, ..Memory::default() }
}

/// The steps in short: `start a#0`, `kill a (20s)`.
fn shown(plan: &Plan) -> Vec<String> {
    let shown = |step: &Step| match step {
        Step::PrepareVolumes => "volumes".into(),
        Step::CreateSandbox { attempt } => format!("sandbox #{attempt}"),
        Step::Start { name, attempt } => format!("start {name} #{attempt}"),
        Step::Kill { name, grace_seconds, .. } => format!("kill {name} ({grace_seconds}s)"),
        Step::PreStop { name, grace_seconds, .. } => format!("hook {name} ({grace_seconds}s)"),
        Step::Resize { name, .. } => format!("resize {name}"),
        Step::RemoveCause { id, .. } => format!("forget cause {id}"),
        Step::RemoveContainer { id } => format!("remove {id}"),
        Step::StopSandbox { id } => format!("stop {id}"),
        Step::RemoveSandbox { id } => format!("forget {id}"),
        Step::RemoveVolumes => "remove volumes".into(),
        Step::Withdraw => "withdraw".into(),
        Step::CleanUp => "clean up".into(),
    };
    plan.steps.iter().map(shown).collect()
}

#[track_caller]
fn check(pod: &Pod, seen: &Seen, memory: &Memory, expected: &[&str]) {
    assert_eq!(shown(&plan(pod, Stage::Wanted, seen, memory, moment())), expected);
}

#[test]
fn volumes_then_the_sandbox_then_the_containers() {
    let pod = pod(TWO);
    check(&pod, &Seen::default(), &Memory::default(), &["volumes"]);
    check(&pod, &Seen::default(), &ready(), &["sandbox #0"]);
    check(&pod, &up([]), &ready(), &["start a #0", "start b #0"]);
    check(&pod, &up([running("a")]), &ready(), &["start b #0"]);
    check(&pod, &up([running("a"), running("b")]), &ready(), &[]);
}

#[test]
fn init_containers_run_one_after_the_other_and_before_the_rest() {
    let pod = pod(INITS);
    check(&pod, &up([]), &ready(), &["start i #0"]);
    check(&pod, &up([running("i")]), &ready(), &[]);
    check(&pod, &up([exited("i", 0)]), &ready(), &["start j #0"]);
    check(&pod, &up([exited("i", 0), exited("j", 1)]), &ready(), &["start j #1"]);
    check(&pod, &up([exited("i", 0), exited("j", 0)]), &ready(), &["start a #0"]);
}

#[test]
fn what_is_under_way_is_not_begun_twice() {
    let mut memory = ready();
    memory.under_way.insert("container a".into());
    check(&pod(TWO), &up([]), &memory, &["start b #0"]);
    let mut memory = Memory::default();
    memory.under_way.insert("pod".into());
    check(&pod(TWO), &Seen::default(), &memory, &[]);
}

#[test]
fn restart_policies() {
    let policy = |policy: &str| pod(&format!(r#""restartPolicy":"{policy}",{TWO}"#));
    let seen = up([exited("a", 0), exited("b", 1)]);
    check(&policy("Always"), &seen, &ready(), &["start a #1", "start b #1"]);
    check(&policy("OnFailure"), &seen, &ready(), &["start b #1"]);
    // Never: the pod has ended, and its sandbox is of no use.
    check(&policy("Never"), &seen, &ready(), &["stop s0"]);
    check(&policy("OnFailure"), &up([exited("a", 0), exited("b", 0)]), &ready(), &["stop s0"]);
    check(&policy("Never"), &up([exited("a", 0), running("b")]), &ready(), &[]);
    let init = pod(&format!(r#""restartPolicy":"Never",{INITS}"#));
    check(&init, &up([exited("i", 3)]), &ready(), &["stop s0"]);
}

#[test]
fn a_crash_loop_waits_and_says_so() {
    let pod = pod(TWO);
    let mut memory = ready();
    let wall = moment().wall;
    memory.restarts.insert("a".into(), Tries::again(None, wall));
    let plan = plan(&pod, Stage::Wanted, &up([exited("a", 1), running("b")]), &memory, moment());
    assert_eq!((shown(&plan), plan.again_within), (vec![], Some(Duration::from_secs(9))));
    let (name, waiting) = &plan.waiting[0];
    assert_eq!((name.as_str(), waiting.reason.as_str()), ("a", "CrashLoopBackOff"));
    assert_eq!(waiting.message, "back-off 10s restarting failed container=a pod=p_n(u)");
}

#[test]
fn a_condemned_container_is_ended_within_its_probes_grace_period() {
    let pod = pod(r#""containers":[{"name":"a","livenessProbe":{"terminationGracePeriodSeconds":3}},{"name":"b"}]"#);
    let mut memory = ready();
    memory.condemned.insert("a0".into(), "liveness".into());
    memory.condemned.insert("b0".into(), "liveness".into());
    check(&pod, &up([running("a"), running("b")]), &memory, &["kill a (3s)", "kill b (20s)"]);
}

#[test]
fn a_lost_sandbox_takes_its_containers_along_and_is_made_anew() {
    let pod = pod(TWO);
    let mut seen = up([running("a"), exited("b", 0)]);
    seen.sandboxes[0].state = PodSandboxState::NotReady;
    check(&pod, &seen, &ready(), &["kill a (0s)"]);
    seen.containers = vec![exited("a", 137), exited("b", 0)];
    check(&pod, &seen, &ready(), &["sandbox #1"]);
    seen.sandboxes.insert(0, sandbox(1, PodSandboxState::Ready));
    check(&pod, &seen, &ready(), &["start a #1", "start b #1"]);
}

#[test]
fn a_failed_start_waits_but_never_an_end() {
    let pod = pod(TWO);
    let mut memory = ready();
    memory.retry_at.insert("container a".into(), moment().mono + Duration::from_secs(7));
    let waits = plan(&pod, Stage::Wanted, &up([running("b")]), &memory, moment());
    assert_eq!((shown(&waits), waits.again_within), (vec![], Some(Duration::from_secs(7))));
    memory.stopping.insert("rules".into());
    let ends = plan(&pod, Stage::Ending { grace_seconds: 5 }, &up([running("a")]), &memory, moment());
    assert_eq!(shown(&ends), ["kill a (5s)"]);
    // An end that failed is not tried again at once.
    memory.retry_at.insert(ends.steps[0].retried(), moment().mono + Duration::from_secs(2));
    let again = plan(&pod, Stage::Ending { grace_seconds: 5 }, &up([running("a")]), &memory, moment());
    assert_eq!((shown(&again), again.again_within), (vec![], Some(Duration::from_secs(2))));
}

#[test]
fn a_pod_ends_in_order() {
    let pod = pod(TWO);
    let mut memory = ready();
    let stage = Stage::Ending { grace_seconds: 20 };
    let next = |memory: &Memory, seen: &Seen| {
        let plan = plan(&pod, stage, seen, memory, moment());
        (shown(&plan), plan.finished)
    };
    let seen = up([running("a"), running("b")]);
    assert_eq!(next(&memory, &seen), (vec!["withdraw".into()], false));
    memory.under_way.insert("rules".into());
    assert_eq!(next(&memory, &seen), (vec![], false), "nobody is told to end before the rules let go");
    memory.under_way.clear();
    memory.stopping.insert("rules".into());
    assert_eq!(next(&memory, &seen), (vec!["kill a (20s)".into(), "kill b (20s)".into()], false));
    let seen = up([exited("a", 0), running("b")]);
    assert_eq!(next(&memory, &seen), (vec!["kill b (20s)".into()], false));
    let seen = up([exited("a", 0), exited("b", 0)]);
    memory.under_way.insert("container b".into());
    assert_eq!(next(&memory, &seen), (vec![], false), "what starts or ends is waited for");
    memory.under_way.clear();
    assert_eq!(next(&memory, &seen), (vec!["clean up".into()], false));
    memory.stopping.insert("pod".into());
    assert_eq!(next(&memory, &Seen::default()), (vec![], true));
}

#[test]
fn a_pod_that_has_ended_gives_back_what_it_does_not_need_for_its_logs() {
    let pod = pod(r#""restartPolicy":"Never","containers":[{"name":"a"}]"#);
    let mut memory = ready();
    let mut seen = up([exited("a", 1)]);
    check(&pod, &seen, &memory, &["stop s0"]);
    seen.sandboxes = vec![sandbox(0, PodSandboxState::NotReady)];
    memory.under_way.insert("container a".into());
    check(&pod, &seen, &memory, &[]);
    memory.under_way.clear();
    check(&pod, &seen, &memory, &["remove volumes"]);
    memory.stopping.insert("volumes".into());
    let last = plan(&pod, Stage::Wanted, &seen, &memory, moment());
    assert_eq!((shown(&last), last.finished), (vec![], true));
}

#[test]
fn what_an_earlier_agent_left_is_adopted() {
    let pod = pod(TWO);
    // Made but not started: the same try again.
    check(&pod, &up([container("a", 2, ContainerState::Created, 0), running("b")]), &ready(), &["start a #2"]);
    check(&pod, &up([running("a"), running("b")]), &ready(), &[]);
}

#[test]
fn two_tries_of_a_container_are_kept() {
    let tries = [3, 2, 1, 0].map(|attempt| {
        let state = if attempt == 3 { ContainerState::Running } else { ContainerState::Exited };
        container("a", attempt, state, 1)
    });
    let mut seen = up(tries);
    seen.containers.push(running("b"));
    check(&pod(TWO), &seen, &ready(), &["remove a1", "remove a0"]);
}

#[test]
fn tokens_are_refreshed_while_the_pod_runs() {
    let mut memory = ready();
    memory.refresh_at = Some(moment().mono + Duration::from_secs(30));
    let seen = up([running("a"), running("b")]);
    let later = plan(&pod(TWO), Stage::Wanted, &seen, &memory, moment());
    assert_eq!((shown(&later), later.again_within), (vec![], Some(Duration::from_secs(30))));
    memory.refresh_at = Some(moment().mono);
    check(&pod(TWO), &seen, &memory, &["volumes"]);
}

#[test]
fn durations_are_told_as_go_tells_them() {
    let shown = [10, 160, 300, 3661].map(|seconds| go_duration(Duration::from_secs(seconds)));
    assert_eq!(shown, ["10s", "2m40s", "5m0s", "1h1m1s"]);
}

#[test]
fn a_half_made_sandbox_of_a_killed_agent_is_removed_once_another_is_up() {
    let mut seen = up([running("a"), running("b")]);
    let half_made = PodSandboxStatus { id: "old".into(), ..sandbox(0, PodSandboxState::NotReady) };
    seen.sandboxes = vec![PodSandboxStatus { id: "s0".into(), ..sandbox(1, PodSandboxState::Ready) }, half_made];
    check(&pod(TWO), &seen, &ready(), &["forget old"]);
    // Not while the status still tells of what ran in it.
    seen.containers.push(ContainerStatus { pod_sandbox_id: "old".into(), ..exited("a", 1) });
    check(&pod(TWO), &seen, &ready(), &[]);
}

#[test]
fn a_failed_end_waits_before_it_is_tried_again() {
    let mut memory = ready();
    memory.stopping.insert("rules".into());
    memory.retry_at.insert("end a".into(), moment().mono + Duration::from_secs(2));
    let ending =
        plan(&pod(TWO), Stage::Ending { grace_seconds: 5 }, &up([running("a"), running("b")]), &memory, moment());
    assert_eq!(shown(&ending), ["kill b (5s)"]);
    assert_eq!(ending.again_within, Some(Duration::from_secs(2)));
}

#[test]
fn what_ran_before_the_machine_restarted_counts() {
    let before = |policy: &str, state: &str| {
        let mut pod = pod(&format!(r#""restartPolicy":"{policy}","containers":[{{"name":"a"}}]"#));
        pod.status = serde_json::from_str(&format!(
            r#"{{"phase":"Running","containerStatuses":[{{"name":"a","image":"","imageID":"","ready":false,"restartCount":2,"state":{state}}}]}}"#
        ))
        .unwrap();
        pod
    };
    let ran = r#"{"running":{}}"#;
    check(&before("Always", ran), &up([]), &ready(), &["start a #3"]);
    check(&before("Always", r#"{"waiting":{"reason":"ContainerCreating"}}"#), &up([]), &ready(), &["start a #2"]);
    // What must not run twice has ended: its sandbox is of no use.
    check(&before("Never", ran), &up([]), &ready(), &["stop s0"]);
    check(&before("OnFailure", r#"{"terminated":{"exitCode":0}}"#), &up([]), &ready(), &["stop s0"]);
    check(&before("OnFailure", r#"{"terminated":{"exitCode":1}}"#), &up([]), &ready(), &["start a #3"]);
}

const SIDECARS: &str = r#""initContainers":[
    {"name":"i"},
    {"name":"s","restartPolicy":"Always"},
    {"name":"t","restartPolicy":"Always","startupProbe":{},"lifecycle":{"preStop":{"sleep":{"seconds":1}}}}],
    "containers":[{"name":"a"},{"name":"b"}]"#;

fn started(ids: &[&str]) -> Memory {
    let health = super::super::memory::Health { started: true, ready: true };
    Memory { health: ids.iter().map(|id| ((*id).to_owned(), health)).collect(), ..ready() }
}

#[test]
fn a_sidecar_lets_the_next_begin_when_it_has_started() {
    let pod = pod(SIDECARS);
    check(&pod, &up([]), &ready(), &["start i #0"]);
    check(&pod, &up([exited("i", 0)]), &ready(), &["start s #0"]);
    check(&pod, &up([running("s"), exited("i", 0)]), &ready(), &["start t #0"]);
    let mut hook = ready();
    hook.under_way.insert("container s".into());
    check(&pod, &up([running("s"), exited("i", 0)]), &hook, &[]);
    let all = [running("t"), running("s"), exited("i", 0)];
    check(&pod, &up(all.clone()), &ready(), &[]);
    check(&pod, &up(all), &started(&["t0"]), &["start a #0", "start b #0"]);
}

#[test]
fn a_sidecar_is_restarted_whatever_the_pods_policy_says() {
    let pod = pod(&format!(r#""restartPolicy":"Never",{SIDECARS}"#));
    let mains = [running("a"), running("b")];
    let seen =
        |s: ContainerStatus| up(mains.clone().into_iter().chain([running("t"), s, exited("i", 0)]).collect::<Vec<_>>());
    check(&pod, &seen(exited("s", 0)), &started(&["t0"]), &["start s #1"]);
    // Before the others begin, too; and the next does not begin before it is back.
    check(&pod, &up([exited("s", 1), exited("i", 0)]), &ready(), &["start s #1"]);
    let mut memory = started(&["t0", "s0"]);
    memory.condemned.insert("s0".into(), "liveness".into());
    check(&pod, &seen(running("s")), &memory, &["kill s (20s)"]);
    // Restarts go on once the main containers run, even where the runtime has forgotten the sidecar.
    check(&pod, &up([running("a"), running("b"), running("t")]), &started(&["t0"]), &["start s #0"]);
}

#[test]
fn sidecars_end_after_all_others_and_the_last_first() {
    let pod = pod(SIDECARS);
    let mut memory = ready();
    memory.stopping.insert("rules".into());
    let next = |seen: &[ContainerStatus], memory: &Memory| {
        let plan = plan(&pod, Stage::Ending { grace_seconds: 20 }, &up(seen.to_vec()), memory, moment());
        (shown(&plan), plan.again_within.map(|left| left.as_secs()))
    };
    let all = [running("b"), running("a"), running("t"), running("s")];
    let both = vec!["kill b (20s)".into(), "kill a (20s)".into(), "hook t (20s)".into()];
    assert_eq!(next(&all, &memory), (both, Some(20)));
    memory.hooks_run.insert("t0".into());
    assert_eq!(next(&all[1..], &memory), (vec!["kill a (20s)".into()], Some(20)));
    assert_eq!(next(&all[2..], &memory), (vec!["kill t (20s)".into()], Some(20)));
    assert_eq!(next(&all[3..], &memory), (vec!["kill s (20s)".into()], None));
    // Those that wait get what is left of the grace period, and no turn is waited for beyond it.
    memory.ending_since = Some(Mono(Duration::from_secs(985)));
    assert_eq!(next(&all[2..], &memory), (vec!["kill t (5s)".into()], Some(5)));
    memory.ending_since = Some(Mono(Duration::from_secs(980)));
    assert_eq!(next(&all[2..], &memory).0, ["kill t (0s)", "kill s (0s)"]);
}

#[test]
fn a_pod_whose_main_containers_have_ended_ends_its_sidecars() {
    let pod = pod(&format!(r#""restartPolicy":"OnFailure",{SIDECARS}"#));
    let seen = up([exited("a", 0), exited("b", 0), running("t"), running("s")]);
    let mut memory = started(&["t0", "s0"]);
    memory.hooks_run.insert("t0".into());
    check(&pod, &seen, &memory, &["kill t (20s)"]);
    check(&pod, &up([exited("a", 0), exited("b", 0), exited("t", 0), running("s")]), &memory, &["kill s (20s)"]);
    check(&pod, &up([exited("a", 0), exited("b", 0), exited("t", 0), exited("s", 1)]), &memory, &["stop s0"]);
}

#[test]
fn an_ephemeral_container_begins_at_once_and_only_once() {
    let ephemeral =
        r#""initContainers":[{"name":"i"}],"containers":[{"name":"a"}],"ephemeralContainers":[{"name":"e"}]"#;
    let pod = pod(ephemeral);
    check(&pod, &up([running("i")]), &ready(), &["start e #0"]);
    check(&pod, &up([running("i"), running("e")]), &ready(), &[]);
    check(&pod, &up([running("i"), exited("e", 1)]), &ready(), &[]);
}

#[test]
fn a_pod_is_ended_at_its_deadline() {
    let mut pod = pod(&format!(r#""activeDeadlineSeconds":60,{TWO}"#));
    assert_eq!(deadline(&pod, moment().wall), None, "it has not begun");
    let begun = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(NOW).unwrap());
    pod.status.get_or_insert_default().start_time = Some(begun);
    let at = |second: i64| deadline(&pod, Timestamp::from_second(NOW + second).unwrap()).unwrap();
    assert_eq!(at(10), Ok(Duration::from_secs(50)));
    let verdict = at(60).unwrap_err();
    assert_eq!(verdict.reason, "DeadlineExceeded");
    let memory = Memory { verdict: Some(verdict), ..ready() };
    check(&pod, &up([running("a"), exited("b", 1)]), &memory, &["kill a (20s)"]);
    check(&pod, &up([exited("a", 0), exited("b", 1)]), &memory, &["stop s0"]);
}

#[test]
fn what_was_granted_is_given_to_one_container_after_the_other() {
    let limited = |name: &str, policy: &str| {
        format!(
            r#"{{"name":"{name}","resources":{{"limits":{{"cpu":"1"}}}},"resizePolicy":[{{"resourceName":"cpu","restartPolicy":"{policy}"}}]}}"#
        )
    };
    let two =
        |policy: &str| pod(&format!(r#""containers":[{},{}]"#, limited("a", policy), limited("b", "NotRequired")));
    let runs_with = |name: &str, cpu_quota: i64| {
        let mut status = running(name);
        status.linux.resources =
            cri::LinuxContainerResources { cpu_shares: 1024, cpu_quota, ..cri::LinuxContainerResources::default() };
        status
    };
    let (old, new) = (50_000, 100_000);
    check(&two("NotRequired"), &up([runs_with("a", old), runs_with("b", old)]), &ready(), &["resize a"]);
    check(&two("NotRequired"), &up([runs_with("a", new), runs_with("b", old)]), &ready(), &["resize b"]);
    check(&two("NotRequired"), &up([runs_with("a", new), runs_with("b", new)]), &ready(), &[]);
    check(&two("RestartContainer"), &up([runs_with("a", old), runs_with("b", new)]), &ready(), &["kill a (20s)"]);
    // What is ended for that is started again, also where its policy is to let it rest.
    let mut seen = up([exited("a", 0), running("b")]);
    let rests = pod(r#""restartPolicy":"OnFailure","containers":[{"name":"a"},{"name":"b"}]"#);
    check(&rests, &seen, &ready(), &[]);
    seen.known.again.insert("a0".into());
    check(&rests, &seen, &ready(), &["start a #1"]);
}

#[test]
fn the_probe_that_condemned_gives_the_grace_period_and_the_words() {
    let probes = r#""containers":[{"name":"a","startupProbe":{"terminationGracePeriodSeconds":7},"livenessProbe":{"terminationGracePeriodSeconds":3}}]"#;
    let words = |policy: &str, probe: &str| {
        let pod = pod(&format!(r#""restartPolicy":"{policy}",{probes}"#));
        let mut memory = ready();
        memory.condemned.insert("a0".into(), probe.into());
        let plan = plan(&pod, Stage::Wanted, &up([running("a")]), &memory, moment());
        match &plan.steps[0] {
            Step::Kill { grace_seconds, why: Why::Unhealthy(message), .. } => (*grace_seconds, message.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(words("Always", "startup"), (7, "Container a failed startup probe, will be restarted".into()));
    assert_eq!(words("Always", "liveness"), (3, "Container a failed liveness probe, will be restarted".into()));
    assert_eq!(words("Never", "liveness"), (3, "Container a failed liveness probe".into()));
}

const CAUSE: &str = r#""restartPolicy":"Never","initContainers":[{"name":"i"}],"containers":[{"name":"a"},
    {"name":"b","restartPolicy":"Never","restartPolicyRules":[{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]}]"#;

/// The pod whose containers all start anew, as its status tells that.
fn restarting(status: &str) -> Pod {
    let mut pod = pod(CAUSE);
    pod.status = Some(serde_json::from_str(&format!(
        r#"{{"conditions":[{{"type":"AllContainersRestarting","status":"{status}"}}],
        "initContainerStatuses":[{{"name":"i","image":"","imageID":"","ready":true,"restartCount":0,"containerID":"x://i0","state":{{"terminated":{{"exitCode":0}}}}}}],
        "containerStatuses":[{{"name":"a","image":"","imageID":"","ready":false,"restartCount":2,"containerID":"x://a2","state":{{"terminated":{{"exitCode":0}}}}}},
        {{"name":"b","image":"","imageID":"","ready":false,"restartCount":1,"containerID":"x://b1","state":{{"waiting":{{}}}}}}]}}"#
    )).unwrap());
    pod
}

#[test]
fn the_end_of_one_container_has_all_started_anew_and_goes_last() {
    let steps = |pod: &Pod, containers: Vec<ContainerStatus>, memory: &Memory| {
        plan(pod, Stage::Wanted, &up(containers), memory, moment())
    };
    let check = |containers: Vec<ContainerStatus>, expected: Vec<Step>| {
        assert!(!ended(&pod(CAUSE), &pod(CAUSE).spec.unwrap(), &up(containers.clone())));
        assert_eq!(steps(&pod(CAUSE), containers, &ready()).steps, expected);
    };
    let kill = Step::Kill { id: "a0".into(), name: "a".into(), grace_seconds: 0, why: Why::AllRestart };
    check(vec![running("a"), exited("b", 42), exited("i", 0)], vec![kill]);
    let remove = |id: &str| Step::RemoveContainer { id: id.into() };
    check(vec![exited("a", 0), exited("b", 42), exited("i", 0)], vec![remove("a0"), remove("i0")]);
    let cause = Step::RemoveCause { id: "b0".into(), name: "b".into() };
    check(vec![exited("b", 42)], vec![cause]);
    // It crashes again and again.
    let mut memory = ready();
    memory.restarts.insert("b".into(), Tries::again(None, moment().wall));
    let waits = steps(&pod(CAUSE), vec![exited("b", 42)], &memory);
    assert_eq!((waits.steps, waits.again_within), (vec![], Some(Duration::from_secs(9))));
    assert_eq!(waits.waiting[0].1.reason, "CrashLoopBackOff");
    // Another end is the end of the pod.
    let others = up([exited("a", 0), exited("b", 41), exited("i", 0)]);
    assert!(ended(&pod(CAUSE), &pod(CAUSE).spec.unwrap(), &others));
}

#[test]
fn what_was_cleared_begins_with_the_first_init_container_whatever_the_status_tells() {
    let first = Step::Start { name: "i".into(), attempt: 1 };
    let marked = restarting("True");
    assert!(!ended(&marked, marked.spec.as_ref().unwrap(), &up([])));
    assert_eq!(plan(&marked, Stage::Wanted, &up([]), &ready(), moment()).steps, [first]);
    // Another agent goes on with what is marked, though nothing tells the cause any more.
    let left = plan(&marked, Stage::Wanted, &up([exited("a", 0)]), &ready(), moment());
    assert_eq!(left.steps, [Step::RemoveContainer { id: "a0".into() }]);
    let next = up([exited("i", 0)]);
    let begun = restarting("False");
    let starts = |name: &str, attempt| Step::Start { name: name.into(), attempt };
    assert_eq!(next_attempt(&begun, &next, Role::Main, "a"), 3);
    assert_eq!(next_attempt(&begun, &next, Role::Main, "b"), 2);
    let mut told = begun;
    for status in told.status.as_mut().unwrap().container_statuses.as_mut().unwrap() {
        (status.state, status.container_id, status.restart_count) = (None, None, status.restart_count + 1);
    }
    let plan = plan(&told, Stage::Wanted, &next, &ready(), moment());
    assert_eq!(plan.steps, [starts("a", 3), starts("b", 2)]);
}

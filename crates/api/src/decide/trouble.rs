//! What keeps a pod from being ready, in plain words, from what its status says. Pure.

use crate::value::Value;

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The container; empty where it is the whole pod.
    pub container: String,
    /// Upstream's word, such as `CrashLoopBackOff`.
    pub reason: String,
    /// A clause without a full stop.
    pub words: String,
}

impl Trouble {
    fn of_pod(reason: &str, words: String) -> Trouble {
        Trouble { container: String::new(), reason: reason.to_owned(), words }
    }
}

/// The condition of a type.
pub fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    let conditions = object.at(&["status", "conditions"])?.as_array()?;
    conditions.iter().find(|condition| condition.str_at(&["type"]) == Some(kind))
}

/// The statuses of a pod's containers, init containers first, each with the name of its list.
pub fn container_statuses(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|list| {
        let statuses = pod.at(&["status", list]).and_then(Value::as_array).unwrap_or_default();
        statuses.iter().map(move |status| (list, status))
    })
}

/// The first thing that keeps a pod from being ready; `None` for one that is, or that ended well.
pub fn trouble(pod: &Value) -> Option<Trouble> {
    let phase = pod.str_at(&["status", "phase"]).unwrap_or("Pending");
    let is =
        |kind: &str, status: &str| condition(pod, kind).and_then(|found| found.str_at(&["status"])) == Some(status);
    if phase == "Succeeded" || is("Ready", "True") {
        return None;
    }
    if let (true, Some(scheduled)) = (is("PodScheduled", "False"), condition(pod, "PodScheduled")) {
        let message = scheduled.str_at(&["message"]).unwrap_or_default().trim_end_matches('.');
        return Some(Trouble::of_pod("Unschedulable", format!("no node takes it: {message}")));
    }
    let statuses: Vec<&Value> = container_statuses(pod).map(|(_, status)| status).collect();
    if phase == "Failed" {
        let reason = pod.str_at(&["status", "reason"]).unwrap_or("Failed");
        let message = pod.str_at(&["status", "message"]).unwrap_or_default().trim();
        let ended = statuses.iter().find_map(|status| ended_in(pod, status));
        let words = match (message.is_empty(), &ended) {
            (true, Some(ended)) => ended.words.clone(),
            (true, None) => "it failed".to_owned(),
            (false, _) => format!("it failed: {}", message.trim_end_matches('.')),
        };
        return Some(Trouble {
            container: ended.map(|ended| ended.container).unwrap_or_default(),
            reason: reason.into(),
            words,
        });
    }
    statuses.iter().find_map(|status| waiting(pod, status)).or_else(|| {
        let waits = |status: &&&Value| status.at(&["state", "waiting"]).is_some();
        let unready = statuses.iter().filter(|status| !waits(status));
        let unready = unready.into_iter().find(|status| status.get("ready").and_then(Value::as_bool) == Some(false));
        unready.map(|status| {
            let name = status.str_at(&["name"]).unwrap_or_default();
            ended_in(pod, status).unwrap_or_else(|| Trouble {
                container: name.to_owned(),
                reason: "NotReady".to_owned(),
                words: match status.get("started").and_then(Value::as_bool) {
                    Some(false) => format!("container {name:?} has not finished starting"),
                    _ => format!("container {name:?} runs and is not ready"),
                },
            })
        })
    })
}

/// How a container of a pod ended before, whatever it does now: one that crashes is up for a moment in between.
pub fn past(pod: &Value) -> Option<Trouble> {
    container_statuses(pod).find_map(|(_, status)| {
        let terminated = status.at(&["lastState", "terminated"])?;
        let name = status.str_at(&["name"]).unwrap_or_default();
        Some(Trouble {
            container: name.to_owned(),
            reason: terminated.str_at(&["reason"]).unwrap_or("Error").to_owned(),
            words: format!("container {name:?} was started again: it {}", ended(terminated, limit(pod, name))),
        })
    })
}

/// What a container waits for, unless it is only about to start.
fn waiting(pod: &Value, status: &Value) -> Option<Trouble> {
    let name = status.str_at(&["name"]).unwrap_or_default();
    let reason = status.str_at(&["state", "waiting", "reason"])?;
    let message = status.str_at(&["state", "waiting", "message"]).unwrap_or_default().trim().trim_end_matches('.');
    let words = match reason {
        "ContainerCreating" | "PodInitializing" => return None,
        "CrashLoopBackOff" => {
            let ended = ended(status.at(&["lastState", "terminated"])?, limit(pod, name));
            format!("container {name:?} ends again and again: it {ended}")
        }
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
            let image = spec_of(pod, name).and_then(|container| container.str_at(&["image"])).unwrap_or_default();
            format!("the image {image:?} of container {name:?} cannot be had: {}", without_back_off(message))
        }
        _ => format!("container {name:?} cannot start: {message} ({reason})"),
    };
    Some(Trouble { container: name.to_owned(), reason: reason.to_owned(), words })
}

/// What is behind `Back-off pulling image "…": ErrImagePull: …`: the registry's answer.
pub fn without_back_off(message: &str) -> &str {
    message
        .strip_prefix("Back-off pulling image ")
        .and_then(|rest| rest.split_once(": ErrImagePull: "))
        .map_or(message, |(_, why)| why)
}

/// How a container ended that does not run.
fn ended_in(pod: &Value, status: &Value) -> Option<Trouble> {
    let terminated = status.at(&["state", "terminated"])?;
    let name = status.str_at(&["name"]).unwrap_or_default();
    let well = terminated.get("exitCode").and_then(Value::as_i64) == Some(0);
    (!well).then(|| Trouble {
        container: name.to_owned(),
        reason: terminated.str_at(&["reason"]).unwrap_or("Error").to_owned(),
        words: format!("container {name:?} {}", ended(terminated, limit(pod, name))),
    })
}

/// A container as specified.
pub fn spec_of<'v>(pod: &'v Value, name: &str) -> Option<&'v Value> {
    ["initContainers", "containers"].into_iter().find_map(|list| {
        let containers = pod.at(&["spec", list])?.as_array()?;
        containers.iter().find(|container| container.str_at(&["name"]) == Some(name))
    })
}

/// A container's limit of memory.
pub fn limit<'v>(pod: &'v Value, name: &str) -> Option<&'v str> {
    spec_of(pod, name)?.str_at(&["resources", "limits", "memory"])
}

/// How a container ended: a clause that follows its name. `limit` is that of its memory.
pub fn ended(terminated: &Value, limit: Option<&str>) -> String {
    let code = terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
    if terminated.str_at(&["reason"]) == Some("OOMKilled") {
        return match limit {
            Some(limit) => format!("was killed because it needed more memory than its limit of {limit}"),
            None => "was killed because the node had no memory left for it".to_owned(),
        };
    }
    match code {
        0 => "ended by itself, with exit code 0".to_owned(),
        126 => "ended with exit code 126: its command may not be executed".to_owned(),
        127 => "ended with exit code 127: its command was not found".to_owned(),
        129..=192 => format!("was ended by {} (exit code {code})", signal(code - 128)),
        _ => format!("ended with exit code {code}"),
    }
}

fn signal(number: i64) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL, an instruction that the processor does not have",
        6 => "SIGABRT: it gave itself up",
        7 => "SIGBUS, a bad access to memory",
        8 => "SIGFPE, an impossible calculation",
        9 => "SIGKILL: it did not end in time when asked to, or somebody killed it",
        11 => "SIGSEGV, a bad access to memory",
        13 => "SIGPIPE",
        15 => "SIGTERM: it was asked to end",
        31 => "SIGSYS, a system call that its seccomp profile forbids",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words about a pod with this status, whose container `c` has the image `i` and a limit of memory.
    fn check(status: &str, expected: Option<&str>) {
        let text = format!(
            r#"{{"spec":{{"containers":[{{"name":"c","image":"i:1","resources":{{"limits":{{"memory":"20Mi"}}}}}}]}},"status":{status}}}"#
        );
        let pod =
            crate::value::to_value(&serde_json::from_str::<serde_json::Value>(&text).expect("JSON")).expect("a tree");
        assert_eq!(trouble(&pod).map(|trouble| trouble.words).as_deref(), expected, "{status}");
    }

    fn container(rest: &str) -> String {
        format!(r#"{{"phase":"Running","containerStatuses":[{{"name":"c","ready":false,{rest}}}]}}"#)
    }

    #[test]
    fn says_what_keeps_a_pod_from_being_ready() {
        check(r#"{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}"#, None);
        check(r#"{"phase":"Pending"}"#, None);
        let scheduled = r#"{"conditions":[{"type":"PodScheduled","status":"False","message":"0/1 nodes are available: 1 Insufficient cpu."}]}"#;
        check(scheduled, Some("no node takes it: 0/1 nodes are available: 1 Insufficient cpu"));
        check(&container(r#""state":{"waiting":{"reason":"ContainerCreating"}}"#), None);
        let pull = r#""state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off pulling image \"i:1\": ErrImagePull: not found"}}"#;
        check(&container(pull), Some("the image \"i:1\" of container \"c\" cannot be had: not found"));
        let config =
            r#""state":{"waiting":{"reason":"CreateContainerConfigError","message":"configmap \"m\" not found"}}"#;
        check(
            &container(config),
            Some("container \"c\" cannot start: configmap \"m\" not found (CreateContainerConfigError)"),
        );
        check(
            &container(r#""started":false,"state":{"running":{}}"#),
            Some("container \"c\" has not finished starting"),
        );
        check(&container(r#""started":true,"state":{"running":{}}"#), Some("container \"c\" runs and is not ready"));
    }

    #[test]
    fn says_how_containers_end() {
        let crash = |code: i64, reason: &str| {
            container(&format!(
                r#""state":{{"waiting":{{"reason":"CrashLoopBackOff"}}}},"lastState":{{"terminated":{{"exitCode":{code},"reason":"{reason}"}}}}"#
            ))
        };
        let again = "container \"c\" ends again and again: it ";
        check(&crash(3, "Error"), Some(&format!("{again}ended with exit code 3")));
        check(&crash(0, "Completed"), Some(&format!("{again}ended by itself, with exit code 0")));
        check(&crash(127, "Error"), Some(&format!("{again}ended with exit code 127: its command was not found")));
        check(
            &crash(139, "Error"),
            Some(&format!("{again}was ended by SIGSEGV, a bad access to memory (exit code 139)")),
        );
        let killed = "was killed because it needed more memory than its limit of 20Mi";
        check(&crash(137, "OOMKilled"), Some(&format!("{again}{killed}")));
        check(
            &container(r#""state":{"terminated":{"exitCode":137,"reason":"OOMKilled"}}"#),
            Some(&format!("container \"c\" {killed}")),
        );
        check(
            r#"{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory. "}"#,
            Some("it failed: The node was low on resource: memory"),
        );
    }
}

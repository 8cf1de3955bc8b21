//! What state a pod is in, as controllers, the scheduler and services see it.
//!
//! Upstream: `k8s.io/kubernetes/pkg/api/v1/pod`.

use jiff::{SignedDuration, Timestamp};

use crate::projection::{Condition, PodLite, condition};

/// The phase before all containers have started once.
pub const PENDING: &str = "Pending";
/// The phase in which containers run or may run again.
pub const RUNNING: &str = "Running";
/// All containers ended well, for good.
pub const SUCCEEDED: &str = "Succeeded";
/// All containers ended, at least one badly.
pub const FAILED: &str = "Failed";

/// The condition of this type.
pub fn pod_condition<'p>(pod: &'p PodLite, kind: &str) -> Option<&'p Condition> {
    condition(&pod.status.conditions, kind)
}

/// Whether the pod serves.
pub fn is_pod_ready(pod: &PodLite) -> bool {
    pod_condition(pod, "Ready").is_some_and(|ready| ready.is_true())
}

/// When a ready pod counts as available, having been ready for `min_ready_seconds`; `None` while it is not ready.
pub fn available_at(pod: &PodLite, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = pod_condition(pod, "Ready").filter(|ready| ready.is_true())?;
    if min_ready_seconds <= 0 {
        return Some(ready.last_transition.unwrap_or(Timestamp::UNIX_EPOCH));
    }
    let since = ready.last_transition?;
    Some(since.saturating_add(SignedDuration::from_secs(min_ready_seconds.into())).unwrap_or(Timestamp::MAX))
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_pod_available(pod: &PodLite, min_ready_seconds: i32, now: Timestamp) -> bool {
    match available_at(pod, min_ready_seconds) {
        Some(_) if min_ready_seconds <= 0 => true,
        Some(moment) => moment <= now,
        None => false,
    }
}

/// Whether all containers ended for good.
pub fn is_pod_terminated(pod: &PodLite) -> bool {
    matches!(&*pod.status.phase, SUCCEEDED | FAILED)
}

/// Whether the pod is being deleted.
pub fn is_pod_terminating(pod: &PodLite) -> bool {
    pod.meta.is_terminating()
}

/// Whether the pod runs or will, and is to stay: what controllers count as a replica.
pub fn is_pod_active(pod: &PodLite) -> bool {
    !is_pod_terminated(pod) && !is_pod_terminating(pod)
}

/// Whether the pod waits for a scheduler: not placed, not held back, not ending.
pub fn is_pod_schedulable(pod: &PodLite) -> bool {
    pod.spec.node_name.is_empty() && pod.spec.scheduling_gates.is_empty() && is_pod_active(pod)
}

/// Whether the pod holds its node's resources.
pub fn occupies_node(pod: &PodLite) -> bool {
    !pod.spec.node_name.is_empty() && !is_pod_terminated(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::Projection;

    fn pod(json: &str) -> PodLite {
        PodLite::of_tree(&serde_json::from_str(json).expect("JSON")).expect("a pod")
    }

    fn ready_since(second: i64) -> PodLite {
        let since = Timestamp::from_second(second).expect("in range");
        pod(&format!(
            r#"{{"status":{{"conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"{since}"}}]}}}}"#
        ))
    }

    #[test]
    fn availability_starts_after_the_minimum() {
        let moment = |second| Timestamp::from_second(second).expect("in range");
        let unready = pod(r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#);
        assert!(!is_pod_ready(&unready) && !is_pod_available(&unready, 0, moment(100)));
        let ready = ready_since(100);
        assert!(is_pod_ready(&ready) && is_pod_available(&ready, 0, moment(100)));
        assert!(!is_pod_available(&ready, 10, moment(109)));
        assert!(is_pod_available(&ready, 10, moment(110)));
        assert_eq!(available_at(&ready, 10), Some(moment(110)));
    }

    #[test]
    fn phases_and_deletion_decide_activity() {
        for (json, active, terminated, schedulable) in [
            (r#"{}"#, true, false, true),
            (r#"{"spec":{"nodeName":"n"},"status":{"phase":"Running"}}"#, true, false, false),
            (r#"{"status":{"phase":"Succeeded"}}"#, false, true, false),
            (r#"{"status":{"phase":"Failed"}}"#, false, true, false),
            (r#"{"metadata":{"deletionTimestamp":"2024-01-01T00:00:00Z"}}"#, false, false, false),
            (r#"{"spec":{"schedulingGates":[{"name":"g"}]}}"#, true, false, false),
        ] {
            let pod = pod(json);
            let got = (is_pod_active(&pod), is_pod_terminated(&pod), is_pod_schedulable(&pod));
            assert_eq!(got, (active, terminated, schedulable), "{json}");
        }
    }
}

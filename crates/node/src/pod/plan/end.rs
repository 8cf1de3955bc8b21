//! How everything of a pod is ended: sidecars after all others, the last first. Pure.
//!
//! Upstream: `newTerminationOrdering` and `killContainer`. A sidecar's preStop hook runs at once; its signal waits for its turn,
//! for as long as the grace period lasts.

use std::time::Duration;

use cri::ContainerStatus;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use stdx::Mono;

use super::{Step, Why};
use crate::pod::memory::Memory;
use crate::pod::seen::Seen;
use crate::pod::{Role, containers};

/// What ends now, and how long the rest waits at most.
pub fn kills(
    spec: &PodSpec,
    seen: &Seen,
    memory: &Memory,
    grace_seconds: u64,
    now: Mono,
) -> (Vec<Step>, Option<Duration>) {
    let passed = memory.ending_since.map_or(Duration::ZERO, |since| now - since);
    let grace = Duration::from_secs(grace_seconds);
    let left = grace.saturating_sub(passed);
    // Asked for in whole seconds; a part of one counts in favour of the container.
    let left_seconds = grace_seconds - passed.as_secs().min(grace_seconds);
    let end = |container: &ContainerStatus| Step::Kill {
        id: container.id.clone(),
        name: container.metadata.name.clone(),
        grace_seconds: left_seconds,
        why: Why::PodEnds,
    };
    let order: Vec<(Role, &Container)> = containers(spec).collect();
    let place = |running: &ContainerStatus| order.iter().position(|(_, one)| one.name == running.metadata.name);
    let (mut steps, mut waits) = (Vec::new(), None);
    for running in seen.running() {
        let sidecar = place(running).filter(|place| order[*place].0 == Role::Sidecar);
        let Some(own) = sidecar else {
            steps.push(end(running));
            continue;
        };
        let later = |other: &ContainerStatus| {
            place(other).is_some_and(|place| place > own && matches!(order[place].0, Role::Sidecar | Role::Main))
        };
        let hook_runs = memory.under_way.contains(&format!("hook {}", running.metadata.name));
        if left.is_zero() || !(hook_runs || seen.running().any(later)) {
            steps.push(end(running));
            continue;
        }
        waits = Some(left);
        let hook = order[own].1.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if hook.is_some() && !memory.hooks_run.contains(&running.id) {
            let (id, name) = (running.id.clone(), running.metadata.name.clone());
            steps.push(Step::PreStop { id, name, grace_seconds: left_seconds });
        }
    }
    (steps, waits)
}

//! Whether a container that ended is started again. Pure.
//!
//! Upstream: `podutil.ContainerShouldRestart`: a container's own rules, then its own policy, then the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use crate::pod::Role;

/// What rules may have done: start the container anew, or all of its pod.
const RESTART: &str = "Restart";
pub const RESTART_ALL: &str = "RestartAllContainers";

/// Whether a container that ended with `code` is started again while its pod goes on.
pub fn starts_again(spec: &PodSpec, role: Role, container: &Container, code: i32) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init => code != 0 && by_policy(spec, container, code),
        Role::Main => by_policy(spec, container, code),
    }
}

fn by_policy(spec: &PodSpec, container: &Container, code: i32) -> bool {
    if rule_that_matches(container, code).is_some_and(|rule| [RESTART, RESTART_ALL].contains(&rule.action.as_str())) {
        return true;
    }
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// The first of a container's rules that says what is done when it ends so. Upstream: `FindMatchingContainerRestartRule`.
pub fn rule_that_matches(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy.as_ref()?;
    container.restart_policy_rules.iter().flatten().find(|rule| matches(rule, code))
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|value| *value == code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: &str, container: &str, role: Role, codes: &[i32], expected: &[bool]) {
        let spec: PodSpec =
            serde_json::from_str(&format!(r#"{{"containers":[],"restartPolicy":"{pod}"}}"#)).expect("a spec");
        let container: Container = serde_json::from_str(container).expect("a container");
        let found: Vec<bool> = codes.iter().map(|code| starts_again(&spec, role, &container, *code)).collect();
        assert_eq!(found, expected, "{pod} {role:?}");
    }

    #[test]
    fn the_pods_policy_counts_where_the_container_has_none() {
        let plain = r#"{"name":"c"}"#;
        check("Always", plain, Role::Main, &[0, 1], &[true, true]);
        check("OnFailure", plain, Role::Main, &[0, 1], &[false, true]);
        check("Never", plain, Role::Main, &[0, 1], &[false, false]);
        check("Always", plain, Role::Init, &[0, 1], &[false, true]);
        check("Never", plain, Role::Init, &[0, 1], &[false, false]);
        check("Never", plain, Role::Sidecar, &[0, 1], &[true, true]);
        check("Always", plain, Role::Ephemeral, &[0, 1], &[false, false]);
    }

    #[test]
    fn a_containers_own_policy_and_rules_win() {
        check("Always", r#"{"name":"c","restartPolicy":"Never"}"#, Role::Main, &[0, 1], &[false, false]);
        check("Never", r#"{"name":"c","restartPolicy":"OnFailure"}"#, Role::Main, &[0, 1], &[false, true]);
        check("Never", r#"{"name":"c","restartPolicy":"Always"}"#, Role::Main, &[0, 1], &[true, true]);
        let rules = |operator: &str| {
            format!(
                r#"{{"name":"c","restartPolicy":"Never","restartPolicyRules":[{{"action":"Restart","exitCodes":{{"operator":"{operator}","values":[42]}}}}]}}"#
            )
        };
        check("Always", &rules("In"), Role::Main, &[42, 1], &[true, false]);
        check("Always", &rules("NotIn"), Role::Main, &[42, 1], &[false, true]);
        check("Always", &rules("In"), Role::Init, &[42, 1, 0], &[true, false, false]);
        let all = rules("In").replace("\"Restart\"", "\"RestartAllContainers\"");
        check("Never", &all, Role::Main, &[42, 1], &[true, false]);
    }
}

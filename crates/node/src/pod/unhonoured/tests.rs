//! Cases, and the walk over every field of a pod: each is honoured somewhere or in the table.

use api::schema::{Message, Type, message};

use super::*;

fn check(json: &str, expected: &[&str]) {
    let pod: Pod = serde_json::from_str(json).unwrap();
    assert_eq!(used(&pod), expected);
}

#[test]
fn names_the_field_by_its_path() {
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b","volumeDevices":[{"name":"d","devicePath":"/d"}]}]}}"#,
        &["spec.containers[1].volumeDevices"],
    );
    check(
        r#"{"spec":{"containers":[],"volumes":[{"name":"x","emptyDir":{"medium":"Memory"}},{"name":"y","nfs":{"server":"s","path":"p"}}]}}"#,
        &["spec.volumes[1].nfs"],
    );
}

#[test]
fn an_ephemeral_container_is_refused_by_itself() {
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"containers":[],"ephemeralContainers":[{"name":"a"},{"name":"b","volumeDevices":[{"name":"x","devicePath":"/x"}]}]}}"#,
    )
    .unwrap();
    assert!(used(&pod).is_empty());
    let refused = vec![("b".to_owned(), vec!["spec.ephemeralContainers[1].volumeDevices".to_owned()])];
    assert_eq!(used_by_ephemeral(&pod), refused);
}

#[test]
fn ports_of_the_node_are_granted() {
    let port = r#""containers":[{"name":"a","ports":[{"containerPort":1,"hostPort":1}]}]"#;
    check(&format!(r#"{{"spec":{{"hostNetwork":true,{port}}}}}"#), &[]);
}

#[test]
fn defaults_are_not_uses() {
    check(r#"{"spec":{"containers":[{"name":"a","livenessProbe":{"httpGet":{"port":1,"scheme":"HTTP"}}}]}}"#, &[]);
}

/// Every path below a message that no entry of `known` covers.
fn walk_fields(shape: &Message, path: &str, known: &dyn Fn(&str) -> bool, missing: &mut Vec<String>) {
    for field in shape.fields() {
        let path = format!("{path}.{}", field.name);
        if known(&path) {
            continue;
        }
        let list = matches!(field.ty, Type::List(_));
        match field.message() {
            Some(inner) => walk_fields(inner, &if list { format!("{path}.*") } else { path }, known, missing),
            None => missing.push(path),
        }
    }
}

/// Whether an entry is the path or a part of the object above it.
fn covered(path: &str, entry: &str) -> bool {
    path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[test]
fn every_field_of_a_pod_is_honoured_or_in_the_table() {
    let spec = message("io.k8s.api.core.v1.PodSpec").unwrap();
    let known = |path: &str| {
        let path = match path.strip_prefix("spec.ephemeralContainers.*.") {
            // Validation refuses the others.
            Some("ports" | "livenessProbe" | "readinessProbe" | "startupProbe" | "lifecycle") => return true,
            Some("resources" | "resizePolicy" | "restartPolicy" | "restartPolicyRules") => return true,
            Some("targetContainerName") | None => path.replace("spec.initContainers.", "spec.containers."),
            Some(rest) => format!("spec.containers.*.{rest}"),
        };
        let by_agent = UNHONOURED.iter().any(|(entry, _)| covered(&path, entry));
        by_agent || HONOURED.iter().any(|(entry, _)| covered(&path, entry))
    };
    let mut missing = Vec::new();
    walk_fields(spec, "spec", &known, &mut missing);
    assert!(missing.is_empty(), "neither honoured nor refused:\n{}", missing.join("\n"));
}

#[test]
fn no_field_is_both_honoured_and_in_the_table() {
    for (field, file) in HONOURED {
        let refused = UNHONOURED.iter().find(|(entry, _)| entry == field);
        assert!(refused.is_none(), "{field} is refused, and yet honoured by {file}");
    }
}

/// Fields that are honoured, those of containers for init containers as well, each with where: a file of this crate has its
/// cases; others are named by their crate. A field's parts count with it.
const HONOURED: &[(&str, &str)] = &[
    ("spec.activeDeadlineSeconds", "pod/plan.rs"),
    ("spec.automountServiceAccountToken", "apiserver: admission/service_account.rs"),
    ("spec.affinity", "scheduler: plugins/affinity.rs, plugins/pods.rs"),
    ("spec.containers.*.args", "pod/create.rs"),
    ("spec.containers.*.command", "pod/create.rs"),
    ("spec.containers.*.env", "pod/env.rs"),
    ("spec.containers.*.envFrom", "pod/env.rs"),
    ("spec.containers.*.image", "pod/images.rs"),
    ("spec.containers.*.imagePullPolicy", "pod/images.rs"),
    ("spec.containers.*.lifecycle.postStart.exec", "hook.rs"),
    ("spec.containers.*.lifecycle.postStart.httpGet", "hook.rs"),
    ("spec.containers.*.lifecycle.postStart.sleep", "hook.rs"),
    // Fails when it runs, as it always did.
    ("spec.containers.*.lifecycle.postStart.tcpSocket", "hook.rs"),
    ("spec.containers.*.lifecycle.preStop.exec", "hook.rs"),
    ("spec.containers.*.lifecycle.preStop.httpGet", "hook.rs"),
    ("spec.containers.*.lifecycle.preStop.sleep", "hook.rs"),
    ("spec.containers.*.lifecycle.preStop.tcpSocket", "hook.rs"),
    ("spec.containers.*.lifecycle.stopSignal", "pod/create.rs"),
    ("spec.containers.*.livenessProbe", "probe.rs"),
    ("spec.containers.*.name", "pod/plan.rs"),
    ("spec.containers.*.ports.*.containerPort", "probe.rs"),
    ("spec.containers.*.ports.*.hostIP", "net: hostports.rs"),
    ("spec.containers.*.ports.*.hostPort", "net: hostports.rs"),
    ("spec.containers.*.ports.*.name", "probe.rs"),
    ("spec.containers.*.ports.*.protocol", "controllers: endpointslice.rs"),
    ("spec.containers.*.readinessProbe", "probe.rs"),
    ("spec.containers.*.resizePolicy", "resize.rs"),
    ("spec.containers.*.resources.limits", "cgroup.rs"),
    ("spec.containers.*.resources.requests", "cgroup.rs"),
    ("spec.containers.*.restartPolicy", "pod/plan/policy.rs"),
    ("spec.containers.*.restartPolicyRules", "pod/plan/policy.rs, pod/plan/restart_all.rs"),
    ("spec.containers.*.securityContext.allowPrivilegeEscalation", "pod/create.rs"),
    ("spec.containers.*.securityContext.appArmorProfile", "admit/machine.rs"),
    ("spec.containers.*.securityContext.capabilities", "pod/create.rs"),
    ("spec.containers.*.securityContext.privileged", "pod/create.rs"),
    ("spec.containers.*.securityContext.procMount", "pod/create.rs"),
    ("spec.containers.*.securityContext.readOnlyRootFilesystem", "pod/create.rs"),
    ("spec.containers.*.securityContext.runAsGroup", "pod/create.rs"),
    ("spec.containers.*.securityContext.runAsNonRoot", "pod/steps.rs"),
    ("spec.containers.*.securityContext.runAsUser", "pod/create.rs"),
    // Without SELinux there is nothing to label; with it, the runtime refuses.
    ("spec.containers.*.securityContext.seLinuxOptions", "runtime: spec/mod.rs"),
    ("spec.containers.*.securityContext.seccompProfile", "runtime: spec/profile.rs"),
    // What is said to another system is no word to this one.
    ("spec.containers.*.securityContext.windowsOptions", "pod/create.rs"),
    ("spec.containers.*.startupProbe", "probe.rs"),
    ("spec.containers.*.stdin", "pod/create.rs"),
    ("spec.containers.*.stdinOnce", "pod/create.rs"),
    ("spec.containers.*.terminationMessagePath", "pod/steps.rs"),
    ("spec.containers.*.terminationMessagePolicy", "pod/steps.rs"),
    ("spec.containers.*.tty", "pod/create.rs"),
    ("spec.containers.*.volumeMounts.*.mountPath", "volume/mounts.rs"),
    ("spec.containers.*.volumeMounts.*.mountPropagation", "runtime: tests/real/isolation.rs"),
    ("spec.containers.*.volumeMounts.*.name", "volume/mounts.rs"),
    ("spec.containers.*.volumeMounts.*.readOnly", "volume/mounts.rs"),
    ("spec.containers.*.volumeMounts.*.recursiveReadOnly", "volume/mounts.rs"),
    ("spec.containers.*.volumeMounts.*.subPath", "volume/mounts.rs"),
    ("spec.containers.*.volumeMounts.*.subPathExpr", "volume/mounts.rs"),
    ("spec.containers.*.workingDir", "pod/create.rs"),
    ("spec.dnsConfig", "pod/create.rs"),
    ("spec.dnsPolicy", "pod/create.rs"),
    ("spec.enableServiceLinks", "agent.rs"),
    ("spec.ephemeralContainers.*.targetContainerName", "pod/steps.rs"),
    ("spec.hostAliases", "pod/create.rs"),
    ("spec.hostIPC", "pod/create.rs"),
    ("spec.hostNetwork", "pod/create.rs"),
    ("spec.hostPID", "pod/create.rs"),
    ("spec.hostUsers", "users.rs"),
    ("spec.hostname", "pod/create.rs"),
    ("spec.hostnameOverride", "pod/create.rs"),
    ("spec.imagePullSecrets", "pod/images.rs"),
    ("spec.nodeName", "scheduler: plugins/name.rs"),
    ("spec.nodeSelector", "scheduler: plugins/affinity.rs"),
    ("spec.os", "admit/machine.rs"),
    ("spec.overhead", "cgroup.rs"),
    ("spec.preemptionPolicy", "scheduler: preempt.rs"),
    ("spec.priority", "scheduler: queue.rs"),
    ("spec.priorityClassName", "apiserver: admission/priority.rs"),
    ("spec.readinessGates", "pod/status/conditions.rs"),
    ("spec.resources", "cgroup.rs"),
    ("spec.restartPolicy", "pod/plan/policy.rs"),
    ("spec.runtimeClassName", "refs.rs"),
    ("spec.schedulerName", "scheduler: run.rs"),
    ("spec.schedulingGates", "scheduler: run.rs"),
    ("spec.schedulingGroup", "scheduler: refused by unhonoured.rs"),
    ("spec.securityContext.appArmorProfile", "admit/machine.rs"),
    ("spec.securityContext.fsGroup", "volume/writer.rs"),
    // How the files of claims are given to the group; those of a pod's own volumes always are.
    ("spec.securityContext.fsGroupChangePolicy", "volume/writer.rs"),
    ("spec.securityContext.runAsGroup", "pod/create.rs"),
    ("spec.securityContext.runAsNonRoot", "pod/steps.rs"),
    ("spec.securityContext.runAsUser", "pod/create.rs"),
    ("spec.securityContext.seLinuxChangePolicy", "runtime: spec/mod.rs"),
    ("spec.securityContext.seLinuxOptions", "runtime: spec/mod.rs"),
    ("spec.securityContext.seccompProfile", "runtime: spec/profile.rs"),
    ("spec.securityContext.supplementalGroups", "pod/create.rs"),
    ("spec.securityContext.supplementalGroupsPolicy", "pod/create.rs"),
    ("spec.securityContext.sysctls", "admit/machine.rs"),
    ("spec.securityContext.windowsOptions", "pod/create.rs"),
    ("spec.serviceAccount", "agent.rs"),
    ("spec.serviceAccountName", "agent.rs"),
    ("spec.setHostnameAsFQDN", "pod/create.rs"),
    ("spec.shareProcessNamespace", "pod/create.rs"),
    ("spec.subdomain", "pod/create.rs"),
    ("spec.terminationGracePeriodSeconds", "pod/plan.rs"),
    // No taint drives running pods away yet, so that no time has to be waited for.
    ("spec.tolerations", "scheduler: plugins/taints.rs"),
    ("spec.topologySpreadConstraints", "scheduler: plugins/spread.rs"),
    ("spec.volumes.*.configMap", "volume.rs"),
    ("spec.volumes.*.downwardAPI", "volume.rs"),
    ("spec.volumes.*.emptyDir.medium", "volume/empty_dir.rs"),
    ("spec.volumes.*.emptyDir.sizeLimit", "storage.rs"),
    ("spec.volumes.*.hostPath", "volume/host_path.rs"),
    ("spec.volumes.*.image", "pod/steps.rs"),
    ("spec.volumes.*.name", "volume.rs"),
    ("spec.volumes.*.projected", "volume.rs"),
    ("spec.volumes.*.secret", "volume.rs"),
];

//! Fields of a pod that are honoured: where, and by which end-to-end test each is seen at work. A field's parts count with it;
//! fields of containers stand for those of init containers as well, and `*Probe` for the three probes.

/// How it is known that a field is honoured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    /// By this end-to-end test, whose file names every part of the field.
    By(&'static str),
    /// By none, since there is nothing to be seen, for this reason.
    Not(&'static str),
}

use Shown::{By, Not};

/// Fields with what honours them: a file of this crate has its cases; others are named by their crate.
pub(super) struct Honoured {
    pub by: &'static str,
    pub shown: Shown,
    pub fields: &'static [&'static str],
}

const fn honoured(by: &'static str, shown: Shown, fields: &'static [&'static str]) -> Honoured {
    Honoured { by, shown, fields }
}

const VARIABLES: Shown = By("inside::variables::commands_and_variables_are_as_the_pod_says");
const FILES: Shown = By("inside::files::files_of_every_kind_of_volume_are_as_the_pod_says");
const RIGHTS: Shown = By("inside::rights::processes_may_what_the_pod_says");
const SANDBOX: Shown = By("inside::sandbox::names_resolvers_and_limits_are_as_the_pod_says");
const PORTS: Shown = By("inside::sandbox::ports_and_whole_pods_are_as_the_pod_says");
const PROBES: Shown = By("inside::probes::every_kind_of_probe_asks_as_the_pod_says");
const PROBE_TIMES: Shown = By("inside::probes::probes_ask_when_and_as_often_as_the_pod_says");
const HOOKS: Shown = By("inside::hooks::hooks_run_at_a_containers_start_and_end");
const LIFE: Shown = By("inside::life::containers_start_again_and_end_as_the_pod_says");
const STREAMS: Shown = By("inside::life::containers_read_and_leave_what_the_pod_says");
const NAMESPACES: Shown = By("inside::life::processes_of_a_pod_see_one_another_where_it_says_so");
const PLACEMENT: Shown = By("inside::placement::pods_go_where_their_fields_say");

const OTHER_SYSTEM: Shown = Not("what is said to another system is no word to this one");
const DROPPED: Shown = Not("the API server drops it, as upstream's does at this level");

pub(super) const HONOURED: &[Honoured] = &[
    honoured(
        "pod/create.rs",
        VARIABLES,
        &["spec.containers.*.args", "spec.containers.*.command", "spec.containers.*.workingDir"],
    ),
    honoured(
        "pod/env.rs",
        VARIABLES,
        &[
            "spec.containers.*.env.*.name",
            "spec.containers.*.env.*.value",
            "spec.containers.*.env.*.valueFrom.configMapKeyRef",
            "spec.containers.*.env.*.valueFrom.fieldRef",
            "spec.containers.*.env.*.valueFrom.fileKeyRef",
            "spec.containers.*.env.*.valueFrom.resourceFieldRef",
            "spec.containers.*.env.*.valueFrom.secretKeyRef",
            "spec.containers.*.envFrom.*.configMapRef",
            "spec.containers.*.envFrom.*.prefix",
            "spec.containers.*.envFrom.*.secretRef",
        ],
    ),
    honoured("agent.rs", VARIABLES, &["spec.enableServiceLinks", "spec.serviceAccount", "spec.serviceAccountName"]),
    honoured("apiserver: admission/service_account.rs", VARIABLES, &["spec.automountServiceAccountToken"]),
    honoured(
        "volume.rs, volume/content.rs",
        FILES,
        &[
            "spec.volumes.*.configMap.defaultMode",
            "spec.volumes.*.configMap.items",
            "spec.volumes.*.configMap.name",
            "spec.volumes.*.configMap.optional",
            "spec.volumes.*.downwardAPI.defaultMode",
            "spec.volumes.*.downwardAPI.items.*.fieldRef",
            "spec.volumes.*.downwardAPI.items.*.mode",
            "spec.volumes.*.downwardAPI.items.*.path",
            "spec.volumes.*.downwardAPI.items.*.resourceFieldRef",
            "spec.volumes.*.name",
            "spec.volumes.*.projected.defaultMode",
            "spec.volumes.*.projected.sources.*.configMap",
            "spec.volumes.*.projected.sources.*.downwardAPI",
            "spec.volumes.*.projected.sources.*.secret",
            "spec.volumes.*.projected.sources.*.serviceAccountToken",
            "spec.volumes.*.secret.defaultMode",
            "spec.volumes.*.secret.items",
            "spec.volumes.*.secret.optional",
            "spec.volumes.*.secret.secretName",
        ],
    ),
    honoured(
        "resources: core/pod/reset.rs",
        DROPPED,
        &[
            "spec.volumes.*.projected.sources.*.clusterTrustBundle",
            "spec.volumes.*.projected.sources.*.podCertificate",
            "spec.schedulingGroup",
        ],
    ),
    honoured("resources: core/pod/resources.rs", Not("validation refuses it"), &["spec.resources.claims"]),
    honoured("volume/empty_dir.rs", FILES, &["spec.volumes.*.emptyDir.medium"]),
    honoured(
        "storage.rs",
        By("attacks::a_pod_that_writes_more_than_it_may_is_ended"),
        &["spec.volumes.*.emptyDir.sizeLimit"],
    ),
    honoured("volume/host_path.rs", FILES, &["spec.volumes.*.hostPath.path", "spec.volumes.*.hostPath.type"]),
    honoured("pod/steps.rs", FILES, &["spec.volumes.*.image.pullPolicy", "spec.volumes.*.image.reference"]),
    honoured(
        "volume/mounts.rs",
        FILES,
        &[
            "spec.containers.*.volumeMounts.*.mountPath",
            "spec.containers.*.volumeMounts.*.name",
            "spec.containers.*.volumeMounts.*.readOnly",
            "spec.containers.*.volumeMounts.*.recursiveReadOnly",
            "spec.containers.*.volumeMounts.*.subPath",
            "spec.containers.*.volumeMounts.*.subPathExpr",
        ],
    ),
    honoured(
        "runtime: tests/real/isolation.rs",
        By("inside::files::mounts_are_seen_on_the_other_side_where_the_pod_says_so"),
        &["spec.containers.*.volumeMounts.*.mountPropagation"],
    ),
    honoured(
        "pod/create.rs",
        RIGHTS,
        &[
            "spec.containers.*.securityContext.allowPrivilegeEscalation",
            "spec.containers.*.securityContext.capabilities.add",
            "spec.containers.*.securityContext.capabilities.drop",
            "spec.containers.*.securityContext.privileged",
            "spec.containers.*.securityContext.readOnlyRootFilesystem",
            "spec.containers.*.securityContext.runAsGroup",
            "spec.containers.*.securityContext.runAsUser",
            "spec.securityContext.runAsGroup",
            "spec.securityContext.runAsUser",
            "spec.securityContext.supplementalGroups",
            "spec.securityContext.supplementalGroupsPolicy",
        ],
    ),
    honoured("pod/create.rs", RIGHTS, &["spec.containers.*.securityContext.procMount"]),
    honoured(
        "pod/steps.rs",
        RIGHTS,
        &["spec.containers.*.securityContext.runAsNonRoot", "spec.securityContext.runAsNonRoot"],
    ),
    honoured(
        "runtime: spec/profile.rs",
        RIGHTS,
        &["spec.containers.*.securityContext.seccompProfile", "spec.securityContext.seccompProfile"],
    ),
    honoured(
        "admit/machine.rs",
        RIGHTS,
        &["spec.containers.*.securityContext.appArmorProfile", "spec.securityContext.appArmorProfile"],
    ),
    // Without SELinux there is nothing to label; with it, the runtime refuses.
    honoured(
        "runtime: spec/mod.rs",
        RIGHTS,
        &[
            "spec.containers.*.securityContext.seLinuxOptions",
            "spec.securityContext.seLinuxChangePolicy",
            "spec.securityContext.seLinuxOptions",
        ],
    ),
    // How the files of claims are given to the group; those of a pod's own volumes always are.
    honoured("volume/writer.rs", RIGHTS, &["spec.securityContext.fsGroup", "spec.securityContext.fsGroupChangePolicy"]),
    honoured(
        "pod/create.rs",
        OTHER_SYSTEM,
        &["spec.containers.*.securityContext.windowsOptions", "spec.securityContext.windowsOptions"],
    ),
    honoured("admit/machine.rs", SANDBOX, &["spec.securityContext.sysctls"]),
    honoured("pod/dns.rs", SANDBOX, &["spec.dnsConfig", "spec.dnsPolicy"]),
    honoured(
        "pod/create.rs",
        SANDBOX,
        &["spec.hostAliases", "spec.hostname", "spec.hostnameOverride", "spec.setHostnameAsFQDN", "spec.subdomain"],
    ),
    honoured(
        "cgroup.rs, pod/create.rs",
        SANDBOX,
        &["spec.containers.*.resources.limits", "spec.containers.*.resources.requests"],
    ),
    honoured("cgroup.rs", PORTS, &["spec.overhead", "spec.resources.limits", "spec.resources.requests"]),
    honoured("refs.rs", PORTS, &["spec.runtimeClassName"]),
    honoured("net: hostports.rs", PORTS, &["spec.containers.*.ports.*.hostIP", "spec.containers.*.ports.*.hostPort"]),
    honoured(
        "probe.rs, controllers: endpointslice.rs",
        PORTS,
        &[
            "spec.containers.*.ports.*.containerPort",
            "spec.containers.*.ports.*.name",
            "spec.containers.*.ports.*.protocol",
        ],
    ),
    honoured("resize.rs", By("podspec::a_running_pod_is_given_other_resources"), &["spec.containers.*.resizePolicy"]),
    honoured("users.rs", By("podspec::a_pod_with_users_of_its_own_is_among_them_in_all_it_does"), &["spec.hostUsers"]),
    honoured(
        "probe.rs, probe/http.rs, probe/grpc.rs",
        PROBES,
        &[
            "spec.containers.*.*Probe.exec",
            "spec.containers.*.*Probe.grpc",
            "spec.containers.*.*Probe.httpGet",
            "spec.containers.*.*Probe.tcpSocket",
            "spec.containers.*.*Probe.timeoutSeconds",
        ],
    ),
    honoured(
        "probe.rs, pod/worker.rs, pod/plan.rs",
        PROBE_TIMES,
        &[
            "spec.containers.*.*Probe.failureThreshold",
            "spec.containers.*.*Probe.initialDelaySeconds",
            "spec.containers.*.*Probe.periodSeconds",
            "spec.containers.*.*Probe.successThreshold",
            "spec.containers.*.*Probe.terminationGracePeriodSeconds",
        ],
    ),
    // A hook by `tcpSocket` fails when it runs, as it always did.
    honoured(
        "hook.rs",
        HOOKS,
        &[
            "spec.containers.*.lifecycle.postStart.exec",
            "spec.containers.*.lifecycle.postStart.httpGet",
            "spec.containers.*.lifecycle.postStart.sleep",
            "spec.containers.*.lifecycle.postStart.tcpSocket",
            "spec.containers.*.lifecycle.preStop.exec",
            "spec.containers.*.lifecycle.preStop.httpGet",
            "spec.containers.*.lifecycle.preStop.sleep",
            "spec.containers.*.lifecycle.preStop.tcpSocket",
        ],
    ),
    honoured("pod/create.rs", HOOKS, &["spec.containers.*.lifecycle.stopSignal"]),
    honoured("pod/images.rs", LIFE, &["spec.containers.*.image", "spec.containers.*.imagePullPolicy"]),
    honoured("pod/images.rs", By("security::a_private_registry_needs_its_pull_secret"), &["spec.imagePullSecrets"]),
    honoured(
        "pod/plan.rs, pod/plan/policy.rs, pod/plan/restart_all.rs",
        LIFE,
        &[
            "spec.activeDeadlineSeconds",
            "spec.containers.*.restartPolicy",
            "spec.containers.*.restartPolicyRules",
            "spec.restartPolicy",
            "spec.terminationGracePeriodSeconds",
        ],
    ),
    honoured("pod/status/conditions.rs", LIFE, &["spec.readinessGates"]),
    honoured("admit/machine.rs", LIFE, &["spec.os"]),
    honoured("scheduler: plugins/name.rs", LIFE, &["spec.nodeName"]),
    honoured(
        "pod/create.rs",
        STREAMS,
        &["spec.containers.*.stdin", "spec.containers.*.stdinOnce", "spec.containers.*.tty"],
    ),
    honoured(
        "pod/steps.rs",
        STREAMS,
        &["spec.containers.*.terminationMessagePath", "spec.containers.*.terminationMessagePolicy"],
    ),
    honoured(
        "pod/create.rs",
        NAMESPACES,
        &["spec.hostIPC", "spec.hostNetwork", "spec.hostPID", "spec.shareProcessNamespace"],
    ),
    honoured("pod/plan.rs", NAMESPACES, &["spec.containers.*.name"]),
    honoured(
        "pod/steps.rs",
        By("lifecycle::a_container_is_added_to_a_running_pod_and_sees_its_target"),
        &["spec.ephemeralContainers.*.targetContainerName"],
    ),
    honoured(
        "scheduler: plugins/affinity.rs, plugins/pods.rs",
        PLACEMENT,
        &[
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution",
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "spec.nodeSelector",
        ],
    ),
    honoured(
        "scheduler: plugins/taints.rs",
        PLACEMENT,
        &[
            "spec.tolerations.*.effect",
            "spec.tolerations.*.key",
            "spec.tolerations.*.operator",
            "spec.tolerations.*.value",
        ],
    ),
    honoured(
        "controllers: taintevict.rs",
        By("nodes::a_drain_asks_the_budget_and_a_taint_asks_nobody"),
        &["spec.tolerations.*.tolerationSeconds"],
    ),
    honoured("scheduler: plugins/spread.rs", PLACEMENT, &["spec.topologySpreadConstraints"]),
    honoured("scheduler: preempt.rs", PLACEMENT, &["spec.preemptionPolicy"]),
    honoured("scheduler: queue.rs", PLACEMENT, &["spec.priority"]),
    honoured("apiserver: admission/priority.rs", PLACEMENT, &["spec.priorityClassName"]),
    honoured("scheduler: run.rs", PLACEMENT, &["spec.schedulerName", "spec.schedulingGates"]),
];

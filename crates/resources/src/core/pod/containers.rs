//! Rules for containers: those that run together, those before them, and those added to look inside.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, EphemeralContainer, PodSpec, Volume,
};

use crate::absent::{list, text};
use crate::core::pod::{env, mounts, probes, resources, security};
use crate::faults::{each_invalid, not_supported_in_order, required_choice};
use crate::names;

const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// What the rules of a container look at beyond the container.
pub(crate) struct Surroundings<'a> {
    pub(crate) volumes: BTreeMap<&'a str, &'a Volume>,
    /// The names in the pod's `resourceClaims`.
    pub(crate) claims: BTreeSet<&'a str>,
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) restart_policy: &'a str,
    /// The pod shares the host's user namespace.
    pub(crate) host_users: bool,
    /// `linux`, `windows`, or "" where the pod does not say.
    pub(crate) os: &'a str,
}

/// Judges the containers that run together.
pub(crate) fn validate(spec: &PodSpec, around: &Surroundings<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    let containers = &spec.containers;
    if containers.is_empty() {
        return faults.required(path, "");
    }
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        validate_common(container, around, &path, faults);
        if containers[..index].iter().any(|earlier| earlier.name == container.name) {
            faults.duplicate(&path.child("name"), &container.name);
        }
        validate_hooks(container, around, &path, faults);
        validate_restart_policy(container, &path, faults);
    }
    validate_host_ports(containers.iter().enumerate(), path, faults);
}

/// Judges the containers that run before the others.
pub(crate) fn validate_init(spec: &PodSpec, around: &Surroundings<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (index, container) in list(&spec.init_containers).iter().enumerate() {
        let index_path = path.index(index);
        validate_common(container, around, &index_path, faults);
        validate_restart_policy(container, &index_path, faults);
        if !seen.insert(&container.name) && !container.name.is_empty() {
            faults.duplicate(&index_path.child("name"), &container.name);
        }
        // Init containers run one by one, so that only a container's own ports can collide.
        validate_host_ports([(index, container)], path, faults);
        if super::is_sidecar(container) {
            validate_hooks(container, around, &index_path, faults);
        } else {
            forbid_hooks(container, &index_path, faults);
        }
    }
}

/// Judges the containers added to a running pod.
pub(crate) fn validate_ephemeral(spec: &PodSpec, around: &Surroundings<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(list(&spec.init_containers)).map(|container| container.name.as_str()).collect();
    let mut seen = others.clone();
    for (index, ephemeral) in list(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(index);
        let container = as_container(ephemeral);
        validate_common(&container, around, &path, faults);
        validate_image_padding(&container, &path, faults);
        if !seen.insert(&ephemeral.name) {
            faults.duplicate(&path.child("name"), &ephemeral.name);
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            faults.not_found(&path.child("targetContainerName"), target);
        }
        forbid_in_ephemeral(&container, &path, faults);
    }
}

/// The part of an ephemeral container that is a container.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let ephemeral = ephemeral.clone();
    Container {
        args: ephemeral.args,
        command: ephemeral.command,
        env: ephemeral.env,
        env_from: ephemeral.env_from,
        image: ephemeral.image,
        image_pull_policy: ephemeral.image_pull_policy,
        lifecycle: ephemeral.lifecycle,
        liveness_probe: ephemeral.liveness_probe,
        name: ephemeral.name,
        ports: ephemeral.ports,
        readiness_probe: ephemeral.readiness_probe,
        resize_policy: ephemeral.resize_policy,
        resources: ephemeral.resources,
        restart_policy: ephemeral.restart_policy,
        restart_policy_rules: ephemeral.restart_policy_rules,
        security_context: ephemeral.security_context,
        startup_probe: ephemeral.startup_probe,
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path,
        termination_message_policy: ephemeral.termination_message_policy,
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices,
        volume_mounts: ephemeral.volume_mounts,
        working_dir: ephemeral.working_dir,
    }
}

fn validate_common(container: &Container, around: &Surroundings<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    let name_path = path.child("name");
    if container.name.is_empty() {
        faults.required(&name_path, "");
    } else {
        each_invalid(faults, &name_path, &container.name, names::dns_label(&container.name));
    }
    if text(&container.image).is_empty() {
        faults.required(&path.child("image"), "");
    }
    let message_policy = text(&container.termination_message_policy);
    let message_policies = ["File", "FallbackToLogsOnError"];
    required_choice(faults, &path.child("terminationMessagePolicy"), message_policy, &message_policies);
    validate_ports(list(&container.ports), &path.child("ports"), faults);
    env::validate(list(&container.env), &around.volumes, &path.child("env"), faults);
    env::validate_from(list(&container.env_from), &path.child("envFrom"), faults);
    mounts::validate(container, &around.volumes, &path.child("volumeMounts"), faults);
    mounts::validate_devices(container, &around.volumes, &path.child("volumeDevices"), faults);
    let pull_policy = text(&container.image_pull_policy);
    required_choice(faults, &path.child("imagePullPolicy"), pull_policy, &["Always", "IfNotPresent", "Never"]);
    if let Some(requirements) = &container.resources {
        resources::validate_container(requirements, &around.claims, &path.child("resources"), faults);
    }
    validate_resize(list(&container.resize_policy), around.restart_policy, &path.child("resizePolicy"), faults);
    if let Some(context) = &container.security_context {
        security::validate_container(context, around.host_users, &path.child("securityContext"), faults);
    }
}

/// A rule for pods only: templates have always been allowed to carry the blanks.
pub(crate) fn validate_image_padding(container: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    let image = text(&container.image);
    if image.trim() != image {
        faults.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path<'_>, faults: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        let name_faults = if name.is_empty() { Vec::new() } else { names::port_name(name) };
        if name_faults.is_empty() && !name.is_empty() && !seen.insert(name) {
            faults.duplicate(&path.child("name"), name);
        }
        each_invalid(faults, &path.child("name"), name, name_faults);
        if port.container_port == 0 {
            faults.required(&path.child("containerPort"), "");
        } else {
            let number = port.container_port;
            each_invalid(faults, &path.child("containerPort"), &number, names::port(number.into()));
        }
        let host_port = port.host_port.unwrap_or(0);
        if host_port != 0 {
            each_invalid(faults, &path.child("hostPort"), &host_port, names::port(host_port.into()));
        }
        required_choice(faults, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
    }
}

fn validate_host_ports<'a>(
    containers: impl IntoIterator<Item = (usize, &'a Container)>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers {
        let path = path.index(index);
        for (port_index, port) in list(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            let key = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
            if host_port != 0 && !seen.insert(key.clone()) {
                faults.duplicate(&path.child("ports").index(port_index).child("hostPort"), &key);
            }
        }
    }
}

fn validate_hooks(container: &Container, around: &Surroundings<'_>, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(lifecycle) = &container.lifecycle {
        probes::validate_lifecycle(lifecycle, around.grace_seconds, around.os, &path.child("lifecycle"), faults);
    }
    if let Some(probe) = &container.liveness_probe {
        probes::validate(probe, probes::Role::Liveness, around.grace_seconds, &path.child("livenessProbe"), faults);
    }
    if let Some(probe) = &container.readiness_probe {
        probes::validate(probe, probes::Role::Readiness, around.grace_seconds, &path.child("readinessProbe"), faults);
    }
    if let Some(probe) = &container.startup_probe {
        probes::validate(probe, probes::Role::Startup, around.grace_seconds, &path.child("startupProbe"), faults);
    }
}

fn forbid_hooks(container: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if set {
            faults.forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn forbid_in_ephemeral(container: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    let why = "cannot be set for an Ephemeral Container";
    let has_resources = container.resources.as_ref().is_some_and(|resources| *resources != Default::default());
    for (field, set) in [
        ("ports", !list(&container.ports).is_empty()),
        ("resources", has_resources),
        ("resizePolicy", !list(&container.resize_policy).is_empty()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", !list(&container.restart_policy_rules).is_empty()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if set {
            faults.forbidden(&path.child(field), why);
        }
    }
    let mounts_path = path.child("volumeMounts");
    for (index, mount) in list(&container.volume_mounts).iter().enumerate() {
        let path = mounts_path.index(index);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value).is_empty() {
                faults.forbidden(&path.child(field), why);
            }
        }
    }
}

fn validate_restart_policy(container: &Container, path: &Path<'_>, faults: &mut FieldErrors) {
    let rules = list(&container.restart_policy_rules);
    let rules_path = path.child("restartPolicyRules");
    let Some(policy) = &container.restart_policy else {
        if !rules.is_empty() {
            faults.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        return;
    };
    if !["Always", "OnFailure", "Never"].contains(&policy.as_str()) {
        not_supported_in_order(faults, &path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    if rules.len() > RESTART_RULES_MAX {
        faults.too_many(&rules_path, rules.len(), RESTART_RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        validate_restart_rule(rule, &rules_path.index(index), faults);
    }
}

fn validate_restart_rule(rule: &ContainerRestartRule, path: &Path<'_>, faults: &mut FieldErrors) {
    required_choice(faults, &path.child("action"), &rule.action, &["Restart", "RestartAllContainers"]);
    let Some(exit_codes) = &rule.exit_codes else {
        return faults.required(&path.child("exitCodes"), "must be specified");
    };
    let path = path.child("exitCodes");
    required_choice(faults, &path.child("operator"), &exit_codes.operator, &["In", "NotIn"]);
    let values = list(&exit_codes.values);
    if values.is_empty() {
        faults.required(&path.child("values"), "must specify at least one value");
    } else if values.len() > EXIT_CODES_MAX {
        faults.too_many(&path.child("values"), values.len(), EXIT_CODES_MAX);
    }
}

fn validate_resize(
    policies: &[ContainerResizePolicy],
    restart_policy: &str,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    for (index, policy) in policies.iter().enumerate() {
        if policies[..index].iter().any(|earlier| earlier.resource_name == policy.resource_name) {
            faults.duplicate(&path.index(index), &policy.resource_name);
        }
        required_choice(faults, path, &policy.resource_name, &["cpu", "memory"]);
        required_choice(faults, path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            faults.invalid(path, &policy.restart_policy, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

//! What a pod or a pod template means where it says nothing. Upstream: `pkg/apis/core/v1/defaults.go`.

use k8s_openapi::api::core::v1::{AzureDiskVolumeSource, EmptyDirVolumeSource, HostIP, PodIP, RBDVolumeSource};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, Pod, PodSpec, PodStatus,
    Probe, ProjectedVolumeSource, ResourceRequirements, Volume,
};

use crate::absent::{default_text, entries, list, list_mut, text};
use crate::core::pod::resources;
use crate::def::Rules;

/// Files of volumes are readable by everybody in the pod.
const FILE_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;
const GRACE_SECONDS: i64 = 30;

/// Fills a pod. Limits become requests here and not in templates, so that a template stays as it was written.
pub(crate) fn pod(pod: &mut Pod, _: &Rules<'_>) {
    let spec = pod.spec.get_or_insert_default();
    self::spec(spec);
    for container in spec.containers.iter_mut().chain(list_mut(&mut spec.init_containers)) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    resources::default_pod(spec);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(list_mut(&mut spec.init_containers)) {
            for port in list_mut(&mut container.ports) {
                if port.host_port.unwrap_or(0) == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
    if let Some(status) = &mut pod.status {
        addresses(status);
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    for (resource, limit) in entries(&resources.limits) {
        let requests = resources.requests.get_or_insert_default();
        requests.entry(resource.clone()).or_insert_with(|| limit.clone());
    }
}

/// The single address and the first of the several are one field under two names; the older name wins where they differ.
fn addresses(status: &mut PodStatus) {
    let single = text(&status.pod_ip).to_owned();
    let first = list(&status.pod_ips).first().map(|address| address.ip.clone()).unwrap_or_default();
    if !single.is_empty() && single != first {
        status.pod_ips = Some(vec![PodIP { ip: single }]);
    } else if single.is_empty() && !first.is_empty() {
        status.pod_ip = Some(first);
    }
    let host = text(&status.host_ip).to_owned();
    if !host.is_empty() && list(&status.host_ips).is_empty() {
        status.host_ips = Some(vec![HostIP { ip: host }]);
    }
}

/// Fills a pod's or a template's spec.
pub(crate) fn spec(spec: &mut PodSpec) {
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    default_text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    service_account(spec);
    resources::round_up(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        amounts(resources);
    }
    for volume in list_mut(&mut spec.volumes) {
        self::volume(volume);
    }
    for container in spec.containers.iter_mut().chain(list_mut(&mut spec.init_containers)) {
        self::container(container);
    }
    for container in list_mut(&mut spec.ephemeral_containers) {
        ephemeral_container(container);
    }
}

/// `serviceAccount` is the older name of `serviceAccountName`, and always says the same.
pub(crate) fn service_account(spec: &mut PodSpec) {
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account.clone_from(&spec.service_account_name);
}

fn amounts(resources: &mut ResourceRequirements) {
    resources::round_up(&mut resources.limits);
    resources::round_up(&mut resources.requests);
}

fn container(container: &mut Container) {
    let policy = pull_policy(text(&container.image));
    default_text(&mut container.image_pull_policy, policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    for port in list_mut(&mut container.ports) {
        default_text(&mut port.protocol, "TCP");
    }
    env(list_mut(&mut container.env));
    if let Some(resources) = &mut container.resources {
        amounts(resources);
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe.iter_mut().for_each(self::probe);
    }
    container.lifecycle.iter_mut().for_each(lifecycle);
}

/// An ephemeral container has the fields of a container under a type of its own.
fn ephemeral_container(container: &mut EphemeralContainer) {
    let policy = pull_policy(text(&container.image));
    default_text(&mut container.image_pull_policy, policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    for port in list_mut(&mut container.ports) {
        default_text(&mut port.protocol, "TCP");
    }
    env(list_mut(&mut container.env));
    if let Some(resources) = &mut container.resources {
        amounts(resources);
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        probe.iter_mut().for_each(self::probe);
    }
    container.lifecycle.iter_mut().for_each(lifecycle);
}

fn env(variables: &mut [EnvVar]) {
    for source in variables.iter_mut().filter_map(|variable| variable.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            default_text(&mut field.api_version, "v1");
        }
        if let Some(key) = &mut source.file_key_ref {
            key.optional.get_or_insert(false);
        }
    }
}

fn probe(probe: &mut Probe) {
    for (seconds, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if seconds.unwrap_or(0) == 0 {
            *seconds = Some(default);
        }
    }
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        hook.http_get.iter_mut().for_each(http_get);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    default_text(&mut action.path, "/");
    default_text(&mut action.scheme, "HTTP");
}

/// Always for the moving tag `latest`, said or implied; otherwise, or where the reference is malformed, what is there is good.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split(['@', ':']).next().unwrap_or(last);
    let malformed = name.is_empty() || name.contains(|character: char| character.is_ascii_uppercase());
    if malformed { "IfNotPresent" } else { api::decide::names::image_pull_policy(image) }
}

fn volume(volume: &mut Volume) {
    if !super::volumes::has_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        downward_files(list_mut(&mut source.items));
    }
    if let Some(source) = &mut volume.projected {
        projected(source);
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(text(&source.reference));
        default_text(&mut source.pull_policy, policy);
    }
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut()) {
        claim.spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        if let Some(resources) = &mut claim.spec.resources {
            resources::round_up(&mut resources.limits);
            resources::round_up(&mut resources.requests);
        }
    }
    network_volume(volume);
}

fn downward_files(files: &mut [DownwardAPIVolumeFile]) {
    for field in files.iter_mut().filter_map(|file| file.field_ref.as_mut()) {
        default_text(&mut field.api_version, "v1");
    }
}

fn projected(source: &mut ProjectedVolumeSource) {
    source.default_mode.get_or_insert(FILE_MODE);
    for source in list_mut(&mut source.sources) {
        if let Some(projection) = &mut source.downward_api {
            downward_files(list_mut(&mut projection.items));
        }
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
    }
}

fn network_volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(RBDVolumeSource { pool, user, keyring, .. }) = &mut volume.rbd {
        default_text(pool, "rbd");
        default_text(user, "admin");
        default_text(keyring, "/etc/ceph/keyring");
    }
    if let Some(AzureDiskVolumeSource { caching_mode, fs_type, read_only, kind, .. }) = &mut volume.azure_disk {
        caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
        kind.get_or_insert_with(|| "Shared".to_owned());
        fs_type.get_or_insert_with(|| "ext4".to_owned());
        read_only.get_or_insert(false);
    }
    if let Some(source) = &mut volume.scale_io {
        default_text(&mut source.storage_mode, "ThinProvisioned");
        default_text(&mut source.fs_type, "xfs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moving_tag_is_pulled_always() {
        let check = |image: &str, expected: &str| assert_eq!(pull_policy(image), expected, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("nginx:1", "IfNotPresent");
        check("registry:5000/nginx", "Always");
        check("registry:5000/nginx:1", "IfNotPresent");
        check("nginx@sha256:abc", "IfNotPresent");
        check("nginx:latest@sha256:abc", "Always");
        check("", "IfNotPresent");
        check("Nginx", "IfNotPresent");
        check("my-registry/api:v1.2.3", "IfNotPresent");
    }
}

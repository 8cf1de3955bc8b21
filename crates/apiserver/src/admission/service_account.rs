//! ServiceAccount: every pod runs as a service account that exists, and gets its token mounted.
//! Upstream: `plugin/pkg/admission/serviceaccount`.

use std::time::Duration;

use api::value::Value;
use client::Key;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};

use super::{Asked, mountable_secrets};
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::create::letters;

const DEFAULT: &str = "default";
/// Where the token is mounted in each container.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The ConfigMap with the authorities of the API server, which a controller puts into every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";
/// A little over an hour, which agents take as a sign to ask early for the next one. Upstream: `WarnOnlyBoundTokenExpirationPeriod`.
const EXPIRATION_SECONDS: i64 = 60 * 60 + 7;
/// Marks a pod that only shows what an agent runs by itself.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// How long a pod waits for the default account of a new namespace; upstream waits about as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits a moment for the account that a controller is just making in a new namespace.
pub(crate) async fn wait_for_default(call: &Call<'_>, pod: &Value) {
    let named = pod.str_at(&["spec", "serviceAccountName"]).unwrap_or(DEFAULT);
    if named != DEFAULT && !named.is_empty() {
        return;
    }
    let cache = &call.server.cache;
    let key = Key::new(api::meta::namespace(pod), DEFAULT);
    let namespace = Key::new("", api::meta::namespace(pod));
    let has = |prefix: &str, key: &Key| {
        cache.resource(prefix).is_some_and(|found| found.snapshot().objects.contains_key(key))
    };
    let arrival = cache.when(|| has("serviceaccounts", &key) || !has("namespaces", &namespace));
    // Without it the pod is refused by name.
    stdx::timeout(PATIENCE, arrival).await.unwrap_or_default();
}

/// Sets the account, its pull secrets and its token volume.
pub(crate) fn admit(asked: &Asked<'_>, pod: &mut Pod) -> Outcome<()> {
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
    let spec = pod.spec.get_or_insert_default();
    if mirror {
        return mirror_pod(asked, spec);
    }
    let account_name =
        spec.service_account_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT.to_owned());
    spec.service_account_name = Some(account_name.clone());
    spec.service_account = Some(account_name.clone());
    let key = Key::new(&asked.namespace, &account_name);
    let account = asked.object("serviceaccounts", &key).ok_or_else(|| {
        let (namespace, why) = (&asked.namespace, "not found");
        asked.forbidden(&format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} {why}"
        ))
    })?;
    let account: ServiceAccount = account.typed().map_err(Refusal::internal)?;
    mountable_secrets::admit(asked, spec, &account)?;
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets.clone_from(&account.image_pull_secrets);
    }
    if spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec);
    }
    Ok(())
}

fn mirror_pod(asked: &Asked<'_>, spec: &PodSpec) -> Outcome<()> {
    if spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return Err(asked.forbidden("a mirror pod may not reference service accounts"));
    }
    let tokens = spec.volumes.iter().flatten().flat_map(|volume| &volume.projected);
    let has_token = tokens
        .flat_map(|projected| projected.sources.iter().flatten())
        .any(|source| source.service_account_token.is_some());
    if has_token {
        return Err(asked.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn mount_token(spec: &mut PodSpec) {
    let present = spec
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name.starts_with(VOLUME_PREFIX) && volume.projected.is_some());
    let (volume_name, missing) = match present {
        Some(volume) => (volume.name.clone(), false),
        None => (format!("{VOLUME_PREFIX}{}", letters(b"bcdfghjklmnpqrstvwxz2456789", 5)), true),
    };
    let mut mounted = false;
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in containers {
        mounted |= mount(container, &volume_name);
    }
    if missing && mounted {
        spec.volumes.get_or_insert_default().push(token_volume(volume_name));
    }
}

/// Mounts the token unless something is mounted there already.
fn mount(container: &mut Container, volume_name: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume_name.to_owned(),
        read_only: Some(true),
        mount_path: MOUNT_PATH.to_owned(),
        ..VolumeMount::default()
    });
    true
}

/// Token, authorities and namespace, in upstream's order.
fn token_volume(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            expiration_seconds: Some(EXPIRATION_SECONDS),
            path: "token".to_owned(),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let authorities = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: ROOT_CA.to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: "metadata.namespace".to_owned() };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(field),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    let projected =
        ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(vec![token, authorities, namespace]) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_the_token_once_and_only_where_nothing_else_is() {
        let mut spec: PodSpec = serde_json::from_value(serde_json::json!({
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }))
        .expect("a spec");
        mount_token(&mut spec);
        mount_token(&mut spec);
        let volumes = spec.volumes.expect("a volume");
        assert_eq!(volumes.len(), 1);
        assert!(volumes[0].name.starts_with(VOLUME_PREFIX) && volumes[0].name.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(spec.containers[0].volume_mounts.as_ref().map(Vec::len), Some(1));
        assert_eq!(spec.containers[1].volume_mounts.as_ref().map(|mounts| mounts[0].name.as_str()), Some("own"));
        let json = serde_json::to_value(&volumes[0].projected).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]})
        );
    }
}

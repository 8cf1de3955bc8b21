//! Rules for volumes.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, HostPathVolumeSource, ImageVolumeSource, KeyToPath,
    ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::absent::{list, text};
use crate::core::pod::{env, network_volumes, paths, resources};
use crate::faults::{choice, each_invalid, required_choice};
use crate::names;

/// Fields of the pod that a file may show.
const FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

const MODE_FAULT: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Judges the volumes, and gives the good ones by name. `pod_name` is "" in templates.
pub(crate) fn validate<'a>(
    volumes: &'a [Volume],
    pod_name: &str,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) -> BTreeMap<&'a str, &'a Volume> {
    let created: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| volume.ephemeral.is_some() && !pod_name.is_empty())
        .map(|volume| format!("{pod_name}-{}", volume.name))
        .collect();
    let mut good = BTreeMap::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name_path = path.child("name");
        let before = faults.len();
        validate_source(volume, pod_name, &path, faults);
        if volume.name.is_empty() {
            faults.required(&name_path, "");
        } else {
            each_invalid(faults, &name_path, &volume.name, names::dns_label(&volume.name));
        }
        if good.contains_key(volume.name.as_str()) {
            faults.duplicate(&name_path, &volume.name);
        }
        if faults.len() == before {
            good.insert(volume.name.as_str(), volume);
        }
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|claim| created.contains(&claim.claim_name))
        {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            faults.invalid(&path.child("persistentVolumeClaim").child("claimName"), &claim.claim_name, why);
        }
    }
    good
}

/// Whether the volume says where its content comes from.
pub(crate) fn has_source(volume: &Volume) -> bool {
    !sources(volume).is_empty()
}

/// The names under which a second source is reported, in the order in which upstream looks. Two are misspelt there.
fn sources(volume: &Volume) -> Vec<&'static str> {
    [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwarAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

fn validate_source(volume: &Volume, pod_name: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    let sources = sources(volume);
    for name in sources.iter().skip(1) {
        faults.forbidden(&path.child(name), "may not specify more than 1 volume type");
    }
    match sources.first().copied() {
        None => faults.required(path, "must specify a volume type"),
        Some("emptyDir") => {
            let limit = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()).map(resources::amount);
            if limit.is_some_and(|limit| limit.sign() < 0) {
                let why = "SizeLimit field must be a valid resource quantity";
                faults.forbidden(&path.child("emptyDir").child("sizeLimit"), why);
            }
        }
        Some("persistentVolumeClaim") => {
            let claim = volume.persistent_volume_claim.as_ref();
            if claim.is_some_and(|claim| claim.claim_name.is_empty()) {
                faults.required(&path.child("persistentVolumeClaim").child("claimName"), "");
            }
        }
        Some(_) => {
            validate_file_source(volume, path, faults);
            network_volumes::validate(volume, pod_name, path, faults);
        }
    }
}

fn validate_file_source(volume: &Volume, path: &Path<'_>, faults: &mut FieldErrors) {
    let Volume { host_path, secret, config_map, downward_api, projected, image, .. } = volume;
    match sources(volume).first().copied() {
        Some("hostPath") => {
            host_path.iter().for_each(|source| validate_host_path(source, &path.child("hostPath"), faults))
        }
        Some("secret") => secret.iter().for_each(|source| validate_secret(source, &path.child("secret"), faults)),
        Some("configMap") => {
            config_map.iter().for_each(|source| validate_config_map(source, &path.child("configMap"), faults));
        }
        Some("downwarAPI") => {
            let path = path.child("downwardAPI");
            if let Some(source) = downward_api {
                validate_mode(source.default_mode, &path.child("defaultMode"), faults);
                list(&source.items).iter().for_each(|file| validate_downward_file(file, &path, faults));
            }
        }
        Some("projected") => {
            projected.iter().for_each(|source| validate_projected(source, &path.child("projected"), faults));
        }
        Some("image") => image.iter().for_each(|source| validate_image(source, &path.child("image"), faults)),
        _ => {}
    }
}

fn validate_mode(mode: Option<i32>, path: &Path<'_>, faults: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        faults.invalid(path, &mode, MODE_FAULT);
    }
}

fn validate_host_path(source: &HostPathVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if source.path.is_empty() {
        return faults.required(&path.child("path"), "");
    }
    paths::validate_no_backsteps(&source.path, &path.child("path"), faults);
    if let Some(type_) = &source.type_ {
        choice(faults, &path.child("type"), type_, HOST_PATH_TYPES);
    }
}

fn validate_secret(source: &SecretVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if text(&source.secret_name).is_empty() {
        faults.required(&path.child("secretName"), "");
    }
    validate_mode(source.default_mode, &path.child("defaultMode"), faults);
    validate_items(list(&source.items), &path.child("items"), faults);
}

fn validate_config_map(source: &ConfigMapVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if source.name.is_empty() {
        faults.required(&path.child("name"), "");
    }
    validate_mode(source.default_mode, &path.child("defaultMode"), faults);
    validate_items(list(&source.items), &path.child("items"), faults);
}

fn validate_image(source: &ImageVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if text(&source.reference).is_empty() {
        faults.required(&path.child("reference"), "");
    }
    let policy = text(&source.pull_policy);
    required_choice(faults, &path.child("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
}

fn validate_items(items: &[KeyToPath], path: &Path<'_>, faults: &mut FieldErrors) {
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            faults.required(&path.child("key"), "");
        }
        if item.path.is_empty() {
            faults.required(&path.child("path"), "");
        }
        paths::validate_local(&item.path, &path.child("path"), faults);
        validate_mode(item.mode, &path.child("mode"), faults);
    }
}

fn validate_downward_file(file: &DownwardAPIVolumeFile, path: &Path<'_>, faults: &mut FieldErrors) {
    if file.path.is_empty() {
        faults.required(&path.child("path"), "");
    }
    paths::validate_local(&file.path, &path.child("path"), faults);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::validate_field(field, FIELDS, &path.child("fieldRef"), faults);
            if resource.is_some() {
                faults.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => {
            env::validate_resource(resource, env::Shown::File, &path.child("resourceFieldRef"), faults);
        }
        (None, None) => faults.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    validate_mode(file.mode, &path.child("mode"), faults);
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), faults);
    let sources = path.child("sources");
    let mut files = BTreeSet::new();
    for (index, projection) in list(&source.sources).iter().enumerate() {
        let source_path = sources.index(index);
        validate_projection(projection, &source_path, path, faults);
        for (file, shown) in projected_files(projection) {
            if !file.is_empty() && !files.insert(file) {
                faults.invalid(path, shown, "conflicting duplicate paths");
            }
        }
        let types = [
            projection.secret.is_some(),
            projection.config_map.is_some(),
            projection.downward_api.is_some(),
            projection.service_account_token.is_some(),
            projection.cluster_trust_bundle.is_some(),
            projection.pod_certificate.is_some(),
        ];
        if types.iter().filter(|set| **set).count() > 1 {
            faults.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

/// The files that a projection writes, each with the value to show where two collide.
fn projected_files(projection: &VolumeProjection) -> Vec<(&str, &str)> {
    let mut files = Vec::new();
    if let Some(secret) = &projection.secret {
        files.extend(list(&secret.items).iter().map(|item| (item.path.as_str(), secret.name.as_str())));
    }
    if let Some(config_map) = &projection.config_map {
        files.extend(list(&config_map.items).iter().map(|item| (item.path.as_str(), config_map.name.as_str())));
    }
    if let Some(downward) = &projection.downward_api {
        files.extend(list(&downward.items).iter().map(|file| (file.path.as_str(), file.path.as_str())));
    }
    files
}

fn validate_projection(
    projection: &VolumeProjection,
    path: &Path<'_>,
    volume_path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    if let Some(secret) = &projection.secret {
        let path = path.child("secret");
        if secret.name.is_empty() {
            faults.required(&path.child("name"), "");
        }
        validate_items(list(&secret.items), &path.child("items"), faults);
    }
    if let Some(config_map) = &projection.config_map {
        let path = path.child("configMap");
        if config_map.name.is_empty() {
            faults.required(&path.child("name"), "");
        }
        validate_items(list(&config_map.items), &path.child("items"), faults);
    }
    if let Some(downward) = &projection.downward_api {
        let path = path.child("downwardAPI");
        list(&downward.items).iter().for_each(|file| validate_downward_file(file, &path, faults));
    }
    if let Some(token) = &projection.service_account_token {
        validate_token(token, &path.child("serviceAccountToken"), volume_path, faults);
    }
}

fn validate_token(
    token: &ServiceAccountTokenProjection,
    path: &Path<'_>,
    volume_path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let seconds = token.expiration_seconds.unwrap_or(0);
    if seconds < 10 * 60 {
        let why = "may not specify a duration less than 10 minutes";
        faults.invalid(&path.child("expirationSeconds"), &seconds, why);
    }
    if seconds > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        faults.invalid(&path.child("expirationSeconds"), &seconds, why);
    }
    if token.path.is_empty() {
        faults.required(&volume_path.child("path"), "");
    } else {
        paths::validate_local(&token.path, &volume_path.child("path"), faults);
    }
}

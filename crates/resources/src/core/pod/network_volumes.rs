//! Rules for volumes that live on a network or in a cloud. None is mounted here; objects of other clusters name them.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, CSIVolumeSource, EphemeralVolumeSource, FCVolumeSource, FlexVolumeSource,
    FlockerVolumeSource, ISCSIVolumeSource, QuobyteVolumeSource, ScaleIOVolumeSource, StorageOSVolumeSource, Volume,
};

use crate::absent::{entries, list, text};
use crate::core::pod::paths;
use crate::faults::{choice, each_invalid};
use crate::names;

/// Judges the volume's source, the only one that is set.
pub(crate) fn validate(volume: &Volume, pod_name: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    validate_required(volume, path, faults);
    if let Some(source) = &volume.git_repo {
        paths::validate_descending(text(&source.directory), &path.child("gitRepo").child("directory"), faults);
    }
    if let Some(source) = &volume.nfs
        && !source.path.starts_with('/')
    {
        faults.invalid(&path.child("nfs").child("path"), &source.path, "must be an absolute path");
    }
    for (field, partition) in [
        ("persistentDisk", volume.gce_persistent_disk.as_ref().and_then(|source| source.partition)),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.as_ref().and_then(|source| source.partition)),
    ] {
        if let Some(partition) = partition.filter(|partition| !(0..=255).contains(partition)) {
            faults.invalid(&path.child(field).child("partition"), &partition, names::out_of_range(1, 255));
        }
    }
    let Volume { iscsi, flocker, quobyte, fc, flex_volume, azure_disk, storageos, scale_io, csi, ephemeral, .. } =
        volume;
    iscsi.iter().for_each(|source| validate_iscsi(source, &volume.name, path, faults));
    flocker.iter().for_each(|source| validate_flocker(source, &path.child("flocker"), faults));
    quobyte.iter().for_each(|source| validate_quobyte(source, &path.child("quobyte"), faults));
    fc.iter().for_each(|source| validate_fibre_channel(source, &path.child("fc"), faults));
    flex_volume.iter().for_each(|source| validate_flex(source, &path.child("flexVolume"), faults));
    azure_disk.iter().for_each(|source| validate_azure_disk(source, &path.child("azureDisk"), faults));
    storageos.iter().for_each(|source| validate_storage_os(source, &path.child("storageos"), faults));
    scale_io.iter().for_each(|source| validate_scale_io(source, &path.child("scaleIO"), faults));
    csi.iter().for_each(|source| validate_csi(source, &path.child("csi"), faults));
    ephemeral.iter().for_each(|source| validate_claim_template(source, &volume.name, pod_name, path, faults));
}

/// Fields that may not be empty.
fn validate_required(volume: &Volume, path: &Path<'_>, faults: &mut FieldErrors) {
    let mut required: Vec<(&str, &str, bool)> = Vec::new();
    if let Some(source) = &volume.git_repo {
        required.push(("gitRepo", "repository", source.repository.is_empty()));
    }
    if let Some(source) = &volume.gce_persistent_disk {
        required.push(("persistentDisk", "pdName", source.pd_name.is_empty()));
    }
    if let Some(source) = &volume.aws_elastic_block_store {
        required.push(("awsElasticBlockStore", "volumeID", source.volume_id.is_empty()));
    }
    if let Some(source) = &volume.nfs {
        required.extend([("nfs", "server", source.server.is_empty()), ("nfs", "path", source.path.is_empty())]);
    }
    if let Some(source) = &volume.glusterfs {
        required.push(("glusterfs", "endpoints", source.endpoints.is_empty()));
        required.push(("glusterfs", "path", source.path.is_empty()));
    }
    if let Some(source) = &volume.rbd {
        required.push(("rbd", "monitors", source.monitors.is_empty()));
        required.push(("rbd", "image", source.image.is_empty()));
    }
    if let Some(source) = &volume.cinder {
        required.push(("cinder", "volumeID", source.volume_id.is_empty()));
        if let Some(secret) = &source.secret_ref {
            required.push(("cinder", "secretRef.name", secret.name.is_empty()));
        }
    }
    if let Some(source) = &volume.cephfs {
        required.push(("cephfs", "monitors", source.monitors.is_empty()));
    }
    if let Some(source) = &volume.azure_file {
        required.push(("azureFile", "secretName", source.secret_name.is_empty()));
        required.push(("azureFile", "shareName", source.share_name.is_empty()));
    }
    if let Some(source) = &volume.vsphere_volume {
        required.push(("vsphereVolume", "volumePath", source.volume_path.is_empty()));
    }
    if let Some(source) = &volume.photon_persistent_disk {
        required.push(("photonPersistentDisk", "pdID", source.pd_id.is_empty()));
    }
    if let Some(source) = &volume.portworx_volume {
        required.push(("portworxVolume", "volumeID", source.volume_id.is_empty()));
    }
    for (source, field, _) in required.into_iter().filter(|(_, _, empty)| *empty) {
        faults.required(&path.child(source).child(field), "");
    }
}

fn validate_iscsi(source: &ISCSIVolumeSource, volume_name: &str, volume_path: &Path<'_>, faults: &mut FieldErrors) {
    let path = volume_path.child("iscsi");
    if source.target_portal.is_empty() {
        faults.required(&path.child("targetPortal"), "");
    }
    if source.iqn.is_empty() {
        faults.required(&path.child("iqn"), "");
    } else {
        validate_initiator(&source.iqn, &path.child("iqn"), faults);
    }
    if !(0..=255).contains(&source.lun) {
        faults.invalid(&path.child("lun"), &source.lun, names::out_of_range(0, 255));
    }
    let authenticates = source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true);
    if authenticates && source.secret_ref.is_none() {
        faults.required(&path.child("secretRef"), "");
    }
    if let Some(initiator) = &source.initiator_name {
        validate_initiator(initiator, &path.child("initiatorname"), faults);
        if volume_name.len() + 1 + source.target_portal.len() > 64 {
            let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            faults.invalid(&volume_path.child("name"), volume_name, why);
        }
    }
}

fn validate_initiator(name: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    let alphanumeric =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.get(4..).is_some_and(|rest| alphanumeric(rest, 16)),
        Some("naa") => name.get(4..).is_some_and(|rest| alphanumeric(rest, 32)),
        _ => return faults.invalid(path, name, "must be valid format starting with iqn, eui, or naa"),
    };
    if !good {
        faults.invalid(path, name, "must be valid format");
    }
}

/// `iqn.YYYY-MM.authority:anything`
fn is_iqn(name: &str) -> bool {
    let Some((authority, unique)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let date = authority.as_bytes();
    date.len() > 8
        && date[..4].iter().chain(&date[5..7]).all(u8::is_ascii_digit)
        && (date[4], date[7]) == (b'-', b'.')
        && date[8..].iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
        && !unique.is_empty()
        && !unique.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n'])
}

fn validate_flocker(source: &FlockerVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    let (name, uuid) = (text(&source.dataset_name), text(&source.dataset_uuid));
    if name.is_empty() && uuid.is_empty() {
        faults.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        faults.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        faults.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn validate_quobyte(source: &QuobyteVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    if source.registry.is_empty() {
        faults.required(&path.child("registry"), why);
    } else if text(&source.tenant).len() >= 65 {
        faults.required(&path.child("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in source.registry.split(',') {
            let colons = pair.rsplit_once(':').map(|(host, _)| host.starts_with('[') || !host.contains(':'));
            if colons != Some(true) {
                faults.invalid(&path.child("registry"), &source.registry, why);
            }
        }
    }
    if source.volume.is_empty() {
        faults.required(&path.child("volume"), "");
    }
}

fn validate_fibre_channel(source: &FCVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    let (targets, ids) = (list(&source.target_wwns), list(&source.wwids));
    let target_path = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        faults.required(&target_path, "must specify either targetWWNs or wwids, but not both");
    }
    if targets.is_empty() {
        return;
    }
    if !ids.is_empty() {
        faults.invalid(&target_path, targets, "targetWWNs and wwids can not be specified simultaneously");
    }
    match source.lun {
        None => faults.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if !(0..=255).contains(&lun) => {
            faults.invalid(&path.child("lun"), &lun, names::out_of_range(0, 255));
        }
        Some(_) => {}
    }
}

fn validate_flex(source: &FlexVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if source.driver.is_empty() {
        faults.required(&path.child("driver"), "");
    }
    for (key, _) in entries(&source.options) {
        let domain = format!(".{}", key.split('/').next().unwrap_or("").to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            faults.invalid(&path.child("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn validate_azure_disk(source: &AzureDiskVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    if source.disk_name.is_empty() {
        faults.required(&path.child("diskName"), "");
    }
    if source.disk_uri.is_empty() {
        faults.required(&path.child("diskURI"), "");
    }
    if let Some(mode) = &source.caching_mode {
        choice(faults, &path.child("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    let Some(kind) = source.kind.as_deref() else { return };
    choice(faults, &path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let (prefix, shape) = match kind {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if !source.disk_uri.starts_with(prefix) {
        faults.not_supported(&path.child("diskURI"), &source.disk_uri, &[shape]);
    }
}

fn validate_storage_os(source: &StorageOSVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    let name = text(&source.volume_name);
    if name.is_empty() {
        faults.required(&path.child("volumeName"), "");
    } else {
        each_invalid(faults, &path.child("volumeName"), name, names::dns_label(name));
    }
    let namespace = text(&source.volume_namespace);
    if !namespace.is_empty() {
        each_invalid(faults, &path.child("volumeNamespace"), namespace, names::dns_label(namespace));
    }
    if source.secret_ref.as_ref().is_some_and(|secret| secret.name.is_empty()) {
        faults.required(&path.child("secretRef").child("name"), "");
    }
}

fn validate_scale_io(source: &ScaleIOVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, value) in
        [("gateway", source.gateway.as_str()), ("system", &source.system), ("volumeName", text(&source.volume_name))]
    {
        if value.is_empty() {
            faults.required(&path.child(field), "");
        }
    }
}

fn validate_csi(source: &CSIVolumeSource, path: &Path<'_>, faults: &mut FieldErrors) {
    let driver_path = path.child("driver");
    if source.driver.is_empty() {
        faults.required(&driver_path, "");
    }
    if source.driver.len() > 63 {
        faults.too_long(&driver_path, 63);
    }
    let lowered = source.driver.to_lowercase();
    each_invalid(faults, &driver_path, &source.driver, names::dns_subdomain(&lowered));
    if let Some(secret) = &source.node_publish_secret_ref {
        let secret_path = path.child("nodePublishSecretRef");
        let name_path = secret_path.child("name");
        if secret.name.is_empty() {
            faults.required(&name_path, "");
        } else {
            each_invalid(faults, &name_path, &secret.name, names::dns_subdomain(&secret.name));
        }
    }
}

fn validate_claim_template(
    source: &EphemeralVolumeSource,
    volume_name: &str,
    pod_name: &str,
    volume_path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let path = volume_path.child("ephemeral");
    let Some(template) = &source.volume_claim_template else {
        return faults.required(&path.child("volumeClaimTemplate"), "");
    };
    let path = path.child("volumeClaimTemplate");
    let spec_path = path.child("spec");
    let modes = list(&template.spec.access_modes);
    if modes.is_empty() {
        faults.required(&spec_path.child("accessModes"), "at least 1 access mode is required");
    }
    for mode in modes {
        let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
        choice(faults, &spec_path.child("accessModes"), mode, &known);
    }
    let storage =
        template.spec.resources.as_ref().and_then(|resources| crate::absent::entry(&resources.requests, "storage"));
    match storage.map(super::resources::amount) {
        None => faults.required(&spec_path.child("resources").key("storage"), ""),
        Some(amount) if amount.sign() <= 0 => {
            let path = spec_path.child("resources");
            faults.invalid(&path.key("storage"), &amount.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
    if !pod_name.is_empty() && !volume_name.is_empty() {
        let claim = format!("{pod_name}-{volume_name}");
        for fault in names::dns_subdomain(&claim) {
            faults.invalid(&volume_path.child("name"), volume_name, format!("PVC name {claim:?}: {fault}"));
        }
    }
}

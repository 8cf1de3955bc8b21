//! Volumes: what each kind holds, and how it is put in place so that readers never see half of a change.
//!
//! Layout as upstream's: `pods/<uid>/volumes/kubernetes.io~<kind>/<name>`; files of ConfigMaps, Secrets and the like lie in a
//! folder of their own, reached through the link `..data`, which is replaced as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use cri::Mount;
use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection};

use crate::pod::create::propagation;
use crate::pod::env::{Sources, field_value, resource_value};
use crate::pod::{containers, namespace, spec, uid};
use crate::refs::Found;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Below the volume's folder.
    pub path: String,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// A volume cannot be put in place: upstream's text for the event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {path}")]
    Write {
        volume: String,
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Tokens of a pod's service account, by audience and lifetime in seconds.
pub type Tokens = BTreeMap<(String, i64), String>;

/// The tokens that a pod's volumes want; the audience is empty for the API server's own.
pub fn tokens_wanted(pod: &Pod) -> Vec<(String, i64)> {
    let spec = spec(pod);
    let sources = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = sources.flat_map(|projected| projected.sources.iter().flatten());
    let mut wanted: Vec<(String, i64)> =
        sources.filter_map(|source| source.service_account_token.as_ref()).map(token_key).collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

fn token_key(source: &ServiceAccountTokenProjection) -> (String, i64) {
    (source.audience.clone().unwrap_or_default(), source.expiration_seconds.unwrap_or(3600))
}

/// Where pods' files lie.
#[derive(Clone, Debug)]
pub struct Roots {
    /// On disk: what containers write.
    pub disk: PathBuf,
    /// In memory: what the agent writes, Secrets among it, and what a reboot may forget.
    pub memory: PathBuf,
}

/// The folder of everything a pod has below a root.
pub fn pod_folder(root: &Path, pod: &Pod) -> PathBuf {
    root.join("pods").join(uid(pod))
}

/// Where a volume lies.
pub fn folder(roots: &Roots, pod: &Pod, volume: &Volume) -> PathBuf {
    let kind = match () {
        () if volume.empty_dir.is_some() => "empty-dir",
        () if volume.config_map.is_some() => "configmap",
        () if volume.secret.is_some() => "secret",
        () if volume.downward_api.is_some() => "downward-api",
        () => "projected",
    };
    let root = if volume.empty_dir.is_some() { &roots.disk } else { &roots.memory };
    pod_folder(root, pod).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

/// Puts every volume of a pod in place. Repeated, it changes only what is different.
pub fn prepare(roots: &Roots, pod: &Pod, found: &Found, sources: &Sources, tokens: &Tokens) -> Result<(), VolumeError> {
    for volume in spec(pod).volumes.iter().flatten() {
        let folder = folder(roots, pod, volume);
        let failed =
            |source| VolumeError::Write { volume: volume.name.clone(), path: folder.display().to_string(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        if volume.empty_dir.is_some() {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).map_err(failed)?;
            continue;
        }
        let files = files(pod, volume, found, sources, tokens)
            .map_err(|why| VolumeError::SetUp { volume: volume.name.clone(), why })?;
        write(&folder, &files).map_err(failed)?;
    }
    Ok(())
}

/// The files of a volume. Pure.
pub fn files(
    pod: &Pod,
    volume: &Volume,
    found: &Found,
    sources: &Sources,
    tokens: &Tokens,
) -> Result<Vec<File>, String> {
    let mode = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    if let Some(source) = &volume.config_map {
        return config_map(
            &source.name,
            source.items.as_deref(),
            source.optional == Some(true),
            mode(source.default_mode),
            found,
        );
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        return secret(
            &name,
            source.items.as_deref(),
            source.optional == Some(true),
            mode(source.default_mode),
            found,
            pod,
        );
    }
    if let Some(source) = &volume.downward_api {
        return downward(pod, source.items.as_deref().unwrap_or_default(), mode(source.default_mode), sources);
    }
    let mut files = Vec::new();
    if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            files.extend(projection(pod, source, mode(projected.default_mode), found, sources, tokens)?);
        }
    }
    Ok(files)
}

fn projection(
    pod: &Pod,
    source: &VolumeProjection,
    mode: u32,
    found: &Found,
    sources: &Sources,
    tokens: &Tokens,
) -> Result<Vec<File>, String> {
    if let Some(source) = &source.config_map {
        return config_map(&source.name, source.items.as_deref(), source.optional == Some(true), mode, found);
    }
    if let Some(source) = &source.secret {
        return secret(&source.name, source.items.as_deref(), source.optional == Some(true), mode, found, pod);
    }
    if let Some(source) = &source.downward_api {
        return downward(pod, source.items.as_deref().unwrap_or_default(), mode, sources);
    }
    if let Some(source) = &source.service_account_token {
        let token = tokens.get(&token_key(source)).ok_or("no service account token was fetched")?;
        // Only the pod's users read it. Upstream: 0600, or 0644 when containers run as different users.
        return Ok(vec![File { path: source.path.clone(), bytes: token.clone().into_bytes(), mode: token_mode(pod) }]);
    }
    Err("a projected source of an unknown kind".into())
}

/// Root alone when every container runs as root, else everybody in the pod.
fn token_mode(pod: &Pod) -> u32 {
    let spec = spec(pod);
    let of_pod = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let root_only = containers(&spec).all(|(_, container)| {
        let own = container.security_context.as_ref().and_then(|security| security.run_as_user);
        own.or(of_pod) == Some(0)
    });
    if root_only { 0o600 } else { 0o644 }
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    found: &Found,
) -> Result<Vec<File>, String> {
    let Some(map) = found.config_maps.get(name) else {
        return if optional { Ok(Vec::new()) } else { Err(format!("configmap {name:?} not found")) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    let data: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    picked(data, items, optional, mode, || "configmap references non-existent config key".into())
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    found: &Found,
    pod: &Pod,
) -> Result<Vec<File>, String> {
    let Some(secret) = found.secrets.get(name) else {
        return if optional { Ok(Vec::new()) } else { Err(format!("secret {name:?} not found")) };
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    let namespace = namespace(pod).to_owned();
    picked(data, items, optional, mode, || format!("references non-existent secret key in {namespace}/{name}"))
}

fn picked(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
    missing: impl Fn() -> String,
) -> Result<Vec<File>, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(path, bytes)| File { path, bytes, mode }).collect());
    };
    let mut files = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
                files.push(File { path: item.path.clone(), bytes: bytes.clone(), mode });
            }
            None if optional => {}
            None => return Err(format!("{}: {}", missing(), item.key)),
        }
    }
    Ok(files)
}

fn downward(
    pod: &Pod,
    items: &[k8s_openapi::api::core::v1::DownwardAPIVolumeFile],
    mode: u32,
    sources: &Sources,
) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, field, sources),
            (None, Some(field)) => resource_value(pod, &Container::default(), field, sources),
            (None, None) => continue,
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        files.push(File {
            path: item.path.clone(),
            bytes: text.map_err(|error| error.to_string())?.into_bytes(),
            mode,
        });
    }
    Ok(files)
}

/// Makes `folder` show exactly `files`: a new data folder is filled, and then the link moves to it.
fn write(folder: &Path, files: &[File]) -> io::Result<()> {
    let data = folder.join("..data");
    if same(&data, files) {
        return Ok(());
    }
    let fresh = format!("..{:016x}", stdx::random_u64());
    let target = folder.join(&fresh);
    fs::create_dir(&target)?;
    for file in files {
        let path = target.join(inside(&file.path)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let old = fs::read_link(&data).ok();
    let moving = folder.join("..data_tmp");
    drop(fs::remove_file(&moving));
    symlink(&fresh, &moving)?;
    fs::rename(&moving, &data)?;
    link_names(folder, files)?;
    match old {
        Some(old) => fs::remove_dir_all(folder.join(old)),
        None => Ok(()),
    }
}

/// A path that stays below its folder; validation refuses others, and this is the second look.
fn inside(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if plain { Ok(path) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "path leaves its volume")) }
}

/// Links every first path element through `..data`, and removes links of files that are no more.
fn link_names(folder: &Path, files: &[File]) -> io::Result<()> {
    let mut names: Vec<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    Ok(())
}

fn same(data: &Path, files: &[File]) -> bool {
    let mut count = 0;
    let mut folders = vec![data.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { return false };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    let equal = |file: &File| {
        let path = data.join(&file.path);
        let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode == file.mode) && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    count == files.len() && files.iter().all(equal)
}

/// The volumes of a container as mounts.
pub fn mounts(roots: &Roots, pod: &Pod, container: &Container) -> Vec<Mount> {
    let spec = spec(pod);
    let volume = |name: &str| spec.volumes.iter().flatten().find(|volume| volume.name == name);
    let mount = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let volume = volume(&mount.name)?;
        // What is written from outside is not to be written from inside.
        let fixed = volume.empty_dir.is_none();
        Some(Mount {
            container_path: mount.mount_path.clone(),
            host_path: folder(roots, pod, volume).display().to_string(),
            readonly: fixed || mount.read_only == Some(true),
            propagation: propagation(mount.mount_propagation.as_deref()),
            ..Mount::default()
        })
    };
    container.volume_mounts.iter().flatten().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_str(
            r#"{"metadata":{"name":"p","namespace":"n","uid":"u","labels":{"a":"1"}},
                "spec":{"containers":[{"name":"c","volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"e","mountPath":"/e"}]}],
                "volumes":[{"name":"v","configMap":{"name":"m","defaultMode":420}},{"name":"e","emptyDir":{}},
                {"name":"t","projected":{"defaultMode":420,"sources":[{"serviceAccountToken":{"path":"token","expirationSeconds":3607}},
                {"downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}}]}}]}}"#,
        )
        .unwrap()
    }

    fn found(json: &str) -> Found {
        Found { config_maps: [("m".to_owned(), serde_json::from_str(json).unwrap())].into(), ..Found::default() }
    }

    #[test]
    fn a_change_is_seen_as_a_whole_and_leaves_nothing_behind() {
        let root = std::env::temp_dir().join(format!("isopod-node-volume-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        let pod = pod();
        let tokens: Tokens = [((String::new(), 3607), "secret".to_owned())].into();
        let put = |json: &str| {
            prepare(
                &Roots { disk: root.join("disk"), memory: root.clone() },
                &pod,
                &found(json),
                &Sources::default(),
                &tokens,
            )
            .unwrap()
        };
        put(r#"{"data":{"a":"1","b":"2"}}"#);
        let folder = root.join("pods/u/volumes/kubernetes.io~configmap/v");
        let first = fs::read_link(folder.join("..data")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1");
        put(r#"{"data":{"a":"1","b":"2"}}"#);
        assert_eq!(fs::read_link(folder.join("..data")).unwrap(), first, "equal content is not written again");
        put(r#"{"data":{"a":"3"}}"#);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(folder.join("b")).is_err());
        assert!(!folder.join(first).exists());
        let token = root.join("pods/u/volumes/kubernetes.io~projected/t");
        assert_eq!(fs::read_to_string(token.join("token")).unwrap(), "secret");
        assert_eq!(fs::read_to_string(token.join("labels")).unwrap(), "a=\"1\"");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_missing_map_is_told_by_name() {
        let root = std::env::temp_dir().join(format!("isopod-node-missing-{}", std::process::id()));
        let error = prepare(
            &Roots { disk: root.join("disk"), memory: root.clone() },
            &pod(),
            &Found::default(),
            &Sources::default(),
            &Tokens::new(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b"] {
            assert!(inside(path).is_err(), "{path}");
        }
        assert!(inside("a/b").is_ok());
    }
}

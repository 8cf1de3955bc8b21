//! Volumes: what each kind holds, and how it is put in place so that readers never see half of a change.
//!
//! Layout as upstream's: `pods/<uid>/volumes/kubernetes.io~<kind>/<name>`; files of ConfigMaps, Secrets and the like lie in a
//! folder of their own, reached through the link `..data`, which is replaced as a whole.

mod content;
mod empty_dir;
mod env_files;
mod host_path;
pub mod mounted;
mod mounts;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection, Volume};

pub use content::files;
pub use env_files::env_files;
pub use mounts::{ImageVolumes, mounts, recursive_read_only};
pub use writer::File;

use crate::pod::env::Sources;
use crate::pod::{spec, uid};
use crate::refs::Found;

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

/// The folder of all pods below a root.
pub fn pods_folder(root: &Path) -> PathBuf {
    root.join("pods")
}

/// The folder of everything a pod has below a root.
pub fn pod_folder(root: &Path, pod: &Pod) -> PathBuf {
    pods_folder(root).join(uid(pod))
}

/// Puts a file of the agent's own into the folder of a pod, in place of the one before; nobody else may read it.
pub(crate) fn put(root: &Path, pod: &Pod, name: &str, content: &[u8]) -> io::Result<()> {
    let folder = pod_folder(root, pod);
    fs::create_dir_all(&folder)?;
    let fresh = folder.join(format!("{name}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    fs::rename(fresh, folder.join(name))
}

/// The folder of a pod's volumes, in its own.
pub const FOLDER: &str = "volumes";

/// Where a volume lies.
pub fn folder(roots: &Roots, pod: &Pod, volume: &Volume) -> PathBuf {
    let kind = match () {
        () if volume.empty_dir.is_some() => "empty-dir",
        () if volume.config_map.is_some() => "configmap",
        () if volume.secret.is_some() => "secret",
        () if volume.downward_api.is_some() => "downward-api",
        () => "projected",
    };
    if let Some(source) = &volume.host_path {
        return PathBuf::from(&source.path);
    }
    let root = if volume.empty_dir.is_some() { &roots.disk } else { &roots.memory };
    pod_folder(root, pod).join(FOLDER).join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

/// Puts every volume of a pod in place. Repeated, it changes only what is different.
pub fn prepare(roots: &Roots, pod: &Pod, found: &Found, sources: &Sources, tokens: &Tokens) -> Result<(), VolumeError> {
    for volume in spec(pod).volumes.iter().flatten() {
        let set_up = |why| VolumeError::SetUp { volume: volume.name.clone(), why };
        if let Some(source) = &volume.host_path {
            host_path::prepare(source).map_err(set_up)?;
            continue;
        }
        // Images are mounted by the runtime, layer upon layer.
        if volume.image.is_some() {
            continue;
        }
        let folder = folder(roots, pod, volume);
        let failed =
            |source| VolumeError::Write { volume: volume.name.clone(), path: folder.display().to_string(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let group = content::group(pod);
        if let Some(source) = &volume.empty_dir {
            let medium = empty_dir::medium(pod, source, sources).map_err(set_up)?;
            empty_dir::prepare(&folder, pod, volume, &medium, group).map_err(failed)?;
            continue;
        }
        let files = files(pod, volume, found, sources, tokens).map_err(set_up)?;
        writer::write(&folder, &files, group).map_err(failed)?;
    }
    Ok(())
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
}

//! The volumes of a container as mounts. Pure.
//!
//! Upstream: `makeMounts`, words included.

use std::collections::{BTreeMap, BTreeSet};

use cri::{ImageSpec, KeyValue, Mount};
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::{Roots, folder};
use crate::pod::create::propagation;
use crate::pod::env::{ConfigError, expand};
use crate::pod::spec;

/// The present images of volumes that are images, by the volume's name: what the runtime calls them.
pub type ImageVolumes = BTreeMap<String, String>;

/// The volumes of a container, which has these variables, as mounts.
pub fn mounts(
    roots: &Roots,
    pod: &Pod,
    container: &Container,
    variables: &[KeyValue],
    images: &ImageVolumes,
) -> Result<Vec<Mount>, ConfigError> {
    let spec = spec(pod);
    let volumes: BTreeMap<&str, &Volume> =
        spec.volumes.iter().flatten().map(|volume| (volume.name.as_str(), volume)).collect();
    let mount = |mount: &VolumeMount| {
        let volume = volumes.get(mount.name.as_str()).ok_or_else(|| {
            ConfigError(format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name))
        })?;
        let sub_path = sub_path(mount, variables)?;
        let image = images.get(&volume.name).map(|image_ref| ImageSpec {
            image: image_ref.clone(),
            user_specified_image: volume.image.as_ref().and_then(|image| image.reference.clone()).unwrap_or_default(),
            ..ImageSpec::default()
        });
        let host_path = match image {
            Some(_) => String::new(),
            None => folder(roots, pod, volume).display().to_string(),
        };
        // What is written from outside is not to be written from inside.
        let fixed = volume.empty_dir.is_none() && volume.host_path.is_none();
        Ok(Mount {
            container_path: absolute(&mount.mount_path),
            host_path,
            image,
            sub_path,
            readonly: fixed || mount.read_only == Some(true),
            recursive_read_only: recursive_read_only(mount),
            propagation: propagation(mount.mount_propagation.as_deref()),
            ..Mount::default()
        })
    };
    container.volume_mounts.iter().flatten().map(mount).collect()
}

/// Whether what is mounted below is not to be written either. The runtime can always do that.
pub fn recursive_read_only(mount: &VolumeMount) -> bool {
    let asked = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    asked && mount.read_only == Some(true)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// What of the volume is seen. What it names is opened by the runtime, which never leaves the volume; what can be told
/// from the text alone is told here.
fn sub_path(mount: &VolumeMount, variables: &[KeyValue]) -> Result<String, ConfigError> {
    let path = match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        Some(expression) => expanded(expression, variables)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if path.starts_with('/') {
        return Err(ConfigError(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(ConfigError(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(path)
}

/// The expression with its variables, which all must say something.
fn expanded(expression: &str, variables: &[KeyValue]) -> Result<String, ConfigError> {
    let known: BTreeMap<String, String> = variables
        .iter()
        .filter(|variable| !variable.value.is_empty())
        .map(|variable| (variable.key.clone(), variable.value.clone()))
        .collect();
    let missing: BTreeSet<String> =
        names(expression).filter(|name| !known.contains_key(*name)).map(str::to_owned).collect();
    if missing.is_empty() {
        return Ok(expand(expression, &known));
    }
    let missing: Vec<String> = missing.into_iter().collect();
    Err(ConfigError(format!("missing value for {}", missing.join(", "))))
}

/// The names that [`expand`] would look up.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find('$')? + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
                rest = after;
                return Some(name);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(volume: &str, mount: &str) -> Result<Vec<Mount>, String> {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"uid":"u"}},"spec":{{"volumes":[{{"name":"v",{volume}}}],
                "containers":[{{"name":"c","volumeMounts":[{{"name":"v","mountPath":"/v",{mount}}}]}}]}}}}"#
        ))
        .unwrap();
        let roots = Roots { disk: "/disk".into(), memory: "/memory".into() };
        let value = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
        let variables = [value("POD", "p-1"), value("UP", ".."), value("EMPTY", "")];
        let images = [("i".to_owned(), "sha256:1".to_owned())].into();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        mounts(&roots, &pod, container, &variables, &images).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_agent_writes_is_not_written_from_inside() {
        let readonly = |volume: &str, mount: &str| made(volume, mount).unwrap()[0].readonly;
        assert!(readonly(r#""configMap":{"name":"m"}"#, r#""readOnly":false"#));
        assert!(!readonly(r#""emptyDir":{}"#, r#""readOnly":false"#));
        assert!(!readonly(r#""hostPath":{"path":"/h"}"#, r#""readOnly":false"#));
        assert!(readonly(r#""hostPath":{"path":"/h"}"#, r#""readOnly":true"#));
        assert_eq!(made(r#""hostPath":{"path":"/h"}"#, r#""readOnly":true"#).unwrap()[0].host_path, "/h");
        let recursive = r#""readOnly":true,"recursiveReadOnly":"IfPossible""#;
        assert!(made(r#""emptyDir":{}"#, recursive).unwrap()[0].recursive_read_only);
    }

    #[test]
    fn sub_paths_are_expanded_and_stay_inside() {
        let sub_path = |mount: &str| made(r#""emptyDir":{}"#, mount).map(|mounts| mounts[0].sub_path.clone());
        let check = |mount: &str, expected: Result<&str, &str>| {
            assert_eq!(sub_path(mount), expected.map(str::to_owned).map_err(str::to_owned), "{mount}");
        };
        check(r#""subPath":"a/b""#, Ok("a/b"));
        check(r#""subPath":"$(POD)""#, Ok("$(POD)"));
        check(r#""subPathExpr":"logs/$(POD)/$$(POD)""#, Ok("logs/p-1/$(POD)"));
        check(r#""subPathExpr":"$(NONE)/$(EMPTY)/$(POD)/$(NONE)""#, Err("missing value for EMPTY, NONE"));
        check(r#""subPathExpr":"$(UP)/x""#, Err("unable to provision SubPath `../x`: must not contain '..'"));
        check(r#""subPath":"/etc""#, Err("error SubPath `/etc` must not be an absolute path"));
    }
}

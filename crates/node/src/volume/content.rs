//! What the files of a volume say. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};

use super::writer::File;
use super::{Tokens, token_key};
use crate::pod::env::{Sources, field_value, resource_value};
use crate::pod::{containers, namespace, spec};
use crate::refs::Found;

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
    // Of two files at one path the later source's counts.
    let mut files = BTreeMap::new();
    if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            let more = projection(pod, source, mode(projected.default_mode), found, sources, tokens)?;
            files.extend(more.into_iter().map(|file| (file.path.clone(), file)));
        }
    }
    Ok(files.into_values().collect())
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
        return Ok(vec![token_file(pod, source.path.clone(), token, mode)]);
    }
    Err("a projected source of an unknown kind".into())
}

/// A token is read by the pod's one user, or through the pod's group, and by everybody in it only when there is neither.
/// Upstream: `projectedVolumeMounter.collectData`; the group's right to read is added where the file is written.
fn token_file(pod: &Pod, path: String, token: &str, mode: u32) -> File {
    let user = one_user(pod);
    let alone = user.is_some() || group(pod).is_some();
    File { path, bytes: token.as_bytes().to_vec(), mode: if alone { 0o600 } else { mode }, user }
}

/// The group that everything in the pod's volumes is of.
pub fn group(pod: &Pod) -> Option<u32> {
    let group = spec(pod).security_context.and_then(|security| security.fs_group);
    group.and_then(|group| u32::try_from(group).ok())
}

/// The user that all of the pod's containers say they run as. Upstream: `FsUserFrom`.
fn one_user(pod: &Pod) -> Option<u32> {
    let spec = spec(pod);
    let of_pod = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let mut users = containers(&spec)
        .map(|(_, container)| container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod));
    let first = users.next().flatten()?;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
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
        return Ok(data.into_iter().map(|(path, bytes)| File { path, bytes, mode, user: None }).collect());
    };
    let mut files = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
                files.push(File { path: item.path.clone(), bytes: bytes.clone(), mode, user: None });
            }
            None if optional => {}
            None => return Err(format!("{}: {}", missing(), item.key)),
        }
    }
    Ok(files)
}

fn downward(pod: &Pod, items: &[DownwardAPIVolumeFile], mode: u32, sources: &Sources) -> Result<Vec<File>, String> {
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
            user: None,
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(spec: &str) -> (u32, Option<u32>) {
        let pod = serde_json::from_str(&format!(r#"{{"spec":{{{spec}}}}}"#)).unwrap();
        let file = token_file(&pod, "token".into(), "secret", 0o644);
        (file.mode, file.user)
    }

    #[test]
    fn tokens_are_read_by_as_few_as_can_be() {
        assert_eq!(token(r#""containers":[{"name":"a"}]"#), (0o644, None));
        assert_eq!(token(r#""securityContext":{"fsGroup":7},"containers":[{"name":"a"}]"#), (0o600, None));
        let user = r#""securityContext":{"runAsUser":5},"containers":[{"name":"a"},{"name":"b"}]"#;
        assert_eq!(token(user), (0o600, Some(5)));
        let two = r#""securityContext":{"runAsUser":5},"containers":[{"name":"a"},{"name":"b","securityContext":{"runAsUser":6}}]"#;
        assert_eq!(token(two), (0o644, None));
    }
}

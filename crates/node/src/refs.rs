//! The ConfigMaps and Secrets a pod refers to, read when a container or volume needs them.

use std::collections::{BTreeMap, BTreeSet};

use client::{Client, ClientError, Target};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use serde::de::DeserializeOwned;

use crate::pod::{containers, namespace, spec};

/// Names of what is referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// What a container's environment refers to.
pub fn of_environment(container: &Container) -> Names {
    let mut names = Names::default();
    for source in container.env_from.iter().flatten() {
        names.config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        names.secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        names.config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        names.secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    names
}

/// What a pod's volumes refer to.
pub fn of_volumes(pod: &Pod) -> Names {
    let mut names = Names::default();
    for volume in spec(pod).volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        names.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            names.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            names.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    names
}

/// What pulling a pod's images refers to.
pub fn of_pulls(pod: &Pod) -> Names {
    let secrets = spec(pod).image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()).collect();
    Names { secrets, ..Names::default() }
}

/// Whether any container of the pod refers to something by its environment.
pub fn of_environments(pod: &Pod) -> Names {
    let mut names = Names::default();
    for (_, container) in containers(&spec(pod)) {
        let more = of_environment(container);
        names.config_maps.extend(more.config_maps);
        names.secrets.extend(more.secrets);
    }
    names
}

/// What was found; the missing are left out.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

/// Reads everything named, from the API itself: a container started after a change sees the change.
pub async fn fetch(client: &Client, pod: &Pod, names: &Names) -> Result<Found, ClientError> {
    let mut found = Found::default();
    for name in &names.config_maps {
        if let Some(map) = get(client, "configmaps", pod, name).await? {
            found.config_maps.insert(name.clone(), map);
        }
    }
    for name in &names.secrets {
        if let Some(secret) = get(client, "secrets", pod, name).await? {
            found.secrets.insert(name.clone(), secret);
        }
    }
    Ok(found)
}

async fn get<T: DeserializeOwned>(
    client: &Client,
    resource: &'static str,
    pod: &Pod,
    name: &str,
) -> Result<Option<T>, ClientError> {
    match client.get(Target::new("", "v1", resource).namespace(namespace(pod)).name(name)).await {
        Ok(object) => object.typed().map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

//! The ConfigMaps and Secrets a pod refers to, read when a container or volume needs them.

use std::collections::{BTreeMap, BTreeSet};

use api::value::Value;
use client::{Cache, Change, Changes, Client, ClientError, Object, Target, Watched};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde::de::DeserializeOwned;
use stdx::TaskTree;

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

/// Everything that a pod refers to and that may change while it is here. How images are pulled is read when they are.
pub fn of_pod(pod: &Pod) -> Names {
    let (mut names, more) = (of_volumes(pod), of_environments(pod));
    names.config_maps.extend(more.config_maps);
    names.secrets.extend(more.secrets);
    names
}

/// The one watch of what this node's pods refer to. It tells that something changed; what, is read from the API by
/// whoever needs it.
pub struct NodeWatch {
    config_maps: Changes,
    secrets: Changes,
}

/// Something that pods may refer to changed, appeared or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub namespace: String,
    /// What changed, by name.
    pub names: Names,
}

impl NodeWatch {
    /// Starts watching.
    pub fn start(tasks: &TaskTree, client: &Client, node: &str) -> NodeWatch {
        let watched = |resource: &'static str| {
            Watched::new(Target::new("", "v1", resource)).fields(format!("isopod.referredByNode={node}"))
        };
        let changes = |resource| Cache::start(tasks, client.clone(), watched(resource)).subscribe();
        NodeWatch { config_maps: changes("configmaps"), secrets: changes("secrets") }
    }

    /// Waits for changes. Giving up waiting loses none.
    pub async fn next(&mut self) -> Vec<News> {
        let (changes, secret) = tokio::select! {
            changes = self.config_maps.next() => (changes, false),
            changes = self.secrets.next() => (changes, true),
        };
        news(&changes, secret)
    }
}

/// What changed, by namespace. One that never changes is not followed: not even when another one takes its place.
fn news(changes: &[Change], secret: bool) -> Vec<News> {
    let mut by_namespace: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for change in changes.iter().filter(|change| !change.old.as_deref().is_some_and(is_immutable)) {
        by_namespace.entry(change.key.namespace()).or_default().insert(change.key.name().to_owned());
    }
    let one = |(namespace, names): (&str, BTreeSet<String>)| {
        let names = match secret {
            true => Names { secrets: names, ..Names::default() },
            false => Names { config_maps: names, ..Names::default() },
        };
        News { namespace: namespace.to_owned(), names }
    };
    by_namespace.into_iter().map(one).collect()
}

fn is_immutable(object: &Object) -> bool {
    object.tree().is_ok_and(|tree| tree.get("immutable").and_then(Value::as_bool) == Some(true))
}

impl News {
    /// Whether it is about something that the pod refers to.
    pub fn concerns(&self, pod: &Pod) -> bool {
        let names = of_pod(pod);
        namespace(pod) == self.namespace
            && (!names.config_maps.is_disjoint(&self.names.config_maps)
                || !names.secrets.is_disjoint(&self.names.secrets))
    }
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

/// The runtime's handler that the pod's class names; empty for a pod without a class.
///
/// # Errors
/// When there is no such class, in upstream's words, or the API does not answer.
pub async fn runtime_handler(client: &Client, pod: &Pod) -> Result<String, ClientError> {
    let Some(class) = spec(pod).runtime_class_name.filter(|class| !class.is_empty()) else { return Ok(String::new()) };
    let target = Target::new("node.k8s.io", "v1", "runtimeclasses").name(&class);
    let class: RuntimeClass = client.get(target).await?.typed()?;
    Ok(class.handler)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::{Gvk, Key};

    use super::*;

    fn object(name: &str, fields: &str) -> Arc<Object> {
        let body = format!(r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"u"}}{fields}}}"#);
        Arc::new(Object::from_body(Arc::new(Gvk::new("", "v1", "ConfigMap")), 1, body.into()).unwrap())
    }

    fn check(old: Option<Arc<Object>>, new: Option<Arc<Object>>, pod: &str, expected: bool) {
        let pod: Pod = serde_json::from_str(pod).unwrap();
        let change = Change { key: Key::new("n", "m"), old, new };
        let concerns = news(&[change], false).iter().any(|news| news.concerns(&pod));
        assert_eq!(concerns, expected, "{pod:?}");
    }

    #[test]
    fn a_pod_hears_of_what_it_refers_to() {
        let pod = |namespace: &str, name: &str| {
            format!(
                r#"{{"metadata":{{"namespace":"{namespace}"}},"spec":{{"containers":[],"volumes":[{{"name":"v","configMap":{{"name":"{name}"}}}}]}}}}"#
            )
        };
        let (plain, fixed) = (|| Some(object("m", "")), || Some(object("m", r#","immutable":true"#)));
        check(plain(), plain(), &pod("n", "m"), true);
        check(None, fixed(), &pod("n", "m"), true);
        check(plain(), None, &pod("n", "m"), true);
        check(plain(), plain(), &pod("n", "other"), false);
        check(plain(), plain(), &pod("other", "m"), false);
        check(fixed(), None, &pod("n", "m"), false);
        check(plain(), fixed(), &pod("n", "m"), true);
    }
}

//! The environment of a container, and `$(NAME)` in its command. Pure: sources are fetched before.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use cri::KeyValue;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, FileKeySelector, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret,
};

use super::env_file;

/// What a container's environment may refer to.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// The pod's address, once it has one.
    pub pod_ip: String,
    pub host_ip: String,
    /// What the node has for pods: the limit of a container without one.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Variables about Services.
    pub services: Vec<(String, String)>,
    /// Files of variables, by volume and path; `None` for one that is not there.
    pub env_files: BTreeMap<(String, String), Option<String>>,
}

/// The container cannot be made: upstream's text for its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The container's variables: those about Services first, then `envFrom`, then `env`; later ones win.
pub fn environment(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<KeyValue>, ConfigError> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| match variables.iter_mut().find(|(present, _)| present == name) {
        Some((_, present)) => *present = value,
        None => variables.push((name.to_owned(), value)),
    };
    for (name, value) in from_sources(pod, container, sources)? {
        set(&name, value);
    }
    let mut known: BTreeMap<String, String> = sources.services.iter().cloned().collect();
    known.extend(variables.iter().cloned());
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match value_from(pod, container, source, sources)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), &known),
        };
        known.insert(variable.name.clone(), value.clone());
        match variables.iter_mut().find(|(present, _)| *present == variable.name) {
            Some((_, present)) => *present = value,
            None => variables.push((variable.name.clone(), value)),
        }
    }
    let mut all: Vec<(String, String)> = sources
        .services
        .iter()
        .filter(|(name, _)| !variables.iter().any(|(other, _)| other == name))
        .cloned()
        .collect();
    all.extend(variables);
    Ok(all.into_iter().map(|(key, value)| KeyValue { key, value }).collect())
}

fn from_sources(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => {
                    let data = map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone()));
                    variables.extend(data);
                }
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("configmap {:?} not found", reference.name))),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        variables.push((format!("{prefix}{key}"), text(&value.0, pod, &reference.name, key)?));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("secret {:?} not found", reference.name))),
            }
        }
    }
    Ok(variables)
}

fn text(bytes: &[u8], pod: &Pod, secret: &str, key: &str) -> Result<String, ConfigError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        ConfigError(format!(
            "key {key} of secret {}/{secret} is not text, so it cannot be a variable",
            super::namespace(pod)
        ))
    })
}

/// The value, or `None` for a missing optional one.
fn value_from(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, ConfigError> {
    let namespace = super::namespace(pod);
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, sources).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(pod, container, field, sources).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(ConfigError(format!("configmap {:?} not found", reference.name)))
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(ConfigError(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(ConfigError(format!("secret {:?} not found", reference.name)))
            };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => text(&value.0, pod, &reference.name, &reference.key).map(Some),
            None if optional => Ok(None),
            None => Err(ConfigError(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            ))),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        return file_value(reference, sources);
    }
    Ok(Some(String::new()))
}

/// What a file of a volume says.
fn file_value(reference: &FileKeySelector, sources: &Sources) -> Result<Option<String>, ConfigError> {
    let optional = reference.optional == Some(true);
    let (volume, path, key) = (&reference.volume_name, &reference.path, &reference.key);
    let malformed = || ConfigError("couldn't parse env file".into());
    let found = match sources.env_files.get(&(volume.clone(), path.clone())) {
        None => return Err(ConfigError(format!("cannot find the volume {volume:?} referenced by FileKeyRef"))),
        Some(None) if optional => None,
        Some(None) => return Err(malformed()),
        Some(Some(text)) => env_file::value(text, key).map_err(|_| malformed())?,
    };
    match found.filter(|value| !value.is_empty()) {
        Some(value) => Ok(Some(value.to_owned())),
        None if optional => Ok(None),
        None => Err(ConfigError(format!("environment variable key {key:?} not found in file {path:?}"))),
    }
}

/// What a `fieldRef` says. Upstream: `podFieldSelectorRuntimeValue`.
pub fn field_value(pod: &Pod, field: &ObjectFieldSelector, sources: &Sources) -> Result<String, ConfigError> {
    let spec = super::spec(pod);
    Ok(match field.field_path.as_str() {
        "spec.nodeName" => spec.node_name.unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => sources.host_ip.clone(),
        "status.podIP" | "status.podIPs" => sources.pod_ip.clone(),
        path => return meta_value(pod, path),
    })
}

/// What a `fieldRef` to metadata says; all labels or annotations are one line each, quoted.
pub fn meta_value(pod: &Pod, path: &str) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let empty = BTreeMap::new();
    let labels = meta.labels.as_ref().unwrap_or(&empty);
    let annotations = meta.annotations.as_ref().unwrap_or(&empty);
    let all = |map: &BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={}", api::field::shown(value))).collect::<Vec<_>>().join("\n")
    };
    let key = |path: &str, field: &str| {
        path.strip_prefix(field)
            .and_then(|rest| rest.strip_prefix("['"))
            .and_then(|rest| rest.strip_suffix("']"))
            .map(str::to_owned)
    };
    Ok(match path {
        "metadata.name" => super::name(pod).into(),
        "metadata.namespace" => super::namespace(pod).into(),
        "metadata.uid" => super::uid(pod).into(),
        "metadata.labels" => all(labels),
        "metadata.annotations" => all(annotations),
        path => {
            let label = key(path, "metadata.labels").map(|key| labels.get(&key));
            let annotation = key(path, "metadata.annotations").map(|key| annotations.get(&key));
            match label.or(annotation) {
                Some(value) => value.cloned().unwrap_or_default(),
                None => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
            }
        }
    })
}

/// What a `resourceFieldRef` says: the limit or request of a container, in units of the divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, ConfigError> {
    let spec = super::spec(pod);
    let container = match &field.container_name {
        Some(name) => super::containers(&spec)
            .map(|(_, container)| container.clone())
            .find(|container| container.name == *name)
            .ok_or_else(|| ConfigError(format!("container {name} not found")))?,
        None => container.clone(),
    };
    let (side, resource) = field.resource.split_once('.').unwrap_or((&field.resource, ""));
    let resources = container.resources.unwrap_or_default();
    let listed = if side == "limits" { resources.limits } else { resources.requests };
    let listed = listed.and_then(|list| list.get(resource).and_then(|quantity| Quantity::parse(&quantity.0).ok()));
    // A container without a limit may use what the pod may, or else all that the node has for pods.
    let of_pod = || super::create::amount(spec.resources.as_ref().and_then(|whole| whole.limits.as_ref()), resource);
    let of_node = || sources.allocatable.get(resource).copied();
    let quantity = match listed.filter(|quantity| side != "limits" || !quantity.is_zero()) {
        Some(quantity) => quantity,
        None if side == "limits" => of_pod().or_else(of_node).unwrap_or_default(),
        None => Quantity::default(),
    };
    let divisor = field.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.filter(|divisor| divisor.milli_value() != 0);
    let ceil =
        |value: i64, by: i64| value.checked_div(by).map(|quotient| quotient + i64::from(value % by != 0)).unwrap_or(0);
    let value = if resource == "cpu" {
        ceil(quantity.milli_value(), divisor.map_or(1000, |divisor| divisor.milli_value()))
    } else {
        ceil(quantity.value(), divisor.map_or(1, |divisor| divisor.value()))
    };
    Ok(value.to_string())
}

/// Replaces `$(NAME)` by the variable; unknown names stay, `$$` is a dollar. Upstream: `third_party/forked/golang/expansion`.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        out.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_known_names_only() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &variables), expected);
        check("x$(A)y", "x1y");
        check("$(B)", "$(A)");
        check("$(C)", "$(C)");
        check("$$(A)", "$(A)");
        check("$A $ $(", "$A $ $(");
        check("$(A", "$(A");
    }

    #[test]
    fn a_container_without_a_limit_has_the_pods_or_the_nodes() {
        let pod = |resources: &str| -> Pod {
            serde_json::from_str(&format!(r#"{{"spec":{{"resources":{resources},"containers":[{{"name":"c"}}]}}}}"#))
                .unwrap()
        };
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        let allocatable = [("cpu".to_owned(), quantity("3900m")), ("memory".to_owned(), quantity("7Gi"))].into();
        let sources = Sources { allocatable, ..Sources::default() };
        let check = |resources: &str, resource: &str, divisor: &str, expected: &str| {
            let field = serde_json::from_str(&format!(
                r#"{{"containerName":"c","resource":"{resource}","divisor":"{divisor}"}}"#
            ));
            let value = resource_value(&pod(resources), &Container::default(), &field.unwrap(), &sources);
            assert_eq!(value.unwrap(), expected, "{resources} {resource} {divisor}");
        };
        check("{}", "limits.cpu", "0", "4");
        check("{}", "limits.cpu", "1m", "3900");
        check("{}", "limits.memory", "1Mi", "7168");
        check("{}", "requests.memory", "1", "0");
        check(r#"{"limits":{"memory":"1Gi"}}"#, "limits.memory", "1Mi", "1024");
    }

    #[test]
    fn files_of_volumes_say_variables() {
        let container = |optional: bool, key: &str, path: &str| -> Container {
            serde_json::from_str(&format!(
                r#"{{"name":"c","env":[{{"name":"X","valueFrom":{{"fileKeyRef":{{"volumeName":"v","path":"{path}","key":"{key}","optional":{optional}}}}}}}]}}"#
            ))
            .unwrap()
        };
        let file = |path: &str, text: Option<&str>| (("v".to_owned(), path.to_owned()), text.map(str::to_owned));
        let env_files = [file("a", Some("K='v'\n")), file("bad", Some("K=v")), file("none", None)].into();
        let sources = Sources { env_files, ..Sources::default() };
        let check = |optional, key: &str, path: &str, expected: Result<Option<&str>, &str>| {
            let found = environment(&Pod::default(), &container(optional, key, path), &sources);
            let found = found.map(|variables| variables.first().map(|variable| variable.value.clone()));
            let expected = expected.map(|value| value.map(str::to_owned)).map_err(|text| ConfigError(text.into()));
            assert_eq!(found, expected, "{optional} {key} {path}");
        };
        check(false, "K", "a", Ok(Some("v")));
        check(true, "L", "a", Ok(None));
        check(false, "L", "a", Err("environment variable key \"L\" not found in file \"a\""));
        check(true, "K", "none", Ok(None));
        check(false, "K", "none", Err("couldn't parse env file"));
        check(true, "K", "bad", Err("couldn't parse env file"));
    }

    #[test]
    fn later_variables_see_earlier_ones_and_win() {
        let container: Container = serde_json::from_str(
            r#"{"name":"c","envFrom":[{"configMapRef":{"name":"m"},"prefix":"P_"},{"secretRef":{"name":"s","optional":true}}],
                "env":[{"name":"X","value":"$(P_k)-$(SVC)"},{"name":"Y","value":"$(X)"},{"name":"P_k","value":"own"},
                       {"name":"N","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
                       {"name":"L","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}}],
                "resources":{"limits":{"memory":"64Mi"}}}"#,
        )
        .unwrap();
        let pod: Pod = serde_json::from_str(r#"{"metadata":{"name":"p","namespace":"n"}}"#).unwrap();
        let map: ConfigMap = serde_json::from_str(r#"{"metadata":{"name":"m"},"data":{"k":"v"}}"#).unwrap();
        let sources = Sources {
            config_maps: [("m".to_owned(), map)].into(),
            services: vec![("SVC".into(), "10.96.0.1".into())],
            ..Sources::default()
        };
        let variables = environment(&pod, &container, &sources).unwrap();
        let shown: Vec<String> =
            variables.iter().map(|variable| format!("{}={}", variable.key, variable.value)).collect();
        assert_eq!(shown, ["SVC=10.96.0.1", "P_k=own", "X=v-10.96.0.1", "Y=v-10.96.0.1", "N=p", "L=64"]);
        let missing = environment(&pod, &container, &Sources::default()).unwrap_err();
        assert_eq!(missing.to_string(), "configmap \"m\" not found");
    }
}

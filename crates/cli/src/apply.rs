//! Applying files as kubectl's client-side apply does, so that `kubectl apply` of the same files afterwards changes nothing.
//!
//! Upstream: `kubectl/pkg/cmd/apply`. The last applied configuration is kept in an annotation; what was in it and is not in
//! the file any more is removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::value::{Map, Value};
use client::{Client, ClientError, Object, PatchKind, Target};

/// Where kubectl keeps what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// No manifest is larger.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Conflicting patches are tried again so often, as kubectl does.
const TRIES_MAX: usize = 5;

/// A file cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {message}")]
    Malformed { path: PathBuf, message: String },
    #[error("{path}: no matches for kind {kind:?} in version {version:?}")]
    UnknownKind { path: PathBuf, kind: String, version: String },
    #[error(
        "{path}: the namespace from the provided object {given:?} does not match the namespace {wanted:?}. You must pass '--namespace={given}' to perform this operation."
    )]
    Namespace { path: PathBuf, given: String, wanted: String },
    #[error("{what}")]
    Refused {
        what: String,
        #[source]
        source: Box<ClientError>,
    },
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    /// As kubectl says it.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        }
    }
}

/// Where objects of a kind are in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub plural: String,
    pub namespaced: bool,
}

/// An object of a file.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub target: Target,
    /// `deployment.apps/api`
    pub title: String,
    tree: Value,
}

/// An applied object.
#[derive(Clone, Debug)]
pub struct Applied {
    pub manifest: Manifest,
    pub outcome: Outcome,
    pub object: Arc<Object>,
}

/// Reads the objects of files and folders, in order; those without a namespace get `namespace`.
pub fn read(
    paths: &[PathBuf],
    namespace: &str,
    explicit_namespace: bool,
    locate: &dyn Fn(&str, &str, &str) -> Option<Located>,
) -> Result<Vec<Manifest>, ApplyError> {
    let mut manifests = Vec::new();
    for path in files(paths)? {
        for tree in documents(&path)? {
            for tree in items(tree) {
                manifests.push(manifest(&path, tree, namespace, explicit_namespace, locate)?);
            }
        }
    }
    Ok(manifests)
}

/// Folders stand for the manifests in them, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ApplyError> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |source| ApplyError::Read { path: path.clone(), source };
        if !std::fs::metadata(path).map_err(failed)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let is_manifest = entry
                .extension()
                .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
            if is_manifest {
                inside.push(entry);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

fn documents(path: &Path) -> Result<Vec<Value>, ApplyError> {
    let failed = |source| ApplyError::Read { path: path.into(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(ApplyError::Malformed {
            path: path.into(),
            message: format!("larger than {FILE_BYTES_MAX} bytes"),
        });
    }
    let text = std::fs::read(path).map_err(failed)?;
    let malformed =
        |error: &dyn std::fmt::Display| ApplyError::Malformed { path: path.into(), message: error.to_string() };
    let limits = api::codec::Limits::default();
    let parsed = api::codec::yaml::parse_all(&text, &limits).map_err(|error| malformed(&error))?;
    let mut trees = Vec::new();
    for parsed in parsed {
        if let Some(duplicate) = parsed.duplicates.first() {
            return Err(malformed(&format!("duplicate field {duplicate:?}")));
        }
        if parsed.value != Value::Null {
            trees.push(parsed.value);
        }
    }
    Ok(trees)
}

/// A `List` stands for its items.
fn items(tree: Value) -> Vec<Value> {
    match tree.get("items").and_then(Value::as_array) {
        Some(items) if api::meta::kind(&tree).ends_with("List") => items.to_vec(),
        _ => vec![tree],
    }
}

fn manifest(
    path: &Path,
    mut tree: Value,
    namespace: &str,
    explicit_namespace: bool,
    locate: &dyn Fn(&str, &str, &str) -> Option<Located>,
) -> Result<Manifest, ApplyError> {
    let (api_version, kind) = (api::meta::api_version(&tree).to_owned(), api::meta::kind(&tree).to_owned());
    let (group, version) = api::meta::group_version(&api_version);
    let located = locate(group, version, &kind).ok_or_else(|| ApplyError::UnknownKind {
        path: path.into(),
        kind: kind.clone(),
        version: api_version.clone(),
    })?;
    let name = api::meta::name(&tree).to_owned();
    if name.is_empty() {
        return Err(ApplyError::Malformed { path: path.into(), message: format!("{kind} without metadata.name") });
    }
    let mut target = Target::new(group.to_owned(), version.to_owned(), located.plural).name(name.as_str());
    if located.namespaced {
        let given = api::meta::namespace(&tree).to_owned();
        if given.is_empty() {
            api::meta::set_namespace(&mut tree, namespace);
        } else if explicit_namespace && given != namespace {
            return Err(ApplyError::Namespace { path: path.into(), given, wanted: namespace.into() });
        }
        target = target.namespace(api::meta::namespace(&tree));
    }
    let title = format!("{}/{name}", api::field::qualified(&kind.to_lowercase(), group));
    Ok(Manifest { target, title, tree })
}

/// Applies one object.
pub async fn apply(client: &Client, manifest: &Manifest) -> Result<Applied, ApplyError> {
    let refused = |source: ClientError| ApplyError::Refused { what: manifest.title.clone(), source: Box::new(source) };
    let mut wanted = manifest.tree.clone();
    let text = configuration(&manifest.tree);
    api::meta::set_annotation(&mut wanted, LAST_APPLIED, &text);
    let mut tries = 0;
    loop {
        tries += 1;
        let Some(present) = client.find(manifest.target.clone()).await.map_err(refused)? else {
            let collection = Target { name: None, ..manifest.target.clone() };
            let object = client.create(collection, &wanted).await.map_err(refused)?;
            return Ok(Applied { manifest: manifest.clone(), outcome: Outcome::Created, object });
        };
        let current = present.tree().map_err(refused)?;
        let last =
            api::meta::annotation(&current, LAST_APPLIED).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let patch = difference(last.as_ref(), &wanted, &current);
        if patch == Value::Object(Map::default()) {
            return Ok(Applied { manifest: manifest.clone(), outcome: Outcome::Unchanged, object: present });
        }
        match client.patch(manifest.target.clone(), PatchKind::Merge, &patch).await {
            Ok(object) => {
                let same = object.revision() == present.revision();
                let outcome = if same { Outcome::Unchanged } else { Outcome::Configured };
                return Ok(Applied { manifest: manifest.clone(), outcome, object });
            }
            Err(error) if error.is_conflict() && tries < TRIES_MAX => {}
            Err(error) => return Err(refused(error)),
        }
    }
}

/// The text that kubectl keeps of an object: sorted JSON with a line end, as Go escapes it.
fn configuration(tree: &Value) -> String {
    let mut tree = serde_json::to_value(tree).unwrap_or_default();
    // kubectl leaves an empty map where it will put its annotation.
    if let Some(metadata) = tree.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| serde_json::json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.remove(LAST_APPLIED);
        }
    }
    let text = tree.to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026") + "\n"
}

/// A merge patch that makes `current` what `wanted` says, and removes what `last` said and `wanted` does not.
fn difference(last: Option<&Value>, wanted: &Value, current: &Value) -> Value {
    let mut patch = Map::default();
    for (key, value) in wanted.as_object().into_iter().flat_map(Map::iter) {
        let key: &str = key;
        match (value, current.get(key)) {
            (Value::Object(_), Some(present @ Value::Object(_))) => {
                let inner = difference(last.and_then(|last| last.get(key)), value, present);
                if inner != Value::Object(Map::default()) {
                    patch.insert(key, inner);
                }
            }
            (value, Some(present)) if covers(present, value) => {}
            (value, _) => drop(patch.insert(key, value.clone())),
        }
    }
    for (key, _) in last.and_then(Value::as_object).into_iter().flat_map(Map::iter) {
        let key: &str = key;
        if wanted.get(key).is_none() && current.get(key).is_some() {
            patch.insert(key, Value::Null);
        }
    }
    Value::Object(patch)
}

/// Whether `present` says all that `wanted` says: it may say more, since the server fills in defaults.
fn covers(present: &Value, wanted: &Value) -> bool {
    match (present, wanted) {
        (Value::Array(present), Value::Array(wanted)) => {
            present.len() == wanted.len() && present.iter().zip(wanted).all(|(present, wanted)| covers(present, wanted))
        }
        (Value::Object(present), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| present.get(key).is_some_and(|present| covers(present, wanted)))
        }
        (present, wanted) => present == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn check(last: &str, wanted: &str, current: &str, expected: &str) {
        assert_eq!(difference(Some(&value(last)), &value(wanted), &value(current)), value(expected));
    }

    #[test]
    fn changes_what_the_file_says_and_removes_what_it_said() {
        check(r#"{"a":1}"#, r#"{"a":1}"#, r#"{"a":1,"b":2}"#, "{}");
        check(r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1}"#, r#"{"a":2}"#);
        check(r#"{"a":1,"b":1}"#, r#"{"a":1}"#, r#"{"a":1,"b":2}"#, r#"{"b":null}"#);
        check(r#"{"s":{"a":1,"b":1}}"#, r#"{"s":{"a":1}}"#, r#"{"s":{"a":1,"b":1,"c":1}}"#, r#"{"s":{"b":null}}"#);
    }

    #[test]
    fn defaults_of_the_server_are_no_difference() {
        let file = r#"{"l":[{"name":"a"}]}"#;
        check(file, file, r#"{"l":[{"name":"a","protocol":"TCP"}]}"#, "{}");
        check(file, r#"{"l":[{"name":"b"}]}"#, r#"{"l":[{"name":"a","protocol":"TCP"}]}"#, r#"{"l":[{"name":"b"}]}"#);
    }

    #[test]
    fn keeps_the_text_that_kubectl_keeps() {
        let tree = value(
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"default"},"data":{"k":"<a&b>"}}"#,
        );
        let expected = "{\"apiVersion\":\"v1\",\"data\":{\"k\":\"\\u003ca\\u0026b\\u003e\"},\"kind\":\"ConfigMap\",\"metadata\":{\"annotations\":{},\"name\":\"x\",\"namespace\":\"default\"}}\n";
        assert_eq!(configuration(&tree), expected);
    }
}

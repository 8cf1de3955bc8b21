//! `scale`: the number of replicas of any kind, as `autoscaling/v1 Scale`.

use api::field::{FieldErrors, Path};
use api::meta;
use api::selector::Selector;
use api::value::Value;
use bytes::Bytes;
use resources::{Cell, ColumnHead, Subresource, Writer};

use crate::answer::{self, Answer};
use crate::catalog::Served;
use crate::convert;
use crate::decode::{self, Expected};
use crate::negotiate::{self, Kind, Shape};
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::render::table::Table;
use crate::render::{self, Include};
use crate::verbs::attempt::Write;
use crate::verbs::patch;

const GROUP: &str = "autoscaling";
const VERSION: &str = "v1";
const KIND: &str = "Scale";

/// Where a kind keeps what a `Scale` shows.
struct Paths {
    replicas: Vec<&'static str>,
    status_replicas: Vec<&'static str>,
    selector: Vec<&'static str>,
}

fn paths(subresource: &Subresource) -> Outcome<Paths> {
    let Subresource::Scale { spec_replicas, status_replicas, selector } = subresource else {
        return Err(Refusal::no_such_path());
    };
    let split = |path: &'static str| path.trim_start_matches('.').split('.').collect();
    Ok(Paths { replicas: split(spec_replicas), status_replicas: split(status_replicas), selector: split(selector) })
}

/// Reads or changes the number of replicas.
pub(crate) async fn answer(
    call: &Call<'_>,
    served: &Served,
    subresource: &Subresource,
    body: Bytes,
) -> Outcome<Answer> {
    let paths = paths(subresource)?;
    let tree = match call.info.verb.as_str() {
        "get" => {
            let current = call.current(served).await?;
            scale(&convert::tree(&current, served)?, &paths)?
        }
        verb => change(call, served, &paths, &body, verb == "patch").await?,
    };
    let form = negotiate::form(&call.headers, &call.query, Kind::Object)?;
    match form.shape {
        Shape::Table { version } => {
            let table = Table { version, include: Include::read(call), with_columns: true };
            let json = table.of_tree(&COLUMNS, &cells(&tree), (GROUP, VERSION, KIND), &tree)?;
            Ok(Answer::Raw(answer::whole(200, form, render::in_encoding(json, form.encoding)?)))
        }
        _ => Ok(Answer::Tree { code: 200, group: GROUP, version: VERSION, kind: KIND, tree }),
    }
}

/// Upstream: `scaleColumnDefinitions`.
static COLUMNS: [ColumnHead; 4] = [
    column("Name", "string", "Name of the scaled object."),
    column("Desired", "integer", "Replicas that are wanted."),
    column("Available", "integer", "Replicas that were seen last."),
    column("Age", "string", "Time since the server created the scaled object."),
];

const fn column(name: &'static str, type_name: &'static str, description: &'static str) -> ColumnHead {
    ColumnHead { name, type_name, format: "", description, priority: 0 }
}

fn cells(scale: &Value) -> [Cell; 4] {
    let count = |part: &str| Cell::Int(scale.at(&[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0));
    let name = Cell::Text(meta::name(scale).to_owned());
    [name, count("spec"), count("status"), Cell::Since(meta::creation_timestamp(scale))]
}

async fn change(call: &Call<'_>, served: &Served, paths: &Paths, body: &[u8], patching: bool) -> Outcome<Value> {
    let options = WriteOptions::read(&call.query, if patching { "PatchOptions" } else { "UpdateOptions" })?;
    let message = crate::render::schema(GROUP, VERSION, KIND)?;
    let wanted = if patching {
        patch::media_type(call)?;
        None
    } else {
        let expected = Expected { group: GROUP, version: VERSION, kind: KIND, message };
        let encoding = negotiate::body_encoding(&call.headers)?;
        Some(decode::object(body, encoding, &expected, options.field_validation, &call.warnings)?)
    };
    let write = Write::new(call, served, &options, Writer::Scale);
    let written = write
        .update(|current| {
            let wanted = match &wanted {
                Some(wanted) => wanted.clone(),
                None => {
                    let about = patch::About { message, options: &options };
                    patch::patched(call, &about, &scale(current, paths)?, body)?
                }
            };
            scaled(call, current, &wanted, paths)
        })
        .await?;
    scale(&convert::tree(&written.object(), served)?, paths)
}

/// The object with the wanted number of replicas.
fn scaled(call: &Call<'_>, current: &Value, wanted: &Value, paths: &Paths) -> Outcome<Value> {
    let mut faults = FieldErrors::default();
    let name = meta::name(wanted);
    if !name.is_empty() && name != call.info.name {
        let wanted = &call.info.name;
        return Err(Refusal::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let replicas = wanted.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        faults.invalid(&Path::new("spec.replicas"), &replicas, "must be greater than or equal to 0");
    }
    if let Some(status) = faults.into_status(GROUP, KIND, &call.info.name) {
        return Err(status.into());
    }
    let mut object = current.clone();
    match meta::resource_version(wanted) {
        "" => meta::clear_resource_version(&mut object),
        given => set(&mut object, &["metadata", "resourceVersion"], given.into()),
    }
    if !meta::uid(wanted).is_empty() {
        let uid = meta::uid(wanted).to_owned();
        meta::set_uid(&mut object, &uid);
    }
    set(&mut object, &paths.replicas, replicas.into());
    Ok(object)
}

fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some(members) = object.as_object_mut() else { return };
    match path {
        [] => {}
        [last] => drop(members.insert(*last, value)),
        [first, rest @ ..] => {
            members.get_or_insert_object(first);
            if let Some(inner) = members.get_mut(first) {
                set(inner, rest, value);
            }
        }
    }
}

/// The `Scale` of an object.
fn scale(object: &Value, paths: &Paths) -> Outcome<Value> {
    let count = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Value::object();
    if let Some(members) = metadata.as_object_mut() {
        for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object.at(&["metadata", key]) {
                members.insert(key, value.clone());
            }
        }
    }
    let selector = match object.at(&paths.selector) {
        // A ReplicationController's selector is a plain map.
        Some(Value::Object(members))
            if members.values().all(|value| value.as_str().is_some()) && !members.is_empty() =>
        {
            Selector::from_labels(members.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())))
                .to_string()
        }
        selector => Selector::from_tree(selector).map_err(|error| Refusal::internal(error.to_string()))?.to_string(),
    };
    let mut status = Value::from([("replicas", count(&paths.status_replicas))]);
    if let (Some(members), false) = (status.as_object_mut(), selector.is_empty()) {
        members.insert("selector", selector);
    }
    let spec = Value::from([("replicas", count(&paths.replicas))]);
    let mut scale = Value::from([("metadata", metadata), ("spec", spec), ("status", status)]);
    meta::set_type(&mut scale, "autoscaling/v1", KIND);
    Ok(scale)
}

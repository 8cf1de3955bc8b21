//! OpenAPI, made from the schema table and the catalog: of version 3 the index and one document per group and version, of
//! version 2 one document.
//!
//! Documents are made when they are asked for and not kept; only their fingerprints are.

mod descriptions;
mod gnostic;
mod swagger;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use api::schema::{Field, ListKind, Message, Presence, Type};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value as Json, json};
use wire::Body;

use crate::answer;
use crate::catalog::{Catalog, Served, subresource_name, subresource_verbs};
use crate::discovery::{Document, digest, subresource_kind};
use crate::negotiate;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};

use descriptions::Descriptions;

const SCHEMAS: &str = "#/components/schemas/";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const JSON_VALUE: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// The fingerprints of the documents.
pub(crate) struct OpenApi {
    git_version: String,
    index: OnceLock<Document>,
    /// The fingerprint of the document of version 2, in whatever form.
    swagger: OnceLock<Arc<str>>,
}

impl OpenApi {
    /// Nothing made yet.
    pub(crate) fn new(git_version: &str) -> OpenApi {
        OpenApi { git_version: git_version.to_owned(), index: OnceLock::new(), swagger: OnceLock::new() }
    }

    /// The list of documents, each with a URL that changes when the document does.
    pub(crate) fn index(&self, catalog: &Catalog) -> Document {
        let make = || {
            let mut paths = Map::new();
            let descriptions = Descriptions::unpack();
            for path in all_paths(catalog) {
                let Some(document) = self.document(catalog, &path, &descriptions) else { continue };
                let hash = digest(&bytes(&document));
                paths.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }));
            }
            Document::new("application/json", bytes(&json!({ "paths": paths })))
        };
        self.index.get_or_init(make).clone()
    }

    /// The one document of version 2, in the form that `Accept` asks for, or 406.
    pub(crate) fn swagger(&self, catalog: &Catalog, headers: &HeaderMap) -> Outcome<Document> {
        let forms = ["application/json", gnostic::OLD_MEDIA_TYPE, gnostic::MEDIA_TYPE];
        let form = negotiate::media_type(headers, &forms).ok_or_else(|| Refusal::not_acceptable(&forms))?;
        // Clients refuse the old name where it is told to them, also beside a 304.
        let form = if form == gnostic::OLD_MEDIA_TYPE { gnostic::MEDIA_TYPE } else { form };
        if let Some(etag) = self.swagger.get() {
            // It need not be made for somebody who has it.
            let document = Document { body: Bytes::new(), etag: etag.clone(), content_type: form };
            if document.is_known(headers) {
                return Ok(document);
            }
        }
        let descriptions = Descriptions::unpack();
        let paths = all_paths(catalog);
        let documents = paths.iter().filter_map(|path| self.document(catalog, path, &descriptions));
        let tree = swagger::of(&self.git_version, documents);
        let json = Document::new("application/json", bytes(&tree));
        let etag = self.swagger.get_or_init(|| json.etag.clone());
        if form == json.content_type {
            return Ok(json);
        }
        Ok(Document { body: gnostic::bytes(&tree).into(), etag: etag.clone(), content_type: form })
    }

    /// The document of `api/v1` or `apis/GROUP/VERSION`.
    fn document(&self, catalog: &Catalog, path: &str, descriptions: &Descriptions) -> Option<Json> {
        let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return None,
        };
        let served = catalog.of_version(group, version);
        if served.is_empty() {
            return None;
        }
        Some(json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": self.git_version},
            "paths": paths(&served, path),
            "components": {"schemas": schemas(&served, descriptions)},
        }))
    }
}

fn bytes(document: &Json) -> Vec<u8> {
    serde_json::to_vec(document).expect("a tree of JSON is JSON")
}

fn all_paths(catalog: &Catalog) -> Vec<String> {
    let groups = catalog.groups();
    let of = |(group, versions): &(&str, Vec<&str>)| -> Vec<String> {
        let prefix = if group.is_empty() { "api".to_owned() } else { format!("apis/{group}") };
        versions.iter().map(|version| format!("{prefix}/{version}")).collect()
    };
    groups.iter().flat_map(of).collect()
}

/// Answers a document. Under its hashed URL it may be kept for ever; under an outdated one it is at another place.
pub(crate) fn response(call: &Call<'_>, path: &str) -> Option<Response<Body>> {
    let server = call.server;
    let document = server.documents.openapi.document(&server.catalog, path, &Descriptions::unpack())?;
    let document = Document::new("application/json", bytes(&document));
    let hash = document.etag.trim_matches('"').to_owned();
    match call.query.get("hash") {
        Some(asked) if asked != hash => {
            let mut response = answer::text(301, "");
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let location = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")).ok()?;
            response.headers_mut().insert(LOCATION, location);
            Some(response)
        }
        asked => {
            let mut response = answer::document_response(&document, &call.headers);
            let headers = response.headers_mut();
            headers.insert(ETAG, HeaderValue::from_str(&document.etag).ok()?);
            if asked.is_some() {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
                let next_year = stdx::wall().checked_add(jiff::SignedDuration::from_hours(365 * 24)).ok()?;
                let expires = next_year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                headers.insert(EXPIRES, HeaderValue::from_str(&expires).ok()?);
            }
            Some(response)
        }
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> Json {
    json!({"group": group, "kind": kind, "version": version})
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("{SCHEMAS}{name}") })
}

fn paths(all: &[Served], prefix: &str) -> Json {
    let mut paths = Map::new();
    for served in all {
        let facts = served.facts();
        let scope = if served.is_namespaced() { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{prefix}/{scope}{}", facts.plural);
        let object = format!("{collection}/{{name}}");
        let kind = (served.group, served.version, served.kind);
        let on_collection = ["create", "list", "deletecollection"];
        let (whole, single): (Vec<&str>, Vec<&str>) = facts.verbs.iter().partition(|verb| on_collection.contains(verb));
        if !whole.is_empty() {
            paths.insert(collection.clone(), operations(served, kind, &whole, false));
        }
        if served.is_namespaced() && facts.verbs.contains(&"list") {
            paths.insert(format!("/{prefix}/{}", facts.plural), operations(served, kind, &["list"], false));
        }
        if single.iter().any(|verb| *verb != "watch") {
            paths.insert(object.clone(), operations(served, kind, &single, true));
        }
        for subresource in facts.subresources {
            let path = format!("{object}/{}", subresource_name(subresource));
            let kind = subresource_kind(served, subresource);
            paths.insert(path, operations(served, kind, subresource_verbs(subresource), true));
        }
    }
    Json::Object(paths)
}

fn parameter(name: &str, place: &str, kind: &str) -> Json {
    json!({"name": name, "in": place, "required": place == "path", "schema": {"type": kind, "uniqueItems": true}})
}

fn operations(served: &Served, (group, version, kind): (&str, &str, &str), verbs: &[&str], named: bool) -> Json {
    let mut item = Map::new();
    let message = api::schema::kind(group, version, kind).map(Message::name);
    let schema = message.map_or_else(|| json!({"type": "string"}), reference);
    for verb in verbs {
        let method = match *verb {
            "get" | "list" => "get",
            "create" => "post",
            "update" => "put",
            "patch" => "patch",
            "delete" | "deletecollection" => "delete",
            _ => continue,
        };
        let answered = match (*verb, message) {
            ("list", Some(name)) => reference(&format!("{name}List")),
            _ => schema.clone(),
        };
        let action = if *verb == "update" {
            "put"
        } else if *verb == "create" {
            "post"
        } else {
            verb
        };
        let mut operation = json!({
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": answered}}}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(group, version, kind),
        });
        let parameters = query_parameters(verb);
        if let (Some(operation), false) = (operation.as_object_mut(), parameters.is_empty()) {
            operation.insert("parameters".to_owned(), Json::Array(parameters));
        }
        if let (Some(operation), Some(body)) = (operation.as_object_mut(), request_body(verb, &schema)) {
            operation.insert("requestBody".to_owned(), body);
        }
        item.insert(method.to_owned(), operation);
    }
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", "path", "string"));
    }
    if served.is_namespaced() {
        parameters.push(parameter("namespace", "path", "string"));
    }
    parameters.push(parameter("pretty", "query", "string"));
    item.insert("parameters".to_owned(), Json::Array(parameters));
    Json::Object(item)
}

fn query_parameters(verb: &str) -> Vec<Json> {
    let (texts, numbers, flags): (&[&str], &[&str], &[&str]) = match verb {
        "create" | "update" => (&["dryRun", "fieldManager", "fieldValidation"], &[], &[]),
        "patch" => (&["dryRun", "fieldManager", "fieldValidation"], &[], &["force"]),
        "delete" => (&["dryRun", "propagationPolicy"], &["gracePeriodSeconds"], &["orphanDependents"]),
        "list" => (
            &["continue", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch"],
            &["limit", "timeoutSeconds"],
            &["allowWatchBookmarks", "sendInitialEvents", "watch"],
        ),
        _ => (&[], &[], &[]),
    };
    let of = |names: &[&str], kind| -> Vec<Json> { names.iter().map(|name| parameter(name, "query", kind)).collect() };
    [of(texts, "string"), of(numbers, "integer"), of(flags, "boolean")].concat()
}

fn request_body(verb: &str, schema: &Json) -> Option<Json> {
    let content = |types: &[&str], schema: &Json| {
        let entries = types.iter().map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema })));
        json!({"content": entries.collect::<Map<_, _>>(), "required": true})
    };
    match verb {
        "create" | "update" => Some(content(&["*/*"], schema)),
        "patch" => {
            let types = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            Some(content(&types, &json!({"type": "object"})))
        }
        "delete" | "deletecollection" => {
            let options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
            Some(json!({"content": {"*/*": {"schema": reference(options)}}}))
        }
        _ => None,
    }
}

/// The schemas that the kinds of a group and version need, with all that they refer to.
fn schemas(all: &[Served], descriptions: &Descriptions) -> Json {
    let mut out = Map::new();
    let mut wanted: Vec<&Message> = Vec::new();
    for served in all {
        let kinds = std::iter::once((served.group, served.version, served.kind));
        let kinds =
            kinds.chain(served.facts().subresources.iter().map(|subresource| subresource_kind(served, subresource)));
        for (group, version, kind) in kinds {
            wanted.extend(api::schema::kind(group, version, kind));
            wanted.extend(api::schema::kind(group, version, &format!("{kind}List")));
        }
    }
    wanted.extend(api::schema::kind("", "v1", "DeleteOptions"));
    wanted.extend(api::schema::kind("", "v1", "Status"));
    let kinds: Vec<_> = api::schema::kinds().collect();
    while let Some(message) = wanted.pop() {
        if out.contains_key(message.name()) {
            continue;
        }
        let gvks = kinds.iter().filter(|(_, _, _, known)| known.name() == message.name());
        let gvks: Vec<Json> = gvks.map(|(group, version, kind, _)| gvk(group, version, kind)).collect();
        out.insert(message.name().to_owned(), message_schema(message, gvks, descriptions));
        wanted.extend(message.fields().iter().filter_map(Field::message));
    }
    special_schemas(&mut out, descriptions);
    Json::Object(out)
}

fn special_schemas(out: &mut Map<String, Json>, descriptions: &Descriptions) {
    for (name, mut schema) in [
        (TIME, json!({"type": "string", "format": "date-time"})),
        (MICRO_TIME, json!({"type": "string", "format": "date-time"})),
        (QUANTITY, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
        (INT_OR_STRING, json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})),
        (RAW_EXTENSION, json!({"type": "object"})),
        (FIELDS, json!({"type": "object"})),
        (JSON_VALUE, json!({})),
    ] {
        describe(&mut schema, descriptions.of_message(name));
        out.insert(name.to_owned(), schema);
    }
}

/// Adds the text that people read, if there is one.
fn describe(schema: &mut Json, text: Option<String>) {
    if let (Some(members), Some(text)) = (schema.as_object_mut(), text) {
        members.insert("description".to_owned(), Json::String(text));
    }
}

fn message_schema(message: &Message, gvks: Vec<Json>, descriptions: &Descriptions) -> Json {
    let (mut properties, mut required) = (Map::new(), BTreeSet::new());
    for field in message.fields() {
        let mut property = field_schema(field);
        describe(&mut property, descriptions.of_field(message.name(), &field.name));
        properties.insert(field.name.to_string(), property);
        if field.presence == Presence::Always && !field.nullable && !matches!(field.ty, Type::Time | Type::MicroTime) {
            required.insert(field.name.to_string());
        }
    }
    let mut schema = json!({"type": "object"});
    describe(&mut schema, descriptions.of_message(message.name()));
    let Some(members) = schema.as_object_mut() else { return schema };
    if !properties.is_empty() {
        members.insert("properties".to_owned(), Json::Object(properties));
    }
    if !required.is_empty() {
        members.insert("required".to_owned(), json!(required));
    }
    if message.is_atomic() {
        members.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    if !gvks.is_empty() {
        members.insert("x-kubernetes-group-version-kind".to_owned(), Json::Array(gvks));
    }
    schema
}

fn field_schema(field: &Field) -> Json {
    let mut schema = type_schema(&field.ty);
    let Some(members) = schema.as_object_mut() else { return schema };
    if let Some(default) = field.default().and_then(|default| serde_json::to_value(default).ok()) {
        members.insert("default".to_owned(), default);
    }
    if !field.enumeration().is_empty() {
        let values: Vec<&str> = field.enumeration().iter().map(|value| &**value).collect();
        members.insert("enum".to_owned(), json!(values));
    }
    if let Some(patch) = field.patch() {
        let strategies = match (&patch.merge_key, patch.retain_keys) {
            (Some(_), true) => "merge,retainKeys",
            (Some(_), false) => "merge",
            (None, true) => "retainKeys",
            (None, false) => "",
        };
        if !strategies.is_empty() {
            members.insert("x-kubernetes-patch-strategy".to_owned(), json!(strategies));
        }
        if let Some(key) = patch.merge_key.as_ref().filter(|key| !key.is_empty()) {
            members.insert("x-kubernetes-patch-merge-key".to_owned(), json!(&**key));
        }
    }
    schema
}

fn type_schema(ty: &Type) -> Json {
    match ty {
        Type::String | Type::Duration => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time => all_of(TIME),
        Type::MicroTime => all_of(MICRO_TIME),
        Type::Quantity => all_of(QUANTITY),
        Type::IntOrString => all_of(INT_OR_STRING),
        Type::Raw => all_of(RAW_EXTENSION),
        Type::Fields => all_of(FIELDS),
        Type::Any => all_of(JSON_VALUE),
        Type::Struct(message) | Type::SchemaOr(_, message) => all_of(message.name()),
        Type::Map(map) => json!({"type": "object", "additionalProperties": type_schema(&map.values)}),
        Type::List(list) => {
            let mut schema = json!({"type": "array", "items": type_schema(&list.items)});
            if let Some(members) = schema.as_object_mut() {
                let list_type = match &list.kind {
                    ListKind::Unsaid => None,
                    ListKind::Atomic => Some("atomic"),
                    ListKind::Set => Some("set"),
                    ListKind::Map(keys) => {
                        let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                        members.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                        Some("map")
                    }
                };
                members.extend(list_type.map(|list_type| ("x-kubernetes-list-type".to_owned(), json!(list_type))));
            }
            schema
        }
    }
}

fn all_of(name: &str) -> Json {
    json!({ "allOf": [reference(name)] })
}

//! OpenAPI v2, made from the documents of v3: one document for everything, which kubectl reads where v3 does not say
//! enough, as for files of kind List.
//!
//! Upstream: `kube-openapi`, `pkg/builder`.

use serde_json::{Map, Value as Json, json};

const DEFINITIONS: &str = "#/definitions/";
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// One document of version 2 with all that those of version 3 say.
pub(super) fn of(version: &str, documents: impl Iterator<Item = Json>) -> Json {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for mut document in documents {
        for (path, item) in members(document["paths"].take()) {
            paths.insert(path, path_item(item));
        }
        for (name, schema) in members(document["components"]["schemas"].take()) {
            definitions.entry(name).or_insert_with(|| of_schema(schema));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
            },
        },
        "security": [{"BearerToken": []}],
    })
}

fn members(tree: Json) -> Map<String, Json> {
    match tree {
        Json::Object(members) => members,
        _ => Map::new(),
    }
}

fn items(tree: Json) -> Vec<Json> {
    match tree {
        Json::Array(items) => items,
        _ => Vec::new(),
    }
}

/// Version 2 has no alternatives and no defaults, and a reference stands beside what is said of it.
fn of_schema(schema: Json) -> Json {
    let mut schema = members(schema);
    schema.remove("default");
    if schema.remove("oneOf").is_some() {
        schema.insert("type".to_owned(), json!("string"));
    }
    let inner = schema.remove("allOf").and_then(|all| items(all).into_iter().next()).map(members);
    schema.extend(inner.unwrap_or_default());
    if let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix(super::SCHEMAS)) {
        let reference = json!(format!("{DEFINITIONS}{name}"));
        schema.insert("$ref".to_owned(), reference);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            *inner = of_schema(inner.take());
        }
    }
    if let Some(Json::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(|property| *property = of_schema(property.take()));
    }
    Json::Object(schema)
}

fn path_item(item: Json) -> Json {
    let mut item = members(item);
    for method in METHODS {
        if let Some(found) = item.get_mut(method) {
            *found = operation(found.take());
        }
    }
    if let Some(found) = item.get_mut("parameters") {
        *found = items(found.take()).into_iter().map(parameter).collect();
    }
    Json::Object(item)
}

fn operation(operation: Json) -> Json {
    let mut operation = members(operation);
    let mut parameters: Vec<Json> = Vec::new();
    let mut consumes = vec!["*/*".to_owned()];
    if let Some(mut body) = operation.remove("requestBody") {
        let content = members(body["content"].take());
        consumes = content.keys().cloned().collect();
        let mut parameter = json!({"in": "body", "name": "body"});
        if body["required"] == true {
            parameter["required"] = json!(true);
        }
        parameter["schema"] =
            content.into_values().next().map_or(Json::Null, |mut media| of_schema(media["schema"].take()));
        parameters.push(parameter);
    }
    parameters.extend(operation.remove("parameters").map(items).unwrap_or_default().into_iter().map(parameter));
    let (mut responses, mut produces) = (Map::new(), Vec::new());
    for (code, mut response) in operation.remove("responses").map(members).unwrap_or_default() {
        let mut answer = json!({"description": response["description"].take()});
        for (media_type, mut media) in members(response["content"].take()) {
            answer["schema"] = of_schema(media["schema"].take());
            produces.push(media_type);
        }
        responses.insert(code, answer);
    }
    operation.insert("consumes".to_owned(), json!(consumes));
    operation.insert("produces".to_owned(), json!(produces));
    operation.insert("schemes".to_owned(), json!(["https"]));
    operation.insert("parameters".to_owned(), Json::Array(parameters));
    operation.insert("responses".to_owned(), Json::Object(responses));
    Json::Object(operation)
}

/// What its schema says of a parameter, it says itself; only those of a path must be there.
fn parameter(parameter: Json) -> Json {
    let mut parameter = members(parameter);
    let schema = parameter.remove("schema").map(members).unwrap_or_default();
    parameter.extend(schema);
    if parameter.get("required") == Some(&json!(false)) {
        parameter.remove("required");
    }
    Json::Object(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(of: fn(Json) -> Json, version_3: Json, version_2: Json) {
        assert_eq!(of(version_3), version_2);
    }

    #[test]
    fn a_schema_says_the_same_in_version_2() {
        check(
            of_schema,
            json!({"allOf": [{"$ref": "#/components/schemas/a.B"}], "default": {}, "description": "b"}),
            json!({"$ref": "#/definitions/a.B", "description": "b"}),
        );
        check(of_schema, json!({"oneOf": [{"type": "string"}, {"type": "number"}]}), json!({"type": "string"}));
        check(
            of_schema,
            json!({"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string", "default": ""}}}}),
            json!({"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}}),
        );
    }

    #[test]
    fn an_operation_takes_its_body_as_a_parameter() {
        check(
            operation,
            json!({
                "parameters": [{"name": "dryRun", "in": "query", "required": false, "schema": {"type": "string"}}],
                "requestBody": {"content": {"*/*": {"schema": {"$ref": "#/components/schemas/X"}}}, "required": true},
                "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "string"}}}}},
                "x-kubernetes-action": "post",
            }),
            json!({
                "parameters": [
                    {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/X"}},
                    {"name": "dryRun", "in": "query", "type": "string"},
                ],
                "consumes": ["*/*"], "produces": ["application/json"], "schemes": ["https"],
                "responses": {"200": {"description": "OK", "schema": {"type": "string"}}},
                "x-kubernetes-action": "post",
            }),
        );
    }
}

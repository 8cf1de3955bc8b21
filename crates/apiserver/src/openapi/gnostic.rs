//! A document of OpenAPI v2 as the protobuf that clients of Kubernetes ask for. Names and numbers are gnostic's
//! (`openapiv2/OpenAPIv2.proto`); what our documents never say is not declared.

use prost::{Message as _, Oneof};
use serde_json::{Map, Value as Json};

/// The media type of such documents.
pub(super) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same, as clients have asked for it since before it was mended to be a media type.
pub(super) const OLD_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The bytes of a document that is there as JSON.
pub(super) fn bytes(document: &Json) -> Vec<u8> {
    self::document(document).encode_to_vec()
}

#[derive(Clone, PartialEq, prost::Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
    #[prost(message, repeated, tag = "12")]
    security: Vec<SecurityRequirement>,
    #[prost(message, optional, tag = "13")]
    security_definitions: Option<SecurityDefinitions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
    #[prost(message, repeated, tag = "9")]
    parameters: Vec<ParametersItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(string, repeated, tag = "6")]
    produces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    consumes: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(string, repeated, tag = "10")]
    schemes: Vec<String>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}

/// A choice between a parameter and a reference to one, of which only the first is used.
#[derive(Clone, PartialEq, prost::Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Parameter {
    #[prost(oneof = "AnyParameter", tags = "1, 2")]
    any: Option<AnyParameter>,
}

#[derive(Clone, PartialEq, Oneof)]
enum AnyParameter {
    #[prost(message, tag = "1")]
    Body(BodyParameter),
    #[prost(message, tag = "2")]
    NonBody(NonBodyParameter),
}

#[derive(Clone, PartialEq, prost::Message)]
struct BodyParameter {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    place: String,
    #[prost(bool, tag = "4")]
    required: bool,
    #[prost(message, optional, tag = "5")]
    schema: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NonBodyParameter {
    #[prost(oneof = "AnyNonBodyParameter", tags = "3, 4")]
    any: Option<AnyNonBodyParameter>,
}

#[derive(Clone, PartialEq, Oneof)]
enum AnyNonBodyParameter {
    #[prost(message, tag = "3")]
    Query(QueryParameter),
    #[prost(message, tag = "4")]
    Path(PathParameter),
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueryParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PathParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    kind: String,
    #[prost(bool, tag = "19")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    code: Vec<NamedResponseValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedResponseValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

/// A choice between a response and a reference to one, of which only the first is used.
#[derive(Clone, PartialEq, prost::Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

/// A choice between a schema and one of a file, of which only the first is used.
#[derive(Clone, PartialEq, prost::Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

/// `Definitions` and `Properties`.
#[derive(Clone, PartialEq, prost::Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    enumeration: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalPropertiesItem>>,
    #[prost(message, optional, tag = "22")]
    kind: Option<Texts>,
    #[prost(message, optional, tag = "23")]
    items: Option<ItemsItem>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

/// A choice between a schema and a truth value, of which only the first is used.
#[derive(Clone, PartialEq, prost::Message)]
struct AdditionalPropertiesItem {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ItemsItem {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

/// `TypeItem` and `StringArray`.
#[derive(Clone, PartialEq, prost::Message)]
struct Texts {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

/// Any value, as YAML: ours is JSON, which is YAML as well.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SecurityRequirement {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedTexts>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedTexts {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Texts>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SecurityDefinitions {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSecurityDefinition>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedSecurityDefinition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<SecurityDefinition>,
}

/// A choice of kinds, of which only keys are used.
#[derive(Clone, PartialEq, prost::Message)]
struct SecurityDefinition {
    #[prost(message, optional, tag = "2")]
    api_key: Option<ApiKey>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ApiKey {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    place: String,
    #[prost(string, tag = "4")]
    description: String,
}

fn text(tree: &Json, key: &str) -> String {
    tree[key].as_str().unwrap_or_default().to_owned()
}

fn texts(tree: &Json) -> Vec<String> {
    tree.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}

fn flag(tree: &Json, key: &str) -> bool {
    tree[key].as_bool().unwrap_or_default()
}

fn members(tree: &Json) -> impl Iterator<Item = (&String, &Json)> {
    tree.as_object().into_iter().flat_map(Map::iter)
}

fn any(value: &Json) -> Any {
    Any { yaml: format!("{value}\n") }
}

fn extensions(tree: &Json) -> Vec<NamedAny> {
    let found = members(tree).filter(|(name, _)| name.starts_with("x-"));
    found.map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) }).collect()
}

fn document(tree: &Json) -> Document {
    let requirement = |requirement: &Json| SecurityRequirement {
        additional_properties: members(requirement)
            .map(|(name, scopes)| NamedTexts { name: name.clone(), value: Some(Texts { value: texts(scopes) }) })
            .collect(),
    };
    let api_key = |key: &Json| ApiKey {
        kind: text(key, "type"),
        name: text(key, "name"),
        place: text(key, "in"),
        description: text(key, "description"),
    };
    let definition = |(name, key): (&String, &Json)| NamedSecurityDefinition {
        name: name.clone(),
        value: Some(SecurityDefinition { api_key: Some(api_key(key)) }),
    };
    let paths =
        members(&tree["paths"]).map(|(name, item)| NamedPathItem { name: name.clone(), value: Some(path_item(item)) });
    Document {
        swagger: text(tree, "swagger"),
        info: Some(Info { title: text(&tree["info"], "title"), version: text(&tree["info"], "version") }),
        paths: Some(Paths { path: paths.collect() }),
        definitions: Some(schemas(&tree["definitions"])),
        security: tree["security"].as_array().into_iter().flatten().map(requirement).collect(),
        security_definitions: Some(SecurityDefinitions {
            additional_properties: members(&tree["securityDefinitions"]).map(definition).collect(),
        }),
    }
}

fn path_item(tree: &Json) -> PathItem {
    let of = |method: &str| tree.get(method).map(operation);
    PathItem {
        get: of("get"),
        put: of("put"),
        post: of("post"),
        delete: of("delete"),
        patch: of("patch"),
        parameters: parameters(tree),
    }
}

fn operation(tree: &Json) -> Operation {
    let response = |response: &Json| Response {
        description: text(response, "description"),
        schema: response.get("schema").map(|of| SchemaItem { schema: Some(schema(of)) }),
    };
    let code = |(code, of): (&String, &Json)| NamedResponseValue {
        name: code.clone(),
        value: Some(ResponseValue { response: Some(response(of)) }),
    };
    Operation {
        produces: texts(&tree["produces"]),
        consumes: texts(&tree["consumes"]),
        parameters: parameters(tree),
        responses: Some(Responses { code: members(&tree["responses"]).map(code).collect() }),
        schemes: texts(&tree["schemes"]),
        extensions: extensions(tree),
    }
}

fn parameters(tree: &Json) -> Vec<ParametersItem> {
    let all = tree["parameters"].as_array().into_iter().flatten();
    all.map(|found| ParametersItem { parameter: Some(Parameter { any: Some(parameter(found)) }) }).collect()
}

fn parameter(tree: &Json) -> AnyParameter {
    let (required, name, place, kind) =
        (flag(tree, "required"), text(tree, "name"), text(tree, "in"), text(tree, "type"));
    let unique_items = flag(tree, "uniqueItems");
    let other = match place.as_str() {
        "body" => {
            let schema = tree.get("schema").map(schema);
            return AnyParameter::Body(BodyParameter { name, place, required, schema });
        }
        "path" => AnyNonBodyParameter::Path(PathParameter { required, place, name, kind, unique_items }),
        _ => AnyNonBodyParameter::Query(QueryParameter { required, place, name, kind, unique_items }),
    };
    AnyParameter::NonBody(NonBodyParameter { any: Some(other) })
}

fn schemas(tree: &Json) -> Schemas {
    let named = |(name, of): (&String, &Json)| NamedSchema { name: name.clone(), value: Some(schema(of)) };
    Schemas { additional_properties: members(tree).map(named).collect() }
}

fn schema(tree: &Json) -> Schema {
    let of_values = |of: &Json| Box::new(AdditionalPropertiesItem { schema: Some(Box::new(schema(of))) });
    Schema {
        reference: text(tree, "$ref"),
        format: text(tree, "format"),
        description: text(tree, "description"),
        required: texts(&tree["required"]),
        enumeration: tree["enum"].as_array().into_iter().flatten().map(any).collect(),
        additional_properties: tree.get("additionalProperties").map(of_values),
        kind: tree["type"].as_str().map(|kind| Texts { value: vec![kind.to_owned()] }),
        items: tree.get("items").map(|of| ItemsItem { schema: vec![schema(of)] }),
        properties: tree.get("properties").map(schemas),
        extensions: extensions(tree),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A field of bytes with its number, as protobuf writes short ones.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        [&[number << 3 | 2, length], content].concat()
    }

    #[test]
    fn a_schema_has_gnostics_numbers() {
        let tree = json!({"type": "array", "items": {"$ref": "#/definitions/X"}});
        // Numbers above 15 take two bytes.
        let long = |number: u16, content: &[u8]| {
            let key = (number << 3) | 2;
            let head = [(key & 0x7f) as u8 | 0x80, (key >> 7) as u8, content.len() as u8];
            [&head[..], content].concat()
        };
        let items = field(1, &field(1, b"#/definitions/X"));
        let expected = [long(22, &field(1, b"array")), long(23, &items)].concat();
        assert_eq!(schema(&tree).encode_to_vec(), expected);
    }

    #[test]
    fn a_document_is_read_again_as_it_was_written() {
        let tree = json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"},
            "paths": {"/a/{name}": {
                "patch": {
                    "responses": {"200": {"description": "OK"}}, "x-kubernetes-action": "patch",
                    "parameters": [{"name": "fieldValidation", "in": "query", "type": "string", "uniqueItems": true}],
                },
                "parameters": [{"name": "name", "in": "path", "required": true, "type": "string"}],
            }},
            "definitions": {"X": {"type": "object", "properties": {"y": {"type": "string"}}, "required": ["y"]}},
        });
        let read = Document::decode(&bytes(&tree)[..]).expect("protobuf");
        let path = read.paths.expect("paths").path.remove(0);
        let item = path.value.expect("an item");
        let patch = item.patch.expect("an operation");
        assert_eq!(patch.extensions[0].value.as_ref().expect("a value").yaml, "\"patch\"\n");
        assert_eq!((path.name.as_str(), patch.parameters.len(), item.parameters.len()), ("/a/{name}", 1, 1));
        assert_eq!(read.definitions.expect("definitions").additional_properties[0].name, "X");
    }
}

//! Properties and cases over all encodings, on objects made at random from the schema.

use k8s_openapi::api::{apps, batch, core, networking, storage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::time::{Moment, Precision, duration_text};
use super::*;
use crate::schema::{self, Field, Message, MessageFlags, Presence, SchemaOr, Type};
use crate::value::{Map, from_value, to_value};

/// Makes objects at random; the same seed makes the same object.
struct Maker(u64);

impl Maker {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn text(&mut self) -> &'static str {
        self.pick(&[
            "",
            "a",
            "web-1",
            "ü<&>\"\\",
            "line\nbreak\u{2028}\u{7f}",
            "a-rather-long-text-that-needs-more-than-one-word",
            "日本",
        ])
    }

    fn object(&mut self, message: &Message, depth: u32) -> Value {
        let mut members = Map::new();
        for field in message.fields().iter().skip(if message.has_type_meta() { 2 } else { 0 }) {
            // The typed structs cannot do without these; everything else has a zero value there.
            let is_required_time = matches!(field.ty, Type::Time | Type::MicroTime)
                && field.presence == Presence::Always
                && !field.nullable;
            if is_required_time || self.below(5) < 2 && (depth > 0 || !is_nested(&field.ty)) {
                members.insert(&field.name, self.value(&field.ty, depth.saturating_sub(1)));
            }
        }
        Value::Object(members)
    }

    fn value(&mut self, ty: &Type, depth: u32) -> Value {
        match ty {
            Type::String => self.text().into(),
            Type::Bool => Value::Bool(self.below(2) == 0),
            Type::Int32 => Value::Int(i64::from(self.next() as i32) * self.below(2) as i64),
            Type::Int64 => Value::Int(self.next() as i64 * self.below(2) as i64),
            Type::Double => Value::Float(self.below(1000) as f64 / 8.0),
            Type::Bytes => ["", "AA==", "/+8=", "aGVsbG8gd29ybGQ="][self.below(4) as usize].into(),
            Type::Time => self.moment().text(Precision::Seconds).into(),
            Type::MicroTime => self.moment().text(Precision::Micros).into(),
            Type::Duration => duration_text(self.next() as i64 >> self.below(50)).into(),
            Type::Quantity => self.pick(&["0", "100m", "1", "1500m", "128Mi", "2Gi", "3k"]).into(),
            Type::IntOrString => {
                [Value::Int(80), Value::Int(0), Value::from("http"), Value::from("")][self.below(4) as usize].clone()
            }
            Type::Any | Type::Raw | Type::Fields => self.anything(),
            Type::Struct(message) => self.object(message, depth),
            Type::List(list) => (0..=self.below(2)).map(|_| self.value(&list.items, depth)).collect(),
            Type::Map(map) => {
                let keys = ["b", "a", "spec", "example.com/x", "", "<z>"];
                let some = 1 + self.below(5) as usize;
                Value::Object(keys.iter().take(some).map(|key| (*key, self.value(&map.values, depth))).collect())
            }
            Type::SchemaOr(or, message) => {
                let schema = json::schema_of(ty, message);
                match (or, self.below(2)) {
                    (SchemaOr::Bool, 0) => Value::Bool(self.below(2) == 0),
                    (SchemaOr::Array, 0) if depth > 0 => Value::from(vec![self.object(schema, depth - 1)]),
                    (SchemaOr::StringArray, 0) => Value::from(vec!["x", "y"]),
                    _ => self.object(schema, depth.saturating_sub(1)),
                }
            }
        }
    }

    fn moment(&mut self) -> Moment {
        let seconds = self.below(4_000_000_000) as i64 - 1_000_000_000;
        Moment::from_parts(seconds, self.below(1_000_000) as i64 * 1000).expect("within the range")
    }

    fn anything(&mut self) -> Value {
        Value::from([
            ("f:metadata", Value::from([(self.text(), Value::object())])),
            (
                "k:{\"name\":\"x\"}",
                Value::from(vec![Value::Null, Value::Int(-7), Value::Float(1.5), Value::Bool(true)]),
            ),
        ])
    }
}

fn is_nested(ty: &Type) -> bool {
    match ty {
        Type::Struct(_) | Type::SchemaOr(..) => true,
        Type::List(list) => is_nested(&list.items),
        Type::Map(map) => is_nested(&map.values),
        _ => false,
    }
}

fn has_protobuf(message: &Message) -> bool {
    !message.name().contains("meta.v1.Table") || message.short_name() == "TableOptions"
}

#[test]
fn every_kind_survives_every_way_round() {
    for (group, version, kind, message) in schema::kinds() {
        for seed in 0..3 {
            let mut value = Maker(seed).object(message, 4);
            let context = format!("{group}/{version} {kind} seed {seed}");
            assert_eq!(conform(&mut value, message), Ok(Conformed::default()), "{context}");
            let text = json::encode(&value, message);
            let mut parsed = json::parse(&text, &Limits::default()).expect(&context).value;
            assert_eq!(conform(&mut parsed, message), Ok(Conformed::default()), "{context}");
            assert_eq!(string(&json::encode(&parsed, message)), string(&text), "{context}");
            if has_protobuf(message) {
                survives_protobuf(&parsed, message, &text, &context);
            }
            complete(&mut parsed, message);
            assert_eq!(string(&json::encode_any(&parsed, json::Order::AsGiven)).len(), text.len(), "{context}");
        }
    }
}

fn survives_protobuf(value: &Value, message: &Message, text: &[u8], context: &str) {
    let bytes = protobuf::encode(value, message).expect(context);
    assert_eq!(bytes, protobuf::encode(value, message).expect(context), "{context}");
    let mut decoded = protobuf::decode(&bytes, message).expect(context);
    assert_eq!(string(&json::encode(&decoded, message)), string(text), "{context}");
    assert_eq!(protobuf::encode(&decoded, message).expect(context), bytes, "{context}");
    assert_eq!(conform(&mut decoded, message), Ok(Conformed::default()), "{context}");
    assert_eq!(string(&transcoded(&bytes, message, value).expect(context)), string(text), "{context}");
}

/// The JSON of a body with the resource version of `value` put in.
fn transcoded(body: &[u8], message: &Message, value: &Value) -> Result<Vec<u8>, DecodeError> {
    let mut form = b"before".to_vec();
    let splice = transcode::protobuf_to_json(body, message, &mut form)?;
    let mut sent = Vec::new();
    splice.write(&form[6..], None, value.str_at(&["metadata", "resourceVersion"]).unwrap_or_default(), &mut sent);
    Ok(sent)
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8")
}

fn agrees_with_typed<T: DeserializeOwned + Serialize>(group: &str, version: &str, kind: &str) {
    let message = schema::kind(group, version, kind).expect("in the table");
    for seed in 100..110 {
        let mut value = Maker(seed).object(message, 5);
        conform(&mut value, message).expect("made from the schema");
        // What `omitempty` drops is not in the typed form of the encoded object either.
        let mut value = json::parse(&json::encode(&value, message), &Limits::default()).expect("our own JSON").value;
        conform(&mut value, message).expect("our own JSON");
        let typed: T = from_value(&value).unwrap_or_else(|error| panic!("{kind} seed {seed}: {error}\n{value}"));
        let mut back = to_value(&typed).expect("a tree");
        assert_eq!(conform(&mut back, message), Ok(Conformed::default()), "{kind} seed {seed}");
        for tree in [&mut value, &mut back] {
            let members = tree.as_object_mut().expect("an object");
            members.remove("kind");
            members.remove("apiVersion");
            complete(tree, message);
            drop_empty(tree);
        }
        assert_eq!(value, back, "{kind} seed {seed}");
    }
}

/// Typed structs do not tell an empty list or map from none.
fn drop_empty(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        Value::Object(members) => {
            members.iter_mut().for_each(|(_, value)| drop_empty(value));
            members.retain(|_, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(members) => !members.is_empty(),
                _ => true,
            });
        }
        _ => {}
    }
}

#[test]
fn the_table_agrees_with_the_typed_structs() {
    agrees_with_typed::<core::v1::Pod>("", "v1", "Pod");
    agrees_with_typed::<core::v1::Node>("", "v1", "Node");
    agrees_with_typed::<core::v1::Service>("", "v1", "Service");
    agrees_with_typed::<core::v1::PersistentVolume>("", "v1", "PersistentVolume");
    agrees_with_typed::<core::v1::Secret>("", "v1", "Secret");
    agrees_with_typed::<core::v1::Event>("", "v1", "Event");
    agrees_with_typed::<apps::v1::Deployment>("apps", "v1", "Deployment");
    agrees_with_typed::<networking::v1::NetworkPolicy>("networking.k8s.io", "v1", "NetworkPolicy");
    agrees_with_typed::<apps::v1::DaemonSet>("apps", "v1", "DaemonSet");
    agrees_with_typed::<batch::v1::CronJob>("batch", "v1", "CronJob");
    agrees_with_typed::<networking::v1::Ingress>("networking.k8s.io", "v1", "Ingress");
    agrees_with_typed::<storage::v1::CSIDriver>("storage.k8s.io", "v1", "CSIDriver");
    agrees_with_typed::<apiextensions::v1::CustomResourceDefinition>(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    );
}

fn message(name: &str) -> &'static Message {
    schema::message(name).expect("in the table")
}

fn tree(json: &str) -> Value {
    serde_json::from_str(json).expect("the test's JSON")
}

#[test]
fn absent_members_are_written_as_go_writes_them() {
    let check = |group: &str, kind: &str, given: &str, expected: &str| {
        let message = schema::kind(group, "v1", kind).expect("in the table");
        assert_eq!(string(&json::encode(&tree(given), message)), expected);
        let bytes = protobuf::encode(&tree(given), message).expect("conforms");
        assert_eq!(string(&transcoded(&bytes, message, &Value::Null).expect("our own bytes")), expected);
    };
    check(
        "apps",
        "Deployment",
        "{}",
        r#"{"metadata":{},"spec":{"selector":null,"template":{"metadata":{},"spec":{"containers":null}},"strategy":{}},"status":{}}"#,
    );
    check(
        "",
        "ConfigMap",
        r#"{"data":{"b":"","a":"<"},"metadata":{"name":"x"}}"#,
        r#"{"metadata":{"name":"x"},"data":{"a":"\u003c","b":""}}"#,
    );
    check(
        "",
        "Pod",
        r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":80}},"name":"c","resources":{}}],"terminationGracePeriodSeconds":0}}"#,
        r#"{"metadata":{},"spec":{"containers":[{"name":"c","resources":{},"livenessProbe":{"httpGet":{"port":80}}}],"terminationGracePeriodSeconds":0},"status":{}}"#,
    );
    // A condition's time is a struct: it cannot be left out.
    check(
        "",
        "Namespace",
        r#"{"status":{"conditions":[{"type":"A","status":"True"}]}}"#,
        r#"{"metadata":{},"spec":{},"status":{"conditions":[{"type":"A","status":"True","lastTransitionTime":null}]}}"#,
    );
}

#[test]
fn protobuf_is_what_generated_code_writes() {
    // metadata {name x, three empty texts, uid, resourceVersion, generation, creationTimestamp}, labels;
    // spec {containers [{name c, image i, workingDir, resources, terminationMessagePath, imagePullPolicy, stdin, stdinOnce, tty, …}], …}
    let pod =
        tree(r#"{"metadata":{"name":"x","labels":{"b":"2","a":"1"},"creationTimestamp":"1970-01-01T00:00:01Z"}}"#);
    let bytes = protobuf::encode(&pod, message("io.k8s.api.core.v1.Pod")).expect("conforms");
    let metadata: &[u8] = &[
        0x0a, 0x29, //
        0x0a, 1, b'x', 0x12, 0, 0x1a, 0, 0x22, 0, 0x2a, 0, 0x32, 0, 0x38, 0, //
        0x42, 4, 0x08, 1, 0x10, 0, //
        0x5a, 6, 0x0a, 1, b'a', 0x12, 1, b'1', //
        0x5a, 6, 0x0a, 1, b'b', 0x12, 1, b'2',
    ];
    // The length byte is computed here so that the table above stays readable.
    let mut expected = metadata.to_vec();
    expected[1] = (metadata.len() - 2) as u8;
    assert_eq!(bytes[..expected.len()], expected);
    let container =
        protobuf::encode(&tree(r#"{"name":"c","image":"i","stdin":true}"#), message("io.k8s.api.core.v1.Container"));
    let expected: &[u8] = &[
        0x0a, 1, b'c', 0x12, 1, b'i', 0x2a, 0, 0x42, 0, 0x6a, 0, 0x72, 0, //
        0x80, 0x01, 1, 0x88, 0x01, 0, 0x90, 0x01, 0, 0xa2, 0x01, 0,
    ];
    assert_eq!(container.expect("conforms"), expected);
    let port = protobuf::encode(&tree(r#"{"port":"http"}"#), message("io.k8s.api.core.v1.TCPSocketAction"));
    assert_eq!(port.expect("conforms"), b"\x0a\x0a\x08\x01\x10\x00\x1a\x04http\x12\x00");
}

#[test]
fn lengths_of_more_than_a_byte_are_moved_into_place() {
    for len in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
        let text = "x".repeat(len);
        let value = Value::from([("data", Value::from([("key", text.as_str())]))]);
        let config_map = message("io.k8s.api.core.v1.ConfigMap");
        let bytes = protobuf::encode(&value, config_map).expect("conforms");
        assert_eq!(
            protobuf::decode(&bytes, config_map).expect("our own bytes").str_at(&["data", "key"]),
            Some(text.as_str())
        );
    }
}

#[test]
fn scattered_and_repeated_fields_are_merged() {
    let pod = message("io.k8s.api.core.v1.Pod");
    // name x; spec; name y and namespace n in a second piece of metadata; an unknown field
    let bytes = b"\x0a\x03\x0a\x01x\x12\x00\x0a\x06\x0a\x01y\x1a\x01n\xf8\x07\x01";
    let value = protobuf::decode(bytes, pod).expect("well formed");
    assert_eq!(value.at(&["metadata"]), Some(&tree(r#"{"name":"y","namespace":"n"}"#)));
    assert_eq!(transcoded(bytes, pod, &value).expect("well formed"), json::encode(&value, pod));
}

#[test]
fn maps_out_of_order_are_sorted() {
    let config_map = message("io.k8s.api.core.v1.ConfigMap");
    let bytes = b"\x12\x06\x0a\x01b\x12\x01\x31\x12\x06\x0a\x01a\x12\x01\x32\x12\x06\x0a\x01b\x12\x01\x33";
    let value = protobuf::decode(bytes, config_map).expect("well formed");
    let text = transcoded(bytes, config_map, &value).expect("well formed");
    assert_eq!(string(&text), r#"{"metadata":{},"data":{"a":"2","b":"3"}}"#);
    assert_eq!(json::encode(&value, config_map), text);
}

#[test]
fn what_is_not_stored_is_spliced_in() {
    let pod = message("io.k8s.api.core.v1.Pod");
    let check = |stored: &str, expected: &str| {
        let body = protobuf::encode(&tree(stored), pod).expect("conforms");
        let mut form = Vec::new();
        let splice = transcode::protobuf_to_json(&body, pod, &mut form).expect("our own bytes");
        let mut sent = Vec::new();
        splice.write(&form, Some(("v1", "Pod")), "42", &mut sent);
        let spec = r#""spec":{"containers":null},"status":{}"#;
        assert_eq!(string(&sent), format!(r#"{{"kind":"Pod","apiVersion":"v1","metadata":{expected},{spec}}}"#));
        let located =
            transcode::ProtobufSplicer::of(pod).and_then(|splicer| splicer.locate(&body)).expect("our own bytes");
        let mut sent = Vec::new();
        located.write(&body, "42", &mut sent);
        assert_eq!(sent.len(), located.spliced_len(&body, "42"));
        let mut versioned = tree(stored);
        versioned.as_object_mut().expect("an object").get_or_insert_object("metadata").insert("resourceVersion", "42");
        assert_eq!(sent, protobuf::encode(&versioned, pod).expect("conforms"));
    };
    check("{}", r#"{"resourceVersion":"42"}"#);
    check(r#"{"metadata":{"name":"x"}}"#, r#"{"name":"x","resourceVersion":"42"}"#);
    check(r#"{"metadata":{"generation":1}}"#, r#"{"resourceVersion":"42","generation":1}"#);
    check(r#"{"metadata":{"name":"x","generation":1}}"#, r#"{"name":"x","resourceVersion":"42","generation":1}"#);
    // A body whose writer left empty members out.
    let located = transcode::ProtobufSplicer::of(pod)
        .and_then(|splicer| splicer.locate(b"\x0a\x05\x0a\x01x\x38\x01"))
        .expect("well formed");
    let mut sent = Vec::new();
    located.write(b"\x0a\x05\x0a\x01x\x38\x01", "7", &mut sent);
    assert_eq!(sent, b"\x0a\x08\x0a\x01x\x32\x017\x38\x01");
}

#[test]
fn type_faults_are_worded_as_in_go() {
    let check = |group: &str, kind: &str, json: &str, expected: &str| {
        let mut value = tree(json);
        let error = conform(&mut value, schema::kind(group, "v1", kind).expect("in the table")).expect_err(json);
        assert_eq!(error.to_string(), expected, "{json}");
    };
    let go = |found: &str, place: &str, ty: &str| {
        format!("json: cannot unmarshal {found} into Go struct field {place} of type {ty}")
    };
    check("apps", "Deployment", r#"{"spec":{"replicas":"3"}}"#, &go("string", "DeploymentSpec.spec.replicas", "int32"));
    check(
        "apps",
        "Deployment",
        r#"{"spec":{"replicas":1.5}}"#,
        &go("number 1.5", "DeploymentSpec.spec.replicas", "int32"),
    );
    check(
        "apps",
        "Deployment",
        r#"{"spec":{"replicas":3000000000}}"#,
        &go("number 3000000000", "DeploymentSpec.spec.replicas", "int32"),
    );
    check("apps", "Deployment", r#"{"spec":[]}"#, &go("array", "Deployment.spec", "v1.DeploymentSpec"));
    check("", "Pod", r#"{"metadata":{"name":7}}"#, &go("number", "ObjectMeta.metadata.name", "string"));
    check("", "Pod", r#"{"metadata":{"labels":{"a":true}}}"#, &go("bool", "ObjectMeta.metadata.labels", "string"));
    check("", "Pod", r#"{"spec":{"containers":{}}}"#, &go("object", "PodSpec.spec.containers", "[]v1.Container"));
    check(
        "",
        "Pod",
        r#"{"spec":{"containers":[{"image":1}]}}"#,
        &go("number", "Container.spec.containers.image", "string"),
    );
    check("", "Pod", r#"{"spec":{"containers":["x"]}}"#, &go("string", "PodSpec.spec.containers", "v1.Container"));
    check(
        "",
        "Pod",
        r#"{"spec":{"restartPolicy":1}}"#,
        &go("number", "PodSpec.spec.restartPolicy", "v1.RestartPolicy"),
    );
    check(
        "",
        "Pod",
        r#"{"spec":{"volumes":[{"hostPath":1}]}}"#,
        &go("number", "Volume.spec.volumes.hostPath", "v1.HostPathVolumeSource"),
    );
    check(
        "",
        "Pod",
        r#"{"metadata":{"creationTimestamp":"x"}}"#,
        r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
    );
    check("", "Secret", r#"{"data":{"a":"a%"}}"#, "illegal base64 data at input byte 1");
    check(
        "",
        "Pod",
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check(
        "",
        "Service",
        r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
        "json: cannot unmarshal bool into Go value of type int32",
    );
    let mut list = Value::Array(vec![]);
    let error = conform(&mut list, message("io.k8s.api.core.v1.Pod")).expect_err("no object");
    assert_eq!(error.to_string(), "json: cannot unmarshal array into Go value of type v1.Pod");
}

#[test]
fn unknown_members_are_pruned_and_reported() {
    let mut value = tree(
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":"b","foo":1}]},"kind":"x"},"Replicas":1},
        "metadata":{"labels":{"any":"thing"},"nope":{}}}"#,
    );
    let conformed = conform(&mut value, message("io.k8s.api.apps.v1.Deployment")).expect("of the right types");
    assert_eq!(
        conformed.unknown,
        ["spec.template.spec.containers[1].foo", "spec.template.kind", "spec.Replicas", "metadata.nope"]
    );
    assert_eq!(
        value,
        tree(
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}},"metadata":{"labels":{"any":"thing"}}}"#
        )
    );
}

#[test]
fn complaints_come_in_the_order_of_the_text() {
    // What upstream's own test of field validation posts, shortened.
    let text = r#"{"spec":{"unknown1":"a","unknownDupe":{"k":1,"k":2},"unknownDupe":"b","paused":true,"paused":false,
        "template":{"spec":{"containers":[{"name":"c","unknownNested":1,"image":"i","image":"j"}]}}},"spec":{}}"#;
    let parsed = json::parse(text.as_bytes(), &Limits::default()).expect("JSON");
    let unknown = ["spec.unknown1", "spec.unknownDupe", "spec.template.spec.containers[0].unknownNested"];
    let unknown = unknown.map(str::to_owned);
    let faults = strict_faults(Some(text.as_bytes()), &unknown, &parsed.duplicates);
    assert_eq!(
        faults,
        [
            r#"unknown field "spec.unknown1""#,
            r#"unknown field "spec.unknownDupe""#,
            r#"duplicate field "spec.paused""#,
            r#"unknown field "spec.template.spec.containers[0].unknownNested""#,
            r#"duplicate field "spec.template.spec.containers[0].image""#,
            r#"duplicate field "spec""#,
        ]
    );
    assert_eq!(
        strict_error(&faults[..2]).as_deref(),
        Some(r#"strict decoding error: unknown field "spec.unknown1", unknown field "spec.unknownDupe""#)
    );
    assert_eq!(strict_error(&strict_faults(Some(b"{}"), &[], &[])), None);
}

#[test]
fn what_a_strategic_merge_patch_made_is_converted_not_decoded() {
    let check = |text: &str, expected: Result<&str, &str>| {
        let mut value = tree(text);
        let converted = conform_converted(&mut value, message("io.k8s.api.apps.v1.Deployment"));
        assert_eq!(
            converted.map(|_| value),
            expected.map(tree).map_err(|why| DecodeError::Type(why.to_owned())),
            "{text}"
        );
    };
    check(r#"{"spec":{"replicas":2.0}}"#, Ok(r#"{"spec":{"replicas":2}}"#));
    check(r#"{"spec":{"replicas":2.5}}"#, Err("cannot convert float64 to int32"));
    check(r#"{"spec":{"replicas":"2"}}"#, Err("unrecognized type: int32"));
    check(r#"{"spec":{"paused":1}}"#, Err("unrecognized type: bool"));
    check(r#"{"spec":[]}"#, Err("cannot restore struct from: slice"));
    check(r#"{"metadata":{"labels":{"a":1}}}"#, Err("cannot convert int64 to string"));
    check(r#"{"metadata":{"labels":{"a":true}}}"#, Err("unrecognized type: string"));
    check(r#"{"metadata":{"labels":"a"}}"#, Err("cannot restore map from string"));
    check(r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#, Err("cannot restore slice from map"));
}

#[test]
fn special_values_become_canonical_and_nulls_vanish() {
    let mut value = tree(
        r#"{"metadata":{"name":null,"creationTimestamp":"2024-01-01T01:00:00.5+01:00","labels":{"a":null}},
        "spec":{"containers":[null,{"resources":{"limits":{"cpu":0.1,"memory":" 1024Mi "}},"args":[null]}],"nodeSelector":null}}"#,
    );
    conform(&mut value, message("io.k8s.api.core.v1.Pod")).expect("of the right types");
    assert_eq!(
        value,
        tree(
            r#"{"metadata":{"creationTimestamp":"2024-01-01T00:00:00Z","labels":{"a":""}},
            "spec":{"containers":[{},{"resources":{"limits":{"cpu":"100m","memory":"1Gi"}},"args":[""]}]}}"#
        )
    );
    let mut secret = tree(r#"{"data":{"a":"aGVs\nbG8=","b":"YR=="}}"#);
    conform(&mut secret, message("io.k8s.api.core.v1.Secret")).expect("base64");
    assert_eq!(secret, tree(r#"{"data":{"a":"aGVsbG8=","b":"YQ=="}}"#));
}

#[test]
fn custom_resources_are_pruned_without_a_look_at_types() {
    let inner = Message::new("Inner", MessageFlags::default(), vec![Field::new("a", Type::Int64)]);
    let open = Message::new("Open", MessageFlags { open: true, ..Default::default() }, vec![]);
    let fields = vec![
        Field::new("inner", Type::Struct(schema::MessageRef::new(inner.into()))),
        Field::new("open", Type::Struct(schema::MessageRef::new(open.into()))),
    ];
    let root = Message::new("Root", MessageFlags { type_meta: false, ..Default::default() }, fields);
    let mut value = tree(r#"{"inner":{"a":"text","b":1},"open":{"x":1},"other":2}"#);
    assert_eq!(prune(&mut value, &root).unknown, ["inner.b", "other"]);
    assert_eq!(value, tree(r#"{"inner":{"a":"text"},"open":{"x":1}}"#));
}

#[test]
fn depth_is_bounded_everywhere() {
    let limits = Limits::default();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deepest = json::parse(nested(limits.depth).as_bytes(), &limits).expect("as deep as is allowed").value;
    assert_eq!(json::encode_any(&deepest, json::Order::Sorted), nested(limits.depth).as_bytes());
    assert_eq!(
        json::parse(nested(limits.depth + 1).as_bytes(), &limits),
        Err(DecodeError::Limit("exceeded max depth".to_owned()))
    );
    let schema = message("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let not = schema.field("not").expect("a field").number;
    let deep = |depth: usize| {
        let mut bytes = Vec::new();
        for _ in 0..depth {
            let mut outer = Vec::new();
            protobuf::write_varint(u64::from(not << 3 | 2), &mut outer);
            protobuf::write_varint(bytes.len() as u64, &mut outer);
            outer.extend_from_slice(&bytes);
            bytes = outer;
        }
        bytes
    };
    let fits = deep(protobuf::DEPTH_MAX - 1);
    let mut value = protobuf::decode(&fits, schema).expect("as deep as is allowed");
    assert!(conform(&mut value, schema).is_ok());
    assert!(transcoded(&fits, schema, &Value::Null).is_ok_and(|text| text == json::encode(&value, schema)));
    let too_deep = deep(protobuf::DEPTH_MAX);
    assert!(matches!(protobuf::decode(&too_deep, schema), Err(DecodeError::Limit(_))));
    assert!(matches!(transcoded(&too_deep, schema, &Value::Null), Err(DecodeError::Limit(_))));
}

#[test]
fn raw_bytes_may_hold_a_whole_object() {
    let pod =
        protobuf::encode(&tree(r#"{"metadata":{"name":"x"}}"#), message("io.k8s.api.core.v1.Pod")).expect("conforms");
    let enveloped = envelope::wrap("v1", "Pod", &pod);
    let mut bytes = vec![0x0a, 5];
    bytes.extend_from_slice(b"ADDED\x12");
    let mut raw = vec![0x0a];
    protobuf::write_varint(enveloped.len() as u64, &mut raw);
    raw.extend_from_slice(&enveloped);
    protobuf::write_varint(raw.len() as u64, &mut bytes);
    bytes.extend_from_slice(&raw);
    let event =
        protobuf::decode(&bytes, message("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent")).expect("well formed");
    assert_eq!(event.str_at(&["object", "metadata", "name"]), Some("x"));
    assert_eq!(event.str_at(&["object", "kind"]), Some("Pod"));
}

fn bodies() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let kinds = schema::kinds().count();
    (0..kinds, any::<u64>(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
        |(kind, seed, changes)| {
            let message = schema::kinds().nth(kind).expect("below the count").3;
            let mut value = Maker(seed).object(message, 3);
            conform(&mut value, message).expect("made from the schema");
            let mut bytes = protobuf::encode(&value, message).unwrap_or_default();
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            (kind, bytes)
        },
    )
}

proptest! {
    #[test]
    fn damaged_bodies_are_read_alike_or_refused((kind, bytes) in bodies()) {
        let message = schema::kinds().nth(kind).expect("below the count").3;
        let decoded = protobuf::decode(&bytes, message);
        let form = decoded.clone().ok().map(|mut value| {
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
            }
            json::encode(&value, message)
        });
        if let (Some(form), Ok(text)) = (form, transcoded(&bytes, message, &Value::Null)) {
            prop_assert_eq!(string(&form), string(&text));
        }
        if let Ok(splice) = transcode::ProtobufSplicer::of(message).and_then(|splicer| splicer.locate(&bytes)) {
            let mut sent = Vec::new();
            splice.write(&bytes, "9", &mut sent);
            prop_assert_eq!(sent.len(), splice.spliced_len(&bytes, "9"));
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,\"\\\\0-9a-z.&*<>!|\n -]{0,60}") {
        let pod = message("io.k8s.api.core.v1.Pod");
        for input in [bytes.as_slice(), text.as_bytes()] {
            let json = json::parse(input, &Limits::default());
            if let Ok(parsed) = json {
                let again = json::encode_any(&parsed.value, json::Order::AsGiven);
                prop_assert_eq!(json::parse(&again, &Limits::default()).expect("our own JSON").value, parsed.value);
            }
            prop_assert_eq!(json::is_normal(input), json::is_normal(input) && json::parse(input, &Limits::default()).is_ok());
            drop(yaml::parse(input, &Limits::default()));
            drop(envelope::unwrap(input));
            drop(protobuf::decode(input, pod));
            drop(transcode::protobuf_to_json(input, pod, &mut Vec::new()));
            drop(transcode::ProtobufSplicer::of(pod).and_then(|splicer| splicer.locate(input)));
        }
    }

    #[test]
    fn json_is_read_as_serde_reads_it(text in "[\\[\\]{}:,\"\\\\ue0-9a-f.+ -]{0,24}") {
        let ours = json::parse(text.as_bytes(), &Limits::default());
        let theirs = serde_json::from_str::<Value>(&text);
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.value, theirs),
            (Err(_), Err(_)) => {}
            // Half a surrogate pair is replaced here, as in Go, and refused there.
            (Ok(_), Err(_)) => prop_assert!(text.contains("\\u")),
            (Err(error), Ok(theirs)) => prop_assert!(false, "{}: {} but {}", text, error, theirs),
        }
    }
}

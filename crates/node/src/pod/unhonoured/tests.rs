//! Cases, and the walk over every field of a pod: each is honoured somewhere or in the table.

use api::schema::{Message, Type, message};

use super::*;

fn check(json: &str, expected: &[&str]) {
    let pod: Pod = serde_json::from_str(json).unwrap();
    assert_eq!(used(&pod), expected);
}

#[test]
fn names_the_field_by_its_path() {
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b","ports":[{"containerPort":1,"hostPort":2}]}]}}"#,
        &["spec.containers[1].ports[0].hostPort"],
    );
    check(r#"{"spec":{"containers":[],"hostNetwork":true,"hostPID":false}}"#, &["spec.hostNetwork"]);
    check(
        r#"{"spec":{"containers":[],"volumes":[{"name":"x","emptyDir":{"medium":"Memory"}},{"name":"y","nfs":{"server":"s","path":"p"}}]}}"#,
        &["spec.volumes[1].nfs"],
    );
}

#[test]
fn defaults_are_not_uses() {
    check(r#"{"spec":{"containers":[{"name":"a","livenessProbe":{"httpGet":{"port":1,"scheme":"HTTP"}}}]}}"#, &[]);
}

/// Every path below a message that no entry of `known` covers.
fn walk_fields(shape: &Message, path: &str, known: &dyn Fn(&str) -> bool, missing: &mut Vec<String>) {
    for field in shape.fields() {
        let path = format!("{path}.{}", field.name);
        if known(&path) {
            continue;
        }
        let list = matches!(field.ty, Type::List(_));
        match field.message() {
            Some(inner) => walk_fields(inner, &if list { format!("{path}.*") } else { path }, known, missing),
            None => missing.push(path),
        }
    }
}

fn covered(path: &str, entry: &str) -> bool {
    path == entry
}

#[test]
fn every_field_of_a_pod_is_honoured_or_in_the_table() {
    let spec = message("io.k8s.api.core.v1.PodSpec").unwrap();
    let known = |path: &str| {
        UNHONOURED.iter().any(|(entry, _)| covered(path, entry))
            || HONOURED.iter().any(|(entry, _, _)| covered(path, entry))
    };
    let mut missing = Vec::new();
    walk_fields(spec, "spec", &known, &mut missing);
    assert!(missing.is_empty(), "neither honoured nor refused:\n{}", missing.join("\n"));
}

const HONOURED: &[(&str, &str, &str)] = &[];

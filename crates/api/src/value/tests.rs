//! Cases for the tree and its conversions.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;

fn tree(json: &str) -> Value {
    serde_json::from_str(json).expect("the test's JSON")
}

#[test]
fn numbers_are_integers_where_they_fit() {
    for (json, expected) in [
        ("1", Value::Int(1)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("1.5", Value::Float(1.5)),
    ] {
        assert_eq!(tree(json), expected, "{json}");
    }
    assert!(matches!(tree("9223372036854775808"), Value::Float(_)));
    assert!(matches!(Value::from(u64::MAX), Value::Float(_)));
}

#[test]
fn whole_floats_equal_integers() {
    assert_eq!(Value::Float(2.0), Value::Int(2));
    assert_ne!(Value::Float(2.5), Value::Int(2));
    assert_ne!(Value::Float(9_223_372_036_854_775_808.0), Value::Int(i64::MAX));
}

#[test]
fn paths_lead_through_objects_only() {
    let value = tree(r#"{"metadata":{"name":"x"},"list":[1]}"#);
    assert_eq!(value.at(&["metadata", "name"]), Some(&Value::from("x")));
    assert_eq!(value.str_at(&["metadata", "name"]), Some("x"));
    assert_eq!(value.at(&["list", "0"]), None);
    assert_eq!(value.at(&[]), Some(&value));
}

#[test]
fn typed_structs_are_made_and_turned_back_without_text() {
    let value = tree(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"y"},"creationTimestamp":"2024-01-02T03:04:05Z"},
        "spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1"}},
        "livenessProbe":{"httpGet":{"port":"http"},"periodSeconds":3}}]}}"#,
    );
    let pod: Pod = from_value(&value).expect("a pod");
    assert_eq!(pod.metadata.name.as_deref(), Some("a"));
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    let port = container.liveness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()).map(|get| get.port.clone());
    assert_eq!(port, Some(IntOrString::String("http".to_owned())));
    assert_eq!(to_value(&pod).expect("a tree"), value);
}

#[test]
fn misfits_are_errors() {
    let value = tree(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":7}}"#);
    assert!(from_value::<Pod>(&value).is_err());
    assert!(to_value(&std::collections::BTreeMap::from([((1, 2), 3)])).is_err());
}

#[test]
fn enums_are_names_or_objects_of_one_member() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Shape {
        Empty,
        Round(i32),
        Square { side: i32 },
        Pair(i32, i32),
    }
    for shape in [Shape::Empty, Shape::Round(1), Shape::Square { side: 2 }, Shape::Pair(3, 4)] {
        let value = to_value(&shape).expect("a tree");
        assert_eq!(from_value::<Shape>(&value), Ok(shape));
    }
}

//! Cases for strategic merge patch, after the behaviours that upstream documents.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::patch::json::tests::{any_tree, tree};
use crate::schema;

fn pod() -> &'static Message {
    schema::kind("", "v1", "Pod").expect("Pod is built in")
}

fn patched(kind: (&str, &str, &str), target: &str, patch: &str) -> Result<Value, String> {
    let message = schema::kind(kind.0, kind.1, kind.2).expect("a built-in kind");
    let mut result = tree(target);
    apply(&mut result, &tree(patch), message).map(|()| result).map_err(|error| error.to_string())
}

fn check_kind(kind: (&str, &str, &str), target: &str, patch: &str, expected: &str) {
    assert_eq!(patched(kind, target, patch), Ok(tree(expected)), "{target} patched by {patch}");
}

fn check(target: &str, patch: &str, expected: &str) {
    check_kind(("", "v1", "Pod"), target, patch, expected);
}

fn fails(target: &str, patch: &str, expected: &str) {
    assert_eq!(patched(("", "v1", "Pod"), target, patch), Err(expected.to_owned()), "{target} patched by {patch}");
}

#[test]
fn merges_objects_and_maps() {
    check(
        r#"{"spec":{"nodeName":"a"}}"#,
        r#"{"spec":{"hostname":"b"}}"#,
        r#"{"spec":{"nodeName":"a","hostname":"b"}}"#,
    );
    check(r#"{"spec":{"nodeName":"a"}}"#, r#"{"spec":{"nodeName":null}}"#, r#"{"spec":{}}"#);
    check(
        r#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#,
        r#"{"metadata":{"labels":{"b":null,"c":"3"}}}"#,
        r#"{"metadata":{"labels":{"a":"1","c":"3"}}}"#,
    );
    check("{}", r#"{"metadata":{"labels":{"b":null,"c":"3"}}}"#, r#"{"metadata":{"labels":{"c":"3"}}}"#);
    check("{}", r#"{"metadata":{"labels":null}}"#, r#"{"metadata":{}}"#);
}

#[test]
fn merges_lists_by_their_key() {
    check(
        r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b","image":"2"}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"}]}}"#,
    );
    check(
        r#"{"spec":{"containers":[{"name":"a","image":"1"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b","image":"2"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b","image":"2"},{"name":"a","image":"1"}]}}"#,
    );
    check(
        r#"{"spec":{"containers":[{"name":"a","env":[{"name":"X","value":"1"},{"name":"Y","value":"2"}]}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","env":[{"name":"Y","$patch":"delete"},{"name":"Z","value":"3"}]}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","env":[{"name":"Z","value":"3"},{"name":"X","value":"1"}]}]}}"#,
    );
    // Ports are told apart by number.
    check(
        r#"{"spec":{"containers":[{"name":"a","ports":[{"containerPort":80}]}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","ports":[{"containerPort":80,"name":"http"}]}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","ports":[{"containerPort":80,"name":"http"}]}]}}"#,
    );
    // Tolerations are replaced as a whole.
    check(
        r#"{"spec":{"tolerations":[{"key":"a"},{"key":"b"}]}}"#,
        r#"{"spec":{"tolerations":[{"key":"c"}]}}"#,
        r#"{"spec":{"tolerations":[{"key":"c"}]}}"#,
    );
}

#[test]
fn obeys_replace_and_delete() {
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#,
        r#"{"spec":{"containers":[{"name":"c"},{"$patch":"replace"}]}}"#,
        r#"{"spec":{"containers":[{"name":"c"}]}}"#,
    );
    check(
        r#"{"spec":{"nodeName":"a","hostname":"b"}}"#,
        r#"{"spec":{"$patch":"replace","hostname":"c"}}"#,
        r#"{"spec":{"hostname":"c"}}"#,
    );
    check(r#"{"spec":{"nodeName":"a"}}"#, r#"{"spec":{"$patch":"delete"}}"#, r#"{"spec":{}}"#);
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"}]}}"#,
    );
    // Where nothing was there is nothing to delete.
    check(
        "{}",
        r#"{"spec":{"containers":[{"name":"a","$patch":"delete"},{"name":"b"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"}]}}"#,
    );
}

#[test]
fn merges_lists_of_scalars() {
    check(
        r#"{"metadata":{"finalizers":["a","b"]}}"#,
        r#"{"metadata":{"finalizers":["c"]}}"#,
        r#"{"metadata":{"finalizers":["c","a","b"]}}"#,
    );
    check(
        r#"{"metadata":{"finalizers":["a","b","c"]}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"]}}"#,
        r#"{"metadata":{"finalizers":["a","c"]}}"#,
    );
    check(
        r#"{"metadata":{"finalizers":["a","b"]}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"],"$setElementOrder/finalizers":["c","a"],"finalizers":["c"]}}"#,
        r#"{"metadata":{"finalizers":["c","a"]}}"#,
    );
    check(r#"{"metadata":{}}"#, r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"]}}"#, r#"{"metadata":{}}"#);
}

#[test]
fn orders_lists_as_asked() {
    check(
        r#"{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}]}}"#,
        r#"{"spec":{"containers":[{"name":"b"},{"name":"c"},{"name":"a"}]}}"#,
    );
    check(
        r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"n"},{"name":"b"}],"containers":[{"name":"a","image":"2"},{"name":"n"}]}}"#,
        r#"{"spec":{"containers":[{"name":"a","image":"2"},{"name":"n"},{"name":"b"}]}}"#,
    );
    check(
        "{}",
        r#"{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"a"}]}}"#,
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
    );
    fails(
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"a"},{"name":"b"}],"containers":[{"name":"b"},{"name":"a"}]}}"#,
        "the order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]",
    );
}

#[test]
fn obeys_retain_keys() {
    let deployment = ("apps", "v1", "Deployment");
    check_kind(
        deployment,
        r#"{"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}}"#,
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
        r#"{"spec":{"strategy":{"type":"Recreate"}}}"#,
    );
    check(
        r#"{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#,
        r#"{"spec":{"volumes":[{"$retainKeys":["name","configMap"],"name":"v","configMap":{"name":"c"}}]}}"#,
        r#"{"spec":{"volumes":[{"name":"v","configMap":{"name":"c"}}]}}"#,
    );
    fails(
        r#"{"spec":{"volumes":[{"name":"v"}]}}"#,
        r#"{"spec":{"volumes":[{"$retainKeys":["name"],"name":"v","configMap":{"name":"c"}}]}}"#,
        "invalid patch format of retainKeys",
    );
    fails(r#"{"spec":{}}"#, r#"{"spec":{"$retainKeys":"name"}}"#, "invalid patch format of retainKeys");
}

#[test]
fn words_errors_as_upstream() {
    fails(
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        r#"{"spec":{"containers":[{"image":"x","command":["y","z"]}]}}"#,
        "map: map[command:[y z] image:x] does not contain declared merge key: name",
    );
    fails(
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        r#"{"spec":{"containers":[{"$patch":"delete"}]}}"#,
        "map: map[$patch:delete] does not contain declared merge key: name",
    );
    fails(r#"{"spec":{}}"#, r#"{"spec":{"$patch":"x"}}"#, "unknown patch type: x in map: map[$patch:x]");
    fails(
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        r#"{"spec":{"containers":["a"]}}"#,
        "list element types are not identical: [[map[name:a]] [a]]",
    );
    fails(
        r#"{"metadata":{"finalizers":[["a"]]}}"#,
        r#"{"metadata":{"finalizers":["a"]}}"#,
        "lists of lists are not supported",
    );
    fails(
        r#"{"spec":{"odd":{}}}"#,
        r#"{"spec":{"odd":{"a":1}}}"#,
        "unable to find api field in struct PodSpec for the json field \"odd\"",
    );
    fails("{}", r#"{"$deleteFromPrimitiveList":["a"]}"#, "invalid patch format of primitive list");
    fails("{}", r#"{"$setElementOrder":["a"]}"#, "invalid patch format of setElementOrder list");
    fails(
        r#"{"spec":{"containers":{}}}"#,
        r#"{"spec":{"$setElementOrder/containers":[]}}"#,
        "expected a []interface {}, but received a map[string]interface {}",
    );
    fails("{}", "[]", "invalid JSON document");
}

#[test]
fn long_lists_take_no_quadratic_time() {
    let items = |count: usize| -> Vec<Value> { (0..count).map(|at| Value::from([("name", at.to_string())])).collect() };
    let object = |items: Vec<Value>| Value::from([("spec", Value::from([("containers", Value::Array(items))]))]);
    let mut target = object(items(30_000));
    let mut reversed = items(30_000);
    reversed.reverse();
    apply(&mut target, &object(reversed.clone()), pod()).expect("a good patch");
    assert_eq!(target, object(reversed));
}

/// Names that mean something to a pod's schema, and directives.
fn any_patch() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "metadata|spec|containers|name|labels|finalizers|env|ports|containerPort|volumes",
        Just("$patch".to_owned()),
        Just("$retainKeys".to_owned()),
        "\\$(setElementOrder|deleteFromPrimitiveList)/(containers|finalizers|env|name)",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        "[ab]|delete|replace|merge|name".prop_map(Value::from),
        (0i64..3).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((key.clone(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn never_panics(mut target in any_patch(), patch in any_patch()) {
        // Refused or not, it comes back.
        drop(apply(&mut target, &patch, pod()));
    }

    #[test]
    fn never_panics_on_any_tree(mut target in any_tree(), patch in any_tree()) {
        drop(apply(&mut target, &patch, pod()));
    }

    #[test]
    fn applying_twice_changes_nothing_more(containers in vec("[a-c]", 0..5), change in vec("[a-e]", 0..4)) {
        let object = |names: &[String]| {
            let mut seen = std::collections::BTreeSet::new();
            let items: Vec<Value> =
                names.iter().filter(|name| seen.insert((*name).clone())).map(|name| Value::from([("name", name)])).collect();
            Value::from([("spec", Value::from([("containers", Value::Array(items))]))])
        };
        let mut once = object(&containers);
        apply(&mut once, &object(&change), pod()).expect("a good patch");
        let mut twice = once.clone();
        apply(&mut twice, &object(&change), pod()).expect("a good patch");
        prop_assert_eq!(once, twice);
    }
}

//! RFC 7386: the patch is a picture of the result, null where something is to go.

use crate::value::{Map, Value};

use super::DEPTH_MAX;

/// The patch nests deeper than any object may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("patch is nested more than 256 levels deep")]
pub struct TooDeep;

/// Changes `target` as the patch says.
///
/// # Errors
/// When the patch is nested too deep; the target is unchanged then.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), TooDeep> {
    if !super::fits(patch, DEPTH_MAX) {
        return Err(TooDeep);
    }
    merge(target, patch);
    Ok(())
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !matches!(target, Value::Object(_)) {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            members.remove(key);
        } else if let Some(member) = members.get_mut(key) {
            merge(member, change);
        } else {
            // Into nothing, so that nulls inside the change leave nothing.
            let mut member = Value::Null;
            merge(&mut member, change);
            members.insert(key, member);
        }
    }
}

/// The smallest patch that makes `new` of `old`. (A null that `new` has and `old` has not cannot be said.)
pub fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (old, new) else { return new.clone() };
    let mut changes = Map::new();
    for (key, value) in after {
        match before.get_key(key) {
            Some(old) if old == value => {}
            Some(old @ Value::Object(_)) if matches!(value, Value::Object(_)) => {
                changes.insert(key, difference(old, value));
            }
            // An object that takes the place of a scalar would otherwise be read as a change of it, to the same effect.
            _ => {
                changes.insert(key, value);
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        changes.insert(key, Value::Null);
    }
    Value::Object(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::patch::json::tests::{any_tree, tree};

    fn check(target: &str, patch: &str, expected: &str) {
        let mut result = tree(target);
        apply(&mut result, &tree(patch)).expect("a shallow patch");
        assert_eq!(result, tree(expected), "{target} patched by {patch}");
    }

    #[test]
    fn does_as_the_rfcs_examples() {
        check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"a":null}"#, "{}");
        check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#);
        check(r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#);
        check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    }

    fn without_nulls(value: Value) -> Value {
        match value {
            Value::Object(members) => Value::Object(
                members
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            ),
            other => other,
        }
    }

    proptest! {
        #[test]
        fn differences_lead_from_old_to_new(old in any_tree(), new in any_tree()) {
            let new = without_nulls(new);
            let mut result = old.clone();
            apply(&mut result, &difference(&old, &new)).expect("a shallow patch");
            prop_assert_eq!(result, new);
        }
    }
}

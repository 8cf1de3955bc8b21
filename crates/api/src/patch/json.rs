//! RFC 6902: a list of operations, in the manner of the library that upstream uses.
//!
//! Its manner differs from the RFC here and there: indexes may be negative, a replacement does not need something to
//! replace in an object, `test` compares objects by what the object has. Its words go to the client.

use crate::value::{Map, Value};

use super::DEPTH_MAX;

/// More operations in one patch are refused. Upstream's limit.
pub const OPERATIONS_MAX: usize = 10_000;
/// Copies may make an object grow by so many values in all; several times what the store takes.
const COPIED_VALUES_MAX: usize = 1 << 20;

/// Why a patch is refused; a variant per status that upstream answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// 400: this is no JSON patch.
    #[error("{0}")]
    Malformed(String),
    /// 413
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooMany(usize),
    /// 422: an operation does not apply, in the library's words.
    #[error("{0}")]
    Inapplicable(String),
}

type Outcome<T> = Result<T, JsonPatchError>;

fn inapplicable<T>(message: String) -> Outcome<T> {
    Err(JsonPatchError::Inapplicable(message))
}

/// Changes `target` as the patch, a list of operations, says.
///
/// # Errors
/// When the patch is malformed, or one of its operations does not apply; the target is partly changed then.
pub fn apply(target: &mut Value, patch: &Value) -> Outcome<()> {
    // Null is a list without operations to upstream.
    let operations = match patch {
        Value::Null => &[],
        Value::Array(operations) => operations.as_slice(),
        other => {
            let kind = other.type_name();
            return Err(JsonPatchError::Malformed(format!(
                "json: cannot unmarshal {kind} into Go value of type jsonpatch.Patch"
            )));
        }
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(JsonPatchError::TooMany(operations.len()));
    }
    let empty = Map::new();
    let mut copied = 0;
    for operation in operations {
        let operation = match operation {
            Value::Object(members) => members,
            Value::Null => &empty,
            other => {
                let kind = other.type_name();
                return Err(JsonPatchError::Malformed(format!(
                    "json: cannot unmarshal {kind} into Go value of type jsonpatch.Operation"
                )));
            }
        };
        step(target, operation, &mut copied)?;
    }
    Ok(())
}

fn step(target: &mut Value, operation: &Map, copied: &mut usize) -> Outcome<()> {
    match operation.get("op").and_then(Value::as_str).unwrap_or("unknown") {
        "add" => add(target, operation),
        "remove" => remove(target, operation),
        "replace" => replace(target, operation),
        "move" => relocate(target, operation),
        "test" => test(target, operation),
        "copy" => copy(target, operation, copied),
        other => inapplicable(format!("Unexpected kind: {other}")),
    }
}

/// The text member `name`, or why there is none.
fn pointer<'o>(operation: &'o Map, name: &str, missing: &str) -> Result<&'o str, String> {
    match operation.get(name) {
        None | Some(Value::Null) => Err(format!("{missing}: missing value")),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("json: cannot unmarshal {} into Go value of type string", other.type_name())),
    }
}

fn path(operation: &Map) -> Result<&str, String> {
    pointer(operation, "path", "operation missing path field")
}

fn from(operation: &Map) -> Result<&str, String> {
    pointer(operation, "from", "operation, missing from field")
}

/// The operation's value; null where there is none, which upstream writes as null, too.
fn given(operation: &Map) -> Value {
    operation.get("value").cloned().unwrap_or_default()
}

fn decoded(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

/// The container that holds what `path` points to, and the last segment; `None` when the way there does not exist.
fn container<'t>(target: &'t mut Value, path: &str) -> Option<(&'t mut Value, String)> {
    let mut segments = path.split('/');
    segments.next();
    let mut rest: Vec<&str> = segments.collect();
    let last = rest.pop()?;
    let mut at = target;
    for segment in rest {
        at = child_mut(at, &decoded(segment))?;
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then(|| (at, decoded(last)))
}

fn child_mut<'t>(container: &'t mut Value, key: &str) -> Option<&'t mut Value> {
    match container {
        Value::Object(members) => members.get_mut(key),
        Value::Array(items) => {
            let index = index(items, key).ok()?;
            items.get_mut(usize::try_from(index).ok()?)
        }
        _ => None,
    }
}

/// Reads a segment as an index, or as `{'member':'value'}`, which finds the first object with that member.
fn index(items: &[Value], key: &str) -> Result<i64, String> {
    if !key.starts_with('{') {
        return key.parse().map_err(|error: std::num::ParseIntError| {
            let overflows =
                matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow);
            let why = if overflows { "value out of range" } else { "invalid syntax" };
            format!("strconv.Atoi: parsing {}: {why}", crate::field::shown(key))
        });
    }
    let expression = key.strip_prefix("{'").and_then(|rest| rest.strip_suffix("'}"));
    let (member, value) = expression
        .and_then(|expression| expression.rsplit_once("':'"))
        .ok_or_else(|| format!("Invalid key element found: {key}: invalid state detected"))?;
    let shown = |found: &Value| found.to_string().trim_matches('"') == value;
    let position = items.iter().position(|item| item.get(member).is_some_and(shown));
    position
        .map(|position| position as i64)
        .ok_or_else(|| format!("No documents found matching search expression: {key}: missing value"))
}

fn invalid_index(index: i64) -> String {
    format!("Unable to access invalid index: {index}: invalid index referenced")
}

/// The position that an index means in a list where positions up to `length` (exclusive) exist.
fn position(index: i64, length: usize) -> Result<usize, String> {
    let from_start = if index < 0 { index.checked_add(length as i64) } else { Some(index) };
    from_start
        .and_then(|index| usize::try_from(index).ok())
        .filter(|position| *position < length)
        .ok_or_else(|| invalid_index(index))
}

fn add_to(container: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match container {
        Value::Object(members) => {
            members.insert(key, value);
            Ok(())
        }
        Value::Array(items) if key == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => {
            let index =
                index(items, key).map_err(|why| format!("value was not a proper array index: '{key}': {why}"))?;
            let position = position(index, items.len() + 1)?;
            items.insert(position, value);
            Ok(())
        }
        _ => Err("unknown object type".to_owned()),
    }
}

fn remove_from(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Object(members) => {
            members.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        Value::Array(items) => {
            let position = position(index(items, key)?, items.len())?;
            Ok(items.remove(position))
        }
        _ => Err("unknown object type".to_owned()),
    }
}

/// What is at `key`; `None` for an object without that member.
fn get<'t>(container: &'t Value, key: &str) -> Result<Option<&'t Value>, String> {
    match container {
        Value::Object(members) => Ok(members.get(key)),
        Value::Array(items) => {
            let index = index(items, key)?;
            // Reading takes no negative index.
            let item = usize::try_from(index).ok().and_then(|index| items.get(index));
            item.map(Some).ok_or_else(|| invalid_index(index))
        }
        _ => Err("unknown object type".to_owned()),
    }
}

/// Refuses values that would make the object deeper than any may be.
fn checked(value: Value, path: &str) -> Outcome<Value> {
    let above = path.split('/').count();
    if super::fits(&value, DEPTH_MAX.saturating_sub(above)) {
        Ok(value)
    } else {
        inapplicable(format!("value at {path} is nested more than {DEPTH_MAX} levels deep"))
    }
}

fn add(target: &mut Value, operation: &Map) -> Outcome<()> {
    let Ok(path) = path(operation) else {
        return inapplicable("add operation failed to decode path: missing value".to_owned());
    };
    let value = checked(given(operation), path)?;
    let Some((container, key)) = container(target, path) else {
        return inapplicable(format!("add operation does not apply: doc is missing path: \"{path}\": missing value"));
    };
    add_to(container, &key, value).or_else(|why| inapplicable(format!("error in add for path: '{path}': {why}")))
}

fn remove(target: &mut Value, operation: &Map) -> Outcome<()> {
    let Ok(path) = path(operation) else {
        return inapplicable("remove operation failed to decode path: missing value".to_owned());
    };
    let Some((container, key)) = container(target, path) else {
        return inapplicable(format!(
            "remove operation does not apply: doc is missing path: \"{path}\": missing value"
        ));
    };
    match remove_from(container, &key) {
        Ok(_) => Ok(()),
        Err(why) => inapplicable(format!("error in remove for path: '{path}': {why}")),
    }
}

fn replace(target: &mut Value, operation: &Map) -> Outcome<()> {
    let path = match path(operation) {
        Ok(path) => path,
        Err(why) => return inapplicable(format!("replace operation failed to decode path: {why}")),
    };
    let value = checked(given(operation), path)?;
    let Some((container, key)) = container(target, path) else {
        return inapplicable(format!("replace operation does not apply: doc is missing path: {path}: missing value"));
    };
    if get(container, &key).is_err() {
        return inapplicable(format!("replace operation does not apply: doc is missing key: {path}: missing value"));
    }
    match container {
        // As the library does, without asking whether there was anything to replace.
        Value::Object(members) => {
            members.insert(key, value);
        }
        other => {
            if let Some(item) = child_mut(other, &key) {
                *item = value;
            }
        }
    }
    Ok(())
}

fn relocate(target: &mut Value, operation: &Map) -> Outcome<()> {
    let from = match from(operation) {
        Ok(from) => from,
        Err(why) => return inapplicable(format!("move operation failed to decode from: {why}")),
    };
    let Some((source, key)) = container(target, from) else {
        return inapplicable(format!("move operation does not apply: doc is missing from path: {from}: missing value"));
    };
    let taken = get(source, &key).map(drop).and_then(|()| remove_from(source, &key));
    let value = match taken {
        Ok(value) => value,
        Err(why) => return inapplicable(format!("error in move for path: '{key}': {why}")),
    };
    let path = match path(operation) {
        Ok(path) => path,
        Err(why) => return inapplicable(format!("move operation failed to decode path: {why}")),
    };
    let value = checked(value, path)?;
    let Some((destination, key)) = container(target, path) else {
        return inapplicable(format!(
            "move operation does not apply: doc is missing destination path: {path}: missing value"
        ));
    };
    add_to(destination, &key, value).or_else(|why| inapplicable(format!("error in move for path: '{path}': {why}")))
}

fn copy(target: &mut Value, operation: &Map, copied: &mut usize) -> Outcome<()> {
    let from = match from(operation) {
        Ok(from) => from,
        Err(why) => return inapplicable(format!("copy operation failed to decode from: {why}")),
    };
    let Some((source, key)) = container(target, from) else {
        return inapplicable(format!("copy operation does not apply: doc is missing from path: {from}: missing value"));
    };
    let value = match get(source, &key) {
        Ok(value) => value.cloned().unwrap_or_default(),
        Err(why) => return inapplicable(format!("error in copy for from: '{from}': {why}")),
    };
    *copied += size(&value);
    if *copied > COPIED_VALUES_MAX {
        return inapplicable(format!("Unable to complete the copy, more than {COPIED_VALUES_MAX} values were copied"));
    }
    let Ok(path) = path(operation) else {
        return inapplicable("copy operation failed to decode path: missing value".to_owned());
    };
    let value = checked(value, path)?;
    let Some((destination, key)) = container(target, path) else {
        return inapplicable(format!(
            "copy operation does not apply: doc is missing destination path: {path}: missing value"
        ));
    };
    add_to(destination, &key, value).or_else(|why| inapplicable(format!("error while adding value during copy: {why}")))
}

/// How much a copy weighs: values, and bytes of text by the dozen.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(size).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 12,
        _ => 1,
    }
}

fn test(target: &mut Value, operation: &Map) -> Outcome<()> {
    let path = match path(operation) {
        Ok(path) => path,
        Err(why) => return inapplicable(format!("test operation failed to decode path: {why}")),
    };
    let Some((container, key)) = container(target, path) else {
        return inapplicable(format!("test operation does not apply: is missing path: {path}: missing value"));
    };
    let found = match get(container, &key) {
        Ok(found) => found,
        Err(why) => return inapplicable(format!("error in test for path: '{path}': {why}")),
    };
    let is_same = match (found, operation.get("value")) {
        (None | Some(Value::Null), wanted) => wanted.is_none_or(Value::is_null),
        (Some(_), None) => false,
        (Some(found), Some(wanted)) => found == wanted,
    };
    if is_same { Ok(()) } else { inapplicable(format!("testing value {path} failed: test failed")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn tree(json: &str) -> Value {
        serde_json::from_str(json).expect("JSON")
    }

    /// Small trees of few names, so that patches hit what is there.
    pub(crate) fn any_tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2i64..3).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::Array),
                vec(("[abc]", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn check(target: &str, patch: &str, expected: Result<&str, &str>) {
        let mut result = tree(target);
        let outcome = apply(&mut result, &tree(patch)).map(|()| result).map_err(|error| error.to_string());
        assert_eq!(outcome, expected.map(tree).map_err(str::to_owned), "{target} patched by {patch}");
    }

    #[test]
    fn carries_operations_out() {
        check(r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":[1]}]"#, Ok(r#"{"a":1,"b":[1]}"#));
        check(r#"{"a":[1,3]}"#, r#"[{"op":"add","path":"/a/1","value":2}]"#, Ok(r#"{"a":[1,2,3]}"#));
        check(r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-","value":2}]"#, Ok(r#"{"a":[1,2]}"#));
        check(r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-1","value":2}]"#, Ok(r#"{"a":[1,2]}"#));
        check(r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/-1"}]"#, Ok(r#"{"a":[1]}"#));
        check(r#"{"a":{"b":1}}"#, r#"[{"op":"remove","path":"/a/b"}]"#, Ok(r#"{"a":{}}"#));
        check(r#"{"a":1}"#, r#"[{"op":"replace","path":"/a","value":{"x":null}}]"#, Ok(r#"{"a":{"x":null}}"#));
        check(r#"{}"#, r#"[{"op":"replace","path":"/a","value":1}]"#, Ok(r#"{"a":1}"#));
        check(r#"{"a/b":1,"c~d":2}"#, r#"[{"op":"remove","path":"/a~1b"},{"op":"remove","path":"/c~0d"}]"#, Ok("{}"));
        check(
            r#"{"a":{"b":1},"c":{}}"#,
            r#"[{"op":"move","from":"/a/b","path":"/c/d"}]"#,
            Ok(r#"{"a":{},"c":{"d":1}}"#),
        );
        check(r#"{"a":[1,2,3]}"#, r#"[{"op":"move","from":"/a/0","path":"/a/2"}]"#, Ok(r#"{"a":[2,3,1]}"#));
        check(r#"{"a":{"b":1}}"#, r#"[{"op":"copy","from":"/a","path":"/c"}]"#, Ok(r#"{"a":{"b":1},"c":{"b":1}}"#));
        check(
            r#"{"a":{"b":[1,{}]}}"#,
            r#"[{"op":"test","path":"/a","value":{"b":[1,{}]}}]"#,
            Ok(r#"{"a":{"b":[1,{}]}}"#),
        );
        check(r#"{"a":1}"#, r#"[{"op":"test","path":"/b","value":null}]"#, Ok(r#"{"a":1}"#));
        check(
            r#"{"c":[{"name":"x","v":1},{"name":"y","v":2}]}"#,
            r#"[{"op":"replace","path":"/c/{'name':'y'}/v","value":3}]"#,
            Ok(r#"{"c":[{"name":"x","v":1},{"name":"y","v":3}]}"#),
        );
        check(r#"{"a":1}"#, "[]", Ok(r#"{"a":1}"#));
        check(r#"{"a":1}"#, "null", Ok(r#"{"a":1}"#));
    }

    #[test]
    fn words_errors_as_upstreams_library() {
        for (target, patch, expected) in [
            (
                "{}",
                r#"[{"op":"add","path":"/a/b","value":1}]"#,
                "add operation does not apply: doc is missing path: \"/a/b\": missing value",
            ),
            (
                "{}",
                r#"[{"op":"remove","path":"/a"}]"#,
                "error in remove for path: '/a': Unable to remove nonexistent key: a: missing value",
            ),
            (
                "{}",
                r#"[{"op":"remove","path":"/a/b"}]"#,
                "remove operation does not apply: doc is missing path: \"/a/b\": missing value",
            ),
            (
                r#"{"a":[]}"#,
                r#"[{"op":"remove","path":"/a/0"}]"#,
                "error in remove for path: '/a/0': Unable to access invalid index: 0: invalid index referenced",
            ),
            (
                r#"{"a":[]}"#,
                r#"[{"op":"add","path":"/a/2","value":1}]"#,
                "error in add for path: '/a/2': Unable to access invalid index: 2: invalid index referenced",
            ),
            (
                r#"{"a":[]}"#,
                r#"[{"op":"add","path":"/a/x","value":1}]"#,
                "error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                r#"{"a":[1]}"#,
                r#"[{"op":"replace","path":"/a/1","value":1}]"#,
                "replace operation does not apply: doc is missing key: /a/1: missing value",
            ),
            (
                "{}",
                r#"[{"op":"replace","path":"/a/b","value":1}]"#,
                "replace operation does not apply: doc is missing path: /a/b: missing value",
            ),
            (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, "testing value /a failed: test failed"),
            (r#"{"a":1}"#, r#"[{"op":"test","path":"/b","value":2}]"#, "testing value /b failed: test failed"),
            (
                "{}",
                r#"[{"op":"move","from":"/a/b","path":"/c"}]"#,
                "move operation does not apply: doc is missing from path: /a/b: missing value",
            ),
            (
                "{}",
                r#"[{"op":"copy","path":"/c"}]"#,
                "copy operation failed to decode from: operation, missing from field: missing value",
            ),
            ("{}", r#"[{"op":"jump","path":"/c"}]"#, "Unexpected kind: jump"),
            ("{}", r#"[{"path":"/c"}]"#, "Unexpected kind: unknown"),
            ("{}", r#"{"a":1}"#, "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
            ("{}", "[1]", "json: cannot unmarshal number into Go value of type jsonpatch.Operation"),
        ] {
            check(target, patch, Err(expected));
        }
    }

    #[test]
    fn work_is_bounded() {
        let operation = tree(r#"{"op":"test","path":"/a","value":null}"#);
        let mut target = tree("{}");
        let patch = Value::Array(vec![operation.clone(); OPERATIONS_MAX]);
        assert_eq!(apply(&mut target, &patch), Ok(()));
        let patch = Value::Array(vec![operation; OPERATIONS_MAX + 1]);
        assert_eq!(apply(&mut target, &patch), Err(JsonPatchError::TooMany(OPERATIONS_MAX + 1)));
        // Each copy doubles the object, or nests it once more: neither goes on for ever.
        let doubling = tree(r#"{"op":"copy","from":"/a","path":"/a/-"}"#);
        let patch = Value::Array(vec![doubling; 5000]);
        let mut target = tree(r#"{"a":[1]}"#);
        assert!(matches!(apply(&mut target, &patch), Err(JsonPatchError::Inapplicable(_))));
        let nesting = Value::Array(vec![
            tree(r#"{"op":"move","from":"/a","path":"/b"}"#),
            tree(r#"{"op":"add","path":"/a","value":{}}"#),
            tree(r#"{"op":"move","from":"/b","path":"/a/b"}"#),
        ]);
        let Value::Array(steps) = nesting else { unreachable!("just made") };
        let patch = Value::Array(steps.iter().cycle().take(3000).cloned().collect());
        let mut target = tree(r#"{"a":{}}"#);
        assert!(matches!(apply(&mut target, &patch), Err(JsonPatchError::Inapplicable(_))));
    }

    fn any_operation() -> impl Strategy<Value = Value> {
        let name = prop_oneof!["add", "remove", "replace", "move", "copy", "test"];
        let path = || {
            vec(prop_oneof!["[abc]", "-", "-?[0-3]", r"\{'a':'a'\}", "~[0-2]"], 0..4)
                .prop_map(|parts| parts.iter().map(|part| format!("/{part}")).collect::<String>())
        };
        (name, path(), path(), any_tree()).prop_map(|(name, path, from, value)| {
            Value::from([("op", Value::from(name)), ("path", path.into()), ("from", from.into()), ("value", value)])
        })
    }

    proptest! {
        #[test]
        fn never_panics(mut target in any_tree(), operations in vec(any_operation(), 0..8)) {
            // Refused or not, it comes back.
            drop(apply(&mut target, &Value::Array(operations)));
        }

        #[test]
        fn never_panics_on_any_tree(mut target in any_tree(), patch in any_tree()) {
            drop(apply(&mut target, &patch));
        }
    }
}

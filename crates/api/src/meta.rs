//! Metadata of an object in tree form: reading, writing, making up names.

use jiff::Timestamp;

use crate::value::{Map, Value};

/// Sets `apiVersion` and `kind`, which every object begins with.
pub fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    if let Value::Object(members) = object {
        if members.contains_key("kind") && members.contains_key("apiVersion") {
            members.insert("apiVersion", api_version);
            members.insert("kind", kind);
            return;
        }
        let rest = std::mem::take(members);
        let mut typed = Map::with_capacity(rest.len() + 2);
        typed.insert("kind", kind);
        typed.insert("apiVersion", api_version);
        rest.into_iter().filter(|(key, _)| *key != "kind" && *key != "apiVersion").for_each(|(key, value)| {
            typed.insert(key, value);
        });
        *members = typed;
    }
}

/// The object's `apiVersion`, empty if absent.
pub fn api_version(object: &Value) -> &str {
    text(object, "apiVersion")
}

/// The object's `kind`, empty if absent.
pub fn kind(object: &Value) -> &str {
    text(object, "kind")
}

/// Group and version of an `apiVersion`.
pub fn group_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata`, if the object has any.
pub fn metadata(object: &Value) -> Option<&Map> {
    object.get("metadata")?.as_object()
}

/// `metadata`, made if there is none. An object that is no object stays what it is and gives `None`.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map> {
    Some(object.as_object_mut()?.get_or_insert_object("metadata"))
}

fn meta_text<'a>(object: &'a Value, key: &str) -> &'a str {
    metadata(object).and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn set_meta(object: &mut Value, key: &str, value: Value) {
    let is_empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    let Some(metadata) = metadata_mut(object) else { return };
    if is_empty {
        metadata.remove(key);
    } else {
        metadata.insert(key, value);
    }
}

/// `metadata.name`, empty if absent.
pub fn name(object: &Value) -> &str {
    meta_text(object, "name")
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Value, name: &str) {
    set_meta(object, "name", name.into());
}

/// `metadata.generateName`, empty if absent.
pub fn generate_name(object: &Value) -> &str {
    meta_text(object, "generateName")
}

/// `metadata.namespace`, empty if absent.
pub fn namespace(object: &Value) -> &str {
    meta_text(object, "namespace")
}

/// Sets `metadata.namespace`; the empty one removes it.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    set_meta(object, "namespace", namespace.into());
}

/// `metadata.uid`, empty if absent.
pub fn uid(object: &Value) -> &str {
    meta_text(object, "uid")
}

/// Sets `metadata.uid`.
pub fn set_uid(object: &mut Value, uid: &str) {
    set_meta(object, "uid", uid.into());
}

/// `metadata.resourceVersion` as text, empty if absent.
pub fn resource_version(object: &Value) -> &str {
    meta_text(object, "resourceVersion")
}

/// Sets `metadata.resourceVersion`; 0, which no object has, removes it.
pub fn set_resource_version(object: &mut Value, revision: u64) {
    let text = if revision == 0 { String::new() } else { revision.to_string() };
    set_meta(object, "resourceVersion", text.into());
}

/// Takes `metadata.resourceVersion` out.
pub fn clear_resource_version(object: &mut Value) {
    set_resource_version(object, 0);
}

/// `metadata.generation`, 0 if absent.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|metadata| metadata.get("generation")).and_then(Value::as_i64).unwrap_or_default()
}

/// Sets `metadata.generation`; 0 removes it.
pub fn set_generation(object: &mut Value, generation: i64) {
    let value = if generation == 0 { Value::Null } else { generation.into() };
    set_meta(object, "generation", value);
}

fn time(object: &Value, key: &str) -> Option<Timestamp> {
    meta_text(object, key).parse().ok()
}

/// A time as objects carry it: in whole seconds, `2024-01-01T00:00:00Z`.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    time(object, "creationTimestamp")
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(object: &mut Value, moment: Timestamp) {
    set_meta(object, "creationTimestamp", rfc3339(moment).into());
}

/// `metadata.deletionTimestamp`: set once the object is being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    time(object, "deletionTimestamp")
}

/// Whether the object is being deleted, whatever its timestamp reads.
pub fn is_terminating(object: &Value) -> bool {
    metadata(object).and_then(|metadata| metadata.get("deletionTimestamp")).is_some_and(|moment| !moment.is_null())
}

/// Marks the object as being deleted: it is to be gone at `moment`, `grace_seconds` after it was asked for.
pub fn set_deletion(object: &mut Value, moment: Timestamp, grace_seconds: i64) {
    set_meta(object, "deletionTimestamp", rfc3339(moment).into());
    set_meta(object, "deletionGracePeriodSeconds", grace_seconds.into());
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.labels`; the empty map if absent.
pub fn labels(object: &Value) -> &Map {
    meta_map(object, "labels")
}

/// `metadata.annotations`; the empty map if absent.
pub fn annotations(object: &Value) -> &Map {
    meta_map(object, "annotations")
}

static NO_MEMBERS: Map = Map::new();

fn meta_map<'a>(object: &'a Value, key: &str) -> &'a Map {
    metadata(object).and_then(|metadata| metadata.get(key)).and_then(Value::as_object).unwrap_or(&NO_MEMBERS)
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object).get(key)?.as_str()
}

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object).get(key)?.as_str()
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.get_or_insert_object("annotations").insert(key, value);
    }
}

/// Sets a label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.get_or_insert_object("labels").insert(key, value);
    }
}

/// Removes an annotation, and the map with its last one.
pub fn remove_annotation(object: &mut Value, key: &str) {
    let Some(metadata) = metadata_mut(object) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.remove(key);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// `metadata.finalizers`, in order.
pub fn finalizers(object: &Value) -> Vec<&str> {
    meta_items(object, "finalizers").iter().filter_map(Value::as_str).collect()
}

/// Whether any finalizer still has to run.
pub fn has_finalizers(object: &Value) -> bool {
    !meta_items(object, "finalizers").is_empty()
}

/// Sets `metadata.finalizers`.
pub fn set_finalizers<'f>(object: &mut Value, finalizers: impl IntoIterator<Item = &'f str>) {
    set_meta(object, "finalizers", finalizers.into_iter().collect());
}

/// `metadata.ownerReferences`, in order.
pub fn owner_references(object: &Value) -> &[Value] {
    meta_items(object, "ownerReferences")
}

/// Sets `metadata.ownerReferences`.
pub fn set_owner_references(object: &mut Value, owners: Vec<Value>) {
    set_meta(object, "ownerReferences", Value::Array(owners));
}

fn meta_items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    metadata(object).and_then(|metadata| metadata.get(key)).and_then(Value::as_array).unwrap_or_default()
}

/// The reference to the owner that manages the object.
pub fn controller(object: &Value) -> Option<&Value> {
    let manages = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    owner_references(object).iter().find(manages)
}

/// The entry of `ownerReferences` by which `owner` manages another object.
pub fn controller_reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    let mut reference = Map::with_capacity(6);
    reference.insert("apiVersion", api_version);
    reference.insert("kind", kind);
    reference.insert("name", name);
    reference.insert("uid", uid);
    reference.insert("controller", true);
    reference.insert("blockOwnerDeletion", true);
    Value::Object(reference)
}

/// The letters of random name parts: no vowels, and no digits that look like one, so that no word comes out.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Names are at most 63 letters where this matters; what a prefix has beyond is cut off.
const PREFIX_MAX: usize = 63 - SUFFIX_LENGTH;

/// A name made of a prefix and five letters drawn by `random`. Upstream: `k8s.io/apiserver/pkg/storage/names`.
pub fn generated_name(prefix: &str, random: u64) -> String {
    let mut cut = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{}", &prefix[..cut], random_suffix(random))
}

/// Five letters drawn by `random`.
pub fn random_suffix(random: u64) -> String {
    let base = SUFFIX_LETTERS.len() as u64;
    let mut rest = random;
    let mut letter = || {
        let index = (rest % base) as usize;
        rest /= base;
        char::from(SUFFIX_LETTERS[index])
    };
    (0..SUFFIX_LENGTH).map(|_| letter()).collect()
}

/// The text with every letter replaced by one of [`SUFFIX_LETTERS`], as names made of hashes are.
///
/// Upstream: `k8s.io/apimachinery/pkg/util/rand.SafeEncodeString`.
pub fn safe_encoded(text: &str) -> String {
    text.bytes().map(|byte| char::from(SUFFIX_LETTERS[usize::from(byte) % SUFFIX_LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_metadata() {
        let mut object: Value = serde_json::from_str(
            r#"{"metadata":{"name":"a","labels":{"x":"y"},"finalizers":["f"],
                "ownerReferences":[{"uid":"1"},{"uid":"2","controller":true}]},"kind":"Old"}"#,
        )
        .expect("JSON");
        set_type(&mut object, "apps/v1", "Deployment");
        set_namespace(&mut object, "n");
        set_uid(&mut object, "u");
        set_resource_version(&mut object, 7);
        set_generation(&mut object, 2);
        set_creation_timestamp(&mut object, Timestamp::UNIX_EPOCH);
        set_annotation(&mut object, "k", "v");
        assert_eq!((kind(&object), api_version(&object)), ("Deployment", "apps/v1"));
        assert_eq!((namespace(&object), name(&object), uid(&object)), ("n", "a", "u"));
        assert_eq!((resource_version(&object), generation(&object)), ("7", 2));
        assert_eq!(creation_timestamp(&object), Some(Timestamp::UNIX_EPOCH));
        assert_eq!((label(&object, "x"), annotation(&object, "k")), (Some("y"), Some("v")));
        assert_eq!(finalizers(&object), ["f"]);
        assert_eq!(controller(&object).and_then(|owner| owner.get("uid")), Some(&Value::from("2")));
        assert!(!is_terminating(&object));
        set_deletion(&mut object, Timestamp::UNIX_EPOCH, 30);
        assert!(is_terminating(&object));
        assert_eq!(deletion_grace_seconds(&object), Some(30));
        set_finalizers(&mut object, []);
        clear_resource_version(&mut object);
        remove_annotation(&mut object, "k");
        assert_eq!(
            object.to_string(),
            concat!(
                r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"a","labels":{"x":"y"},"#,
                r#""ownerReferences":[{"uid":"1"},{"uid":"2","controller":true}],"namespace":"n","uid":"u","generation":2,"#,
                r#""creationTimestamp":"1970-01-01T00:00:00Z","deletionTimestamp":"1970-01-01T00:00:00Z","#,
                r#""deletionGracePeriodSeconds":30}}"#
            )
        );
    }

    #[test]
    fn makes_up_names_that_fit() {
        assert_eq!(generated_name("api-", 0), "api-bbbbb");
        assert_eq!(generated_name("", 1), "cbbbb");
        assert_eq!(generated_name(&"a".repeat(80), 26).len(), 63);
        assert_eq!(generated_name(&"ä".repeat(29), 26), format!("{}9bbbb", "ä".repeat(29)));
        assert_eq!(safe_encoded("56db9"), "9bzwf");
        assert!(safe_encoded("3141592653").bytes().all(|byte| SUFFIX_LETTERS.contains(&byte)));
    }
}

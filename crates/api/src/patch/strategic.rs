//! Strategic merge patch: a merge patch that knows by which member the items of a list are told apart.
//!
//! Upstream: `k8s.io/apimachinery/pkg/util/strategicpatch`; directives, their order and the words of errors are its.

mod list;
mod words;

use std::collections::BTreeSet;

use super::{DEPTH_MAX, fits};
use crate::schema::{Message, Patch, Type};
use crate::value::{Map, Value};

use words::{no_merge_key, type_mismatch, unknown_directive};

/// Why a patch is refused; a variant per status that upstream answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicPatchError {
    /// 400: a directive has the wrong form.
    #[error("{0}")]
    Malformed(&'static str),
    /// 422
    #[error("{0}")]
    Unprocessable(&'static str),
    /// 500: anything else, as upstream has it.
    #[error("{0}")]
    Inapplicable(String),
}

type Outcome<T> = Result<T, StrategicPatchError>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_DOCUMENT: StrategicPatchError = StrategicPatchError::Malformed("invalid JSON document");
const BAD_DELETE_LIST: StrategicPatchError = StrategicPatchError::Malformed("invalid patch format of primitive list");
const BAD_RETAIN_KEYS: StrategicPatchError = StrategicPatchError::Malformed("invalid patch format of retainKeys");
const BAD_ORDER_LIST: StrategicPatchError =
    StrategicPatchError::Malformed("invalid patch format of setElementOrder list");
const LIST_OF_LISTS: StrategicPatchError = StrategicPatchError::Unprocessable("lists of lists are not supported");

fn inapplicable<T>(message: String) -> Outcome<T> {
    Err(StrategicPatchError::Inapplicable(message))
}

/// Changes `target`, an object of shape `message`, as the patch says.
///
/// # Errors
/// When the patch is malformed or does not fit the object; the target is partly changed then.
pub fn apply(target: &mut Value, patch: &Value, message: &Message) -> Outcome<()> {
    let Value::Object(changes) = patch else { return Err(BAD_DOCUMENT) };
    if !fits(patch, DEPTH_MAX) {
        return inapplicable(format!("patch is nested more than {DEPTH_MAX} levels deep"));
    }
    let Value::Object(members) = target else { return Err(BAD_DOCUMENT) };
    merge_object(members, changes, Shape::Message(message))
}

/// What is known of an object's members.
#[derive(Clone, Copy)]
enum Shape<'s> {
    Message(&'s Message),
    /// Of a type that is no object, or of items whose type is known.
    Type(&'s Type),
}

/// What is known of one member: its type, and how it is patched.
struct Member<'s> {
    ty: &'s Type,
    patch: Option<&'s Patch>,
}

impl<'s> Shape<'s> {
    fn member(self, key: &str) -> Outcome<Member<'s>> {
        let message = match self {
            Shape::Message(message) => message,
            Shape::Type(Type::Struct(message)) => message.get(),
            Shape::Type(Type::Map(map)) => return Ok(Member { ty: &map.values, patch: None }),
            Shape::Type(ty) => {
                let kind = ty.go_type();
                return inapplicable(format!(
                    "merging an object in json but data type is not struct, instead is: {kind}"
                ));
            }
        };
        let Some(field) = message.field(key) else {
            let name = message.short_name();
            return inapplicable(format!("unable to find api field in struct {name} for the json field {key:?}"));
        };
        Ok(Member { ty: &field.ty, patch: field.patch() })
    }

    fn merge_key(member: &Member<'s>) -> Option<&'s str> {
        member.patch.and_then(|patch| patch.merge_key.as_deref())
    }
}

fn merge_object(members: &mut Map, patch: &Map, shape: Shape<'_>) -> Outcome<()> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return whole_object(members, patch, directive);
    }
    retain_keys(members, patch)?;
    let ordered = merge_ordered_lists(members, patch, shape)?;
    for (key, change) in patch {
        let key = key.as_str();
        if key == RETAIN_KEYS || key.starts_with(SET_ORDER) || ordered.contains(key) {
            continue;
        }
        match listed_member(key, DELETE_FROM_LIST) {
            None => merge_member(members, key, change, shape, false)?,
            Some(name) => merge_member(members, name.ok_or(BAD_DELETE_LIST)?, change, shape, true)?,
        }
    }
    Ok(())
}

/// The member that `$directive/member` is about: `None` if the key is not that directive, `Some(None)` if it lacks the member.
fn listed_member<'k>(key: &'k str, directive: &str) -> Option<Option<&'k str>> {
    let rest = key.strip_prefix(directive)?;
    Some(rest.strip_prefix('/'))
}

/// `$patch: replace` and `$patch: delete` of the object itself.
fn whole_object(members: &mut Map, patch: &Map, directive: &Value) -> Outcome<()> {
    match directive.as_str() {
        Some("replace") => {
            *members = patch.clone();
            members.remove(DIRECTIVE);
            Ok(())
        }
        Some("delete") => {
            members.clear();
            Ok(())
        }
        _ => inapplicable(unknown_directive(directive, patch)),
    }
}

/// `$retainKeys`: members that it does not name go; the patch may set only members that it names.
fn retain_keys(members: &mut Map, patch: &Map) -> Outcome<()> {
    let Some(directive) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let kept: BTreeSet<&str> = directive.as_array().ok_or(BAD_RETAIN_KEYS)?.iter().filter_map(Value::as_str).collect();
    let is_directive =
        |key: &str| key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, change)| !change.is_null() && !is_directive(key) && !kept.contains(key.as_str())) {
        return Err(BAD_RETAIN_KEYS);
    }
    members.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

/// `$setElementOrder/member`: merges each such list and orders it. The members dealt with.
fn merge_ordered_lists<'p>(members: &mut Map, patch: &'p Map, shape: Shape<'_>) -> Outcome<BTreeSet<&'p str>> {
    let mut done = BTreeSet::new();
    for (key, order) in patch {
        let Some(name) = listed_member(key.as_str(), SET_ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| type_mismatch("[]interface {}", order))?;
        let name = name.ok_or(BAD_ORDER_LIST)?;
        let present = as_list(members.get(name))?;
        let change = as_list(patch.get(name))?;
        let member = shape.member(name)?;
        let merge_key = Shape::merge_key(&member).unwrap_or_default();
        list::check_order(change.unwrap_or_default(), order, merge_key)?;
        let merged = match (present, change) {
            (None, None) => continue,
            (Some(present), None) => present.to_vec(),
            (None, Some(change)) => change.iter().filter_map(without_directives).collect(),
            (Some(present), Some(change)) => merge_list(present.to_vec(), change, &member, false)?,
        };
        let ordered = list::ordered(merged, order, present.unwrap_or_default(), change.unwrap_or_default(), merge_key)?;
        members.insert(name, Value::Array(ordered));
        done.insert(name);
    }
    Ok(done)
}

fn as_list(value: Option<&Value>) -> Outcome<Option<&[Value]>> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(type_mismatch("[]interface {}", other)),
    }
}

/// Merges one member; `deletes` when the change lists scalars that are to go from it.
fn merge_member(members: &mut Map, key: &str, change: &Value, shape: Shape<'_>, deletes: bool) -> Outcome<()> {
    if change.is_null() {
        members.remove(key);
        return Ok(());
    }
    match (members.get_mut(key), change) {
        (Some(Value::Object(present)), Value::Object(change)) => {
            merge_object(present, change, Shape::Type(shape.member(key)?.ty))
        }
        (Some(Value::Array(present)), Value::Array(change)) => {
            *present = merge_list(std::mem::take(present), change, &shape.member(key)?, deletes)?;
            Ok(())
        }
        // Scalars, and what has another type than before, are taken as they are.
        _ if deletes => Ok(()),
        _ => {
            match without_directives(&without_nulls(change)) {
                Some(value) => drop(members.insert(key, value)),
                None => drop(members.remove(key)),
            }
            Ok(())
        }
    }
}

/// The value without members that are null, at any depth.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        scalar => scalar.clone(),
    }
}

/// The value as it enters a place where nothing was: objects with a `$patch` are not for there, nor is what orders lists.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.contains_key(DIRECTIVE) => None,
        Value::Object(members) => {
            let is_directive =
                |key: &str| [RETAIN_KEYS, DELETE_FROM_LIST, SET_ORDER].iter().any(|name| key.starts_with(name));
            let kept = members.iter().filter(|(key, _)| !is_directive(key.as_str()));
            let kept = kept.filter_map(|(key, value)| Some((key.clone(), without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.iter().filter_map(without_directives).collect())),
        scalar => Some(scalar.clone()),
    }
}

fn merge_list(present: Vec<Value>, change: &[Value], member: &Member<'_>, deletes: bool) -> Outcome<Vec<Value>> {
    let Some(merge_key) = Shape::merge_key(member) else { return Ok(change.to_vec()) };
    if present.is_empty() && change.is_empty() {
        return Ok(present);
    }
    let items = match member.ty {
        Type::List(list) => &list.items,
        other => return inapplicable(format!("expected a slice, but received a {}", other.go_type())),
    };
    if !list::holds_objects(&present, change)? {
        if deletes {
            let gone: BTreeSet<String> = change.iter().map(list::identity).collect();
            return Ok(present.into_iter().filter(|item| !gone.contains(&list::identity(item))).collect());
        }
        let merged = list::union(&present, change);
        return list::ordered(merged, change, &present, change, "");
    }
    if merge_key.is_empty() {
        return inapplicable(format!("cannot merge lists without merge key for type {}", items.go_type()));
    }
    let (present, change) = special_items(present, change, merge_key)?;
    let merged = merge_items(present.clone(), &change, merge_key, items)?;
    list::ordered(merged, &change, &present, &change, merge_key)
}

/// Carries out items with `$patch`, and gives the list and the rest of the patch.
fn special_items(present: Vec<Value>, change: &[Value], merge_key: &str) -> Outcome<(Vec<Value>, Vec<Value>)> {
    let (mut gone, mut rest, mut replaces) = (BTreeSet::new(), Vec::new(), false);
    for item in change {
        let Value::Object(members) = item else { return Err(type_mismatch("map[string]interface {}", item)) };
        let Some(directive) = members.get(DIRECTIVE) else {
            rest.push(item.clone());
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let key = members.get(merge_key).ok_or_else(|| no_merge_key(members, merge_key))?;
                gone.insert(list::identity(key));
            }
            Some("replace") => replaces = true,
            Some("merge") => return inapplicable("merging lists cannot yet be specified in the patch".to_owned()),
            _ => return inapplicable(unknown_directive(directive, members)),
        }
    }
    if replaces {
        return Ok((rest, Vec::new()));
    }
    let stays = |item: &Value| item.get(merge_key).is_none_or(|key| !gone.contains(&list::identity(key)));
    Ok((present.into_iter().filter(stays).collect(), rest))
}

/// Merges items of the same key, and adds the others.
fn merge_items(mut merged: Vec<Value>, change: &[Value], merge_key: &str, items: &Type) -> Outcome<Vec<Value>> {
    let mut positions = list::positions(&merged, merge_key);
    for item in change {
        let Value::Object(members) = item else { return Err(type_mismatch("map[string]interface {}", item)) };
        let key = members.get(merge_key).ok_or_else(|| no_merge_key(members, merge_key))?;
        let identity = list::identity(key);
        match positions.get(&identity).map(|at| &mut merged[*at]) {
            Some(Value::Object(present)) => merge_object(present, members, Shape::Type(items))?,
            Some(other) => return Err(type_mismatch("map[string]interface {}", other)),
            None => {
                positions.insert(identity, merged.len());
                merged.push(item.clone());
            }
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests;

//! Telling items of lists apart, and putting merged lists into order.

use std::collections::{BTreeMap, BTreeSet};

use super::words::{no_merge_key, printed_list, type_mismatch};
use super::{DIRECTIVE, LIST_OF_LISTS, Outcome, SET_ORDER, inapplicable};
use crate::value::Value;

/// Text that is equal for equal values only, so that look-ups take logarithmic time however long the lists are.
pub(super) fn identity(value: &Value) -> String {
    match value {
        Value::Float(number) => match value.as_i64() {
            Some(whole) => whole.to_string(),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// What tells an item apart: its merge key's value, or the item itself where there is no merge key.
fn item_identity(item: &Value, merge_key: &str) -> String {
    if merge_key.is_empty() { identity(item) } else { item.get(merge_key).map(identity).unwrap_or_default() }
}

/// Where each item comes first.
pub(super) fn positions(items: &[Value], merge_key: &str) -> BTreeMap<String, usize> {
    let mut positions = BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        positions.entry(item_identity(item, merge_key)).or_insert(at);
    }
    positions
}

/// Whether the items are objects rather than scalars; they must be of one kind.
pub(super) fn holds_objects(left: &[Value], right: &[Value]) -> Outcome<bool> {
    let mut kinds = left.iter().chain(right).map(std::mem::discriminant);
    let Some(first) = left.iter().chain(right).next() else {
        return inapplicable("no elements in any of the given slices".to_owned());
    };
    if matches!(first, Value::Array(_)) {
        return Err(LIST_OF_LISTS);
    }
    if kinds.any(|kind| kind != std::mem::discriminant(first)) {
        let (left, right) = (printed_list(left), printed_list(right));
        return inapplicable(format!("list element types are not identical: [{left} {right}]"));
    }
    Ok(matches!(first, Value::Object(_)))
}

/// Both lists' items, each once.
pub(super) fn union(left: &[Value], right: &[Value]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    left.iter().chain(right).filter(|item| seen.insert(identity(item))).cloned().collect()
}

/// Refuses a patch whose items do not follow the order it asks for.
pub(super) fn check_order(change: &[Value], order: &[Value], merge_key: &str) -> Outcome<()> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    if !merge_key.is_empty() {
        require_objects(change)?;
    }
    // Items with a directive are not in the result; where they stand in the patch means nothing.
    let mut wanted = change.iter().filter(|item| item.get(DIRECTIVE).is_none()).peekable();
    for place in order {
        let Some(item) = wanted.peek() else { return Ok(()) };
        if !merge_key.is_empty() {
            require_key(item, merge_key)?;
            require_key(place, merge_key)?;
        }
        if item_identity(item, merge_key) == item_identity(place, merge_key) {
            wanted.next();
        }
    }
    if wanted.peek().is_none() {
        return Ok(());
    }
    let (change, order) = (printed_list(change), printed_list(order));
    inapplicable(format!("the order in patch list:\n{change}\n doesn't match {SET_ORDER} list:\n{order}"))
}

fn require_objects(items: &[Value]) -> Outcome<()> {
    match items.iter().find(|item| !matches!(item, Value::Object(_))) {
        Some(item) => Err(type_mismatch("map[string]interface {}", item)),
        None => Ok(()),
    }
}

fn require_key(item: &Value, merge_key: &str) -> Outcome<()> {
    match item {
        Value::Object(members) if members.contains_key(merge_key) => Ok(()),
        Value::Object(members) => Err(no_merge_key(members, merge_key)),
        other => Err(type_mismatch("map[string]interface {}", other)),
    }
}

/// Orders a merged list: items that `order` names stand in its order; the others keep the order of `present`, each
/// before the first named item that it preceded there.
///
/// `present` and `change` are what was merged; they say whether the items are objects.
pub(super) fn ordered(
    merged: Vec<Value>,
    order: &[Value],
    present: &[Value],
    change: &[Value],
    merge_key: &str,
) -> Outcome<Vec<Value>> {
    if merged.is_empty() && present.is_empty() && change.is_empty() {
        return inapplicable("no elements in any of the given slices".to_owned());
    }
    if !merge_key.is_empty() {
        merged.iter().chain(order).chain(present).try_for_each(|item| require_key(item, merge_key))?;
    }
    let (wanted, before) = (positions(order, merge_key), positions(present, merge_key));
    let place = |places: &BTreeMap<String, usize>, item: &Value| places.get(&item_identity(item, merge_key)).copied();
    // The others have the order of `present` from the merge.
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(&wanted, item).is_some());
    named.sort_by_key(|item| place(&wanted, item));

    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (Some(other), Some(name)) => match (place(&before, other), place(&before, name)) {
                (Some(other), Some(name)) => other < name,
                _ => false,
            },
            (Some(_), None) => true,
            (None, _) => false,
        };
        let next = if other_first { others.next() } else { named.next() };
        match next {
            Some(item) => result.push(item),
            None => return Ok(result),
        }
    }
}

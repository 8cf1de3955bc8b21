//! Shapes of fault that several kinds report.

use api::field::{Fault, FaultKind, FieldErrors, Path, shown};
use serde::Serialize;

/// What upstream says of a change to a field that may not change.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// One `Invalid value` for each message.
pub(crate) fn each_invalid<T: Serialize + ?Sized>(
    faults: &mut FieldErrors,
    path: &Path<'_>,
    value: &T,
    messages: impl IntoIterator<Item = String>,
) {
    for message in messages {
        faults.invalid(path, value, message);
    }
}

/// `must be greater than or equal to 0`
pub(crate) fn non_negative(faults: &mut FieldErrors, path: &Path<'_>, value: i64) {
    if value < 0 {
        faults.invalid(path, &value, "must be greater than or equal to 0");
    }
}

/// `field is immutable` where the two differ.
pub(crate) fn immutable<T: Serialize + PartialEq>(faults: &mut FieldErrors, path: &Path<'_>, new: &T, old: &T) {
    if new != old {
        faults.invalid(path, new, IMMUTABLE);
    }
}

/// `Unsupported value` with the supported ones in the given order, where upstream does not sort them.
pub(crate) fn not_supported_in_order(faults: &mut FieldErrors, path: &Path<'_>, value: &str, supported: &[&str]) {
    let list: Vec<String> = supported.iter().map(|value| shown(*value)).collect();
    let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
    faults.push(Fault { kind: FaultKind::NotSupported, field: path.to_string(), message });
}

/// One of the values, or `Required value` when empty, or `Unsupported value`. `supported` is in the order to be shown.
pub(crate) fn required_choice(faults: &mut FieldErrors, path: &Path<'_>, value: &str, supported: &[&str]) {
    if value.is_empty() {
        faults.required(path, "");
    } else {
        choice(faults, path, value, supported);
    }
}

/// One of the values, or `Unsupported value`. `supported` is in the order to be shown.
pub(crate) fn choice(faults: &mut FieldErrors, path: &Path<'_>, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        not_supported_in_order(faults, path, value, supported);
    }
}

/// `Duplicate value: VALUE: detail`
pub(crate) fn duplicate_because<T: Serialize + ?Sized>(
    faults: &mut FieldErrors,
    path: &Path<'_>,
    value: &T,
    detail: &str,
) {
    let message = format!("Duplicate value: {}: {detail}", shown(value));
    faults.push(Fault { kind: FaultKind::Duplicate, field: path.to_string(), message });
}

/// `Not found: VALUE: detail`
pub(crate) fn not_found_because<T: Serialize + ?Sized>(
    faults: &mut FieldErrors,
    path: &Path<'_>,
    value: &T,
    detail: &str,
) {
    let message = format!("Not found: {}: {detail}", shown(value));
    faults.push(Fault { kind: FaultKind::NotFound, field: path.to_string(), message });
}

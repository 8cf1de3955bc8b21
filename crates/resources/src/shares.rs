//! Numbers that may be given as a percentage of something.

use api::field::{FieldErrors, Path};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::faults::{each_invalid, non_negative};
use crate::names;

/// Not negative, and a percentage where it is text. Upstream: `ValidatePositiveIntOrPercent`.
pub(crate) fn validate(share: &IntOrString, path: &Path<'_>, faults: &mut FieldErrors) {
    match share {
        IntOrString::Int(number) => non_negative(faults, path, (*number).into()),
        IntOrString::String(percent) => each_invalid(faults, path, share, names::percentage(percent)),
    }
}

/// Upstream: `IsNotMoreThan100Percent`.
pub(crate) fn validate_at_most_all(share: &IntOrString, path: &Path<'_>, faults: &mut FieldErrors) {
    if percent(share).is_some_and(|percent| percent > 100) {
        faults.invalid(path, share, "must not be greater than 100%");
    }
}

/// The number before the `%`; `None` for a plain number and for text that is no percentage.
pub(crate) fn percent(share: &IntOrString) -> Option<i64> {
    match share {
        IntOrString::String(text) if names::percentage(text).is_empty() => text.trim_end_matches('%').parse().ok(),
        _ => None,
    }
}

/// The number, or the one before the `%`.
pub(crate) fn amount(share: &IntOrString) -> i64 {
    match share {
        IntOrString::Int(number) => (*number).into(),
        IntOrString::String(_) => percent(share).unwrap_or(0),
    }
}

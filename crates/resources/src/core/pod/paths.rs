//! Rules for paths inside volumes.

use api::field::{FieldErrors, Path};

/// Reports `..` among the path's elements. Tells whether there was one.
pub(crate) fn validate_no_backsteps(target: &str, path: &Path<'_>, faults: &mut FieldErrors) -> bool {
    let steps_back = target.split('/').any(|element| element == "..");
    if steps_back {
        faults.invalid(path, target, "must not contain '..'");
    }
    steps_back
}

/// Reports a path that is absolute or leaves its folder.
pub(crate) fn validate_descending(target: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    if target.starts_with('/') {
        faults.invalid(path, target, "must be a relative path");
    }
    validate_no_backsteps(target, path, faults);
}

/// As [`validate_descending`], and names that start with `..` are the node agent's own.
pub(crate) fn validate_local(target: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    validate_descending(target, path, faults);
    if target.starts_with("..") && !target.starts_with("../") {
        faults.invalid(path, target, "must not start with '..'");
    }
}

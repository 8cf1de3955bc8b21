//! Paths to fields and the list of all that is wrong with an object.

use std::fmt;

use crate::status::{Cause, Status};

/// A path to a field, as a chain on the stack: nothing is allocated unless a fault is reported.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of the object itself; printed as `<nil>` when a fault is about it, as upstream does.
    pub const ROOT: Path<'static> = Path { parent: None, segment: Segment::Root };

    /// The path of a field of the object, such as `spec`.
    pub const fn new(field: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Field(field) }
    }

    /// `self.field`. The name may hold dots to go down several levels at once.
    pub const fn child(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Field(field) }
    }

    /// `self[index]`
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// `self[key]`
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent.filter(|parent| !matches!(parent.segment, Segment::Root)) {
            fmt::Display::fmt(parent, formatter)?;
            if matches!(self.segment, Segment::Field(_)) {
                formatter.write_str(".")?;
            }
        }
        match self.segment {
            Segment::Root => formatter.write_str("<nil>"),
            Segment::Field(name) => formatter.write_str(name),
            Segment::Index(index) => write!(formatter, "[{index}]"),
            Segment::Key(key) => write!(formatter, "[{key}]"),
        }
    }
}

/// What is wrong with a field. Upstream: `k8s.io/apimachinery/pkg/util/validation/field`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    InternalError,
    TypeInvalid,
}

impl FaultKind {
    /// The reason of the cause in a `Status`, such as `FieldValueInvalid`.
    pub const fn reason(self) -> &'static str {
        match self {
            FaultKind::NotFound => "FieldValueNotFound",
            FaultKind::Required => "FieldValueRequired",
            FaultKind::Duplicate => "FieldValueDuplicate",
            FaultKind::Invalid => "FieldValueInvalid",
            FaultKind::NotSupported => "FieldValueNotSupported",
            FaultKind::Forbidden => "FieldValueForbidden",
            FaultKind::TooLong => "FieldValueTooLong",
            FaultKind::TooMany => "FieldValueTooMany",
            FaultKind::InternalError => "InternalError",
            FaultKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            FaultKind::NotFound => "Not found",
            FaultKind::Required => "Required value",
            FaultKind::Duplicate => "Duplicate value",
            FaultKind::Invalid | FaultKind::TypeInvalid => "Invalid value",
            FaultKind::NotSupported => "Unsupported value",
            FaultKind::Forbidden => "Forbidden",
            FaultKind::TooLong => "Too long",
            FaultKind::TooMany => "Too many",
            FaultKind::InternalError => "Internal error",
        }
    }
}

/// One fault of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// The path, such as `spec.template.spec.containers[0].name`.
    pub field: String,
    /// What follows the path: `Invalid value: -1: must be greater than or equal to 0`.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// How a bad value is shown in a message: strings quoted as Go's `%q`, all else as JSON.
pub fn shown<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("<{error}>"))
}

/// All faults found so far. Validation goes on after a fault, so that the user sees every one at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(Vec<Fault>);

impl FieldErrors {
    /// `Required value[: detail]`
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push_detail(FaultKind::Required, path, None, detail);
    }

    /// `Invalid value: VALUE[: detail]`
    pub fn invalid<T: serde::Serialize + ?Sized>(&mut self, path: &Path<'_>, value: &T, detail: impl AsRef<str>) {
        self.push_detail(FaultKind::Invalid, path, Some(shown(value)), detail.as_ref());
    }

    /// `Unsupported value: VALUE: supported values: "A", "B"`; the values are sorted, as upstream does.
    pub fn not_supported<T: serde::Serialize + ?Sized>(&mut self, path: &Path<'_>, value: &T, supported: &[&str]) {
        let mut supported = supported.to_vec();
        supported.sort_unstable();
        let list = supported.iter().map(|value| shown(*value)).collect::<Vec<_>>().join(", ");
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {list}") };
        self.push_detail(FaultKind::NotSupported, path, Some(shown(value)), &detail);
    }

    /// `Duplicate value: VALUE`
    pub fn duplicate<T: serde::Serialize + ?Sized>(&mut self, path: &Path<'_>, value: &T) {
        self.push_detail(FaultKind::Duplicate, path, Some(shown(value)), "");
    }

    /// `Forbidden: detail`
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl AsRef<str>) {
        self.push_detail(FaultKind::Forbidden, path, None, detail.as_ref());
    }

    /// `Not found: VALUE`
    pub fn not_found<T: serde::Serialize + ?Sized>(&mut self, path: &Path<'_>, value: &T) {
        self.push_detail(FaultKind::NotFound, path, Some(shown(value)), "");
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(&mut self, path: &Path<'_>, bytes_max: usize) {
        self.push_detail(FaultKind::TooLong, path, None, &format!("may not be more than {bytes_max} bytes"));
    }

    /// `Too many: ACTUAL: must have at most N items`
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, items_max: usize) {
        let items = if items_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {items_max} {items}");
        self.push_detail(FaultKind::TooMany, path, Some(actual.to_string()), &detail);
    }

    /// `Internal error: detail`
    pub fn internal(&mut self, path: &Path<'_>, detail: &str) {
        self.push_detail(FaultKind::InternalError, path, None, detail);
    }

    /// Adds a fault whose message is already worded.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// The faults in the order found.
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many faults were found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The answer 422 `Invalid` that lists every fault, or `None` when there is none.
    pub fn into_status(self, group: &str, kind: &str, name: &str) -> Option<Status> {
        if self.0.is_empty() {
            return None;
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let mut status =
            Status::failure(422, "Invalid", &format!("{} \"{name}\" is invalid: {list}", qualified(kind, group)));
        let details = status.details.get_or_insert_default();
        details.name = name.to_owned();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.causes = self
            .0
            .into_iter()
            .map(|fault| Cause { reason: fault.kind.reason().into(), message: fault.message, field: fault.field })
            .collect();
        Some(status)
    }

    fn push_detail(&mut self, kind: FaultKind, path: &Path<'_>, value: Option<String>, detail: &str) {
        let mut message = kind.words().to_owned();
        for part in value.iter().map(String::as_str).chain((!detail.is_empty()).then_some(detail)) {
            message.push_str(": ");
            message.push_str(part);
        }
        self.0.push(Fault { kind, field: path.to_string(), message });
    }
}

/// `kind.group`, or the kind alone in the core group.
pub fn qualified(kind: &str, group: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_faults_as_upstream() {
        let mut faults = FieldErrors::default();
        let spec = Path::new("spec");
        faults.invalid(&spec.child("replicas"), &-1, "must be greater than or equal to 0");
        let containers = spec.child("template.spec.containers");
        let container = containers.index(0);
        faults.required(&container.child("name"), "");
        faults.not_supported(&spec.child("type"), "X", &["B", "A"]);
        faults.duplicate(&containers.key("a"), "a");
        let texts: Vec<String> = faults.faults().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.spec.containers[0].name: Required value",
                "spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\"",
                "spec.template.spec.containers[a]: Duplicate value: \"a\"",
            ]
        );
    }

    #[test]
    fn one_fault_is_not_bracketed() {
        let mut faults = FieldErrors::default();
        faults.required(&Path::new("metadata.name"), "name or generateName is required");
        let status = faults.into_status("apps", "Deployment", "").expect("there is a fault");
        assert_eq!(
            status.message,
            "Deployment.apps \"\" is invalid: metadata.name: Required value: name or generateName is required"
        );
        assert_eq!(status.code, 422);
    }
}

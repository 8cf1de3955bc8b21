//! Rules for the metadata that every kind has.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldErrors, Path};
use api::value::Value;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use serde::Deserialize;

use crate::absent::{entries, list, text};
use crate::def::{AnyResource, Backing, Scope};
use crate::faults::{each_invalid, immutable, non_negative};
use crate::names;

/// Bytes of all keys and values of an object's annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

fn of(object: &Value) -> Result<ObjectMeta, api::value::Error> {
    api::value::from_value::<Metadata>(object).map(|object| object.metadata)
}

/// Puts back what no writer may change: identity, age and the marks of a deletion; the generation belongs to the kind's own reset.
pub(crate) fn reset(new: &mut ObjectMeta, old: Option<&ObjectMeta>) {
    let Some(old) = old else {
        new.deletion_timestamp = None;
        new.deletion_grace_period_seconds = None;
        return;
    };
    if text(&new.uid).is_empty() {
        new.uid.clone_from(&old.uid);
    }
    if old.creation_timestamp.is_some() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    if old.deletion_timestamp.is_some() {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.generation = old.generation;
}

/// Sets the generation: 1 at first, one more than before when what the kind counts as a change of wish has changed.
pub(crate) fn count_generation(new: &mut ObjectMeta, old: Option<&ObjectMeta>, changed: bool) {
    new.generation = Some(match old {
        None => 1,
        Some(old) => old.generation.unwrap_or(0) + i64::from(changed),
    });
}

/// Judges the metadata of an object of `resource`. A fault of shape is reported as such. Reviews are never kept, and
/// so have no identity to judge.
pub fn validate(resource: &dyn AnyResource, new: &Value, old: Option<&Value>, faults: &mut FieldErrors) {
    if resource.facts().backing == Backing::Computed {
        return;
    }
    let path = Path::new("metadata");
    match (of(new), old.map(of).transpose()) {
        (Ok(new), Ok(old)) => {
            if let Some(old) = &old {
                validate_update(&new, old, &path, faults);
            }
            validate_object(resource, &new, &path, faults);
        }
        (Err(error), _) | (_, Err(error)) => faults.internal(&path, &error.to_string()),
    }
}

fn validate_object(resource: &dyn AnyResource, meta: &ObjectMeta, path: &Path<'_>, faults: &mut FieldErrors) {
    let prefix = text(&meta.generate_name);
    if !prefix.is_empty() {
        each_invalid(faults, &path.child("generateName"), prefix, resource.name_faults(prefix, true));
    }
    let name = text(&meta.name);
    if name.is_empty() {
        faults.required(&path.child("name"), "name or generateName is required");
    } else {
        each_invalid(faults, &path.child("name"), name, resource.name_faults(name, false));
    }
    let namespace = text(&meta.namespace);
    match resource.facts().scope {
        Scope::Namespaced if namespace.is_empty() => faults.required(&path.child("namespace"), ""),
        Scope::Namespaced => each_invalid(faults, &path.child("namespace"), namespace, names::dns_label(namespace)),
        Scope::Cluster if !namespace.is_empty() => {
            faults.forbidden(&path.child("namespace"), "not allowed on this type")
        }
        Scope::Cluster => {}
    }
    non_negative(faults, &path.child("generation"), meta.generation.unwrap_or(0));
    validate_labels(&meta.labels, &path.child("labels"), faults);
    validate_annotations(&meta.annotations, &path.child("annotations"), faults);
    validate_owners(list(&meta.owner_references), &path.child("ownerReferences"), faults);
    validate_finalizers(list(&meta.finalizers), &path.child("finalizers"), faults);
    let fields_path = path.child("managedFields");
    for (index, entry) in list(&meta.managed_fields).iter().enumerate() {
        validate_managed_fields(entry, &fields_path.index(index), faults);
    }
}

fn validate_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path<'_>, faults: &mut FieldErrors) {
    if old.deletion_timestamp.is_some() {
        let before: BTreeSet<&String> = list(&old.finalizers).iter().collect();
        let after: BTreeSet<&String> = list(&new.finalizers).iter().collect();
        let added: Vec<String> = after.difference(&before).map(|name| format!("{name:?}")).collect();
        if !added.is_empty() {
            let why = "no new finalizers can be added if the object is being deleted, found new finalizers";
            faults.forbidden(&path.child("finalizers"), format!("{why} []string{{{}}}", added.join(", ")));
        }
    }
    let (generation, old_generation) = (new.generation.unwrap_or(0), old.generation.unwrap_or(0));
    if generation < old_generation {
        faults.invalid(&path.child("generation"), &generation, "must not be decremented");
    }
    immutable(faults, &path.child("name"), &text(&new.name), &text(&old.name));
    immutable(faults, &path.child("namespace"), &text(&new.namespace), &text(&old.namespace));
    immutable(faults, &path.child("uid"), &text(&new.uid), &text(&old.uid));
    immutable(faults, &path.child("creationTimestamp"), &new.creation_timestamp, &old.creation_timestamp);
    immutable(faults, &path.child("deletionTimestamp"), &new.deletion_timestamp, &old.deletion_timestamp);
    let (grace, old_grace) = (&new.deletion_grace_period_seconds, &old.deletion_grace_period_seconds);
    immutable(faults, &path.child("deletionGracePeriodSeconds"), grace, old_grace);
}

/// Judges labels, of an object, a template or a selector's `matchLabels`.
pub(crate) fn validate_labels(labels: &Option<BTreeMap<String, String>>, path: &Path<'_>, faults: &mut FieldErrors) {
    for (key, value) in entries(labels) {
        each_invalid(faults, path, key, names::qualified(key));
        each_invalid(faults, path, value, names::label_value(value));
    }
}

/// Judges annotations, of an object or a template.
pub(crate) fn validate_annotations(
    annotations: &Option<BTreeMap<String, String>>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let mut bytes = 0;
    for (key, value) in entries(annotations) {
        each_invalid(faults, path, key, names::qualified(&key.to_lowercase()));
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        faults.too_long(path, ANNOTATIONS_BYTES_MAX);
    }
}

fn validate_owners(owners: &[OwnerReference], path: &Path<'_>, faults: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in owners {
        validate_owner(owner, path, faults);
        if owner.controller != Some(true) {
            continue;
        }
        let name = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let why = "Only one reference can have Controller set to true. Found \"true\" in references for";
                faults.invalid(path, owners, format!("{why} {first} and {name}"));
            }
        }
    }
}

fn validate_owner(owner: &OwnerReference, path: &Path<'_>, faults: &mut FieldErrors) {
    let version = owner.api_version.rsplit('/').next().unwrap_or("");
    if version.is_empty() {
        faults.invalid(&path.child("apiVersion"), &owner.api_version, "version must not be empty");
    }
    for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            faults.invalid(&path.child(field), value, "must not be empty");
        }
    }
    if owner.api_version == "v1" && owner.kind == "Event" {
        faults.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
    }
}

fn validate_finalizers(finalizers: &[String], path: &Path<'_>, faults: &mut FieldErrors) {
    for finalizer in finalizers {
        each_invalid(faults, path, finalizer, names::qualified(finalizer));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        faults.invalid(path, finalizers, "finalizer orphan and foregroundDeletion cannot be both set");
    }
    for (index, finalizer) in finalizers.iter().enumerate() {
        validate_bare_finalizer(finalizer, &path.index(index), faults);
    }
}

/// A finalizer without a domain must be one of the few that the system itself knows.
pub(crate) fn validate_bare_finalizer(finalizer: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer) {
        faults.invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn validate_managed_fields(entry: &ManagedFieldsEntry, path: &Path<'_>, faults: &mut FieldErrors) {
    if !["Apply", "Update"].contains(&text(&entry.operation)) {
        faults.invalid(&path.child("operation"), text(&entry.operation), "must be `Apply` or `Update`");
    }
    if !["", "FieldsV1"].contains(&text(&entry.fields_type)) {
        faults.invalid(&path.child("fieldsType"), text(&entry.fields_type), "must be `FieldsV1`");
    }
    let manager = text(&entry.manager);
    let manager_path = path.child("manager");
    if manager.len() > MANAGER_BYTES_MAX {
        faults.too_long(&manager_path, MANAGER_BYTES_MAX);
    }
    for (position, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {position})", u32::from(character));
        faults.invalid(&manager_path, manager, why);
    }
    if text(&entry.subresource).len() > SUBRESOURCE_BYTES_MAX {
        faults.too_long(&path.child("subresource"), SUBRESOURCE_BYTES_MAX);
    }
}

//! ConfigMap: configuration that pods read.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::ConfigMap;

use crate::absent::{entries, entry};
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Writer};
use crate::faults::each_invalid;
use crate::names;

/// Bytes of all values together.
pub(crate) const BYTES_MAX: usize = 1024 * 1024;
pub(crate) const IMMUTABLE_WHEN_SET: &str = "field is immutable when `immutable` is set";

pub static CONFIG_MAP: ResourceDef<ConfigMap> = ResourceDef {
    validate,
    columns: &[
        name(),
        column("Data", "string", "How many keys the object holds.", |object| {
            Cell::Int((entries(&object.data).count() + entries(&object.binary_data).count()) as i64)
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        backing: stored("configmaps"),
        ..CORE
    })
};

fn validate(new: &ConfigMap, old: Option<&ConfigMap>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    if let Some(old) = old {
        validate_update(new, old, faults);
    }
    let mut bytes = 0;
    let data = Path::new("data");
    for (key, value) in entries(&new.data) {
        each_invalid(faults, &data.key(key), key, names::config_key(key));
        if entry(&new.binary_data, key).is_some() {
            faults.invalid(&data.key(key), key, "duplicate of key present in binaryData");
        }
        bytes += value.len();
    }
    let binary_data = Path::new("binaryData");
    for (key, value) in entries(&new.binary_data) {
        each_invalid(faults, &binary_data.key(key), key, names::config_key(key));
        bytes += value.0.len();
    }
    if bytes > BYTES_MAX {
        faults.too_long(&Path::new(""), BYTES_MAX);
    }
}

fn validate_update(new: &ConfigMap, old: &ConfigMap, faults: &mut FieldErrors) {
    if old.immutable != Some(true) {
        return;
    }
    if new.immutable != Some(true) {
        faults.forbidden(&Path::new("immutable"), IMMUTABLE_WHEN_SET);
    }
    if !entries(&new.data).eq(entries(&old.data)) {
        faults.forbidden(&Path::new("data"), IMMUTABLE_WHEN_SET);
    }
    if !entries(&new.binary_data).eq(entries(&old.binary_data)) {
        faults.forbidden(&Path::new("binaryData"), IMMUTABLE_WHEN_SET);
    }
}

//! Secret: data that only those who need it may read.

use api::field::{FieldErrors, Path};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use crate::absent::{default_text, entries, entry, text};
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::core::config_map::{BYTES_MAX, IMMUTABLE_WHEN_SET};
use crate::def::{Cell, Facts, ResourceDef, Rules, Selectable, Writer};
use crate::faults::{each_invalid, immutable};
use crate::names;

pub static SECRET: ResourceDef<Secret> = ResourceDef {
    selectable: &[Selectable { field: "type", value: |secret| text(&secret.type_).to_owned() }],
    default,
    validate,
    columns: &[
        name(),
        column("Type", "string", "What the secret is for.", |secret| Cell::Text(text(&secret.type_).to_owned())),
        column("Data", "string", "How many keys the object holds.", |secret| {
            Cell::Int(entries(&secret.data).count() as i64)
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        backing: stored("secrets"),
        ..CORE
    })
};

/// `stringData` is a convenience of writing: it is folded into `data`, where it wins, and never stored.
fn default(secret: &mut Secret, _: &Rules<'_>) {
    default_text(&mut secret.type_, "Opaque");
    for (key, value) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
    }
}

fn validate(new: &Secret, old: Option<&Secret>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    if let Some(old) = old {
        validate_update(new, old, faults);
    }
    let data = Path::new("data");
    let mut bytes = 0;
    for (key, value) in entries(&new.data) {
        each_invalid(faults, &data.key(key), key, names::config_key(key));
        bytes += value.0.len();
    }
    if bytes > BYTES_MAX {
        faults.too_long(&data, BYTES_MAX);
    }
    validate_type(new, &data, faults);
}

fn validate_update(new: &Secret, old: &Secret, faults: &mut FieldErrors) {
    immutable(faults, &Path::new("type"), &text(&new.type_), &text(&old.type_));
    if old.immutable != Some(true) {
        return;
    }
    if new.immutable != Some(true) {
        faults.forbidden(&Path::new("immutable"), IMMUTABLE_WHEN_SET);
    }
    if !entries(&new.data).eq(entries(&old.data)) {
        faults.forbidden(&Path::new("data"), IMMUTABLE_WHEN_SET);
    }
}

fn validate_type(secret: &Secret, data: &Path<'_>, faults: &mut FieldErrors) {
    let value = |key: &str| entry(&secret.data, key);
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if entry(&secret.metadata.annotations, key).is_none_or(String::is_empty) {
                faults.required(&Path::new("metadata").child("annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(value(".dockercfg"), &data.key(".dockercfg"), faults),
        "kubernetes.io/dockerconfigjson" => {
            validate_json(value(".dockerconfigjson"), &data.key(".dockerconfigjson"), faults);
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            faults.required(&data.key("username"), "");
            faults.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            faults.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if value(key).is_none() {
                    faults.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn validate_json(value: Option<&ByteString>, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(value) = value else {
        return faults.required(path, "");
    };
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&value.0) {
        // The parser's own words would quote the secret where its shape is wrong.
        let why = match error.classify() {
            serde_json::error::Category::Data => {
                "json: cannot unmarshal value into Go value of type map[string]interface {}".to_owned()
            }
            _ => error.to_string(),
        };
        faults.invalid(path, "<secret contents redacted>", why);
    }
}

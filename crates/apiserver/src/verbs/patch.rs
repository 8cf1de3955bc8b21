//! `patch`: JSON patch, merge patch and strategic merge patch. Apply is refused until it is built.

use api::codec::{self, Limits};
use api::field::{FieldErrors, Path};
use api::meta;
use api::patch::json::JsonPatchError;
use api::patch::strategic::StrategicPatchError;
use api::patch::{json, merge, strategic};
use api::schema::Message;
use api::status::{Details, Status};
use api::value::Value;
use bytes::Bytes;
use resources::Writer;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::decode;
use crate::negotiate;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::attempt::Write;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// Changes an object.
pub(crate) async fn patch(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    patch_as(call, served, body, Writer::Main).await
}

/// Changes an object (or, through a subresource, the part of it that the writer may change).
pub(crate) async fn patch_as(call: &Call<'_>, served: &Served, body: Bytes, writer: Writer) -> Outcome<Answer> {
    media_type(call)?;
    let options = WriteOptions::read(&call.query, "PatchOptions")?;
    let message = crate::render::schema(served.group, served.version, served.kind)?;
    let about = About { message, options: &options };
    let write = Write::new(call, served, &options, writer);
    let written = write
        .update(|current| {
            let patched = patched(call, &about, current, &body)?;
            check_name(call, served, &patched)?;
            Ok(patched)
        })
        .await?;
    Ok(Answer::Object { code: 200, served: *served, object: written.object() })
}

fn check_name(call: &Call<'_>, served: &Served, patched: &Value) -> Outcome<()> {
    let (name, wanted) = (meta::name(patched), &call.info.name);
    if name != wanted {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let (namespace, wanted) = (meta::namespace(patched), &call.info.namespace);
    if served.is_namespaced() && namespace != wanted {
        return Err(Refusal::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({wanted})"
        )));
    }
    Ok(())
}

/// The kind of patch. Asked before anything else: that a kind is not served is no matter of the object.
pub(crate) fn media_type<'c>(call: &'c Call<'_>) -> Outcome<&'c str> {
    const SERVED: [&str; 3] = [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH];
    let media_type = negotiate::body_media_type(&call.headers);
    if SERVED.contains(&media_type) { Ok(media_type) } else { Err(negotiate::unsupported_body(&SERVED)) }
}

/// What is patched, and how strictly.
pub(crate) struct About<'a> {
    pub message: &'static Message,
    pub options: &'a WriteOptions,
}

/// The object with the patch of this request applied, conforming to its schema.
pub(crate) fn patched(call: &Call<'_>, about: &About<'_>, current: &Value, body: &[u8]) -> Outcome<Value> {
    let media_type = media_type(call)?;
    let parsed = codec::json::parse(body, &Limits::default()).map_err(|error| {
        // Upstream says for two of the three what it was doing.
        let doing = if media_type == STRATEGIC_PATCH { "" } else { "error decoding patch: " };
        Refusal::bad_request(format!("{doing}{error}"))
    })?;
    let patch = &parsed.value;
    let mut new = current.clone();
    match media_type {
        JSON_PATCH => json::apply(&mut new, patch).map_err(json_refusal)?,
        MERGE_PATCH => {
            check_object(patch, "error decoding patch: ")?;
            merge::apply(&mut new, patch).map_err(|error| Refusal::bad_request(error.to_string()))?;
        }
        _ => {
            check_object(patch, "")?;
            strategic::apply(&mut new, patch, about.message).map_err(strategic_refusal)?;
        }
    }
    let shown = |new: &Value| if media_type == STRATEGIC_PATCH { go_text(patch) } else { new.to_string() };
    let before = new.clone();
    let conform = if media_type == STRATEGIC_PATCH { codec::conform_converted } else { codec::conform };
    let conformed = conform(&mut new, about.message).map_err(|error| invalid(&shown(&before), &error.to_string()))?;
    let faults = faults(media_type, parsed.duplicates, conformed.unknown);
    decode::complain(faults, about.options.field_validation, &call.warnings)
        .map_err(|why| invalid(&shown(&before), &why))?;
    meta::set_type(&mut new, meta::api_version(current), meta::kind(current));
    Ok(new)
}

/// What strict decoding complains of: first of the patch, then of what it made.
fn faults(media_type: &str, duplicates: Vec<String>, unknown: Vec<String>) -> Vec<String> {
    let of = if media_type == JSON_PATCH { "json patch " } else { "" };
    let mut unknown: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    if media_type == STRATEGIC_PATCH {
        unknown.sort_unstable();
    }
    duplicates.iter().map(|path| format!("{of}duplicate field {path:?}")).chain(unknown).collect()
}

fn check_object(patch: &Value, doing: &str) -> Outcome<()> {
    match patch {
        Value::Object(_) => Ok(()),
        other => {
            let kind = other.type_name();
            let why = format!("{doing}json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
            Err(Refusal::bad_request(why))
        }
    }
}

/// The patch made something that is no object of the kind.
fn invalid(shown: &str, why: &str) -> Refusal {
    let mut faults = FieldErrors::default();
    faults.invalid(&Path::new("patch"), shown, why);
    faults.into_status("", "", "").map_or_else(|| Refusal::internal(why), Refusal::from)
}

fn json_refusal(error: JsonPatchError) -> Refusal {
    match error {
        JsonPatchError::Malformed(why) => Refusal::bad_request(why),
        error @ JsonPatchError::TooMany(_) => {
            let message = format!("Request entity too large: {error}");
            Status::failure(413, "RequestEntityTooLarge", &message).into()
        }
        // Upstream does not pass on why.
        JsonPatchError::Inapplicable(why) => {
            tracing::debug!(why, "JSON patch does not apply");
            unprocessable()
        }
    }
}

/// 422 in the words of upstream's generic answer.
fn unprocessable() -> Refusal {
    let mut status = Status::failure(422, "Invalid", "the server rejected our request due to an error in our request");
    status.details = Some(Details::default());
    status.into()
}

fn strategic_refusal(error: StrategicPatchError) -> Refusal {
    match error {
        StrategicPatchError::Malformed(why) => Refusal::bad_request(why),
        StrategicPatchError::Unprocessable(why) => {
            tracing::debug!(why, "strategic merge patch does not apply");
            unprocessable()
        }
        StrategicPatchError::Inapplicable(why) => Refusal::unknown(why),
    }
}

/// A tree as Go prints maps, which upstream shows to users.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let mut pairs: Vec<String> =
                members.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
            pairs.sort_unstable();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_maps_as_go() {
        let value: Value = serde_json::from_str(r#"{"spec":{"replicas":"x","list":[1,null,true]}}"#).expect("JSON");
        assert_eq!(go_text(&value), "map[spec:map[list:[1 <nil> true] replicas:x]]");
    }
}

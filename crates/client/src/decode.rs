//! Bodies that came over HTTP, in protobuf or JSON: objects, lists, watch events, failures.

use std::sync::Arc;

use api::meta;
use api::projection::raw::{self, RawFields};
use api::projection::{Raw, RawError, RawField, envelope};
use api::status::{Cause, Details, Status};
use api::value::Value;
use bytes::Bytes;

use crate::error::ClientError;
use crate::object::{Gvk, Object, decode_error};
use crate::transport::{ObjectList, Response, WatchEvent, bare_status};

/// The failure that a response of 300 or above tells.
pub fn failure(response: &Response) -> Status {
    let parsed = match envelope(&response.body) {
        Ok(Some(envelope)) if envelope.kind == "Status" => status_message(envelope.message).ok(),
        Ok(_) => serde_json::from_slice::<Status>(&response.body).ok(),
        Err(_) => None,
    };
    match parsed {
        Some(status) if !status.message.is_empty() || !status.reason.is_empty() => {
            Status { code: response.code, ..status }
        }
        _ => {
            let text = String::from_utf8_lossy(&response.body);
            let text = text.trim();
            let unknown = "the server answered without saying why";
            bare_status(response.code, if text.is_empty() { unknown } else { shortened(text) })
        }
    }
}

/// At most the first kilobyte.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(1024);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The object in a successful response.
pub fn object(response: &Response) -> Result<Object, ClientError> {
    one(&response.body, None)
}

/// An object in protobuf or JSON. Items of JSON lists do not carry their kind; `kind` is what the list says.
fn one(body: &Bytes, kind: Option<&Arc<Gvk>>) -> Result<Object, ClientError> {
    match envelope(body).map_err(|error| decode_error("envelope", &error))? {
        Some(envelope) => {
            let kind = Arc::new(Gvk::parse(envelope.api_version, envelope.kind));
            message_object(body, envelope.message, &kind)
        }
        None => {
            let tree: Value = serde_json::from_slice(body).map_err(|error| decode_error("object", &error))?;
            tree_object(tree, kind)
        }
    }
}

fn message_object(body: &Bytes, message: &[u8], kind: &Arc<Gvk>) -> Result<Object, ClientError> {
    let (stripped, revision) = without_revision(message).map_err(|error| decode_error("metadata", &error))?;
    let bytes = match stripped {
        Some(stripped) => stripped.into(),
        None => body.slice_ref(message),
    };
    Object::from_body(kind.clone(), revision, bytes)
}

fn tree_object(mut tree: Value, kind: Option<&Arc<Gvk>>) -> Result<Object, ClientError> {
    let own =
        (!meta::kind(&tree).is_empty()).then(|| Arc::new(Gvk::parse(meta::api_version(&tree), meta::kind(&tree))));
    let kind = own
        .or_else(|| kind.cloned())
        .ok_or_else(|| ClientError::Decode { what: "object", message: "kind is missing".to_owned() })?;
    let revision = parse_revision(meta::resource_version(&tree))?;
    meta::set_type(&mut tree, &kind.api_version(), &kind.kind);
    meta::clear_resource_version(&mut tree);
    let body = serde_json::to_vec(&tree).map_err(|error| decode_error("object", &error))?;
    Object::from_body(kind, revision, body.into())
}

fn parse_revision(text: &str) -> Result<u64, ClientError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| ClientError::Decode { what: "resourceVersion", message: format!("{text:?} is no number") })
}

/// `metadata` in every kind, and `resourceVersion` in `ObjectMeta`.
const METADATA: u32 = 1;
const RESOURCE_VERSION: u32 = 6;

/// The message without its metadata's resourceVersion (`None` if it has none), and the revision.
fn without_revision(message: &[u8]) -> Result<(Option<Vec<u8>>, u64), RawError> {
    for field in RawFields::new(message) {
        let RawField { number, value, span } = field?;
        let Raw::Bytes(metadata) = value else { continue };
        if number != METADATA {
            continue;
        }
        for field in RawFields::new(metadata) {
            let RawField { number, value, span: (start, end) } = field?;
            let Raw::Bytes(revision) = value else { continue };
            if number == RESOURCE_VERSION {
                let revision = raw::utf8(revision)?;
                let revision = if revision.is_empty() {
                    0
                } else {
                    revision.parse().map_err(|_| RawError("resourceVersion is no number"))?
                };
                let rest = [&metadata[..start], &metadata[end..]].concat();
                let mut out = Vec::with_capacity(message.len());
                out.extend_from_slice(&message[..span.0]);
                raw::put_bytes(&mut out, METADATA, &rest);
                out.extend_from_slice(&message[span.1..]);
                return Ok((Some(out), revision));
            }
        }
    }
    Ok((None, 0))
}

/// The list in a successful response.
pub fn list(response: &Response) -> Result<ObjectList, ClientError> {
    match envelope(&response.body).map_err(|error| decode_error("envelope", &error))? {
        Some(envelope) => {
            let kind =
                Arc::new(Gvk::parse(envelope.api_version, envelope.kind.strip_suffix("List").unwrap_or(envelope.kind)));
            message_list(&response.body, envelope.message, &kind)
        }
        None => json_list(&response.body),
    }
}

fn message_list(body: &Bytes, message: &[u8], kind: &Arc<Gvk>) -> Result<ObjectList, ClientError> {
    let malformed = |error: RawError| decode_error("list", &error);
    let mut list = ObjectList::default();
    for field in RawFields::new(message) {
        match field.map_err(malformed)? {
            RawField { number: 1, value: Raw::Bytes(metadata), .. } => {
                let (revision, continue_token) = list_meta(metadata).map_err(malformed)?;
                list.revision = parse_revision(&revision)?;
                list.continue_token = Some(continue_token).filter(|token| !token.is_empty());
            }
            RawField { number: 2, value: Raw::Bytes(item), .. } => {
                list.items.push(Arc::new(message_object(body, item, kind)?));
            }
            _ => {}
        }
    }
    Ok(list)
}

/// resourceVersion and continue token of a `ListMeta`.
fn list_meta(metadata: &[u8]) -> Result<(String, String), RawError> {
    let text = |number| {
        raw::bytes_field(metadata, number)?.map_or(Ok(String::new()), |text| raw::utf8(text).map(str::to_owned))
    };
    Ok((text(2)?, text(3)?))
}

fn json_list(body: &Bytes) -> Result<ObjectList, ClientError> {
    let mut tree: Value = serde_json::from_slice(body).map_err(|error| decode_error("list", &error))?;
    let text = |key: &str| tree.str_at(&["metadata", key]).unwrap_or_default().to_owned();
    let continue_token = Some(text("continue")).filter(|token| !token.is_empty());
    let revision = parse_revision(&text("resourceVersion"))?;
    let kind = meta::kind(&tree);
    let kind = Arc::new(Gvk::parse(meta::api_version(&tree), kind.strip_suffix("List").unwrap_or(kind)));
    let items = match tree.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let items = items.into_iter().map(|item| tree_object(item, Some(&kind)).map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(ObjectList { revision, items, continue_token })
}

/// An event of a watch: a whole frame of protobuf, or a line of JSON. An `ERROR` event is an `Err`.
pub fn watch_event(frame: &Bytes) -> Result<WatchEvent, ClientError> {
    if frame.first() == Some(&b'{') { json_event(frame) } else { message_event(frame) }
}

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

fn event(kind: &str, object: impl FnOnce() -> Result<Object, ClientError>) -> Result<WatchEvent, ClientError> {
    let object = Arc::new(object()?);
    match kind {
        "ADDED" => Ok(WatchEvent::Added(object)),
        "MODIFIED" => Ok(WatchEvent::Modified(object)),
        "DELETED" => Ok(WatchEvent::Deleted(object)),
        "BOOKMARK" => {
            let initial_events_end = object.meta().annotations.get(INITIAL_EVENTS_END) == Some("true");
            Ok(WatchEvent::Bookmark { revision: object.revision(), initial_events_end })
        }
        other => Err(ClientError::Decode { what: "watch event", message: format!("type {other:?} is not known") }),
    }
}

fn message_event(frame: &Bytes) -> Result<WatchEvent, ClientError> {
    let malformed = |error: RawError| decode_error("watch event", &error);
    // `WatchEvent{type = 1, object = 2 RawExtension{raw = 1}}`; the frame itself may or may not be enveloped.
    let message = envelope(frame).map_err(malformed)?.map_or(&frame[..], |envelope| envelope.message);
    let field = |message, number| raw::bytes_field(message, number).map_err(malformed);
    let kind = raw::utf8(field(message, 1)?.unwrap_or_default()).map_err(malformed)?;
    let extension = field(message, 2)?.unwrap_or_default();
    let body = frame.slice_ref(field(extension, 1)?.unwrap_or_default());
    if kind == "ERROR" {
        return Err(error_event(&body).into());
    }
    event(kind, || one(&body, None))
}

fn json_event(line: &Bytes) -> Result<WatchEvent, ClientError> {
    let mut tree: Value = serde_json::from_slice(line).map_err(|error| decode_error("watch event", &error))?;
    let object = tree.get_mut("object").map(Value::take).unwrap_or_default();
    let kind = tree.str_at(&["type"]).unwrap_or_default();
    if kind == "ERROR" {
        return Err(error_event(&Bytes::from(object.to_string())).into());
    }
    event(kind, || tree_object(object, None))
}

fn error_event(body: &Bytes) -> Status {
    let response = Response { code: 500, content_type: String::new(), body: body.clone() };
    let status = failure(&response);
    // The code stands in the status itself here, not in a response's head.
    let code = match envelope(body) {
        Ok(Some(envelope)) => status_message(envelope.message).map_or(0, |status| status.code),
        _ => serde_json::from_slice::<Status>(body).map_or(0, |status| status.code),
    };
    Status { code: if code == 0 { 500 } else { code }, ..status }
}

/// A `Status` from its protobuf message.
fn status_message(message: &[u8]) -> Result<Status, RawError> {
    let mut status = Status::default();
    for field in RawFields::new(message) {
        match field? {
            RawField { number: 1, value: Raw::Bytes(metadata), .. } => {
                (status.metadata.resource_version, status.metadata.continue_token) = list_meta(metadata)?;
            }
            RawField { number: 2, value: Raw::Bytes(text), .. } => status.status = raw::utf8(text)?.to_owned(),
            RawField { number: 3, value: Raw::Bytes(text), .. } => status.message = raw::utf8(text)?.to_owned(),
            RawField { number: 4, value: Raw::Bytes(text), .. } => status.reason = raw::utf8(text)?.to_owned(),
            RawField { number: 5, value: Raw::Bytes(details), .. } => status.details = Some(details_message(details)?),
            RawField { number: 6, value: Raw::Varint(code), .. } => status.code = u16::try_from(code).unwrap_or(500),
            _ => {}
        }
    }
    Ok(status)
}

fn details_message(message: &[u8]) -> Result<Details, RawError> {
    let mut details = Details::default();
    for field in RawFields::new(message) {
        match field? {
            RawField { number: 1, value: Raw::Bytes(text), .. } => details.name = raw::utf8(text)?.to_owned(),
            RawField { number: 2, value: Raw::Bytes(text), .. } => details.group = raw::utf8(text)?.to_owned(),
            RawField { number: 3, value: Raw::Bytes(text), .. } => details.kind = raw::utf8(text)?.to_owned(),
            RawField { number: 4, value: Raw::Bytes(cause), .. } => details.causes.push(cause_message(cause)?),
            RawField { number: 5, value: Raw::Varint(seconds), .. } if seconds > 0 => {
                details.retry_after_seconds = u32::try_from(seconds).ok();
            }
            RawField { number: 6, value: Raw::Bytes(text), .. } => details.uid = raw::utf8(text)?.to_owned(),
            _ => {}
        }
    }
    Ok(details)
}

fn cause_message(message: &[u8]) -> Result<Cause, RawError> {
    let text = |number| {
        raw::bytes_field(message, number)?.map_or(Ok(String::new()), |text| raw::utf8(text).map(str::to_owned))
    };
    Ok(Cause { reason: text(1)?, message: text(2)?, field: text(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(code: u16, body: impl Into<Bytes>) -> Response {
        Response { code, content_type: String::new(), body: body.into() }
    }

    /// A ConfigMap's message: metadata{name, namespace, uid, resourceVersion}.
    fn message(name: &str, revision: &str) -> Vec<u8> {
        let mut metadata = Vec::new();
        for (number, text) in [(1, name), (3, "n"), (5, "u"), (6, revision)] {
            raw::put_bytes(&mut metadata, number, text.as_bytes());
        }
        let mut message = Vec::new();
        raw::put_bytes(&mut message, 1, &metadata);
        message
    }

    fn enveloped(kind: &str, message: &[u8]) -> Vec<u8> {
        let mut type_meta = Vec::new();
        raw::put_bytes(&mut type_meta, 1, b"v1");
        raw::put_bytes(&mut type_meta, 2, kind.as_bytes());
        let mut out = raw::MAGIC.to_vec();
        raw::put_bytes(&mut out, 1, &type_meta);
        raw::put_bytes(&mut out, 2, message);
        out
    }

    fn check_object(object: &Object) {
        assert_eq!((object.namespace(), object.name(), object.uid(), object.revision()), ("n", "a", "u", 7));
        assert_eq!(object.kind(), &Gvk::new("", "v1", "ConfigMap"));
        assert_eq!(object.meta().resource_version, None);
    }

    const JSON_OBJECT: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7"}}"#;

    #[test]
    fn reads_objects_in_both_encodings() {
        check_object(&object(&response(200, enveloped("ConfigMap", &message("a", "7")))).expect("an object"));
        check_object(&object(&response(200, JSON_OBJECT)).expect("an object"));
        for body in [&b"k8s\0\xff"[..], b"{", b"", br#"{"metadata":{}}"#] {
            assert!(matches!(object(&response(200, body.to_vec())), Err(ClientError::Decode { .. })), "{body:?}");
        }
    }

    #[test]
    fn reads_lists_in_both_encodings() {
        let mut metadata = Vec::new();
        raw::put_bytes(&mut metadata, 2, b"9");
        raw::put_bytes(&mut metadata, 3, b"more");
        let mut body = Vec::new();
        raw::put_bytes(&mut body, 1, &metadata);
        raw::put_bytes(&mut body, 2, &message("a", "7"));
        let json = r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"more"},
            "items":[{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7"}}]}"#;
        for body in [enveloped("ConfigMapList", &body), json.as_bytes().to_vec()] {
            let list = list(&response(200, body)).expect("a list");
            assert_eq!((list.revision, list.continue_token.as_deref(), list.items.len()), (9, Some("more"), 1));
            check_object(&list.items[0]);
        }
    }

    #[test]
    fn reads_events_in_both_encodings() {
        let frame = |kind: &str, body: &[u8]| {
            let (mut extension, mut event) = (Vec::new(), Vec::new());
            raw::put_bytes(&mut extension, 1, body);
            raw::put_bytes(&mut event, 1, kind.as_bytes());
            raw::put_bytes(&mut event, 2, &extension);
            Bytes::from(event)
        };
        for frame in [
            frame("ADDED", &enveloped("ConfigMap", &message("a", "7"))),
            Bytes::from(format!(r#"{{"type":"ADDED","object":{JSON_OBJECT}}}"#)),
        ] {
            match watch_event(&frame) {
                Ok(WatchEvent::Added(object)) => check_object(&object),
                other => panic!("{other:?}"),
            }
        }
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let bookmark = watch_event(&Bytes::from(bookmark));
        assert!(
            matches!(bookmark, Ok(WatchEvent::Bookmark { revision: 12, initial_events_end: true })),
            "{bookmark:?}"
        );
        let mut status = Vec::new();
        raw::put_bytes(&mut status, 3, b"too old resource version");
        raw::put_bytes(&mut status, 4, b"Expired");
        status.extend([6 << 3]);
        raw::put_varint(&mut status, 410);
        for frame in [
            frame("ERROR", &enveloped("Status", &status)),
            Bytes::from(
                r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#,
            ),
        ] {
            let error = watch_event(&frame).expect_err("an error event");
            assert!(error.is_expired());
            assert_eq!(
                error.status().map(|status| (status.code, status.message.as_str())),
                Some((410, "too old resource version"))
            );
        }
    }

    #[test]
    fn tells_failures_however_they_are_written() {
        let json = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#;
        let status = failure(&response(404, json));
        assert_eq!((status.reason.as_str(), status.message.as_str(), status.code), ("NotFound", "no", 404));
        let status = failure(&response(502, "bad gateway\n"));
        assert_eq!(
            (status.reason.as_str(), status.message.as_str(), status.code),
            ("InternalError", "bad gateway", 502)
        );
        assert_eq!(failure(&response(401, "")).reason, "Unauthorized");
    }
}

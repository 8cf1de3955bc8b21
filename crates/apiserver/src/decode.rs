//! Objects out of request bodies, strictly or leniently, with upstream's words for what is wrong.

use api::codec::{self, DecodeError, Limits, Parsed};
use api::schema::Message;
use api::value::Value;

use crate::catalog::group_version;
use crate::negotiate::Encoding;
use crate::options::FieldValidation;
use crate::pipeline::Warnings;
use crate::refusal::{Outcome, Refusal};

/// The kind that a body should hold.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub message: &'static Message,
}

/// Decodes a body that must hold an object of the expected kind. What strict decoding complains of becomes a refusal,
/// a warning or nothing.
pub(crate) fn object(
    bytes: &[u8],
    encoding: Encoding,
    expected: &Expected<'_>,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Outcome<Value> {
    let Parsed { mut value, duplicates } = parse(bytes, encoding, expected)?;
    let given = given_kind(&value, expected);
    let refuse = |why: &str| {
        let (kind, version, wanted) = (&given.1, api::meta::group_version(&given.0).1, expected.kind);
        Refusal::bad_request(format!("{kind} in version {version:?} cannot be handled as a {wanted}: {why}"))
    };
    check_kind(&given, expected, &refuse)?;
    let conformed = codec::conform(&mut value, expected.message).map_err(|error| refuse(&error.to_string()))?;
    let json = (encoding == Encoding::Json).then_some(bytes);
    let faults = codec::strict_faults(json, &conformed.unknown, &duplicates);
    complain(faults, validation, warnings).map_err(|why| refuse(&why))?;
    api::meta::set_type(&mut value, &group_version(expected.group, expected.version), expected.kind);
    Ok(value)
}

/// What becomes of unknown and repeated fields; an error under strict validation.
pub(crate) fn complain(faults: Vec<String>, validation: FieldValidation, warnings: &Warnings) -> Result<(), String> {
    match validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.add(faults);
            Ok(())
        }
        FieldValidation::Strict => codec::strict_error(&faults).map_or(Ok(()), Err),
    }
}

fn parse(bytes: &[u8], encoding: Encoding, expected: &Expected<'_>) -> Outcome<Parsed> {
    let limits = Limits::default();
    let unrecognized = |why: &str| {
        let (kind, shown) = (expected.kind, summary(bytes));
        Refusal::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({shown})"))
    };
    let no_kind = |error: DecodeError| unrecognized(&format!("couldn't get version/kind; json parse error: {error}"));
    match encoding {
        Encoding::Json => {
            let parsed = codec::json::parse(bytes, &limits).map_err(no_kind)?;
            match &parsed.value {
                Value::Object(members) => {
                    // What Go reads first is a struct without a name that has these two members alone.
                    for key in ["apiVersion", "kind"] {
                        let given = members.get(key).unwrap_or(&Value::Null);
                        if !matches!(given, Value::String(_) | Value::Null) {
                            let kind = given.type_name();
                            let why =
                                format!("json: cannot unmarshal {kind} into Go struct field .{key} of type string");
                            return Err(no_kind(DecodeError::Type(why)));
                        }
                    }
                    Ok(parsed)
                }
                other => {
                    let why = format!(
                        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                        other.type_name()
                    );
                    Err(no_kind(DecodeError::Type(why)))
                }
            }
        }
        Encoding::Yaml => codec::yaml::parse(bytes, &limits).map_err(|error| unrecognized(&error.to_string())),
        Encoding::Protobuf => protobuf(bytes, expected, &unrecognized),
    }
}

fn protobuf(bytes: &[u8], expected: &Expected<'_>, unrecognized: &dyn Fn(&str) -> Refusal) -> Outcome<Parsed> {
    let envelope = codec::envelope::unwrap(bytes).map_err(|error| unrecognized(&error.to_string()))?;
    let (group, version) = envelope.group_version();
    let mut value = match api::schema::kind(group, version, &envelope.kind) {
        // Nobody can read it; the check of its kind refuses it.
        None if !envelope.kind.is_empty() && envelope.kind != expected.kind => Value::object(),
        found => {
            let message = found.unwrap_or(expected.message);
            codec::protobuf::decode(envelope.raw, message).map_err(|error| {
                let (kind, wanted) = (&*envelope.kind, expected.kind);
                if kind.is_empty() {
                    return unrecognized(&error.to_string());
                }
                let why = format!("{kind} in version {version:?} cannot be handled as a {wanted}: {error}");
                Refusal::bad_request(why)
            })?
        }
    };
    if !envelope.kind.is_empty() {
        api::meta::set_type(&mut value, &envelope.api_version, &envelope.kind);
    }
    Ok(Parsed { value, duplicates: Vec::new() })
}

/// The apiVersion and kind that the body names, the expected ones where it names none.
fn given_kind(value: &Value, expected: &Expected<'_>) -> (String, String) {
    let or = |given: &str, fallback: &str| if given.is_empty() { fallback.to_owned() } else { given.to_owned() };
    let api_version = or(api::meta::api_version(value), &group_version(expected.group, expected.version));
    (api_version, or(api::meta::kind(value), expected.kind))
}

fn check_kind(given: &(String, String), expected: &Expected<'_>, refuse: &dyn Fn(&str) -> Refusal) -> Outcome<()> {
    let (api_version, kind) = given;
    let wanted = group_version(expected.group, expected.version);
    if *api_version == wanted && kind == expected.kind {
        return Ok(());
    }
    let (group, version) = api::meta::group_version(api_version);
    let options = matches!(kind.as_str(), "DeleteOptions") && kind == expected.kind;
    if options {
        return Ok(());
    }
    if api::schema::kind(group, version, kind).is_none() {
        let scheme = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30";
        return Err(refuse(&format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme {scheme:?}"
        )));
    }
    if kind == expected.kind {
        let why =
            format!("the API version in the data ({api_version}) does not match the expected API version ({wanted})");
        return Err(Refusal::bad_request(why));
    }
    let internal =
        if expected.group.is_empty() { "core" } else { expected.group.split('.').next().unwrap_or_default() };
    Err(refuse(&format!("converting (v1.{kind}) to ({internal}.{}): unknown conversion", expected.kind)))
}

/// The beginning of a body, for an error.
fn summary(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 30;
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let shown = match bytes.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(cut).into_owned(),
        Some(_) => cut.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if bytes.len() > SHOWN_BYTES { format!("{shown} ...") } else { shown }
}

//! The envelope around protobuf objects: four magic bytes and a `runtime.Unknown` with type meta and the raw object.

use std::borrow::Cow;

use super::DecodeError;
use super::protobuf::read::{Reader, malformed};
use super::protobuf::write_varint;

/// What every enveloped object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// What follows the raw object: empty content encoding and type, which Go always writes.
pub const TAIL: &[u8; 4] = &[0x1a, 0x00, 0x22, 0x00];

/// What an envelope says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// The object's API version: `apps/v1`, `v1`.
    pub api_version: Cow<'a, str>,
    /// The object's kind.
    pub kind: Cow<'a, str>,
    /// The object's protobuf form.
    pub raw: &'a [u8],
    /// Empty unless the raw object is something else than protobuf.
    pub content_type: Cow<'a, str>,
}

impl Unknown<'_> {
    /// Group (empty for core) and version.
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.rsplit_once('/').unwrap_or(("", &self.api_version))
    }
}

/// Puts an object into its envelope.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    write_head(api_version, kind, raw.len(), &mut out);
    out.extend_from_slice(raw);
    out.extend_from_slice(TAIL);
    out
}

/// Appends what comes before a raw object of `raw_len` bytes; [`TAIL`] comes after it.
pub fn write_head(api_version: &str, kind: &str, raw_len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    for (tag, text) in [(0x0a, api_version), (0x12, kind)] {
        type_meta.push(tag);
        write_varint(text.len() as u64, &mut type_meta);
        type_meta.extend_from_slice(text.as_bytes());
    }
    out.push(0x0a);
    write_varint(type_meta.len() as u64, out);
    out.extend_from_slice(&type_meta);
    out.push(0x12);
    write_varint(raw_len as u64, out);
}

/// Takes an object out of its envelope.
pub fn unwrap(bytes: &[u8]) -> Result<Unknown<'_>, DecodeError> {
    let inner = bytes.strip_prefix(MAGIC).ok_or_else(|| {
        DecodeError::Syntax(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned(),
        )
    })?;
    let mut unknown =
        Unknown { api_version: Cow::default(), kind: Cow::default(), raw: &[], content_type: Cow::default() };
    let mut reader = Reader::new(inner);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => {
                let mut type_meta = Reader::new(payload.as_bytes()?);
                while let Some((number, payload)) = type_meta.next()? {
                    match number {
                        1 => unknown.api_version = String::from_utf8_lossy(payload.as_bytes()?),
                        2 => unknown.kind = String::from_utf8_lossy(payload.as_bytes()?),
                        _ => {}
                    }
                }
            }
            2 => unknown.raw = payload.as_bytes()?,
            3 if !payload.as_bytes()?.is_empty() => return Err(malformed("an encoded envelope is not taken")),
            4 => unknown.content_type = String::from_utf8_lossy(payload.as_bytes()?),
            _ => {}
        }
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_is_unwrapped() {
        let bytes = wrap("apps/v1", "Deployment", b"raw");
        assert_eq!(bytes, b"k8s\0\x0a\x15\x0a\x07apps/v1\x12\x0aDeployment\x12\x03raw\x1a\x00\x22\x00");
        let unknown = unwrap(&bytes).expect("an envelope");
        assert_eq!((unknown.group_version(), &*unknown.kind, unknown.raw), (("apps", "v1"), "Deployment", &b"raw"[..]));
    }

    #[test]
    fn broken_envelopes_are_errors() {
        assert!(unwrap(b"").is_err());
        assert!(unwrap(b"{}").is_err());
        assert!(unwrap(b"k8s\0\x0a\x7f").is_err());
        assert!(unwrap(b"k8s\0\x1a\x01x").is_err());
        assert_eq!(unwrap(b"k8s\0").expect("an empty envelope").raw, b"");
    }
}

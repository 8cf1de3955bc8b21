//! Reads protobuf fields straight from bytes, without knowing the message.

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf: {0}")]
pub struct RawError(pub &'static str);

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<'a> {
    /// Integers, booleans and enumerations.
    Varint(u64),
    /// `fixed64` and `double`.
    Fixed64(u64),
    /// Strings, bytes and messages.
    Bytes(&'a [u8]),
    /// `fixed32` and `float`.
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawField<'a> {
    pub number: u32,
    pub value: Raw<'a>,
    /// Where the field's tag starts and its value ends, counted from the start of the message.
    pub span: (usize, usize),
}

/// The fields of a message in the order of the wire. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RawFields<'a> {
    message: &'a [u8],
    position: usize,
}

impl<'a> RawFields<'a> {
    /// The fields of `message`.
    pub const fn new(message: &'a [u8]) -> Self {
        RawFields { message, position: 0 }
    }

    fn varint(&mut self) -> Result<u64, RawError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.position).ok_or(RawError("truncated varint"))?;
            self.position += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RawError("varint longer than ten bytes"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RawError> {
        let end = self.position.checked_add(length).ok_or(RawError("length overflows"))?;
        let bytes = self.message.get(self.position..end).ok_or(RawError("truncated field"))?;
        self.position = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RawError> {
        self.take(N)?.try_into().map_err(|_| RawError("truncated field"))
    }

    fn field(&mut self) -> Result<RawField<'a>, RawError> {
        let start = self.position;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| RawError("field number out of range"))?;
        if number == 0 {
            return Err(RawError("field number zero"));
        }
        let value = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| RawError("length overflows"))?;
                Raw::Bytes(self.take(length)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(RawError("unsupported wire type")),
        };
        Ok(RawField { number, value, span: (start, self.position) })
    }
}

impl<'a> Iterator for RawFields<'a> {
    type Item = Result<RawField<'a>, RawError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.message.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.position = self.message.len();
        }
        Some(field)
    }
}

/// The four bytes before an enveloped object (`runtime.Unknown`).
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The envelope around a protobuf object: its type and its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub message: &'a [u8],
}

/// Opens an enveloped protobuf object; `None` when the bytes carry no envelope.
pub fn envelope(bytes: &[u8]) -> Result<Option<Envelope<'_>>, RawError> {
    let Some(unknown) = bytes.strip_prefix(MAGIC) else { return Ok(None) };
    let mut envelope = Envelope::default();
    for field in RawFields::new(unknown) {
        match field? {
            RawField { number: 1, value: Raw::Bytes(type_meta), .. } => {
                for field in RawFields::new(type_meta) {
                    match field? {
                        RawField { number: 1, value: Raw::Bytes(text), .. } => envelope.api_version = utf8(text)?,
                        RawField { number: 2, value: Raw::Bytes(text), .. } => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            RawField { number: 2, value: Raw::Bytes(message), .. } => envelope.message = message,
            _ => {}
        }
    }
    Ok(Some(envelope))
}

/// The bytes as text.
pub fn utf8(bytes: &[u8]) -> Result<&str, RawError> {
    std::str::from_utf8(bytes).map_err(|_| RawError("text is not UTF-8"))
}

/// The last value of bytes field `number`, as protobuf's readers take it.
pub fn bytes_field(message: &[u8], number: u32) -> Result<Option<&[u8]>, RawError> {
    let mut found = None;
    for field in RawFields::new(message) {
        if let RawField { number: at, value: Raw::Bytes(bytes), .. } = field?
            && at == number
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// Appends `value` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes field `number`.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, (u64::from(number) << 3) | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_wire_type() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let fields: Vec<_> =
            RawFields::new(&message).map(|field| field.map(|field| (field.number, field.value))).collect();
        let expected = [(1, Raw::Varint(150)), (2, Raw::Bytes(b"hi")), (3, Raw::Fixed32(1)), (4, Raw::Fixed64(2))]
            .map(Ok)
            .to_vec();
        assert_eq!(fields, expected);
    }

    #[test]
    fn refuses_what_is_cut_short() {
        for message in [&[0x08][..], &[0x12, 5, b'a'], &[0x1d, 1], &[0x00, 1], &[0x0b], &[0xff; 11]] {
            assert!(RawFields::new(message).any(|field| field.is_err()), "{message:?}");
        }
    }

    #[test]
    fn opens_an_envelope() {
        let mut unknown = MAGIC.to_vec();
        let mut type_meta = Vec::new();
        put_bytes(&mut type_meta, 1, b"v1");
        put_bytes(&mut type_meta, 2, b"Pod");
        put_bytes(&mut unknown, 1, &type_meta);
        put_bytes(&mut unknown, 2, b"body");
        let expected = Envelope { api_version: "v1", kind: "Pod", message: b"body" };
        assert_eq!(envelope(&unknown), Ok(Some(expected)));
        assert_eq!(envelope(b"{}"), Ok(None));
    }
}

//! The wire format: numbered fields of four kinds.

use crate::codec::DecodeError;

/// The content of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads fields one by one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

pub(crate) fn truncated() -> DecodeError {
    DecodeError::Syntax("unexpected EOF".to_owned())
}

pub(crate) fn malformed(what: &str) -> DecodeError {
    DecodeError::Syntax(format!("proto: {what}"))
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next field's number and content; none at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, DecodeError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| malformed(&format!("illegal tag {} (wire type {})", tag >> 3, tag & 7)))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => Payload::Bytes(self.bytes()?),
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(malformed(&format!("illegal wireType {other}"))),
        };
        Ok(Some((number, payload)))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        if let Some(byte) = self.bytes.get(self.at)
            && *byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("integer overflow"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len =
            usize::try_from(self.varint()?).map_err(|_| malformed("negative length found during unmarshaling"))?;
        let end = self.at.checked_add(len).ok_or_else(truncated)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or_else(truncated)?;
        self.at += N;
        Ok(*bytes)
    }
}

impl<'a> Payload<'a> {
    pub(crate) fn as_varint(self) -> Result<u64, DecodeError> {
        match self {
            Payload::Varint(number) => Ok(number),
            _ => Err(self.wrong()),
        }
    }

    pub(crate) fn as_bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong()),
        }
    }

    pub(crate) fn as_double(self) -> Result<f64, DecodeError> {
        match self {
            Payload::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(self.wrong()),
        }
    }

    fn wrong(self) -> DecodeError {
        let kind = match self {
            Payload::Varint(_) => 0,
            Payload::Fixed64(_) => 1,
            Payload::Bytes(_) => 2,
            Payload::Fixed32(_) => 5,
        };
        malformed(&format!("wrong wireType = {kind}"))
    }
}

/// The bytes of field 1 of a message that holds nothing else (`RawExtension`, `FieldsV1`, `JSON`, `Quantity`); the last one counts.
pub(crate) fn only_bytes(bytes: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some((number, payload)) = reader.next()? {
        if number == 1 {
            found = Some(payload.as_bytes()?);
        }
    }
    Ok(found)
}

/// The integers in fields 1 and 2 (`Timestamp`, `Duration`).
pub(crate) fn two_integers(bytes: &[u8]) -> Result<(i64, i64), DecodeError> {
    let mut reader = Reader::new(bytes);
    let (mut first, mut second) = (0, 0);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => first = payload.as_varint()? as i64,
            2 => second = payload.as_varint()? as i64,
            _ => {}
        }
    }
    Ok((first, second))
}

/// What an `IntOrString` says.
pub(crate) enum IntOrString<'a> {
    Int(i32),
    String(&'a [u8]),
}

pub(crate) fn int_or_string(bytes: &[u8]) -> Result<IntOrString<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let (mut kind, mut int, mut string) = (0, 0, &b""[..]);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => kind = payload.as_varint()?,
            2 => int = payload.as_varint()? as i32,
            3 => string = payload.as_bytes()?,
            _ => {}
        }
    }
    match kind {
        0 => Ok(IntOrString::Int(int)),
        1 => Ok(IntOrString::String(string)),
        _ => Err(malformed("impossible IntOrString.Type")),
    }
}

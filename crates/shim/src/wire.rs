//! The encoding of messages: little-endian numbers, counted lists, records that may grow at their ends.

use alloc::string::String;
use alloc::vec::Vec;

/// The most elements of a list, or bytes of a text, that are read.
const COUNT_MAX: usize = 4 << 20;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What can be sent.
pub trait Wire: Sized {
    /// Appends this value.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes a value from the front of `input`.
    fn take(input: &mut &[u8]) -> Result<Self, Malformed>;

    /// This value alone.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// The value at the front of `input`; what follows it is ignored.
    fn decode(mut input: &[u8]) -> Result<Self, Malformed> {
        Self::take(&mut input)
    }
}

/// Takes `count` bytes from the front of `input`.
pub fn split<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (front, rest) = input.split_at_checked(count).ok_or(Malformed)?;
    *input = rest;
    Ok(front)
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    u32::try_from(count).unwrap_or(u32::MAX).put(out);
}

fn take_count(input: &mut &[u8]) -> Result<usize, Malformed> {
    let count = u32::take(input)? as usize;
    if count > COUNT_MAX { Err(Malformed) } else { Ok(count) }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
                let bytes = split(input, size_of::<$type>())?;
                bytes.try_into().map(<$type>::from_le_bytes).map_err(|_| Malformed)
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let count = take_count(input)?;
        let bytes = split(input, count)?;
        core::str::from_utf8(bytes).map(String::from).map_err(|_| Malformed)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let count = take_count(input)?;
        // Every element takes a byte at least, so a lying count cannot make us reserve more than we were sent.
        let mut items = Vec::with_capacity(count.min(input.len()));
        for _ in 0..count {
            items.push(T::take(input)?);
        }
        Ok(items)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

/// Declares a struct that is sent with its length in front: a reader that knows fewer fields skips the rest, one that
/// knows more gives them their defaults.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut alloc::vec::Vec<u8>) {
                let start = out.len();
                out.extend_from_slice(&[0; 4]);
                $($crate::wire::Wire::put(&self.$field, out);)*
                let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
                out[start..start + 4].copy_from_slice(&length.to_le_bytes());
            }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::wire::Malformed> {
                let length = <u32 as $crate::wire::Wire>::take(input)? as usize;
                let mut body = $crate::wire::split(input, length)?;
                Ok($name {
                    $($field: if body.is_empty() { Default::default() } else { $crate::wire::Wire::take(&mut body)? },)*
                })
            }
        }
    };
}

/// Declares an enum without values that is sent as a byte; an unknown byte is malformed.
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant = $number,)* }

        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut alloc::vec::Vec<u8>) {
                out.push(*self as u8);
            }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::wire::Malformed> {
                match <u8 as $crate::wire::Wire>::take(input)? {
                    $($number => Ok($name::$variant),)*
                    _ => Err($crate::wire::Malformed),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    record! { Old { name: String, } }
    record! { New { name: String, more: Vec<u32>, perhaps: Option<i64>, } }
    record! { Around { new: New, after: u16, } }
    record! { AroundOld { old: Old, after: u16, } }

    #[test]
    fn what_is_written_is_read() {
        let new = New { name: "ä".into(), more: vec![1, 2], perhaps: Some(-1) };
        assert_eq!(New::decode(&new.encode()), Ok(new));
    }

    #[test]
    fn records_grow_in_both_directions() {
        let new = New { name: "a".into(), more: vec![1], perhaps: None };
        let around = Around { new: new.clone(), after: 7 };
        let old = AroundOld { old: Old { name: "a".into() }, after: 7 };
        assert_eq!(AroundOld::decode(&around.encode()), Ok(old.clone()));
        let lacking = New { more: vec![], ..new };
        assert_eq!(Around::decode(&old.encode()), Ok(Around { new: lacking, after: 7 }));
    }

    #[test]
    fn no_input_makes_it_panic_or_reserve() {
        let good = New { name: "abc".into(), more: vec![1, 2, 3], perhaps: Some(5) }.encode();
        for end in 0..good.len() {
            assert_eq!(New::decode(&good[..end]), Err(Malformed), "cut at {end}");
        }
        for (at, byte) in (0..good.len()).flat_map(|at| [0, 1, 0x7f, 0xff].map(|byte| (at, byte))) {
            let mut bad = good.clone();
            bad[at] = byte;
            drop(New::decode(&bad));
        }
    }
}

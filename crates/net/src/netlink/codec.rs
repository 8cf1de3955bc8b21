//! Bytes of netlink messages.

/// The length of `nlmsghdr`.
pub(crate) const HEADER_LENGTH: usize = 16;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// Set by the kernel in a dump's message when what it lists changed meanwhile.
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// Messages that are sent together, back to back.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    last_start: usize,
}

impl Batch {
    /// Appends a message of `kind` with a fixed struct `fixed`; the sequence number is its place in the batch, from 1.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> Message<'_> {
        self.messages += 1;
        let start = self.bytes.len();
        self.last_start = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        Message { bytes: &mut self.bytes, start }
    }

    /// Asks for an acknowledgement of the message appended last.
    pub(crate) fn acknowledge_last(&mut self) {
        if self.messages > 0 {
            let flags = self.last_start + 6..self.last_start + 8;
            let asked = u16::from_ne_bytes([self.bytes[flags.start], self.bytes[flags.start + 1]]) | NLM_F_ACK;
            self.bytes[flags].copy_from_slice(&asked.to_ne_bytes());
        }
    }

    /// How many messages were appended; also the last one's sequence number.
    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// What goes over the socket.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A message being written; its length is filled in when it is dropped.
pub(crate) struct Message<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

impl Message<'_> {
    /// An attribute with raw bytes.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
        self
    }

    /// An attribute with a text that ends in a zero byte.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = Vec::with_capacity(text.len() + 1);
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        self.put(kind, &value)
    }

    /// An attribute with a number in the machine's byte order (routing).
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// An attribute with a number in network byte order (netfilter).
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Attributes as they were read.
    pub(crate) fn put_raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        pad(self.bytes);
        self
    }

    /// An attribute that holds the attributes that `body` writes.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_after(kind, &[], body)
    }

    /// An attribute that holds `fixed` and then the attributes that `body` writes.
    pub(crate) fn nest_after(&mut self, kind: u16, fixed: &[u8], body: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        pad(self.bytes);
        body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that came in.
pub(crate) struct Incoming<'a> {
    /// What it is.
    pub(crate) kind: u16,
    /// `NLM_F_…` of an answer.
    pub(crate) flags: u16,
    /// The request it answers.
    pub(crate) sequence: u32,
    /// The socket that caused it, in notifications.
    pub(crate) port: u32,
    /// All after the header.
    pub(crate) payload: &'a [u8],
}

/// The messages in what one read brought; ends at the first that is malformed.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Incoming<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let whole = bytes.get(..length).filter(|_| length >= HEADER_LENGTH)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Incoming {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            flags: u16::from_ne_bytes([whole[6], whole[7]]),
            sequence: number(&whole[8..12]),
            port: number(&whole[12..16]),
            payload: &whole[HEADER_LENGTH..],
        })
    })
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().expect("the caller cut four bytes"))
}

/// The attributes in `bytes`; ends at the first that is malformed.
pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

/// An iterator over (kind, value); see [`attributes`].
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of `kind`.
    pub(crate) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A text attribute, without the zero byte at its end.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// A number in the machine's byte order.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A number in network byte order.
    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A long number in network byte order.
    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// The attributes inside the one of `kind`; none when it is absent.
    pub(crate) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::default();
        batch.message(7, NLM_F_ACK, &[9]).put_text(1, "abc").nest(2, |inner| {
            inner.put_be32(3, 5).nest_after(4, &[1, 2, 3, 4], |deeper| {
                deeper.put_u32(6, 8);
            });
        });
        drop(batch.message(8, 0, &[]));
        let read: Vec<_> = messages(batch.bytes()).collect();
        assert_eq!(read.iter().map(|message| (message.kind, message.sequence)).collect::<Vec<_>>(), [(7, 1), (8, 2)]);
        let body = attributes(&read[0].payload[4..]);
        assert_eq!(body.text(1), Some("abc"));
        assert_eq!(body.nested(2).be32(3), Some(5));
        let deeper = body.nested(2).get(4).unwrap();
        assert_eq!(attributes(&deeper[4..]).u32(6), Some(8));
        assert_eq!(body.get(9), None);
        assert!(read[1].payload.is_empty());
    }

    #[test]
    fn malformed_input_ends_the_iteration() {
        for bytes in [&[][..], &[1], &[0; 16], &[255, 0, 0, 0, 1], &[3, 0, 1, 0]] {
            assert_eq!(messages(bytes).count(), 0);
        }
        for bytes in [&[][..], &[4, 0], &[3, 0, 1, 0], &[9, 0, 1, 0, 1]] {
            assert_eq!(attributes(bytes).count(), 0);
        }
    }
}

//! A change of nftables that happens as a whole or not at all.

use super::expression::{self, ANONYMOUS_MAP, SetName, Step};
use crate::netlink::codec::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use crate::netlink::{Batch, Message, NetlinkError, Socket, attributes};

pub(crate) const SUBSYSTEM: u16 = 10 << 8;
pub(crate) const NEWTABLE: u16 = SUBSYSTEM;
pub(crate) const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
pub(crate) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const GETCHAIN: u16 = SUBSYSTEM | 4;
pub(crate) const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(crate) const GETRULE: u16 = SUBSYSTEM | 7;
pub(crate) const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
pub(crate) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(crate) const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
/// Every transaction is followed by a notification of this kind, which names no table.
pub(crate) const NEWGENERATION: u16 = SUBSYSTEM | 15;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(crate) const NFTA_TABLE_NAME: u16 = 1;
pub(crate) const NFTA_TABLE_USERDATA: u16 = 6;
pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
pub(crate) const NFTA_RULE_TABLE: u16 = 1;
pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(crate) const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(crate) const NFTA_LIST_ELEM: u16 = 1;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(crate) const NFTA_SET_ELEM_USERDATA: u16 = 6;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
/// Rules themselves put elements in.
const SET_DYNAMIC: u32 = 0x20;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;

/// Data types by the numbers that the `nft` program shows them by; a concatenation is six bits each.
const TYPE_INTEGER: u32 = 4;
pub(crate) const TYPE_ADDRESS: u32 = 7;
pub(crate) const TYPE_TRANSPORT: u32 = 12;
pub(crate) const TYPE_PORT: u32 = 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// A nested list has a length of 16 bits; an element here takes at most some 200 bytes (a verdict with a chain's name).
const ELEMENTS_PER_MESSAGE: usize = 256;

pub(crate) const AF_INET: u8 = 2;

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// An element of a set or map.
pub(crate) enum Element {
    /// A member of a set, or of a map where only the key counts (removal).
    Key(Vec<u8>),
    /// A key that leads to a chain.
    Goto(Vec<u8>, String),
    /// A key that leads to a value.
    Value(Vec<u8>, Vec<u8>),
    /// A key, of a map with its value, and a comment that says whose it is.
    Owned(Vec<u8>, Option<Vec<u8>>, String),
}

/// A batch in the making, for one table.
pub(crate) struct Transaction {
    batch: Batch,
    family: u8,
    table: String,
    sets: u32,
}

impl Transaction {
    /// An empty change of `table`.
    pub(crate) fn new(family: u8, table: &str) -> Transaction {
        let mut batch = Batch::default();
        drop(batch.message(BATCH_BEGIN, 0, &[0, 0, 0, 10]));
        Transaction { batch, family, table: table.to_owned(), sets: 0 }
    }

    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.messages() == 1
    }

    /// Makes the change.
    pub(crate) fn commit(mut self, socket: &Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        let last = self.batch.messages();
        self.batch.acknowledge_last();
        drop(self.batch.message(BATCH_END, 0, &[0, 0, 0, 10]));
        socket.commit(&self.batch, last)
    }

    fn message(&mut self, kind: u16, flags: u16) -> Message<'_> {
        self.batch.message(kind, flags, &[self.family, 0, 0, 0])
    }

    /// Makes the table.
    pub(crate) fn add_table(&mut self, comment: &str) {
        let table = self.table.clone();
        let mut message = self.message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
        message.put_text(NFTA_TABLE_NAME, &table).put(NFTA_TABLE_USERDATA, &comment_bytes(comment));
    }

    /// Removes the table with all that is in it.
    pub(crate) fn remove_table(&mut self) {
        let table = self.table.clone();
        self.message(DELTABLE, 0).put_text(NFTA_TABLE_NAME, &table);
    }

    /// Makes a chain; with a hook, one that packets enter by themselves and leave accepted.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let table = self.table.clone();
        let mut message = self.message(NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
        message.put_text(NFTA_CHAIN_TABLE, &table).put_text(NFTA_CHAIN_NAME, name);
        if let Some(hook) = hook {
            message.put_text(NFTA_CHAIN_TYPE, hook.kind).nest(NFTA_CHAIN_HOOK, |attribute| {
                attribute.put_be32(NFTA_HOOK_HOOKNUM, hook.number).put_be32(NFTA_HOOK_PRIORITY, hook.priority as u32);
            });
        }
    }

    /// Removes a chain that nothing leads to any more.
    pub(crate) fn remove_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.message(DELCHAIN, 0).put_text(NFTA_CHAIN_TABLE, &table).put_text(NFTA_CHAIN_NAME, name);
    }

    /// Removes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, chain: &str) {
        let table = self.table.clone();
        self.message(DELRULE, 0).put_text(NFTA_RULE_TABLE, &table).put_text(NFTA_RULE_CHAIN, chain);
    }

    /// Removes one rule.
    pub(crate) fn remove_rule(&mut self, chain: &str, handle: u64) {
        let table = self.table.clone();
        let mut message = self.message(DELRULE, 0);
        message.put_text(NFTA_RULE_TABLE, &table).put_text(NFTA_RULE_CHAIN, chain);
        message.put(NFTA_RULE_HANDLE, &handle.to_be_bytes());
    }

    /// Adds a rule at the end of a chain.
    pub(crate) fn append_rule(&mut self, chain: &str, steps: &[Step], comment: &str) {
        self.add_rule(NLM_F_CREATE | NLM_F_APPEND, chain, steps, comment);
    }

    /// Adds a rule at the beginning of a chain.
    pub(crate) fn prepend_rule(&mut self, chain: &str, steps: &[Step], comment: &str) {
        self.add_rule(NLM_F_CREATE, chain, steps, comment);
    }

    fn add_rule(&mut self, flags: u16, chain: &str, steps: &[Step], comment: &str) {
        let table = self.table.clone();
        let mut message = self.message(NEWRULE, flags);
        message.put_text(NFTA_RULE_TABLE, &table).put_text(NFTA_RULE_CHAIN, chain);
        message.nest(NFTA_RULE_EXPRESSIONS, |list| expression::write(list, steps));
        if !comment.is_empty() {
            message.put(NFTA_RULE_USERDATA, &comment_bytes(comment));
        }
    }

    /// Makes an empty set of keys of these types.
    pub(crate) fn add_set(&mut self, name: &str, types: &[u32]) {
        drop(self.write_set(name, 0, concatenated(types), 4 * types.len() as u32, None));
    }

    /// Makes an empty map from keys of these types to verdicts.
    pub(crate) fn add_verdict_map(&mut self, name: &str, types: &[u32]) {
        drop(self.write_set(name, SET_MAP, concatenated(types), 4 * types.len() as u32, Some((TYPE_VERDICT, 0))));
    }

    /// Makes an empty map to values of these types, into which rules put elements for a time, at most `size` of them.
    pub(crate) fn add_memory(&mut self, name: &str, keys: &[u32], values: &[u32], size: u32) {
        let data = Some((concatenated(values), 4 * values.len() as u32));
        let flags = SET_MAP | SET_TIMEOUT | SET_DYNAMIC;
        let mut message = self.write_set(name, flags, concatenated(keys), 4 * keys.len() as u32, data);
        message.nest(NFTA_SET_DESC, |about| {
            about.put_be32(NFTA_SET_DESC_SIZE, size);
        });
    }

    /// Makes an empty map from keys to values of these types.
    pub(crate) fn add_map(&mut self, name: &str, keys: &[u32], values: &[u32]) {
        let data = Some((concatenated(values), 4 * values.len() as u32));
        drop(self.write_set(name, SET_MAP, concatenated(keys), 4 * keys.len() as u32, data));
    }

    /// Makes an unchanging map from 0, 1 … to `values` of these types, for one rule to use.
    pub(crate) fn anonymous_map(&mut self, types: &[u32], values: impl IntoIterator<Item = Vec<u8>>) -> SetName {
        let data = Some((concatenated(types), 4 * types.len() as u32));
        drop(self.write_set(ANONYMOUS_MAP, SET_ANONYMOUS | SET_CONSTANT | SET_MAP, TYPE_INTEGER, 4, data));
        let number = self.sets;
        let elements = values.into_iter().enumerate();
        let elements = elements.map(|(index, value)| Element::Value((index as u32).to_ne_bytes().to_vec(), value));
        self.write_elements(NEWSETELEM, NLM_F_CREATE, ANONYMOUS_MAP, Some(number), elements);
        SetName::Anonymous(number)
    }

    /// Puts elements into a named set or map.
    pub(crate) fn add_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.write_elements(NEWSETELEM, NLM_F_CREATE, set, None, elements);
    }

    /// Takes elements out of a named set or map.
    pub(crate) fn remove_elements(&mut self, set: &str, elements: impl IntoIterator<Item = Element>) {
        self.write_elements(DELSETELEM, 0, set, None, elements);
    }

    fn write_set(
        &mut self,
        name: &str,
        flags: u32,
        key_type: u32,
        key_length: u32,
        data: Option<(u32, u32)>,
    ) -> Message<'_> {
        self.sets += 1;
        let (table, number) = (self.table.clone(), self.sets);
        let mut message = self.message(NEWSET, NLM_F_CREATE | NLM_F_EXCL);
        message.put_text(NFTA_SET_TABLE, &table).put_text(NFTA_SET_NAME, name).put_be32(NFTA_SET_FLAGS, flags);
        message.put_be32(NFTA_SET_KEY_TYPE, key_type).put_be32(NFTA_SET_KEY_LEN, key_length);
        if let Some((data_type, data_length)) = data {
            message.put_be32(NFTA_SET_DATA_TYPE, data_type).put_be32(NFTA_SET_DATA_LEN, data_length);
        }
        message.put_be32(NFTA_SET_ID, number);
        if key_type == TYPE_INTEGER {
            // Tells the `nft` program that keys are in the machine's byte order (1).
            message.put(NFTA_SET_USERDATA, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
        }
        message
    }

    fn write_elements(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        number: Option<u32>,
        elements: impl IntoIterator<Item = Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let table = self.table.clone();
            let mut message = self.message(kind, flags);
            message.put_text(NFTA_SET_ELEM_LIST_TABLE, &table).put_text(NFTA_SET_ELEM_LIST_SET, set);
            if let Some(number) = number {
                message.put_be32(NFTA_SET_ELEM_LIST_SET_ID, number);
            }
            message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                elements.by_ref().take(ELEMENTS_PER_MESSAGE).for_each(|element| write_element(list, &element));
            });
        }
    }
}

fn write_element(list: &mut Message<'_>, element: &Element) {
    list.nest(NFTA_LIST_ELEM, |attribute| {
        let (Element::Key(key) | Element::Goto(key, _) | Element::Value(key, _) | Element::Owned(key, ..)) = element;
        expression::write_value(attribute, NFTA_SET_ELEM_KEY, key);
        match element {
            Element::Key(_) => {}
            Element::Goto(_, chain) => expression::write_goto(attribute, NFTA_SET_ELEM_DATA, chain),
            Element::Value(_, value) => expression::write_value(attribute, NFTA_SET_ELEM_DATA, value),
            Element::Owned(_, value, owner) => {
                if let Some(value) = value {
                    expression::write_value(attribute, NFTA_SET_ELEM_DATA, value);
                }
                attribute.put(NFTA_SET_ELEM_USERDATA, &comment_bytes(owner));
            }
        }
    });
}

fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |whole, part| whole << 6 | part)
}

/// A comment as the `nft` program stores it: kind 0, length, text with a zero byte.
fn comment_bytes(comment: &str) -> Vec<u8> {
    const LENGTH_MAX: usize = 250;
    let text = &comment.as_bytes()[..comment.len().min(LENGTH_MAX)];
    [&[0, text.len() as u8 + 1], text, &[0]].concat()
}

/// The comment in a user data attribute.
pub(crate) fn comment_of(userdata: &[u8]) -> Option<&str> {
    let [0, length, rest @ ..] = userdata else { return None };
    let text = rest.get(..usize::from(*length))?;
    std::str::from_utf8(text.strip_suffix(&[0])?).ok()
}

/// The attributes of a message of kind `kind` about `family`, or about any when 0.
pub(crate) fn body<'a>(
    message: &crate::netlink::codec::Incoming<'a>,
    kind: u16,
    family: u8,
) -> Option<(u8, crate::netlink::Attributes<'a>)> {
    let header = message.payload.get(..4).filter(|_| message.kind == kind)?;
    (family == 0 || header[0] == family).then(|| (header[0], attributes(&message.payload[4..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_as_written() {
        assert_eq!(comment_of(&comment_bytes("abc")), Some("abc"));
        assert_eq!(comment_of(&comment_bytes(&"x".repeat(400))).map(str::len), Some(250));
        assert_eq!(comment_of(&[1, 2, 3]), None);
        assert_eq!(comment_of(&[0, 9, 3]), None);
    }
}

//! The steps that a rule takes, and how the kernel spells them.

use crate::netlink::{Attributes, Message, attributes};

/// Four bytes of a rule's memory; values longer than that continue in the following ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    /// Where a verdict goes.
    pub(crate) const VERDICT: Register = Register(0);
    /// The first three of the sixteen registers of four bytes.
    pub(crate) const A: Register = Register(8);
    pub(crate) const B: Register = Register(9);
    pub(crate) const C: Register = Register(10);
    pub(crate) const D: Register = Register(11);
    pub(crate) const E: Register = Register(12);
    pub(crate) const F: Register = Register(13);
}

/// A step of a rule. A step that does not match ends its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Loads bytes of the IP header.
    Network { offset: u32, length: u32, to: Register },
    /// Loads bytes of the TCP, UDP or SCTP header.
    Transport { offset: u32, length: u32, to: Register },
    /// Loads a fact about the packet.
    Meta { fact: Fact, to: Register },
    /// Loads the state that connection tracking sees.
    ConnectionState { to: Register },
    /// Loads a random number below `modulus`.
    Random { modulus: u32, to: Register },
    /// Loads a constant.
    Constant { value: Vec<u8>, to: Register },
    /// Keeps the bits of `mask`.
    Mask { mask: Vec<u8>, of: Register },
    /// Sets the bits of `bits`.
    SetBits { bits: Vec<u8>, of: Register },
    /// Makes the register the packet's mark.
    SetMark { from: Register },
    /// Loads what kind of address the packet's source or destination is to this node, such as [`LOCAL`].
    AddressKind { of: End, to: Register },
    /// Goes on if the register begins with `value`.
    Equal { of: Register, value: Vec<u8> },
    /// Goes on if the register does not begin with `value`.
    Differs { of: Register, value: Vec<u8> },
    /// Goes on if the registers from `from` on are in a set; of a map, loads what belongs to them.
    Lookup { set: SetName, from: Register, to: Option<Register> },
    /// Puts what is in the registers from `key` on into a map that grows by itself, leading to those from `value` on, for a
    /// time; or, where it is there already, makes its time begin anew.
    Remember { map: &'static str, key: Register, value: Register, milliseconds: u64 },
    /// Takes the key in the registers from `key` on out of such a map.
    Forget { map: &'static str, key: Register, value: Register },
    /// Changes the destination, for all of the connection.
    TranslateDestination { address: Register, port: Register },
    /// Changes the source, for all of the connection.
    TranslateSource { address: Register },
    /// Changes the source to the outgoing interface's address and a random port.
    Masquerade,
    /// Answers a TCP segment with a reset.
    RejectWithReset,
    /// Answers with "port unreachable".
    RejectWithUnreachable,
    /// Ends the walk through this chain and those that led to it.
    Accept,
    /// Ends the packet.
    Drop,
    /// Goes on in another chain, for good.
    Goto { chain: String },
}

/// One of a packet's two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// The kind of an address that is the node's own, as the kernel's routing spells it (`RTN_LOCAL`).
pub(crate) const LOCAL: u32 = 2;

/// A fact about a packet that is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// The name of the interface it came in by.
    InputName,
    /// The name of the interface it will leave by.
    OutputName,
    /// The IP version (`AF_INET` …), in tables of both.
    Family,
    /// The transport protocol's number.
    TransportProtocol,
    /// The mark that rules leave for later ones.
    Mark,
}

/// A set of the rule's table: by its name, or an anonymous one of the same transaction by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetName {
    Named(&'static str),
    Anonymous(u32),
}

/// The name under which the kernel is asked to make up names of anonymous maps.
pub(crate) const ANONYMOUS_MAP: &str = "__map%d";

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_GOTO: i32 = -4;

/// Writes the steps as elements of the list attribute that is being written.
pub(crate) fn write(list: &mut Message<'_>, steps: &[Step]) {
    for step in steps {
        list.nest(NFTA_LIST_ELEM, |element| {
            element.put_text(NFTA_EXPR_NAME, name(step)).nest(NFTA_EXPR_DATA, |data| write_data(data, step));
        });
    }
}

/// Writes a constant as the attribute `kind`.
pub(crate) fn write_value(message: &mut Message<'_>, kind: u16, value: &[u8]) {
    message.nest(kind, |data| {
        data.put(NFTA_DATA_VALUE, value);
    });
}

/// Writes the verdict "go to `chain`" as the attribute `kind`.
pub(crate) fn write_goto(message: &mut Message<'_>, kind: u16, chain: &str) {
    message.nest(kind, |data| write_verdict_to(data, chain));
}

fn write_verdict_to(data: &mut Message<'_>, chain: &str) {
    data.nest(NFTA_DATA_VERDICT, |verdict| {
        verdict.put_be32(NFTA_VERDICT_CODE, NFT_GOTO as u32).put_text(NFTA_VERDICT_CHAIN, chain);
    });
}

/// The chain that a verdict element goes to.
pub(crate) fn read_goto<'a>(data: crate::netlink::Attributes<'a>) -> Option<&'a str> {
    let verdict = data.nested(NFTA_DATA_VERDICT);
    verdict.text(NFTA_VERDICT_CHAIN).filter(|_| verdict.be32(NFTA_VERDICT_CODE) == Some(NFT_GOTO as u32))
}

/// The value of a data attribute.
pub(crate) fn read_value<'a>(data: crate::netlink::Attributes<'a>) -> Option<&'a [u8]> {
    data.get(NFTA_DATA_VALUE)
}

/// Whether a rule of somebody else's, by its list of steps, drops or refuses every packet that comes to it.
pub(crate) fn drops_all(steps: Attributes<'_>) -> bool {
    for (_, step) in steps {
        let step = attributes(step);
        let data = step.nested(NFTA_EXPR_DATA);
        match step.text(NFTA_EXPR_NAME) {
            Some("counter" | "log") => {}
            Some("reject") => return true,
            // What the program `iptables` makes of its own targets.
            Some("target") => return data.text(NFTA_TARGET_NAME) == Some("REJECT"),
            Some("immediate") => {
                let code = data.nested(NFTA_IMMEDIATE_DATA).nested(NFTA_DATA_VERDICT).be32(NFTA_VERDICT_CODE);
                return code == Some(NF_DROP as u32);
            }
            // It looks at the packet, or does something that we do not know.
            _ => return false,
        }
    }
    false
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Network { .. } | Step::Transport { .. } => "payload",
        Step::Meta { .. } => "meta",
        Step::ConnectionState { .. } => "ct",
        Step::Random { .. } => "numgen",
        Step::Constant { .. } | Step::Accept | Step::Drop | Step::Goto { .. } => "immediate",
        Step::Mask { .. } | Step::SetBits { .. } => "bitwise",
        Step::SetMark { .. } => "meta",
        Step::AddressKind { .. } => "fib",
        Step::Remember { .. } | Step::Forget { .. } => "dynset",
        Step::Equal { .. } | Step::Differs { .. } => "cmp",
        Step::Lookup { .. } => "lookup",
        Step::TranslateDestination { .. } | Step::TranslateSource { .. } => "nat",
        Step::Masquerade => "masq",
        Step::RejectWithReset | Step::RejectWithUnreachable => "reject",
    }
}

/// The attribute numbers below are those of the kernel's `nf_tables.h`, per expression, each counted from 1.
fn write_data(data: &mut Message<'_>, step: &Step) {
    const NETWORK_HEADER: u32 = 1;
    const TRANSPORT_HEADER: u32 = 2;
    const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 16;
    match step {
        Step::Network { offset, length, to } => {
            put_numbers(data, &[(1, to.0), (2, NETWORK_HEADER), (3, *offset), (4, *length)]);
        }
        Step::Transport { offset, length, to } => {
            put_numbers(data, &[(1, to.0), (2, TRANSPORT_HEADER), (3, *offset), (4, *length)]);
        }
        Step::Meta { fact, to } => put_numbers(data, &[(1, to.0), (2, fact_number(*fact))]),
        // Key 0 is the state.
        Step::ConnectionState { to } => put_numbers(data, &[(1, to.0), (2, 0)]),
        // Kind 1 is random, as opposed to counting up.
        Step::Random { modulus, to } => put_numbers(data, &[(1, to.0), (2, *modulus), (3, 1), (4, 0)]),
        Step::Constant { value, to } => write_value(data.put_be32(1, to.0), 2, value),
        Step::Mask { mask, of } => write_bits(data, mask, &vec![0; mask.len()], *of),
        Step::SetBits { bits, of } => {
            let others: Vec<u8> = bits.iter().map(|byte| !byte).collect();
            write_bits(data, &others, bits, *of);
        }
        // Key 3 is the mark; a source register makes it a change.
        Step::SetMark { from } => put_numbers(data, &[(2, 3), (3, from.0)]),
        // Result 3 is the kind of address; the flag says whose.
        Step::AddressKind { of, to } => {
            let flag = if *of == End::Source { 1 } else { 2 };
            put_numbers(data, &[(1, to.0), (2, 3), (3, flag)]);
        }
        Step::Remember { map, key, value, milliseconds } => {
            // Operation 1 renews what is there.
            put_numbers(data.put_text(1, map), &[(3, 1), (4, key.0), (5, value.0)]);
            data.put(6, &milliseconds.to_be_bytes());
        }
        // Operation 2 removes; that a map's value is named as well is a formality of the kernel's.
        Step::Forget { map, key, value } => {
            put_numbers(data.put_text(1, map), &[(3, 2), (4, key.0), (5, value.0)]);
        }
        Step::Equal { of, value } => write_value(data.put_be32(1, of.0).put_be32(2, 0), 3, value),
        Step::Differs { of, value } => write_value(data.put_be32(1, of.0).put_be32(2, 1), 3, value),
        Step::Lookup { set, from, to } => write_lookup(data, set, *from, *to),
        Step::TranslateDestination { address, port } => {
            put_numbers(data, &[(1, 1), (2, AF_INET), (3, address.0), (5, port.0)]);
        }
        Step::TranslateSource { address } => put_numbers(data, &[(1, 0), (2, AF_INET), (3, address.0)]),
        Step::Masquerade => put_numbers(data, &[(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY)]),
        Step::RejectWithReset => put_numbers(data, &[(1, 1)]),
        Step::RejectWithUnreachable => {
            data.put_be32(1, 0).put(2, &[ICMP_PORT_UNREACHABLE]);
        }
        Step::Accept => write_verdict(data, NF_ACCEPT),
        Step::Drop => write_verdict(data, NF_DROP),
        Step::Goto { chain } => {
            data.put_be32(1, Register::VERDICT.0).nest(2, |data| write_verdict_to(data, chain));
        }
    }
}

const AF_INET: u32 = 2;
const ICMP_PORT_UNREACHABLE: u8 = 3;

fn put_numbers(data: &mut Message<'_>, numbers: &[(u16, u32)]) {
    for (kind, number) in numbers {
        data.put_be32(*kind, *number);
    }
}

/// Keeps the bits of `mask` and turns those of `flip`.
fn write_bits(data: &mut Message<'_>, mask: &[u8], flip: &[u8], of: Register) {
    put_numbers(data, &[(1, of.0), (2, of.0), (3, mask.len() as u32)]);
    write_value(data, 4, mask);
    write_value(data, 5, flip);
}

fn write_lookup(data: &mut Message<'_>, set: &SetName, from: Register, to: Option<Register>) {
    match set {
        SetName::Named(name) => data.put_text(1, name),
        SetName::Anonymous(number) => data.put_text(1, ANONYMOUS_MAP).put_be32(4, *number),
    };
    data.put_be32(2, from.0);
    if let Some(to) = to {
        data.put_be32(3, to.0);
    }
}

fn write_verdict(data: &mut Message<'_>, code: i32) {
    data.put_be32(1, Register::VERDICT.0).nest(2, |data| {
        data.nest(NFTA_DATA_VERDICT, |verdict| {
            verdict.put_be32(NFTA_VERDICT_CODE, code as u32);
        });
    });
}

fn fact_number(fact: Fact) -> u32 {
    match fact {
        Fact::Mark => 3,
        Fact::InputName => 6,
        Fact::OutputName => 7,
        Fact::Family => 15,
        Fact::TransportProtocol => 16,
    }
}

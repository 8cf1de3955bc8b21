//! Ports of the node that lead to one pod (`hostPort`), in a table of their own.
//!
//! They behave as those of CNI's portmap plugin: the pod sees the client's own address, save for clients on the node's
//! loopback address and for the pod itself. Each element bears the sandbox it belongs to, so that the kernel is the only
//! memory: there is nothing to keep in step with it.
//!
//! Architecture Invariant: nothing of Services is known here; their rules come first where both name a port.

use std::net::IpAddr;

use cni::{CniError, Code, PortMapping};
use rustix::io::Errno;

use crate::input::Protocol;
use crate::names::Names;
use crate::netlink::route::octets;
use crate::netlink::{NetlinkError, Socket};
use crate::rules::conntrack::{Conversations, forget_stale};
use crate::rules::expression::{End, Fact, LOCAL, Register, SetName, Step};
use crate::rules::transaction::{
    AF_INET, Element, GETSETELEM, GETTABLE, Hook, NEWSETELEM, NEWTABLE, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_USERDATA, NFTA_TABLE_NAME, NFTA_TABLE_USERDATA,
    TYPE_ADDRESS, TYPE_PORT, TYPE_TRANSPORT, Transaction, body, comment_of,
};
use crate::rules::{Frontend, expression};

/// Ports of one address of the node.
const BOUND: &str = "bound";
/// Ports of all addresses of the node.
const ANY: &str = "any";
/// The pods behind them, which may come to themselves.
const HAIRPINS: &str = "hairpins";
const SETS: [&str; 3] = [BOUND, ANY, HAIRPINS];

const PREROUTING: &str = "nat-prerouting";
const OUTPUT: &str = "nat-output";
const POSTROUTING: &str = "nat-postrouting";
/// After those of Services.
const PRIORITY_DESTINATION: i32 = -99;
const PRIORITY_SOURCE: i32 = 101;

/// The node's ports that lead to pods.
pub(crate) struct HostPorts {
    socket: Socket,
    table: String,
    gateway: IpAddr,
}

/// An element of one of the sets.
struct Found {
    set: &'static str,
    key: Vec<u8>,
    owner: String,
}

impl HostPorts {
    /// Those of the calling thread's network namespace; nothing is made before the first pod has any.
    pub(crate) fn open(names: &Names, gateway: IpAddr) -> Result<HostPorts, NetlinkError> {
        Ok(HostPorts { socket: Socket::netfilter()?, table: format!("{}-ports", names.table), gateway })
    }

    /// Leads `mappings` to the pod at `address`, and no others; they are `owner`'s.
    pub(crate) fn set(&self, owner: &str, address: IpAddr, mappings: &[PortMapping]) -> Result<(), CniError> {
        let wanted = wanted(address, mappings)?;
        let kernel = |source| CniError::because(Code::Io, "lead ports of the node to the pod", source);
        let found = self.read().map_err(kernel)?;
        if wanted.is_empty() && !found.iter().flatten().any(|found| found.owner == owner) {
            return Ok(());
        }
        let mut transaction = Transaction::new(AF_INET, &self.table);
        if found.is_none() {
            self.write_table(&mut transaction);
        }
        // A port that another sandbox still has goes to the newer one: the older is on its way out.
        let replaced = |found: &&Found| {
            found.owner == owner || wanted.iter().any(|(set, key, _)| *set == found.set && *key == found.key)
        };
        for found in found.iter().flatten().filter(replaced) {
            transaction.remove_elements(found.set, [Element::Key(found.key.clone())]);
        }
        for (set, key, value) in wanted {
            transaction.add_elements(set, [Element::Owned(key, value, owner.to_owned())]);
        }
        transaction.commit(&self.socket).map_err(kernel)?;
        forget_stale(&self.socket, &conversations(address, mappings)).map(drop).map_err(kernel)
    }

    /// Takes away what owners have for whom `goes` holds.
    pub(crate) fn remove(&self, goes: impl Fn(&str) -> bool) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::new(AF_INET, &self.table);
        for found in self.read()?.iter().flatten().filter(|found| goes(&found.owner)) {
            transaction.remove_elements(found.set, [Element::Key(found.key.clone())]);
        }
        transaction.commit(&self.socket)
    }

    /// Takes everything away.
    pub(crate) fn remove_table(&self) -> Result<(), NetlinkError> {
        let mut transaction = Transaction::new(AF_INET, &self.table);
        transaction.remove_table();
        match transaction.commit(&self.socket) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            outcome => outcome,
        }
    }

    /// What is there; `None` when there is no table.
    fn read(&self) -> Result<Option<Vec<Found>>, NetlinkError> {
        let table = self.socket.query(
            |batch, flags| {
                batch.message(GETTABLE, flags, &[AF_INET, 0, 0, 0]).put_text(NFTA_TABLE_NAME, &self.table);
            },
            |message| {
                let (_, list) = body(message, NEWTABLE, AF_INET)?;
                list.get(NFTA_TABLE_USERDATA).map(|_| ())
            },
        );
        match table {
            Err(error) if error.is(Errno::NOENT) => return Ok(None),
            table => drop(table?),
        }
        let mut all = Vec::new();
        for set in SETS {
            let lists = self.socket.dump(
                |batch, flags| {
                    let mut message = batch.message(GETSETELEM, flags, &[AF_INET, 0, 0, 0]);
                    message.put_text(NFTA_SET_ELEM_LIST_TABLE, &self.table).put_text(NFTA_SET_ELEM_LIST_SET, set);
                },
                |message| {
                    let (_, list) = body(message, NEWSETELEM, AF_INET)?;
                    let elements = list.nested(NFTA_SET_ELEM_LIST_ELEMENTS);
                    Some(elements.filter_map(|(_, element)| element_of(set, element)).collect::<Vec<_>>())
                },
            )?;
            all.extend(lists.into_iter().flatten());
        }
        Ok(Some(all))
    }

    fn write_table(&self, transaction: &mut Transaction) {
        transaction.add_table("isopod host ports 1");
        let (port, target) = ([TYPE_TRANSPORT, TYPE_PORT], [TYPE_ADDRESS, TYPE_PORT]);
        transaction.add_map(BOUND, &[TYPE_ADDRESS, TYPE_TRANSPORT, TYPE_PORT], &target);
        transaction.add_map(ANY, &port, &target);
        transaction.add_set(HAIRPINS, &[TYPE_ADDRESS, TYPE_ADDRESS]);
        for (name, number, priority) in [
            (PREROUTING, 0, PRIORITY_DESTINATION),
            (OUTPUT, 3, PRIORITY_DESTINATION),
            (POSTROUTING, 4, PRIORITY_SOURCE),
        ] {
            transaction.add_chain(name, Some(Hook { kind: "nat", number, priority }));
        }
        for chain in [PREROUTING, OUTPUT] {
            for (set, from) in [(BOUND, Register::A), (ANY, Register::B)] {
                transaction.append_rule(chain, &to_pod(set, from), "");
            }
        }
        for steps in source_translations(self.gateway) {
            transaction.append_rule(POSTROUTING, &steps, "");
        }
    }
}

fn element_of(set: &'static str, element: &[u8]) -> Option<Found> {
    let list = crate::netlink::attributes(element);
    let key = expression::read_value(list.nested(NFTA_SET_ELEM_KEY))?.to_vec();
    let owner = list.get(NFTA_SET_ELEM_USERDATA).and_then(comment_of).unwrap_or_default().to_owned();
    Some(Found { set, key, owner })
}

fn to_pod(set: &'static str, from: Register) -> Vec<Step> {
    vec![
        Step::AddressKind { of: End::Destination, to: Register::A },
        Step::Equal { of: Register::A, value: LOCAL.to_ne_bytes().to_vec() },
        Step::Network { offset: 16, length: 4, to: Register::A },
        Step::Meta { fact: Fact::TransportProtocol, to: Register::B },
        Step::Transport { offset: 2, length: 2, to: Register::C },
        Step::Lookup { set: SetName::Named(set), from, to: Some(Register::E) },
        Step::TranslateDestination { address: Register::E, port: Register::F },
    ]
}

/// The pod that comes to itself would answer itself past the translation, and a loopback address is of no use to it.
fn source_translations(gateway: IpAddr) -> [Vec<Step>; 2] {
    let as_the_node =
        [Step::Constant { value: octets(gateway), to: Register::A }, Step::TranslateSource { address: Register::A }];
    let source = Step::Network { offset: 12, length: 4, to: Register::A };
    let hairpin = [
        source.clone(),
        Step::Network { offset: 16, length: 4, to: Register::B },
        Step::Lookup { set: SetName::Named(HAIRPINS), from: Register::A, to: None },
    ];
    let loopback = [
        Step::Meta { fact: Fact::OutputName, to: Register::A },
        Step::Differs { of: Register::A, value: b"lo\0".to_vec() },
        source,
        Step::Mask { mask: vec![255, 0, 0, 0], of: Register::A },
        Step::Equal { of: Register::A, value: vec![127, 0, 0, 0] },
    ];
    [[&hairpin[..], &as_the_node].concat(), [&loopback[..], &as_the_node].concat()]
}

/// Set, key and value of each element.
type Wanted = Vec<(&'static str, Vec<u8>, Option<Vec<u8>>)>;

fn wanted(address: IpAddr, mappings: &[PortMapping]) -> Result<Wanted, CniError> {
    let mut wanted = Wanted::new();
    for mapping in mappings {
        let refused = |what: String| CniError::new(Code::UnsupportedField, what);
        let protocol = Protocol::named(Some(&mapping.protocol.to_ascii_uppercase()))
            .ok_or_else(|| refused(format!("protocol {} of hostPort {}", mapping.protocol, mapping.host_port)))?;
        let [high, low] = mapping.host_port.to_be_bytes();
        let port = vec![protocol.number(), 0, 0, 0, high, low, 0, 0];
        let [high, low] = mapping.container_port.to_be_bytes();
        let value = Some([octets(address), vec![high, low, 0, 0]].concat());
        match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
            None => wanted.push((ANY, port, value)),
            Some(IpAddr::V4(ip)) => wanted.push((BOUND, [octets(ip.into()), port].concat(), value)),
            Some(ip) => return Err(refused(format!("hostIP {ip} of hostPort {}", mapping.host_port))),
        }
    }
    if !wanted.is_empty() {
        wanted.push((HAIRPINS, octets(address).repeat(2), None));
    }
    Ok(wanted)
}

/// Conversations that began before the pod had the port, or with the one that had it before, lead elsewhere.
fn conversations(address: IpAddr, mappings: &[PortMapping]) -> Conversations {
    let udp = mappings.iter().filter(|mapping| mapping.protocol.eq_ignore_ascii_case("udp"));
    let leads = udp.map(|mapping| {
        let ip = mapping.host_ip.unwrap_or(IpAddr::from([0; 4]));
        let frontend = Frontend { address: ip, protocol: Protocol::Udp, port: mapping.host_port };
        (frontend, [(address, mapping.container_port)].into())
    });
    leads.collect()
}

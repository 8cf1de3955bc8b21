//! Links, addresses, routes and neighbours, in the few ways the pod network needs them.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use cni::Cidr;
use rustix::io::Errno;

use super::codec::{Batch, Incoming, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attributes};
use super::socket::{NetlinkError, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Marks routes as ours, as `proto` does for any routing daemon; none of the registered numbers.
pub(crate) const ROUTE_PROTOCOL: u8 = 0x69;

/// Marks interfaces as ours. It is the one mark that the kernel takes in the very step that makes an interface, so that
/// no crash can leave one of ours unmarked.
pub(crate) const LINK_GROUP: u32 = 0x6973_6f70;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    /// The free text that administrators and we put on an interface.
    pub(crate) alias: String,
    /// `bridge`, `veth` …; empty for hardware.
    pub(crate) kind: String,
    /// [`LINK_GROUP`], or somebody else's number.
    pub(crate) group: u32,
}

/// A pair of interfaces to make, its far end in another namespace.
pub(crate) struct VethPair<'a> {
    pub(crate) near_name: &'a str,
    pub(crate) near_mac: [u8; 6],
    pub(crate) far_name: &'a str,
    pub(crate) far_mac: [u8; 6],
    pub(crate) far_namespace: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Cidr,
    pub(crate) way: Way,
    /// Which of our addresses the node speaks from.
    pub(crate) source: Option<IpAddr>,
}

/// How a route leads to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Neighbours on the link with this index.
    Link(u32),
    /// Over a gateway on the link with this index; 0 for the link on which the kernel finds it.
    Gateway(IpAddr, u32),
    /// Not at all: senders are told at once.
    Unreachable,
}

impl Socket {
    /// All interfaces of the namespace.
    pub(crate) fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.dump(|batch, flags| drop(batch.message(RTM_GETLINK, flags, &link_header(0, 0, 0))), link_of)
    }

    /// The interface called `name`.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let ask = |batch: &mut Batch, flags| {
            batch.message(RTM_GETLINK, flags, &link_header(0, 0, 0)).put_text(IFLA_IFNAME, name);
        };
        match self.query(ask, link_of) {
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            answer => Ok(answer?.pop()),
        }
    }

    /// Makes and raises a bridge without ports.
    pub(crate) fn make_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), NetlinkError> {
        self.request(|batch, flags| {
            batch
                .message(RTM_NEWLINK, flags | NLM_F_CREATE | NLM_F_EXCL, &link_header(0, IFF_UP, IFF_UP))
                .put_text(IFLA_IFNAME, name)
                .put(IFLA_ADDRESS, &mac)
                .put_u32(IFLA_MTU, mtu)
                .put_u32(IFLA_GROUP, LINK_GROUP)
                .nest(IFLA_LINKINFO, |info| {
                    info.put_text(IFLA_INFO_KIND, "bridge");
                });
        })
    }

    /// Makes a pair of interfaces in one step, so that no half of it can stay behind; the near end is raised.
    pub(crate) fn make_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        self.request(|batch, flags| {
            batch
                .message(RTM_NEWLINK, flags | NLM_F_CREATE | NLM_F_EXCL, &link_header(0, IFF_UP, IFF_UP))
                .put_text(IFLA_IFNAME, pair.near_name)
                .put(IFLA_ADDRESS, &pair.near_mac)
                .put_u32(IFLA_MTU, pair.mtu)
                .put_u32(IFLA_GROUP, LINK_GROUP)
                .nest(IFLA_LINKINFO, |info| {
                    info.put_text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                        data.nest_after(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                            peer.put_text(IFLA_IFNAME, pair.far_name)
                                .put(IFLA_ADDRESS, &pair.far_mac)
                                .put_u32(IFLA_MTU, pair.mtu)
                                .put_u32(IFLA_NET_NS_FD, pair.far_namespace.as_raw_fd() as u32);
                        });
                    });
                });
        })
    }

    /// Gives an interface its free text.
    pub(crate) fn set_alias(&self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        self.request(|batch, flags| {
            batch.message(RTM_NEWLINK, flags, &link_header(index, 0, 0)).put(IFLA_IFALIAS, alias.as_bytes());
        })
    }

    /// Raises an interface.
    pub(crate) fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.request(|batch, flags| drop(batch.message(RTM_NEWLINK, flags, &link_header(index, IFF_UP, IFF_UP))))
    }

    /// Takes an interface down.
    #[cfg(test)]
    pub(crate) fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        self.request(|batch, flags| drop(batch.message(RTM_NEWLINK, flags, &link_header(index, 0, IFF_UP))))
    }

    /// Removes an interface (of a pair: both). Succeeds when there is none of that index.
    pub(crate) fn remove_link(&self, index: u32) -> Result<(), NetlinkError> {
        let answer = self.request(|batch, flags| drop(batch.message(RTM_DELLINK, flags, &link_header(index, 0, 0))));
        absent_is_fine(answer)
    }

    /// Gives an interface an address; one that it has already stays.
    pub(crate) fn add_address(&self, index: u32, address: Cidr) -> Result<(), NetlinkError> {
        self.request(|batch, flags| {
            let octets = octets(address.address());
            batch
                .message(RTM_NEWADDR, flags | NLM_F_CREATE | NLM_F_REPLACE, &address_header(address, index))
                .put(IFA_LOCAL, &octets)
                .put(IFA_ADDRESS, &octets);
        })
    }

    /// The addresses of an interface.
    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<Cidr>, NetlinkError> {
        let header = [0; 8];
        self.dump(|batch, flags| drop(batch.message(RTM_GETADDR, flags, &header)), |message| address_of(message, index))
    }

    /// Adds a route or replaces the one to the same destination.
    pub(crate) fn set_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.request(|batch, flags| {
            write_route(batch, RTM_NEWROUTE, flags | NLM_F_CREATE | NLM_F_REPLACE, route);
        })
    }

    /// Removes a route; succeeds when there is none such.
    pub(crate) fn remove_route(&self, route: &Route) -> Result<(), NetlinkError> {
        absent_is_fine(self.request(|batch, flags| write_route(batch, RTM_DELROUTE, flags, route)))
    }

    /// The routes of the main table that are marked as ours, and those to everywhere.
    pub(crate) fn routes(&self) -> Result<Vec<(Route, Owner)>, NetlinkError> {
        let header = [0; 12];
        self.dump(|batch, flags| drop(batch.message(RTM_GETROUTE, flags, &header)), route_of)
    }

    /// Fixes which hardware address a neighbour has, so that nobody has to be asked and nobody can answer wrongly.
    pub(crate) fn set_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut header = vec![family(address), 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, 0]);
        self.request(|batch, flags| {
            batch
                .message(RTM_NEWNEIGH, flags | NLM_F_CREATE | NLM_F_REPLACE, &header)
                .put(NDA_DST, &octets(address))
                .put(NDA_LLADDR, &mac);
        })
    }
}

/// Whether a notification may mean that routes to other nodes are missing now, or can be made now: a link of the machine's
/// own changed, an address came, one of the routes went.
pub(crate) fn concerns_peers(message: &Incoming<'_>) -> bool {
    match message.kind {
        RTM_NEWLINK => link_of(message).is_none_or(|link| link.group != LINK_GROUP),
        RTM_NEWADDR => true,
        RTM_DELROUTE => message.payload.get(5) == Some(&ROUTE_PROTOCOL) && message.payload.get(1) != Some(&32),
        _ => false,
    }
}

/// Who put a route there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It bears our protocol number.
    Us,
    /// Anybody else.
    Other,
}

fn absent_is_fine(answer: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match answer {
        Err(error) if [Errno::NODEV, Errno::SRCH, Errno::NOENT].iter().any(|errno| error.is(*errno)) => Ok(()),
        answer => answer,
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn address_header(address: Cidr, index: u32) -> [u8; 8] {
    let mut header = [family(address.address()), address.prefix(), 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}

fn write_route(batch: &mut Batch, kind: u16, flags: u16, route: &Route) {
    let (scope, what) = match route.way {
        Way::Link(_) => (RT_SCOPE_LINK, RTN_UNICAST),
        Way::Gateway(..) => (RT_SCOPE_UNIVERSE, RTN_UNICAST),
        Way::Unreachable => (RT_SCOPE_UNIVERSE, RTN_UNREACHABLE),
    };
    let to = route.to.network();
    let header = [family(to.address()), to.prefix(), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, what, 0, 0, 0, 0];
    let mut message = batch.message(kind, flags, &header);
    message.put(RTA_DST, &octets(to.address()));
    match route.way {
        Way::Link(index) => message.put_u32(RTA_OIF, index),
        Way::Gateway(gateway, 0) => message.put(RTA_GATEWAY, &octets(gateway)),
        Way::Gateway(gateway, index) => message.put(RTA_GATEWAY, &octets(gateway)).put_u32(RTA_OIF, index),
        Way::Unreachable => &mut message,
    };
    if let Some(source) = route.source {
        message.put(RTA_PREFSRC, &octets(source));
    }
}

fn link_of(message: &Incoming<'_>) -> Option<Link> {
    let header = message.payload.get(..16).filter(|_| message.kind == RTM_NEWLINK)?;
    let list = attributes(&message.payload[16..]);
    Some(Link {
        index: u32::from_ne_bytes(header[4..8].try_into().ok()?),
        up: u32::from_ne_bytes(header[8..12].try_into().ok()?) & IFF_UP != 0,
        name: list.text(IFLA_IFNAME)?.to_owned(),
        mtu: list.u32(IFLA_MTU).unwrap_or_default(),
        mac: list.get(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()).unwrap_or_default(),
        alias: list.text(IFLA_IFALIAS).unwrap_or_default().to_owned(),
        kind: list.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND).unwrap_or_default().to_owned(),
        group: list.u32(IFLA_GROUP).unwrap_or_default(),
    })
}

fn address_of(message: &Incoming<'_>, index: u32) -> Option<Cidr> {
    let header = message.payload.get(..8).filter(|_| message.kind == RTM_NEWADDR)?;
    if u32::from_ne_bytes(header[4..8].try_into().ok()?) != index {
        return None;
    }
    let list = attributes(&message.payload[8..]);
    Cidr::new(address_from(list.get(IFA_LOCAL).or_else(|| list.get(IFA_ADDRESS))?)?, header[1])
}

fn route_of(message: &Incoming<'_>) -> Option<(Route, Owner)> {
    let header = message.payload.get(..12).filter(|_| message.kind == RTM_NEWROUTE)?;
    let (family, prefix, table, protocol, kind) = (header[0], header[1], header[4], header[5], header[7]);
    let owner = if protocol == ROUTE_PROTOCOL { Owner::Us } else { Owner::Other };
    if table != RT_TABLE_MAIN || (owner == Owner::Other && prefix != 0) {
        return None;
    }
    let list = attributes(&message.payload[12..]);
    let anywhere = if family == AF_INET6 { &[0; 16][..] } else { &[0; 4][..] };
    let to = Cidr::new(address_from(list.get(RTA_DST).unwrap_or(anywhere))?, prefix)?;
    let way = match (kind, list.u32(RTA_OIF), list.get(RTA_GATEWAY).and_then(address_from)) {
        (RTN_UNREACHABLE, ..) => Way::Unreachable,
        (RTN_UNICAST, Some(index), Some(gateway)) => Way::Gateway(gateway, index),
        (RTN_UNICAST, Some(index), None) => Way::Link(index),
        _ => return None,
    };
    Some((Route { to, way, source: list.get(RTA_PREFSRC).and_then(address_from) }, owner))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address as the kernel takes it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

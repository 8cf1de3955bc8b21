//! The node's side of the pod network: bridge, its address, routes, forwarding.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cni::Cidr;
use rustix::io::Errno;

use super::BridgeOptions;
use super::pool::AddressPool;
use crate::error::NetError;
use crate::hostports::HostPorts;
use crate::names::Names;
use crate::namespace;
use crate::netlink::route::{LINK_GROUP, Link, Owner, Route, Way};
use crate::netlink::{NetlinkError, Socket};

/// Ethernet's packet size, used where there is no default route to learn from.
const MTU_DEFAULT: u32 = 1500;

/// What the worker thread holds; it lives in the node's network namespace.
pub(super) struct Node {
    pub(super) options: Arc<BridgeOptions>,
    pub(super) pool: AddressPool,
    pub(super) socket: Socket,
    pub(super) mtu: u32,
    pub(super) ports: HostPorts,
}

impl Node {
    /// Enters the node's namespace with the calling thread and prepares it.
    pub(super) fn open(options: Arc<BridgeOptions>) -> Result<Node, NetError> {
        if let Some(path) = &options.netns {
            let file = namespace::open(path).map_err(NetError::io(format!("open {}", path.display())))?;
            namespace::enter(file).map_err(NetError::io(format!("enter {}", path.display())))?;
        }
        let socket = Socket::route().map_err(NetError::kernel("open a routing socket"))?;
        let mtu = match options.mtu {
            Some(mtu) => mtu,
            None => mtu_towards_default(&socket).map_err(NetError::kernel("find the default route"))?,
        };
        let pool = AddressPool::open(&options.state_directory, options.pod_cidr)
            .map_err(NetError::io(format!("open {}", options.state_directory.display())))?;
        let ports = HostPorts::open(&options.names, pool.gateway());
        let ports = ports.map_err(NetError::kernel("open a netfilter socket"))?;
        let node = Node { options, pool, socket, mtu, ports };
        node.ensure()?;
        Ok(node)
    }

    /// Makes whatever is missing of the node's side; changes nothing when all is there.
    pub(super) fn ensure(&self) -> Result<(), NetError> {
        write_setting("net/ipv4/ip_forward", "1").map_err(NetError::io("switch on forwarding"))?;
        route_loopback()?;
        let bridge = self.bridge()?;
        let gateway = self.pool.gateway();
        let step = |operation: &str| NetError::kernel(format!("{operation} {}", self.options.names.bridge));
        let own = Cidr::host(gateway);
        if !self.socket.addresses(bridge.index).map_err(step("list addresses of"))?.contains(&own) {
            self.socket.add_address(bridge.index, own).map_err(step("add an address to"))?;
        }
        for route in node_routes(&self.options, bridge.index, gateway) {
            self.socket.set_route(&route).map_err(NetError::kernel(format!("add a route to {}", route.to)))?;
        }
        Ok(())
    }

    fn bridge(&self) -> Result<Link, NetError> {
        let names = &self.options.names;
        let step = |operation: &str| NetError::kernel(format!("{operation} bridge {}", names.bridge));
        match self.socket.make_bridge(&names.bridge, mac_for(self.pool.gateway()), self.mtu) {
            Err(error) if !error.is(Errno::EXIST) => return Err(step("make")(error)),
            Ok(()) | Err(_) => {}
        }
        let found = self.socket.link(&names.bridge).map_err(step("find"))?;
        let link = found.ok_or_else(|| step("find")(NetlinkError::Unexpected("it is gone")))?;
        if link.kind != "bridge" || link.group != LINK_GROUP {
            return Err(NetError::ForeignLink(names.bridge.clone()));
        }
        if !link.up {
            self.socket.set_up(link.index).map_err(step("raise"))?;
        }
        Ok(link)
    }
}

/// The routes of the node that do not belong to a single pod.
///
/// An address of the node's range that no pod has is answered at once with "unreachable"; it must not leave by the
/// default route, nor let a client wait.
fn node_routes(options: &BridgeOptions, bridge: u32, gateway: IpAddr) -> Vec<Route> {
    let pods = Route { to: options.pod_cidr, way: Way::Unreachable, source: None };
    let same_version = |cidr: &&Cidr| cidr.address().is_ipv4() == gateway.is_ipv4();
    let services = options.service_cidrs.iter().filter(same_version);
    let services = services.map(|cidr| Route { to: *cidr, way: Way::Link(bridge), source: Some(gateway) });
    std::iter::once(pods).chain(services).collect()
}

/// Removes our bridge, our pods' interfaces and our routes, also those to other nodes, from the namespace that the calling thread is in.
pub(crate) fn remove_links(names: &Names, pod_cidr: Cidr) -> Result<(), NetError> {
    let socket = Socket::route().map_err(NetError::kernel("open a routing socket"))?;
    let links = socket.links().map_err(NetError::kernel("list interfaces"))?;
    let ours = |link: &&Link| is_pods(link, names) || (link.name == names.bridge && link.group == LINK_GROUP);
    for link in links.iter().filter(ours) {
        socket.remove_link(link.index).map_err(NetError::kernel(format!("remove interface {}", link.name)))?;
    }
    let routes = socket.routes().map_err(NetError::kernel("list routes"))?;
    for (route, owner) in routes {
        let own_range = route.way == Way::Unreachable && route.to == pod_cidr.network();
        let to_peer = matches!(route.way, Way::Gateway(..));
        if owner == Owner::Us && (own_range || to_peer) {
            socket.remove_route(&route).map_err(NetError::kernel(format!("remove the route to {}", route.to)))?;
        }
    }
    Ok(())
}

/// Whether `link` is the node's end of a pod's interface.
pub(super) fn is_pods(link: &Link, names: &Names) -> bool {
    link.group == LINK_GROUP && link.kind == "veth" && link.name.starts_with(&names.veth_prefix)
}

fn mtu_towards_default(socket: &Socket) -> Result<u32, NetlinkError> {
    let routes = socket.routes()?;
    let default = routes.iter().find_map(|(route, _)| match route.way {
        Way::Gateway(_, index) | Way::Link(index) if route.to.prefix() == 0 && route.to.address().is_ipv4() => {
            Some(index)
        }
        _ => None,
    });
    let links = socket.links()?;
    let link = default.and_then(|index| links.iter().find(|link| link.index == index));
    Ok(link.map_or(MTU_DEFAULT, |link| link.mtu))
}

/// Lets ports of the node lead to pods also for clients on the node that come over its loopback address, as upstream's proxy
/// does. The rules drop what others send to such addresses.
pub(crate) fn route_loopback() -> Result<(), NetError> {
    write_setting("net/ipv4/conf/all/route_localnet", "1").map_err(NetError::io("route the loopback address"))
}

/// Writes a kernel setting unless it has the value already: it may be there and read-only.
pub(super) fn write_setting(name: &str, value: &str) -> std::io::Result<()> {
    let path = PathBuf::from("/proc/sys").join(name);
    if fs::read_to_string(&path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}

/// A locally administered hardware address that an address always gets: nobody has to remember it.
pub(super) fn mac_for(address: IpAddr) -> [u8; 6] {
    let octets = crate::netlink::route::octets(address);
    let tail = &octets[octets.len() - 4..];
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

//! Connecting one sandbox and taking the connection away.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use cni::{
    AddRequest, AddResult, CNI_VERSION, CheckRequest, Cidr, CniError, Code, DelRequest, GcRequest, Interface, IpConfig,
};

use super::node::{Node, is_pods, mac_for, write_setting};
use super::pool::Holder;
use crate::namespace;
use crate::netlink::route::{Link, Owner, Route, VethPair, Way};
use crate::netlink::{NetlinkError, Socket};

/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;

/// Connects the sandbox, or completes a connection that an earlier call began.
pub(super) fn add(node: &Node, request: &AddRequest) -> Result<AddResult, CniError> {
    validate(request)?;
    let holder = Holder { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
    let reserved = node.pool.reserve(&holder).map_err(io("reserve an address"))?;
    let address = reserved
        .ok_or_else(|| CniError::new(Code::TryAgainLater, format!("no free address in {}", node.options.pod_cidr)))?;
    let connected = connect(node, request, address);
    if connected.is_err() {
        // The caller learns why connecting failed; what undoing might add to that is of less use to it.
        drop(disconnect(node, &holder));
    }
    connected
}

fn validate(request: &AddRequest) -> Result<(), CniError> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let id = request.container_id.as_bytes();
    if id.is_empty() || id.len() > 128 || !id[0].is_ascii_alphanumeric() || !id.iter().copied().all(sound) {
        return Err(CniError::new(Code::InvalidParameters, format!("invalid container id {:?}", request.container_id)));
    }
    let name = request.ifname.as_bytes();
    if name.is_empty() || name.len() > 15 || matches!(name, b"." | b"..") || !name.iter().copied().all(sound) {
        return Err(CniError::new(Code::InvalidParameters, format!("invalid interface name {:?}", request.ifname)));
    }
    Ok(())
}

fn connect(node: &Node, request: &AddRequest, address: IpAddr) -> Result<AddResult, CniError> {
    let names = &node.options.names;
    let near_name = names.veth(&request.container_id, &request.ifname);
    let alias = names.veth_alias(&request.container_id, &request.ifname);
    let sandbox = namespace::open(&request.netns).map_err(io(&format!("open {}", request.netns.display())))?;
    let inside = socket_inside(&sandbox)?;
    let near = match existing_pair(node, &inside, &near_name, &alias, &request.ifname)? {
        Some(near) => near,
        None => {
            let pair = VethPair {
                near_name: &near_name,
                near_mac: mac_for(node.pool.gateway()),
                far_name: &request.ifname,
                far_mac: mac_for(address),
                far_namespace: std::os::fd::AsFd::as_fd(&sandbox),
                mtu: node.mtu,
            };
            node.socket.make_veth(&pair).map_err(kernel(&format!("make interface {near_name}")))?;
            let near = node.socket.link(&near_name).map_err(kernel("find an interface"))?;
            let near = near.ok_or_else(|| gone(&near_name))?;
            node.socket.set_alias(near.index, &alias).map_err(kernel(&format!("name the owner of {near_name}")))?;
            near
        }
    };
    configure_sandbox(&inside, &request.ifname, address, node.pool.gateway(), near.mac)?;
    configure_node(node, &near, address)?;
    // Last: nobody is led to a pod that cannot be reached yet.
    node.ports.set(&request.container_id, address, &request.port_mappings)?;
    Ok(result(node, &near, request, address))
}

fn socket_inside(sandbox: &File) -> Result<Socket, CniError> {
    let opened = namespace::inside(sandbox, || Ok(Socket::route())).map_err(io("enter the sandbox's namespace"))?;
    opened.map_err(kernel("open a routing socket in the sandbox"))
}

/// The node's end of a pair that an earlier call made for the same sandbox. One whose other end is elsewhere, or which
/// was not finished, is removed.
fn existing_pair(
    node: &Node,
    inside: &Socket,
    near_name: &str,
    alias: &str,
    ifname: &str,
) -> Result<Option<Link>, CniError> {
    let Some(near) = node.socket.link(near_name).map_err(kernel("find an interface"))? else { return Ok(None) };
    if !is_pods(&near, &node.options.names) || ![alias, ""].contains(&near.alias.as_str()) {
        return Err(CniError::new(
            Code::Io,
            format!("interface {near_name} belongs to another sandbox ({})", near.alias),
        ));
    }
    let far = inside.link(ifname).map_err(kernel("find the sandbox's interface"))?;
    if near.alias == alias && far.is_some_and(|far| far.kind == "veth") {
        return Ok(Some(near));
    }
    node.socket.remove_link(near.index).map_err(kernel(&format!("remove interface {near_name}")))?;
    Ok(None)
}

fn configure_sandbox(
    inside: &Socket,
    ifname: &str,
    address: IpAddr,
    gateway: IpAddr,
    gateway_mac: [u8; 6],
) -> Result<(), CniError> {
    let failed = || kernel(&format!("configure {ifname} in the sandbox"));
    let far = inside.link(ifname).map_err(failed())?.ok_or_else(|| gone(ifname))?;
    inside.set_up(LOOPBACK).map_err(failed())?;
    inside.add_address(far.index, Cidr::host(address)).map_err(failed())?;
    inside.set_up(far.index).map_err(failed())?;
    inside.set_neighbour(far.index, gateway, gateway_mac).map_err(failed())?;
    for route in sandbox_routes(address, gateway, far.index) {
        inside.set_route(&route).map_err(failed())?;
    }
    Ok(())
}

/// The pod has no neighbour but the node: also what is "near" goes over it, and so through its rules.
fn sandbox_routes(address: IpAddr, gateway: IpAddr, index: u32) -> [Route; 2] {
    [
        Route { to: Cidr::host(gateway), way: Way::Link(index), source: Some(address) },
        Route { to: everywhere(address), way: Way::Gateway(gateway, index), source: None },
    ]
}

fn everywhere(address: IpAddr) -> Cidr {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Cidr::new(any, 0).expect("every address has at least 0 bits")
}

fn configure_node(node: &Node, near: &Link, address: IpAddr) -> Result<(), CniError> {
    let failed = || kernel(&format!("configure {}", near.name));
    if address.is_ipv4() {
        // Strict: a pod that sends from an address that is not its own is not heard.
        let setting = format!("net/ipv4/conf/{}/rp_filter", near.name);
        write_setting(&setting, "1").map_err(io(&format!("set {setting}")))?;
        // Else a pod could announce itself to the node as its router (CVE-2020-10749), and reach it past the rules.
        let setting = format!("net/ipv6/conf/{}/disable_ipv6", near.name);
        match write_setting(&setting, "1") {
            // A kernel without the protocol.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            written => written.map_err(io(&format!("set {setting}")))?,
        }
    }
    node.socket.set_neighbour(near.index, address, mac_for(address)).map_err(failed())?;
    node.socket.set_route(&pod_route(node, near, address)).map_err(failed())
}

fn pod_route(node: &Node, near: &Link, address: IpAddr) -> Route {
    Route { to: Cidr::host(address), way: Way::Link(near.index), source: Some(node.pool.gateway()) }
}

fn result(node: &Node, near: &Link, request: &AddRequest, address: IpAddr) -> AddResult {
    let gateway = node.pool.gateway();
    let far = Interface {
        name: request.ifname.clone(),
        mac: mac_text(mac_for(address)),
        mtu: Some(node.mtu),
        sandbox: request.netns.display().to_string(),
    };
    AddResult {
        cni_version: CNI_VERSION.into(),
        interfaces: vec![
            Interface { name: near.name.clone(), mac: mac_text(near.mac), mtu: Some(near.mtu), sandbox: String::new() },
            far,
        ],
        ips: vec![IpConfig { address: Cidr::host(address), gateway: Some(gateway), interface: Some(1) }],
        routes: vec![cni::Route { dst: everywhere(address), gw: Some(gateway) }],
        dns: cni::Dns::default(),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Compares what is there with what `add` makes.
pub(super) fn check(node: &Node, request: &CheckRequest) -> Result<(), CniError> {
    let names = &node.options.names;
    let differs = |text: String| CniError::new(Code::Plugin(100), text);
    let holder = Holder { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
    let address = node.pool.held_by(&holder).map_err(io("read reservations"))?;
    let address = address
        .ok_or_else(|| CniError::new(Code::UnknownContainer, format!("{} has no address", holder.container_id)))?;
    if !request.previous.addresses().any(|previous| previous == address) {
        return Err(differs(format!("the sandbox's address is {address}, not what was answered")));
    }
    let near_name = names.veth(&request.container_id, &request.ifname);
    let near = node.socket.link(&near_name).map_err(kernel("list interfaces"))?;
    let near =
        near.filter(|near| near.up).ok_or_else(|| differs(format!("interface {near_name} is missing or down")))?;
    let expected = (pod_route(node, &near, address), Owner::Us);
    if !node.socket.routes().map_err(kernel("list routes"))?.contains(&expected) {
        return Err(differs(format!("the route to {address} is missing")));
    }
    check_sandbox(node, &request.netns, &request.ifname, address)
}

fn check_sandbox(node: &Node, netns: &Path, ifname: &str, address: IpAddr) -> Result<(), CniError> {
    let differs = |text: String| CniError::new(Code::Plugin(100), text);
    let sandbox = namespace::open(netns).map_err(io(&format!("open {}", netns.display())))?;
    let inside = socket_inside(&sandbox)?;
    let far = inside.link(ifname).map_err(kernel("list the sandbox's interfaces"))?;
    let far = far.filter(|far| far.up).ok_or_else(|| differs(format!("{ifname} is missing or down in the sandbox")))?;
    if !inside.addresses(far.index).map_err(kernel("list the sandbox's addresses"))?.contains(&Cidr::host(address)) {
        return Err(differs(format!("{ifname} does not have {address}")));
    }
    let routes = inside.routes().map_err(kernel("list the sandbox's routes"))?;
    let default = &sandbox_routes(address, node.pool.gateway(), far.index)[1];
    match routes.iter().any(|(route, _)| route == default) {
        true => Ok(()),
        false => Err(differs(format!("the sandbox has no default route over {ifname}"))),
    }
}

/// Takes one connection away.
pub(super) fn del(node: &Node, request: &DelRequest) -> Result<(), CniError> {
    disconnect(node, &Holder { container_id: request.container_id.clone(), ifname: request.ifname.clone() })
}

/// The interface goes before the address: that must not be free while somebody still answers to it.
fn disconnect(node: &Node, holder: &Holder) -> Result<(), CniError> {
    node.ports.remove(|owner| owner == holder.container_id).map_err(kernel("take ports of the node back"))?;
    let names = &node.options.names;
    let near =
        node.socket.link(&names.veth(&holder.container_id, &holder.ifname)).map_err(kernel("list interfaces"))?;
    let alias = names.veth_alias(&holder.container_id, &holder.ifname);
    if let Some(near) = near.filter(|near| is_pods(near, names) && [&alias, ""].contains(&near.alias.as_str())) {
        node.socket.remove_link(near.index).map_err(kernel(&format!("remove interface {}", near.name)))?;
    }
    node.pool.release(holder).map_err(io("release an address"))
}

/// Takes away what belongs to sandboxes that are no more.
pub(super) fn gc(node: &Node, request: &GcRequest) -> Result<(), CniError> {
    let alive = |id: &str| request.valid.iter().any(|valid| valid == id);
    node.ports.remove(|owner| !alive(owner)).map_err(kernel("take ports of the node back"))?;
    let links = node.socket.links().map_err(kernel("list interfaces"))?;
    for link in links.iter().filter(|link| is_pods(link, &node.options.names)) {
        // Without an owner's name it is what a crash left of an attachment that nobody was told of.
        if !link.alias.split_once('/').is_some_and(|(id, _)| alive(id)) {
            node.socket.remove_link(link.index).map_err(kernel(&format!("remove interface {}", link.name)))?;
        }
    }
    node.pool.retain(|holder| alive(&holder.container_id)).map_err(io("release addresses"))
}

fn io(operation: &str) -> impl FnOnce(std::io::Error) -> CniError + use<> {
    let operation = operation.to_owned();
    move |error| CniError::because(Code::Io, operation, error)
}

fn kernel(operation: &str) -> impl FnOnce(NetlinkError) -> CniError + use<> {
    let operation = operation.to_owned();
    move |error| CniError::because(Code::Io, operation, error)
}

fn gone(name: &str) -> CniError {
    CniError::new(Code::Io, format!("interface {name} disappeared while it was configured"))
}

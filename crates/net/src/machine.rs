//! The addresses of the machine itself, apart from all that is ours.

use std::net::IpAddr;

use crate::error::NetError;
use crate::netlink::Socket;
use crate::netlink::route::LINK_GROUP;

/// Addresses beyond this are left out: they go into a certificate.
const ADDRESSES_MAX: usize = 64;

/// The addresses at which other machines may find this one, in the network of the calling thread: none of loopback, of links
/// that reach only neighbours, or of interfaces of ours.
pub fn machine_addresses() -> Result<Vec<IpAddr>, NetError> {
    let socket = Socket::route().map_err(NetError::kernel("open a routing socket"))?;
    let links = socket.links().map_err(NetError::kernel("list interfaces"))?;
    let mut found = Vec::new();
    for link in links.iter().filter(|link| link.group != LINK_GROUP) {
        let addresses =
            socket.addresses(link.index).map_err(NetError::kernel(format!("list addresses of {}", link.name)))?;
        found.extend(addresses.iter().map(|address| address.address()).filter(|address| is_reachable(*address)));
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    Ok(found)
}

fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        // The rest of the network is IPv4 only.
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::TestNode;

    #[tokio::test]
    async fn only_the_machines_own_addresses_are_found() {
        let node = TestNode::start().await;
        let _pod = node.pod("a").await;
        let found = node.namespace.run(|| {
            let socket = Socket::route().unwrap();
            let loopback = socket.link("lo").unwrap().unwrap().index;
            for address in ["192.0.2.9/32", "169.254.1.1/32"] {
                socket.add_address(loopback, address.parse().unwrap()).unwrap();
            }
            machine_addresses().unwrap()
        });
        assert_eq!(found, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    }
}

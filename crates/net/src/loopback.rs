//! The loopback interface of a sandbox, as the CNI plugin of that name: runtimes ask for it besides the pod network.

use std::path::Path;

use cni::{
    AddRequest, AddResult, CNI_VERSION, CheckRequest, Cidr, CniError, Code, DelRequest, GcRequest, Interface, IpConfig,
    Network,
};
use stdx::BoxFuture;

use crate::namespace;
use crate::netlink::Socket;

/// The loopback interface is the first of every namespace.
const LOOPBACK: u32 = 1;

/// The plugin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loopback;

fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> CniError {
    move |error| CniError::because(Code::Io, operation, error)
}

/// A routing socket in the sandbox.
fn inside(netns: &Path) -> Result<Socket, CniError> {
    let sandbox = namespace::open(netns).map_err(failed("open the sandbox's namespace"))?;
    let socket = namespace::inside(&sandbox, || Ok(Socket::route()));
    let socket = socket.map_err(failed("enter the sandbox's namespace"))?;
    socket.map_err(|error| CniError::because(Code::Io, "open a routing socket in the sandbox", error))
}

fn add(request: &AddRequest) -> Result<AddResult, CniError> {
    let raised = inside(&request.netns)?.set_up(LOOPBACK);
    raised.map_err(|error| CniError::because(Code::Io, "raise the loopback interface", error))?;
    let sandbox = request.netns.display().to_string();
    let address = Cidr::new(std::net::Ipv4Addr::LOCALHOST.into(), 8).expect("8 bits are fewer than 32");
    Ok(AddResult {
        cni_version: CNI_VERSION.into(),
        interfaces: vec![Interface {
            name: request.ifname.clone(),
            mac: "00:00:00:00:00:00".into(),
            mtu: None,
            sandbox,
        }],
        ips: vec![IpConfig { address, gateway: None, interface: Some(0) }],
        routes: Vec::new(),
        dns: cni::Dns::default(),
    })
}

fn check(request: &CheckRequest) -> Result<(), CniError> {
    let link = inside(&request.netns)?.link(&request.ifname);
    let link = link.map_err(|error| CniError::because(Code::Io, "list the sandbox's interfaces", error))?;
    match link.is_some_and(|link| link.up) {
        true => Ok(()),
        false => Err(CniError::new(Code::Plugin(100), format!("{} is missing or down in the sandbox", request.ifname))),
    }
}

impl Network for Loopback {
    fn add<'a>(&'a self, request: &'a AddRequest) -> BoxFuture<'a, Result<AddResult, CniError>> {
        Box::pin(std::future::ready(add(request)))
    }

    fn check<'a>(&'a self, request: &'a CheckRequest) -> BoxFuture<'a, Result<(), CniError>> {
        Box::pin(std::future::ready(check(request)))
    }

    fn del<'a>(&'a self, _request: &'a DelRequest) -> BoxFuture<'a, Result<(), CniError>> {
        // It goes with its namespace.
        Box::pin(std::future::ready(Ok(())))
    }

    fn gc<'a>(&'a self, _request: &'a GcRequest) -> BoxFuture<'a, Result<(), CniError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn status(&self) -> BoxFuture<'_, Result<(), CniError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Namespace;

    #[tokio::test]
    async fn a_sandbox_reaches_itself() {
        let namespace = Namespace::new();
        let netns = namespace.path();
        let request = AddRequest {
            container_id: "a".into(),
            netns: netns.clone(),
            ifname: "lo".into(),
            pod: cni::PodRef::default(),
            port_mappings: Vec::new(),
        };
        let previous = AddResult { ips: Vec::new(), ..Loopback.add(&request).await.unwrap() };
        let check = CheckRequest { container_id: "a".into(), netns, ifname: "lo".into(), previous };
        Loopback.check(&check).await.unwrap();
        let listener = namespace.run(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        namespace.run(move || std::net::TcpStream::connect(address).map(drop)).unwrap();
        let absent = CheckRequest { ifname: "eth0".into(), ..check };
        assert!(Loopback.check(&absent).await.is_err());
    }
}

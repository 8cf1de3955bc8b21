//! A node with pods for tests: real namespaces, real interfaces, real packets.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use cni::{AddRequest, AddResult, Network, PodRef};

use crate::bridge::{BridgeNetwork, BridgeOptions};
use crate::input::{EndpointView, NetState, ObjectKey, PortView, Protocol, ServiceView, SlicePortView, SliceView};
use crate::names::Names;
use crate::netlink::Socket;
use crate::rules::NodeFacts;
use crate::scratch::{Namespace, Scratch};

/// Long enough for any packet here, short enough to fail a test soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node: a namespace with the built-in pod network.
pub(crate) struct TestNode {
    pub(crate) namespace: Namespace,
    pub(crate) network: BridgeNetwork,
    pub(crate) options: BridgeOptions,
    _scratch: Scratch,
}

impl TestNode {
    pub(crate) async fn start() -> TestNode {
        let namespace = Namespace::new();
        namespace.run(|| Socket::route().unwrap().set_up(1).unwrap());
        let scratch = Scratch::new("node");
        let options = BridgeOptions {
            names: Names::default(),
            pod_cidr: "10.244.7.0/24".parse().unwrap(),
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            mtu: None,
            state_directory: scratch.path().join("ipam"),
            netns: Some(namespace.path()),
        };
        let network = BridgeNetwork::start(options.clone()).await.unwrap();
        TestNode { namespace, network, options, _scratch: scratch }
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts {
            node_name: "node".into(),
            names: Names::default(),
            gateway: Some(self.network.gateway()),
            node_ip: None,
            pod_cidrs: vec![self.options.pod_cidr],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            host_ports: vec![(Protocol::Udp, 53), (Protocol::Tcp, 53)],
        }
    }

    /// Connects a new pod called `name`.
    pub(crate) async fn pod(&self, name: &str) -> TestPod {
        let namespace = Namespace::new();
        let request = request(name, &namespace);
        let result = self.network.add(&request).await.unwrap();
        let address = result.addresses().next().unwrap();
        TestPod { namespace, request, result, address }
    }
}

/// The request that connects `namespace` as the sandbox of a pod called `name`.
pub(crate) fn request(name: &str, namespace: &Namespace) -> AddRequest {
    AddRequest {
        container_id: format!("sandbox-{name}"),
        netns: namespace.path(),
        ifname: "eth0".into(),
        pod: PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") },
        port_mappings: Vec::new(),
    }
}

/// A connected pod.
pub(crate) struct TestPod {
    pub(crate) namespace: Namespace,
    pub(crate) request: AddRequest,
    pub(crate) result: AddResult,
    pub(crate) address: IpAddr,
}

impl TestPod {
    /// Serves TCP on `port`: every connection is told `name` and the peer's address, and ended. Ends with the test.
    pub(crate) fn serve_tcp(&self, port: u16, name: &'static str) {
        serve_tcp(&self.namespace, SocketAddr::new(self.address, port), name);
    }

    /// Serves UDP on `port` in the same way.
    pub(crate) fn serve_udp(&self, port: u16, name: &'static str) {
        let address = SocketAddr::new(self.address, port);
        let socket = self.namespace.run(|| UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer).unwrap();
            }
        });
    }
}

/// As [`TestPod::serve_tcp`], anywhere.
pub(crate) fn serve_tcp(namespace: &Namespace, address: SocketAddr, name: &'static str) {
    let listener = namespace.run(|| TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            // A client that went away meanwhile is its own affair.
            drop(stream.write_all(format!("{name} {}", peer.ip()).as_bytes()));
        }
    });
}

/// What a TCP server at `address` says to a client in `namespace`.
pub(crate) fn call_tcp(namespace: &Namespace, address: SocketAddr) -> io::Result<String> {
    namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// What a UDP server at `address` says to a client in `namespace`.
pub(crate) fn call_udp(namespace: &Namespace, address: SocketAddr) -> io::Result<String> {
    namespace.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// The first words of 60 calls: which servers answered.
pub(crate) fn servers(namespace: &Namespace, address: SocketAddr) -> BTreeSet<String> {
    (0..60).map(|_| call_tcp(namespace, address).unwrap().split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// A Service `default/name` at `address` with TCP and UDP ports 80.
pub(crate) fn service(name: &str, address: &str) -> ServiceView {
    let port = |name: &str, protocol| PortView { name: name.into(), protocol, port: 80, node_port: 0 };
    ServiceView {
        key: ObjectKey::new("default", name),
        cluster_ips: vec![address.parse().unwrap()],
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..ServiceView::default()
    }
}

/// A ready endpoint.
pub(crate) fn endpoint(address: &str) -> EndpointView {
    EndpointView {
        addresses: vec![address.to_owned()],
        ready: true,
        serving: true,
        node_name: "node".into(),
        pod_uid: format!("uid-{address}"),
        ..EndpointView::default()
    }
}

/// The slice of Service `default/name`, whose endpoints listen on port 3000.
pub(crate) fn slice(name: &str, endpoints: impl IntoIterator<Item = EndpointView>) -> SliceView {
    let port = |name: &str, protocol| SlicePortView { name: name.into(), protocol, port: 3000 };
    SliceView {
        key: ObjectKey::new("default", format!("{name}-1")),
        service: name.into(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        endpoints: endpoints.into_iter().collect(),
    }
}

/// One Service `web` at 10.96.0.10 with ready endpoints at `addresses`.
pub(crate) fn web(addresses: &[IpAddr]) -> NetState {
    NetState::new(
        [service("web", "10.96.0.10")],
        [slice("web", addresses.iter().map(|address| endpoint(&address.to_string())))],
    )
}

/// Where [`web`] is reached.
pub(crate) fn web_address() -> SocketAddr {
    "10.96.0.10:80".parse().unwrap()
}

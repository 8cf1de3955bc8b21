//! The pod network with real namespaces and packets.

use std::io::ErrorKind;
use std::net::SocketAddr;

use cni::{CheckRequest, Code, DelRequest, GcRequest, Network, PortMapping};

use super::{BridgeNetwork, BridgeOptions};
use crate::error::NetError;
use crate::netlink::Socket;
use crate::netlink::route::{Route, Way};
use crate::scratch::Namespace;
use crate::testbed::{TestNode, TestPod, call_tcp, call_udp, request, serve_tcp};

fn check_of(pod: &TestPod) -> CheckRequest {
    CheckRequest {
        container_id: pod.request.container_id.clone(),
        netns: pod.request.netns.clone(),
        ifname: pod.request.ifname.clone(),
        previous: pod.result.clone(),
    }
}

fn del_of(pod: &TestPod) -> DelRequest {
    DelRequest {
        container_id: pod.request.container_id.clone(),
        netns: Some(pod.request.netns.clone()),
        ifname: pod.request.ifname.clone(),
    }
}

#[tokio::test]
async fn pods_and_node_reach_one_another_under_their_own_addresses() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    b.serve_tcp(3000, "b");
    serve_tcp(&node.namespace, SocketAddr::new(node.network.gateway(), 53), "node");
    let b_address = SocketAddr::new(b.address, 3000);
    assert_eq!(call_tcp(&a.namespace, b_address).unwrap(), format!("b {}", a.address));
    assert_eq!(call_tcp(&node.namespace, b_address).unwrap(), format!("b {}", node.network.gateway()));
    let node_address = SocketAddr::new(node.network.gateway(), 53);
    assert_eq!(call_tcp(&a.namespace, node_address).unwrap(), format!("node {}", a.address));
}

#[tokio::test]
async fn an_address_that_no_pod_has_is_refused_at_once() {
    let node = TestNode::start().await;
    let pod = node.pod("a").await;
    let began = stdx::mono();
    let error = call_tcp(&pod.namespace, "10.244.7.200:80".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    assert!((stdx::mono() - began).as_millis() < 900, "waited for a neighbour that is not there");
}

#[tokio::test]
async fn add_is_repeatable_and_del_takes_everything_away() {
    let node = TestNode::start().await;
    let pod = node.pod("a").await;
    node.network.check(&check_of(&pod)).await.unwrap();
    assert_eq!(node.network.add(&pod.request).await.unwrap(), pod.result);
    let links = || node.namespace.run(|| Socket::route().unwrap().links().unwrap().len());
    assert_eq!(links(), 3, "loopback, bridge and the pod's");
    node.network.del(&del_of(&pod)).await.unwrap();
    node.network.del(&del_of(&pod)).await.unwrap();
    assert_eq!(links(), 2);
    let error = node.network.check(&check_of(&pod)).await.unwrap_err();
    assert_eq!(error.code, Code::UnknownContainer);
    let again = node.network.add(&pod.request).await.unwrap();
    assert_ne!(again.addresses().next(), Some(pod.address), "a freed address rests");
    node.network.del(&del_of(&pod)).await.unwrap();
}

#[tokio::test]
async fn check_names_what_is_missing() {
    let node = TestNode::start().await;
    let pod = node.pod("a").await;
    let host = node.namespace.run(|| Socket::route().unwrap());
    let (route, _) = host.routes().unwrap().into_iter().find(|(route, _)| route.to.address() == pod.address).unwrap();
    host.remove_route(&route).unwrap();
    let error = node.network.check(&check_of(&pod)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the route to {} is missing", pod.address));
    node.network.add(&pod.request).await.unwrap();
    node.network.check(&check_of(&pod)).await.unwrap();
    let inside = pod.namespace.run(|| Socket::route().unwrap());
    let index = inside.link("eth0").unwrap().unwrap().index;
    let gateway = node.network.gateway();
    inside
        .remove_route(&Route { to: "0.0.0.0/0".parse().unwrap(), way: Way::Gateway(gateway, index), source: None })
        .unwrap();
    let error = node.network.check(&check_of(&pod)).await.unwrap_err();
    assert_eq!(error.to_string(), "the sandbox has no default route over eth0");
}

#[tokio::test]
async fn a_new_process_finds_the_addresses_that_the_old_one_gave() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    let reopened = BridgeNetwork::start(node.options.clone()).await.unwrap();
    assert_eq!(reopened.add(&a.request).await.unwrap(), a.result);
    let c = Namespace::new();
    let result = reopened.add(&request("c", &c)).await.unwrap();
    assert!(![a.address, b.address].contains(&result.addresses().next().unwrap()));
    reopened.status().await.unwrap();
}

#[tokio::test]
async fn gc_keeps_the_living_only() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    node.network.gc(&GcRequest { valid: vec![b.request.container_id.clone()] }).await.unwrap();
    assert_eq!(node.network.check(&check_of(&a)).await.unwrap_err().code, Code::UnknownContainer);
    node.network.check(&check_of(&b)).await.unwrap();
    b.serve_tcp(3000, "b");
    assert!(call_tcp(&node.namespace, SocketAddr::new(b.address, 3000)).is_ok());
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let node = TestNode::start().await;
    let namespace = Namespace::new();
    let mut mapped = request("a", &namespace);
    mapped.port_mappings = vec![PortMapping {
        host_port: 80,
        container_port: 80,
        protocol: "tcp".into(),
        host_ip: "fd00::1".parse().ok(),
    }];
    let error = node.network.add(&mapped).await.unwrap_err();
    assert_eq!((error.code, error.to_string()), (Code::UnsupportedField, "hostIP fd00::1 of hostPort 80".into()));
    let mut malformed = request("a", &namespace);
    malformed.container_id = "../a".into();
    assert_eq!(node.network.add(&malformed).await.unwrap_err().code, Code::InvalidParameters);
    let mut absent = request("a", &namespace);
    absent.netns = "/nonexistent".into();
    assert_eq!(node.network.add(&absent).await.unwrap_err().code, Code::Io);
}

#[tokio::test]
async fn a_port_of_the_node_leads_to_its_pod_until_that_goes() {
    let node = TestNode::start().await;
    let client = node.pod("client").await;
    let map = |host_port, protocol: &str, host_ip: Option<&str>| PortMapping {
        host_port,
        container_port: 3000,
        protocol: protocol.into(),
        host_ip: host_ip.map(|text| text.parse().unwrap()),
    };
    let gateway = node.network.gateway();
    let other = "10.244.7.77";
    let link = node.namespace.run(|| crate::netlink::Socket::route().unwrap());
    link.add_address(1, cni::Cidr::host(other.parse().unwrap())).unwrap();
    let mut mapped = Vec::new();
    for (name, mappings) in [
        ("a", vec![map(8080, "tcp", None), map(8080, "udp", None), map(8081, "tcp", Some("127.0.0.1"))]),
        ("b", vec![map(8082, "tcp", Some(other))]),
    ] {
        let namespace = Namespace::new();
        let mut wanted = request(name, &namespace);
        wanted.port_mappings = mappings;
        let result = node.network.add(&wanted).await.unwrap();
        assert_eq!(node.network.add(&wanted).await.unwrap(), result);
        let address = result.addresses().next().unwrap();
        mapped.push(TestPod { namespace, request: wanted, result, address });
    }
    let [a, b] = mapped.as_slice() else { unreachable!("two were made") };
    a.serve_tcp(3000, "a");
    a.serve_udp(3000, "a");
    b.serve_tcp(3000, "b");
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    let (on, to) = (&node.namespace, |port| SocketAddr::new(gateway, port));
    assert_eq!(call_tcp(&client.namespace, to(8080)).unwrap(), format!("a {}", client.address), "its own address");
    assert_eq!(call_udp(&client.namespace, to(8080)).unwrap(), format!("a {}", client.address));
    assert_eq!(call_tcp(on, to(8080)).unwrap(), format!("a {gateway}"));
    assert_eq!(call_tcp(on, at("127.0.0.1", 8080)).unwrap(), format!("a {gateway}"));
    assert_eq!(call_tcp(on, at("127.0.0.1", 8081)).unwrap(), format!("a {gateway}"));
    assert_eq!(call_tcp(&a.namespace, to(8080)).unwrap(), format!("a {gateway}"), "a pod to itself");
    assert!(call_tcp(on, at(other, 8082)).unwrap().starts_with("b "));
    for address in [to(8081), to(8082), to(8083)] {
        assert!(call_tcp(on, address).is_err(), "{address}");
    }
    node.network.del(&del_of(a)).await.unwrap();
    assert!(call_tcp(on, to(8080)).is_err() && call_tcp(on, at(other, 8082)).is_ok());
    node.network.gc(&GcRequest { valid: vec![client.request.container_id.clone()] }).await.unwrap();
    assert!(call_tcp(on, at(other, 8082)).is_err());
}

#[tokio::test]
async fn addresses_run_out_and_come_back() {
    let node = TestNode::start().await;
    let small = BridgeOptions {
        pod_cidr: "10.244.9.0/30".parse().unwrap(),
        state_directory: node.options.state_directory.join("small"),
        names: crate::Names { bridge: "isopod1".into(), veth_prefix: "isow".into(), table: "other".into() },
        ..node.options.clone()
    };
    let network = BridgeNetwork::start(small).await.unwrap();
    let (a, b) = (Namespace::new(), Namespace::new());
    network.add(&request("a", &a)).await.unwrap();
    let error = network.add(&request("b", &b)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    network.gc(&GcRequest::default()).await.unwrap();
    network.add(&request("b", &b)).await.unwrap();
}

#[tokio::test]
async fn an_interface_of_somebody_else_is_left_alone() {
    let namespace = Namespace::new();
    namespace.run(|| Socket::route().unwrap().set_up(1).unwrap());
    let socket = namespace.run(|| Socket::route().unwrap());
    make_foreign_bridge(&socket, "isopod0");
    let other = TestNode::start().await;
    let options = BridgeOptions { netns: Some(namespace.path()), ..other.options.clone() };
    let error = BridgeNetwork::start(options).await.err().unwrap();
    assert!(matches!(error, NetError::ForeignLink(name) if name == "isopod0"));
    let link = namespace.run(|| Socket::route().unwrap().link("isopod0").unwrap().unwrap());
    assert_eq!(link.group, 0);
}

/// A bridge as an administrator makes one.
fn make_foreign_bridge(socket: &Socket, name: &str) {
    const RTM_NEWLINK: u16 = 16;
    socket
        .request(|batch, flags| {
            batch.message(RTM_NEWLINK, flags | 0x600, &[0; 16]).put_text(3, name).nest(18, |info| {
                info.put_text(1, "bridge");
            });
        })
        .unwrap();
}

#[tokio::test]
async fn a_pod_cannot_speak_under_a_foreign_address() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    let stolen = node.pod("c").await.address;
    let inside = a.namespace.run(|| Socket::route().unwrap());
    let index = inside.link("eth0").unwrap().unwrap().index;
    inside.add_address(index, cni::Cidr::host(stolen)).unwrap();
    let server = b.namespace.run(|| std::net::UdpSocket::bind((b.address, 4000)).unwrap());
    server.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let heard = |source: std::net::IpAddr| {
        let socket = a.namespace.run(|| std::net::UdpSocket::bind((source, 0)).unwrap());
        socket.send_to(b"?", (b.address, 4000)).unwrap();
        server.recv(&mut [0; 64]).is_ok()
    };
    assert!(heard(a.address));
    assert!(!heard(stolen));
}

#[tokio::test]
async fn many_pods_at_once_get_an_address_each() {
    let node = TestNode::start().await;
    let namespaces: Vec<Namespace> = (0..16).map(|_| Namespace::new()).collect();
    let began = stdx::mono();
    let tasks: Vec<_> = namespaces
        .iter()
        .enumerate()
        .map(|(number, namespace)| {
            let (network, request) = (node.network.clone(), request(&number.to_string(), namespace));
            stdx::spawn(async move { network.add(&request).await.unwrap().addresses().next().unwrap() })
        })
        .collect();
    let mut addresses = std::collections::BTreeSet::new();
    for task in tasks {
        addresses.insert(task.await.unwrap());
    }
    println!("16 pods connected in {:?}", stdx::mono() - began);
    assert_eq!(addresses.len(), 16);
}

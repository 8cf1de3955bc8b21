//! Service rules: decisions, differences, and real packets.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::difference::{AddressSet, Change, Installed, changes, installed};
use super::{Frontend, Kernel, NodeFacts, rule_set};
use crate::input::{EndpointView, NetState, Protocol};
use crate::netlink::codec::{NLM_F_CREATE, NLM_F_EXCL};
use crate::netlink::route::{Route, VethPair, Way};
use crate::netlink::{Batch, Socket};
use crate::scratch::Namespace;
use crate::testbed::{TestNode, call_tcp, call_udp, endpoint, serve_tcp, servers, service, slice, web, web_address};

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn check_backends(endpoints: Vec<EndpointView>, expected: &[&str]) {
    let state = NetState::new([service("web", "10.96.0.10")], [slice("web", endpoints)]);
    let rules = rule_set(&state, &NodeFacts { node_name: "node".into(), ..NodeFacts::default() });
    let frontend = Frontend { address: [10, 96, 0, 10].into(), protocol: Protocol::Udp, port: 80 };
    let backends = rules.targets.get(&frontend).map(|target| target.backends.clone()).unwrap_or_default();
    let texts: Vec<String> = backends.iter().map(|(address, port)| format!("{address}:{port}")).collect();
    assert_eq!(texts, expected);
    assert_eq!(rules.cluster_ips.len(), 1);
}

#[test]
fn ready_endpoints_serve_and_ending_ones_only_when_no_other_does() {
    let with = |address: &str, ready: bool, serving: bool, terminating: bool| EndpointView {
        ready,
        serving,
        terminating,
        ..endpoint(address)
    };
    check_backends(vec![], &[]);
    check_backends(vec![endpoint("10.0.0.3"), endpoint("10.0.0.2")], &["10.0.0.2:3000", "10.0.0.3:3000"]);
    check_backends(vec![endpoint("10.0.0.2"), endpoint("10.0.0.2")], &["10.0.0.2:3000"]);
    check_backends(vec![endpoint("10.0.0.2"), with("10.0.0.3", false, true, true)], &["10.0.0.2:3000"]);
    check_backends(vec![with("10.0.0.3", false, true, true)], &["10.0.0.3:3000"]);
    check_backends(vec![with("10.0.0.3", false, false, true)], &[]);
    check_backends(vec![with("10.0.0.3", false, true, false)], &[]);
    check_backends(vec![endpoint("fd00::1")], &[]);
    check_backends(vec![endpoint("example.org")], &[]);
}

#[test]
fn services_without_rules_are_left_out_and_ignored_fields_are_named() {
    let mut headless = service("headless", "10.96.0.11");
    headless.headless = true;
    headless.cluster_ips.clear();
    let mut proxied = service("proxied", "10.96.0.12");
    proxied.proxy_name = "mine".into();
    let mut affine = service("affine", "10.96.0.13");
    affine.unsupported = vec!["spec.sessionAffinity".into()];
    let mut local = service("local", "10.96.0.14");
    local.local_only = true;
    let elsewhere = EndpointView { node_name: "other".into(), ..endpoint("10.0.0.3") };
    let state = NetState::new(
        [headless, proxied, affine.clone(), local],
        [
            slice("headless", [endpoint("10.0.0.2")]),
            slice("proxied", [endpoint("10.0.0.2")]),
            slice("local", [endpoint("10.0.0.2"), elsewhere]),
        ],
    );
    let rules = rule_set(&state, &NodeFacts { node_name: "node".into(), ..NodeFacts::default() });
    assert_eq!(rules.cluster_ips, addresses(&["10.96.0.13", "10.96.0.14"]).into_iter().collect());
    assert_eq!(rules.targets.len(), 2, "TCP and UDP of the local one");
    assert!(rules.targets.values().all(|target| target.backends == [([10, 0, 0, 2].into(), 3000)]));
    assert_eq!(rules.unsupported, [(affine.key, affine.unsupported)].into());
}

#[test]
fn only_differences_are_sent() {
    let rules = |texts: &[&str]| rule_set(&web(&addresses(texts)), &NodeFacts::default());
    let frontend = |protocol| Frontend { address: [10, 96, 0, 10].into(), protocol, port: 80 };
    let (tcp, udp) = (frontend(Protocol::Tcp), frontend(Protocol::Udp));
    let two = rules(&["10.0.0.2", "10.0.0.3"]);
    let all = changes(&Installed::default(), &two);
    assert_eq!(all[0], Change::AddTable);
    assert_eq!(changes(&installed(&two), &two), []);
    assert_eq!(
        changes(&installed(&two), &rules(&["10.0.0.2"])),
        [
            Change::FlushChain(tcp),
            Change::AddRule(tcp),
            Change::FlushChain(udp),
            Change::AddRule(udp),
            Change::RemoveAddresses(AddressSet::Hairpins, addresses(&["10.0.0.3"])),
        ]
    );
    assert_eq!(
        changes(&installed(&two), &rules(&[])),
        [
            Change::RemoveFrontends(vec![tcp, udp]),
            Change::FlushChain(tcp),
            Change::RemoveChain(tcp),
            Change::FlushChain(udp),
            Change::RemoveChain(udp),
            Change::RemoveAddresses(AddressSet::Hairpins, addresses(&["10.0.0.2", "10.0.0.3"])),
        ]
    );
    let mut moved = two.clone();
    moved.facts.gateway = Some([10, 244, 0, 1].into());
    assert_eq!(changes(&installed(&two), &moved), [Change::FlushCommon, Change::AddCommon]);
    let older = Installed { base: Some("isopod service rules 0".into()), ..installed(&two) };
    let replaced = changes(&older, &two);
    assert_eq!(replaced[..3], [Change::RemoveTable, Change::AddTable, Change::AddCommon]);
    assert_eq!(replaced[1..], all);
}

fn kernel_of(node: &TestNode) -> Kernel {
    node.namespace.run(|| Kernel::open().unwrap())
}

#[tokio::test]
async fn a_service_spreads_over_its_pods_from_pods_and_from_the_node() {
    let node = TestNode::start().await;
    let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
    for (pod, name) in [(&a, "a"), (&b, "b")] {
        pod.serve_tcp(3000, name);
        pod.serve_udp(3000, name);
    }
    kernel_of(&node).apply(&rule_set(&web(&[a.address, b.address]), &node.facts())).unwrap();
    let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    assert_eq!(servers(&client.namespace, web_address()), both);
    assert_eq!(servers(&node.namespace, web_address()), both);
    let answer = call_tcp(&client.namespace, web_address()).unwrap();
    assert!(answer.ends_with(&format!(" {}", client.address)), "pods see the client's own address: {answer}");
    let answer = call_udp(&client.namespace, web_address()).unwrap();
    assert!(answer.ends_with(&format!(" {}", client.address)), "{answer}");
}

#[tokio::test]
async fn it_is_the_same_where_bridged_packets_are_not_shown_to_the_rules() {
    let node = TestNode::start().await;
    let (a, client) = (node.pod("a").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    for value in ["0", "1"] {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        // Where the setting is absent, packets are not shown either, and the one round counts.
        node.namespace.run(|| {
            if std::path::Path::new(path).exists() {
                std::fs::write(path, value).unwrap()
            }
        });
        assert!(call_tcp(&client.namespace, web_address()).is_ok(), "bridge-nf-call-iptables = {value}");
    }
}

#[tokio::test]
async fn a_pod_reaches_itself_over_its_service() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    a.serve_udp(3000, "a");
    kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    let expected = format!("a {}", node.network.gateway());
    assert_eq!(call_tcp(&a.namespace, web_address()).unwrap(), expected);
    assert_eq!(call_udp(&a.namespace, web_address()).unwrap(), expected);
}

#[tokio::test]
async fn services_without_endpoints_and_unknown_ports_refuse_every_time() {
    let node = TestNode::start().await;
    let client = node.pod("client").await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let mut kernel = kernel_of(&node);
    kernel.apply(&rule_set(&web(&[]), &node.facts())).unwrap();
    let began = stdx::mono();
    for namespace in [&client.namespace, &node.namespace] {
        for _ in 0..20 {
            assert_eq!(call_tcp(namespace, web_address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
    assert_eq!(call_udp(&client.namespace, web_address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // The node's own send is stopped on its way out, which the system call tells at once, as with upstream's rules.
    assert_eq!(call_udp(&node.namespace, web_address()).unwrap_err().kind(), ErrorKind::PermissionDenied);
    kernel.apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    assert!(call_tcp(&client.namespace, web_address()).is_ok());
    let unknown = SocketAddr::new(web_address().ip(), 81);
    assert_eq!(call_tcp(&client.namespace, unknown).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!((stdx::mono() - began).as_secs() < 3, "refusals are immediate");
}

#[tokio::test]
async fn a_new_process_changes_nothing_that_is_right() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    let rules = rule_set(&web(&[a.address, b.address]), &node.facts());
    assert!(kernel_of(&node).apply(&rules).unwrap().changes > 0);
    assert_eq!(kernel_of(&node).apply(&rules).unwrap().changes, 0);
    let fewer = rule_set(&web(&[b.address]), &node.facts());
    assert_eq!(kernel_of(&node).apply(&fewer).unwrap().changes, 5, "two rules replaced, one address forgotten");
    let mut other = fewer.clone();
    other.facts.gateway = None;
    assert_eq!(kernel_of(&node).apply(&other).unwrap().changes, 2, "only what depends on the node is replaced");
    assert_eq!(kernel_of(&node).apply(&other).unwrap().changes, 0);
}

#[tokio::test]
async fn a_table_that_somebody_removed_comes_back() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let rules = rule_set(&web(&[a.address]), &node.facts());
    let mut kernel = kernel_of(&node);
    kernel.apply(&rules).unwrap();
    kernel_of(&node).remove(&node.facts().names).unwrap();
    assert!(call_tcp(&node.namespace, web_address()).is_err());
    let more = rule_set(&web(&[a.address, [10, 244, 7, 99].into()]), &node.facts());
    kernel.apply(&more).unwrap();
    kernel.apply(&rules).unwrap();
    assert!(call_tcp(&node.namespace, web_address()).is_ok());
    kernel.remove(&node.facts().names).unwrap();
    kernel.remove(&node.facts().names).unwrap();
}

#[tokio::test]
async fn no_connection_fails_while_endpoints_change() {
    let node = TestNode::start().await;
    let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    b.serve_tcp(3000, "b");
    let mut kernel = kernel_of(&node);
    let mut states: Vec<_> = [vec![a.address], vec![a.address, b.address], vec![b.address]]
        .iter()
        .map(|addresses| rule_set(&web(addresses), &node.facts()))
        .collect();
    states[2].facts.cluster_cidrs.clear();
    kernel.apply(&states[0]).unwrap();
    let (over, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                call_tcp(&client.namespace, web_address()).unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut round = 0;
        while !load.is_finished() && calls.load(Ordering::Relaxed) < 1000 && round < 1_000_000 {
            kernel.apply(&states[round % 3]).unwrap();
            if round % 50 == 0 {
                kernel.forget();
            }
            round += 1;
        }
        over.store(true, Ordering::Relaxed);
        println!("{} calls during {round} changes", calls.load(Ordering::Relaxed));
    });
}

#[tokio::test]
async fn pods_go_out_under_the_nodes_address() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    let outside = Namespace::new();
    let host = node.namespace.run(|| Socket::route().unwrap());
    let far = outside.run(|| Socket::route().unwrap());
    let file = std::fs::File::open(outside.path()).unwrap();
    let pair = VethPair {
        near_name: "uplink",
        near_mac: [2, 0, 0, 0, 0, 1],
        far_name: "eth0",
        far_mac: [2, 0, 0, 0, 0, 2],
        far_namespace: std::os::fd::AsFd::as_fd(&file),
        mtu: 1500,
    };
    host.make_veth(&pair).unwrap();
    let near = host.link("uplink").unwrap().unwrap().index;
    host.add_address(near, "192.0.2.1/24".parse().unwrap()).unwrap();
    let index = far.link("eth0").unwrap().unwrap().index;
    far.add_address(index, "192.0.2.2/24".parse().unwrap()).unwrap();
    far.set_up(index).unwrap();
    let server: SocketAddr = "192.0.2.2:80".parse().unwrap();
    serve_tcp(&outside, server, "outside");
    assert_eq!(call_tcp(&a.namespace, server).unwrap(), "outside 192.0.2.1");
    assert_eq!(call_tcp(&node.namespace, server).unwrap(), "outside 192.0.2.1");
    // Another node's pods see the pod's own address.
    let other_pod: SocketAddr = "10.244.8.5:80".parse().unwrap();
    far.add_address(index, cni::Cidr::host(other_pod.ip())).unwrap();
    far.set_route(&Route {
        to: "10.244.7.0/24".parse().unwrap(),
        way: Way::Gateway("192.0.2.1".parse().unwrap(), index),
        source: None,
    })
    .unwrap();
    host.set_route(&Route {
        to: "10.244.8.0/24".parse().unwrap(),
        way: Way::Gateway("192.0.2.2".parse().unwrap(), near),
        source: None,
    })
    .unwrap();
    serve_tcp(&outside, other_pod, "other");
    assert_eq!(call_tcp(&a.namespace, other_pod).unwrap(), format!("other {}", a.address));
}

#[tokio::test]
async fn a_server_on_the_node_is_reached_over_a_service_from_pods_and_from_the_node_itself() {
    let node = TestNode::start().await;
    let client = node.pod("client").await;
    serve_tcp(&node.namespace, SocketAddr::new(node.network.gateway(), 3000), "api");
    kernel_of(&node).apply(&rule_set(&web(&[node.network.gateway()]), &node.facts())).unwrap();
    assert_eq!(call_tcp(&client.namespace, web_address()).unwrap(), format!("api {}", client.address));
    assert!(call_tcp(&node.namespace, web_address()).unwrap().starts_with("api "));
}

/// A firewall as hosts have them: a table of its own whose chain at `hook` drops what no rule names.
pub(crate) fn add_dropping_chain(socket: &Socket, table: &str, hook: u32) {
    const FAMILY: [u8; 4] = [2, 0, 0, 0];
    let mut batch = Batch::default();
    drop(batch.message(0x10, 0, &[0, 0, 0, 10]));
    batch.message(10 << 8, NLM_F_CREATE, &FAMILY).put_text(1, table);
    batch
        .message(10 << 8 | 3, NLM_F_CREATE | NLM_F_EXCL, &FAMILY)
        .put_text(1, table)
        .put_text(3, &format!("HOOK{hook}"))
        .put_text(7, "filter")
        .put_be32(5, 0)
        .nest(4, |attribute| {
            attribute.put_be32(1, hook).put_be32(2, 0);
        });
    let last = batch.messages();
    batch.acknowledge_last();
    drop(batch.message(0x11, 0, &[0, 0, 0, 10]));
    socket.commit(&batch, last).unwrap();
}

#[tokio::test]
async fn pods_work_beside_a_firewall_that_drops_and_leave_no_trace_in_it() {
    let node = TestNode::start().await;
    let (a, client) = (node.pod("a").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    let gateway = SocketAddr::new(node.network.gateway(), 53);
    serve_tcp(&node.namespace, gateway, "dns");
    let firewall = node.namespace.run(|| Socket::netfilter().unwrap());
    add_dropping_chain(&firewall, "filter", 2);
    add_dropping_chain(&firewall, "filter", 1);
    let namespace = &client.namespace;
    let blocked =
        namespace.run(|| std::net::TcpStream::connect_timeout(&gateway, std::time::Duration::from_millis(200)));
    assert_eq!(blocked.unwrap_err().kind(), ErrorKind::TimedOut, "the firewall of this test works");
    let mut kernel = kernel_of(&node);
    let rules = rule_set(&web(&[a.address]), &node.facts());
    assert_eq!(kernel.apply(&rules).unwrap().foreign_chains, 2);
    assert!(call_tcp(namespace, web_address()).is_ok());
    assert!(call_tcp(namespace, gateway).is_ok());
    let closed = SocketAddr::new(gateway.ip(), 54);
    let other = namespace.run(|| std::net::TcpStream::connect_timeout(&closed, std::time::Duration::from_millis(200)));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::TimedOut, "only the named ports are opened");
    assert_eq!(kernel.apply(&rules).unwrap().foreign_chains, 0);
    assert_eq!(kernel_of(&node).apply(&rules).unwrap().foreign_chains, 0);
    kernel.remove(&node.facts().names).unwrap();
    let again = namespace.run(|| std::net::TcpStream::connect_timeout(&gateway, std::time::Duration::from_millis(200)));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::TimedOut, "our rules are gone from it");
}

#[tokio::test]
async fn two_thousand_services_are_installed_and_changed_quickly() {
    let node = TestNode::start().await;
    let state = |changed: bool| {
        let services = (0..2000u32).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            let mut view = service(&format!("s{number}"), &format!("10.97.{high}.{low}"));
            view.ports.truncate(1);
            view
        });
        let slices = (0..2000u32).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            let count = if changed && number == 7 { 2 } else { 3 };
            slice(&format!("s{number}"), (0..count).map(|part| endpoint(&format!("10.{}.{high}.{low}", 100 + part))))
        });
        NetState::new(services, slices)
    };
    let mut kernel = kernel_of(&node);
    let (first, second) = (state(false), state(true));
    let began = stdx::mono();
    let rules = rule_set(&first, &node.facts());
    let decided = stdx::mono();
    kernel.apply(&rules).unwrap();
    let applied = stdx::mono();
    println!("2,000 services: decided in {:?}, applied in {:?}", decided - began, applied - decided);
    assert_eq!(kernel_of(&node).apply(&rules).unwrap().changes, 0);
    println!("read back and compared in {:?}", stdx::mono() - applied);
    for (name, state) in [("smaller", &second), ("larger", &first)] {
        let began = stdx::mono();
        let rules = rule_set(state, &node.facts());
        let decided = stdx::mono();
        let applied = kernel.apply(&rules).unwrap();
        println!(
            "one service {name}: {applied:?}, decided {:?}, applied {:?}",
            decided - began,
            stdx::mono() - decided
        );
    }
}

//! Service rules: decisions, differences, and real packets.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::difference::{Chain, Change, Installed, Member, Part, Set, changes, installed};
use super::{Frontend, Kernel, NodeFacts, RuleSet, rule_set};
use crate::input::{EndpointView, NetState, Protocol, ServiceType, ServiceView};
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
    let backends = rules.targets.get(&frontend).map(|target| target.choice.backends.clone()).unwrap_or_default();
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
    affine.unsupported = vec!["spec.clusterIPs[1]".into()];
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
    assert!(rules.targets.values().all(|target| target.choice.backends == [([10, 0, 0, 2].into(), 3000)]));
    assert_eq!(rules.unsupported, [(affine.key, affine.unsupported)].into());
}

#[test]
fn only_differences_are_sent() {
    let rules = |texts: &[&str]| rule_set(&web(&addresses(texts)), &NodeFacts::default());
    let frontend = |protocol| Frontend { address: [10, 96, 0, 10].into(), protocol, port: 80 };
    let (tcp, udp) = (frontend(Protocol::Tcp), frontend(Protocol::Udp));
    let two = rules(&["10.0.0.2", "10.0.0.3"]);
    let all = changes(&Installed::default(), &installed(&two));
    assert_eq!(all[0], Change::AddTable);
    assert_eq!(changes(&installed(&two), &installed(&two)), []);
    let [tcp_chain, udp_chain] = [tcp, udp].map(|frontend| Chain { part: Part::Service, frontend });
    let hairpins = |texts: &[&str]| addresses(texts).into_iter().map(Member::Address).collect();
    assert_eq!(
        changes(&installed(&two), &installed(&rules(&["10.0.0.2"]))),
        [
            Change::FlushChain(tcp_chain),
            Change::FlushChain(udp_chain),
            Change::AddRules(tcp_chain),
            Change::AddRules(udp_chain),
            Change::Remove(Set::Hairpins, hairpins(&["10.0.0.3"])),
        ]
    );
    assert_eq!(
        changes(&installed(&two), &installed(&rules(&[]))),
        [
            Change::Remove(Set::Frontends, vec![Member::Frontend(tcp), Member::Frontend(udp)]),
            Change::Remove(Set::Hairpins, hairpins(&["10.0.0.2", "10.0.0.3"])),
            Change::FlushChain(tcp_chain),
            Change::FlushChain(udp_chain),
            Change::RemoveChain(tcp_chain),
            Change::RemoveChain(udp_chain),
        ]
    );
    let mut moved = two.clone();
    moved.facts.gateway = Some([10, 244, 0, 1].into());
    assert_eq!(changes(&installed(&two), &installed(&moved)), [Change::FlushCommon, Change::AddCommon]);
    let older = Installed { base: Some("isopod service rules 0".into()), ..installed(&two) };
    let replaced = changes(&older, &installed(&two));
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

/// A machine beside the node: the node is 192.0.2.1 to it, and it is 192.0.2.2.
struct Uplink {
    outside: Namespace,
    host: Socket,
    far: Socket,
    /// The number of the node's interface.
    near: u32,
    /// The number of the other machine's.
    index: u32,
}

impl Uplink {
    fn of(node: &TestNode) -> Uplink {
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
        Uplink { outside, host, far, near, index }
    }

    /// Makes the other machine send what is for `to` to the node.
    fn lead(&self, to: &str) {
        let way = Way::Gateway("192.0.2.1".parse().unwrap(), self.index);
        self.far.set_route(&Route { to: to.parse().unwrap(), way, source: None }).unwrap();
    }
}

#[tokio::test]
async fn pods_go_out_under_the_nodes_address() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    let Uplink { outside, host, far, near, index } = Uplink::of(&node);
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
    add_chain(socket, table, hook, 0);
}

/// The same in a table that nobody else changes, and that goes with the socket.
pub(crate) fn add_owned_dropping_chain(socket: &Socket, table: &str, hook: u32) {
    const OWNER: u32 = 2;
    add_chain(socket, table, hook, OWNER);
}

fn add_chain(socket: &Socket, table: &str, hook: u32, flags: u32) {
    const FAMILY: [u8; 4] = [2, 0, 0, 0];
    let mut batch = Batch::default();
    drop(batch.message(0x10, 0, &[0, 0, 0, 10]));
    batch.message(10 << 8, NLM_F_CREATE, &FAMILY).put_text(1, table).put_be32(2, flags);
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
    // What this thread spends, since other work on the machine is not the rules'.
    let spent = || {
        let account = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        std::time::Duration::from_nanos(account.split(' ').next().unwrap().parse().unwrap())
    };
    for (name, state) in [("smaller", &second), ("larger", &first), ("smaller", &second), ("larger", &first)] {
        let began = spent();
        let rules = rule_set(state, &node.facts());
        let decided = spent();
        let applied = kernel.apply(&rules).unwrap();
        println!("one service {name}: {applied:?}, decided {:?}, applied {:?}", decided - began, spent() - decided);
    }
}

/// A Service of type NodePort at 10.96.0.10:80 and port 30080 of the node, also at 203.0.113.1.
fn exposed() -> ServiceView {
    let mut view = service("web", "10.96.0.10");
    view.kind = ServiceType::NodePort;
    view.external_ips = addresses(&["203.0.113.1"]);
    for (port, number) in view.ports.iter_mut().zip([30080, 30081]) {
        port.node_port = number;
    }
    view
}

fn exposed_rules(node: &TestNode, view: ServiceView, endpoints: Vec<EndpointView>) -> RuleSet {
    rule_set(&NetState::new([view], [slice("web", endpoints)]), &node.facts())
}

fn on(name: &str, address: IpAddr) -> EndpointView {
    EndpointView { node_name: name.into(), ..endpoint(&address.to_string()) }
}

#[tokio::test]
async fn a_node_port_is_reached_from_everywhere_and_answers_find_back() {
    let node = TestNode::start().await;
    let (a, client) = (node.pod("a").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    a.serve_udp(3000, "a");
    let uplink = Uplink::of(&node);
    uplink.lead("203.0.113.1/32");
    // The node must have some way there, as it has where there is a default route; the rules are faster.
    let back = Way::Gateway("192.0.2.2".parse().unwrap(), uplink.near);
    uplink.host.set_route(&Route { to: "203.0.113.0/24".parse().unwrap(), way: back, source: None }).unwrap();
    let mut kernel = kernel_of(&node);
    kernel.apply(&exposed_rules(&node, exposed(), vec![on("node", a.address)])).unwrap();
    let gateway = node.network.gateway();
    let masqueraded = format!("a {gateway}");
    let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
    for (who, namespace) in [("outside", &uplink.outside), ("node", &node.namespace), ("pod", &client.namespace)] {
        for address in ["192.0.2.1:30080", "203.0.113.1:80"] {
            assert_eq!(call_tcp(namespace, at(address)).unwrap(), masqueraded, "{who} to {address}");
        }
        assert_eq!(call_udp(namespace, at("192.0.2.1:30081")).unwrap(), masqueraded, "{who}");
    }
    assert_eq!(call_tcp(&node.namespace, at("127.0.0.1:30080")).unwrap(), masqueraded, "over loopback");
    assert_eq!(call_tcp(&node.namespace, SocketAddr::new(gateway, 30080)).unwrap(), masqueraded);
    assert_eq!(call_tcp(&client.namespace, SocketAddr::new(gateway, 30080)).unwrap(), masqueraded);
    assert_eq!(call_tcp(&a.namespace, SocketAddr::new(gateway, 30080)).unwrap(), masqueraded, "a pod to itself");
    assert_eq!(
        kernel_of(&node).apply(&exposed_rules(&node, exposed(), vec![on("node", a.address)])).unwrap().changes,
        0
    );
    kernel.apply(&exposed_rules(&node, exposed(), vec![])).unwrap();
    for (who, namespace) in [("outside", &uplink.outside), ("node", &node.namespace), ("pod", &client.namespace)] {
        for address in ["192.0.2.1:30080", "203.0.113.1:80"] {
            let refused = call_tcp(namespace, at(address)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{who} to {address}");
        }
    }
    assert_eq!(kernel_of(&node).apply(&exposed_rules(&node, exposed(), vec![])).unwrap().changes, 0);
}

#[tokio::test]
async fn local_endpoints_see_clients_from_outside_and_remote_ones_are_not_theirs() {
    let node = TestNode::start().await;
    let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    b.serve_tcp(3000, "b");
    let uplink = Uplink::of(&node);
    let mut kernel = kernel_of(&node);
    let view = ServiceView { external_local: true, ..exposed() };
    // The pod b plays one of another node.
    let endpoints = vec![on("node", a.address), on("other", b.address)];
    kernel.apply(&exposed_rules(&node, view.clone(), endpoints.clone())).unwrap();
    let port: SocketAddr = "192.0.2.1:30080".parse().unwrap();
    for _ in 0..10 {
        assert_eq!(call_tcp(&uplink.outside, port).unwrap(), "a 192.0.2.2", "the client's own address");
    }
    let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
    assert_eq!(servers(&client.namespace, port), both, "pods are served by all");
    assert_eq!(servers(&node.namespace, port), both, "and so is the node");
    assert!(call_tcp(&client.namespace, port).unwrap().ends_with(&client.address.to_string()));
    assert_eq!(kernel_of(&node).apply(&exposed_rules(&node, view.clone(), endpoints)).unwrap().changes, 0);
    kernel.apply(&exposed_rules(&node, view, vec![on("other", b.address)])).unwrap();
    let quick = std::time::Duration::from_millis(200);
    let dropped = uplink.outside.run(|| std::net::TcpStream::connect_timeout(&port, quick)).unwrap_err();
    assert_eq!(dropped.kind(), ErrorKind::TimedOut, "dropped without an answer");
    assert_eq!(servers(&client.namespace, port), ["b".to_owned()].into());
}

#[tokio::test]
async fn internal_traffic_stays_on_the_node_when_asked() {
    let node = TestNode::start().await;
    let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    b.serve_tcp(3000, "b");
    let mut kernel = kernel_of(&node);
    let view = ServiceView { local_only: true, ..service("web", "10.96.0.10") };
    kernel.apply(&exposed_rules(&node, view.clone(), vec![on("node", a.address), on("other", b.address)])).unwrap();
    assert_eq!(servers(&client.namespace, web_address()), ["a".to_owned()].into());
    kernel.apply(&exposed_rules(&node, view, vec![on("other", b.address)])).unwrap();
    let quick = std::time::Duration::from_millis(200);
    let dropped = client.namespace.run(|| std::net::TcpStream::connect_timeout(&web_address(), quick)).unwrap_err();
    assert_eq!(dropped.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn clients_stay_with_their_endpoint_until_it_goes_or_they_were_long_away() {
    let node = TestNode::start().await;
    let pods = [node.pod("a").await, node.pod("b").await, node.pod("c").await];
    let client = node.pod("client").await;
    for (pod, name) in pods.iter().zip(["a", "b", "c"]) {
        pod.serve_tcp(3000, name);
    }
    let mut kernel = kernel_of(&node);
    let view = ServiceView { affinity_seconds: 1, ..exposed() };
    let all = |skip: Option<&str>| -> Vec<EndpointView> {
        let chosen = pods.iter().zip(["a", "b", "c"]).filter(|(_, name)| Some(*name) != skip);
        chosen.map(|(pod, _)| on("node", pod.address)).collect()
    };
    kernel.apply(&exposed_rules(&node, view.clone(), all(None))).unwrap();
    let first = servers(&client.namespace, web_address());
    assert_eq!(first.len(), 1, "{first:?}");
    let name = first.first().unwrap().clone();
    kernel.apply(&exposed_rules(&node, view.clone(), all(Some(&name)))).unwrap();
    let second = servers(&client.namespace, web_address());
    assert!(second.len() == 1 && second != first, "{second:?}");
    kernel.apply(&exposed_rules(&node, view.clone(), all(None))).unwrap();
    assert_eq!(servers(&client.namespace, web_address()), second, "kept through changes of others");
    assert_eq!(kernel_of(&node).apply(&exposed_rules(&node, view, all(None))).unwrap().changes, 0);
    // Each round rests for longer than clients are remembered: in twenty of them a client that was not forgotten would have
    // seen one server only.
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        stdx::sleep(std::time::Duration::from_millis(1100)).await;
        seen.insert(call_tcp(&client.namespace, web_address()).unwrap().split(' ').next().unwrap().to_owned());
        if seen.len() > 1 {
            return;
        }
    }
    panic!("never forgotten: {seen:?}");
}

#[tokio::test]
async fn conversations_of_udp_leave_an_endpoint_that_goes_and_find_the_first_that_comes() {
    let node = TestNode::start().await;
    let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
    a.serve_udp(3000, "a");
    b.serve_udp(3000, "b");
    let mut kernel = kernel_of(&node);
    let socket = client.namespace.run(|| std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let ask = || -> std::io::Result<String> {
        socket.send_to(b"?", web_address())?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned())
    };
    kernel.apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    assert_eq!(ask().unwrap(), "a");
    kernel.apply(&rule_set(&web(&[a.address, b.address]), &node.facts())).unwrap();
    assert_eq!(ask().unwrap(), "a", "a conversation stays where it is");
    let applied = kernel.apply(&rule_set(&web(&[b.address]), &node.facts())).unwrap();
    assert_eq!(applied.conversations, 1);
    assert_eq!(ask().unwrap(), "b", "the endpoint is gone");
    let other = kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    assert_eq!(other.conversations, 1, "also by a process that was not there before");
    assert_eq!(ask().unwrap(), "a");
}

#[tokio::test]
async fn a_balancers_address_is_for_its_ranges_only() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let uplink = Uplink::of(&node);
    uplink.lead("203.0.113.9/32");
    let mut kernel = kernel_of(&node);
    let address: SocketAddr = "203.0.113.9:80".parse().unwrap();
    let quick = std::time::Duration::from_millis(200);
    for (range, admitted) in [("192.0.2.0/24", true), ("198.51.100.0/24", false), ("0.0.0.0/0", true)] {
        let view = ServiceView {
            kind: ServiceType::LoadBalancer,
            balancer_ips: vec![address.ip()],
            source_ranges: vec![range.parse().unwrap()],
            ..service("web", "10.96.0.10")
        };
        let rules = exposed_rules(&node, view, vec![on("node", a.address)]);
        kernel.apply(&rules).unwrap();
        let outcome = uplink.outside.run(|| std::net::TcpStream::connect_timeout(&address, quick));
        assert_eq!(outcome.is_ok(), admitted, "{range}");
        assert_eq!(kernel_of(&node).apply(&rules).unwrap().changes, 0);
    }
}

#[tokio::test]
async fn a_client_beside_the_cluster_gets_its_answers_over_the_node() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let uplink = Uplink::of(&node);
    uplink.lead("10.96.0.0/12");
    kernel_of(&node).apply(&rule_set(&web(&[a.address]), &node.facts())).unwrap();
    assert_eq!(call_tcp(&uplink.outside, web_address()).unwrap(), format!("a {}", node.network.gateway()));
}

#[test]
fn hints_are_followed_only_where_every_endpoint_has_one_and_somebody_is_meant() {
    let hinted = |address: &str, zones: &[&str], nodes: &[&str]| EndpointView {
        for_zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        for_nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        ..endpoint(address)
    };
    let check = |zone: &str, endpoints: Vec<EndpointView>, expected: &[&str]| {
        let state = NetState::new([service("web", "10.96.0.10")], [slice("web", endpoints)]).within([], zone);
        let rules = rule_set(&state, &NodeFacts { node_name: "node".into(), ..NodeFacts::default() });
        let choice = &rules.targets.values().next().unwrap().choice;
        let texts: Vec<String> = choice.backends.iter().map(|(address, _)| address.to_string()).collect();
        assert_eq!(texts, expected);
    };
    let zoned = || vec![hinted("10.0.0.2", &["x"], &[]), hinted("10.0.0.3", &["y"], &[])];
    check("x", zoned(), &["10.0.0.2"]);
    check("y", zoned(), &["10.0.0.3"]);
    check("z", zoned(), &["10.0.0.2", "10.0.0.3"]);
    check("", zoned(), &["10.0.0.2", "10.0.0.3"]);
    check("x", [zoned(), vec![endpoint("10.0.0.4")]].concat(), &["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    let noded = || vec![hinted("10.0.0.2", &["x"], &["other"]), hinted("10.0.0.3", &["x"], &["node"])];
    check("x", noded(), &["10.0.0.3"]);
    check("x", vec![hinted("10.0.0.2", &["x"], &["other"]), hinted("10.0.0.3", &["y"], &["third"])], &["10.0.0.2"]);
}

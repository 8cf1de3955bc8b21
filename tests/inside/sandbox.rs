//! Names, addresses, ports, and what a pod may use as a whole.

use std::net::{SocketAddr, TcpStream, UdpSocket};

use serde_json::{Value, json};

use super::{Case, apply, case, check, event, pod};
use crate::clock::until;
use crate::cluster::Cluster;
use crate::load::request;

fn of_resolvers() -> Vec<Case> {
    let config = json!({"nameservers": ["192.0.2.1"], "searches": ["more.test"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    let script = "cat /etc/resolv.conf";
    let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local example.test";
    let dns = "nameserver 10.96.0.10";
    let asks = |name, says: &[&str], spec: Value| case(name, script, says).spec(spec);
    let of_node = ["search example.test", "nameserver 192.0.2.53", "options timeout:3"];
    vec![
        asks("default", &of_node, json!({"dnsPolicy": "Default"})),
        asks("cluster", &[cluster, dns, "options ndots:5"], json!({"dnsPolicy": "ClusterFirst"})),
        asks("cluster-host", &of_node, json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})),
        asks(
            "host-cluster",
            &[cluster, dns, "options ndots:5"],
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
        ),
        asks(
            "own",
            &["search more.test", "nameserver 192.0.2.1", "options ndots:2 edns0"],
            json!({"dnsPolicy": "None", "dnsConfig": config}),
        ),
        asks(
            "both",
            &[&format!("{cluster} more.test"), dns, "nameserver 192.0.2.1", "options ndots:2 edns0"],
            json!({"dnsConfig": config}),
        ),
        // More than a resolver reads is left out, and told.
        asks(
            "many",
            &[cluster, dns, "nameserver 192.0.2.1", "nameserver 192.0.2.2", "options ndots:5"],
            json!({"dnsConfig": {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}}),
        ),
    ]
}

fn of_names() -> Vec<Case> {
    let names = "hostname; grep -v ^# /etc/hosts | tail -n 1 | cut -f2-";
    let alias = json!([{"ip": "192.0.2.9", "hostnames": ["friend", "pal"]}]);
    vec![
        case("plain", names, &["plain", "plain"]),
        case("called", names, &["web", "web"]).spec(json!({"hostname": "web"})),
        case("below", names, &["web", "web.sub.default.svc.cluster.local\tweb"])
            .spec(json!({"hostname": "web", "subdomain": "sub"})),
        case("full", "hostname", &["full.sub.default.svc.cluster.local"])
            .spec(json!({"subdomain": "sub", "setHostnameAsFQDN": true})),
        case("override", names, &["any.name.test", "any.name.test"]).spec(json!({"hostnameOverride": "any.name.test"})),
        case("aliased", "tail -n 1 /etc/hosts", &["192.0.2.9\tfriend\tpal"]).spec(json!({"hostAliases": alias})),
        case("tuned", "cat /proc/sys/net/ipv4/tcp_fin_timeout /proc/sys/kernel/shm_rmid_forced", &["17", "1"])
            .spec(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "17"},
                {"name": "kernel.shm_rmid_forced", "value": "1"}]}})),
    ]
}

/// Limits, as the container's own group holds them.
fn of_limits() -> Vec<Case> {
    let file =
        |one: &str, two: &str| format!("cat /sys/fs/cgroup/{one} 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/{two}");
    let quota = file("cpu/cpu.cfs_quota_us", "cpu.max");
    let memory = file("memory/memory.limit_in_bytes", "memory.max");
    let of = |resources: Value| json!({"resources": resources});
    vec![
        case("limited", &format!("{quota}; {memory}"), &["25000", "50331648"])
            .container(of(json!({"limits": {"cpu": "250m", "memory": "48Mi"}}))),
        case(
            "shares",
            "cat /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || sed s/^20$/512/ /sys/fs/cgroup/cpu.weight",
            &["512"],
        )
        .container(of(json!({"requests": {"cpu": "500m"}}))),
    ]
}

#[test]
fn names_resolvers_and_limits_are_as_the_pod_says() {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster
        .machine
        .shell("printf 'nameserver 192.0.2.53\\nsearch example.test\\noptions timeout:3\\n' >/etc/resolv.conf");
    cluster.up(&[]);
    cluster.node_is_ready();
    let cases = [of_resolvers(), of_names(), of_limits()];
    check(&cluster, &cases.into_iter().flatten().collect::<Vec<_>>());
    let told = event(&cluster, "many", "DNSConfigForming");
    let line = "10.96.0.10 192.0.2.1 192.0.2.2";
    assert_eq!(
        told,
        format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
        )
    );
}

#[test]
fn ports_and_whole_pods_are_as_the_pod_says() {
    let cluster = Cluster::start();
    ports(&cluster);
    wholes(&cluster);
}

/// Ports of the node lead to pods by protocol and address.
fn ports(cluster: &Cluster) {
    let serve = "mkdir -p /tmp/www; hostname >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    let port = |name: &str, number: u16, host: u16, protocol: &str, address: &str| json!({"name": name, "containerPort": number, "hostPort": host, "protocol": protocol, "hostIP": address});
    let open = json!({"ports": [port("web", 8080, 8088, "TCP", ""), port("datagrams", 8081, 8089, "UDP", "")]});
    let private = json!({"ports": [port("web", 8080, 8090, "TCP", "127.0.0.1")]});
    apply(cluster, &[pod("open", serve, json!({}), open), pod("private", serve, json!({}), private)]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/open", "pod/private", "--timeout=30s"]);
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"]);
    let page = |address: &str, port: u16| {
        let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
        until("the port answers", || request(address, "GET", "/").ok()).trim().to_owned()
    };
    assert_eq!((page(&node, 8088), page("127.0.0.1", 8088)), ("open".to_owned(), "open".to_owned()));
    assert_eq!(page("127.0.0.1", 8090), "private");
    assert!(TcpStream::connect(format!("{node}:8090")).is_err(), "it is open at one address only");
    // Nobody listens there, and the pod's kernel counts that.
    let arrived = || {
        cluster.kubectl(&["exec", "open", "--", "sh", "-c", "grep ^Udp: /proc/net/snmp | tail -n 1 | cut -d' ' -f3"])
    };
    assert_eq!(arrived().trim(), "0");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    until("datagrams arrive", || {
        socket.send_to(b"datagram", format!("{node}:8089")).ok()?;
        (arrived().trim() != "0").then_some(())
    });
    cluster.kubectl(&["delete", "pods", "open", "private", "--grace-period=0", "--force"]);
}

/// What all containers of a pod may use together, with what its class adds.
fn wholes(cluster: &Cluster) {
    let handler = if cluster.containerd.is_some() { "runc" } else { "isopod" };
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "heavy"},
        "handler": handler, "overhead": {"podFixed": {"cpu": "100m", "memory": "16Mi"}}});
    let limits = json!({"limits": {"cpu": "200m", "memory": "64Mi"}});
    let nowhere = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nowhere"}, "handler": "nobody"});
    apply(cluster, &[class, nowhere]);
    let whole = pod("whole", "sleep 1000", json!({"resources": limits}), json!({}));
    let heavy = pod("heavy", "sleep 1000", json!({"runtimeClassName": "heavy"}), json!({"resources": limits}));
    let odd = pod("odd", "sleep 1000", json!({"runtimeClassName": "nowhere"}), json!({}));
    apply(cluster, &[whole, heavy, odd]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/whole", "pod/heavy", "--timeout=30s"]);
    let group = |name: &str| {
        let uid = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"]);
        let file = |one: &str, two: &str| {
            let line = format!(
                "cat $(find /sys/fs/cgroup -path '*pod{uid}/{one}') 2>/dev/null || cut -d' ' -f1 $(find /sys/fs/cgroup -path '*pod{uid}/{two}')"
            );
            cluster.machine.shell(&line).trim().to_owned()
        };
        [file("cpu.cfs_quota_us", "cpu.max"), file("memory.limit_in_bytes", "memory.max")]
    };
    assert_eq!(group("whole"), ["20000".to_owned(), (64 << 20).to_string()]);
    assert_eq!(group("heavy"), ["30000".to_owned(), (80 << 20).to_string()]);
    assert_eq!(cluster.get(&["pod", "heavy"])["spec"]["overhead"], json!({"cpu": "100m", "memory": "16Mi"}));
    let why = event(cluster, "odd", "FailedCreatePodSandBox");
    assert!(why.contains("nobody"), "{why}");
}

//! Services of every type, reached from the node, from a pod, by port of the node and by name.

use std::net::SocketAddr;
use std::time::Duration;

use crate::clock::{pause, until, within};
use crate::cluster::Cluster;
use crate::load::{request, resolve};

/// The address of the DNS Service.
const DNS: &str = "10.96.0.10:53";

/// How the cluster is started: with a resolver that is not there, and content with little room, since the disk is that of the
/// machine on which the test runs.
const UP: [&str; 4] = ["--dns-upstream", "127.0.0.1:5399", "--eviction-hard", "nodefs.available<1%"];

/// A pod that tells its name on port 8080, with or without a port of the node.
fn server(name: &str, labels: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{{labels}}}}},"spec":{{
        "terminationGracePeriodSeconds":1,"hostname":"{name}","containers":[{{"name":"web","image":"busybox:test",
        "command":["sh","-c","mkdir -p /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"],
        "readinessProbe":{{"httpGet":{{"path":"/","port":8080}},"periodSeconds":1}},
        "ports":[{{"containerPort":8080,"name":"http"{more}}}]}}]}}}}"#
    )
}

/// A Service of the pods labelled `app=web`.
fn service(name: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{{spec}
        "selector":{{"app":"web"}},"ports":[{{"name":"http","port":80,"targetPort":"http"}}]}}}}"#
    )
}

fn started() -> Cluster {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster.up(&UP);
    cluster.node_is_ready();
    cluster.apply(&server("one", r#""app":"web""#, r#","hostPort":8088"#));
    cluster.apply(&server("client", r#""app":"client""#, ""));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s"]);
    cluster
}

/// What the pod `client` gets from `url`.
fn from_pod(cluster: &Cluster, url: &str) -> String {
    let ran = cluster.try_kubectl(&["exec", "client", "--", "wget", "-qO-", url]);
    format!("{}{}", ran.stdout, ran.stderr).trim().to_owned()
}

/// What the node gets.
fn from_node(address: &str) -> String {
    let address: SocketAddr = address.parse().expect("an address");
    request(address, "GET", "/").map_or_else(|error| error.to_string(), |body| body.trim().to_owned())
}

fn field(cluster: &Cluster, name: &str, path: &str) -> String {
    cluster.kubectl(&["get", "service", name, "-o", &format!("jsonpath={{{path}}}")])
}

#[test]
pub fn every_type_of_service_is_reached_from_everywhere_it_promises() {
    let cluster = started();
    for (name, spec) in [
        ("internal", ""),
        ("exposed", r#""type":"NodePort","#),
        ("local", r#""type":"NodePort","externalTrafficPolicy":"Local","internalTrafficPolicy":"Local","#),
        ("headless", r#""clusterIP":"None","#),
        ("outside", r#""externalIPs":["203.0.113.7"],"#),
        ("sticky", r#""sessionAffinity":"ClientIP","#),
        ("balanced", r#""type":"LoadBalancer","externalTrafficPolicy":"Local","#),
    ] {
        cluster.apply(&service(name, spec));
    }
    cluster.kubectl(&[
        "create",
        "service",
        "externalname",
        "alias",
        "--external-name=internal.default.svc.cluster.local",
    ]);
    let ingress = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.8"}]}}}"#;
    cluster.kubectl(&["patch", "service", "balanced", "--subresource=status", "--type=merge", "-p", ingress]);
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"]);
    until("the Services have their endpoints", || (from_pod(&cluster, "http://balanced") == "one").then_some(()));

    for name in ["internal", "exposed", "local", "sticky", "balanced", "alias"] {
        assert_eq!(from_pod(&cluster, &format!("http://{name}")), "one", "{name} by name");
    }
    for name in ["headless", "one.headless.default.svc.cluster.local"] {
        let got = from_pod(&cluster, &format!("http://{name}:8080"));
        // The pod has a host name and no subdomain, so that it is named by its address only.
        assert_eq!(got == "one", name == "headless", "{name}: {got}");
    }
    for name in ["internal", "exposed", "local", "sticky", "balanced", "outside"] {
        assert_eq!(
            from_node(&format!("{}:80", field(&cluster, name, ".spec.clusterIP"))),
            "one",
            "{name} from the node"
        );
    }
    for name in ["exposed", "local", "balanced"] {
        let port = field(&cluster, name, ".spec.ports[0].nodePort");
        for address in [&node[..], "127.0.0.1"] {
            assert_eq!(from_node(&format!("{address}:{port}")), "one", "{name} at {address}:{port}");
        }
        assert_eq!(from_pod(&cluster, &format!("http://{node}:{port}")), "one", "{name} from a pod by the node's port");
    }
    for address in ["203.0.113.7", "203.0.113.8"] {
        assert_eq!(from_pod(&cluster, &format!("http://{address}")), "one", "{address}");
    }
    assert_eq!(from_node(&format!("{node}:8088")), "one", "hostPort");
    assert_eq!(from_pod(&cluster, &format!("http://{node}:8088")), "one", "hostPort from a pod");

    let health = format!("127.0.0.1:{}", field(&cluster, "balanced", ".spec.healthCheckNodePort"));
    assert!(from_node(&health).contains("\"localEndpoints\": 1"));
    let metrics =
        request(format!("{node}:9153").parse().expect("an address"), "GET", "/metrics").expect("counts are told");
    assert!(metrics.contains(r#"coredns_dns_requests_total{family="1",proto="udp""#), "{metrics}");

    cluster.kubectl(&["delete", "pod", "one"]);
    let port = field(&cluster, "exposed", ".spec.ports[0].nodePort");
    until("a port without endpoints refuses", || {
        from_node(&format!("{node}:{port}")).contains("refused").then_some(())
    });
    until("the health port says so", || request(health.parse().ok()?, "GET", "/").is_err().then_some(()));
    assert!(from_node(&format!("{node}:8088")).contains("refused"), "the pod's port went with it");
}

#[test]
fn endpoints_written_by_hand_are_mirrored_and_led_to() {
    let cluster = started();
    cluster
        .apply(r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"manual"},"spec":{"ports":[{"port":80}]}}"#);
    let address = cluster.kubectl(&["get", "pod", "one", "-o", "jsonpath={.status.podIP}"]);
    cluster.apply(&format!(
        r#"{{"apiVersion":"v1","kind":"Endpoints","metadata":{{"name":"manual"}},
        "subsets":[{{"addresses":[{{"ip":"{address}"}}],"ports":[{{"port":8080}}]}}]}}"#
    ));
    until("the Service leads to the pod", || (from_pod(&cluster, "http://manual") == "one").then_some(()));
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=manual"]);
    let labels = &slices["items"][0]["metadata"]["labels"];
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslicemirroring-controller.k8s.io");
    cluster.kubectl(&["delete", "endpoints", "manual"]);
    until("the slice goes with its Endpoints", || {
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=manual"]);
        slices["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn the_data_plane_comes_back_by_itself_while_control_plane_and_agent_are_dead() {
    let mut cluster = started();
    cluster.apply(&service("internal", ""));
    let dns: SocketAddr = DNS.parse().expect("an address");
    let name = "internal.default.svc.cluster.local";
    let address = until("the name resolves", || resolve(dns, name).ok());
    // What was told last is on disk within a second.
    pause(Duration::from_millis(1500));
    cluster.kill();
    for file in ["dataplane.pid", "dataplane-watch.pid", "dataplane.pid"] {
        let before = cluster.machine.shell(&format!("cat /run/isopod*/{file}"));
        cluster.machine.shell(&format!("kill -9 {before}"));
        within(Duration::from_secs(1), "the process is there again", || {
            let now = cluster.machine.shell(&format!("cat /run/isopod*/{file}"));
            (now != before && resolve(dns, name).ok() == Some(address)).then_some(())
        });
    }
    assert_eq!(from_node(&format!("{address}:80")), "one", "and packets go on");
    cluster.up(&UP);
    cluster.node_is_ready();
    assert_eq!(resolve(dns, name).expect("it still resolves"), address);
    cluster.interrupt();
    let down = crate::cluster::ran(&mut cluster.isopod(&["down"]));
    assert_eq!(down.code, Some(0), "{}", down.stderr);
    let left = cluster.machine.shell("for folder in /proc/[0-9]*; do tr '\\0' ' ' <$folder/cmdline; echo; done | grep -c '[d]ataplane --socket' || true");
    assert_eq!(left.trim(), "0", "neither of the two is left");
}

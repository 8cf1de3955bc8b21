//! Show 1: the example on a machine that has nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::clock::until;
use crate::cluster::Cluster;
use crate::load::{Aim, Connections, requests};
use crate::machine::{Machine, source};
use crate::runtime::Containerd;

/// The cluster's DNS.
pub const DNS: &str = "10.96.0.10:53";

/// The address of a Service.
pub fn service_address(cluster: &Cluster, namespace: &str, name: &str) -> SocketAddr {
    let service = cluster.get(&["service", name, "-n", namespace]);
    let address = service["spec"]["clusterIP"].as_str().expect("a Service has an address");
    format!("{address}:80").parse().expect("the server gives addresses")
}

pub fn example_options() -> [String; 6] {
    let file = |name: &str| source("../examples").join(name).display().to_string();
    ["-n".into(), "production".into(), "-f".into(), file("namespace.yaml"), "-f".into(), file("deployment.yaml")]
}

/// The cluster with the example on it, and what `up` said.
fn with_example(environment: &[(&str, &str)], clear: bool) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_EXAMPLE_IMAGE");
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    let mut command = cluster.machine.command("up", &crate::cluster::named("ISOPOD_BINARY"));
    if clear {
        command.env_clear();
    }
    command.envs(environment.iter().copied());
    let options = example_options();
    cluster.start_up(command, &options.each_ref().map(String::as_str));
    let said = cluster.wait_for("service/api: answers at http://");
    (cluster, said)
}

/// Thirty requests on new connections reach all three pods and nothing else.
pub fn all_three_answer(cluster: &Cluster, aim: &Aim) {
    let pods = cluster.get(&["pods", "-n", "production", "-l", "app=api"]);
    let pods: Vec<&str> =
        pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    let tally = requests(30, aim, Connections::New);
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    let wanted: BTreeMap<&str, bool> = pods.iter().map(|name| (*name, true)).collect();
    let found: BTreeMap<&str, bool> = tally.answers.keys().map(|name| (name.as_str(), true)).collect();
    assert_eq!(found, wanted);
    assert_eq!(wanted.len(), 3);
}

#[test]
fn thirty_requests_are_answered_by_all_three_pods_and_no_other() {
    let (cluster, said) = with_example(&[], false);
    assert!(said.iter().any(|line| line.starts_with("export KUBECONFIG=")), "{said:#?}");
    let address = service_address(&cluster, "production", "api");
    assert!(said.last().is_some_and(|line| line.contains(&format!("http://{}", address.ip()))), "{said:#?}");
    all_three_answer(&cluster, &Aim::Address(address));
    let name = "api.production.svc.cluster.local".to_owned();
    all_three_answer(&cluster, &Aim::Name { dns: DNS.parse().unwrap(), name, port: 80 });
    cluster.kubectl(&["apply", "-n", "production", "-f", "shell.yaml"]);
    cluster.kubectl(&["wait", "-n", "production", "--for=condition=Ready", "pod/shell", "--timeout=30s"]);
    let inside = "for name in api api.production api.production.svc.cluster.local; do \
                  for n in 1 2 3 4 5 6 7 8 9 10; do wget -qO- http://$name; done; done | sort -u | wc -l";
    assert_eq!(cluster.kubectl(&["exec", "-n", "production", "shell", "--", "sh", "-c", inside]).trim(), "3");
    // A pod that asks its own Service may get itself: the way back has to be right.
    let hairpin = "for n in 1 2 3 4 5 6 7 8 9; do wget -qO- http://api.production.svc; done | sort -u | wc -l";
    assert_eq!(cluster.kubectl(&["exec", "-n", "production", "shell", "--", "sh", "-c", hairpin]).trim(), "3");
    let objects =
        ["namespace/production", "configmap/api-config", "secret/api-secrets", "deployment/api", "service/api"];
    let revision = "jsonpath={.metadata.resourceVersion}";
    let revisions = || objects.map(|object| cluster.kubectl(&["get", "-n", "production", object, "-o", revision]));
    let before = revisions();
    let files = example_options();
    let again = cluster.kubectl(&[&["apply"], &files.each_ref().map(String::as_str)[..]].concat());
    assert!(again.contains("deployment.apps/api unchanged") && again.contains("service/api unchanged"), "{again}");
    assert_eq!(revisions(), before, "kubectl apply of the same files changes something: {again}");
}

#[test]
fn no_other_program_is_run() {
    let (cluster, _) = with_example(&[("PATH", "")], true);
    all_three_answer(&cluster, &Aim::Address(service_address(&cluster, "production", "api")));
}

#[test]
fn without_a_namespace_the_service_stays_in_default_and_up_says_so() {
    let mut cluster = Cluster::absent();
    cluster.load("ISOPOD_EXAMPLE_IMAGE");
    let files = example_options();
    let command = cluster.machine.command("up", &crate::cluster::named("ISOPOD_BINARY"));
    let mut options: Vec<&str> = files[2..].iter().map(String::as_str).collect();
    options.push("--wait-timeout=20");
    cluster.start_up(command, &options);
    cluster.wait_for("did you mean -n production?");
    let service = cluster.get(&["service", "api", "-n", "default"]);
    assert_eq!(service["spec"]["selector"]["app"], "api");
    let slices = cluster.get(&["endpointslices", "-n", "default", "-l", "kubernetes.io/service-name=api"]);
    let endpoints = slices["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    assert_eq!(endpoints.count(), 0);
    let (code, said) = cluster.ended();
    assert_eq!(code, Some(1), "{said:#?}");
    assert!(cluster.log().contains("no endpoints"), "{}", cluster.log());
}

#[test]
fn an_interrupted_cluster_goes_on_without_control_plane_and_is_adopted() {
    let (mut cluster, _) = with_example(&[], false);
    let address = service_address(&cluster, "production", "api");
    let before = cluster.get(&["pods", "-n", "production"]);
    let said = cluster.interrupt();
    assert!(said.iter().any(|line| line.contains("containers and routing go on")), "{said:#?}");
    let tally = requests(30, &Aim::Address(address), Connections::New);
    assert!(tally.failures.is_empty() && tally.answers.len() == 3, "{tally:#?}");
    cluster.up(&[]);
    cluster.node_is_ready();
    let after = cluster.get(&["pods", "-n", "production"]);
    let containers = |pods: &serde_json::Value| -> Vec<String> {
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|pod| pod["status"]["containerStatuses"].to_string()).collect()
    };
    assert_eq!(containers(&before), containers(&after));
}

#[test]
fn a_second_up_on_the_same_data_is_refused_with_the_pid() {
    let cluster = Cluster::start();
    let second = crate::cluster::ran(&mut cluster.isopod(&["up", "--port", "7443"]));
    let pid = std::fs::read_to_string(cluster.machine.folder.join("up.pid")).unwrap();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains(&format!("process {}", pid.trim())), "{}", second.stderr);
}

#[test]
fn down_removes_what_runs_and_purge_what_is_kept() {
    let keys = "ls -d /etc/isopod* 2>/dev/null || true";
    let keys_before = Machine::start().shell(keys);
    let (mut cluster, _) = with_example(&[], false);
    cluster.kill();
    let down = crate::cluster::ran(&mut cluster.isopod(&["down"]));
    assert_eq!(down.code, Some(0), "{}", down.stderr);
    let left = cluster.machine.shell("ls /proc/*/exe | xargs -n1 readlink | grep -v -e /usr/bin -e /bin/ | sort -u; ip -o link | grep -v ': lo:'; ls /run; ip netns list; true");
    // What another runtime has there for itself.
    let of_runtime = if cluster.containerd.is_some() { "containerd\nnetns" } else { "" };
    assert_eq!(left.trim(), of_runtime, "left after down");
    let rules = cluster.machine.shell("nft list ruleset");
    assert_eq!(rules.trim(), "", "rules left after down");
    assert!(cluster.data().exists(), "down keeps the data");
    cluster.up(&[]);
    cluster.node_is_ready();
    cluster.kubectl(&["wait", "-n", "production", "--for=condition=Available", "deployment/api", "--timeout=60s"]);
    let down = crate::cluster::ran(&mut cluster.isopod(&["down", "--purge"]));
    assert_eq!(down.code, Some(0), "{}", down.stderr);
    assert!(!cluster.data().exists());
    assert_eq!(cluster.machine.shell(keys), keys_before, "keys left after purge");
    cluster.ended();
}

#[test]
pub fn after_a_reboot_everything_comes_back() {
    let (mut cluster, _) = with_example(&[], false);
    let folder = cluster.machine.folder.clone();
    cluster.kill();
    // What a reboot does: every process ends, what is mounted and what is in /run is gone, and so is the network.
    cluster.machine.shell(
        "kill -9 $(ls /proc | grep -E '^[0-9]+$' | grep -v -x -e 1 -e $$) 2>/dev/null; \
         while grep -qa '^/api' /proc/[0-9]*/cmdline; do sleep 0.1; done; \
         awk 'index($2, \"/isopod-e2e-\") { print $2 }' /proc/self/mounts | sort -r | xargs -r -n1 umount -l; \
         umount -l /run; mount -t tmpfs tmpfs /run; \
         for link in $(ip -o link | cut -d: -f2 | cut -d@ -f1 | grep -v -x ' lo'); do ip link del $link 2>/dev/null; done; \
         nft flush ruleset; test \"$(ip -o link | wc -l)\" = 1",
    );
    assert!(folder.join("data").exists());
    cluster.runtime(Containerd::start_again);
    cluster.up(&[]);
    cluster.node_is_ready();
    until("the pods are ready again", || {
        let deployment = cluster.get(&["deployment", "api", "-n", "production"]);
        (deployment["status"]["readyReplicas"] == 3).then_some(())
    });
    let address = service_address(&cluster, "production", "api");
    let tally = until("the Service answers", || {
        let tally = requests(30, &Aim::Address(address), Connections::New);
        tally.failures.is_empty().then_some(tally)
    });
    assert_eq!(tally.answers.len(), 3, "{tally:#?}");
}

//! Show 6: control plane and agent killed without warning, again and again, under load.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::clock::{pause, until, within};
use crate::cluster::{Cluster, kubectls, ran};
use crate::example::{DNS, service_address};
use crate::load::{Aim, Connections, Load, resolve};
use crate::script;

/// How often control plane and agent are killed.
const KILLS: usize = 20;

/// What must be the same through every kill: container ids, when they started, how often they were restarted.
fn containers(cluster: &Cluster, selector: &str) -> BTreeMap<String, String> {
    let pods = cluster.get(&["pods", "-l", selector]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let of = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let facts = [
            &status["containerID"],
            &status["restartCount"],
            &status["state"]["running"]["startedAt"],
            &pod["status"]["podIP"],
        ];
        facts.map(ToString::to_string).join(" ")
    };
    pods.iter().map(|pod| (pod["metadata"]["name"].to_string(), of(pod))).collect()
}

/// Process ids and start times of the example's servers and of the data plane, and the network namespaces, as the kernel tells.
fn processes(cluster: &Cluster, program: &str) -> String {
    cluster.machine.shell(&format!(
        "for folder in /proc/[0-9]*; do \
         if grep -qa '^{program}' $folder/cmdline 2>/dev/null; then \
         echo ${{folder#/proc/}} $(cut -d')' -f2 $folder/stat | cut -d' ' -f21) $(readlink $folder/ns/net); fi; done | sort"
    ))
}

fn aims(cluster: &Cluster) -> Vec<(Aim, Connections)> {
    let address = Aim::Address(service_address(cluster, "default", "web"));
    let name =
        Aim::Name { dns: DNS.parse().expect("an address"), name: "web.default.svc.cluster.local".into(), port: 80 };
    vec![(address.clone(), Connections::New), (address, Connections::Kept), (name, Connections::New)]
}

fn started() -> Cluster {
    let cluster = Cluster::start();
    cluster.apply(include_str!("files/rolling.yaml"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster
}

#[test]
fn twenty_kills_under_load_fail_no_request_lose_no_write_and_touch_no_container() {
    let mut cluster = started();
    let load = Load::start(&aims(&cluster));
    let (before, before_processes) = (containers(&cluster, "app=web"), processes(&cluster, "/api"));
    assert_eq!(before_processes.lines().count(), 4, "{before_processes}");
    let rules = cluster.machine.shell("nft list ruleset");
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        for number in 0..5 {
            let name = format!("write-{round}-{number}");
            cluster.kubectl(&["create", "configmap", &name, &format!("--from-literal=round={round}")]);
            acknowledged.push(name);
        }
        cluster.kill();
        cluster.up(&[]);
    }
    let read = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in &acknowledged {
        assert!(read.lines().any(|line| line == format!("configmap/{name}")), "{name} was acknowledged and is lost");
    }
    cluster.node_is_ready();
    load.end_without_failures();
    assert_eq!(containers(&cluster, "app=web"), before);
    assert_eq!(processes(&cluster, "/api"), before_processes);
    assert_eq!(cluster.machine.shell("nft list ruleset"), rules);
    cluster.kubectl(&["scale", "deployment", "web", "--replicas=5"]);
    cluster.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=5", "deployment/web", "--timeout=30s"]);
}

#[test]
fn a_kill_inside_a_pod_start_and_one_inside_a_pod_stop_are_made_good() {
    let mut cluster = started();
    let load = Load::start(&aims(&cluster));
    for delay in [20, 60, 120] {
        cluster.kubectl(&["scale", "deployment", "web", "--replicas=6"]);
        pause(std::time::Duration::from_millis(delay));
        cluster.kill();
        cluster.up(&[]);
        cluster.kubectl(&["wait", "--for=jsonpath={.status.readyReplicas}=6", "deployment/web", "--timeout=30s"]);
        cluster.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
        pause(std::time::Duration::from_millis(delay));
        cluster.kill();
        cluster.up(&[]);
        until("two pods are gone", || (containers(&cluster, "app=web").len() == 4).then_some(()));
    }
    load.end_without_failures();
    until("no server is left over", || (processes(&cluster, "/api").lines().count() == 4).then_some(()));
}

#[test]
fn a_killed_data_plane_loses_nothing_by_address_and_names_answer_within_a_second() {
    let cluster = started();
    let all = aims(&cluster);
    let load = Load::start(&all[..2]);
    let before = cluster.machine.shell("cat /run/isopod*/dataplane.pid");
    for _ in 0..3 {
        cluster.machine.shell("kill -9 $(cat /run/isopod*/dataplane.pid)");
        within(std::time::Duration::from_secs(1), "names answer again", || {
            resolve(DNS.parse().expect("an address"), "web.default.svc.cluster.local").ok()
        });
    }
    assert_ne!(cluster.machine.shell("cat /run/isopod*/dataplane.pid"), before);
    load.end_without_failures();
}

#[test]
fn names_resolve_while_control_plane_and_agent_are_dead() {
    let mut cluster = started();
    cluster.kill();
    let address = resolve(DNS.parse().expect("an address"), "web.default.svc.cluster.local");
    assert!(address.is_ok(), "{address:?}");
}

#[test]
fn a_client_that_writes_through_kills_finds_every_acknowledged_write() {
    let mut cluster = Cluster::start();
    // kubectl in a loop in the background: what it says "created" of must be there in the end.
    let kubectl = kubectls().remove(1);
    let said = cluster.machine.folder.join("said");
    let line = "n=0; while [ ! -e $STOP ]; do n=$((n + 1)); $KUBECTL create configmap kept-$n --request-timeout=2s >>$SAID 2>/dev/null || true; done";
    let stop = cluster.machine.folder.join("stop");
    let mut writer = Command::new("/bin/sh");
    writer.args(["-c", line]).env("KUBECTL", &kubectl).env("KUBECONFIG", cluster.kubeconfig());
    writer.env("STOP", &stop).env("SAID", &said).env("HOME", &cluster.machine.folder);
    let mut writer = writer.spawn().expect("run a shell");
    for _ in 0..5 {
        pause(std::time::Duration::from_millis(700));
        cluster.kill();
        cluster.up(&[]);
    }
    std::fs::write(&stop, "").expect("write a file");
    writer.wait().expect("wait for the writer");
    let read = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
    let said = std::fs::read_to_string(&said).expect("read what was said");
    let acknowledged: Vec<&str> = said.lines().filter_map(|line| line.strip_suffix(" created")).collect();
    assert!(acknowledged.len() > 10, "only {} writes were made", acknowledged.len());
    for name in acknowledged {
        assert!(read.lines().any(|line| line == name), "{name} was acknowledged and is lost");
    }
}

#[test]
fn kubectl_works_as_before_after_a_kill() {
    let mut cluster = Cluster::start();
    cluster.kill();
    cluster.up(&[]);
    cluster.node_is_ready();
    script::run_with(&cluster, "change", &kubectls()[1], "space-after", &[]);
    let images = ran(&mut cluster.isopod(&["image", "ls"]));
    match cluster.containerd {
        // Its images are its own.
        Some(_) => {
            assert!(images.code == Some(1) && images.stderr.contains("ctr --namespace k8s.io images"), "{images:?}")
        }
        None => assert!(images.stdout.contains("docker.io/my-registry/api:v1.2.3"), "{images:?}"),
    }
}

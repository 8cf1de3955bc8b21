//! The other runtime: everything that works on the built-in one works on containerd, old and new.

use std::net::SocketAddr;

use crate::clock::until;
use crate::cluster::{Cluster, kubectls};
use crate::example::{DNS, all_three_answer, example_options, service_address};
use crate::load::{Aim, Connections, requests};
use crate::runtime::{Containerd, Runtime, on};
use crate::script;

/// What is left in containerd of pods: sandboxes, containers and what they wrote.
fn left(cluster: &Cluster) -> String {
    let containerd = cluster.containerd.as_ref().expect("the cluster runs on containerd");
    let list = |what| containerd.ctr(&cluster.machine, &[what, "ls", "-q"]);
    list("containers") + &list("tasks")
}

/// The example on a runtime, and where its Service is.
fn with_example(runtime: Runtime) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::absent_on(runtime);
    cluster.load("ISOPOD_EXAMPLE_IMAGE");
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster.up(&example_options().each_ref().map(String::as_str));
    cluster.wait_for("service/api: answers at http://");
    let address = service_address(&cluster, "production", "api");
    (cluster, address)
}

/// The example answers, is adopted by the next agent and survives its runtime, and leaves nothing behind.
fn the_example_lives_and_goes(runtime: Runtime, version: &str) {
    let (mut cluster, address) = with_example(runtime);
    let node = cluster.get(&["nodes"])["items"][0]["status"].clone();
    let told = node["nodeInfo"]["containerRuntimeVersion"].as_str().expect("a version").to_owned();
    assert!(told.starts_with(&format!("containerd://{version}")), "{told}");
    all_three_answer(&cluster, &Aim::Address(address));
    let name = "api.production.svc.cluster.local".to_owned();
    all_three_answer(&cluster, &Aim::Name { dns: DNS.parse().expect("an address"), name, port: 80 });

    let containers = |cluster: &Cluster| {
        let ids = "jsonpath={.items[*].status.containerStatuses[*].containerID} {.items[*].status.containerStatuses[*].restartCount}";
        cluster.kubectl(&["get", "pods", "-n", "production", "-o", ids])
    };
    let before = containers(&cluster);
    cluster.kill();
    let tally = requests(30, &Aim::Address(address), Connections::New);
    assert!(tally.failures.is_empty(), "without an agent: {:#?}", tally.failures);
    cluster.runtime(Containerd::restart);
    cluster.up(&[]);
    cluster.node_is_ready();
    all_three_answer(&cluster, &Aim::Address(address));
    assert_eq!(containers(&cluster), before, "the next agent adopts what runs, also when containerd was started anew");

    cluster.kubectl(&["delete", "namespace", "production", "--timeout=60s"]);
    until("nothing is left in containerd", || left(&cluster).is_empty().then_some(()));
    cluster.kubectl(&["apply", "-f", "shell.yaml"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=30s"]);
    cluster.interrupt();
    let down = crate::cluster::ran(&mut cluster.isopod(&["down"]));
    assert_eq!(down.code, Some(0), "{}{}", down.stdout, down.stderr);
    assert_eq!(left(&cluster), "", "`down` ends what ran in containerd");
    let configurations = cluster.containerd.as_ref().expect("it still runs").configurations();
    assert_eq!(std::fs::read_dir(configurations).expect("list a folder").count(), 0);
}

#[test]
fn the_example_runs_on_containerd_1_6() {
    the_example_lives_and_goes(Runtime::Containerd16, "1.6.");
}

#[test]
fn the_example_runs_on_containerd_2() {
    the_example_lives_and_goes(Runtime::Containerd2, "2.");
}

/// Scripts of `kubectl.rs` and `streams.rs` on one cluster, with every kubectl at once: most of their time is waiting.
fn scripts(names: &[&str]) {
    let cluster = Cluster::start();
    std::thread::scope(|scope| {
        for (number, kubectl) in kubectls().into_iter().enumerate() {
            let cluster = &cluster;
            scope.spawn(move || {
                cluster.machine.move_here();
                for name in names {
                    script::run_with(cluster, name, &kubectl, &format!("space-{name}-{number}"), &[]);
                }
            });
        }
    });
}

#[test]
fn objects_are_made_shown_and_changed_by_every_kubectl() {
    on(Runtime::Containerd2, || scripts(&["apply-and-get", "change", "generators", "access", "watch", "refused"]));
}

#[test]
fn pods_are_described_rolled_out_and_deleted_by_every_kubectl() {
    on(Runtime::Containerd2, || scripts(&["describe", "rollout", "delete"]));
}

#[test]
fn an_operator_looks_around_debugs_decides_and_drains_on_containerd() {
    on(Runtime::Containerd2, crate::kubectl::an_operator_looks_around_debugs_decides_and_drains);
}

#[test]
fn streams_of_every_kubectl_reach_containers_of_containerd_2() {
    on(Runtime::Containerd2, || scripts(&["logs-and-exec", "streams"]));
}

#[test]
fn streams_of_every_kubectl_reach_containers_of_containerd_1_6() {
    on(Runtime::Containerd16, || scripts(&["logs-and-exec", "streams"]));
}

#[test]
fn every_type_of_service_reaches_containers_of_containerd_1_6() {
    on(Runtime::Containerd16, crate::services::every_type_of_service_is_reached_from_everywhere_it_promises);
}

#[test]
fn the_python_client_streams_from_containerd() {
    on(Runtime::Containerd2, crate::streams::the_python_client_streams);
}

#[test]
fn the_javascript_client_streams_from_containerd() {
    on(Runtime::Containerd16, crate::streams::the_javascript_client_streams);
}

#[test]
fn a_failing_liveness_probe_restarts_containers_of_containerd() {
    on(Runtime::Containerd16, crate::pods::a_failing_liveness_probe_restarts_the_container_counts_and_backs_off);
}

#[test]
fn a_container_of_containerd_above_its_memory_limit_is_oom_killed() {
    on(Runtime::Containerd2, crate::pods::a_container_above_its_memory_limit_is_oom_killed);
}

#[test]
fn a_rolling_update_on_containerd_fails_no_request() {
    on(Runtime::Containerd2, crate::rollouts::a_rolling_update_under_load_fails_no_request_and_keeps_its_bounds);
}

#[test]
fn volumes_and_their_sub_paths_are_as_the_pod_says_on_containerd() {
    on(Runtime::Containerd2, crate::podspec::volumes_are_as_the_pod_says);
}

#[test]
fn users_of_a_pods_own_are_refused_where_containerd_cannot_map_them() {
    on(Runtime::Containerd16, || {
        let cluster = Cluster::start();
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"apart"},"spec":{"hostUsers":false,
            "containers":[{"name":"main","image":"busybox:test","command":["sleep","1000"]}]}}"#;
        cluster.apply(pod);
        until("an event says why", || {
            let events = cluster.kubectl(&["get", "events", "--field-selector", "reason=FailedCreatePodSandBox"]);
            events.contains("can't set `spec.hostUsers: false`, runtime does not support user namespaces").then_some(())
        });
    });
}

/// Its pods' groups would be where the agent does not look for them: better nothing runs than without limits.
fn groups_by_systemd_are_refused(runtime: Runtime) {
    let mut cluster = Cluster::absent_on(runtime);
    cluster
        .runtime(|containerd, machine| containerd.configure(machine, "SystemdCgroup = false", "SystemdCgroup = true"));
    let command = cluster.machine.command("up", &crate::cluster::named("ISOPOD_BINARY"));
    cluster.start_up(command, &[]);
    let (code, _) = cluster.ended();
    let log = cluster.log();
    assert!(code == Some(1) && log.contains("set SystemdCgroup = false"), "{log}");
}

#[test]
fn a_containerd_that_makes_groups_by_systemd_is_refused() {
    groups_by_systemd_are_refused(Runtime::Containerd2);
    groups_by_systemd_are_refused(Runtime::Containerd16);
}

#[test]
fn an_image_is_pulled_with_the_credentials_of_its_pod_on_containerd() {
    on(Runtime::Containerd2, crate::registry::an_image_is_pulled_with_the_credentials_of_its_pod_and_not_without);
}

#[test]
fn nothing_stays_through_kills_of_agent_containerd_and_shims() {
    on(Runtime::Containerd2, || crate::leaks::nothing_stays_through_kills(2));
}

#[test]
fn everything_comes_back_on_containerd_after_a_reboot() {
    on(Runtime::Containerd2, crate::example::after_a_reboot_everything_comes_back);
}

#[test]
fn a_disk_of_containerds_own_is_judged_apart_from_that_of_volumes() {
    let mut cluster = Cluster::absent_on(Runtime::Containerd2);
    cluster.runtime(|containerd, machine| containerd.on_a_disk_of_its_own(machine, 64));
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster.up(&["--eviction-hard", "imagefs.available<20Mi"]);
    cluster.node_is_ready();
    let node = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let summary = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("the summary is JSON");
    assert_eq!(summary["node"]["runtime"]["imageFs"]["capacityBytes"], 64 << 20, "{summary}");
    assert_ne!(summary["node"]["fs"]["capacityBytes"], 64 << 20, "{summary}");
    cluster.apply(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"writes"},"spec":{"terminationGracePeriodSeconds":0,"containers":[
            {"name":"main","image":"busybox:test","command":["sh","-c","dd if=/dev/zero of=/file bs=1M count=40 && sleep 1000"]}]}}"#,
    );
    until("the pod has to go", || {
        let status = cluster.get(&["pod", "writes"])["status"].clone();
        let message = status["message"].as_str().unwrap_or_default();
        (status["reason"] == "Evicted" && message.contains("low on resource: ephemeral-storage")).then_some(())
    });
}

#[test]
fn a_network_that_others_configured_wins() {
    let mut cluster = Cluster::absent_on(Runtime::Containerd2);
    let containerd = cluster.containerd.as_ref().expect("the cluster runs on containerd");
    for plugin in ["bridge", "host-local", "loopback"] {
        let to = containerd.plugins().join(plugin);
        std::os::unix::fs::symlink(std::path::Path::new("/usr/lib/cni").join(plugin), to).expect("link a plugin");
    }
    let foreign = r#"{"cniVersion":"1.0.0","name":"foreign","plugins":[{"type":"bridge","bridge":"foreign0","isGateway":true,
        "ipam":{"type":"host-local","dataDir":"/run/foreign","ranges":[[{"subnet":"10.99.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}"#;
    std::fs::write(containerd.configurations().join("50-foreign.conflist"), foreign).expect("write a configuration");
    cluster.load("ISOPOD_EXAMPLE_IMAGE");
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster.up(&[]);
    cluster.node_is_ready();
    cluster.kubectl(&["apply", "-f", "web.yaml", "-f", "shell.yaml"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let addresses = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.podIP}"]);
    assert!(addresses.split(' ').all(|address| address.starts_with("10.99.0.")), "{addresses}");
    // Services and names work over it all the same.
    let inside = "for n in 1 2 3 4 5 6 7 8 9; do wget -qO- http://web.default; done | sort -u | wc -l";
    assert_eq!(cluster.kubectl(&["exec", "shell", "--", "sh", "-c", inside]).trim(), "2");
    let containerd = cluster.containerd.as_ref().expect("the cluster runs on containerd");
    assert!(!containerd.configurations().join("10-isopod.conflist").exists());
}

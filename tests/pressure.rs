//! Machines that run short: who ends first, by the kernel's choice and by the agent's.

use serde_json::{Value, json};

use crate::clock::until;
use crate::cluster::Cluster;

/// A pod of busybox that runs a line of shell, with more fields of its container and of its specification.
fn pod(name: &str, line: &str, container: Value, spec: Value) -> String {
    let mut main = json!({"name": "main", "image": "busybox:test", "command": ["sh", "-c", line]});
    let mut whole = json!({"terminationGracePeriodSeconds": 30});
    for (into, more) in [(&mut main, container), (&mut whole, spec)] {
        into.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    }
    whole["containers"] = json!([main]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}).to_string()
}

fn ready(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"]);
}

#[test]
pub fn the_kernel_is_told_to_end_first_what_was_promised_least() {
    let cluster = Cluster::start();
    let asks = |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
    let all = json!({"cpu": "10m", "memory": "32Mi"});
    let critical = json!({"priorityClassName": "system-node-critical"});
    let pods = [
        ("guaranteed", asks(all.clone(), all), json!({})),
        ("burstable", asks(json!({"memory": "1Gi"}), json!({})), json!({})),
        ("best-effort", json!({}), json!({})),
        ("critical", json!({}), critical),
    ];
    let manifests: Vec<String> =
        pods.into_iter().map(|(name, container, spec)| pod(name, "exec sleep 1000", container, spec)).collect();
    cluster.apply(&manifests.join("\n---\n"));
    let score = |name: &str| {
        ready(&cluster, name);
        let text = cluster.kubectl(&["exec", name, "--", "cat", "/proc/1/oom_score_adj"]);
        text.trim().parse::<i64>().expect("a number")
    };
    let node = cluster.get(&["nodes"]);
    let memory = node["items"][0]["status"]["capacity"]["memory"].as_str().expect("an amount").to_owned();
    let memory: i64 = memory.strip_suffix("Ki").expect("Ki").parse().expect("a number");
    let burstable = (1000 - 1000 * (1 << 20) / memory).clamp(3, 999);
    // Where the machine lets nobody go below what it has, nobody is below.
    let least = "for score in -999 0; do echo $score >/proc/self/oom_score_adj && break; done 2>/dev/null; cat /proc/self/oom_score_adj";
    let least: i64 = cluster.machine.shell(least).trim().parse().expect("a number");
    let expected = [-997, burstable, 1000, -997].map(|score: i64| score.max(least));
    assert_eq!(["guaranteed", "burstable", "best-effort", "critical"].map(score), expected);
    // What else runs in a container is no better off; what holds a pod together and what everything hangs on are ended last.
    let further = cluster.kubectl(&["exec", "best-effort", "--", "cat", "/proc/self/oom_score_adj"]);
    assert_eq!(further, "1000\n");
    let of = |programs: &str| {
        let line = format!(
            "for process in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$process/cmdline)\" in {programs}) cat $process/oom_score_adj;; \
             esac; done 2>/dev/null | sort -u"
        );
        cluster.machine.shell(&line).lines().map(|score| score.parse().expect("a number")).collect::<Vec<i64>>()
    };
    assert_eq!(of("*isopod\\ up*|*\\ dataplane*"), [(-999).max(least)]);
    assert_eq!(of(if cluster.containerd.is_some() { "*pause*" } else { "isopod-shim*" }), [(-998).max(least)]);
}

/// A cluster whose data lie on a file system of this size.
fn on_a_disk_of(megabytes: u32, options: &[&str]) -> Cluster {
    let mut cluster = Cluster::absent();
    let data = cluster.data();
    std::fs::create_dir(&data).expect("make a folder");
    cluster.machine.shell(&format!("mount -t tmpfs -o size={megabytes}m disk {}", data.display()));
    cluster.load("ISOPOD_BUSYBOX_IMAGE");
    cluster.up(options);
    // What is mounted in the machine is not to be seen outside, where kubectl runs.
    let kubeconfig = cluster.machine.shell(&format!("cat {}", cluster.kubeconfig().display()));
    std::fs::write(cluster.kubeconfig(), kubeconfig).expect("write a file");
    cluster.node_is_ready();
    cluster
}

/// The node's condition, and whether it has the taint.
fn disk_pressure(cluster: &Cluster) -> (String, bool) {
    let node = cluster.get(&["nodes"])["items"][0].clone();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition["type"] == "DiskPressure").expect("it is always told");
    let tainted = node["spec"]["taints"].to_string().contains("node.kubernetes.io/disk-pressure");
    (condition["status"].as_str().unwrap_or_default().to_owned(), tainted)
}

#[test]
fn a_disk_that_fills_up_ends_who_filled_it_with_time_to_end_and_nobody_else() {
    let cluster = on_a_disk_of(
        600,
        &[
            "--eviction-hard",
            "nodefs.available<32Mi",
            "--eviction-soft=nodefs.available<250Mi",
            "--eviction-soft-grace-period=nodefs.available=1s",
            "--eviction-max-pod-grace-period=4",
            "--eviction-pressure-transition-period=1s",
        ],
    );
    let disk = json!({"volumes": [{"name": "disk", "emptyDir": {}}]});
    let writes = |megabytes: u32| {
        format!(
            "trap 'echo asked to end; sleep 100' TERM; \
             dd if=/dev/zero of=/disk/file bs=1M count={megabytes} 2>/dev/null; echo written; while :; do sleep 0.1; done"
        )
    };
    let mounted = |requests: Value| json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}], "resources": {"requests": requests}});
    let modest = pod("modest", &writes(60), mounted(json!({"ephemeral-storage": "80Mi"})), disk.clone());
    cluster.apply(&modest);
    ready(&cluster, "modest");
    cluster.apply(&pod("greedy", &writes(350), mounted(json!({})), disk));
    ready(&cluster, "greedy");
    until("the node tells that its disk fills up", || (disk_pressure(&cluster) == ("True".into(), true)).then_some(()));
    let greedy = until("who filled it is ended", || {
        let pod = cluster.get(&["pod", "greedy"]);
        (pod["status"]["phase"] == "Failed").then_some(pod)
    });
    assert_eq!(greedy["status"]["reason"], "Evicted");
    let message = greedy["status"]["message"].as_str().unwrap_or_default();
    let begins = "The node was low on resource: ephemeral-storage. Threshold quantity: 250Mi, available: ";
    assert!(message.starts_with(begins), "{message}");
    assert!(message.contains("Container main was using ") && message.contains(", request is 0"), "{message}");
    let conditions = greedy["status"]["conditions"].to_string();
    assert!(conditions.contains("TerminationByKubelet"), "{conditions}");
    assert_eq!(greedy["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137, "{greedy}");
    // It was asked, had its four seconds, and can still be read.
    assert_eq!(cluster.kubectl(&["logs", "greedy"]), "written\nasked to end\n");
    // What it wrote goes although it is still there, and with that the pressure.
    until("the pressure passes", || (disk_pressure(&cluster) == ("False".into(), false)).then_some(()));
    cluster.apply(&pod("next", "exec sleep 1000", json!({}), json!({})));
    ready(&cluster, "next");
    let modest = cluster.get(&["pod", "modest"])["status"].clone();
    assert!(modest["phase"] == "Running" && modest["containerStatuses"][0]["restartCount"] == 0, "{modest}");
}

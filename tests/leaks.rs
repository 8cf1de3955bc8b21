//! Issue 3's Show 6: agent and supervisors are killed at random moments of 200 pod starts and stops, and nothing stays behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{pause, until, until_right};
use crate::cluster::{Cluster, kubectls};
use crate::runtime::Containerd;

const ROUNDS: u64 = 25;
/// Of them, the last two run to their end.
const PODS: usize = 8;
/// What the pods that run to their end say then.
const CODE: i64 = 3;
/// Longest wait before a kill, in milliseconds: a start takes less, a stop of eight a little more.
const WAIT_MAX: u64 = 250;

/// Random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }

    fn wait(&mut self) {
        pause(Duration::from_millis(self.roll(WAIT_MAX)));
    }
}

/// What pods take of a machine, as the kernel and the data folder tell it, one thing a line. What containerd has for itself is
/// its own: it does not clear its folder up after a shim that was killed, and 1.6 loses namespaces for which it was killed.
fn taken(cluster: &Cluster) -> String {
    let data = cluster.data().display().to_string();
    cluster.machine.shell(&format!(
        "cd /; \
         ip -o link | cut -d: -f2 | cut -d@ -f1 | sed 's/^ */link /' | sort; \
         ip route show table all | grep -v '^broadcast\\|^fe80\\|^multicast\\|^local' | sed 's/^/route /' | sort; \
         nft list ruleset | sed 's/^/rule /; s/counter packets [0-9]* bytes [0-9]*//; s/ expires [0-9a-z]*//'; \
         cut -d' ' -f5 /proc/self/mountinfo | grep -v ^/run/netns/ | sed 's/^/mount /' | sort; \
         find /sys/fs/cgroup -type d -path '*kubepods*' | sed 's/^/group /' | sort; \
         find /run -mindepth 1 -path /run/containerd -prune -o -print | grep -v ^/run/netns/ | sed 's/^/run /' | sort; \
         find {data} -mindepth 1 -type d -not -path '{data}/store*' | sed 's/^/folder /' | sort; \
         for process in /proc/[0-9]*; do \
         echo \"process $(readlink $process/exe) $(tr '\\0' ' ' <$process/cmdline | cut -d' ' -f1,2)\"; done 2>/dev/null \
         | grep -v '/sh \\|/sleep\\|/readlink\\|/tr \\|/cut \\|/bin/' | sort; \
         for process in /proc/[0-9]*; do readlink $process/ns/net; done 2>/dev/null | sort -u | wc -l | sed 's/^/networks /'"
    ))
}

/// The processes of this machine that run supervisors or stand at the head of a container; on containerd, its shims.
fn supervisors(cluster: &Cluster) -> Vec<u32> {
    let program = if cluster.containerd.is_some() { "*/containerd-shim-runc-v2" } else { "/memfd:isopod-shim*" };
    let line = format!(
        "for process in /proc/[0-9]*; do case \"$(readlink $process/exe)\" in {program}) echo ${{process#/proc/}};; esac; done 2>/dev/null"
    );
    cluster.machine.shell(&line).lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Kills one of them, if there is any; how many that were.
fn kill_one(cluster: &Cluster, dice: &mut Dice) -> i64 {
    let all = supervisors(cluster);
    let Some(pid) = all.get(dice.roll(all.len() as u64) as usize) else { return 0 };
    // It may have ended by itself meanwhile.
    cluster.machine.shell(&format!("kill -9 {pid} 2>/dev/null || true"));
    1
}

/// Ends control plane and agent without asking, and a runtime that is a program of its own before or after them.
fn kill(cluster: &mut Cluster, dice: &mut Dice) {
    let runtime_first = cluster.containerd.is_some() && dice.roll(2) == 0;
    if runtime_first {
        cluster.runtime(Containerd::restart);
        dice.wait();
    }
    cluster.kill();
    if !runtime_first {
        cluster.runtime(Containerd::restart);
    }
}

/// The pods of a round, as documents of a file.
fn pods(round: u64) -> String {
    let pod = |index: usize| {
        let (name, ends) = (format!("pod-{round}-{index}"), index >= PODS - 2);
        let line = if ends { format!("sleep 0.1; exit {CODE}") } else { "exec sleep 100000".to_owned() };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"round": round.to_string()}},
            "spec": {
                "restartPolicy": if ends { "Never" } else { "Always" },
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "room", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}],
                "containers": [{
                    "name": "main", "image": "busybox:test", "command": ["sh", "-c", line],
                    "ports": [{"containerPort": 80, "hostPort": 20000 + index}],
                    "volumeMounts": [{"name": "room", "mountPath": "/room"}, {"name": "disk", "mountPath": "/disk"}],
                }],
            },
        })
    };
    (0..PODS).map(|index| format!("---\n{}\n", pod(index))).collect()
}

/// Lets kubectl do something while this test does something else.
fn begin(cluster: &Cluster, arguments: &[&str]) -> Child {
    let mut command = cluster.kubectl_command(&kubectls()[1]);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run kubectl")
}

/// What is wrong with the pods of a round, of whose processes so many were killed.
fn faults(pods: &Value, kills: i64) -> String {
    let (mut faults, mut killed) = (String::new(), 0);
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    if items.len() != PODS {
        writeln!(faults, "{} pods", items.len()).expect("a string takes everything");
    }
    for pod in items {
        let (name, status) = (&pod["metadata"]["name"], &pod["status"]["containerStatuses"][0]);
        let ended = &status["state"]["terminated"];
        let right = if pod["spec"]["restartPolicy"] == "Always" {
            // A container may be begun once more in a sandbox of which nobody knows yet that it was lost: pods count, not tries.
            killed += i64::from(status["restartCount"] != 0);
            pod["status"]["phase"] == "Running" && status["ready"] == true && !status["state"]["running"].is_null()
        } else {
            // Where supervisor and container went together, nobody is left who knows how the container ended; where the
            // supervisor went in the middle of its start, it never began.
            let lost = [(137, "Error"), (255, "Unknown"), (128, "StartError")]
                .iter()
                .any(|(code, reason)| ended["exitCode"] == *code && ended["reason"] == *reason);
            killed += i64::from(lost);
            pod["status"]["phase"] == "Failed" && (ended["exitCode"] == CODE || lost)
        };
        if !right {
            writeln!(faults, "{name}: {}", pod["status"]).expect("a string takes everything");
        }
    }
    if killed > kills {
        writeln!(faults, "{killed} pods lost a container before its time, and {kills} processes were killed")
            .expect("as above");
    }
    faults
}

/// Processes of pods that should run there, by the kernel.
fn sleepers(cluster: &Cluster) -> usize {
    let line = "grep -la '^sleep.100000' /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
    cluster.machine.shell(line).trim().parse().expect("a number")
}

fn round(cluster: &mut Cluster, dice: &mut Dice, number: u64) {
    let file = cluster.machine.folder.join("pods.yaml");
    std::fs::write(&file, pods(number)).expect("write a file");
    let file = file.display().to_string();
    let mut create = begin(cluster, &["apply", "-f", &file]);
    dice.wait();
    let mut kills = kill_one(cluster, dice);
    dice.wait();
    kill(cluster, dice);
    // One that dies while nobody looks.
    kills += kill_one(cluster, dice);
    if cluster.containerd.is_some() {
        // It cancels what it does for an agent that ends, and forgets what it did when it ends: a start comes to nothing so, too.
        kills = i64::MAX;
    }
    cluster.up(&[]);
    create.wait().expect("wait for kubectl");
    // Whatever of it was not acknowledged.
    cluster.kubectl(&["apply", "-f", &file]);
    let selector = format!("round={number}");
    until_right(&format!("the pods of round {number} are as they should be"), || {
        let mut wrong = faults(&cluster.get(&["pods", "-l", &selector]), kills);
        let sleepers = sleepers(cluster);
        if sleepers != PODS - 2 {
            writeln!(wrong, "{sleepers} sleep").expect("a string takes everything");
        }
        wrong
    });
    let mut delete = begin(cluster, &["delete", "pods", "-l", &selector, "--wait=false"]);
    dice.wait();
    kill_one(cluster, dice);
    kill(cluster, dice);
    cluster.up(&[]);
    delete.wait().expect("wait for kubectl");
    cluster.kubectl(&["delete", "pods", "-l", &selector, "--timeout=30s"]);
}

/// Lines that are there only before or only after.
fn difference(before: &str, after: &str) -> String {
    let mut counts = BTreeMap::<&str, i32>::new();
    before.lines().for_each(|line| *counts.entry(line).or_default() -= 1);
    after.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    counts.iter().filter(|(_, count)| **count != 0).map(|(line, count)| format!("{count:+} {line}\n")).collect()
}

#[test]
fn nothing_of_two_hundred_pods_stays_through_kills_of_agent_and_supervisors() {
    nothing_stays_through_kills(ROUNDS);
}

/// The same on whatever runtime, with so many rounds of pods.
pub fn nothing_stays_through_kills(rounds: u64) {
    let mut cluster = Cluster::start();
    let mut dice = Dice(20_261_128);
    // Whatever the first pods make for good.
    round(&mut cluster, &mut dice, 0);
    until("no container of the first round runs", || (sleepers(&cluster) == 0).then_some(()));
    let mut before = taken(&cluster);
    until("the first round is gone", || {
        let seen = std::mem::replace(&mut before, taken(&cluster));
        (seen == before).then_some(())
    });
    (1..=rounds).for_each(|number| round(&mut cluster, &mut dice, number));
    until_right("everything is gone", || difference(&before, &taken(&cluster)));
}

/// What is left of a pod that is called `lost`, and of what is mounted for it.
const LOST: &str = "find /run /sys/fs/cgroup $0 -name '*lost*' 2>/dev/null; grep lost /proc/self/mountinfo; true";

#[test]
fn what_a_pod_left_goes_with_the_next_agent_and_nothing_that_is_mounted_there() {
    let mut cluster = Cluster::start();
    let line = "echo kept >/disk/file; exec sleep 100000";
    cluster.apply(
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stays"},
            "spec": {
                "volumes": [{"name": "disk", "emptyDir": {}}],
                "containers": [{
                    "name": "main", "image": "busybox:test", "command": ["sh", "-c", line],
                    "volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
                }],
            },
        })
        .to_string(),
    );
    cluster.kubectl(&["wait", "pod/stays", "--for=condition=Ready", "--timeout=20s"]);
    cluster.kill();
    let data = cluster.data().display().to_string();
    let precious = cluster.machine.folder.join("precious").display().to_string();
    // What an agent leaves that is killed while it removes a pod; and something of the machine's that a container had mounted.
    cluster.machine.shell(&format!(
        "set -e; memory=$(find /run -type d -path '*/kubelet/pods'); \
         mkdir -p {precious} {data}/log/pods/default_gone_lost/main $memory/lost/volumes/secret; \
         touch {precious}/file {data}/log/pods/default_gone_lost/main/0.log $memory/lost/checkpoint.json.new; \
         volume={data}/kubelet/pods/lost/volumes/kubernetes.io~empty-dir; mkdir -p $volume/disk/deep $volume/memory; \
         mount --bind {precious} $volume/disk/deep; mount -t tmpfs none $volume/memory; echo > $volume/memory/file; \
         for group in $(find /sys/fs/cgroup -type d -name besteffort -path '*kubepods*'); do mkdir $group/podlost; done"
    ));
    let lost = || cluster.machine.shell(&LOST.replace("$0", &data));
    assert!(lost().lines().count() > 5, "{}", lost());
    cluster.up(&[]);
    until_right("what the pod left is gone", || cluster.machine.shell(&LOST.replace("$0", &data)));
    assert_eq!(cluster.machine.shell(&format!("ls {precious}")).trim(), "file");
    cluster.kubectl(&["wait", "pod/stays", "--for=condition=Ready", "--timeout=20s"]);
    let stays = cluster.get(&["pod", "stays"]);
    assert_eq!(stays["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(cluster.kubectl(&["exec", "stays", "--", "cat", "/disk/file"]), "kept\n");
    assert!(cluster.kubectl(&["logs", "stays"]).is_empty());
}

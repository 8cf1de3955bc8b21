//! Show 9: real software from Debian's packages, configured, probed and rolled out as people do, with a client in a pod.

use std::time::Duration;

use crate::clock::{until, within};
use crate::cluster::Cluster;
use crate::runtime::Runtime;

/// A cluster with the image of one software, and what `tests/files` says of it.
fn started(image: &str, manifest: &str, deployment: &str) -> Cluster {
    let cluster = Cluster::start();
    cluster.load(image);
    cluster.apply(&manifest.replace("path: DATA", &format!("path: {}/disk", cluster.machine.folder.display())));
    cluster.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=60s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]);
    cluster
}

/// What the client has said so far, from the moment at which it first got something.
fn client(cluster: &Cluster) -> Vec<String> {
    let said = cluster.kubectl(&["logs", "client"]);
    said.lines().skip_while(|line| !line.starts_with("got ")).map(str::to_owned).collect()
}

/// Waits until the client has got something new.
fn client_goes_on(cluster: &Cluster) -> Vec<String> {
    let gets = |lines: &[String]| lines.iter().filter(|line| line.starts_with("got ")).count();
    let before = gets(&client(cluster));
    until("the client gets something new", || {
        let lines = client(cluster);
        (gets(&lines) > before + 20).then_some(lines)
    })
}

#[track_caller]
fn none_failed(lines: &[String]) {
    let failed: Vec<&String> = lines.iter().filter(|line| !line.starts_with("got ")).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), lines.len());
    assert!(lines.len() > 50, "only {} requests were made", lines.len());
}

fn roll_out(cluster: &Cluster, deployment: &str) {
    let deployment = format!("deployment/{deployment}");
    cluster.kubectl(&["rollout", "restart", &deployment]);
    cluster.kubectl(&["rollout", "status", &deployment, "--timeout=60s"]);
}

#[test]
fn nginx_is_rolled_out_and_reconfigured_without_a_failed_request() {
    let mut manifest = include_str!("files/nginx.yaml").to_owned();
    if Runtime::of_run() != Runtime::BuiltIn {
        // No containerd that runs here takes a signal to stop by; so it went before there was one.
        let hook = r#"preStop: {exec: {command: [sh, -c, "kill -QUIT 1; sleep 1"]}}"#;
        manifest = manifest.replace("stopSignal: SIGQUIT", hook);
    }
    let cluster = started("ISOPOD_NGINX_IMAGE", &manifest, "web");
    let inside = |line: &str| cluster.kubectl(&["exec", "deployment/web", "--", "sh", "-c", line]);
    assert_eq!(inside("id -u; touch /etc/nginx/x 2>/dev/null || echo fixed"), "33\nfixed\n");
    // From the Secret, with the mode and group that let the server read it and nobody else.
    let fetch = |url: &str| cluster.try_kubectl(&["exec", "client", "--", "wget", "-q", "-O", "-", url]);
    assert_eq!(fetch("http://jane:swordfish@web/who").stdout, "a member\n");
    assert!(fetch("http://web/who").stderr.contains("401"), "{:?}", fetch("http://web/who"));
    client_goes_on(&cluster);
    roll_out(&cluster, "web");
    // A volume follows its ConfigMap under the running server.
    cluster.kubectl(&["patch", "configmap", "pages", "-p", r#"{"data":{"index.html":"good day\n"}}"#]);
    until("the page is the new one", || (fetch("http://web/").stdout == "good day\n").then_some(()));
    // A file mounted by itself does not: a new configuration has a new name, and is rolled out.
    cluster.apply(&manifest.replace("web-1", "web-2").replace("\"first", "\"second").replace("good day", "hello"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let lines = until("the new revision answers", || {
        let lines = client_goes_on(&cluster);
        lines.last().is_some_and(|line| line == "got second").then_some(lines)
    });
    assert!(lines.iter().any(|line| line == "got first"), "{lines:#?}");
    // And a configuration that is wrong stops at its first pod.
    cluster.apply(&manifest.replace("web-1", "web-3").replace("listen 8080", "lissten 8080"));
    until("the wrong configuration is seen", || {
        let said = cluster.try_kubectl(&["logs", "-l", "app=web", "--tail=-1"]).stdout;
        said.contains("unknown directive \"lissten\" in /etc/nginx/nginx.conf:").then_some(())
    });
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    none_failed(&client_goes_on(&cluster));
}

#[test]
fn redis_serves_through_a_rollout_and_keeps_its_data_through_a_crash() {
    let cluster = started("ISOPOD_REDIS_IMAGE", include_str!("files/redis.yaml"), "redis");
    let ask =
        |words: &[&str]| cluster.kubectl(&[&["exec", "client", "--", "redis-cli", "-h", "redis"], words].concat());
    assert_eq!(ask(&["config", "get", "maxmemory"]), "maxmemory\n33554432\n");
    let stranger = ["exec", "client", "--", "env", "REDISCLI_AUTH=", "redis-cli", "-h", "redis", "-a", "wrong", "ping"];
    let refused = cluster.try_kubectl(&stranger);
    let said = refused.stdout.clone() + &refused.stderr;
    assert!(said.contains("WRONGPASS") && said.contains("NOAUTH"), "{refused:?}");
    client_goes_on(&cluster);
    roll_out(&cluster, "redis");
    none_failed(&client_goes_on(&cluster));
    // A crash of the server is none of its folder, which is the pod's.
    cluster.kubectl(&["delete", "pod", "client"]);
    let exec =
        |words: &[&str]| cluster.try_kubectl(&[&["exec", "deployment/redis", "--", "redis-cli"], words].concat());
    assert_eq!(exec(&["set", "kept", "safe"]).stdout, "OK\n");
    cluster.machine.shell("kill -9 $(pidof redis-server)");
    within(Duration::from_secs(20), "the server is back with what it had", || {
        (exec(&["get", "kept"]).stdout == "safe\n").then_some(())
    });
    let pod = cluster.get(&["pods", "-l", "app=redis"]);
    let status = &pod["items"][0]["status"]["containerStatuses"][0];
    assert_eq!((&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]), (&1.into(), &137.into()));
}

/// Every row that the client was told is written is there.
fn none_is_lost(cluster: &Cluster, lines: &[String]) {
    let acknowledged: Vec<u32> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("got "))
        .map(|number| number.parse().expect("a number"))
        .collect();
    let last = *acknowledged.last().expect("something was written");
    let count = format!("select count(*) from rows where n <= {last}");
    let found = cluster.kubectl(&["exec", "client", "--", "psql", "-A", "-t", "-c", &count]);
    assert_eq!(found.trim(), last.to_string(), "rows are lost of 1 to {last}");
    assert_eq!(acknowledged.len(), last as usize, "the client counted by one");
}

#[test]
fn postgres_loses_no_acknowledged_row_in_a_rollout_or_a_crash() {
    let cluster = started("ISOPOD_POSTGRES_IMAGE", include_str!("files/postgres.yaml"), "db");
    let said = |container: &str| cluster.kubectl(&["logs", "deployment/db", "-c", container]);
    assert!(said("init").contains("Success. You can now start the database server"), "{}", said("init"));
    client_goes_on(&cluster);
    roll_out(&cluster, "db");
    assert_eq!(said("init"), "data is there\n");
    none_is_lost(&cluster, &client_goes_on(&cluster));
    // The server ended by itself before its time was over.
    let log = said("postgres");
    assert!(log.contains("database system was shut down at"), "{log}");
    let data = cluster.machine.folder.join("disk/pg");
    let owner = cluster.machine.shell(&format!("stat -c '%u %a' {}", data.display()));
    assert_eq!(owner, "999 700\n");
    let first = cluster.machine.shell(&format!("head -n 1 {}/postmaster.pid", data.display()));
    assert_eq!(first, "1\n", "the server is the container's first process");
    cluster.machine.shell("kill -9 $(pidof postgres)");
    none_is_lost(&cluster, &client_goes_on(&cluster));
    until("the crash is told of", || {
        let log = said("postgres");
        log.contains("database system was not properly shut down; automatic recovery in progress").then_some(())
    });
}

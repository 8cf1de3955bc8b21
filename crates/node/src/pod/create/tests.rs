//! Cases: what the runtime is asked for.

use super::*;

fn pod(spec: &str) -> Pod {
    serde_json::from_str(&format!(
        r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u","labels":{{"app":"x"}}}},"spec":{{{spec}}},"status":{{"qosClass":"Burstable"}}}}"#
    ))
    .unwrap()
}

fn node() -> NodeFacts {
    NodeFacts {
        name: "node".into(),
        cluster_dns: "10.96.0.10".into(),
        cluster_domain: "cluster.local".into(),
        host_dns: DnsConfig { servers: vec!["192.0.2.1".into()], searches: vec!["example".into()], options: vec![] },
        log_root: "/var/log/pods".into(),
        memory_bytes: 8 << 30,
    }
}

fn made(spec: &str) -> ContainerConfig {
    let pod = pod(&format!(r#""containers":[{{"name":"c","image":"i",{spec}}}]"#));
    let envs = vec![KeyValue { key: "NAME".into(), value: "value".into() }];
    let parts = Parts { attempt: 2, envs, mounts: vec![], image_ref: "sha256:1".into() };
    container(&pod, &pod.spec.as_ref().unwrap().containers[0], parts, &node())
}

#[test]
fn names_labels_and_logs_are_upstreams() {
    let config = sandbox(&pod(r#""containers":[]"#), 1, "/kubepods/podu", &node());
    assert_eq!(config.log_directory, "/var/log/pods/n_p_u");
    assert_eq!((config.hostname.as_str(), config.metadata.attempt), ("p", 1));
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "u");
    assert_eq!(config.labels["app"], "x");
    let config = made(r#""command":["run","$(NAME)","$$(NAME)","$(OTHER)"]"#);
    assert_eq!(config.command, ["run", "value", "$(NAME)", "$(OTHER)"]);
    assert_eq!(config.log_path, "c/2.log");
    assert_eq!(config.labels["io.kubernetes.container.name"], "c");
    assert_eq!((config.image.image.as_str(), config.image.user_specified_image.as_str()), ("sha256:1", "i"));
}

#[test]
fn names_are_resolved_by_policy() {
    let dns = |spec: &str| sandbox(&pod(spec), 0, "", &node()).dns_config.unwrap();
    let cluster = dns(r#""containers":[]"#);
    assert_eq!(cluster.servers, ["10.96.0.10"]);
    assert_eq!(cluster.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "example"]);
    assert_eq!(cluster.options, ["ndots:5"]);
    assert_eq!(dns(r#""dnsPolicy":"Default","containers":[]"#).servers, ["192.0.2.1"]);
    let own = dns(
        r#""dnsPolicy":"None","dnsConfig":{"nameservers":["192.0.2.9"],"searches":["a"],"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]},"containers":[]"#,
    );
    assert_eq!((own.servers, own.searches), (vec!["192.0.2.9".to_owned()], vec!["a".to_owned()]));
    assert_eq!(own.options, ["ndots:2", "edns0"]);
    let more = dns(r#""dnsConfig":{"options":[{"name":"ndots","value":"1"}]},"containers":[]"#);
    assert_eq!(more.options, ["ndots:1"], "an option replaces the default of its name");
}

#[test]
fn limits_are_in_the_kernels_units() {
    let resources = |spec: &str| made(spec).linux.resources;
    let asked =
        resources(r#""resources":{"requests":{"cpu":"250m","memory":"1Gi"},"limits":{"cpu":"1500m","memory":"2Gi"}}"#);
    assert_eq!((asked.cpu_shares, asked.cpu_quota, asked.cpu_period), (256, 150_000, 100_000));
    assert_eq!(asked.memory_limit_in_bytes, 2 << 30);
    assert_eq!(asked.oom_score_adj, 875, "a thousandth off for each thousandth of the memory that is requested");
    let none = resources(r#""env":[]"#);
    assert_eq!((none.cpu_shares, none.cpu_quota, none.memory_limit_in_bytes, none.oom_score_adj), (2, 0, 0, 999));
    assert_eq!((shares(1), shares(1_000_000_000), quota(1), quota(0)), (2, 262_144, 1000, 0));
}

#[test]
fn security_of_the_container_wins_over_the_pods() {
    let pod = pod(r#""securityContext":{"runAsUser":1,"runAsGroup":2,"supplementalGroups":[3]},"containers":[
            {"name":"a"},
            {"name":"b","securityContext":{"runAsUser":9,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false,
                "capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]},"seccompProfile":{"type":"Unconfined"}}},
            {"name":"c","securityContext":{"privileged":true}}]"#);
    let of = |index: usize| {
        let parts = Parts { attempt: 0, envs: vec![], mounts: vec![], image_ref: String::new() };
        container(&pod, &pod.spec.as_ref().unwrap().containers[index], parts, &node()).linux.security_context
    };
    let (a, b, c) = (of(0), of(1), of(2));
    assert_eq!((a.run_as.user, a.run_as.group, a.run_as.supplemental_groups), (Some(1), Some(2), vec![3]));
    assert_eq!(a.seccomp, SecurityProfile::RuntimeDefault);
    assert!(a.masked_paths.contains(&"/proc/kcore".to_owned()) && a.readonly_paths.contains(&"/proc/sys".to_owned()));
    assert_eq!((b.run_as.user, b.readonly_rootfs, b.no_new_privs), (Some(9), true, true));
    assert_eq!(
        (b.capabilities.add_capabilities, b.capabilities.drop_capabilities),
        (vec!["NET_ADMIN".into()], vec!["ALL".into()])
    );
    assert_eq!(b.seccomp, SecurityProfile::Unconfined);
    assert!(c.privileged && c.masked_paths.is_empty() && c.seccomp == SecurityProfile::Unconfined);
}

#[test]
fn a_long_name_is_cut_to_a_host_name() {
    let mut long = pod(r#""containers":[]"#);
    long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b"));
    assert_eq!(hostname(&long, &node()), "a".repeat(62), "without the dash it would end with");
    long.spec.as_mut().unwrap().hostname = Some("mine".into());
    assert_eq!(hostname(&long, &node()), "mine");
}

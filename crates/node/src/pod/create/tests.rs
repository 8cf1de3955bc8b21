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
        seccomp_root: "/var/lib/kubelet/seccomp".into(),
        ..NodeFacts::default()
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
    let parts = SandboxParts { cgroup_parent: "/kubepods/podu", runtime_handler: "isopod", users: None };
    let config = sandbox(&pod(r#""containers":[]"#), 1, parts, &node()).unwrap();
    assert_eq!((config.linux.cgroup_parent.as_str(), config.runtime_handler.as_str()), ("/kubepods/podu", "isopod"));
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
    let dns = |spec: &str| sandbox(&pod(spec), 0, SandboxParts::default(), &node()).unwrap().dns_config.unwrap();
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
    // As long as the kernel takes it.
    long.spec.as_mut().unwrap().hostname_override = Some("o".repeat(64));
    assert_eq!(hostname(&long, &node()), "o".repeat(64));
}

#[test]
fn names_have_domains_when_asked_for() {
    let check = |spec: &str, short: &str, whole: Result<&str, &str>| {
        let pod = pod(&format!(r#"{spec},"containers":[]"#));
        assert_eq!(hostname(&pod, &node()), short);
        let kernel = sandbox(&pod, 0, SandboxParts::default(), &node()).map(|config| config.hostname);
        assert_eq!(kernel.map_err(|error| error.0), whole.map(str::to_owned).map_err(str::to_owned));
    };
    check(r#""hostname":"web","subdomain":"sub""#, "web", Ok("web"));
    check(r#""subdomain":"sub","setHostnameAsFQDN":true"#, "p", Ok("p.sub.n.svc.cluster.local"));
    check(r#""setHostnameAsFQDN":true"#, "p", Ok("p"));
    check(r#""hostnameOverride":"a.b","hostname":"web","subdomain":"sub""#, "a.b", Ok("a.b"));
    check(r#""hostNetwork":true,"hostname":"web""#, "node", Ok(""));
    let long = "x".repeat(50);
    let message = format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {long}.sub.n.svc.cluster.local is too long (64 characters is the max, 74 characters requested)"
    );
    check(&format!(r#""hostname":"{long}","subdomain":"sub","setHostnameAsFQDN":true"#), &long, Err(&message));
}

#[test]
fn nothing_is_swapped_and_huge_pages_are_limited() {
    let resources = made(r#""resources":{"limits":{"memory":"2Gi","hugepages-2Mi":"4Mi"}}"#).linux.resources;
    assert_eq!(resources.memory_swap_limit_in_bytes, 2 << 30);
    assert_eq!(resources.unified["memory.swap.max"], "0");
    let limit = |size: &str| resources.hugepage_limits.iter().find(|limit| limit.page_size == size).unwrap().limit;
    assert_eq!((limit("2MB"), limit("1GB")), (4 << 20, 0));
}

#[test]
fn the_pods_group_and_profiles_are_given_on() {
    let pod = pod(r#""securityContext":{"fsGroup":5,"supplementalGroups":[3],"seLinuxOptions":{"level":"s0"},
        "seccompProfile":{"type":"Localhost","localhostProfile":"profiles/a.json"}},"containers":[{"name":"a"}]"#);
    let parts = Parts { attempt: 0, envs: vec![], mounts: vec![], image_ref: String::new() };
    let security = container(&pod, &pod.spec.as_ref().unwrap().containers[0], parts, &node()).linux.security_context;
    assert_eq!(security.run_as.supplemental_groups, [5, 3]);
    assert_eq!(security.seccomp, SecurityProfile::Localhost("/var/lib/kubelet/seccomp/profiles/a.json".into()));
    assert_eq!(security.selinux_options.unwrap().level, "s0");
}

#[test]
fn only_what_the_node_cannot_do_without_is_spared() {
    let score = |spec: &str| {
        let pod = pod(&format!(r#"{spec},"containers":[{{"name":"a"}}]"#));
        oom_score(&pod, &pod.spec.as_ref().unwrap().containers[0], 8 << 30)
    };
    assert_eq!(score(r#""priority":2000001000,"priorityClassName":"system-node-critical""#), -997);
    assert_eq!(score(r#""priority":2000000000,"priorityClassName":"system-cluster-critical""#), 999);
}

#[test]
fn a_sidecar_goes_no_sooner_than_what_it_serves() {
    let pod = pod(r#""initContainers":[{"name":"s","restartPolicy":"Always"},{"name":"i"}],
        "containers":[{"name":"a","resources":{"requests":{"memory":"1Gi"}}},{"name":"b","resources":{"requests":{"memory":"2Gi"}}}]"#);
    let inits = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap();
    let score = |container: &Container| oom_score(&pod, container, 8 << 30);
    assert_eq!((score(&inits[0]), score(&inits[1])), (875, 999));
}

#[test]
fn what_a_pod_requests_as_a_whole_is_shared_out() {
    let mut pod = pod(r#""resources":{"requests":{"memory":"3Gi"}},
        "containers":[{"name":"a","resources":{"requests":{"memory":"1Gi"}}},{"name":"b"}]"#);
    let score = |pod: &Pod, index: usize| oom_score(pod, &pod.spec.as_ref().unwrap().containers[index], 8 << 30);
    assert_eq!((score(&pod, 0), score(&pod, 1)), (750, 875));
    pod.spec.as_mut().unwrap().resources = None;
    assert_eq!((score(&pod, 0), score(&pod, 1)), (875, 999));
}

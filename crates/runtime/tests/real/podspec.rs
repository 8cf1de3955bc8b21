//! Fields of a pod, tried from inside: images as volumes, profiles, handlers, namespaces of the host, and ways out that
//! were once found in container runtimes.

use std::os::unix::fs::symlink;

use cri::{IdRange, ImageSpec, Mount, NamespaceMode, RunAs, RuntimeService, SecurityProfile};

use crate::world::{command, script, with_world};

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn an_image_is_seen_as_a_volume_and_not_executed() {
    with_world("image-volume", async |world| {
        let sandbox = world.sandbox().await;
        let image = || Some(ImageSpec::named("busybox"));
        let volume = |path: &str, below: &str| Mount {
            container_path: path.into(),
            sub_path: below.into(),
            image: image(),
            ..Mount::default()
        };
        let look = "head -n 1 /image/etc/passwd; head -n 1 /etc-only/group; echo x > /image/new; /image/bin/busybox true; echo $?";
        let mut config = script("app", look);
        config.mounts = vec![volume("/image", ""), volume("/etc-only", "etc")];
        let text = world.output(&sandbox, config).await;
        let expected = [
            "/bin/sh: /image/bin/busybox: Permission denied",
            "/bin/sh: can't create /image/new: Read-only file system",
            "126",
            "root:x:0:",
            "root:x:0:0::/root:/bin/sh",
        ];
        assert_eq!(sorted(&text), expected);
        // A link in the image leads nowhere outside of it.
        symlink("/", world.folder.join("layer/out")).unwrap();
        let mut config = command("escape", &["true"]);
        config.mounts = vec![volume("/x", "out/proc")];
        let id = world.create(&sandbox, config).await.unwrap();
        assert!(world.runtime.start_container(&id).await.is_err(), "a sub path left its image");
        let mut config = command("missing", &["true"]);
        config.mounts = vec![Mount { image: Some(ImageSpec::named("none")), ..volume("/x", "") }];
        let refused = world.create(&sandbox, config).await;
        assert!(refused.is_err_and(|error| error.is_not_found()));
    });
}

#[test]
fn profiles_of_the_machine_filter_calls() {
    with_world("seccomp", async |world| {
        let sandbox = world.sandbox().await;
        let profile = world.folder.join("profile.json");
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":17},
            {"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":10,"op":"SCMP_CMP_EQ"}]}]}"#;
        std::fs::write(&profile, text).unwrap();
        let localhost = |path: &std::path::Path| SecurityProfile::Localhost(path.to_string_lossy().into_owned());
        let look =
            "mkdir /tmp/new; kill -USR1 1; kill -CONT 1 && echo sent; grep -E '^Seccomp:' /proc/self/status | cut -f2";
        let mut config = script("app", look);
        config.linux.security_context.seccomp = localhost(&profile);
        let text = world.output(&sandbox, config).await;
        let expected = [
            "2",
            "mkdir: can't create directory '/tmp/new': File exists",
            "sent",
            "sh: can't kill pid 1: Operation not permitted",
        ];
        assert_eq!(sorted(&text), expected);
        let mut config = command("absent", &["true"]);
        config.linux.security_context.seccomp = localhost(&world.folder.join("absent.json"));
        let refused = world.create(&sandbox, config).await.unwrap_err().to_string();
        assert!(refused.starts_with("cannot load seccomp profile"), "{refused}");
    });
}

#[test]
fn an_unknown_handler_is_refused() {
    with_world("handler", async |world| {
        let mut config = world.sandbox_config("one");
        config.runtime_handler = "kata".into();
        let refused = world.runtime.run_pod_sandbox(config.clone()).await.unwrap_err();
        assert_eq!(refused.to_string(), "failed to get sandbox runtime: no runtime for \"kata\" is configured");
        config.runtime_handler = "isopod".into();
        let sandbox = world.runtime.run_pod_sandbox(config).await.unwrap();
        assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().runtime_handler, "isopod");
    });
}

#[test]
fn processes_and_messages_of_the_host_are_seen_when_asked_for() {
    with_world("host-namespaces", async |world| {
        let mut config = world.sandbox_config("one");
        config.linux.security_context.namespace_options.pid = NamespaceMode::Node;
        config.linux.security_context.namespace_options.ipc = NamespaceMode::Node;
        let sandbox = world.runtime.run_pod_sandbox(config).await.unwrap();
        let mut config = script("app", "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc");
        config.linux.security_context.namespace_options.pid = NamespaceMode::Node;
        config.linux.security_context.namespace_options.ipc = NamespaceMode::Node;
        let text = world.output(&sandbox, config).await;
        let own = ["pid", "ipc"].map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
        assert_eq!(text.lines().collect::<Vec<_>>(), own.map(|link| link.to_string_lossy().into_owned()));
    });
}

#[test]
fn what_is_mounted_below_can_be_kept_from_writing_too() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    with_world("recursive", async |world| {
        let sandbox = world.sandbox().await;
        let volume = world.folder.join("volume");
        std::fs::create_dir_all(volume.join("inner")).unwrap();
        mount("isopod-test", volume.join("inner"), "tmpfs", MountFlags::empty(), None).unwrap();
        let seen = |path: &str, recursive| Mount {
            container_path: path.into(),
            host_path: volume.to_string_lossy().into_owned(),
            readonly: true,
            recursive_read_only: recursive,
            ..Mount::default()
        };
        let mut config = script("app", "touch /a/inner/x && echo written; touch /b/inner/x");
        config.mounts = vec![seen("/a", false), seen("/b", true)];
        let text = world.output(&sandbox, config).await;
        unmount(volume.join("inner"), UnmountFlags::DETACH).unwrap();
        assert_eq!(sorted(&text), ["touch: /b/inner/x: Read-only file system", "written"]);
    });
}

#[test]
fn a_mount_that_nobody_shares_cannot_be_propagated() {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    with_world("unshared", async |world| {
        let sandbox = world.sandbox().await;
        let volume = world.folder.join("volume");
        std::fs::create_dir(&volume).unwrap();
        mount("isopod-test", &volume, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&volume, MountPropagationFlags::PRIVATE).unwrap();
        let path = volume.to_string_lossy().into_owned();
        let mut config = command("app", &["true"]);
        config.mounts = vec![Mount {
            container_path: "/v".into(),
            host_path: path.clone(),
            propagation: cri::MountPropagation::Bidirectional,
            ..Mount::default()
        }];
        let refused = world.create(&sandbox, config).await;
        unmount(&volume, UnmountFlags::DETACH).unwrap();
        let expected = format!(
            "failed to prepare mount \"/v\": path {path:?} is mounted on {path:?} but it is not a shared mount"
        );
        assert_eq!(refused.unwrap_err().to_string(), expected);
    });
}

/// A container swaps a folder of its volume for a link to the host's while another one is being made with a sub path
/// there. Whatever comes first, nothing of the host is ever seen.
#[test]
fn a_sub_path_that_becomes_a_link_meanwhile_leads_nowhere() {
    with_world("race", async |world| {
        let sandbox = world.sandbox().await;
        let volume = world.folder.join("volume");
        std::fs::create_dir_all(volume.join("real")).unwrap();
        let outside = world.folder.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "of the host").unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        let host_path = volume.to_string_lossy().into_owned();
        let whole = Mount { container_path: "/v".into(), host_path: host_path.clone(), ..Mount::default() };
        let swap = "while :; do mv /v/real /v/path; mv /v/path /v/real; mv /v/link /v/path; mv /v/path /v/link; done";
        let mut config = script("swapper", swap);
        config.mounts = vec![whole];
        world.start(&sandbox, config).await;
        let mut mounted = 0;
        for number in 0..30 {
            let mut config = script(&format!("victim-{number}"), "cat /seen/secret 2>/dev/null; echo done");
            config.mounts = vec![Mount {
                container_path: "/seen".into(),
                host_path: host_path.clone(),
                sub_path: "path".into(),
                ..Mount::default()
            }];
            let Ok(id) = world.create(&sandbox, config).await else { continue };
            if world.runtime.start_container(&id).await.is_ok() {
                mounted += 1;
            }
            let mut events = world.runtime.events();
            while world.status(&id).await.state == cri::ContainerState::Running {
                events.next().await;
            }
            let said = std::fs::read_to_string(world.status(&id).await.log_path).unwrap_or_default();
            assert!(!said.contains("of the host"), "{said}");
        }
        println!("{mounted} of 30 were mounted");
    });
}

/// Programs of the host that run in a container have been overwritten through `/proc/self/exe`, and its files reached
/// through descriptors that were left open.
#[test]
fn nothing_of_the_host_is_reached_through_proc() {
    with_world("proc-self", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, script("app", "exec sleep 1000")).await;
        let look = "for pid in /proc/[0-9]*; do readlink $pid/exe; done | grep -v '^/bin/busybox$'; \
                    for file in /proc/[0-9]*/fd/*; do readlink $file; done | grep '^/' | grep -v -E '^/(dev/null|proc)'; \
                    cat /proc/1/root/etc/passwd | head -n 1; ls /proc/1/cwd/ | head -n 1; echo end";
        let cmd = ["/bin/sh", "-c", look].map(str::to_owned).to_vec();
        let answer = world.runtime.exec_sync(&id, cmd, std::time::Duration::ZERO).await.unwrap();
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert_eq!(said, "root:x:0:0::/root:/bin/sh\nbin\nend\n");
    });
}

/// A container that may mount (but owns no machine) finds its own control groups only, and none to write a release
/// agent to.
#[test]
fn control_groups_are_no_way_out() {
    with_world("release-agent", async |world| {
        let sandbox = world.sandbox().await;
        let look = "mkdir /tmp/groups && mount -t cgroup -o memory cgroup /tmp/groups; \
                    find /sys/fs/cgroup /tmp/groups -name release_agent | wc -l; \
                    echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /proc/self/cgroup | grep -v ':/$' | wc -l";
        let mut config = script("app", look);
        config.linux.security_context.seccomp = SecurityProfile::RuntimeDefault;
        let text = world.output(&sandbox, config).await;
        assert!(!text.contains("mounted"), "{text}");
        let lines = sorted(&text);
        assert!(lines.contains(&"mount: permission denied (are you root?)"), "{text}");
        assert_eq!(lines.iter().filter(|line| **line == "0").count(), 2, "{text}");
        assert!(text.contains("Read-only file system") || text.contains("nonexistent directory"), "{text}");
    });
}

#[test]
fn users_of_a_pods_own_are_others_on_the_machine() {
    use std::os::unix::fs::MetadataExt as _;
    const RANGE: IdRange = IdRange { first: 720_896, length: 65_536 };
    with_world("own-users", async |world| {
        let mut config = world.sandbox_config("one");
        config.linux.security_context.namespace_options.users = Some(RANGE);
        let sandbox = world.runtime.run_pod_sandbox(config).await.unwrap();
        let volume = world.folder.join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("theirs"), "seen\n").unwrap();
        std::os::unix::fs::chown(volume.join("theirs"), Some(1000), Some(2000)).unwrap();
        let mount = || Mount {
            container_path: "/data".into(),
            host_path: volume.to_string_lossy().into_owned(),
            ..Mount::default()
        };
        // What a container of the pod is to the machine, and what the machine's files are to it.
        let look = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; stat -c '%u:%g' /data/theirs /bin/busybox /dev /; \
                    cat /data/theirs; touch /data/root /tmp/root /dev/shm/root /made && stat -c %u /data/root /tmp/root /dev/shm/root; \
                    chown 1234:2345 /data/root && echo given; echo mine >/dev/stderr; hostname other && hostname; \
                    cat /proc/1/environ >/dev/null && echo own; mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted; \
                    (echo 1 >/proc/sys/kernel/panic) 2>/dev/null && echo OUT; test -c /dev/null && echo x >/dev/null && echo null";
        let mut container = script("root", look);
        container.mounts = vec![mount()];
        container.linux.security_context.privileged = false;
        container.linux.security_context.capabilities.add_capabilities = vec!["SYS_ADMIN".into()];
        let text = world.output(&sandbox, container).await;
        let expected = " 0 720896 65536\n 0 720896 65536\n0\n1000:2000\n0:0\n0:0\n0:0\nseen\n0\n0\n0\ngiven\nmine\nother\nown\nmounted\nnull\n";
        assert_eq!(sorted(&text), sorted(expected), "{text}");
        let owner = |file: &str| std::fs::metadata(volume.join(file)).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!((owner("root"), owner("theirs")), ((1234, 2345), (1000, 2000)));
        // Further processes, with and without a terminal, are among the same users.
        let mut container = command("app", &["sleep", "1000"]);
        container.mounts = vec![mount()];
        container.linux.security_context.run_as = RunAs { user: Some(1000), group: Some(2000), ..RunAs::default() };
        let id = world.start(&sandbox, container).await;
        let pid = world.status(&id).await.linux.pid.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t721896\t721896"), "{status}");
        for kind in ["net", "ipc", "uts", "mnt"] {
            let link = |path: &str| std::fs::read_link(path).unwrap();
            assert_ne!(link(&format!("/proc/{pid}/ns/{kind}")), link(&format!("/proc/self/ns/{kind}")));
        }
        let look = ["sh", "-c", "id -u; tr -s ' ' </proc/self/uid_map; echo x >>/data/theirs && cat /data/theirs"];
        let look: Vec<String> = look.iter().map(ToString::to_string).collect();
        let answer = world.runtime.exec_sync(&id, look, std::time::Duration::from_secs(10)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "1000\n 0 720896 65536\nseen\nx\n", "{answer:?}");
    });
}

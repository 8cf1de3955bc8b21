//! What a container sees and may do.

use cri::{Capability, MASKED_PATHS, Mount, NamespaceMode, READONLY_PATHS, RunAs, RuntimeService, SecurityProfile};

use crate::world::{command, processes_of, script, with_world};

fn mount(host_path: &std::path::Path, container_path: &str) -> Mount {
    Mount {
        host_path: host_path.to_string_lossy().into_owned(),
        container_path: container_path.into(),
        ..Mount::default()
    }
}

#[test]
fn it_is_process_one_with_three_files_and_nothing_of_the_host() {
    with_world("view", async |world| {
        let sandbox = world.sandbox().await;
        let look = "echo $$; readlink /proc/1/exe; ls -d /proc/[0-9]* | wc -l; \
                    ls / | tr '\\n' ' '; echo; hostname; cat /etc/hostname /etc/resolv.conf; \
                    ip -o addr show lo | grep -c 127.0.0.1; ls /dev | tr '\\n' ' '; echo; \
                    cat /proc/sys/net/ipv4/ip_unprivileged_port_start; readlink /proc/self/fd/0; pwd; echo $HOME $HOSTNAME";
        let text = world.output(&sandbox, script("look", look)).await;
        let expected = "1\n/bin/busybox\n3\n\
                        bin dev etc home proc sys tmp \ntest-pod\ntest-pod\nnameserver 10.96.0.10\n1\n\
                        fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n\
                        0\n/dev/null\n/\n/root test-pod\n";
        assert_eq!(text, expected);
        // The fourth is the folder that it reads.
        let files = world.output(&sandbox, command("files", &["ls", "/proc/self/fd"])).await;
        assert_eq!(files, "0\n1\n2\n3\n");
        let mounts = world.output(&sandbox, script("mounts", "cat /proc/mounts")).await;
        assert!(!mounts.contains(&*world.folder.to_string_lossy()), "{mounts}");
    });
}

#[test]
fn it_may_have_as_many_files_open_as_it_is_given() {
    with_world("files", async |world| {
        let sandbox = world.sandbox().await;
        let text = world.output(&sandbox, script("limits", "ulimit -n; ulimit -Hn")).await;
        assert_eq!(text, "600\n700\n");
    });
}

#[test]
fn privileges_are_few_unless_asked_for() {
    with_world("privileges", async |world| {
        let sandbox = world.sandbox().await;
        let status =
            "grep -E 'CapInh|CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | cut -f2 | tr '\\n' ' '";
        let plain = world.output(&sandbox, script("plain", status)).await;
        assert_eq!(plain, "0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0 0 \n");

        let mut config =
            script("restricted", &format!("{status}; echo; mount -t tmpfs x /tmp; unshare -U true; echo done"));
        let security = &mut config.linux.security_context;
        security.capabilities = Capability {
            add_capabilities: vec!["SYS_TIME".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Capability::default()
        };
        security.no_new_privs = true;
        security.seccomp = SecurityProfile::RuntimeDefault;
        let text = world.output(&sandbox, config).await;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "0000000000000000 0000000002000000 0000000002000000 0000000002000000 1 2 ",
                "done",
                "mount: permission denied (are you root?)",
                "unshare: unshare(0x10000000): Operation not permitted",
            ]
        );
    });
}

#[test]
fn users_and_groups_are_those_asked_for() {
    with_world("users", async |world| {
        let sandbox = world.sandbox().await;
        let mut config = script("app", "id; echo $HOME; echo mine > /dev/stderr; cat /proc/self/oom_score_adj");
        config.linux.security_context.run_as =
            RunAs { user: Some(1000), group: Some(2000), supplemental_groups: vec![3000], ..RunAs::default() };
        config.linux.resources.oom_score_adj = 500;
        let text = world.output(&sandbox, config).await;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["/", "500", "mine", "uid=1000 gid=2000 groups=2000,3000"]);
    });
}

#[test]
fn volumes_are_seen_as_asked_for() {
    with_world("volumes", async |world| {
        let sandbox = world.sandbox().await;
        let volume = world.folder.join("volume");
        std::fs::create_dir_all(volume.join("inside")).unwrap();
        std::fs::write(volume.join("inside/file"), "content\n").unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
        let mut config = script(
            "app",
            "cat /data/inside/file /file; echo x > /data/new && echo written; echo x > /ro/new; echo x > /new; \
             echo x > /deep/er/new && echo made; cat /etc/hosts",
        );
        let hosts = world.folder.join("hosts");
        std::fs::write(&hosts, "my hosts\n").unwrap();
        config.mounts = vec![
            mount(&volume, "/data"),
            Mount { readonly: true, ..mount(&volume, "/ro") },
            Mount { sub_path: "inside/file".into(), ..mount(&volume, "/file") },
            Mount { sub_path: "sub/made".into(), ..mount(&volume, "/deep/er") },
            mount(&hosts, "/etc/hosts"),
        ];
        config.linux.security_context.readonly_rootfs = true;
        let text = world.output(&sandbox, config.clone()).await;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "/bin/sh: can't create /new: Read-only file system",
                "/bin/sh: can't create /ro/new: Read-only file system",
                "content",
                "content",
                "made",
                "my hosts",
                "written",
            ]
        );
        assert!(volume.join("new").exists() && volume.join("sub/made/new").exists());
        config.metadata.name = "escape".into();
        config.mounts = vec![Mount { sub_path: "escape/passwd".into(), ..mount(&volume, "/x") }];
        let refused = world.create(&sandbox, config).await;
        assert!(matches!(refused, Err(cri::Error::Mount { .. })), "{refused:?}");
    });
}

/// Images link `/etc/resolv.conf` to where nothing is, or to where something of the host would be.
#[test]
fn links_of_the_image_lead_nowhere_outside() {
    with_world("links", async |world| {
        let sandbox = world.sandbox().await;
        let etc = world.folder.join("layer/etc");
        std::os::unix::fs::symlink("../run/resolve/stub.conf", etc.join("resolv.conf")).unwrap();
        std::os::unix::fs::symlink(world.folder.join("outside"), etc.join("hosts")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", world.folder.join("layer/up")).unwrap();
        let volume = world.folder.join("volume");
        std::fs::create_dir(&volume).unwrap();
        let mut config = script(
            "app",
            "cat /etc/resolv.conf /run/resolve/stub.conf; ls -d /inside; test -s /etc/hosts && echo hosts",
        );
        config.mounts = vec![mount(&volume, "/up/inside")];
        let text = world.output(&sandbox, config).await;
        assert_eq!(text, "nameserver 10.96.0.10\nnameserver 10.96.0.10\n/inside\nhosts\n");
        assert!(!world.folder.join("outside").exists());
    });
}

#[test]
fn proc_and_sys_are_guarded() {
    with_world("masks", async |world| {
        let sandbox = world.sandbox().await;
        let attempts = "cat /proc/interrupts | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/printk; \
                        echo 1 > /sys/kernel/profiling; \
                        mkdir /sys/fs/cgroup/memory/x; mknod /disk b 254 0 && cat /disk | head -c 1";
        let mut config = script("app", attempts);
        config.linux.security_context.masked_paths = MASKED_PATHS.map(str::to_owned).to_vec();
        config.linux.security_context.readonly_paths = READONLY_PATHS.map(str::to_owned).to_vec();
        let text = world.output(&sandbox, config).await;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "/bin/sh: can't create /proc/sys/kernel/printk: Read-only file system",
                "/bin/sh: can't create /sys/kernel/profiling: Read-only file system",
                "0",
                "0",
                "cat: can't open '/disk': Operation not permitted",
                "mkdir: can't create directory '/sys/fs/cgroup/memory/x': Read-only file system",
            ]
        );
    });
}

#[test]
fn containers_of_a_pod_share_what_they_should() {
    with_world("shared", async |world| {
        let mut sandbox = world.sandbox_config("one");
        sandbox.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
        sandbox.linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        let sandbox = world.runtime.run_pod_sandbox(sandbox).await.unwrap();
        let mut first = script("first", "echo shared > /dev/shm/x; exec sleep 1000");
        first.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
        let first = world.start(&sandbox, first).await;
        let mut second = script(
            "second",
            "until test -e /dev/shm/x; do :; done; cat /dev/shm/x /proc/sys/kernel/shm_rmid_forced; \
             until ps -o args | grep -q '^sleep 1000'; do :; done; \
             grep -E '^(Name|Uid|CapPrm|CapBnd|NoNewPrivs)' /proc/1/status | tr '\\t\\n' '  '; echo; \
             ls -A /proc/1/root/ | wc -l; kill -9 1; kill -9 $(pidof sleep)",
        );
        let security = &mut second.linux.security_context;
        security.namespace_options.pid = NamespaceMode::Pod;
        // Even who may trace what keeps the namespace finds nothing there.
        security.capabilities.add_capabilities = vec!["SYS_PTRACE".into()];
        let text = world.output(&sandbox, second).await;
        let keeper = "Name: pause Uid: 65535 65535 65535 65535 CapPrm: 0000000000000000 CapBnd: 0000000000000000 \
                      NoNewPrivs: 1 ";
        assert_eq!(text, format!("shared\n1\n{keeper}\n0\n"));
        let mut events = world.runtime.events();
        while world.status(&first).await.state != cri::ContainerState::Exited {
            events.next().await;
        }
        assert_eq!(world.status(&first).await.exit.exit_code, 137);
    });
}

#[test]
fn the_hosts_network_is_shared_only_when_asked_for() {
    with_world("host-network", async |world| {
        let mut config = world.sandbox_config("one");
        config.linux.security_context.namespace_options.network = NamespaceMode::Node;
        let sandbox = world.runtime.run_pod_sandbox(config).await.unwrap();
        let status = world.runtime.pod_sandbox_status(&sandbox).await.unwrap();
        assert_eq!(status.network.ip, None);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let text = world.output(&sandbox, script("app", "readlink /proc/self/ns/net")).await;
        assert_eq!(text.trim(), own.to_string_lossy());
        assert!(world.network.attached.lock().unwrap().is_empty());
    });
}

#[test]
fn a_supervisor_is_small_and_sealed() {
    with_world("supervisor", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, script("app", "seq 1 10000; exec sleep 1000")).await;
        while crate::world::log(&world.status(&id).await).len() < 10_000 {
            tokio::task::yield_now().await;
        }
        let [pid] = processes_of(&world.folder.to_string_lossy())[..] else { panic!("one supervisor") };
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kilobytes = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let private = kilobytes("Private_Dirty:");
        assert!(private <= 300, "{private} KB private");
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert!(exe.to_string_lossy().starts_with("/memfd:isopod-shim"), "{exe:?}");
        let opened = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/exe"));
        assert!(opened.is_err(), "a running program cannot be opened for writing");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let parent: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_ne!(parent, std::process::id(), "it is nobody's child");
        println!("supervisor: {private} KB private");
    });
}

#[test]
fn mounts_are_seen_by_the_other_side_when_asked_for() {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_now, mount_change, unmount};
    with_world("propagation", async |world| {
        let sandbox = world.sandbox().await;
        let shared = world.folder.join("shared");
        std::fs::create_dir_all(&shared).unwrap();
        mount_now("isopod-test", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        for name in ["inside", "outside"] {
            std::fs::create_dir(shared.join(name)).unwrap();
        }
        let volume = |propagation, container_path: &str| Mount { propagation, ..mount(&shared, container_path) };
        let text = "mount -t tmpfs x /both/inside && touch /both/inside/made && echo mounted; \
                    until test -e /slave/outside/made; do :; done; test -e /none/outside/made || echo hidden";
        let mut config = script("app", text);
        config.linux.security_context.privileged = true;
        config.mounts = vec![
            volume(cri::MountPropagation::Bidirectional, "/both"),
            volume(cri::MountPropagation::HostToContainer, "/slave"),
            volume(cri::MountPropagation::Private, "/none"),
        ];
        let id = world.start(&sandbox, config).await;
        while !shared.join("inside/made").exists() {
            tokio::task::yield_now().await;
        }
        mount_now("isopod-test", shared.join("outside"), "tmpfs", MountFlags::empty(), None).unwrap();
        std::fs::write(shared.join("outside/made"), "").unwrap();
        let mut events = world.runtime.events();
        while world.status(&id).await.state != cri::ContainerState::Exited {
            events.next().await;
        }
        for folder in [shared.join("outside"), shared.join("inside"), shared] {
            unmount(&folder, UnmountFlags::DETACH).unwrap();
        }
        let text: Vec<String> = crate::world::log(&world.status(&id).await).into_iter().map(|line| line.2).collect();
        assert_eq!(text, ["mounted", "hidden"]);
    });
}

/// The machine's tree of version 2 has hardly a controller, but everything else of it works.
#[test]
fn control_groups_of_version_2_work() {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
    let root = root.into_iter().find(|root| root.join("cgroup.controllers").exists()).expect("version 2 is mounted");
    with_world("unified", async |world| {
        world.options.cgroup_root = root.to_owned();
        world.reopen().await;
        let sandbox = world.sandbox().await;
        let look = "cat /proc/self/cgroup | grep '^0::'; ls /sys/fs/cgroup | grep -c cgroup.procs; \
                    mknod /disk b 254 0 && cat /disk | head -c 1; echo x > /dev/null && exec sleep 1000";
        let id = world.start(&sandbox, script("app", look)).await;
        while crate::world::log(&world.status(&id).await).len() < 3 {
            tokio::task::yield_now().await;
        }
        let mut text: Vec<String> =
            crate::world::log(&world.status(&id).await).into_iter().map(|line| line.2).collect();
        text.sort();
        assert_eq!(text, ["0::/", "1", "cat: can't open '/disk': Operation not permitted"]);
        let group = root.join(format!("{}/pod-one/{id}", &world.cgroup[1..]));
        let pid = world.status(&id).await.linux.pid.unwrap();
        let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(members.lines().any(|member| member == pid.to_string()), "{pid} is not in {members}");
        let cmd = ["cat", "/proc/self/cgroup"].map(str::to_owned).to_vec();
        let answer = world.runtime.exec_sync(&id, cmd, std::time::Duration::ZERO).await.unwrap();
        assert!(String::from_utf8_lossy(&answer.stdout).lines().any(|line| line == "0::/"));
    });
}

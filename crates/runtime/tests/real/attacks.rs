//! Ways out of a container that were found in the world's runtimes, tried on this one. Each names the CVE of its kind.

use std::os::unix::fs::symlink;

use cri::{ContainerState, MASKED_PATHS, Mount, RuntimeService};

use crate::world::{World, command, script, with_world};

/// Makes and starts a container if that can be done, and answers what it said to its end; else why not.
async fn attempt(world: &World, sandbox: &str, config: cri::ContainerConfig) -> Result<String, String> {
    let id = world.create(sandbox, config).await.map_err(|error| error.to_string())?;
    let started = world.runtime.start_container(&id).await;
    let mut events = world.runtime.events();
    while world.status(&id).await.state == ContainerState::Running {
        events.next().await;
    }
    let said = std::fs::read_to_string(world.status(&id).await.log_path).unwrap_or_default();
    started.map(|()| said).map_err(|error| error.to_string())
}

/// CVE-2021-30465: a volume is mounted inside another one, where a second container swaps the mount point for a link.
#[test]
fn a_mount_point_that_becomes_a_link_meanwhile_leads_nowhere() {
    with_world("target-race", async |world| {
        let sandbox = world.sandbox().await;
        let (volume, inner, outside) =
            (world.folder.join("volume"), world.folder.join("inner"), world.folder.join("outside"));
        for folder in [&volume.join("real"), &inner, &outside] {
            std::fs::create_dir_all(folder).unwrap();
        }
        symlink(&outside, volume.join("link")).unwrap();
        symlink("../../../../../../../../", volume.join("up")).unwrap();
        let mount = |host: &std::path::Path, inside: &str| Mount {
            host_path: host.to_string_lossy().into_owned(),
            container_path: inside.into(),
            ..Mount::default()
        };
        let mut config = script(
            "swapper",
            "while :; do for kind in real link up; do mv /v/$kind /v/path; mv /v/path /v/$kind; done; done",
        );
        config.mounts = vec![mount(&volume, "/v")];
        world.start(&sandbox, config).await;
        let top = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().count();
        let (roots, mut mounted) = (top(std::path::Path::new("/")), 0);
        for number in 0..30 {
            let mut config = script(&format!("victim-{number}"), "echo done");
            config.mounts = vec![mount(&volume, "/v"), mount(&inner, "/v/path/point")];
            mounted += u32::from(attempt(world, &sandbox, config).await.is_ok());
            assert_eq!(top(&outside), 0, "a mount point was made in the host's folder");
        }
        println!("{mounted} of 30 were mounted");
        assert_eq!(top(std::path::Path::new("/")), roots, "a mount point was made at the host's root");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*outside.to_string_lossy()) && !mounts.contains("/point"), "{mounts}");
    });
}

/// CVE-2023-27561: an image links `/proc` into a volume, from where another container moves it before it is masked.
#[test]
fn the_kernels_files_are_not_where_an_image_links_them() {
    for name in ["proc", "sys"] {
        with_world(&format!("linked-{name}"), async |world| {
            let sandbox = world.sandbox().await;
            symlink("tmp/elsewhere", world.folder.join("layer").join(name)).unwrap();
            let mut config = script("app", "echo started");
            config.linux.security_context.masked_paths = MASKED_PATHS.map(str::to_owned).to_vec();
            let why = attempt(world, &sandbox, config).await.unwrap_err();
            assert!(why.contains("must be mounted on ordinary directory"), "{why}");
        });
    }
}

/// CVE-2024-21626: a working directory that is one of the runtime's open files.
#[test]
fn no_open_file_is_a_working_directory() {
    with_world("leaked", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, script("app", "exec sleep 1000")).await;
        for number in 0..16 {
            for pid in ["self", "1"] {
                let mut config = command(&format!("fd-{pid}-{number}"), &["/bin/ls", "-a", "../../../../../.."]);
                config.working_dir = format!("/proc/{pid}/fd/{number}");
                let Ok(said) = attempt(world, &sandbox, config).await else { continue };
                assert!(!said.contains("lost+found") && !said.contains("root"), "{number}: {said}");
            }
            let look = format!("cd /proc/self/fd/{number} 2>/dev/null && ls ../../../../.. | grep -x root; true");
            let words = ["/bin/sh", "-c", &look].map(str::to_owned).to_vec();
            let answer = world.runtime.exec_sync(&id, words, std::time::Duration::ZERO).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer.stdout), "", "descriptor {number}");
        }
    });
}

/// CVE-2025-31133 and CVE-2025-52565: what masks files, and the console, are taken from the container, which has put links
/// there.
#[test]
fn masks_and_terminals_are_not_taken_from_the_container() {
    with_world("masks", async |world| {
        let sandbox = world.sandbox().await;
        let victim = world.folder.join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        let dev = world.folder.join("layer/dev");
        std::fs::create_dir_all(&dev).unwrap();
        // A volume over `/dev`, full of links, so that these are there when masks and terminal are made.
        let volume = world.folder.join("devices");
        std::fs::create_dir(&volume).unwrap();
        for name in ["null", "console", "ptmx", "pts", "shm", "mqueue"] {
            symlink(&victim, dev.join(name)).unwrap();
            symlink("/proc/sys/kernel/core_pattern", volume.join(name)).unwrap();
        }
        let pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
        for over in [false, true] {
            let mut config = script(&format!("app-{over}"), "cat /proc/interrupts | wc -c; ls /sys/firmware | wc -l");
            config.terminal.tty = true;
            config.linux.security_context.masked_paths = MASKED_PATHS.map(str::to_owned).to_vec();
            if over {
                let host_path = volume.to_string_lossy().into_owned();
                config.mounts = vec![Mount { host_path, container_path: "/dev".into(), ..Mount::default() }];
            }
            if let Ok(said) = attempt(world, &sandbox, config).await {
                let counts: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
                assert_eq!(counts, ["0", "0"], "{said}");
            }
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    });
}

/// CVE-2022-0811: a kernel parameter that brings another one along.
#[test]
fn a_kernel_parameter_brings_no_other() {
    with_world("sysctl", async |world| {
        let pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
        for (name, value) in [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/evil"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/bin/evil"),
            ("kernel.shm_rmid_forced/../core_pattern", "|/bin/evil"),
            ("kernel.shm_rmid_forced/../../../../../../../tmp/evil", "x"),
        ] {
            let mut config = world.sandbox_config("one");
            config.linux.sysctls.insert(name.into(), value.into());
            // Refused, or as much of it taken as is a value of this parameter.
            if let Ok(id) = world.runtime.run_pod_sandbox(config).await {
                world.runtime.remove_pod_sandbox(&id).await.unwrap();
            }
            assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern, "{name} {value}");
        }
        assert!(!std::path::Path::new("/tmp/evil").exists());
    });
}

/// What a container writes without end comes to an end where it is kept: logs, and the pod's own files, which lie on disk
/// and not with the runtime's state. CVE-2020-8557, CVE-2022-31030.
#[test]
fn what_is_written_without_end_does_not_fill_the_runtime() {
    with_world("flood", async |world| {
        world.options.log_bytes_max = 100 << 10;
        world.reopen().await;
        let sandbox = world.sandbox().await;
        let flood = "for file in hosts hostname resolv.conf; do head -c 1000000 /dev/zero >> /etc/$file; done; \
                     head -c 20000000 /dev/zero | tr '\\0' x; yes | head -n 500000";
        let status = world.run(&sandbox, script("app", flood)).await;
        let logs = std::path::Path::new(&status.log_path).parent().unwrap();
        let kept = stdx::disk::usage(logs).unwrap().bytes;
        assert!(kept <= 2 << 20, "{kept} bytes of logs");
        let state = stdx::disk::usage(&world.folder.join("state")).unwrap().bytes;
        assert!(state < 1 << 20, "{state} bytes in the folder of the runtime's state");
        let id = world.start(&sandbox, script("other", "exec sleep 1000")).await;
        let words = ["/bin/sh", "-c", "yes"].map(str::to_owned).to_vec();
        let answer = world.runtime.exec_sync(&id, words, std::time::Duration::from_secs(2)).await;
        let length = answer.map(|answer| answer.stdout.len()).unwrap_or_default();
        assert!(length <= 16 << 20, "{length} bytes were kept");
        let stats = world.runtime.container_stats(&status.id).await.unwrap();
        assert!(stats.writable_layer.unwrap().used_bytes < 1 << 20);
    });
}

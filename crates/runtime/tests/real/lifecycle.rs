//! Starting, ending, logging, limiting.

use std::time::Duration;

use cri::{
    ContainerEventType, ContainerFilter, ContainerState, Error, LinuxContainerResources, PodSandboxState, RuntimeEvent,
    RuntimeService, Terminal,
};

use crate::world::{command, log, parse_log, script, with_world};

fn line(stream: &str, tag: &str, text: &str) -> (String, String, String) {
    (stream.to_owned(), tag.to_owned(), text.to_owned())
}

#[test]
fn a_container_runs_logs_and_ends_with_its_code() {
    with_world("runs", async |world| {
        let mut events = world.runtime.events();
        let sandbox = world.sandbox().await;
        let status = world.run(&sandbox, script("app", "echo out; echo err >&2; printf rest; exit 3")).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (3, "Error"));
        assert!(status.times.created_at <= status.times.started_at);
        assert!(status.times.started_at <= status.times.finished_at);
        let mut lines = log(&status);
        lines.sort();
        assert_eq!(lines, [line("stderr", "F", "err"), line("stdout", "F", "out"), line("stdout", "P", "rest")]);
        let status = world.run(&sandbox, script("ok", "true")).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (0, "Completed"));
        world.runtime.remove_container(&status.id).await.unwrap();
        assert_eq!(world.runtime.container_status(&status.id).await, Err(Error::no_container(&status.id)));

        let mut seen = Vec::new();
        while seen.last() != Some(&ContainerEventType::Deleted) {
            if let Some(RuntimeEvent::Container(event)) = events.next().await {
                seen.push(event.event_type);
            }
        }
        use ContainerEventType::{Created, Deleted, Started, Stopped};
        assert_eq!(seen, [Started, Created, Started, Stopped, Created, Started, Stopped, Deleted]);
    });
}

#[test]
fn a_sandbox_is_listed_with_its_address_until_it_is_removed() {
    with_world("sandbox", async |world| {
        let id = world.sandbox().await;
        let status = world.runtime.pod_sandbox_status(&id).await.unwrap();
        assert_eq!((status.state, status.network.ip), (PodSandboxState::Ready, Some("10.0.0.7".parse().unwrap())));
        let twin = world.runtime.run_pod_sandbox(world.sandbox_config("one")).await;
        assert_eq!(twin, Err(Error::AlreadyExists { what: "sandbox", id: id.clone() }));
        let container = world.start(&id, script("app", "sleep 1000")).await;
        world.runtime.stop_pod_sandbox(&id).await.unwrap();
        world.runtime.stop_pod_sandbox(&id).await.unwrap();
        let status = world.runtime.pod_sandbox_status(&id).await.unwrap();
        assert_eq!((status.state, status.network.ip), (PodSandboxState::NotReady, None));
        assert!(world.network.attached.lock().unwrap().is_empty());
        assert_eq!(world.status(&container).await.exit.exit_code, 137);
        world.runtime.remove_pod_sandbox(&id).await.unwrap();
        world.runtime.remove_pod_sandbox(&id).await.unwrap();
        assert_eq!(world.runtime.pod_sandbox_status(&id).await, Err(Error::no_sandbox(&id)));
        assert_eq!(world.runtime.list_containers(ContainerFilter::default()).await, Ok(vec![]));
    });
}

#[test]
fn what_cannot_be_started_says_why_as_upstream_does() {
    with_world("start-errors", async |world| {
        let sandbox = world.sandbox().await;
        let cases = [
            (&["nope"][..], r#"exec: "nope": executable file not found in $PATH"#),
            (&["/nope"], r#"exec: "/nope": stat /nope: no such file or directory"#),
            (&["/bin/plain"], r#"exec: "/bin/plain": permission denied"#),
            (&["/etc"], r#"exec: "/etc": is a directory"#),
        ];
        for (index, (program, expected)) in cases.into_iter().enumerate() {
            let id = world.create(&sandbox, command(&format!("c{index}"), program)).await.unwrap();
            let error = world.runtime.start_container(&id).await.unwrap_err().to_string();
            let prefix = "unable to start container process: error during container init: ";
            assert_eq!(error, format!("{prefix}{expected}"));
            let status = world.status(&id).await;
            assert_eq!((status.state, status.exit.exit_code), (ContainerState::Exited, 128));
            assert_eq!((status.exit.reason.as_str(), status.exit.message), ("StartError", error));
            assert_eq!(status.times.started_at, 0);
        }
        let mut config = script("user", "true");
        config.linux.security_context.run_as.username = "nobody".into();
        let id = world.create(&sandbox, config).await.unwrap();
        let error = world.runtime.start_container(&id).await.unwrap_err().to_string();
        assert!(error.ends_with("unable to find user nobody: no matching entries in passwd file"), "{error}");
        let status = world.run(&sandbox, command("format", &["/bin/garbage"])).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (255, "Error"));
        assert_eq!(log(&status), [line("stderr", "F", "exec /bin/garbage: exec format error")]);
        let missing = cri::ContainerConfig { image: cri::ImageSpec::named("other"), ..script("image", "true") };
        assert_eq!(world.create(&sandbox, missing).await, Err(Error::no_image("other")));
    });
}

#[test]
fn a_container_is_asked_to_end_and_killed_when_it_does_not() {
    with_world("stop", async |world| {
        let sandbox = world.sandbox().await;
        let polite = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
        for (name, text, timeout, expected) in
            [("polite", polite, 30, 7), ("stubborn", stubborn, 1, 137), ("now", polite, 0, 137)]
        {
            let id = world.start(&sandbox, script(name, text)).await;
            while log(&world.status(&id).await).is_empty() {
                tokio::task::yield_now().await;
            }
            world.runtime.stop_container(&id, Duration::from_secs(timeout)).await.unwrap();
            let status = world.status(&id).await;
            assert_eq!((status.state, status.exit.exit_code), (ContainerState::Exited, expected), "{name}");
        }
        let mut config = script("signal", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done");
        config.linux.stop_signal = "SIGUSR1".into();
        let id = world.start(&sandbox, config).await;
        while log(&world.status(&id).await).is_empty() {
            tokio::task::yield_now().await;
        }
        world.runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        assert_eq!(world.status(&id).await.exit.exit_code, 9);
    });
}

#[test]
fn too_much_memory_is_told_as_such() {
    with_world("oom", async |world| {
        let sandbox = world.sandbox().await;
        let mut config = command("greedy", &["dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"]);
        config.linux.resources.memory_limit_in_bytes = 32 << 20;
        let status = world.run(&sandbox, config).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (137, "OOMKilled"));
    });
}

#[test]
fn a_processor_quota_is_kept_and_changed() {
    with_world("quota", async |world| {
        let sandbox = world.sandbox().await;
        let mut config = script("busy", "while :; do :; done");
        config.linux.resources =
            LinuxContainerResources { cpu_quota: 10_000, cpu_period: 100_000, ..LinuxContainerResources::default() };
        let id = world.start(&sandbox, config).await;
        let start = tokio::time::Instant::now();
        // The container itself is the clock: after ten exhausted periods it has run a second.
        let stats = loop {
            let stats = world.runtime.container_stats(&id).await.unwrap();
            if stats.cpu.throttled_periods >= Some(10) {
                break stats;
            }
            tokio::task::yield_now().await;
        };
        let used = Duration::from_nanos(stats.cpu.usage_core_nano_seconds);
        assert!(used < start.elapsed() / 4, "{used:?} of {:?}", start.elapsed());
        assert!(stats.memory.usage_bytes > 0 && stats.process_count == Some(1));
        let raised = LinuxContainerResources { cpu_quota: 50_000, ..LinuxContainerResources::default() };
        world.runtime.update_container_resources(&id, raised).await.unwrap();
        let resources = world.status(&id).await.linux.resources;
        assert_eq!((resources.cpu_quota, resources.cpu_period), (50_000, 100_000));
        let pod = world.runtime.pod_sandbox_stats(&sandbox).await.unwrap();
        assert!(pod.process_count >= 2 && pod.containers.len() == 1, "the supervisor counts");
    });
}

#[test]
fn a_long_log_is_rotated_and_reopened() {
    with_world("rotate", async |world| {
        world.options.log_bytes_max = 200_000;
        world.options.log_files_max = 2;
        world.reopen().await;
        let sandbox = world.sandbox().await;
        let status = world.run(&sandbox, script("chatty", "seq 1 20000")).await;
        let folder = std::path::Path::new(&status.log_path).parent().unwrap();
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2, "{files:?}");
        assert_eq!(files[0].to_string_lossy(), status.log_path);
        let rotated = files[1].file_name().unwrap().to_string_lossy().into_owned();
        assert!(rotated.starts_with("0.log.2") && rotated.len() == "0.log.20060102-150405".len(), "{rotated}");
        let mut text = std::fs::read_to_string(&files[1]).unwrap();
        text.push_str(&std::fs::read_to_string(&files[0]).unwrap());
        // Older files are gone; what is left has no gap.
        let numbers: Vec<u32> = parse_log(&text).into_iter().map(|(_, _, text)| text.parse().unwrap()).collect();
        assert_eq!(numbers, (numbers[0]..=20_000).collect::<Vec<_>>());

        let id = world.start(&sandbox, script("renamed", "echo one; exec sleep 1000")).await;
        while log(&world.status(&id).await).is_empty() {
            tokio::task::yield_now().await;
        }
        let path = world.status(&id).await.log_path;
        std::fs::rename(&path, format!("{path}.old")).unwrap();
        world.runtime.reopen_container_log(&id).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    });
}

#[test]
fn a_terminal_is_logged_as_one_stream() {
    with_world("terminal", async |world| {
        let sandbox = world.sandbox().await;
        let mut config = script("tty", "tty; echo err >&2; echo $TERM; stat -c %t,%T /dev/console; exit 4");
        config.terminal = Terminal { tty: true, ..Terminal::default() };
        let status = world.run(&sandbox, config).await;
        let text: Vec<_> = log(&status);
        assert_eq!(text, ["/dev/pts/0\r", "err\r", "xterm\r", "88,0\r"].map(|text| line("stdout", "F", text)),);
        assert_eq!(status.exit.exit_code, 4);
    });
}

//! The runtime goes, its containers stay; a supervisor goes, its containers with it.

use cri::{ContainerFilter, ContainerState, Mount, PodSandboxState, RuntimeService};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{World, in_world, log, processes_of, script, wait_for_end, with_world};

/// A container that waits for a line in `/gate/go`, a pipe of the host.
fn gated(world: &World, name: &str, text: &str) -> cri::ContainerConfig {
    let gate = world.folder.join("gate");
    std::fs::create_dir_all(&gate).unwrap();
    if !gate.join("go").exists() {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            gate.join("go"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .unwrap();
    }
    let mut config = script(name, &format!("echo before; read line < /gate/go; {text}"));
    let host_path = gate.to_string_lossy().into_owned();
    config.mounts = vec![Mount { host_path, container_path: "/gate".into(), ..Mount::default() }];
    config
}

fn open_gate(world: &World) {
    std::fs::write(world.folder.join("gate/go"), "go\n").unwrap();
}

#[test]
fn what_runs_goes_on_and_is_found_again() {
    with_world("adopt", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, gated(world, "app", "echo after; exec sleep 1000")).await;
        let before = world.status(&id).await;
        world.reopen().await;
        let after = world.status(&id).await;
        assert_eq!((after.state, after.linux.pid), (ContainerState::Running, before.linux.pid));
        assert_eq!((after.times, after.image, after.labels), (before.times, before.image, before.labels));
        assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::Ready);
        open_gate(world);
        while log(&world.status(&id).await).len() < 2 {
            tokio::task::yield_now().await;
        }
        world.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
        assert_eq!(world.status(&id).await.exit.exit_code, 137);
    });
}

#[test]
fn an_end_in_the_runtimes_absence_is_found() {
    with_world("absent", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, gated(world, "app", "echo after; exit 9")).await;
        let created = world.create(&sandbox, script("later", "exit 2")).await.unwrap();
        let pid = world.status(&id).await.linux.pid.unwrap();
        // Another runtime takes the folders; this one hears nothing any more.
        let gone = std::mem::replace(&mut world.runtime, {
            let options = world.options.clone();
            runtime::BuiltIn::open(options).await.unwrap()
        });
        drop(gone);
        open_gate(world);
        wait_for_end(pid);
        world.reopen().await;
        while world.status(&id).await.state != ContainerState::Exited {
            world.runtime.events().next().await;
        }
        let status = world.status(&id).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (9, "Error"));
        assert!(status.times.finished_at >= status.times.started_at && status.times.started_at > 0);
        assert_eq!(log(&status).len(), 2);
        world.runtime.start_container(&created).await.unwrap();
    });
}

#[test]
fn a_lost_supervisor_takes_its_containers_with_it() {
    with_world("lost", async |world| {
        let sandbox = world.sandbox().await;
        let id = world.start(&sandbox, script("app", "exec sleep 1000")).await;
        let container = world.status(&id).await.linux.pid.unwrap();
        let [supervisor] = processes_of(&world.folder.to_string_lossy())[..] else { panic!("one supervisor") };
        let mut events = world.runtime.events();
        kill_process(Pid::from_raw(supervisor.cast_signed()).unwrap(), Signal::KILL).unwrap();
        while world.status(&id).await.state == ContainerState::Running {
            events.next().await;
        }
        let status = world.status(&id).await;
        assert_eq!((status.exit.exit_code, status.exit.reason.as_str()), (255, "Unknown"));
        wait_for_end(container);
        // Containers are told of first, their sandbox a moment later.
        while world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state == PodSandboxState::Ready {
            tokio::task::yield_now().await;
        }
        world.reopen().await;
        assert_eq!(world.status(&id).await.exit, status.exit);
        assert_eq!(world.runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::NotReady);
    });
}

#[test]
fn after_a_restart_of_the_machine_remains_are_removed() {
    with_world("reboot", async |world| {
        let sandbox = world.sandbox().await;
        world.start(&sandbox, script("app", "exec sleep 1000")).await;
        world.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
        // What is in memory is gone, what is on disk is not.
        let group = world.sandbox_config("one").linux.cgroup_parent;
        let cgroups = runtime::cgroup::Cgroups::detect(std::path::Path::new("/sys/fs/cgroup")).unwrap();
        cgroups.remove(&group).unwrap();
        std::fs::remove_dir_all(world.folder.join("state")).unwrap();
        assert_eq!(std::fs::read_dir(world.folder.join("data/containers")).unwrap().count(), 1);
        world.reopen().await;
        assert_eq!(world.runtime.list_containers(ContainerFilter::default()).await, Ok(vec![]));
        assert_eq!(std::fs::read_dir(world.folder.join("data/containers")).unwrap().count(), 0);
        assert!(world.images.holders.lock().unwrap().is_empty() && world.network.attached.lock().unwrap().is_empty());
    });
}

#[test]
fn a_call_that_nobody_waits_for_is_carried_out() {
    with_world("cancelled", async |world| {
        let call = world.runtime.run_pod_sandbox(world.sandbox_config("one"));
        let mut events = world.runtime.events();
        // Polled once, then dropped.
        assert!(futures_util::FutureExt::now_or_never(call).is_none());
        events.next().await;
        let sandboxes = world.runtime.list_pod_sandbox(cri::PodSandboxFilter::default()).await.unwrap();
        assert_eq!(sandboxes.iter().map(|sandbox| sandbox.state).collect::<Vec<_>>(), [PodSandboxState::Ready]);
    });
}

/// Names the world in which [`pods_come_and_go`] is to work until it is killed.
const AGENT: &str = "ISOPOD_TEST_AGENT";

async fn one_pod(world: &World, number: u32) {
    let sandbox = world.runtime.run_pod_sandbox(world.sandbox_config(&format!("p{number}"))).await.unwrap();
    let id = world.start(&sandbox, script("app", "exec sleep 1000")).await;
    world.runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(world.status(&id).await.exit.exit_code, 137);
    world.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
}

#[test]
fn pods_come_and_go() {
    match std::env::var_os(AGENT) {
        None => with_world("pods", async |world| {
            for number in 0..3 {
                one_pod(world, number).await;
            }
        }),
        Some(folder) => in_world(std::path::Path::new(&folder), async |world| {
            println!("ready");
            for number in 0..1000 {
                one_pod(world, number).await;
            }
        }),
    }
}

/// An agent in a process of its own, killed after `delay`.
fn kill_an_agent(world: &World, delay: std::time::Duration) {
    use std::io::BufRead;
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::pods_come_and_go", "--nocapture"])
        .env(AGENT, &world.folder)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(agent.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.ends_with("ready")), "the agent comes up");
    // It works all the time; when it is killed is the test's choice of a crash point.
    let pid = rustix::process::Pid::from_child(&agent);
    let file = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let mut entries = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec::try_from(delay).unwrap();
    assert_eq!(rustix::event::poll(&mut entries, Some(&limit)).unwrap(), 0, "it works until it is killed");
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn killed_at_any_moment_it_leaves_what_can_be_used_and_removed() {
    with_world("killed", async |world| {
        for round in 0..25u32 {
            kill_an_agent(world, std::time::Duration::from_micros(u64::from(round) * 3_700));
            world.reopen().await;
            for container in world.runtime.list_containers(ContainerFilter::default()).await.unwrap() {
                let sandbox = world.runtime.pod_sandbox_status(&container.pod_sandbox_id).await.unwrap();
                if container.state == ContainerState::Created && sandbox.state == PodSandboxState::Ready {
                    world.runtime.start_container(&container.id).await.unwrap();
                    assert_eq!(world.status(&container.id).await.state, ContainerState::Running);
                }
            }
            for sandbox in world.runtime.list_pod_sandbox(cri::PodSandboxFilter::default()).await.unwrap() {
                world.runtime.remove_pod_sandbox(&sandbox.id).await.unwrap();
            }
        }
    });
}

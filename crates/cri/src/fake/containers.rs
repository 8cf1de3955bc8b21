//! The fake's containers.

use std::time::Duration;

use stdx::BoxFuture;

use super::images::image_id;
use super::{Behavior, FakeContainer, FakeRuntime, Run, now};
use crate::container::{
    Container, ContainerConfig, ContainerExit, ContainerFilter, ContainerImage, ContainerState, ContainerStatus,
    ContainerTimes, LinuxContainerResources, LinuxContainerStatus,
};
use crate::error::{Error, Result};
use crate::event::{ContainerEventType, Events, RuntimeEvent};
use crate::exec::{AttachRequest, Duplex, ExecRequest, ExecSession, ExecSyncResponse};
use crate::sandbox::{PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxState, PodSandboxStatus};
use crate::service::{RuntimeCondition, RuntimeHandler, RuntimeService, RuntimeStatus, VersionResponse};
use crate::stats::{ContainerStats, PodSandboxStats};

impl FakeRuntime {
    async fn create(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        self.call("create_container", &config.metadata.name)?;
        let name = self.present(&config.image.image).ok_or_else(|| Error::no_image(&config.image.image))?;
        let id = {
            let mut world = self.lock();
            let sandbox = world.sandboxes.get(sandbox_id).ok_or_else(|| Error::no_sandbox(sandbox_id))?;
            if sandbox.state != PodSandboxState::Ready {
                return Err(Error::FailedPrecondition(format!("sandbox {sandbox_id:?} is not ready")));
            }
            let behavior = world.images.get(&name).map(|image| image.behavior.clone()).unwrap_or_default();
            world.next += 1;
            let id = format!("container-{:04}", world.next);
            let container = FakeContainer {
                sandbox_id: sandbox_id.to_owned(),
                config,
                state: ContainerState::Created,
                times: ContainerTimes { created_at: now(), ..ContainerTimes::default() },
                exit: ContainerExit::default(),
                behavior,
                ended: stdx::Cancel::default(),
            };
            world.containers.insert(id.clone(), container);
            id
        };
        self.announce(&id, sandbox_id, ContainerEventType::Created);
        Ok(id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let refused = self.call("start_container", id).err();
        let (sandbox_id, run) = {
            let mut world = self.lock();
            let container = world.containers.get_mut(id).ok_or_else(|| Error::no_container(id))?;
            if container.state != ContainerState::Created {
                return Err(Error::FailedPrecondition(format!("container {id:?} is not in created state")));
            }
            let failure = match (refused, container.behavior.run) {
                (None, Run::Fails) => Some(Error::Internal("unable to start container process".into())),
                (refused, _) => refused,
            };
            if let Some(error) = failure {
                container.state = ContainerState::Exited;
                container.times.finished_at = now();
                let message = error.to_string();
                container.exit = ContainerExit { exit_code: 128, reason: "StartError".into(), message };
                return Err(error);
            }
            container.state = ContainerState::Running;
            container.times.started_at = now();
            (container.sandbox_id.clone(), container.behavior.run)
        };
        self.announce(id, &sandbox_id, ContainerEventType::Started);
        match run {
            Run::Exits { after, code } => self.end_later(id, after, code, super::reason_of(code)),
            Run::OutOfMemory { after } => self.end_later(id, after, 137, "OOMKilled"),
            Run::Forever | Run::Fails => {}
        }
        Ok(())
    }

    fn end_later(&self, id: &str, after: Duration, code: i32, reason: &'static str) {
        let (fake, id) = (self.clone(), id.to_owned());
        drop(stdx::spawn(async move {
            stdx::sleep(after).await;
            fake.end(&id, code, reason);
        }));
    }

    async fn stop(&self, id: &str, timeout: Duration) -> Result<()> {
        self.call("stop_container", id)?;
        let (behavior, ended) = match self.lock().containers.get(id) {
            Some(container) if container.state == ContainerState::Running => {
                (container.behavior.clone(), container.ended.clone())
            }
            _ => return Ok(()),
        };
        if !behavior.ignores_term && !timeout.is_zero() {
            self.end(id, behavior.term_code, super::reason_of(behavior.term_code));
        } else if stdx::timeout(timeout, ended.cancelled()).await.is_err() {
            self.end(id, 137, "Error");
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.call("remove_container", id)?;
        self.end(id, 137, "Error");
        let removed = self.lock().containers.remove(id);
        if let Some(container) = removed {
            self.announce(id, &container.sandbox_id, ContainerEventType::Deleted);
        }
        Ok(())
    }

    fn running_behavior(&self, id: &str) -> Result<Behavior> {
        let world = self.lock();
        let container = world.containers.get(id).ok_or_else(|| Error::no_container(id))?;
        if container.state != ContainerState::Running {
            return Err(Error::FailedPrecondition(format!("container {id:?} is not in running state")));
        }
        Ok(container.behavior.clone())
    }

    async fn run_exec(&self, id: &str, cmd: &[String]) -> Result<ExecSyncResponse> {
        self.call("exec", &cmd.join(" "))?;
        let behavior = self.running_behavior(id)?;
        if !behavior.exec_takes.is_zero() {
            stdx::sleep(behavior.exec_takes).await;
        }
        Ok(behavior.exec.map(|exec| exec(id, cmd)).unwrap_or_default())
    }

    async fn open_exec(&self, id: &str, request: ExecRequest) -> Result<ExecSession> {
        let answer = self.run_exec(id, &request.cmd).await?;
        let stdin = request.stdin.then(|| Box::new(tokio::io::sink()) as Box<_>);
        let stdout = Box::new(std::io::Cursor::new(answer.stdout));
        let stderr = (!request.tty).then(|| Box::new(std::io::Cursor::new(answer.stderr)) as Box<_>);
        let (resize, _) = tokio::sync::watch::channel(crate::exec::TerminalSize::default());
        Ok(ExecSession { stdin, stdout, stderr, resize, exit: Box::pin(async move { Ok(answer.exit_code) }) })
    }

    /// Joins a container that says nothing, until it ends.
    async fn join(&self, id: &str, request: AttachRequest) -> Result<ExecSession> {
        self.call("attach", id)?;
        let mut events = self.events();
        self.running_behavior(id)?;
        let container = id.to_owned();
        let exit = Box::pin(async move {
            loop {
                match events.next().await {
                    Some(RuntimeEvent::Container(event))
                        if event.container_id == container && event.event_type == ContainerEventType::Stopped =>
                    {
                        return Ok(0);
                    }
                    Some(_) => {}
                    None => return Err(Error::Unavailable("the runtime is gone".into())),
                }
            }
        });
        let (resize, _) = tokio::sync::watch::channel(crate::exec::TerminalSize::default());
        Ok(ExecSession {
            stdin: request.stdin.then(|| Box::new(tokio::io::sink()) as Box<_>),
            stdout: Box::new(tokio::io::empty()),
            stderr: (request.stderr && !request.tty).then(|| Box::new(tokio::io::empty()) as Box<_>),
            resize,
            exit,
        })
    }

    fn statuses(&self, filter: &ContainerFilter) -> Vec<ContainerStatus> {
        let world = self.lock();
        world
            .containers
            .iter()
            .map(|(id, container)| status(id, container))
            .filter(|status| filter.matches(&Container::from(status)))
            .collect()
    }
}

fn status(id: &str, container: &FakeContainer) -> ContainerStatus {
    let image = &container.config.image;
    ContainerStatus {
        id: id.to_owned(),
        pod_sandbox_id: container.sandbox_id.clone(),
        metadata: container.config.metadata.clone(),
        state: container.state,
        times: container.times,
        exit: container.exit.clone(),
        image: ContainerImage {
            spec: image.clone(),
            image_ref: image_id(&image.image),
            image_id: image_id(&image.image),
        },
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        mounts: container.config.mounts.clone(),
        log_path: container.config.log_path.clone(),
        linux: LinuxContainerStatus {
            resources: container.config.linux.resources.clone(),
            ..LinuxContainerStatus::default()
        },
    }
}

fn stats(status: ContainerStatus) -> ContainerStats {
    ContainerStats {
        id: status.id,
        pod_sandbox_id: status.pod_sandbox_id,
        metadata: status.metadata,
        ..ContainerStats::default()
    }
}

impl RuntimeService for FakeRuntime {
    fn version(&self) -> BoxFuture<'_, Result<VersionResponse>> {
        let version = VersionResponse {
            runtime_name: "fake".into(),
            runtime_version: "1.0.0".into(),
            runtime_api_version: "v1".into(),
        };
        Box::pin(async move { Ok(version) })
    }

    fn status(&self) -> BoxFuture<'_, Result<RuntimeStatus>> {
        let condition = |name: &str| RuntimeCondition {
            condition_type: name.to_owned(),
            status: true,
            ..RuntimeCondition::default()
        };
        let status = RuntimeStatus {
            conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
            handlers: vec![RuntimeHandler { recursive_read_only_mounts: true, ..RuntimeHandler::default() }],
            supplemental_groups_policy: true,
        };
        Box::pin(async move {
            self.call("status", "")?;
            Ok(status)
        })
    }

    fn run_pod_sandbox(&self, config: PodSandboxConfig) -> BoxFuture<'_, Result<String>> {
        Box::pin(self.run_sandbox(config))
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.stop_sandbox(id))
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove_sandbox(id))
    }

    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStatus>> {
        Box::pin(async move { self.sandbox_status(id) })
    }

    fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> BoxFuture<'_, Result<Vec<PodSandbox>>> {
        Box::pin(async move { Ok(self.sandboxes(&filter)) })
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: ContainerConfig,
        _sandbox: &'a PodSandboxConfig,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.create(sandbox_id, config))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.start(id))
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.stop(id, timeout))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove(id))
    }

    fn list_containers(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<Container>>> {
        Box::pin(async move { Ok(self.statuses(&filter).iter().map(Container::from).collect()) })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>> {
        Box::pin(async move {
            let world = self.lock();
            world.containers.get(id).map(|container| status(id, container)).ok_or_else(|| Error::no_container(id))
        })
    }

    fn update_container_resources<'a>(
        &'a self,
        id: &'a str,
        resources: LinuxContainerResources,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.call("update_container_resources", id)?;
            let mut world = self.lock();
            let container = world.containers.get_mut(id).ok_or_else(|| Error::no_container(id))?;
            container.config.linux.resources = resources;
            Ok(())
        })
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.call("reopen_container_log", id)?;
            self.running_behavior(id).map(drop)
        })
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        cmd: Vec<String>,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecSyncResponse>> {
        Box::pin(async move { self.run_exec(id, &cmd).await })
    }

    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.open_exec(id, request))
    }

    fn attach<'a>(&'a self, id: &'a str, request: AttachRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.join(id, request))
    }

    fn port_forward<'a>(&'a self, id: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            self.call("port_forward", &port.to_string())?;
            let sandbox = self.sandbox_status(id)?;
            if sandbox.state != PodSandboxState::Ready {
                return Err(Error::FailedPrecondition(format!("sandbox {id:?} is not ready")));
            }
            // Whoever forwards to the fake world hears back what was sent.
            let (near, far) = tokio::io::duplex(64 * 1024);
            drop(stdx::spawn(async move {
                let (mut read, mut write) = tokio::io::split(far);
                drop(tokio::io::copy(&mut read, &mut write).await);
            }));
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStats>> {
        Box::pin(async move { self.container_status(id).await.map(stats) })
    }

    fn list_container_stats(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<ContainerStats>>> {
        Box::pin(async move { Ok(self.statuses(&filter).into_iter().map(stats).collect()) })
    }

    fn pod_sandbox_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStats>> {
        Box::pin(async move {
            let sandbox = self.sandbox_status(id)?;
            let filter = ContainerFilter { pod_sandbox_id: Some(id.to_owned()), ..ContainerFilter::default() };
            let containers = self.statuses(&filter).into_iter().map(stats).collect();
            let PodSandboxStatus { id, metadata, .. } = sandbox;
            Ok(PodSandboxStats { id, metadata, containers, ..PodSandboxStats::default() })
        })
    }

    fn events(&self) -> Events {
        self.events.subscribe()
    }
}

//! CRI's calls on the runtime.

use std::path::Path;
use std::time::Duration;

use cri::{
    AttachRequest, Container, ContainerConfig, ContainerFilter, ContainerStats, ContainerStatus, Duplex, Error, Events,
    ExecRequest, ExecSession, ExecSyncResponse, LinuxContainerResources, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxStats, PodSandboxStatus, Result, RuntimeCondition, RuntimeHandler, RuntimeService,
    RuntimeStatus, VersionResponse,
};
use stdx::BoxFuture;

use super::sandbox::{HANDLERS, chain};
use super::{BuiltIn, blocking, lock, to_the_end, view};

impl BuiltIn {
    fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerStatus> {
        let mut statuses: Vec<ContainerStatus> =
            lock(&self.inner.containers).values().map(|container| container.status()).collect();
        statuses.retain(|status| filter.matches(&Container::from(status)));
        statuses.sort_by_key(|status| status.times.created_at);
        statuses
    }

    fn sandboxes(&self) -> Vec<PodSandboxStatus> {
        let sandboxes: Vec<_> = lock(&self.inner.sandboxes).values().cloned().collect();
        let status = |sandbox: &std::sync::Arc<super::Sandbox>| view::sandbox(&lock(&sandbox.record), false);
        let mut statuses: Vec<PodSandboxStatus> = sandboxes
            .iter()
            .map(|sandbox| if sandbox.ready() { view::sandbox(&lock(&sandbox.record), true) } else { status(sandbox) })
            .collect();
        statuses.sort_by_key(|status| status.created_at);
        statuses
    }

    async fn condition_of_network(&self) -> RuntimeCondition {
        let condition_type = "NetworkReady".to_owned();
        match self.inner.options.network.status().await {
            Ok(()) => RuntimeCondition { condition_type, status: true, ..RuntimeCondition::default() },
            Err(error) => RuntimeCondition {
                condition_type,
                status: false,
                reason: "NetworkPluginNotReady".into(),
                message: format!("Network plugin returns error: {}", chain(&error)),
            },
        }
    }
}

/// Whether the kernel can show pods with users of their own the files of any volume: those in memory since 6.3.
fn users_can_be_mapped() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 3)
        && read("/proc/sys/user/max_user_namespaces").trim() != "0"
        && Path::new("/proc/self/ns/user").exists()
}

fn handler(name: &str) -> RuntimeHandler {
    RuntimeHandler { name: name.to_owned(), recursive_read_only_mounts: true, user_namespaces: users_can_be_mapped() }
}

impl RuntimeService for BuiltIn {
    fn version(&self) -> BoxFuture<'_, Result<VersionResponse>> {
        let version = VersionResponse {
            runtime_name: "isopod".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        };
        Box::pin(async move { Ok(version) })
    }

    fn status(&self) -> BoxFuture<'_, Result<RuntimeStatus>> {
        Box::pin(async move {
            let runtime =
                RuntimeCondition { condition_type: "RuntimeReady".into(), status: true, ..RuntimeCondition::default() };
            Ok(RuntimeStatus {
                conditions: vec![runtime, self.condition_of_network().await],
                handlers: HANDLERS.map(handler).into(),
                supplemental_groups_policy: true,
            })
        })
    }

    fn run_pod_sandbox(&self, config: PodSandboxConfig) -> BoxFuture<'_, Result<String>> {
        Box::pin(to_the_end(self.inner.clone().run_sandbox(config)))
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(to_the_end(async move { inner.stop_sandbox(&id).await }))
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(to_the_end(async move { inner.remove_sandbox(&id).await }))
    }

    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStatus>> {
        Box::pin(async move {
            let sandbox = self.inner.sandbox(id)?;
            let ready = sandbox.ready();
            Ok(view::sandbox(&lock(&sandbox.record), ready))
        })
    }

    fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> BoxFuture<'_, Result<Vec<PodSandbox>>> {
        Box::pin(async move {
            let sandboxes = self.sandboxes();
            Ok(sandboxes.iter().map(PodSandbox::from).filter(|sandbox| filter.matches(sandbox)).collect())
        })
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: ContainerConfig,
        _sandbox: &'a PodSandboxConfig,
    ) -> BoxFuture<'a, Result<String>> {
        let (inner, sandbox_id) = (self.inner.clone(), sandbox_id.to_owned());
        Box::pin(to_the_end(async move { inner.create_container(&sandbox_id, config).await }))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(to_the_end(async move { inner.start_container(&id).await }))
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.inner.clone().stop_container(id, timeout))
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(to_the_end(async move { inner.remove_container(&id).await }))
    }

    fn list_containers(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<Container>>> {
        Box::pin(async move { Ok(self.containers(&filter).iter().map(Container::from).collect()) })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>> {
        Box::pin(async move { Ok(self.inner.container(id)?.status()) })
    }

    fn update_container_resources<'a>(
        &'a self,
        id: &'a str,
        resources: LinuxContainerResources,
    ) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(to_the_end(async move { inner.update_resources(&id, resources).await }))
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let container = self.inner.container(id)?;
            let supervisor = container.sandbox.supervisor("reopen log")?;
            supervisor.reopen_log(id).await.map_err(super::call_failed("reopen log"))
        })
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecSyncResponse>> {
        Box::pin(self.inner.clone().exec_sync(id, cmd, timeout))
    }

    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.inner.clone().exec(id, request))
    }

    fn attach<'a>(&'a self, id: &'a str, request: AttachRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.inner.clone().attach(id, request))
    }

    fn port_forward<'a>(&'a self, id: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Duplex>>> {
        Box::pin(self.inner.forward(id, port))
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStats>> {
        Box::pin(async move {
            let container = self.inner.container(id)?;
            let inner = self.inner.clone();
            blocking(move || inner.container_stats_with_disk(&container)).await
        })
    }

    fn list_container_stats(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<ContainerStats>>> {
        Box::pin(async move {
            let ids: Vec<String> = self.containers(&filter).into_iter().map(|status| status.id).collect();
            let inner = self.inner.clone();
            blocking(move || {
                // A container may be removed meanwhile.
                let present = ids.iter().filter_map(|id| inner.container(id).ok());
                let stats = present.map(|container| inner.container_stats_with_disk(&container));
                stats.filter(|stats| !stats.as_ref().is_err_and(Error::is_not_found)).collect()
            })
            .await
        })
    }

    fn pod_sandbox_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStats>> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        Box::pin(blocking(move || inner.sandbox_stats(&id)))
    }

    fn events(&self) -> Events {
        self.inner.events.subscribe()
    }
}

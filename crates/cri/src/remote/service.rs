//! The contract's calls, each as CRI's call of the same name.

use std::time::Duration;

use stdx::BoxFuture;

use super::call::{fault, gone, is_unknown, pull_fault};
use super::streams::{self, Wanted};
use super::{Remote, asked, make_folder, proto, told};
use crate::container::{Container, ContainerConfig, ContainerFilter, ContainerStatus, LinuxContainerResources};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::exec::{AttachRequest, Duplex, ExecRequest, ExecSession, ExecSyncResponse};
use crate::image::{Image, ImageFsInfo, ImageSpec, PullImageRequest};
use crate::sandbox::{PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus};
use crate::service::{ImageService, RuntimeService, RuntimeStatus, VersionResponse};
use crate::stats::{ContainerStats, PodSandboxStats};

const RUNTIME: (&str, &str) = ("runtime", "");

/// Whole seconds, none of them lost.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

impl RuntimeService for Remote {
    fn version(&self) -> BoxFuture<'_, Result<VersionResponse>> {
        Box::pin(async move {
            let request = proto::VersionRequest { version: "v1".into() };
            let answer: proto::VersionResponse =
                self.ask("RuntimeService/Version", &request).await.map_err(|error| fault(error, RUNTIME))?;
            Ok(VersionResponse {
                runtime_name: answer.runtime_name,
                runtime_version: answer.runtime_version,
                runtime_api_version: answer.runtime_api_version,
            })
        })
    }

    fn status(&self) -> BoxFuture<'_, Result<RuntimeStatus>> {
        Box::pin(async move {
            let answer = self.ask("RuntimeService/Status", &proto::Nothing {}).await;
            answer.map(told::status).map_err(|error| fault(error, RUNTIME))
        })
    }

    fn run_pod_sandbox(&self, config: PodSandboxConfig) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            make_folder(std::path::Path::new(&config.log_directory))?;
            let request = proto::RunPodSandboxRequest {
                config: Some(asked::sandbox(&config, self.0.unified)?),
                runtime_handler: config.runtime_handler.clone(),
            };
            // Twice the time: it may have to fetch an image of its own. Upstream: `remoteRuntimeService.RunPodSandbox`.
            let limit = Some(self.0.request_timeout * 2);
            let answer = self.0.connection.ask("RuntimeService/RunPodSandbox", &request, limit).await;
            let answer: proto::RunPodSandboxResponse =
                answer.map_err(|error| fault(error, ("sandbox", &config.metadata.name)))?;
            Ok(answer.pod_sandbox_id)
        })
    }

    fn stop_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { gone(self.of_sandbox("RuntimeService/StopPodSandbox", id).await, ("sandbox", id)) })
    }

    fn remove_pod_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            gone(self.of_sandbox("RuntimeService/RemovePodSandbox", id).await, ("sandbox", id))?;
            self.0.sub_paths.forget_sandbox(id)
        })
    }

    fn pod_sandbox_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStatus>> {
        Box::pin(async move {
            let request = proto::PodSandboxRequest { pod_sandbox_id: id.to_owned() };
            let answer = self.ask("RuntimeService/PodSandboxStatus", &request).await;
            let answer: proto::PodSandboxStatusResponse = answer.map_err(|error| fault(error, ("sandbox", id)))?;
            answer.status.map(told::sandbox_status).ok_or_else(|| Error::no_sandbox(id))
        })
    }

    fn list_pod_sandbox(&self, filter: PodSandboxFilter) -> BoxFuture<'_, Result<Vec<PodSandbox>>> {
        Box::pin(async move {
            let request = proto::ListPodSandboxRequest { filter: Some(asked::sandbox_filter(&filter)) };
            let answer = self.ask("RuntimeService/ListPodSandbox", &request).await;
            let answer: proto::ListPodSandboxResponse = answer.map_err(|error| fault(error, RUNTIME))?;
            let mut sandboxes: Vec<PodSandbox> = answer.items.into_iter().map(told::sandbox).collect();
            sandboxes.sort_by_key(|sandbox| sandbox.created_at);
            Ok(sandboxes)
        })
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        config: ContainerConfig,
        sandbox: &'a PodSandboxConfig,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.create(sandbox_id, config, sandbox))
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let started = self.of_container("RuntimeService/StartContainer", id).await;
            self.0.started.notify_one();
            started.map_err(|error| fault(error, ("container", id)))
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, timeout: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = proto::StopContainerRequest { container_id: id.to_owned(), timeout: seconds(timeout) };
            let limit = Some(self.0.request_timeout + timeout);
            let stopped = self.0.connection.ask("RuntimeService/StopContainer", &request, limit).await;
            gone(stopped.map(|proto::Nothing {}| ()), ("container", id))
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove(id))
    }

    fn list_containers(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<Container>>> {
        Box::pin(async move {
            let request = proto::ListContainersRequest { filter: Some(asked::container_filter(&filter)) };
            let answer = self.ask("RuntimeService/ListContainers", &request).await;
            let answer: proto::ListContainersResponse = answer.map_err(|error| fault(error, RUNTIME))?;
            let mut containers: Vec<Container> = answer.containers.into_iter().map(told::container).collect();
            containers.sort_by_key(|container| container.created_at);
            for container in &containers {
                self.remember(&container.id, &container.pod_sandbox_id);
            }
            Ok(containers)
        })
    }

    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>> {
        Box::pin(self.status_of(id))
    }

    fn update_container_resources<'a>(
        &'a self,
        id: &'a str,
        resources: LinuxContainerResources,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let linux = Some(asked::resources(&resources, self.0.unified));
            let request = proto::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux };
            let answer = self.ask::<proto::Nothing>("RuntimeService/UpdateContainerResources", &request).await;
            answer.map(drop).map_err(|error| fault(error, ("container", id)))
        })
    }

    fn reopen_container_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let reopened = self.of_container("RuntimeService/ReopenContainerLog", id).await;
            reopened.map_err(|error| fault(error, ("container", id)))
        })
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecSyncResponse>> {
        Box::pin(async move {
            let request = proto::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds(timeout) };
            // What nobody limits is not limited here either. Upstream: `remoteRuntimeService.ExecSync`.
            let limit = (!timeout.is_zero()).then(|| self.0.request_timeout + timeout);
            let answer = self.0.connection.ask("RuntimeService/ExecSync", &request, limit).await;
            let answer: proto::ExecSyncResponse = answer.map_err(|error| fault(error, ("container", id)))?;
            let proto::ExecSyncResponse { stdout, stderr, exit_code } = answer;
            Ok(ExecSyncResponse { stdout, stderr, exit_code })
        })
    }

    fn exec<'a>(&'a self, id: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            let ExecRequest { cmd, tty, stdin } = request;
            let wanted = Wanted { stdin, stdout: true, stderr: !tty, tty };
            let request =
                proto::ExecRequest { container_id: id.to_owned(), cmd, tty, stdin, stdout: true, stderr: !tty };
            let answer = self.ask("RuntimeService/Exec", &request).await;
            let answer: proto::UrlResponse = answer.map_err(|error| fault(error, ("container", id)))?;
            streams::process(&answer.url, wanted).await
        })
    }

    fn attach<'a>(&'a self, id: &'a str, request: AttachRequest) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            let AttachRequest { stdin, stdout, stderr, tty } = request;
            let stderr = stderr && !tty;
            let wanted = Wanted { stdin, stdout, stderr, tty };
            let request = proto::AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
            let answer = self.ask("RuntimeService/Attach", &request).await;
            let answer: proto::UrlResponse = answer.map_err(|error| fault(error, ("container", id)))?;
            streams::process(&answer.url, wanted).await
        })
    }

    fn port_forward<'a>(&'a self, id: &'a str, port: u16) -> BoxFuture<'a, Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let request = proto::PortForwardRequest { pod_sandbox_id: id.to_owned(), port: vec![port.into()] };
            let answer = self.ask("RuntimeService/PortForward", &request).await;
            let answer: proto::UrlResponse = answer.map_err(|error| fault(error, ("sandbox", id)))?;
            streams::port(&answer.url, port).await
        })
    }

    fn container_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStats>> {
        Box::pin(async move {
            let request = proto::ContainerRequest { container_id: id.to_owned() };
            let answer = self.ask("RuntimeService/ContainerStats", &request).await;
            let answer: proto::ContainerStatsResponse = answer.map_err(|error| fault(error, ("container", id)))?;
            let stats = answer.stats.ok_or_else(|| Error::no_container(id))?;
            Ok(told::container_stats(stats, self.sandbox_of(id).await?))
        })
    }

    fn list_container_stats(&self, filter: ContainerFilter) -> BoxFuture<'_, Result<Vec<ContainerStats>>> {
        Box::pin(async move {
            // CRI selects statistics by less; and they do not tell their sandboxes, which the list does.
            let wanted = self.list_containers(filter.clone()).await?;
            let filter = proto::ContainerStatsFilter {
                id: filter.id.unwrap_or_default(),
                pod_sandbox_id: filter.pod_sandbox_id.unwrap_or_default(),
                label_selector: filter.label_selector,
            };
            let request = proto::ListContainerStatsRequest { filter: Some(filter) };
            let answer = self.ask("RuntimeService/ListContainerStats", &request).await;
            let answer: proto::ListContainerStatsResponse = answer.map_err(|error| fault(error, RUNTIME))?;
            let stats = answer.stats.into_iter().filter_map(|stats| {
                let id = &stats.attributes.as_ref()?.id;
                let container = wanted.iter().find(|container| container.id == *id)?;
                Some(told::container_stats(stats, container.pod_sandbox_id.clone()))
            });
            Ok(stats.collect())
        })
    }

    fn pod_sandbox_stats<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<PodSandboxStats>> {
        Box::pin(async move {
            let request = proto::PodSandboxRequest { pod_sandbox_id: id.to_owned() };
            match self.ask::<proto::PodSandboxStatsResponse>("RuntimeService/PodSandboxStats", &request).await {
                Ok(answer) => answer.stats.map(told::sandbox_stats).ok_or_else(|| Error::no_sandbox(id)),
                Err(error) if is_unknown(&error) => self.summed_stats(id).await,
                Err(error) => Err(fault(error, ("sandbox", id))),
            }
        })
    }

    fn events(&self) -> Events {
        self.0.events.subscribe()
    }
}

impl Remote {
    /// What a pod's containers use together, of a runtime that does not measure pods.
    async fn summed_stats(&self, id: &str) -> Result<PodSandboxStats> {
        let metadata = self.pod_sandbox_status(id).await?.metadata;
        let filter = ContainerFilter { pod_sandbox_id: Some(id.to_owned()), ..ContainerFilter::default() };
        let containers = self.list_container_stats(filter).await?;
        let mut sum = PodSandboxStats { id: id.to_owned(), metadata, ..PodSandboxStats::default() };
        for ContainerStats { cpu, memory, .. } in &containers {
            sum.cpu.timestamp = sum.cpu.timestamp.max(cpu.timestamp);
            sum.cpu.usage_core_nano_seconds += cpu.usage_core_nano_seconds;
            sum.memory.timestamp = sum.memory.timestamp.max(memory.timestamp);
            sum.memory.working_set_bytes += memory.working_set_bytes;
            sum.memory.usage_bytes += memory.usage_bytes;
            sum.memory.rss_bytes += memory.rss_bytes;
            sum.memory.page_faults += memory.page_faults;
            sum.memory.major_page_faults += memory.major_page_faults;
        }
        sum.containers = containers;
        Ok(sum)
    }
}

impl ImageService for Remote {
    fn pull_image(&self, request: PullImageRequest) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let auth = request.auth.as_ref().map(asked::auth);
            let request = proto::PullImageRequest { image: Some(asked::image(&request.image)), auth };
            // As long as it takes: the runtime itself gives up where nothing moves.
            let answer = self.0.connection.ask("ImageService/PullImage", &request, None).await;
            let answer: proto::PullImageResponse = answer.map_err(pull_fault)?;
            Ok(answer.image_ref)
        })
    }

    fn image_status<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(self.find_image(image))
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        Box::pin(async move {
            let answer = self.ask("ImageService/ListImages", &proto::Nothing {}).await;
            let answer: proto::ListImagesResponse = answer.map_err(|error| fault(error, RUNTIME))?;
            let mut images: Vec<Image> = answer.images.into_iter().map(|image| self.image(image)).collect();
            images.sort_by(|one, other| one.id.cmp(&other.id));
            Ok(images)
        })
    }

    fn remove_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = proto::ImageRequest { image: Some(asked::image(image)) };
            let removed = self.ask::<proto::Nothing>("ImageService/RemoveImage", &request).await;
            gone(removed.map(drop), ("image", &image.image))
        })
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<ImageFsInfo>> {
        Box::pin(async move {
            let answer = self.ask("ImageService/ImageFsInfo", &proto::Nothing {}).await;
            answer.map(told::image_fs_info).map_err(|error| fault(error, RUNTIME))
        })
    }
}

//! Carrying out a plan's steps: each talks to the runtime, the disk and the API, and tells how it went.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::ClientError;
use cri::{
    ContainerConfig, ContainerState, IdRange, ImageSpec, KeyValue, Mount, NamespaceMode, PodSandboxStatus, PullFailure,
    PullImageRequest,
};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use reconcile::Severity;

use super::create::{self, Parts};
use super::env::{Sources, environment};
use super::images::{self, Presence, Verdict};
use super::memory::{Memory, Waiting};
use super::plan::{Step, Why};
use super::pulled::SecretKey;
use super::seen::Seen;
use super::{Role, dns, find_container, name, spec};
use crate::agent::Context;
use crate::probe::Asked;
use crate::volume::{ImageVolumes, mounted};
use crate::{hook, refs, volume};

/// Hooks that nobody limits otherwise.
const HOOK_LIMIT: Duration = Duration::from_secs(600);
/// A pod that ends waits so long for the service rules to let go of it.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(5);
/// What could not be refreshed without the API is tried again after this.
const STALE_RETRY: Duration = Duration::from_secs(10);
/// A failed step about volumes, sandboxes or creation is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// A container whose image has no valid name is looked at again after this.
const INVALID_RETRY: Duration = Duration::from_secs(10);
/// As much of a termination message as is read, from its end. Upstream: `MaxContainerTerminationMessageLength`.
const MESSAGE_BYTES_MAX: usize = 4096;
/// As much of a log as stands in for a message. Upstream: `MaxContainerTerminationMessageLogLength` and `…LogLines`.
const MESSAGE_LOG_BYTES_MAX: usize = 2048;
const MESSAGE_LOG_LINES_MAX: u64 = 80;
/// A resize that could not be done is tried again after this.
const RESIZE_RETRY: Duration = Duration::from_secs(10);
/// Seconds that every container has to end. Upstream: `minimumGracePeriodInSeconds`.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// How a step went.
#[derive(Clone, Debug)]
pub enum Went {
    Well(Effect),
    /// The container waits, and why.
    Waits(Waiting, Duration),
    /// It is tried again after a while.
    Failed(Duration),
    /// It was given up, because the pod is to end.
    Cancelled,
}

/// What a step that went well leaves to remember.
#[derive(Clone, Debug)]
pub enum Effect {
    Nothing,
    /// Volumes are in place; the soonest token is to be fetched again after this.
    Volumes(Option<Duration>),
    /// A container was started; its image was pulled by the way, or not.
    Started {
        name: String,
        /// It ran before and had ended: this counts for the wait before the next try.
        again: bool,
        environment: Vec<KeyValue>,
        memory_request: i64,
    },
    /// The preStop hook of a container has run before its turn to end.
    Hooked {
        id: String,
    },
    /// Nothing is left of the run that this container ended for all.
    AllRestart {
        cause: String,
    },
    /// The pod is out of the rules.
    Withdrawn,
    /// The pod has no volumes any more.
    Emptied,
    /// Nothing of the pod is left on the node.
    Cleaned,
    /// A pull failed.
    PullFailed {
        image: String,
        why: Waiting,
    },
}

/// The pod a step is about, with what was seen of it when the step was planned.
#[derive(Clone)]
pub struct Subject {
    pub pod: Arc<Pod>,
    pub seen: Arc<Seen>,
    pub memory: Arc<Memory>,
}

/// Carries one step out.
pub async fn run(context: &Context, subject: &Subject, step: &Step) -> Went {
    let pod = &*subject.pod;
    match step {
        Step::PrepareVolumes => prepare_volumes(context, subject).await,
        Step::CreateSandbox { attempt } => create_sandbox(context, subject, *attempt).await,
        Step::Start { name, attempt } => start(context, subject, name, *attempt).await,
        Step::Kill { id, name, grace_seconds, why } => kill(context, subject, (id, name), *grace_seconds, why).await,
        Step::PreStop { id, name, grace_seconds } => {
            pre_stop(context, subject, (id, name), Duration::from_secs(*grace_seconds)).await;
            Went::Well(Effect::Hooked { id: id.clone() })
        }
        Step::Resize { id, name } => resize(context, subject, (id, name)).await,
        Step::RemoveContainer { id } => remove_container(context, subject, id).await,
        Step::RemoveCause { id, name } => match remove_container(context, subject, id).await {
            Went::Well(_) => Went::Well(Effect::AllRestart { cause: name.clone() }),
            went => went,
        },
        Step::StopSandbox { id } => done(context.runtime.stop_pod_sandbox(id).await, "stop sandbox"),
        Step::RemoveSandbox { id } => {
            let removed = match context.runtime.stop_pod_sandbox(id).await {
                Ok(()) => context.runtime.remove_pod_sandbox(id).await,
                failed => failed,
            };
            done(removed, "remove sandbox")
        }
        Step::Withdraw => {
            if stdx::timeout(WITHDRAW_LIMIT, context.rules.withdraw(super::uid(pod))).await.is_err() {
                tracing::warn!(
                    pod = name(pod),
                    "the service rules do not answer; the pod ends while they may still name it"
                );
            }
            Went::Well(Effect::Withdrawn)
        }
        Step::RemoveVolumes => remove_volumes(context, subject).await,
        Step::CleanUp => clean_up(context, subject).await,
    }
}

fn done(result: cri::Result<()>, what: &'static str) -> Went {
    match result {
        Ok(()) => Went::Well(Effect::Nothing),
        Err(error) => {
            tracing::warn!(%error, what, "step failed");
            Went::Failed(RETRY)
        }
    }
}

fn pod_ip(context: &Context, subject: &Subject) -> Option<IpAddr> {
    super::address(&subject.pod, &subject.seen, &context.host_ip)
}

async fn prepare_volumes(context: &Context, subject: &Subject) -> Went {
    let pod = &*subject.pod;
    let names = refs::of_volumes(pod);
    // Without an API, volumes that are in place stay as they are.
    let as_they_are = |error: &ClientError| subject.memory.prepared && error.status().is_none();
    let found = match refs::fetch(&context.client, pod, &names).await {
        Ok(found) => found,
        Err(error) if as_they_are(&error) => return Went::Well(Effect::Volumes(Some(STALE_RETRY))),
        Err(error) => {
            context.tell(
                pod,
                "",
                Severity::Warning,
                "FailedMount",
                format!("Unable to read volumes' sources: {error}"),
            );
            return Went::Failed(RETRY);
        }
    };
    let tokens = match context.tokens(pod, &volume::tokens_wanted(pod)).await {
        Ok(tokens) => tokens,
        Err(error) if as_they_are(&error) => return Went::Well(Effect::Volumes(Some(STALE_RETRY))),
        Err(error) => {
            context.tell(
                pod,
                "",
                Severity::Warning,
                "FailedMount",
                format!("Unable to fetch a service account token: {error}"),
            );
            return Went::Failed(RETRY);
        }
    };
    let sources = context.sources(pod, None);
    if let Err(error) = volume::prepare(&context.roots, pod, &found, &sources, &tokens.values) {
        context.tell(pod, "", Severity::Warning, "FailedMount", stdx::told(&error));
        return Went::Failed(if subject.memory.prepared { STALE_RETRY } else { RETRY });
    }
    if let Err(error) = context.cgroups.create(pod) {
        context.tell(
            pod,
            "",
            Severity::Warning,
            "FailedCreatePodContainer",
            format!("unable to ensure pod container exists: {error}"),
        );
        return Went::Failed(RETRY);
    }
    Went::Well(Effect::Volumes(tokens.refresh_after))
}

async fn create_sandbox(context: &Context, subject: &Subject, attempt: u32) -> Went {
    let pod = &*subject.pod;
    // What is left of earlier ones would keep their processes and addresses.
    for sandbox in &subject.seen.sandboxes {
        if let Err(error) = context.runtime.stop_pod_sandbox(&sandbox.id).await {
            tracing::warn!(%error, sandbox = sandbox.id, "replaced sandbox not stopped");
            return Went::Failed(RETRY);
        }
    }
    match run_sandbox(context, pod, attempt).await {
        Ok(()) => Went::Well(Effect::Nothing),
        Err(why) => {
            let message = format!("Failed to create pod sandbox: {why}");
            context.tell(pod, "", Severity::Warning, "FailedCreatePodSandBox", message);
            Went::Failed(RETRY)
        }
    }
}

async fn run_sandbox(context: &Context, pod: &Pod, attempt: u32) -> Result<(), String> {
    let failed = |why: String| format!("Failed to create sandbox for pod {:?}: {why}", super::full_name(pod));
    let handler = refs::runtime_handler(&context.client, pod).await.map_err(|error| failed(stdx::told(&error)))?;
    let unclear = |why: String| format!("Failed to generate sandbox config for pod {:?}: {why}", super::full_name(pod));
    let users = users(context, pod, &handler).await.map_err(unclear)?;
    let parts = create::SandboxParts { cgroup_parent: &context.cgroups.path(pod), runtime_handler: &handler, users };
    let config = create::sandbox(pod, attempt, parts, &context.facts).map_err(|error| unclear(error.to_string()))?;
    for omission in dns::resolver(pod, &context.facts).omissions {
        context.tell(pod, "", Severity::Warning, "DNSConfigForming", omission);
    }
    context.runtime.run_pod_sandbox(config).await.map(drop).map_err(|error| error.to_string())
}

/// The users that the pod has of its own, where its runtime can do that. Upstream: `GetOrCreateUserNamespaceMappings`.
async fn users(context: &Context, pod: &Pod, handler: &str) -> Result<Option<IdRange>, String> {
    if spec(pod).host_users != Some(false) {
        return Ok(None);
    }
    let status = context.runtime.status().await.map_err(|error| error.to_string())?;
    if !status.can_map_users(handler) {
        let who = match handler {
            "" => "runtime".to_owned(),
            handler => format!("RuntimeClass handler {handler:?}"),
        };
        return Err(format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces"));
    }
    let range = context.users.of(&context.roots.memory, pod);
    range.map_err(|error| format!("create user namespace: {error}"))
}

async fn start(context: &Context, subject: &Subject, name: &str, attempt: u32) -> Went {
    let pod = &*subject.pod;
    let spec = spec(pod);
    let Some((_, container)) = find_container(&spec, name) else { return Went::Well(Effect::Nothing) };
    let container = &container;
    let Some(sandbox) = subject.seen.ready_sandbox() else { return Went::Failed(RETRY) };
    // As it was when this step was planned: the runtime tells of the new try before the step has ended.
    let again = subject.seen.newest(name).is_some_and(|status| status.state == ContainerState::Exited);
    let image_ref = match image(context, subject, container).await {
        Ok(image_ref) => image_ref,
        Err(went) => return went,
    };
    let wait = |reason: &str, message: String| {
        let field = field_of(pod, name);
        context.tell(pod, &field, Severity::Warning, "Failed", format!("Error: {message}"));
        Went::Waits(Waiting { reason: reason.into(), message }, RETRY)
    };
    // What an agent made and did not start before it ended is made again, as the same try.
    let is_stale =
        |status: &&cri::ContainerStatus| status.metadata.name == name && status.state == ContainerState::Created;
    for stale in subject.seen.containers.iter().filter(is_stale) {
        if let Err(error) = context.runtime.remove_container(&stale.id).await {
            return wait("CreateContainerError", error.to_string());
        }
    }
    let envs = match variables(context, subject, container).await {
        Ok(envs) => envs,
        Err(message) => return wait("CreateContainerConfigError", message),
    };
    let images = match image_volumes(context, subject, container).await {
        Ok(images) => images,
        Err(went) => return went,
    };
    let mounts = mounts(context, subject, container, attempt, &envs, &images);
    let mounts = match mounts.map(|mounts| as_possible(context, container, &sandbox.runtime_handler, mounts)) {
        Ok(mounts) => mounts.await,
        Err(message) => return wait("CreateContainerConfigError", message),
    };
    if let Err(message) = not_root(context, pod, container).await {
        return wait("CreateContainerConfigError", message);
    }
    let memory_request = crate::resize::memory_request(container);
    let started = Effect::Started { name: name.to_owned(), again, environment: envs.clone(), memory_request };
    let config = create::container(pod, container, Parts { attempt, envs, mounts, image_ref }, &context.facts);
    let id = match made(context, subject, container, sandbox, config).await {
        Ok(id) => id,
        Err((reason, message)) => return wait(reason, message),
    };
    let field = field_of(pod, name);
    context.tell(pod, &field, Severity::Normal, "Created", "Container created".into());
    if let Err(error) = context.runtime.start_container(&id).await {
        // The runtime keeps it as ended with what went wrong; restarts go by that.
        context.tell(pod, &field, Severity::Warning, "Failed", format!("Error: {error}"));
        return Went::Well(started);
    }
    context.tell(pod, &field, Severity::Normal, "Started", "Container started".into());
    after_start(context, subject, container, &id).await;
    Went::Well(started)
}

/// Makes a container in its sandbox; its id, or why not.
async fn made(
    context: &Context,
    subject: &Subject,
    container: &Container,
    sandbox: &PodSandboxStatus,
    mut config: ContainerConfig,
) -> Result<String, (&'static str, String)> {
    let unclear = |message: String| ("CreateContainerConfigError", message);
    match target(subject, &container.name).map_err(unclear)? {
        Some(id) if config.linux.security_context.namespace_options.pid == NamespaceMode::Container => {
            config.linux.security_context.namespace_options.pid = NamespaceMode::Target(id);
        }
        _ => {}
    }
    // Containers are asked for with their sandbox as it was asked for; the handler is a matter of the sandbox alone.
    let pod = &*subject.pod;
    let users = context.users.of(&context.roots.memory, pod).map_err(|error| unclear(error.to_string()))?;
    config.linux.security_context.namespace_options.users = users;
    let parts = create::SandboxParts { cgroup_parent: &context.cgroups.path(pod), runtime_handler: "", users };
    let of_sandbox = create::sandbox(pod, sandbox.metadata.attempt, parts, &context.facts);
    let of_sandbox = of_sandbox.map_err(|error| unclear(error.to_string()))?;
    let made = context.runtime.create_container(&sandbox.id, config, &of_sandbox).await;
    made.map_err(|error| not_created(container, &error))
}

/// The container whose processes an ephemeral one asked to see, by id.
fn target(subject: &Subject, name: &str) -> Result<Option<String>, String> {
    let spec = spec(&subject.pod);
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name);
    let wanted = ephemeral.and_then(|container| container.target_container_name.as_deref());
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(None) };
    match subject.seen.newest(wanted) {
        Some(target) => Ok(Some(target.id.clone())),
        None => Err(format!("unable to find target container {wanted}")),
    }
}

/// Why a container was not created. What went wrong with a sub path is not told in full: it could tell of the node.
fn not_created(container: &Container, error: &cri::Error) -> (&'static str, String) {
    if let cri::Error::Mount { container_path, .. } = error {
        let mut mounts = container.volume_mounts.iter().flatten();
        let is_sub_path = |mount: &&VolumeMount| {
            mount.mount_path == *container_path && (mount.sub_path.is_some() || mount.sub_path_expr.is_some())
        };
        if let Some(mount) = mounts.find(is_sub_path) {
            tracing::warn!(%error, container = container.name, "sub path not prepared");
            let message =
                format!("failed to prepare subPath for volumeMount {:?} of container {:?}", mount.name, container.name);
            return ("CreateContainerConfigError", message);
        }
    }
    ("CreateContainerError", error.to_string())
}

/// The images that the container's volumes are, present; pulled as the container's own is.
async fn image_volumes(context: &Context, subject: &Subject, container: &Container) -> Result<ImageVolumes, Went> {
    let spec = spec(&subject.pod);
    let mut present = ImageVolumes::new();
    for volume in spec.volumes.iter().flatten() {
        let mounted = container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
        let Some(source) = volume.image.as_ref().filter(|_| mounted) else { continue };
        let asked = Container {
            name: container.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        present.insert(volume.name.clone(), image(context, subject, &asked).await?);
    }
    Ok(present)
}

/// The container's environment; without an API, what it was last started with.
async fn variables(context: &Context, subject: &Subject, container: &Container) -> Result<Vec<KeyValue>, String> {
    let pod = &*subject.pod;
    let before = subject.memory.environments.get(&container.name);
    if let Some(before) = before.filter(|_| !context.services.is_synced()) {
        return Ok(before.clone());
    }
    let found = match (refs::fetch(&context.client, pod, &refs::of_environment(container)).await, before) {
        (Ok(found), _) => found,
        (Err(error), Some(before)) if error.status().is_none() => {
            tracing::warn!(pod = name(pod), %error, "variables not read; the container gets those of before");
            return Ok(before.clone());
        }
        (Err(error), _) => return Err(stdx::told(&error)),
    };
    let env_files = volume::env_files(&context.roots, pod, container);
    let sources = Sources {
        config_maps: found.config_maps,
        secrets: found.secrets,
        env_files,
        ..context.sources(pod, pod_ip(context, subject))
    };
    environment(pod, container, &sources).map_err(|error| error.to_string())
}

/// Runs the postStart hook; a failed one ends the container.
async fn after_start(context: &Context, subject: &Subject, container: &Container, id: &str) {
    let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
        return;
    };
    let asked = Asked { runtime: &*context.runtime, container_id: id, container, pod_ip: pod_ip(context, subject) };
    if let Err(error) = hook::run(&asked, handler, HOOK_LIMIT).await {
        let pod = &*subject.pod;
        let field = field_of(pod, &container.name);
        tracing::warn!(pod = name(pod), container = container.name, error, "postStart hook failed");
        context.tell(pod, &field, Severity::Warning, "FailedPostStartHook", "PostStartHook failed".into());
        context.tell(pod, &field, Severity::Normal, "Killing", "FailedPostStartHook".into());
        if let Err(error) = context.runtime.stop_container(id, Duration::from_secs(2)).await {
            tracing::warn!(%error, "container with a failed hook not stopped");
        }
    }
}

/// The reference of the container's image, pulled if it has to be.
async fn image(context: &Context, subject: &Subject, container: &Container) -> Result<String, Went> {
    let pod = &*subject.pod;
    let image = container.image.clone().unwrap_or_default();
    let image_spec = ImageSpec::named(image.clone());
    let field = field_of(pod, &container.name);
    let failed = |error: &cri::Error| {
        let why = images::failure(&image, error);
        context.tell(
            pod,
            &field,
            Severity::Warning,
            "Failed",
            format!("Failed to pull image {image:?}: {}", why.message),
        );
        context.tell(pod, &field, Severity::Warning, "Failed", format!("Error: {}", why.reason));
        Went::Well(Effect::PullFailed { image: image.clone(), why })
    };
    let present = match context.runtime.image_status(&image_spec).await {
        Ok(present) => present,
        Err(cri::Error::ImagePull { failure: PullFailure::InvalidReference, message }) => {
            // Not a failed pull: no wait between pulls makes it better.
            let error = cri::Error::ImagePull { failure: PullFailure::InvalidReference, message };
            let why = images::failure(&image, &error);
            context.tell(pod, &field, Severity::Warning, "InspectFailed", why.message.clone());
            context.tell(pod, &field, Severity::Warning, "Failed", format!("Error: {}", why.reason));
            return Err(Went::Waits(why, INVALID_RETRY));
        }
        Err(error) => return Err(failed(&error)),
    };
    let presence = match &present {
        None => Presence::Absent,
        Some(present) if may_use(context, pod, &image, &present.id).await => Presence::Usable,
        Some(_) => Presence::Foreign,
    };
    match images::verdict(container, presence, &subject.memory, stdx::wall()) {
        Verdict::Use => {
            let message =
                format!("Container image {image:?} already present on machine and can be accessed by the pod");
            context.tell(pod, &field, Severity::Normal, "Pulled", message);
            Ok(present.map(|present| present.id).unwrap_or(image))
        }
        Verdict::Wait(waiting, left) => {
            let reason = if waiting.reason == "ImagePullBackOff" { "BackOff" } else { "Failed" };
            let severity = if reason == "BackOff" { Severity::Normal } else { Severity::Warning };
            let short =
                if reason == "BackOff" { format!("Back-off pulling image {image:?}") } else { waiting.message.clone() };
            context.tell(pod, &field, severity, if reason == "Failed" { "ErrImageNeverPull" } else { reason }, short);
            context.tell(pod, &field, Severity::Warning, "Failed", format!("Error: {}", waiting.reason));
            Err(Went::Waits(waiting, left.unwrap_or(RETRY)))
        }
        Verdict::Pull => {
            context.tell(pod, &field, Severity::Normal, "Pulling", format!("Pulling image {image:?}"));
            pull(context, pod, &field, &image_spec).await.map_err(|error| failed(&error))
        }
    }
}

/// Whether a pod may use an image that is present: its pull secrets are read only where they matter.
async fn may_use(context: &Context, pod: &Pod, image: &str, id: &str) -> bool {
    if !context.pulled.is_ours(image, id) || context.pulled.may_use(image, id, &[]) {
        return true;
    }
    let secrets = pull_secrets(context, pod).await;
    let keys: Vec<SecretKey> =
        images::credentials(image, secrets.secrets.values()).into_iter().map(|(key, _)| key).collect();
    context.pulled.may_use(image, id, &keys)
}

async fn pull_secrets(context: &Context, pod: &Pod) -> refs::Found {
    refs::fetch(&context.client, pod, &refs::of_pulls(pod)).await.unwrap_or_else(|error| {
        tracing::warn!(pod = name(pod), %error, "pull secrets not read");
        refs::Found::default()
    })
}

/// Pulls with each matching credential, and last without any.
async fn pull(context: &Context, pod: &Pod, field: &str, image: &ImageSpec) -> cri::Result<String> {
    let begun = stdx::mono();
    let secrets = pull_secrets(context, pod).await;
    let unrecorded = |error: std::io::Error| cri::Error::Internal(format!("record the pull: {error}"));
    context.pulled.intend(&image.image).map_err(unrecorded)?;
    let tries = images::credentials(&image.image, secrets.secrets.values()).into_iter().map(Some).chain([None]);
    let mut first_error = None;
    for sourced in tries {
        let (key, auth) = sourced.unzip();
        match context.runtime.pull_image(PullImageRequest { image: image.clone(), auth }).await {
            Ok(image_ref) => {
                let present = context.runtime.image_status(image).await?;
                let id = present.as_ref().map_or(image_ref.as_str(), |present| present.id.as_str());
                context.pulled.succeed(&image.image, id, key);
                let size = present.as_ref().map_or(0, |present| present.size_bytes);
                let took = go_took(stdx::mono() - begun);
                let message = format!(
                    "Successfully pulled image {:?} in {took} ({took} including waiting). Image size: {size} bytes.",
                    image.image
                );
                context.tell(pod, field, Severity::Normal, "Pulled", message);
                return Ok(image_ref);
            }
            // The first answer is the one with the best credentials.
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    context.pulled.fail(&image.image);
    Err(first_error.expect("there is always the try without credentials"))
}

fn go_took(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{}ms", took.as_millis())
    } else {
        format!("{:.3}s", took.as_secs_f64())
    }
}

/// The mounts without what was asked for only if it is possible, where it is not. Upstream: `resolveRecursiveReadOnly`.
async fn as_possible(context: &Context, container: &Container, handler: &str, mut mounts: Vec<Mount>) -> Vec<Mount> {
    let volumes = container.volume_mounts.iter().flatten();
    let optional: Vec<&str> = volumes
        .filter(|mount| mount.recursive_read_only.as_deref() == Some("IfPossible"))
        .map(|mount| mount.mount_path.as_str())
        .collect();
    let optional = |mount: &Mount| mount.recursive_read_only && optional.contains(&mount.container_path.as_str());
    if mounts.iter().any(optional) {
        // A runtime that does not answer will not make the container either.
        let status = context.runtime.status().await.unwrap_or_default();
        if !status.can_mount_recursively_read_only(handler) {
            mounts.iter_mut().filter(|mount| optional(mount)).for_each(|mount| mount.recursive_read_only = false);
        }
    }
    mounts
}

/// Volumes, and the files the agent keeps for every container.
fn mounts(
    context: &Context,
    subject: &Subject,
    container: &Container,
    attempt: u32,
    envs: &[KeyValue],
    images: &ImageVolumes,
) -> Result<Vec<Mount>, String> {
    let volumes = volume::mounts(&context.roots, &subject.pod, container, envs, images);
    let volumes = volumes.map_err(|error| error.to_string())?;
    with_files(context, subject, container, attempt, volumes).map_err(|error| error.to_string())
}

fn with_files(
    context: &Context,
    subject: &Subject,
    container: &Container,
    attempt: u32,
    mut mounts: Vec<Mount>,
) -> std::io::Result<Vec<Mount>> {
    let pod = &*subject.pod;
    // On disk, like all that containers may write: in memory it would take the room of everybody's Secrets.
    let folder = volume::pod_folder(&context.roots.disk, pod);
    std::fs::create_dir_all(&folder)?;
    let mounted = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.container_path == path);
    if !mounted(&mounts, "/etc/hosts") {
        let hosts = folder.join("etc-hosts");
        std::fs::write(&hosts, hosts_file(pod, context, pod_ip(context, subject))?)?;
        std::fs::set_permissions(&hosts, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        mounts.push(Mount {
            container_path: "/etc/hosts".into(),
            host_path: hosts.display().to_string(),
            ..Mount::default()
        });
    }
    let path = container.termination_message_path.clone().unwrap_or_default();
    if !path.is_empty() && !mounted(&mounts, &path) {
        let file = message_file(context, pod, &container.name, attempt);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, "")?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        mounts.push(Mount { container_path: path, host_path: file.display().to_string(), ..Mount::default() });
    }
    Ok(mounts)
}

/// Where a try of a container leaves its last words.
pub fn message_file(context: &Context, pod: &Pod, container: &str, attempt: u32) -> std::path::PathBuf {
    volume::pod_folder(&context.roots.disk, pod).join("containers").join(container).join(format!("{attempt}.message"))
}

/// What a container said last: the end of its file, or of its log when it failed, said nothing and asked for that. Upstream:
/// `getTerminationMessage`.
pub fn last_words(context: &Context, pod: &Pod, status: &cri::ContainerStatus) -> String {
    let policy = find_container(&spec(pod), &status.metadata.name)
        .and_then(|(_, container)| container.termination_message_policy);
    let file = message_file(context, pod, &status.metadata.name, status.metadata.attempt);
    let mut words = match end_of(&file, MESSAGE_BYTES_MAX) {
        Ok(words) => words,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => format!("Error on reading termination log {}: {error}", file.display()).into_bytes(),
    };
    if words.is_empty() && policy.as_deref() == Some("FallbackToLogsOnError") && status.exit.exit_code != 0 {
        words = crate::logs::tail(std::path::Path::new(&status.log_path), MESSAGE_LOG_LINES_MAX, MESSAGE_LOG_BYTES_MAX);
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// The last bytes of a file that its container may have made as long as it likes.
fn end_of(path: &std::path::Path, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max as u64)))?;
    let mut words = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut words)?;
    Ok(words)
}

/// Forgets a container that has ended, with its log.
async fn remove_container(context: &Context, subject: &Subject, id: &str) -> Went {
    let removed = context.runtime.remove_container(id).await;
    let status = subject.seen.containers.iter().find(|status| status.id == id);
    if let (Ok(()), Some(status)) = (&removed, status) {
        crate::logs::remove(std::path::Path::new(&status.log_path));
        drop(std::fs::remove_file(message_file(context, &subject.pod, &status.metadata.name, status.metadata.attempt)));
    }
    done(removed, "remove container")
}

/// Upstream: `ensureHostsFile`.
fn hosts_file(pod: &Pod, context: &Context, ip: Option<IpAddr>) -> std::io::Result<Vec<u8>> {
    let spec = spec(pod);
    let mut content = if spec.host_network == Some(true) {
        let mut content = b"# Kubernetes-managed hosts file (host network).\n".to_vec();
        content.extend(std::fs::read("/etc/hosts")?);
        content
    } else {
        create::hosts(ip, &create::hostname(pod, &context.facts), &create::domain(pod, &context.facts)).into_bytes()
    };
    content.extend(create::host_aliases(spec.host_aliases.as_deref().unwrap_or_default()).into_bytes());
    Ok(content)
}

/// `runAsNonRoot`: refuses a container that would run as root, or as a user nobody knows the number of.
async fn not_root(context: &Context, pod: &Pod, container: &Container) -> Result<(), String> {
    let of_pod = spec(pod).security_context.unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let suffix = format!("(pod: {:?}, container: {})", super::full_name(pod), container.name);
    match own.run_as_user.or(of_pod.run_as_user) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {suffix}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let image = ImageSpec::named(container.image.clone().unwrap_or_default());
    let image = context.runtime.image_status(&image).await.map_err(|error| error.to_string())?;
    match image.map(|image| image.user) {
        Some(cri::ImageUser::Uid(uid)) if uid != 0 => Ok(()),
        Some(cri::ImageUser::Username(user)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {suffix}"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root {suffix}")),
    }
}

/// Runs a container's preStop hook, if it has one, within its grace period.
async fn pre_stop(context: &Context, subject: &Subject, (id, name): (&str, &str), grace: Duration) {
    let pod = &*subject.pod;
    let Some((_, container)) = find_container(&spec(pod), name) else { return };
    let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else { return };
    let asked =
        Asked { runtime: &*context.runtime, container_id: id, container: &container, pod_ip: pod_ip(context, subject) };
    if let Err(error) = hook::run(&asked, handler, grace).await {
        tracing::warn!(pod = super::name(pod), container = name, error, "preStop hook failed");
        let field = field_of(pod, name);
        context.tell(pod, &field, Severity::Warning, "FailedPreStopHook", "PreStopHook failed".into());
    }
}

/// Runs the preStop hook within the grace period and asks the container to end in what is left of it.
async fn kill(context: &Context, subject: &Subject, (id, name): (&str, &str), grace_seconds: u64, why: &Why) -> Went {
    let pod = &*subject.pod;
    let message = match why {
        Why::Unhealthy(message) => message.clone(),
        Why::Resized => format!("Container {name} resize requires restart"),
        Why::PodEnds | Why::SandboxLost | Why::AllRestart => format!("Stopping container {name}"),
    };
    context.tell(pod, &field_of(pod, name), Severity::Normal, "Killing", message);
    let begun = stdx::mono();
    let grace = Duration::from_secs(grace_seconds);
    if !grace.is_zero() && !subject.memory.hooks_run.contains(id) {
        pre_stop(context, subject, (id, name), grace).await;
    }
    let left = match why {
        // Its network is gone already.
        Why::SandboxLost => Duration::ZERO,
        Why::PodEnds | Why::Unhealthy(_) | Why::Resized | Why::AllRestart => {
            grace.saturating_sub(stdx::mono() - begun).max(GRACE_MIN)
        }
    };
    match context.runtime.stop_container(id, left).await {
        Ok(()) => Went::Well(Effect::Nothing),
        Err(error) => {
            let field = field_of(pod, name);
            context.tell(pod, &field, Severity::Warning, "FailedKillPod", format!("error killing container: {error}"));
            Went::Failed(RETRY)
        }
    }
}

/// Gives a container what it was granted. The pod's own limits rise before and fall after: those of its containers must always fit.
async fn resize(context: &Context, subject: &Subject, (id, name): (&str, &str)) -> Went {
    let pod = &*subject.pod;
    let Some((_, container)) = find_container(&spec(pod), name) else { return Went::Well(Effect::Nothing) };
    let limits = create::resources(pod, &container, &context.facts);
    let waits = |message: String| Went::Waits(Waiting { reason: "Error".into(), message }, RESIZE_RETRY);
    let least = u64::try_from(limits.memory_limit_in_bytes).unwrap_or(0);
    let before = subject.seen.containers.iter().find(|status| status.id == id);
    let before = before.map_or(0, |status| status.linux.resources.memory_limit_in_bytes);
    if least > 0 && (before == 0 || before > limits.memory_limit_in_bytes) {
        // The kernel would end the container rather than refuse.
        match context.runtime.container_stats(id).await {
            Ok(stats) if stats.memory.working_set_bytes <= least => {}
            Ok(stats) => {
                let used = stats.memory.working_set_bytes;
                let why = "cannot decrease memory limits: attempting to set container";
                return waits(format!("{why} {name:?} memory limit ({least}) below current usage ({used})"));
            }
            Err(error) => return waits(error.to_string()),
        }
    }
    if let Err(error) = context.cgroups.raise(pod) {
        return waits(format!("raise the limits of the pod: {error}"));
    }
    if let Err(error) = context.runtime.update_container_resources(id, limits).await {
        return waits(error.to_string());
    }
    if !crate::resize::is_under_way(&spec(pod), &subject.seen, id)
        && let Err(error) = context.cgroups.create(pod)
    {
        return waits(format!("settle the limits of the pod: {error}"));
    }
    Went::Well(Effect::Nothing)
}

/// Removes everything of a pod from the node.
/// Removes what a pod that has ended had mounted, and its control groups. What its containers said stays.
async fn remove_volumes(context: &Context, subject: &Subject) -> Went {
    let roots = [&context.roots.disk, &context.roots.memory];
    let folders = roots.map(|root| volume::pod_folder(root, &subject.pod).join(volume::FOLDER));
    match remove_all(context, subject, folders).await {
        Ok(()) => Went::Well(Effect::Emptied),
        Err(error) => {
            tracing::warn!(pod = name(&subject.pod), %error, "volumes of an ended pod not removed");
            Went::Failed(RETRY)
        }
    }
}

/// Removes these folders of a pod, and its control groups.
async fn remove_all<const COUNT: usize>(
    context: &Context,
    subject: &Subject,
    folders: [std::path::PathBuf; COUNT],
) -> std::io::Result<()> {
    let (cgroups, uid) = (context.cgroups.clone(), super::uid(&subject.pod).to_owned());
    let remove = move || {
        // First: what lives there writes to the folders.
        cgroups.remove(&uid)?;
        folders.iter().try_for_each(|folder| mounted::remove(folder))
    };
    stdx::blocking(remove).await.unwrap_or_else(|lost| Err(std::io::Error::other(lost)))
}

async fn clean_up(context: &Context, subject: &Subject) -> Went {
    for sandbox in &subject.seen.sandboxes {
        let stopped = context.runtime.stop_pod_sandbox(&sandbox.id).await;
        if let Err(error) = stopped {
            let message = format!("error killing pod: {error}");
            context.tell(&subject.pod, "", Severity::Warning, "FailedKillPod", message);
            return Went::Failed(RETRY);
        }
        if let Err(error) = context.runtime.remove_pod_sandbox(&sandbox.id).await {
            tracing::warn!(%error, sandbox = sandbox.id, "sandbox not removed");
            return Went::Failed(RETRY);
        }
    }
    match remove_all(context, subject, folders(context, &subject.pod)).await {
        Ok(()) => {
            context.rules.forget(super::uid(&subject.pod));
            context.kept.forget(super::uid(&subject.pod));
            Went::Well(Effect::Cleaned)
        }
        Err(error) => {
            tracing::warn!(pod = name(&subject.pod), %error, "pod not cleaned up");
            Went::Failed(RETRY)
        }
    }
}

/// Where a pod has something; what lets an agent go on with it last.
fn folders(context: &Context, pod: &Pod) -> [std::path::PathBuf; 3] {
    let logs = create::log_directory(pod, &context.facts).into();
    [volume::pod_folder(&context.roots.disk, pod), logs, volume::pod_folder(&context.roots.memory, pod)]
}

/// The part of a pod that an event about a container is about.
pub fn field_of(pod: &Pod, container: &str) -> String {
    let list = match find_container(&spec(pod), container) {
        Some((Role::Init | Role::Sidecar, _)) => "initContainers",
        Some((Role::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

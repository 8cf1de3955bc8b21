//! An in-memory runtime whose images behave as a script says, for tests and the simulation.

mod containers;
mod images;
mod sandboxes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::container::{ContainerConfig, ContainerExit, ContainerState, ContainerTimes};
use crate::error::{Error, Result};
use crate::event::{ContainerEvent, ContainerEventType, EventSender};
use crate::exec::ExecSyncResponse;
use crate::sandbox::{PodSandboxConfig, PodSandboxState};

/// What a process does after its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Run {
    /// It runs until it is told to end.
    #[default]
    Forever,
    /// It ends by itself.
    Exits {
        /// After this time.
        after: Duration,
        /// With this code.
        code: i32,
    },
    /// It is killed for its use of memory.
    OutOfMemory {
        /// After this time.
        after: Duration,
    },
    /// It cannot be started.
    Fails,
}

/// Answers an exec in the container of this id with the program and arguments given.
pub type ExecScript = Arc<dyn Fn(&str, &[String]) -> ExecSyncResponse + Send + Sync>;

/// How the containers of an image behave.
#[derive(Clone, Default)]
pub struct Behavior {
    /// What its process does.
    pub run: Run,
    /// Whether it ignores the signal that asks it to end.
    pub ignores_term: bool,
    /// The exit code with which it answers that signal.
    pub term_code: i32,
    /// What an exec answers; without it, empty output and code 0.
    pub exec: Option<ExecScript>,
    /// How long that takes.
    pub exec_takes: Duration,
}

/// An image of the fake world.
#[derive(Clone, Default)]
pub struct FakeImage {
    /// Whether it is present before anyone pulls it.
    pub present: bool,
    /// How long a pull takes.
    pub pull_takes: Duration,
    /// What a pull fails with.
    pub pull_error: Option<Error>,
    /// How its containers behave.
    pub behavior: Behavior,
}

struct FakeSandbox {
    config: PodSandboxConfig,
    state: PodSandboxState,
    created_at: i64,
    number: u32,
}

struct FakeContainer {
    sandbox_id: String,
    config: ContainerConfig,
    state: ContainerState,
    times: ContainerTimes,
    exit: ContainerExit,
    behavior: Behavior,
    ended: stdx::Cancel,
}

#[derive(Default)]
struct World {
    next: u32,
    images: BTreeMap<String, FakeImage>,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    failures: BTreeMap<&'static str, VecDeque<Error>>,
    calls: VecDeque<String>,
}

/// How many calls are remembered.
const CALLS_MAX: usize = 10_000;

/// An in-memory runtime; clones share it.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    world: Arc<Mutex<World>>,
    events: EventSender,
}

impl FakeRuntime {
    /// A runtime without images, sandboxes or containers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an image into the fake world, or changes what it does from now on.
    pub fn set_image(&self, name: &str, image: FakeImage) {
        self.lock().images.insert(name.to_owned(), image);
    }

    /// Makes the next call of `operation` (such as `start_container`) fail; several queue up.
    pub fn fail_next(&self, operation: &'static str, error: Error) {
        self.lock().failures.entry(operation).or_default().push_back(error);
    }

    /// The calls that changed something, oldest first, as `operation argument`; they are forgotten by this.
    pub fn take_calls(&self) -> Vec<String> {
        self.lock().calls.drain(..).collect()
    }

    /// Ends a container's process from within.
    pub fn exit_container(&self, id: &str, exit_code: i32) -> Result<()> {
        if !self.lock().containers.contains_key(id) {
            return Err(Error::no_container(id));
        }
        self.end(id, exit_code, reason_of(exit_code));
        Ok(())
    }

    /// Ends a sandbox as when its supervisor is lost: it is not ready and its containers are killed.
    pub fn lose_sandbox(&self, id: &str) -> Result<()> {
        self.lock().sandboxes.get_mut(id).ok_or_else(|| Error::no_sandbox(id))?.state = PodSandboxState::NotReady;
        self.kill_all(id);
        self.announce(id, id, ContainerEventType::Stopped);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no holder of this lock panics")
    }

    /// Notes a call and answers the failure that was asked for, if one was.
    fn call(&self, operation: &'static str, argument: &str) -> Result<()> {
        let mut world = self.lock();
        if world.calls.len() == CALLS_MAX {
            world.calls.pop_front();
        }
        world.calls.push_back(format!("{operation} {argument}"));
        match world.failures.get_mut(operation).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn announce(&self, container_id: &str, sandbox_id: &str, event_type: ContainerEventType) {
        let pod = self.lock().sandboxes.get(sandbox_id).map(|sandbox| sandbox.config.metadata.clone());
        self.events.send(ContainerEvent {
            container_id: container_id.to_owned(),
            pod_sandbox_id: sandbox_id.to_owned(),
            pod: pod.unwrap_or_default(),
            event_type,
            created_at: now(),
        });
    }

    /// Marks a running container as ended and tells everyone; without effect on others.
    fn end(&self, id: &str, exit_code: i32, reason: &str) {
        let sandbox_id = {
            let mut world = self.lock();
            let Some(container) = world.containers.get_mut(id).filter(|c| c.state == ContainerState::Running) else {
                return;
            };
            container.state = ContainerState::Exited;
            container.times.finished_at = now();
            container.exit = ContainerExit { exit_code, reason: reason.to_owned(), message: String::new() };
            container.ended.cancel();
            container.sandbox_id.clone()
        };
        self.announce(id, &sandbox_id, ContainerEventType::Stopped);
    }

    fn kill_all(&self, sandbox_id: &str) {
        let ids: Vec<String> = {
            let world = self.lock();
            world.containers.iter().filter(|(_, c)| c.sandbox_id == sandbox_id).map(|(id, _)| id.clone()).collect()
        };
        for id in ids {
            self.end(&id, 137, "Error");
        }
    }
}

fn reason_of(exit_code: i32) -> &'static str {
    if exit_code == 0 { "Completed" } else { "Error" }
}

fn now() -> i64 {
    i64::try_from(stdx::wall().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::container::{ContainerMetadata, ContainerStatus};
    use crate::event::RuntimeEvent;
    use crate::exec::ExecRequest;
    use crate::image::{ImageSpec, PullImageRequest};
    use crate::service::{ImageService, RuntimeService};

    async fn started(runtime: &FakeRuntime, behavior: Behavior) -> String {
        runtime.set_image("app", FakeImage { present: true, behavior, ..FakeImage::default() });
        let sandbox = runtime.run_pod_sandbox(PodSandboxConfig::default()).await.unwrap();
        let config = ContainerConfig {
            metadata: ContainerMetadata { name: "app".into(), attempt: 0 },
            image: ImageSpec::named("app"),
            ..ContainerConfig::default()
        };
        let id = runtime.create_container(&sandbox, config, &PodSandboxConfig::default()).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        id
    }

    async fn stopped(runtime: &FakeRuntime, events: &mut crate::Events, id: &str) -> ContainerStatus {
        loop {
            match events.next().await {
                Some(RuntimeEvent::Container(event)) if event.event_type == ContainerEventType::Stopped => {
                    return runtime.container_status(id).await.unwrap();
                }
                Some(_) => {}
                None => panic!("the runtime lives"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_script_ends_its_container_and_says_so() {
        let runtime = FakeRuntime::new();
        let mut events = runtime.events.subscribe();
        let run = Run::Exits { after: Duration::from_secs(5), code: 3 };
        let id = started(&runtime, Behavior { run, ..Behavior::default() }).await;
        let status = stopped(&runtime, &mut events, &id).await;
        assert_eq!((status.state, status.exit.exit_code, &*status.exit.reason), (ContainerState::Exited, 3, "Error"));
        let run = Run::OutOfMemory { after: Duration::from_secs(5) };
        let id = started(&runtime, Behavior { run, ..Behavior::default() }).await;
        let status = stopped(&runtime, &mut events, &id).await;
        assert_eq!((status.exit.exit_code, &*status.exit.reason), (137, "OOMKilled"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ignores_the_request_to_end_is_killed_at_the_deadline() {
        let runtime = FakeRuntime::new();
        let id = started(&runtime, Behavior { ignores_term: true, ..Behavior::default() }).await;
        let before = tokio::time::Instant::now();
        runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(30));
        assert_eq!(runtime.container_status(&id).await.unwrap().exit.exit_code, 137);

        let id = started(&runtime, Behavior { term_code: 7, ..Behavior::default() }).await;
        runtime.stop_container(&id, Duration::from_secs(30)).await.unwrap();
        assert_eq!(runtime.container_status(&id).await.unwrap().exit.exit_code, 7);
    }

    #[tokio::test]
    async fn a_failed_start_leaves_an_exited_container() {
        let runtime = FakeRuntime::new();
        let id = started(&runtime, Behavior::default()).await;
        let sandbox = runtime.container_status(&id).await.unwrap().pod_sandbox_id;
        runtime.fail_next("start_container", Error::Internal("no such program".into()));
        let config = ContainerConfig { image: ImageSpec::named("app"), ..ContainerConfig::default() };
        let id = runtime.create_container(&sandbox, config, &PodSandboxConfig::default()).await.unwrap();
        assert_eq!(runtime.start_container(&id).await, Err(Error::Internal("no such program".into())));
        let status = runtime.container_status(&id).await.unwrap();
        assert_eq!(
            (status.state, status.exit.exit_code, &*status.exit.reason),
            (ContainerState::Exited, 128, "StartError")
        );
    }

    #[tokio::test]
    async fn an_exec_answers_as_scripted() {
        use tokio::io::AsyncReadExt;
        let runtime = FakeRuntime::new();
        let exec: ExecScript =
            Arc::new(|_, cmd| ExecSyncResponse { stdout: cmd.join(" ").into_bytes(), stderr: vec![], exit_code: 4 });
        let exec_takes = Duration::from_millis(30);
        let id = started(&runtime, Behavior { exec: Some(exec), exec_takes, ..Behavior::default() }).await;
        let begun = stdx::mono();
        let answer = runtime.exec_sync(&id, vec!["a".into(), "b".into()], Duration::ZERO).await.unwrap();
        assert_eq!((answer.stdout.as_slice(), answer.exit_code), (b"a b".as_slice(), 4));
        assert!(stdx::mono() - begun >= exec_takes);
        let request = ExecRequest { cmd: vec!["c".into()], ..ExecRequest::default() };
        let mut session = runtime.exec(&id, request).await.unwrap();
        let mut output = String::new();
        session.stdout.read_to_string(&mut output).await.unwrap();
        assert_eq!((output.as_str(), session.exit.await), ("c", Ok(4)));
    }

    #[tokio::test]
    async fn a_pull_makes_an_image_present_and_a_removal_absent() {
        let runtime = FakeRuntime::new();
        let spec = ImageSpec::named("registry/app:1");
        let request = PullImageRequest { image: spec.clone(), auth: None };
        assert!(matches!(runtime.pull_image(request.clone()).await, Err(Error::ImagePull { .. })));
        runtime.set_image("registry/app:1", FakeImage::default());
        assert_eq!(runtime.image_status(&spec).await, Ok(None));
        let reference = runtime.pull_image(request).await.unwrap();
        assert_eq!(runtime.image_status(&spec).await.unwrap().unwrap().id, reference);
        runtime.remove_image(&spec).await.unwrap();
        assert_eq!(runtime.image_status(&spec).await, Ok(None));
    }
}

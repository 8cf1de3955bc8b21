//! Pod supervisors as the runtime sees them: starting one, asking it, hearing from it.

mod launch;
mod link;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use shim::message::{Kind, Op, Reply, Report, Request};
use shim::wire::Wire;
use tokio::sync::oneshot;

pub(crate) use launch::{Launcher, sealed_file};
use link::Link;

/// How long a supervisor may take for what it does at once.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(30);

/// Why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It is gone, or does not listen.
    #[error("pod supervisor is gone")]
    Lost,
    /// It takes too long.
    #[error("pod supervisor does not answer")]
    Late,
    /// It has no such container or process.
    #[error("pod supervisor knows no such container")]
    Missing,
    /// A process could not be started.
    #[error("{0}")]
    Start(String),
    /// It could not.
    #[error("{0}")]
    Failed(String),
    /// A system call on our side failed.
    #[error("talk to pod supervisor")]
    Io(#[from] std::io::Error),
}

type Answer = (Reply, Vec<OwnedFd>);

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    answers: BTreeMap<u64, oneshot::Sender<Answer>>,
    processes: BTreeMap<u64, oneshot::Sender<i32>>,
    lost: bool,
}

/// A connection to a supervisor.
#[derive(Clone)]
pub(crate) struct Supervisor {
    link: Arc<Link>,
    waiting: Arc<Mutex<Waiting>>,
    numbers: Arc<AtomicU64>,
    pid: u32,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("no holder of this lock panics")
}

impl Supervisor {
    /// Connects to the supervisor of the sandbox in `folder`. Nothing is heard until [`Supervisor::listen`] runs.
    pub(crate) fn connect(folder: &Path) -> std::io::Result<Supervisor> {
        let (link, pid) = Link::connect(folder)?;
        let (waiting, numbers) = (Arc::default(), Arc::new(AtomicU64::new(1)));
        Ok(Supervisor { link: Arc::new(link), waiting, numbers, pid })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Receives answers and announcements until the supervisor is gone. `exited` hears of containers that ended.
    pub(crate) async fn listen(&self, exited: impl Fn(Report)) {
        while let Ok(Some((bytes, files))) = self.link.receive().await {
            let Ok(reply) = Reply::decode(&bytes) else { break };
            match reply.kind {
                Kind::Exited => reply.reports.into_iter().for_each(&exited),
                Kind::ExecExited => {
                    if let Some(waiter) = lock(&self.waiting).processes.remove(&reply.process) {
                        // Nobody may care for the exit code any more.
                        waiter.send(reply.code).unwrap_or(());
                    }
                }
                Kind::Done | Kind::Failed | Kind::Missing | Kind::StartFailed => {
                    let waiter = lock(&self.waiting).answers.remove(&reply.id);
                    drop(waiter.map(|waiter| waiter.send((reply, files))));
                }
            }
        }
        // Dropping the senders tells all who wait.
        let mut waiting = lock(&self.waiting);
        *waiting = Waiting { lost: true, ..Waiting::default() };
    }

    async fn call(&self, request: Request, files: &[BorrowedFd<'_>]) -> Result<Answer, CallError> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.lost {
                return Err(CallError::Lost);
            }
            waiting.answers.insert(id, sender);
        }
        // When this future is dropped, nobody waits for the answer and it must not be kept.
        let _forget = Forget { waiting: &self.waiting, id };
        self.link.send(&Request { id, ..request }.encode(), files).await.map_err(|_| CallError::Lost)?;
        let answer = stdx::timeout(ANSWER_SECONDS_MAX, receiver).await.map_err(|_| CallError::Late)?;
        let (reply, files) = answer.map_err(|_| CallError::Lost)?;
        match reply.kind {
            Kind::Failed => Err(CallError::Failed(reply.text)),
            Kind::Missing => Err(CallError::Missing),
            Kind::StartFailed => Err(CallError::Start(reply.text)),
            _ => Ok((reply, files)),
        }
    }

    async fn simple(&self, op: Op, container: &str, signal: i32) -> Result<Reply, CallError> {
        let request = Request { op, container: container.to_owned(), signal, ..Request::default() };
        self.call(request, &[]).await.map(|(reply, _)| reply)
    }

    /// The containers it has.
    pub(crate) async fn hello(&self) -> Result<Vec<Report>, CallError> {
        Ok(self.simple(Op::Hello, "", 0).await?.reports)
    }

    /// Makes a container from its encoded specification, up to its gate.
    pub(crate) async fn create(&self, container: &str, spec: &[u8]) -> Result<Report, CallError> {
        let spec = sealed_file("container", spec)?;
        let request = Request { op: Op::Create, container: container.to_owned(), ..Request::default() };
        let (reply, _) = self.call(request, &[spec.as_fd()]).await?;
        reply.reports.into_iter().next().ok_or(CallError::Missing)
    }

    /// Lets a container's program start; answers when it runs.
    pub(crate) async fn start(&self, container: &str) -> Result<Report, CallError> {
        let reply = self.simple(Op::Start, container, 0).await?;
        reply.reports.into_iter().next().ok_or(CallError::Missing)
    }

    /// Sends a signal to a container's first process.
    pub(crate) async fn signal(&self, container: &str, signal: i32) -> Result<(), CallError> {
        self.simple(Op::Signal, container, signal).await.map(drop)
    }

    /// Kills all processes of a container.
    pub(crate) async fn kill(&self, container: &str) -> Result<(), CallError> {
        self.simple(Op::KillAll, container, 0).await.map(drop)
    }

    /// Forgets a container that has ended.
    pub(crate) async fn delete(&self, container: &str) -> Result<(), CallError> {
        self.simple(Op::Delete, container, 0).await.map(drop)
    }

    /// Opens a container's log file anew.
    pub(crate) async fn reopen_log(&self, container: &str) -> Result<(), CallError> {
        self.simple(Op::ReopenLog, container, 0).await.map(drop)
    }

    /// Joins a container's streams, as the `ATTACH_` bits say; `files` get copies of its outputs. Answers its terminal, or
    /// the end of its input.
    pub(crate) async fn attach(
        &self,
        container: &str,
        wanted: i32,
        files: &[BorrowedFd<'_>],
    ) -> Result<Option<OwnedFd>, CallError> {
        let container = container.to_owned();
        let request = Request { op: Op::Attach, container, signal: wanted, ..Request::default() };
        let (_, files) = self.call(request, files).await?;
        Ok(files.into_iter().next())
    }

    /// A new TCP socket of the sandbox's network.
    pub(crate) async fn socket(&self, family: i32) -> Result<OwnedFd, CallError> {
        let request = Request { op: Op::Socket, signal: family, ..Request::default() };
        let (_, files) = self.call(request, &[]).await?;
        files.into_iter().next().ok_or(CallError::Missing)
    }

    /// Kills everything in the sandbox and ends the supervisor.
    pub(crate) async fn shut_down(&self) -> Result<(), CallError> {
        self.simple(Op::Shutdown, "", 0).await.map(drop)
    }

    /// Runs one more process; `files` are its streams, none for a terminal.
    pub(crate) async fn exec(
        &self,
        container: &str,
        spec: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> Result<Process, CallError> {
        let spec = sealed_file("process", spec)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, exit) = oneshot::channel();
        lock(&self.waiting).processes.insert(number, sender);
        // From here on the process ends when this is dropped, also while it is being started.
        let guard = Guard { supervisor: self.clone(), number };
        let container = container.to_owned();
        let request = Request { op: Op::Exec, container, process: number, ..Request::default() };
        let all: Vec<BorrowedFd<'_>> = [spec.as_fd()].into_iter().chain(files.iter().copied()).collect();
        let (_, files) = self.call(request, &all).await?;
        Ok(Process { terminal: files.into_iter().next(), exit, guard })
    }
}

struct Forget<'a> {
    waiting: &'a Mutex<Waiting>,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).answers.remove(&self.id);
    }
}

/// A further process of a container; it is killed when this is dropped.
pub(crate) struct Process {
    /// Its terminal's controlling end.
    pub(crate) terminal: Option<OwnedFd>,
    exit: oneshot::Receiver<i32>,
    guard: Guard,
}

impl Process {
    /// The exit code, once it has ended.
    pub(crate) async fn wait(self) -> Result<i32, CallError> {
        let Process { exit, guard, .. } = self;
        let code = exit.await.map_err(|_| CallError::Lost);
        drop(guard);
        code
    }
}

struct Guard {
    supervisor: Supervisor,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if lock(&self.supervisor.waiting).processes.remove(&self.number).is_none() {
            return;
        }
        let id = self.supervisor.numbers.fetch_add(1, Ordering::Relaxed);
        let signal = libc::SIGKILL;
        let request = Request { id, op: Op::ExecSignal, process: self.number, signal, ..Request::default() };
        // A supervisor that cannot take this now drops the connection sooner or later, and the process with it.
        drop(self.supervisor.link.try_send(&request.encode(), &[]));
    }
}

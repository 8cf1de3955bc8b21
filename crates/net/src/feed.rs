//! The agent's side: what it knows of Services goes into the kernel, and to the data-plane process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use stdx::{Backoff, TaskTree};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::error::NetError;
use crate::input::{NetState, ObjectKey};
use crate::namespace;
use crate::netlink::{NetlinkError, Socket};
use crate::protocol::{Greeting, VERSION, complete, difference, read_frame, write_frame};
use crate::rules::{Applied, Kernel, NodeFacts, rule_set, touches};

/// Callers wait for their answers, so that only so many can be under way.
const QUEUE: usize = 1024;
/// Pods that are ending on one node at the same time; the rest of a larger crowd is forgotten first.
const ENDING_MAX: usize = 4096;
/// How long after a change by others ours is checked, so that one check serves all changes of a firewall's restart.
const SETTLE: Duration = Duration::from_millis(100);
/// How often it is looked whether a firewall that takes no rules of ours is still there: when the program whose table it is
/// ends, the kernel removes the table and says nothing of it.
const CLOSED_LOOK: Duration = Duration::from_secs(5);
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long the data-plane process may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// Settings of the feed.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// This node.
    pub facts: NodeFacts,
    /// The node's network namespace, when it is not the one of this process.
    pub netns: Option<PathBuf>,
    /// Where the data-plane process listens; nothing is forwarded when absent.
    pub dataplane: Option<PathBuf>,
}

/// The way of Services and slices into the kernel and to the data-plane process. Clones share it; its thread ends with
/// the last of them. Nothing is taken out of the kernel when it ends.
#[derive(Clone)]
pub struct Feed {
    line: Arc<Line>,
    unsupported: Arc<Mutex<BTreeMap<ObjectKey, Vec<String>>>>,
    closed: Arc<Mutex<Vec<String>>>,
}

/// The way to the thread. The sender is absent only while this is dropped.
struct Line {
    commands: Option<SyncSender<Command>>,
    wake: Arc<OwnedFd>,
}

impl Drop for Line {
    fn drop(&mut self) {
        // In this order: the thread sees that the sender is gone only when it is woken to look.
        self.commands.take();
        signal(&self.wake);
    }
}

type Reply = oneshot::Sender<Result<Applied, Arc<NetlinkError>>>;

enum Command {
    State(Arc<NetState>, Reply),
    Exclude(String, Reply),
    Include(String),
}

impl Feed {
    /// Starts the feed. The kernel is not touched before the first [`Feed::apply`].
    pub async fn start(options: FeedOptions, tasks: &TaskTree) -> Result<Feed, NetError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|errno| NetError::io("start the rules' thread")(errno.into()))?);
        let (commands, queue) = sync_channel(QUEUE);
        let (states, latest) = watch::channel(None);
        let unsupported = Arc::<Mutex<BTreeMap<ObjectKey, Vec<String>>>>::default();
        let (ready, started) = oneshot::channel();
        let closed = Arc::<Mutex<Vec<String>>>::default();
        let their_wake = Arc::clone(&wake);
        let told = Told { states, unsupported: Arc::clone(&unsupported), closed: Arc::clone(&closed) };
        let (facts, netns) = (options.facts, options.netns);
        thread::Builder::new()
            .name("service-rules".into())
            .spawn(move || match Worker::open(facts, netns, told) {
                Ok(worker) => {
                    drop(ready.send(Ok(())));
                    worker.run(&queue, &their_wake);
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(NetError::io("start the rules' thread"))?;
        started.await.map_err(|_| NetError::Ended("the rules' thread"))??;
        if let Some(socket) = options.dataplane {
            tasks.spawn("dataplane-feed", forward(socket, latest));
        }
        Ok(Feed { line: Arc::new(Line { commands: Some(commands), wake }), unsupported, closed })
    }

    /// Makes the kernel serve `state`, which must come from complete lists, and tells the data-plane process. Resolves
    /// once the rules are in force. When that fails, it is tried again by itself until it succeeds or a newer state
    /// comes.
    pub async fn apply(&self, state: NetState) -> Result<Applied, NetError> {
        self.ask(|reply| Command::State(Arc::new(state), reply)).await
    }

    /// Stops leading new connections to the pod with this uid, as if the cluster knew already that it is ending; so it
    /// keeps being used only where it is the last of a Service. Resolves once that is in force, which is not before the
    /// first [`Feed::apply`]: rules of an earlier process may still lead to it. Lasts until [`Feed::include`].
    pub async fn exclude(&self, pod_uid: &str) -> Result<Applied, NetError> {
        self.ask(|reply| Command::Exclude(pod_uid.to_owned(), reply)).await
    }

    /// Ends what [`Feed::exclude`] began: the pod is gone.
    pub fn include(&self, pod_uid: &str) -> Result<(), NetError> {
        self.send(Command::Include(pod_uid.to_owned()))
    }

    /// Fields of Services in force that are set and not honoured, by Service.
    pub fn unsupported(&self) -> BTreeMap<ObjectKey, Vec<String>> {
        self.unsupported.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chains of others' firewalls that may keep pods' packets out and take no rules of ours, each in a sentence.
    pub fn closed(&self) -> Vec<String> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<Applied, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        let outcome = answer.await.map_err(|_| NetError::Ended("the rules' thread"))?;
        outcome.map_err(NetError::rules)
    }

    fn send(&self, command: Command) -> Result<(), NetError> {
        let commands = self.line.commands.as_ref().ok_or(NetError::Ended("the rules' thread"))?;
        commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => NetError::Busy("the rules' thread"),
            TrySendError::Disconnected(_) => NetError::Ended("the rules' thread"),
        })?;
        signal(&self.line.wake);
        Ok(())
    }
}

/// Adds to an event counter. It can only fail when the counter is full, and then the reader is awake.
fn signal(wake: &OwnedFd) {
    let full = rustix::io::write(wake, &1u64.to_ne_bytes()).is_err();
    debug_assert!(!full, "a counter of 64 bits is not filled by wake-ups");
}

/// What the rules' thread tells others.
struct Told {
    states: watch::Sender<Option<Arc<NetState>>>,
    unsupported: Arc<Mutex<BTreeMap<ObjectKey, Vec<String>>>>,
    closed: Arc<Mutex<Vec<String>>>,
}

/// What the rules' thread holds.
struct Worker {
    facts: NodeFacts,
    kernel: Kernel,
    changes: Socket,
    told: Told,
    state: Option<Arc<NetState>>,
    ending: BTreeSet<String>,
    waiting: Vec<Reply>,
    backoff: Backoff,
}

/// Why the thread will act, although nobody asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Somebody changed nftables.
    Check,
    /// The last attempt failed, or something has to be looked at again that does not announce itself.
    Look(Duration),
}

impl Worker {
    fn open(facts: NodeFacts, netns: Option<PathBuf>, told: Told) -> Result<Worker, NetError> {
        if let Some(path) = netns {
            let file = namespace::open(&path).map_err(NetError::io(format!("open {}", path.display())))?;
            namespace::enter(file).map_err(NetError::io(format!("enter {}", path.display())))?;
        }
        // Pods may be connected by somebody else's network, which need not do it.
        crate::bridge::route_loopback()?;
        Ok(Worker {
            facts,
            kernel: Kernel::open().map_err(NetError::kernel("open a netfilter socket"))?,
            changes: Socket::netfilter_changes().map_err(NetError::kernel("watch netfilter"))?,
            told,
            state: None,
            ending: BTreeSet::new(),
            waiting: Vec::new(),
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
        })
    }

    fn run(mut self, queue: &Receiver<Command>, wake: &OwnedFd) {
        let mut due = Due::Nothing;
        loop {
            let asked = match self.wait(wake, due) {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::error!(%error, "the rules' thread cannot wait and ends");
                    return;
                }
            };
            let (received, open) = self.receive(queue);
            if !open {
                return;
            }
            let foreign = self.take_notifications();
            let expired = !asked && due != Due::Nothing && !foreign;
            if received || expired {
                due = self.apply();
                // Our own change announces itself as well, and what others did meanwhile is among that.
                if self.take_notifications() && due == Due::Nothing {
                    due = Due::Check;
                }
            } else if foreign {
                due = Due::Check;
            }
        }
    }

    /// Waits for a command, a notification, or what is due. Whether one of the former came.
    fn wait(&self, wake: &OwnedFd, due: Due) -> Result<bool, rustix::io::Errno> {
        let patience = match due {
            Due::Nothing => None,
            Due::Check => Timespec::try_from(SETTLE).ok(),
            Due::Look(delay) => Timespec::try_from(delay).ok(),
        };
        let mut sources =
            [PollFd::new(wake, PollFlags::IN), PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut sources, patience.as_ref()))?;
        // Resets the counter; that there is nothing to reset is the usual case after a notification.
        let reset = rustix::io::read(wake, &mut [0u8; 8]);
        match reset {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(ready > 0),
            Err(error) => Err(error),
        }
    }

    /// Takes all commands that wait: (whether there is something to do, whether anybody is left to send more).
    fn receive(&mut self, queue: &Receiver<Command>) -> (bool, bool) {
        let mut received = false;
        loop {
            match queue.try_recv() {
                Ok(Command::State(state, reply)) => {
                    self.state = Some(state);
                    self.waiting.push(reply);
                    received = true;
                }
                Ok(Command::Exclude(uid, reply)) => {
                    if self.ending.len() >= ENDING_MAX {
                        self.ending.pop_first();
                    }
                    self.ending.insert(uid);
                    self.waiting.push(reply);
                    received = true;
                }
                // What is gone from the cluster's lists needs no change now, and what is not will come with them.
                Ok(Command::Include(uid)) => drop(self.ending.remove(&uid)),
                Err(std::sync::mpsc::TryRecvError::Empty) => return (received, true),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return (received, false),
            }
        }
    }

    /// Reads what came in about nftables; whether somebody else changed what concerns us.
    fn take_notifications(&mut self) -> bool {
        let (own, names) = (self.kernel.port(), &self.facts.names);
        let (mut ours, mut others) = (false, false);
        let complete = self.changes.notifications(|message| {
            if message.port != own {
                match touches(message, names) {
                    Some(touched) if touched.is_ours() => ours = true,
                    Some(_) => others = true,
                    None => {}
                }
            }
        });
        // Of what was lost nothing is known, so anything may have changed.
        let lost = !complete.unwrap_or(false);
        if ours || lost {
            self.kernel.forget();
        }
        if others {
            self.kernel.forget_others();
        }
        ours || others || lost
    }

    fn apply(&mut self) -> Due {
        // Before the first complete lists nothing is touched, and whoever asks waits for them.
        let Some(state) = &self.state else { return Due::Nothing };
        let state = match self.ending.is_empty() {
            true => Arc::clone(state),
            false => Arc::new(state.with_ending(&self.ending)),
        };
        let rules = rule_set(&state, &self.facts);
        self.told.unsupported.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&rules.unsupported);
        if !self.kernel.closed().is_empty() {
            self.kernel.forget_others();
        }
        let outcome = self.kernel.apply(&rules).map_err(Arc::new);
        self.tell_closed();
        let due = match &outcome {
            Ok(_) => {
                self.backoff.succeed();
                if self.kernel.closed().is_empty() { Due::Nothing } else { Due::Look(CLOSED_LOOK) }
            }
            Err(error) => {
                let delay = self.backoff.fail();
                tracing::error!(%error, ?delay, "the kernel refused the service rules");
                Due::Look(delay)
            }
        };
        for reply in self.waiting.drain(..) {
            // A caller that has gone needs no answer.
            drop(reply.send(outcome.clone()));
        }
        self.told.states.send_replace(Some(state));
        due
    }

    fn tell_closed(&self) {
        let mut told = self.told.closed.lock().unwrap_or_else(PoisonError::into_inner);
        for chain in self.kernel.closed().iter().filter(|chain| !told.contains(chain)) {
            tracing::warn!(chain, "a firewall may keep pods' packets out");
        }
        *told = self.kernel.closed().to_vec();
    }
}

/// Keeps the data-plane process informed, through its restarts.
async fn forward(socket: PathBuf, mut latest: watch::Receiver<Option<Arc<NetState>>>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        // There is nothing to say before the first complete lists.
        if latest.wait_for(Option::is_some).await.is_err() {
            return;
        }
        match converse(&socket, &mut latest, &mut backoff).await {
            Ok(()) => return,
            Err(error) => {
                let delay = backoff.fail();
                tracing::debug!(%error, ?delay, "the data-plane process is not there");
                stdx::sleep(delay).await;
            }
        }
    }
}

/// One connection's life; ends well only when the feed does.
async fn converse(
    socket: &std::path::Path,
    latest: &mut watch::Receiver<Option<Arc<NetState>>>,
    backoff: &mut Backoff,
) -> Result<(), NetError> {
    let failed = || NetError::io("write to the data-plane process");
    let mut stream = UnixStream::connect(socket).await.map_err(NetError::io("reach the data-plane process"))?;
    let greeting = stdx::timeout(GREETING, read_frame::<Greeting>(&mut stream)).await;
    let greeting = greeting.map_err(|_| NetError::Busy("the data-plane process"))??;
    let Greeting { version } = greeting.ok_or(NetError::Ended("the data-plane process"))?;
    if version < VERSION {
        return Err(NetError::Version { what: "the data-plane process".into(), version: VERSION, known: version });
    }
    let Some(mut sent) = latest.borrow_and_update().clone() else { return Ok(()) };
    for part in complete(&sent) {
        write_frame(&mut stream, &part).await.map_err(failed())?;
    }
    backoff.succeed();
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return Ok(()) },
            // It says nothing after its greeting; what ends the read is its end. (That the socket is readable would not do:
            // it counts as that until a read finds it empty.)
            _ = stream.read(&mut nothing) => return Err(NetError::Ended("the data-plane process")),
        }
        let Some(state) = latest.borrow_and_update().clone() else { return Ok(()) };
        if let Some(update) = difference(&sent, &state) {
            write_frame(&mut stream, &update).await.map_err(failed())?;
        }
        sent = state;
    }
}

#[cfg(test)]
mod tests;

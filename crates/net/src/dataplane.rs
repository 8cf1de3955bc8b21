//! The data-plane process: what must go on while agent and control plane restart.
//!
//! It is a process of its own, with one thread, no privileges that it needs beyond its port, and no way to the API. It
//! is told by the agent over a socket, remembers on disk, and answers from what it knows.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use stdx::{Cancel, TaskTree};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

use crate::checkpoint;
use crate::dns::{DnsServer, ForwardOptions, Listeners, Metrics, Resolvers, StubDomain, Zone};
use crate::error::NetError;
use crate::health::{self, HealthPorts};
use crate::http::{self, Page};
use crate::input::NetState;
use crate::protocol::{Greeting, Received, VERSION, read_frame, write_frame};

/// How long at least lies between two writes of the checkpoint, so that a roll-out does not wear the disk.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(1);
/// How long tasks may take to end when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Settings of the data-plane process.
#[derive(Clone, Debug)]
pub struct DataplaneOptions {
    /// Where the agent connects; made here, for its owner only.
    pub socket: PathBuf,
    /// What is known is kept here.
    pub checkpoint: PathBuf,
    /// Where DNS is served, by UDP and TCP: the node's address in the pod network, port 53.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The host's resolver configuration, `/etc/resolv.conf`.
    pub resolvers: PathBuf,
    /// Who is asked for names that are not the cluster's, in place of the host's resolvers; those when empty.
    pub upstreams: Vec<SocketAddr>,
    /// Domains that have resolvers of their own.
    pub stub_domains: Vec<StubDomain>,
    /// Where counts are told; nowhere when absent.
    pub metrics: Option<SocketAddr>,
    /// The node's name, by which endpoints are known to be here.
    pub node_name: String,
    /// Addresses that lead back to this server, such as that of the DNS Service: never asked as a resolver.
    pub own_addresses: Vec<IpAddr>,
}

/// Runs the data-plane process until `SIGTERM` or `SIGINT`.
pub fn run(options: DataplaneOptions) -> Result<(), NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(NetError::io("start the data plane"))?;
    runtime.block_on(async {
        let cancel = Cancel::default();
        let signals = cancel.clone();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(NetError::io("listen for signals"))?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .map_err(NetError::io("listen for signals"))?;
        let waiting = stdx::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            signals.cancel();
        });
        let outcome = serve(options, cancel).await;
        drop(waiting);
        outcome
    })
}

/// Serves until `cancel` is raised.
pub async fn serve(options: DataplaneOptions, cancel: Cancel) -> Result<(), NetError> {
    // First the sockets: from here on questions wait instead of failing.
    let listeners = Listeners::bind(&options.listen)?;
    let control = bind_control(&options.socket)?;
    let plane = DataPlane::open(&options)?;
    let tasks = TaskTree::default();
    let own = options.listen.iter().map(SocketAddr::ip).chain(options.own_addresses.iter().copied()).collect();
    let resolvers = match options.upstreams.is_empty() {
        true => Resolvers::from_file(&options.resolvers, own),
        false => Resolvers::fixed(options.upstreams.clone()),
    };
    let zone = Arc::clone(&plane.zone);
    let server = DnsServer::new(zone, resolvers, &options.stub_domains, ForwardOptions::default());
    if let Some(address) = options.metrics {
        let listener = http::listen(address).map_err(NetError::io(format!("listen on tcp {address}")))?;
        let counts = server.metrics();
        tasks.spawn("metrics", http::serve(listener, tasks.clone(), move |path| metrics_page(path, &counts)));
    }
    server.serve(listeners, &tasks);
    tasks.spawn("health", plane.clone().tell_health(options.node_name.clone(), tasks.clone()));
    tasks.spawn("control", plane.clone().accept(control, tasks.clone()));
    tasks.spawn("checkpoint", plane.clone().write_checkpoints());
    cancel.cancelled().await;
    if let Err(late) = tasks.drain(DRAIN).await {
        tracing::warn!(?late, "tasks did not end in time");
    }
    plane.write_now()
}

fn metrics_page(path: &str, counts: &Metrics) -> Page {
    let known = path.split('?').next() == Some("/metrics");
    Page {
        status: if known { "200 OK" } else { "404 Not Found" },
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        headers: Vec::new(),
        body: if known { counts.text() } else { "404 page not found\n".to_owned() },
    }
}

/// What the process knows, and where it keeps it.
#[derive(Clone)]
struct DataPlane {
    zone: Arc<RwLock<Zone>>,
    checkpoint: Arc<Path>,
    changed: Arc<Notify>,
    /// The same for who looks at the state and not at the file.
    version: Arc<watch::Sender<u64>>,
    written: Arc<RwLock<NetState>>,
}

impl DataPlane {
    fn open(options: &DataplaneOptions) -> Result<DataPlane, NetError> {
        let servers = options.listen.iter().map(SocketAddr::ip).collect();
        let mut zone = Zone::new(&options.domain, servers)
            .map_err(|error| NetError::io(format!("use domain {}", options.domain))(std::io::Error::other(error)))?;
        match checkpoint::read(&options.checkpoint) {
            Ok(state) => replace(&mut zone, state.unwrap_or_default()),
            // Without a memory names come back when the agent does; without a server nothing would.
            Err(error) => tracing::error!(%error, "the checkpoint of names is not used"),
        }
        let written = Arc::new(RwLock::new(zone.state().clone()));
        Ok(DataPlane {
            zone: Arc::new(RwLock::new(zone)),
            checkpoint: options.checkpoint.as_path().into(),
            changed: Arc::default(),
            version: Arc::new(watch::Sender::new(0)),
            written,
        })
    }

    /// Takes one agent after the other; a new one takes the place of the old, which is gone or about to be.
    async fn accept(self, listener: UnixListener, tasks: TaskTree) {
        let mut current: Option<Cancel> = None;
        let mut backoff = stdx::Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    backoff.succeed();
                    if let Some(previous) = current.take() {
                        previous.cancel();
                    }
                    let (plane, cancel) = (self.clone(), Cancel::default());
                    current = Some(cancel.clone());
                    tasks.spawn("agent", async move {
                        if let Some(Err(error)) = cancel.run(plane.follow(stream)).await {
                            tracing::warn!(%error, "the agent's connection failed");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an agent could not be accepted");
                    stdx::sleep(backoff.fail()).await;
                }
            }
        }
    }

    async fn follow(&self, mut stream: UnixStream) -> Result<(), NetError> {
        let greeting = Greeting { version: VERSION };
        write_frame(&mut stream, &greeting).await.map_err(NetError::io("greet the agent"))?;
        let mut parts: Option<NetState> = None;
        while let Some(update) = read_frame::<Received>(&mut stream).await? {
            if update.version > VERSION {
                let what = "an update".to_owned();
                return Err(NetError::Version { what, version: update.version, known: VERSION });
            }
            if update.complete {
                parts = Some(NetState::default());
            }
            match parts.take() {
                Some(mut list) => {
                    let more = update.more;
                    gather(&mut list, update);
                    if more {
                        parts = Some(list);
                    } else {
                        replace(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner), list);
                    }
                }
                None => change(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner), update),
            }
            self.changed.notify_one();
            self.version.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Keeps the ports open on which load balancers ask for this node's endpoints.
    async fn tell_health(self, node: String, tasks: TaskTree) {
        let (mut ports, mut version) = (HealthPorts::default(), self.version.subscribe());
        loop {
            let state = self.zone.read().unwrap_or_else(PoisonError::into_inner).state().clone();
            ports.set(health::wanted(&state, &node), &tasks);
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    async fn write_checkpoints(self) {
        loop {
            self.changed.notified().await;
            let plane = self.clone();
            // A slow disk must not hold up answers, which come from the one thread that this runs on.
            let (done, written) = tokio::sync::oneshot::channel();
            let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
                // The receiver is gone only when the process ends, which writes once more itself.
                drop(done.send(plane.write_now()));
            });
            let outcome = match thread {
                Ok(_) => written.await.unwrap_or(Err(NetError::Ended("the checkpoint's thread"))),
                Err(error) => Err(NetError::io("start the checkpoint's thread")(error)),
            };
            stdx::sleep(CHECKPOINT_PAUSE).await;
            if let Err(error) = outcome {
                tracing::error!(%error, "the checkpoint of names was not written");
                self.changed.notify_one();
            }
        }
    }

    fn write_now(&self) -> Result<(), NetError> {
        let state = self.zone.read().unwrap_or_else(PoisonError::into_inner).state().clone();
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        if *written != state {
            checkpoint::write(&self.checkpoint, &state)?;
            *written = state;
        }
        Ok(())
    }
}

fn gather(list: &mut NetState, update: Received) {
    list.services.extend(update.services.into_iter().map(|view| (view.key.clone(), Arc::new(view))));
    list.slices.extend(update.slices.into_iter().map(|view| (view.key.clone(), Arc::new(view))));
    list.namespaces.extend(update.namespaces.into_iter().flatten());
}

fn change(zone: &mut Zone, update: Received) {
    update.removed_services.iter().for_each(|key| zone.remove_service(key));
    update.removed_slices.iter().for_each(|key| zone.remove_slice(key));
    update.services.into_iter().for_each(|view| zone.set_service(Arc::new(view)));
    update.slices.into_iter().for_each(|view| zone.set_slice(Arc::new(view)));
    if let Some(namespaces) = update.namespaces {
        zone.set_namespaces(namespaces);
    }
}

/// Makes the zone that of `list`, touching only what differs.
fn replace(zone: &mut Zone, list: NetState) {
    let old = zone.state().clone();
    if old.namespaces != list.namespaces {
        zone.set_namespaces(list.namespaces);
    }
    old.services.keys().filter(|key| !list.services.contains_key(key)).for_each(|key| zone.remove_service(key));
    old.slices.keys().filter(|key| !list.slices.contains_key(key)).for_each(|key| zone.remove_slice(key));
    let changed = list.services.into_iter().filter(|(key, view)| old.services.get(key) != Some(view));
    changed.for_each(|(_, view)| zone.set_service(view));
    let changed = list.slices.into_iter().filter(|(key, view)| old.slices.get(key) != Some(view));
    changed.for_each(|(_, view)| zone.set_slice(view));
}

/// Binds the control socket, in place of the one that a dead predecessor left.
fn bind_control(path: &Path) -> Result<UnixListener, NetError> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match std::fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => return Err(NetError::Occupied(path.to_owned())),
        Ok(_) => std::fs::remove_file(path).map_err(NetError::io(format!("remove {}", path.display())))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(NetError::io(format!("listen on {}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(NetError::io(format!("restrict {}", path.display())))?;
    Ok(listener)
}

#[cfg(test)]
mod tests;

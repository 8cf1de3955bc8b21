//! The way to the pods of other nodes: one route for each node's range, over the address of that node.
//!
//! Upstream's clouds do this with their routers (`route` controller), and `host-gw` networks on each node, as here. It takes
//! that all nodes are neighbours on one network. Architecture Invariant: nothing is touched before the first complete list
//! of nodes, and nothing is removed when the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use cni::Cidr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use stdx::Backoff;

use crate::error::NetError;
use crate::namespace;
use crate::netlink::route::{Owner, Route, Way, concerns_peers};
use crate::netlink::{NetlinkError, Socket};

const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long after a change by others the routes are looked at, so that one look serves all changes of a link that comes up.
const SETTLE: Duration = Duration::from_millis(50);

/// Ranges of pod addresses by the address of their node.
pub type Peers = BTreeMap<Cidr, IpAddr>;

/// What keeps the routes. Its thread ends with this value; the routes stay.
pub struct PeerRoutes {
    asked: Arc<Mutex<Asked>>,
    wake: Arc<OwnedFd>,
}

#[derive(Default)]
struct Asked {
    /// Nothing before the first complete list.
    peers: Option<Peers>,
    ended: bool,
}

impl Drop for PeerRoutes {
    fn drop(&mut self) {
        lock(&self.asked).ended = true;
        self.rouse();
    }
}

impl PeerRoutes {
    /// Starts the thread, in the network namespace that the path opens or in that of the process. Nothing is touched before
    /// the first [`PeerRoutes::set`].
    pub fn start(netns: Option<PathBuf>) -> Result<PeerRoutes, NetError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = Arc::new(wake.map_err(|errno| NetError::io("start the routes' thread")(errno.into()))?);
        let asked = Arc::<Mutex<Asked>>::default();
        let (their_asked, their_wake) = (asked.clone(), wake.clone());
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let body = move || match Worker::open(netns) {
            Ok(worker) => {
                drop(ready.send(Ok(())));
                worker.run(&their_asked, &their_wake);
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        thread::Builder::new()
            .name("peer-routes".into())
            .spawn(body)
            .map_err(NetError::io("start the routes' thread"))?;
        started.recv().map_err(|_| NetError::Ended("the routes' thread"))??;
        Ok(PeerRoutes { asked, wake })
    }

    /// Makes the routes lead to these nodes and no others; what fails is tried again by itself.
    pub fn set(&self, peers: Peers) {
        lock(&self.asked).peers = Some(peers);
        self.rouse();
    }

    fn rouse(&self) {
        let full = rustix::io::write(&self.wake, &1u64.to_ne_bytes()).is_err();
        debug_assert!(!full, "a counter of 64 bits is not filled by wake-ups");
    }
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread holds.
struct Worker {
    socket: Socket,
    changes: Socket,
    backoff: Backoff,
    /// What could not be done, as it was told last: each fault is told once.
    told: BTreeSet<String>,
}

impl Worker {
    fn open(netns: Option<PathBuf>) -> Result<Worker, NetError> {
        if let Some(path) = netns {
            let file = namespace::open(&path).map_err(NetError::io(format!("open {}", path.display())))?;
            namespace::enter(file).map_err(NetError::io(format!("enter {}", path.display())))?;
        }
        Ok(Worker {
            socket: Socket::route().map_err(NetError::kernel("open a routing socket"))?,
            changes: Socket::route_changes().map_err(NetError::kernel("watch routes"))?,
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
            told: BTreeSet::new(),
        })
    }

    fn run(mut self, asked: &Mutex<Asked>, wake: &OwnedFd) {
        let mut due: Option<Duration> = None;
        loop {
            let woken = match self.wait(wake, due) {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::error!(%error, "the routes' thread cannot wait and ends");
                    return;
                }
            };
            let touched = self.take_notifications();
            let peers = match &*lock(asked) {
                Asked { ended: true, .. } => return,
                Asked { peers, .. } => peers.clone(),
            };
            let Some(peers) = peers else { continue };
            due = match woken {
                Woken::Notified if touched => Some(SETTLE),
                // Something else of the machine's changed: what was due stays due.
                Woken::Notified => due,
                Woken::Asked | Woken::Due => self.keep(&peers),
            };
        }
    }

    fn wait(&self, wake: &OwnedFd, due: Option<Duration>) -> Result<Woken, rustix::io::Errno> {
        let patience = due.and_then(|due| Timespec::try_from(due).ok());
        let mut sources =
            [PollFd::new(wake, PollFlags::IN), PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut sources, patience.as_ref()))?;
        match rustix::io::read(wake, &mut [0u8; 8]) {
            Ok(_) => Ok(Woken::Asked),
            Err(rustix::io::Errno::AGAIN) if ready > 0 => Ok(Woken::Notified),
            Err(rustix::io::Errno::AGAIN) => Ok(Woken::Due),
            Err(error) => Err(error),
        }
    }

    /// Reads what came in about links, addresses and routes; whether it may concern the way to other nodes.
    fn take_notifications(&self) -> bool {
        let (own, mut touched) = (self.socket.port(), false);
        let complete = self.changes.notifications(|message| touched |= message.port != own && concerns_peers(message));
        // Of what was lost nothing is known, so anything may have changed.
        touched || !complete.unwrap_or(false)
    }

    /// Makes the routes so; when to try again, if something failed.
    fn keep(&mut self, peers: &Peers) -> Option<Duration> {
        let faults = match self.socket.routes() {
            Ok(present) => self.change(&difference(peers, &present)),
            Err(error) => [format!("list routes: {error}")].into(),
        };
        for fault in faults.difference(&self.told) {
            tracing::error!(fault, "pods of another node cannot be reached");
        }
        self.told = faults;
        if self.told.is_empty() {
            self.backoff.succeed();
            return None;
        }
        Some(self.backoff.fail())
    }

    fn change(&self, difference: &Difference) -> BTreeSet<String> {
        let fault = |what: &str, route: &Route, outcome: Result<(), NetlinkError>| {
            outcome.err().map(|error| format!("{what} the route to {}: {error}", route.to))
        };
        let removed =
            difference.remove.iter().filter_map(|route| fault("remove", route, self.socket.remove_route(route)));
        let set = difference.set.iter().filter_map(|route| fault("add", route, self.socket.set_route(route)));
        removed.chain(set).collect()
    }
}

/// Why the thread does not wait any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Asked,
    Notified,
    Due,
}

/// What is to change in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    remove: Vec<Route>,
    set: Vec<Route>,
}

/// How the routes that are there become those to `peers`. Others' routes, and ours of other kinds, are left alone.
fn difference(peers: &Peers, present: &[(Route, Owner)]) -> Difference {
    let gateway = |route: &Route| match route.way {
        Way::Gateway(gateway, _) => Some(gateway),
        Way::Link(_) | Way::Unreachable => None,
    };
    let ours = || present.iter().filter(|(_, owner)| *owner == Owner::Us).map(|(route, _)| route);
    let stale = |route: &&Route| gateway(route).is_some() && !peers.contains_key(&route.to);
    let stands = |range: &Cidr, node: &IpAddr| ours().any(|route| route.to == *range && gateway(route) == Some(*node));
    let missing = peers.iter().filter(|(range, node)| !stands(range, node));
    // The kernel finds the link by the address.
    let route = |(range, node): (&Cidr, &IpAddr)| Route { to: *range, way: Way::Gateway(*node, 0), source: None };
    Difference { remove: ours().filter(stale).cloned().collect(), set: missing.map(route).collect() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::route::VethPair;
    use crate::scratch::Namespace;

    fn peers(pairs: &[(&str, &str)]) -> Peers {
        pairs.iter().map(|(range, node)| (range.parse().unwrap(), node.parse().unwrap())).collect()
    }

    fn route(to: &str, way: Way) -> Route {
        Route { to: to.parse().unwrap(), way, source: None }
    }

    #[test]
    fn only_our_routes_to_nodes_are_changed_and_only_where_they_differ() {
        let over = |node: &str, link| Way::Gateway(node.parse().unwrap(), link);
        let present = [
            (route("10.244.1.0/24", over("192.0.2.1", 3)), Owner::Us),
            (route("10.244.2.0/24", over("192.0.2.2", 3)), Owner::Us),
            (route("10.244.3.0/24", over("192.0.2.3", 3)), Owner::Us),
            (route("10.244.0.0/24", Way::Unreachable), Owner::Us),
            (route("10.244.0.7/32", Way::Link(9)), Owner::Us),
            (route("0.0.0.0/0", over("192.0.2.254", 3)), Owner::Other),
        ];
        let wanted =
            peers(&[("10.244.1.0/24", "192.0.2.1"), ("10.244.2.0/24", "192.0.2.9"), ("10.244.4.0/24", "192.0.2.4")]);
        let expected = Difference {
            remove: vec![route("10.244.3.0/24", over("192.0.2.3", 3))],
            set: vec![route("10.244.2.0/24", over("192.0.2.9", 0)), route("10.244.4.0/24", over("192.0.2.4", 0))],
        };
        assert_eq!(difference(&wanted, &present), expected);
        assert_eq!(difference(&peers(&[("10.244.1.0/24", "192.0.2.1")]), &present[..1]), Difference::default());
    }

    /// Waits until the routes to nodes are these; there is nothing else to be told by.
    #[track_caller]
    fn settle(socket: &Socket, expected: &[(&str, &str)]) {
        let expected = peers(expected);
        for _ in 0..200 {
            let routes = socket.routes().unwrap();
            let found: Peers = routes
                .into_iter()
                .filter_map(|(route, _)| match route.way {
                    Way::Gateway(node, _) => Some((route.to, node)),
                    _ => None,
                })
                .collect();
            if found == expected {
                return;
            }
            poll(&mut [], Timespec::try_from(Duration::from_millis(20)).ok().as_ref()).unwrap();
        }
        panic!("the routes do not become {expected:?}: {:?}", socket.routes().unwrap());
    }

    #[test]
    fn routes_are_kept_while_links_come_and_go() {
        let (here, there) = (Namespace::new(), Namespace::new());
        let [socket, neighbour] = [&here, &there].map(|namespace| namespace.run(|| Socket::route().unwrap()));
        // The end that we do not mark as ours is like a machine's own link.
        let end = std::fs::File::open(here.path()).unwrap();
        let pair = VethPair {
            near_name: "neighbour",
            near_mac: [2, 0, 0, 0, 0, 1],
            far_name: "link",
            far_mac: [2, 0, 0, 0, 0, 2],
            far_namespace: end.as_fd(),
            mtu: 1500,
        };
        neighbour.make_veth(&pair).unwrap();
        let link = socket.link("link").unwrap().unwrap().index;
        socket.add_address(link, "192.0.2.1/24".parse().unwrap()).unwrap();
        socket.set_up(link).unwrap();
        let left = route("10.244.9.0/24", Way::Gateway("192.0.2.9".parse().unwrap(), link));
        socket.set_route(&left).unwrap();
        let routes = PeerRoutes::start(Some(here.path())).unwrap();
        settle(&socket, &[("10.244.9.0/24", "192.0.2.9")]);
        let wanted = [("10.244.1.0/24", "192.0.2.2"), ("10.244.2.0/24", "192.0.2.3")];
        routes.set(peers(&wanted));
        settle(&socket, &wanted);
        // The kernel forgets the routes of a link that goes down, and says nothing of them.
        socket.set_down(link).unwrap();
        settle(&socket, &[]);
        socket.set_up(link).unwrap();
        settle(&socket, &wanted);
        routes.set(peers(&wanted[1..]));
        settle(&socket, &wanted[1..]);
        drop(routes);
        settle(&socket, &wanted[1..]);
    }
}

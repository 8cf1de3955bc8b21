//! The built-in pod network: a CNI plugin for one node.
//!
//! Every pod has a pair of interfaces of its own, and the node routes between them. The bridge carries the node's
//! address in the pod network and the route to the services, but the pairs are *not* its ports: a bridged packet
//! between two pods would pass by the service rules and by network policy unless `br_netfilter` is loaded and switched
//! on, and where it is, translated packets take a third way. Routed, every packet takes one way on every machine.
//!
//! Architecture Invariant: nothing of Services is known here, and no rule is written; and nothing in `rules` makes
//! an interface. Either works beside somebody else's version of the other.

mod attach;
mod node;
mod pool;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use cni::{AddRequest, AddResult, CheckRequest, Cidr, CniError, Code, DelRequest, GcRequest, Network};
use stdx::BoxFuture;
use tokio::sync::oneshot;

use crate::error::NetError;
use crate::names::Names;
pub(crate) use node::{remove_links, route_loopback};

/// More attachments than this at once are asked to come again later.
const QUEUE: usize = 256;

/// Settings of the built-in pod network.
#[derive(Clone, Debug)]
pub struct BridgeOptions {
    /// What our interfaces are called.
    pub names: Names,
    /// The node's range of pod addresses; its first address is the node's own.
    pub pod_cidr: Cidr,
    /// Ranges of Service addresses. They get a route, so that the node itself can reach Services also where it has no
    /// default route.
    pub service_cidrs: Vec<Cidr>,
    /// The pods' largest packet; when absent, that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Where reservations of addresses are kept.
    pub state_directory: PathBuf,
    /// The node's network namespace, when it is not the one of this process.
    pub netns: Option<PathBuf>,
}

impl BridgeOptions {
    /// The node's own address in the pod network.
    pub fn gateway(&self) -> IpAddr {
        pool::gateway(self.pod_cidr)
    }
}

/// The built-in pod network. Clones share its one worker thread, which ends with the last of them.
#[derive(Clone)]
pub struct BridgeNetwork {
    jobs: SyncSender<Job>,
    options: Arc<BridgeOptions>,
}

type Job = Box<dyn FnOnce(&mut node::Node) + Send>;

impl BridgeNetwork {
    /// Makes or completes the node's side (bridge, address, routes, forwarding) and starts serving attachments.
    pub async fn start(options: BridgeOptions) -> Result<BridgeNetwork, NetError> {
        let options = Arc::new(options);
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let (ready, started) = oneshot::channel();
        let theirs = Arc::clone(&options);
        thread::Builder::new()
            .name("pod-network".into())
            .spawn(move || {
                let mut node = match node::Node::open(theirs) {
                    Ok(node) => node,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                while let Ok(job) = queue.recv() {
                    job(&mut node);
                }
            })
            .map_err(NetError::io("start the pod network's thread"))?;
        started.await.map_err(|_| NetError::Ended("the pod network"))??;
        Ok(BridgeNetwork { jobs, options })
    }

    /// The node's own address in the pod network: the pods' gateway, and where the node's DNS listens.
    pub fn gateway(&self) -> IpAddr {
        self.options.gateway()
    }

    async fn ask<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut node::Node) -> Result<T, CniError> + Send + 'static,
    ) -> Result<T, CniError> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may have been cancelled; the work is done all the same, so that nothing is left half way.
        let job: Job = Box::new(move |node| drop(reply.send(body(node))));
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => CniError::new(Code::TryAgainLater, "too many attachments at once"),
            TrySendError::Disconnected(_) => ended(),
        })?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> CniError {
    CniError::new(Code::NotAvailable, "the pod network has ended")
}

impl Network for BridgeNetwork {
    fn add<'a>(&'a self, request: &'a AddRequest) -> BoxFuture<'a, Result<AddResult, CniError>> {
        let request = request.clone();
        Box::pin(self.ask(move |node| attach::add(node, &request)))
    }

    fn check<'a>(&'a self, request: &'a CheckRequest) -> BoxFuture<'a, Result<(), CniError>> {
        let request = request.clone();
        Box::pin(self.ask(move |node| attach::check(node, &request)))
    }

    fn del<'a>(&'a self, request: &'a DelRequest) -> BoxFuture<'a, Result<(), CniError>> {
        let request = request.clone();
        Box::pin(self.ask(move |node| attach::del(node, &request)))
    }

    fn gc<'a>(&'a self, request: &'a GcRequest) -> BoxFuture<'a, Result<(), CniError>> {
        let request = request.clone();
        Box::pin(self.ask(move |node| attach::gc(node, &request)))
    }

    fn status(&self) -> BoxFuture<'_, Result<(), CniError>> {
        Box::pin(self.ask(|node| {
            node.ensure()
                .map_err(|error| CniError::because(Code::NotAvailable, "prepare the node's pod network", error))
        }))
    }
}

#[cfg(test)]
mod tests;

//! A cluster's API server: what it is made of, and how it starts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stdx::TaskTree;
use store::Store;

use crate::allocate::Network;
use crate::authn::Authentication;
use crate::authz::policies::Policies;
use crate::bootstrap::{self, BootstrapError};
use crate::cache::{Cache, CacheError};
use crate::catalog::Catalog;
use crate::dial::Dialer;
use crate::discovery::{Discovery, Document};
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::room::Room;
use crate::tokens::Tokens;
use crate::usage::Usage;

/// What an API server is started with.
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// How nodes are reached.
    pub dialer: Arc<dyn Dialer>,
    /// How credentials are checked.
    pub authentication: Authentication,
    /// How service-account tokens are signed and checked.
    pub tokens: Tokens,
    /// Addresses and ports that Services are given.
    pub network: Network,
    /// Where clients outside and the `kubernetes` Service find this server.
    pub advertise: SocketAddr,
    pub version: Version,
}

/// What `/version` answers.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub major: String,
    pub minor: String,
    pub git_version: String,
    pub git_commit: String,
    pub git_tree_state: String,
    pub build_date: String,
    pub go_version: String,
    pub compiler: String,
    pub platform: String,
}

impl Version {
    /// API level 1.36, served by this release of isopod. `commit` and `built` may be empty.
    pub fn isopod(release: &str, commit: &str, built: &str) -> Version {
        Version {
            major: "1".to_owned(),
            minor: "36".to_owned(),
            git_version: format!("v1.36.0+isopod.{release}"),
            git_commit: commit.to_owned(),
            git_tree_state: "clean".to_owned(),
            build_date: built.to_owned(),
            go_version: String::new(),
            compiler: "rustc".to_owned(),
            platform: "linux/amd64".to_owned(),
        }
    }
}

/// The API server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("fill the cache")]
    Cache(#[from] CacheError),
    #[error("create the objects that every cluster has")]
    Bootstrap(#[from] BootstrapError),
}

/// A cluster's API server.
pub struct ApiServer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) authentication: Authentication,
    pub(crate) tokens: Tokens,
    pub(crate) network: Network,
    pub(crate) advertise: SocketAddr,
    pub(crate) catalog: Catalog,
    pub(crate) cache: Arc<Cache>,
    pub(crate) policies: Policies,
    pub(crate) room: Room,
    pub(crate) documents: Documents,
    pub(crate) usage: Usage,
    pub(crate) state: State,
}

/// What is the same for every client.
pub(crate) struct Documents {
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) version: Document,
    pub(crate) metrics: Metrics,
}

/// How far the server has come.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) ready: AtomicBool,
    pub(crate) tasks: TaskTree,
}

impl ApiServer {
    /// Fills the cache, makes sure that the objects exist that every cluster has, and is then ready.
    ///
    /// The server has one background task, which [`ApiServer::stop`] ends.
    ///
    /// # Errors
    /// When the store cannot be read or written, or holds what is no object.
    pub async fn new(config: Config) -> Result<Arc<ApiServer>, StartError> {
        let catalog = Catalog::new(resources::RESOURCES);
        let cache = Arc::new(Cache::load(config.store.clone(), &catalog).await?);
        let version = serde_json::to_vec_pretty(&config.version).expect("texts are JSON");
        let documents = Documents {
            discovery: Discovery::new(&catalog, &config.advertise.to_string()),
            openapi: OpenApi::new(&config.version.git_version),
            version: Document::new("application/json", version),
            metrics: Metrics::new(&config.version.git_version),
        };
        let server = Arc::new(ApiServer {
            store: config.store,
            dialer: config.dialer,
            authentication: config.authentication,
            tokens: config.tokens,
            network: config.network,
            advertise: config.advertise,
            catalog,
            cache: cache.clone(),
            policies: Policies::default(),
            room: Room::default(),
            documents,
            usage: Usage::default(),
            state: State::default(),
        });
        server.state.tasks.spawn("feed cache", async move { cache.feed().await });
        bootstrap::run(&server).await?;
        server.state.ready.store(true, Ordering::Release);
        Ok(server)
    }

    /// Whether requests are served as they should be.
    pub fn is_ready(&self) -> bool {
        self.state.ready.load(Ordering::Acquire)
    }

    /// Says through `/readyz` that this server is about to go, so that clients turn to others.
    pub fn unready(&self) {
        self.state.ready.store(false, Ordering::Release);
    }

    /// Ends the server's tasks.
    pub async fn stop(&self) {
        self.unready();
        if let Err(late) = self.state.tasks.drain(std::time::Duration::from_secs(5)).await {
            tracing::warn!(?late, "tasks did not end in time");
        }
    }

    /// The address of the `kubernetes` Service: the first of the service range.
    pub fn service_address(&self) -> Ipv4Addr {
        self.network.first()
    }

    /// The plural of a kind, and whether its objects live in a namespace.
    pub fn locate(&self, group: &str, version: &str, kind: &str) -> Option<(&'static str, bool)> {
        let is_it = |served: &&crate::catalog::Served| {
            served.group == group && served.version == version && served.kind == kind
        };
        self.catalog.iter().find(is_it).map(|served| (served.facts().plural, served.is_namespaced()))
    }

    /// How many objects of each resource there are.
    pub fn object_counts(&self) -> BTreeMap<&'static str, usize> {
        self.cache.resources().map(|(prefix, resource)| (prefix, resource.snapshot().objects.len())).collect()
    }
}

//! What can be said on the command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Kubernetes in one small binary.
#[derive(Debug, Parser)]
#[command(name = "isopod", version, about, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a cluster on this machine until it is interrupted; containers and routing go on after that.
    Up(Box<Up>),
    /// Runs this machine as a node of a cluster elsewhere until it is interrupted; containers and routing go on after that.
    Agent(Box<Agent>),
    /// Stops and removes what runs of a cluster on this machine; its data stays.
    Down(Down),
    /// Loads, lists and removes images, whether or not a cluster runs.
    #[command(subcommand)]
    Image(Image),
    /// Makes, lists and deletes tokens by which other machines become nodes.
    #[command(subcommand)]
    Token(Token),
    /// Says what is wrong with an object, by what one sees that, and what would help.
    Why(Why),
    /// Prints the path of the cluster's kubeconfig.
    Kubeconfig(Place),
    /// Answers names for pods; started by `up`.
    #[command(hide = true)]
    Dataplane(Dataplane),
}

/// Which cluster of the machine is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Folder of everything the cluster keeps.
    #[arg(long, default_value = "/var/lib/isopod")]
    pub data_dir: PathBuf,
}

/// `isopod up`
#[derive(Clone, Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub place: Place,
    /// Files or folders to apply, as `kubectl apply -f` does.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Seconds to wait until everything in the files is ready.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub wait_timeout: u64,
    /// Addresses to serve the API on, besides loopback and the node's address in the pod network.
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Vec<IpAddr>,
    /// Names and addresses, besides those that this machine knows of itself, at which the API is reached: for its certificate.
    #[arg(long, value_name = "NAME|ADDRESS", value_delimiter = ',')]
    pub apiserver_cert_extra_sans: Vec<String>,
    /// Port of the API.
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Addresses of this node's pods.
    #[arg(long, default_value = "10.244.0.0/24", value_name = "CIDR")]
    pub pod_cidr: String,
    /// Addresses of Services.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: String,
    /// How long a node may be silent before it is taken for dead.
    #[arg(long, default_value = "50s", value_name = "DURATION")]
    pub node_monitor_grace_period: String,
    #[command(flatten)]
    pub node: OfNode,
}

/// `isopod agent`
#[derive(Clone, Debug, clap::Args)]
pub struct Agent {
    #[command(flatten)]
    pub place: Place,
    /// The cluster's API, such as https://192.0.2.1:6443; once the machine has joined it is remembered.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The token by which the machine joins and knows the cluster: `ID.SECRET`. It is not needed after that.
    #[arg(long)]
    pub token: Option<String>,
    /// Digests of the public keys of the cluster's authority. The token alone already vouches for it, but only among those
    /// who know the token.
    #[arg(long, value_name = "sha256:HEX")]
    pub ca_cert_hash: Vec<String>,
    #[command(flatten)]
    pub node: OfNode,
}

/// What holds for this machine as a node.
#[derive(Clone, Debug, clap::Args)]
pub struct OfNode {
    /// Name of this machine in the cluster; its host name when not given.
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this machine among those of the cluster, by which other nodes and the API server reach it.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// Registries that are spoken to without TLS: `HOST[:PORT]`.
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Authorities of registries: `HOST[:PORT]=FILE`.
    #[arg(long, value_name = "HOST=FILE")]
    pub registry_ca: Vec<String>,
    /// Resolvers for names outside of the cluster, in place of those in /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub dns_upstream: Vec<String>,
    /// Domains that have resolvers of their own.
    #[arg(long, value_name = "DOMAIN=ADDRESS[:PORT][,...]")]
    pub dns_stub_domain: Vec<String>,
    /// Socket of the container runtime, such as unix:///run/containerd/containerd.sock; the built-in one when not given.
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// How long an ordinary call of a runtime behind a socket may take.
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    pub runtime_request_timeout: String,
    /// Where a runtime behind a socket finds which networks pods are in.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "FOLDER")]
    pub cni_conf_dir: PathBuf,
    /// Where a runtime behind a socket finds the programs for that.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "FOLDER")]
    pub cni_bin_dir: PathBuf,
    /// What pods may not have, for the cluster's own sake: cpu, memory, ephemeral-storage.
    #[arg(long, default_value = "", value_name = "NAME=AMOUNT,…")]
    pub kube_reserved: String,
    /// What pods may not have, for the machine's sake.
    #[arg(long, default_value = "", value_name = "NAME=AMOUNT,…")]
    pub system_reserved: String,
    #[command(flatten)]
    pub eviction: Eviction,
    /// Folder of static pods: manifests that this node runs with or without an API.
    #[arg(long, value_name = "FOLDER")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Pods that may be on this node.
    #[arg(long, default_value_t = 110, value_name = "NUMBER")]
    pub max_pods: u32,
    /// Kernel parameters of pods' own that pods may set although they are not safe; `*` at the end for all that begin so.
    #[arg(long, value_name = "SYSCTL", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
}

/// When a node that runs short ends pods.
#[derive(Clone, Debug, clap::Args)]
pub struct Eviction {
    /// Bounds below which pods are ended at once, in place of memory.available<100Mi and 5 % of the disk and of its inodes.
    #[arg(long, value_name = "SIGNAL<AMOUNT,…")]
    pub eviction_hard: Option<String>,
    /// Bounds below which pods are ended after a grace period, with time to end.
    #[arg(long, default_value = "", value_name = "SIGNAL<AMOUNT,…")]
    pub eviction_soft: String,
    /// How long there has to be less than a soft bound, for each of them.
    #[arg(long, default_value = "", value_name = "SIGNAL=DURATION,…")]
    pub eviction_soft_grace_period: String,
    /// Longest time that a pod has to end for a soft bound; with 0, the time that it asks for.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: u64,
    /// What has to be left beyond a bound before no more pods are ended for it.
    #[arg(long, default_value = "", value_name = "SIGNAL=AMOUNT,…")]
    pub eviction_minimum_reclaim: String,
    /// How long a node goes on telling of a pressure that has passed.
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub eviction_pressure_transition_period: String,
}

/// `isopod down`
#[derive(Clone, Debug, clap::Args)]
pub struct Down {
    #[command(flatten)]
    pub place: Place,
    /// Removes the data, too: everything the cluster ever kept.
    #[arg(long)]
    pub purge: bool,
}

/// `isopod image`
#[derive(Clone, Debug, Subcommand)]
pub enum Image {
    /// Loads images from an OCI or docker archive.
    Load {
        #[command(flatten)]
        place: Place,
        /// The archives, or folders in OCI layout.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Lists images.
    Ls(Place),
    /// Removes images.
    Rm {
        #[command(flatten)]
        place: Place,
        /// Names or ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// `isopod token`
#[derive(Clone, Debug, Subcommand)]
pub enum Token {
    /// Makes a token and prints it: `ID.SECRET`.
    Create {
        #[command(flatten)]
        place: Place,
        /// What it is for, for people.
        #[arg(long, default_value = "")]
        description: String,
        /// How long it is good, such as `90m` or `24h`; 0 for ever.
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        ttl: String,
        /// What it may be used for.
        #[arg(long, value_delimiter = ',', default_values = ["signing", "authentication"])]
        usages: Vec<String>,
        /// More groups that it stands for, each below `system:bootstrappers:`.
        #[arg(long, value_delimiter = ',', default_values = ["system:bootstrappers:kubeadm:default-node-token"])]
        groups: Vec<String>,
        /// Prints the whole command by which another machine joins.
        #[arg(long)]
        print_join_command: bool,
    },
    /// Lists tokens, without their secrets.
    Ls(Place),
    /// Deletes tokens.
    Rm {
        #[command(flatten)]
        place: Place,
        /// Ids, or whole tokens.
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// `isopod why`
#[derive(Clone, Debug, clap::Args)]
pub struct Why {
    /// A pod, deployment, replicaset, service, node or namespace; or `auth VERB RESOURCE`, with RESOURCE as kubectl writes it
    /// (`pods`, `deployments.apps/scale`, `secrets/NAME`).
    #[arg(required = true, num_args = 1..=3, value_name = "KIND/NAME | auth VERB RESOURCE")]
    pub what: Vec<String>,
    /// Where the object is; else the namespace of the kubeconfig, or `default`.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// How the cluster is reached; else that of --data-dir, of $KUBECONFIG, or of the cluster on this machine.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, in place of its current one.
    #[arg(long)]
    pub context: Option<String>,
    /// Folder of everything that the cluster on this machine keeps.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// For machines: `json`.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// With `auth`: whose permission is asked about, if not one's own. `system:serviceaccount:NAMESPACE:NAME` for accounts.
    #[arg(long = "as", value_name = "USER")]
    pub user: Option<String>,
    /// With `--as`: groups of that user.
    #[arg(long = "as-group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// With `auth`: in all namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// In what form an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// `isopod dataplane`
#[derive(Clone, Debug, clap::Args)]
pub struct Dataplane {
    #[arg(long)]
    pub socket: PathBuf,
    #[arg(long)]
    pub checkpoint: PathBuf,
    #[arg(long)]
    pub listen: Vec<SocketAddr>,
    #[arg(long)]
    pub domain: String,
    #[arg(long)]
    pub own_address: Vec<IpAddr>,
    #[arg(long)]
    pub upstream: Vec<String>,
    #[arg(long)]
    pub stub_domain: Vec<String>,
    #[arg(long)]
    pub metrics: Option<SocketAddr>,
    #[arg(long, default_value = "")]
    pub node_name: String,
    /// Keeps another process running that does the work, instead of doing it.
    #[arg(long)]
    pub watch: bool,
}

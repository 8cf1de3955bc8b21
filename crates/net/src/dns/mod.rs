//! DNS for pods: Services' names answered from what this node knows, all others asked of the host's resolvers.
//!
//! The answers are those of the cluster DNS specification, 1.1, and where that is silent those of upstream's usual
//! server with its usual configuration (`pods insecure`).

mod forward;
mod metrics;
mod resolvers;
mod server;
mod zone;

pub use forward::ForwardOptions;
pub use metrics::Metrics;
pub use resolvers::{Resolvers, StubDomain, server_address};
pub(crate) use server::bind_tcp;
pub use server::{DnsServer, Listeners};
pub use zone::{Answer, Outcome, Zone};

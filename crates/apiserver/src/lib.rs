//! The Kubernetes API: a function from request to response over a store.
//!
//! [`ApiServer::handle`] answers requests that came over a connection, [`ApiServer::in_process`] those of the components in
//! the same process. `pipeline.rs` shows a whole request; `cache.rs` holds the objects; `verbs/` is what can be done with
//! them; `render/` and `decode.rs` are bytes.
//!
//! Architecture Invariant: no lock is held across an `.await`, and reads wait for no writer.

mod admission;
mod allocate;
mod answer;
mod authn;
mod authz;
mod bootstrap;
mod bootstrap_tokens;
mod cache;
mod catalog;
mod convert;
mod decode;
mod dial;
mod discovery;
mod encryption;
mod forms;
mod health;
mod in_process;
mod metrics;
mod negotiate;
mod openapi;
mod options;
mod paths;
mod pipeline;
mod refusal;
mod render;
mod request;
mod reviews;
mod room;
mod server;
mod stored;
mod subresources;
mod tokens;
mod usage;
mod user;
mod verbs;

pub use allocate::Network;
pub use authn::Authentication;
pub use bootstrap::BootstrapError;
pub use cache::CacheError;
pub use dial::{DialError, Dialer, NoNodes, NodeEndpoint, Place, Upgrade, may_be_dialed};
pub use encryption::SecretsSealed;
pub use refusal::Refusal;
pub use server::{ApiServer, Config, StartError, Version};
pub use tokens::{TokenError, Tokens};
pub use user::User;

//! Talking to an API server: requests and responses over a transport, verbs with types, objects with projections, caches.
//!
//! The same code runs in the API server's own process (its transport hands out the server's own [`Object`]s), over
//! HTTPS, and in a simulation.
//!
//! Architecture Invariant: nothing here knows what a kind means; it knows how objects travel and are kept.

pub mod cache;
pub mod config;
pub mod decode;
pub mod error;
pub mod http;
pub mod object;
pub mod request;
pub mod transport;
pub mod verbs;

pub use cache::{Cache, Change, Changes, Index, Snapshot, Watched};
pub use config::ClientConfig;
pub use error::{ClientError, ConfigError, TransportError};
pub use http::HttpTransport;
pub use object::{Gvk, Key, Object};
pub use request::{
    Action, Body, DeleteOptions, GetOptions, ListOptions, LogOptions, PatchKind, Preconditions, Propagation, Request,
    Target, WatchOptions, WriteOptions,
};
pub use transport::{ObjectList, Response, Transport, WatchEvent, WatchStream};
pub use verbs::{Client, Deleted};

//! HTTP server and client, gRPC calls, TLS and WebSocket over TCP and unix sockets.
//!
//! Architecture Invariant: nothing of Kubernetes is known here, and nothing here runs inside a simulation: these are the
//! sockets beyond its transport edge. No code path calls `getaddrinfo`; names are resolved by [`resolve`].

pub mod body;
pub mod client;
pub mod grpc;
pub mod resolve;
pub mod server;
pub mod spdy;
pub mod tls;
pub mod websocket;

mod rt;

pub use body::{Body, BodyError};
pub use client::{Client, ClientError, ClientOptions};
pub use rt::{Upgraded, upgraded};
pub use server::{ConnectionInfo, Limits, Listener, Memo, ServeError, Service, serve};

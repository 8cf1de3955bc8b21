//! Netlink messages: one writer and one reader for both families that the network speaks, routing and netfilter.
//!
//! Both families are the same three layers (header, a fixed struct, attributes), and of each only a handful of messages
//! is needed; so they are written here byte by byte, by name of the kernel's constants, rather than through a typed
//! model of all of rtnetlink beside a second codec for nftables.

pub(crate) mod codec;
pub(crate) mod route;
pub(crate) mod socket;
mod sys;

pub(crate) use codec::{Attributes, Batch, Message, attributes};
pub(crate) use socket::{NetlinkError, Socket};

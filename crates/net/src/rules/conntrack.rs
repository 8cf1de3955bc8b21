//! Conversations of UDP that lead where nobody answers any more.
//!
//! Connection tracking goes on translating a conversation as its first packet was, for as long as packets keep coming. UDP
//! has no end by which it would notice that the endpoint is gone, or that there is one at last. So what leads a Service's
//! packets elsewhere than to a serving endpoint is forgotten, and the next packet chooses anew. Upstream: `pkg/proxy/conntrack`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustix::io::Errno;

use super::transaction::AF_INET;
use super::{Backend, Frontend};
use crate::input::Protocol;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Of each frontend, the endpoints that conversations may lead to.
pub(crate) type Conversations = BTreeMap<Frontend, BTreeSet<Backend>>;

/// Forgets conversations with these frontends that lead elsewhere; how many.
pub(crate) fn forget_stale(socket: &Socket, wanted: &Conversations) -> Result<usize, NetlinkError> {
    if wanted.is_empty() {
        return Ok(0);
    }
    let stale = socket.dump(
        |batch, flags| drop(batch.message(GET, flags, &[AF_INET, 0, 0, 0])),
        |message| {
            let list = attributes(message.payload.get(4..).filter(|_| message.kind == NEW)?);
            is_stale(&conversation(list)?, wanted).then(|| Handle::of(list)).flatten()
        },
    )?;
    let mut count = 0;
    for handle in stale {
        let outcome = socket.request(|batch, flags| {
            let mut message = batch.message(DELETE, flags, &[AF_INET, 0, 0, 0]);
            message.nest(CTA_TUPLE_ORIG, |tuple| {
                tuple.put_raw(&handle.original);
            });
            message.put(CTA_ID, &handle.id);
            if let Some(zone) = &handle.zone {
                message.put(CTA_ZONE, zone);
            }
        });
        match outcome {
            // It ended by itself meanwhile.
            Err(error) if error.is(Errno::NOENT) => {}
            outcome => {
                outcome?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// What tells one entry from all others, as the kernel wrote it.
struct Handle {
    original: Vec<u8>,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Handle {
    fn of(list: Attributes<'_>) -> Option<Handle> {
        Some(Handle {
            original: list.get(CTA_TUPLE_ORIG)?.to_vec(),
            id: list.get(CTA_ID)?.to_vec(),
            zone: list.get(CTA_ZONE).map(<[u8]>::to_vec),
        })
    }
}

/// An entry: where its first packet was sent to, and who answers.
#[derive(Debug, PartialEq, Eq)]
struct Conversation {
    protocol: u8,
    sent_to: Backend,
    answered_by: Backend,
}

fn conversation(list: Attributes<'_>) -> Option<Conversation> {
    let end = |tuple: Attributes<'_>, address: u16, port: u16| -> Option<Backend> {
        let octets: [u8; 4] = tuple.nested(CTA_TUPLE_IP).get(address)?.try_into().ok()?;
        let port = tuple.nested(CTA_TUPLE_PROTO).get(port)?.try_into().ok().map(u16::from_be_bytes)?;
        Some((IpAddr::from(octets), port))
    };
    let (original, reply) = (list.nested(CTA_TUPLE_ORIG), list.nested(CTA_TUPLE_REPLY));
    Some(Conversation {
        protocol: *original.nested(CTA_TUPLE_PROTO).get(CTA_PROTO_NUM)?.first()?,
        sent_to: end(original, CTA_IP_V4_DST, CTA_PROTO_DST_PORT)?,
        answered_by: end(reply, CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT)?,
    })
}

fn is_stale(found: &Conversation, wanted: &Conversations) -> bool {
    if found.protocol != Protocol::Udp.number() {
        return false;
    }
    let (address, port) = found.sent_to;
    let own = Frontend { address, protocol: Protocol::Udp, port };
    let backends = wanted.get(&own).or_else(|| wanted.get(&Frontend::of_node(Protocol::Udp, port)));
    backends.is_some_and(|backends| !backends.contains(&found.answered_by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_from_a_frontend_to_no_endpoint_is_stale() {
        let backend = |text: &str| -> Backend {
            let address: std::net::SocketAddr = text.parse().unwrap();
            (address.ip(), address.port())
        };
        let service = Frontend { address: [10, 96, 0, 10].into(), protocol: Protocol::Udp, port: 53 };
        let node = Frontend::of_node(Protocol::Udp, 30053);
        let endpoints = BTreeSet::from([backend("10.244.0.2:53")]);
        let wanted = Conversations::from([(service, endpoints.clone()), (node, endpoints)]);
        for (protocol, sent_to, answered_by, stale) in [
            (Protocol::Udp, "10.96.0.10:53", "10.244.0.2:53", false),
            (Protocol::Udp, "10.96.0.10:53", "10.244.0.3:53", true),
            (Protocol::Udp, "10.96.0.10:53", "10.244.0.2:54", true),
            (Protocol::Udp, "10.96.0.10:53", "10.96.0.10:53", true),
            (Protocol::Udp, "10.96.0.10:54", "10.96.0.10:54", false),
            (Protocol::Udp, "192.0.2.1:30053", "10.244.0.9:53", true),
            (Protocol::Udp, "192.0.2.1:53", "192.0.2.1:53", false),
            (Protocol::Tcp, "10.96.0.10:53", "10.244.0.3:53", false),
        ] {
            let found = Conversation {
                protocol: protocol.number(),
                sent_to: backend(sent_to),
                answered_by: backend(answered_by),
            };
            assert_eq!(is_stale(&found, &wanted), stale, "{found:?}");
        }
    }
}

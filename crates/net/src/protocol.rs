//! What the agent and the data-plane process say to one another, and what the latter keeps on disk.
//!
//! A frame is its length (four bytes, big-endian) and a JSON document with a `version`. The data-plane process greets
//! first; then the agent sends everything it knows, in parts, and from then on what changes.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::NetError;
use crate::input::{NetState, ObjectKey, ServiceView, SliceView};

/// The version that this release writes and the newest that it reads.
pub(crate) const VERSION: u32 = 1;
/// A frame larger than this is not one; the largest slice takes some 200 KB.
const FRAME_SIZE_MAX: u32 = 16 << 20;
/// How many objects go into one frame, so that neither side holds all of a large cluster as text.
const OBJECTS_PER_FRAME: usize = 256;

/// The data-plane process's greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The newest version it reads.
    pub(crate) version: u32,
}

/// A change of what the data-plane process knows. `S` and `L` are views when read and references to views when written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Update<S, L> {
    /// The version it is written in.
    pub(crate) version: u32,
    /// Whether this begins a complete list: what it does not name is gone.
    #[serde(default = "bool::default")]
    pub(crate) complete: bool,
    /// Whether more parts of the same list follow; until the last of them, the old list holds.
    #[serde(default = "bool::default")]
    pub(crate) more: bool,
    #[serde(default = "Vec::new")]
    pub(crate) services: Vec<S>,
    #[serde(default = "Vec::new")]
    pub(crate) slices: Vec<L>,
    #[serde(default)]
    pub(crate) removed_services: Vec<ObjectKey>,
    #[serde(default)]
    pub(crate) removed_slices: Vec<ObjectKey>,
    /// All namespaces; absent when they are as before.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) namespaces: Option<BTreeSet<String>>,
}

/// An update as it is read.
pub(crate) type Received = Update<ServiceView, SliceView>;
/// An update as it is written.
pub(crate) type Sent<'a> = Update<&'a ServiceView, &'a SliceView>;

impl<S, L> Default for Update<S, L> {
    fn default() -> Self {
        Update {
            version: VERSION,
            complete: false,
            more: false,
            services: Vec::new(),
            slices: Vec::new(),
            removed_services: Vec::new(),
            removed_slices: Vec::new(),
            namespaces: None,
        }
    }
}

/// Everything in `state`, in parts.
pub(crate) fn complete(state: &NetState) -> Vec<Sent<'_>> {
    let services: Vec<&ServiceView> = state.services.values().map(Arc::as_ref).collect();
    let slices: Vec<&SliceView> = state.slices.values().map(Arc::as_ref).collect();
    let mut updates: Vec<Sent<'_>> = services
        .chunks(OBJECTS_PER_FRAME)
        .map(|part| Sent { services: part.to_vec(), ..Sent::default() })
        .chain(slices.chunks(OBJECTS_PER_FRAME).map(|part| Sent { slices: part.to_vec(), ..Sent::default() }))
        .collect();
    if updates.is_empty() {
        updates.push(Sent::default());
    }
    updates[0].namespaces = Some(state.namespaces.clone());
    let last = updates.len() - 1;
    for (index, update) in updates.iter_mut().enumerate() {
        update.complete = index == 0;
        update.more = index < last;
    }
    updates
}

/// What leads from `old` to `new`, in one update; `None` when nothing does.
pub(crate) fn difference<'a>(old: &NetState, new: &'a NetState) -> Option<Sent<'a>> {
    let changed = |found: Option<&Arc<ServiceView>>, view: &Arc<ServiceView>| found != Some(view);
    let services = new.services.iter().filter(|(key, view)| changed(old.services.get(key), view));
    let slices = new.slices.iter().filter(|(key, view)| old.slices.get(key) != Some(view));
    let update = Sent {
        services: services.map(|(_, view)| view.as_ref()).collect(),
        slices: slices.map(|(_, view)| view.as_ref()).collect(),
        removed_services: old.services.keys().filter(|key| !new.services.contains_key(key)).cloned().collect(),
        removed_slices: old.slices.keys().filter(|key| !new.slices.contains_key(key)).cloned().collect(),
        namespaces: (old.namespaces != new.namespaces).then(|| new.namespaces.clone()),
        ..Sent::default()
    };
    let empty = update.namespaces.is_none()
        && update.services.is_empty()
        && update.slices.is_empty()
        && update.removed_services.is_empty()
        && update.removed_slices.is_empty();
    (!empty).then_some(update)
}

/// Writes one frame.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= FRAME_SIZE_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame would be too large"))?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&bytes).await
}

/// Reads one frame; `None` when the stream ends before it.
pub(crate) async fn read_frame<T: for<'de> Deserialize<'de>>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, NetError> {
    let failed = || NetError::io("read from the other side");
    let length = match stream.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(failed()(error)),
    };
    if length > FRAME_SIZE_MAX {
        return Err(failed()(io::Error::other("a frame is too large")));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.map_err(failed())?;
    let malformed = |source| NetError::Malformed { what: "a frame".into(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::{endpoint, service, slice};

    fn state(services: u32) -> NetState {
        let names: Vec<String> = (0..services).map(|number| format!("s{number}")).collect();
        NetState::new(
            names.iter().map(|name| service(name, "10.96.0.1")),
            names.iter().map(|name| slice(name, [endpoint("10.0.0.1")])),
        )
    }

    #[test]
    fn a_complete_list_comes_in_parts() {
        let whole = state(300);
        let parts = complete(&whole);
        let flags: Vec<(bool, bool)> = parts.iter().map(|part| (part.complete, part.more)).collect();
        assert_eq!(flags, [(true, true), (false, true), (false, true), (false, false)]);
        assert_eq!(parts.iter().map(|part| part.services.len()).sum::<usize>(), 300);
        assert_eq!(parts.iter().map(|part| part.slices.len()).sum::<usize>(), 300);
        let none = complete(&NetState::default()).iter().map(|part| (part.complete, part.more)).collect::<Vec<_>>();
        assert_eq!(none, [(true, false)]);
    }

    #[test]
    fn only_what_changed_is_sent() {
        let (old, mut new) = (state(3), state(3));
        assert_eq!(difference(&old, &new), None);
        new.services.remove(&ObjectKey::new("default", "s0"));
        new.slices.remove(&ObjectKey::new("default", "s1-1"));
        let changed = slice("s2", [endpoint("10.0.0.9")]);
        new.slices.insert(changed.key.clone(), Arc::new(changed.clone()));
        let update = difference(&old, &new).unwrap();
        assert_eq!(update.removed_services, [ObjectKey::new("default", "s0")]);
        assert_eq!(update.removed_slices, [ObjectKey::new("default", "s1-1")]);
        assert_eq!((update.services.len(), update.slices), (0, vec![&changed]));
    }

    #[tokio::test]
    async fn a_frame_is_read_as_written_and_nonsense_is_refused() {
        let whole = state(2);
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let sent = complete(&whole).remove(0);
        write_frame(&mut near, &sent).await.unwrap();
        let received: Received = read_frame(&mut far).await.unwrap().unwrap();
        assert_eq!(received.services.iter().collect::<Vec<_>>(), sent.services);
        near.write_all(&[0, 0, 0, 1, b'x']).await.unwrap();
        assert!(matches!(read_frame::<Received>(&mut far).await, Err(NetError::Malformed { .. })));
        near.write_all(&[255; 4]).await.unwrap();
        assert!(matches!(read_frame::<Received>(&mut far).await, Err(NetError::Io { .. })));
        drop(near);
        assert!(read_frame::<Received>(&mut far).await.unwrap().is_none());
    }
}

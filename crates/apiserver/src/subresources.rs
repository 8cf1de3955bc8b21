//! What hangs below an object: `status`, `scale`, `binding` and the others, one file each where there is something to do.

pub(crate) mod binding;
pub(crate) mod connect;
pub(crate) mod eviction;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod token;

use bytes::Bytes;
use resources::{Subresource, Writer};

use crate::answer::Answer;
use crate::catalog::Served;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::{patch, read, update};

/// Carries out a request on a subresource that is known to serve the verb.
pub(crate) async fn answer(
    call: &Call<'_>,
    served: &Served,
    subresource: &Subresource,
    body: Bytes,
) -> Outcome<Answer> {
    let plural = served.facts().plural;
    match subresource {
        Subresource::Status => part(call, served, Writer::Status, body).await,
        Subresource::Scale { .. } => scale::answer(call, served, subresource, body).await,
        Subresource::Other { name, .. } => match (plural, *name) {
            ("namespaces", "finalize") => part(call, served, Writer::Finalize, body).await,
            ("certificatesigningrequests", "approval") => part(call, served, Writer::Approval, body).await,
            ("pods", "resize") => part(call, served, Writer::Resize, body).await,
            ("pods", "ephemeralcontainers") => part(call, served, Writer::EphemeralContainers, body).await,
            ("pods", "binding") => binding::answer(call, body).await,
            ("pods", "eviction") => eviction::answer(call, served, body).await,
            ("serviceaccounts", "token") => token::answer(call, served, body).await,
            _ => Err(Refusal::no_such_path()),
        },
    }
}

/// Reads or writes the object through a door that lets only a part of it change.
async fn part(call: &Call<'_>, served: &Served, writer: Writer, body: Bytes) -> Outcome<Answer> {
    match call.info.verb.as_str() {
        "get" => read::get(call, served).await,
        "update" => update::replace(call, served, body, writer).await,
        "patch" => patch::patch_as(call, served, body, writer).await,
        _ => Err(Refusal::no_such_method()),
    }
}

//! `update`: the whole object replaced.

use api::field::{FieldErrors, Path};
use api::meta;
use api::status::Status;
use bytes::Bytes;
use resources::Writer;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::attempt::Write;
use crate::verbs::create::{decoded, place};
use crate::verbs::target;

/// Kinds that an update creates when they are not there. Upstream: each strategy's `AllowCreateOnUpdate`.
const CREATED_BY_UPDATE: &[&str] = &[
    "clusterrolebindings",
    "clusterroles",
    "endpoints",
    "events",
    "leases",
    "limitranges",
    "rolebindings",
    "roles",
    "runtimeclasses",
    "services",
];
/// Kinds whose update must name the state it is based on. Upstream: each strategy's `AllowUnconditionalUpdate`.
const CONDITIONAL: &[&str] =
    &["leases", "endpointslices", "csinodes", "csidrivers", "ingressclasses", "runtimeclasses"];

/// Replaces an object.
pub(crate) async fn update(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    replace(call, served, body, Writer::Main).await
}

/// Replaces an object (or, through a subresource, the part of it that the writer may change).
pub(crate) async fn replace(call: &Call<'_>, served: &Served, body: Bytes, writer: Writer) -> Outcome<Answer> {
    let options = WriteOptions::read(&call.query, "UpdateOptions")?;
    let mut tree = decoded(call, served, &body, &options)?;
    place(call, served, &mut tree)?;
    let name = meta::name(&tree);
    if name.is_empty() {
        return Err(Refusal::bad_request("name must be provided"));
    }
    if name != call.info.name {
        let wanted = &call.info.name;
        return Err(Refusal::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let plural = served.facts().plural;
    if meta::resource_version(&tree).is_empty() && CONDITIONAL.contains(&plural) {
        let mut faults = FieldErrors::default();
        faults.invalid(&Path::new("metadata.resourceVersion"), &0, "must be specified for an update");
        if let Some(status) = faults.into_status(served.group, served.kind, name) {
            return Err(status.into());
        }
    }
    let write = Write::new(call, served, &options, writer);
    match write.update(|_| Ok(tree.clone())).await {
        Err(refusal) if refusal.0.is("NotFound") && writer == Writer::Main && CREATED_BY_UPDATE.contains(&plural) => {
            call.server.may(&call.user, &crate::authz::Attributes { verb: "create", ..(&call.info).into() })?;
            let uid = meta::uid(&tree);
            if !uid.is_empty() {
                // The object that was meant is gone; it must not rise again as another.
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
                return Err(Status::conflict(target(served, meta::name(&tree)), &why).into());
            }
            meta::clear_resource_version(&mut tree);
            let create = Write { writer: Writer::Create, ..write };
            let object = create.create(tree).await?;
            Ok(Answer::Object { code: 201, served: *served, object })
        }
        outcome => Ok(Answer::Object { code: 200, served: *served, object: outcome?.object() }),
    }
}

//! `pods/eviction`: a deletion that may be refused. Disruption budgets are not served yet, so none refuses.

use api::status::Status;
use bytes::Bytes;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::FieldValidation;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::delete;

/// Deletes the pod as the eviction's options say.
pub(crate) async fn answer(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let message =
        api::schema::kind("policy", "v1", "Eviction").ok_or_else(|| Refusal::internal("no schema for Eviction"))?;
    let expected = Expected { group: "policy", version: "v1", kind: "Eviction", message };
    let encoding = negotiate::body_encoding(&call.headers)?;
    let eviction = decode::object(&body, encoding, &expected, FieldValidation::Warn, &call.warnings)?;
    let named = api::meta::name(&eviction);
    if !named.is_empty() && named != call.info.name {
        return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = match eviction.get("deleteOptions") {
        Some(options) => api::value::from_value(options).map_err(|error| Refusal::bad_request(error.to_string()))?,
        None => k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions::default(),
    };
    delete::delete_named(call, served, &crate::options::DeleteOptions::of_wire(options)?).await?;
    let status = Status { status: "Success".to_owned(), code: 201, ..Status::default() };
    Ok(Answer::Status { code: 201, status: Box::new(status) })
}

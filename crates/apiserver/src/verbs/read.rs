//! `get`: one object.

use crate::answer::Answer;
use crate::catalog::Served;
use crate::options::ReadOptions;
use crate::pipeline::Call;
use crate::refusal::Outcome;
use crate::verbs::not_found;

/// Answers the object that the path names.
pub(crate) async fn get(call: &Call<'_>, served: &Served) -> Outcome<Answer> {
    let options = ReadOptions::of_get(&call.query)?;
    match options.revision {
        None => drop(call.server.cache.fresh().await?),
        Some(revision) => drop(call.server.cache.wait_for(revision).await?),
    }
    let key = call.key(served);
    let object = call.resource(served)?.snapshot().objects.get(&key).cloned();
    let object = object.ok_or_else(|| not_found(served, key.name()))?;
    Ok(Answer::Object { code: 200, served: *served, object })
}

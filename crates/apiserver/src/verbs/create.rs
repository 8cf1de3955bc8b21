//! `create`.

use api::meta;
use api::value::Value;
use bytes::Bytes;
use resources::Writer;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::attempt::Write;

/// How often a generated name is drawn anew when it is taken, as often as upstream.
const GENERATE_ATTEMPTS_MAX: usize = 8;

/// Stores a new object.
pub(crate) async fn create(call: &Call<'_>, served: &Served, body: Bytes) -> Outcome<Answer> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let mut tree = decoded(call, served, &body, &options)?;
    place(call, served, &mut tree)?;
    if !matches!(meta::resource_version(&tree), "" | "0") {
        return Err(Refusal::unknown("resourceVersion should not be set on objects to be created"));
    }
    meta::clear_resource_version(&mut tree);
    let generated = meta::name(&tree).is_empty() && !meta::generate_name(&tree).is_empty();
    let write = Write::new(call, served, &options, Writer::Create);
    let answer = |object| Answer::Object { code: 201, served: *served, object };
    if !generated {
        return write.create(tree).await.map(answer);
    }
    for attempt in 1.. {
        let mut named = tree.clone();
        meta::set_name(&mut named, &generated_name(meta::generate_name(&tree)));
        match write.create(named).await {
            Err(refusal) if refusal.0.is("AlreadyExists") && attempt < GENERATE_ATTEMPTS_MAX => {}
            outcome => return outcome.map(answer),
        }
    }
    unreachable!("the last attempt returns")
}

/// Decodes the body as an object of the served kind.
pub(crate) fn decoded(call: &Call<'_>, served: &Served, body: &[u8], options: &WriteOptions) -> Outcome<Value> {
    let encoding = negotiate::body_encoding(&call.headers)?;
    let message = served.message().ok_or_else(|| Refusal::internal(format!("no schema for {}", served.kind)))?;
    let expected = Expected { group: served.group, version: served.version, kind: served.kind, message };
    decode::object(body, encoding, &expected, options.field_validation, &call.warnings)
}

/// Puts the object into the namespace of the path, or refuses when it says another.
pub(crate) fn place(call: &Call<'_>, served: &Served, tree: &mut Value) -> Outcome<()> {
    if !served.is_namespaced() {
        return Ok(());
    }
    let wanted = call.info.namespace.as_str();
    let given = meta::namespace(tree);
    if !given.is_empty() && given != wanted {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::set_namespace(tree, wanted);
    Ok(())
}

/// Upstream's generated names: the prefix, cut to leave room, and five letters without vowels.
pub(crate) fn generated_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const NAME_CHARS_MAX: usize = 63;
    const SUFFIX_CHARS: usize = 5;
    let mut name: String = prefix.chars().take(NAME_CHARS_MAX - SUFFIX_CHARS).collect();
    name.push_str(&letters(LETTERS, SUFFIX_CHARS));
    name
}

/// `count` random letters.
pub(crate) fn letters(alphabet: &[u8], count: usize) -> String {
    let letter = |_| char::from(alphabet[(stdx::random_u64() % alphabet.len() as u64) as usize]);
    (0..count).map(letter).collect()
}

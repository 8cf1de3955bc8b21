//! The `continue` token of a chunked list, in upstream's form.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::refusal::{Outcome, Refusal};

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContinueToken {
    /// The revision of the whole list; none once a list goes on inconsistently.
    pub revision: Option<u64>,
    /// The first key of the next chunk, relative to the list: `namespace/name`, or `name`.
    pub start: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl ContinueToken {
    /// The token as clients see it.
    pub(crate) fn encode(&self) -> String {
        // Upstream appends a NUL to say "right behind the last key"; the start given here is a key of the next chunk.
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let wire = Wire { v: VERSION.to_owned(), rv, start: self.start.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).expect("texts and a number are JSON"))
    }

    /// Reads a token, or refuses with 400.
    pub(crate) fn decode(token: &str) -> Outcome<ContinueToken> {
        let invalid = |why: String| Refusal::bad_request(format!("continue key is not valid: {why}"));
        let trimmed = token.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD
            .decode(trimmed)
            .or_else(|_| STANDARD.decode(token))
            .map_err(|error| invalid(error.to_string()))?;
        // Read by our own parser first, because its errors are worded as upstream's.
        let limits = api::codec::Limits::default();
        let tree = api::codec::json::parse(&bytes, &limits).map_err(|error| invalid(error.to_string()))?.value;
        let wire: Wire = api::value::from_value(&tree).map_err(|error| invalid(error.to_string()))?;
        if wire.v != VERSION {
            return Err(invalid(format!("server does not recognize this encoded version {:?}", wire.v)));
        }
        if wire.start.is_empty() || wire.start.contains("..") {
            return Err(invalid(format!("invalid start key {:?}", wire.start)));
        }
        let revision = match wire.rv {
            -1 => None,
            0 => return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned())),
            rv => Some(u64::try_from(rv).map_err(|error| invalid(error.to_string()))?),
        };
        Ok(ContinueToken { revision, start: wire.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        for token in [
            ContinueToken { revision: Some(42), start: "default/a\0".into() },
            ContinueToken { revision: None, start: "b".into() },
        ] {
            assert_eq!(ContinueToken::decode(&token.encode()).expect("own token"), token);
        }
        assert_eq!(ContinueToken::decode("###").expect_err("no base64").code(), 400);
    }
}

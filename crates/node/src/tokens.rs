//! Service-account tokens that pods have: kept until they are to be fetched again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stdx::{Mono, mono};

/// Pod's uid, audience, and seconds asked for.
type Key = (String, String, i64);

/// Tokens by what they were asked for, with when each is to be fetched again. In memory only.
#[derive(Default)]
pub struct Kept {
    tokens: Mutex<BTreeMap<Key, (String, Mono)>>,
}

impl Kept {
    /// A token that is still good enough, and for how long.
    pub fn get(&self, uid: &str, audience: &str, seconds: i64) -> Option<(String, Duration)> {
        let tokens = self.lock();
        let (token, until) = tokens.get(&(uid.to_owned(), audience.to_owned(), seconds))?;
        let left = *until - mono();
        (!left.is_zero()).then(|| (token.clone(), left))
    }

    /// Keeps a token for a while.
    pub fn put(&self, uid: &str, audience: &str, seconds: i64, token: &str, good_for: Duration) {
        self.lock().insert((uid.to_owned(), audience.to_owned(), seconds), (token.to_owned(), mono() + good_for));
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().retain(|(owner, _, _), _| owner != uid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, (String, Mono)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_as_long_as_it_is_good_and_its_pod_is_there() {
        let kept = Kept::default();
        kept.put("u1", "", 3600, "one", Duration::from_secs(60));
        kept.put("u1", "late", 600, "two", Duration::ZERO);
        kept.put("u2", "", 3600, "three", Duration::from_secs(60));
        let check = |uid, audience, seconds, expected: Option<&str>| {
            let got = kept.get(uid, audience, seconds).map(|(token, _)| token);
            assert_eq!(got.as_deref(), expected, "{uid} {audience:?} {seconds}");
        };
        check("u1", "", 3600, Some("one"));
        check("u1", "", 600, None);
        check("u1", "late", 600, None);
        kept.forget("u1");
        check("u1", "", 3600, None);
        check("u2", "", 3600, Some("three"));
    }
}

//! TokenRequest: `serviceaccounts/…/token`, a token for an account, bound to what may end it.

use api::field::Path;
use k8s_openapi::api::authentication::v1::TokenRequest;

use crate::base::computed;
use crate::def::{Facts, ResourceDef, Scope};
use crate::names;

const SECONDS: i64 = 3600;
const SECONDS_MIN: i64 = 10 * 60;
const SECONDS_MAX: i64 = 1 << 32;

pub static TOKEN_REQUEST: ResourceDef<TokenRequest> = ResourceDef {
    name_faults: names::any_name,
    default: |request, _| {
        request.spec.get_or_insert_default().expiration_seconds.get_or_insert(SECONDS);
    },
    validate: |new, _, _, _, faults| {
        let path = Path::new("spec");
        let seconds = new.spec.as_ref().and_then(|spec| spec.expiration_seconds).unwrap_or(0);
        if seconds < SECONDS_MIN {
            let why = "may not specify a duration less than 10 minutes";
            faults.invalid(&path.child("expirationSeconds"), &seconds, why);
        }
        if seconds > SECONDS_MAX {
            let why = "may not specify a duration larger than 2^32 seconds";
            faults.invalid(&path.child("expirationSeconds"), &seconds, why);
        }
    },
    ..ResourceDef::plain(Facts {
        scope: Scope::Namespaced,
        ..computed("authentication.k8s.io", "TokenRequest", "tokenrequests", "tokenrequest")
    })
};

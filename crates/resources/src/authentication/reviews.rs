//! TokenReview: whose token is this. SelfSubjectReview: who am I.

use api::field::Path;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};

use crate::base::computed;
use crate::def::ResourceDef;
use crate::names;

const GROUP: &str = "authentication.k8s.io";

pub static TOKEN_REVIEW: ResourceDef<TokenReview> = ResourceDef {
    name_faults: names::any_name,
    validate: |new, _, _, _, faults| {
        if new.spec.token.is_empty() {
            faults.required(&Path::new("spec").child("token"), "");
        }
    },
    ..ResourceDef::plain(computed(GROUP, "TokenReview", "tokenreviews", "tokenreview"))
};

pub static SELF_SUBJECT_REVIEW: ResourceDef<SelfSubjectReview> = ResourceDef {
    name_faults: names::any_name,
    ..ResourceDef::plain(computed(GROUP, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"))
};

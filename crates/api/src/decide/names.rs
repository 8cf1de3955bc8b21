//! Defaults that follow from names: service accounts, images, restarts.

/// The service account a pod runs as when it names none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// The user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name of the service account behind a user name.
pub fn service_account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let is_good = crate::names::dns_label(namespace).is_empty() && crate::names::dns_subdomain(name).is_empty();
    is_good.then_some((namespace, name))
}

/// The pull policy of a container that names none: `Always` for what `latest` may mean tomorrow.
pub fn image_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    // A colon before the last slash is a registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match (tag, digest) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether a container that ended with `exit_code` is started again under `policy` (`Always`, `OnFailure`, `Never`).
pub fn restarts(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, expected) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("localhost:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:0", "IfNotPresent"),
            ("busybox:latest@sha256:0", "Always"),
        ] {
            assert_eq!(image_pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn service_accounts_have_user_names() {
        assert_eq!(service_account_of(&service_account_user("a", "b.c")), Some(("a", "b.c")));
        assert_eq!(service_account_of("system:serviceaccount:a"), None);
        assert_eq!(service_account_of("system:serviceaccount:A:b"), None);
        assert_eq!(service_account_of("alice"), None);
    }

    #[test]
    fn restart_policies_look_at_the_exit_code() {
        assert_eq!([restarts("Always", 0), restarts("OnFailure", 0), restarts("Never", 1)], [true, false, false]);
        assert!(restarts("OnFailure", 1));
    }
}

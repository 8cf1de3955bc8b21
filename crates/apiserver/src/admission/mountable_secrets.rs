//! Accounts with the annotation `kubernetes.io/enforce-mountable-secrets`: their pods use the Secrets that the account lists, and
//! no others, also by way of containers that are added later. Upstream: `limitSecretReferences` of the ServiceAccount plug-in.

use client::Key;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, ServiceAccount};

use super::Asked;
use crate::refusal::{Outcome, Refusal};

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Refuses a new pod that uses other Secrets.
pub(crate) fn admit(asked: &Asked<'_>, spec: &PodSpec, account: &ServiceAccount) -> Outcome<()> {
    let refusal = if is_limited(account) { refusal(spec, account) } else { None };
    refusal.map_or(Ok(()), |why| Err(asked.forbidden(&why)))
}

/// Refuses containers that would bring other Secrets into a pod that is there already.
pub(crate) fn admit_ephemeral(asked: &Asked<'_>, pod: &Pod) -> Outcome<()> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let key = Key::new(&asked.namespace, spec.service_account_name.as_deref().unwrap_or_default());
    let Some(account) = asked.object("serviceaccounts", &key) else { return Ok(()) };
    let account: ServiceAccount = account.typed().map_err(Refusal::internal)?;
    let refusal = if is_limited(&account) { refusal_of_ephemeral(spec, &account) } else { None };
    refusal.map_or(Ok(()), |why| Err(asked.forbidden(&why)))
}

/// The words that Go's `ParseBool` takes for true.
fn is_limited(account: &ServiceAccount) -> bool {
    let value = account.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ENFORCE));
    value.is_some_and(|value| ["1", "t", "T", "TRUE", "true", "True"].contains(&value.as_str()))
}

fn lists(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(secret))
}

fn refusal(spec: &PodSpec, account: &ServiceAccount) -> Option<String> {
    let name = account.metadata.name.as_deref().unwrap_or_default();
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
    if let Some(secret) = volumes.into_iter().find(|secret| !lists(account, secret)) {
        return Some(format!("volume with secret.secretName={secret:?} is not allowed because {}", unlisted(name)));
    }
    let init = spec.init_containers.iter().flatten().map(|container| ("init container", container));
    let all = init.chain(spec.containers.iter().map(|container| ("container", container)));
    let of_containers = all.into_iter().find_map(|(what, container)| {
        of_container(what, &container.name, &container.env, &container.env_from, account)
    });
    let pull_secrets = || {
        let listed = |secret: &str| account.image_pull_secrets.iter().flatten().any(|listed| listed.name == secret);
        let mut used = spec.image_pull_secrets.iter().flatten().enumerate();
        let (index, secret) = used.find(|(_, secret)| !listed(&secret.name))?;
        Some(format!(
            "imagePullSecrets[{index}].name={:?} is not allowed because service account {name} does not reference that imagePullSecret",
            secret.name
        ))
    };
    of_containers.or_else(pull_secrets)
}

fn refusal_of_ephemeral(spec: &PodSpec, account: &ServiceAccount) -> Option<String> {
    spec.ephemeral_containers.iter().flatten().find_map(|container| {
        of_container("ephemeral container", &container.name, &container.env, &container.env_from, account)
    })
}

fn of_container(
    what: &str,
    container: &str,
    env: &Option<Vec<EnvVar>>,
    env_from: &Option<Vec<EnvFromSource>>,
    account: &ServiceAccount,
) -> Option<String> {
    let why = unlisted(account.metadata.name.as_deref().unwrap_or_default());
    let variable = env.iter().flatten().find_map(|variable| {
        let secret = variable.value_from.as_ref()?.secret_key_ref.as_ref()?.name.as_str();
        let text = || {
            let named = &variable.name;
            format!("{what} {container} with envVar {named} referencing secret.secretName={secret:?} is not allowed because {why}")
        };
        (!lists(account, secret)).then(text)
    });
    let whole = || {
        let mut secrets =
            env_from.iter().flatten().filter_map(|source| Some(source.secret_ref.as_ref()?.name.as_str()));
        let secret = secrets.find(|secret| !lists(account, secret))?;
        Some(format!(
            "{what} {container} with envFrom referencing secret.secretName={secret:?} is not allowed because {why}"
        ))
    };
    variable.or_else(whole)
}

fn unlisted(account: &str) -> String {
    format!("service account {account} does not reference that secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value, expected: Option<&str>) {
        let account: ServiceAccount = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "few", "annotations": {ENFORCE: "true"}},
            "secrets": [{"name": "listed"}], "imagePullSecrets": [{"name": "pull"}],
        }))
        .unwrap();
        assert!(is_limited(&account));
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let found = refusal(&spec, &account).or_else(|| refusal_of_ephemeral(&spec, &account));
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_secret_is_used_by_no_way_unless_it_is_listed() {
        use serde_json::json;
        let because =
            |what: &str| format!("{what} is not allowed because service account few does not reference that secret");
        let env = |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
        check(
            json!({"containers": [{"name": "c", "env": env("listed"), "envFrom": [{"secretRef": {"name": "listed"}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "listed"}}], "imagePullSecrets": [{"name": "pull"}]}),
            None,
        );
        check(
            json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "other"}}]}),
            Some(&because("volume with secret.secretName=\"other\"")),
        );
        check(
            json!({"containers": [{"name": "c", "env": env("other")}]}),
            Some(&because("container c with envVar E referencing secret.secretName=\"other\"")),
        );
        check(
            json!({"containers": [], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "other"}}]}]}),
            Some(&because("init container i with envFrom referencing secret.secretName=\"other\"")),
        );
        check(
            json!({"containers": [], "ephemeralContainers": [{"name": "e", "env": env("other")}]}),
            Some(&because("ephemeral container e with envVar E referencing secret.secretName=\"other\"")),
        );
        check(
            json!({"containers": [], "imagePullSecrets": [{"name": "pull"}, {"name": "other"}]}),
            Some(
                "imagePullSecrets[1].name=\"other\" is not allowed because service account few does not reference that imagePullSecret",
            ),
        );
    }
}

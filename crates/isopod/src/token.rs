//! `isopod token`: tokens by which other machines become nodes; and what tells those machines whom to trust.

use std::time::Duration;

use anyhow::{Context as _, bail};
use cli::args::{Place, Token};
use client::{Client, ClientConfig, DeleteOptions, HttpTransport, ListOptions, Target};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use crate::machine::Settings;
use crate::paths::Paths;
use crate::{membership, roles};

const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const USAGES: [&str; 2] = ["signing", "authentication"];

/// Makes, lists or deletes.
pub async fn run(token: Token) -> anyhow::Result<()> {
    match token {
        Token::Create { place, description, ttl, usages, groups, print_join_command } => {
            let wanted = Wanted { description, seconds: seconds("--ttl", &ttl)?, usages, groups };
            wanted.check()?;
            let client = connect(&place)?;
            let to_join = if print_join_command { Some(way_to_join(&client, &place).await?) } else { None };
            let (id, secret) = (letters(6), letters(16));
            let object = wanted.secret(&id, &secret, stdx::wall());
            client.create(secrets(), &object).await.context("make the token")?;
            match to_join {
                Some((server, pins)) => println!("isopod agent --server {server} --token {id}.{secret}{pins}"),
                None => println!("{id}.{secret}"),
            }
        }
        Token::Ls(place) => list(&connect(&place)?).await?,
        Token::Rm { place, tokens } => {
            let client = connect(&place)?;
            for token in tokens {
                let id = token.split('.').next().unwrap_or_default();
                let target = secrets().name(&format!("{NAME_PREFIX}{id}"));
                client.delete(target, DeleteOptions::default()).await.with_context(|| format!("delete {id}"))?;
                println!("deleted {id}");
            }
        }
    }
    Ok(())
}

fn connect(place: &Place) -> anyhow::Result<Client> {
    let path = Paths::new(&place.data_dir)?.kubeconfig();
    let config = ClientConfig::from_kubeconfig(&path, None)
        .with_context(|| format!("read {} (is there a cluster?)", path.display()))?;
    let transport = HttpTransport::new(&config, "isopod").context("connect to the cluster")?;
    Ok(Client::new(std::sync::Arc::new(transport), "isopod"))
}

/// Where another machine finds the cluster, and the options by which it knows it.
async fn way_to_join(client: &Client, place: &Place) -> anyhow::Result<(String, String)> {
    let target = Target::new("", "v1", "configmaps").namespace("kube-public").name("cluster-info");
    let info: ConfigMap = client.get(target).await.context("read where the cluster is")?.typed()?;
    let kubeconfig = info.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    let server = pki::kubeconfig::server(&kubeconfig).context("cluster-info names no server")?;
    let gateway = membership::own_range(&Paths::new(&place.data_dir)?)?.nth(1);
    if gateway.is_some_and(|gateway| server.contains(&format!("://{gateway}:"))) {
        bail!("no other machine reaches this cluster's API: start it with `isopod up --bind ADDRESS`");
    }
    let authority = pki::kubeconfig::authority(&kubeconfig).context("cluster-info names no authority")?;
    let pins = pki::authority::pins(&authority)?.into_iter().map(|pin| format!(" --ca-cert-hash {pin}")).collect();
    Ok((server.to_owned(), pins))
}

fn secrets() -> Target {
    Target::new("", "v1", "secrets").namespace(NAMESPACE)
}

/// A token that is to be.
struct Wanted {
    description: String,
    seconds: u64,
    usages: Vec<String>,
    groups: Vec<String>,
}

impl Wanted {
    /// Lists everything that is wrong.
    fn check(&self) -> anyhow::Result<()> {
        let usages = self.usages.iter().filter(|usage| !USAGES.contains(&usage.as_str()));
        let mut wrong: Vec<String> =
            usages.map(|usage| format!("--usages: {usage:?} is not one of {}", USAGES.join(", "))).collect();
        let strange = self.groups.iter().filter(|group| !group.starts_with("system:bootstrappers:"));
        wrong.extend(strange.map(|group| format!("--groups: {group:?} is not below system:bootstrappers:")));
        if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
    }

    fn secret(&self, id: &str, secret: &str, now: jiff::Timestamp) -> serde_json::Value {
        let mut data = json!({"token-id": id, "token-secret": secret});
        let mut set = |key: &str, value: String| {
            if !value.is_empty() {
                data[key] = value.into();
            }
        };
        set("description", self.description.clone());
        set("auth-extra-groups", self.groups.join(","));
        if self.seconds > 0 {
            let end = now.saturating_add(Duration::from_secs(self.seconds)).unwrap_or(now);
            set("expiration", end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        for usage in &self.usages {
            set(&format!("usage-bootstrap-{usage}"), "true".into());
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": KIND,
            "metadata": {"name": format!("{NAME_PREFIX}{id}"), "namespace": NAMESPACE}, "stringData": data,
        })
    }
}

/// The whole seconds of a duration as Go writes it: `90m`, `1h30m`, `24h`, `0`.
pub fn seconds(option: &str, text: &str) -> anyhow::Result<u64> {
    let nanos = api::codec::parse_duration(text).ok().and_then(|nanos| u64::try_from(nanos).ok());
    let nanos = nanos.with_context(|| format!("{option}: {text:?} is not a duration such as 90m or 24h"))?;
    Ok(Duration::from_nanos(nanos).as_secs())
}

fn letters(count: usize) -> String {
    // Bytes that would make some letters likelier than others are drawn again.
    let fair = 256 / LETTERS.len() * LETTERS.len();
    let mut out = String::with_capacity(count);
    while out.len() < count {
        let mut byte = [0];
        stdx::random(&mut byte);
        if usize::from(byte[0]) < fair {
            out.push(char::from(LETTERS[usize::from(byte[0]) % LETTERS.len()]));
        }
    }
    out
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let options = ListOptions { field_selector: Some(format!("type={KIND}")), ..ListOptions::default() };
    let found = client.list(secrets(), options).await.context("list tokens")?;
    println!("{:<8} {:<22} {:<26} DESCRIPTION", "ID", "EXPIRES", "USAGES");
    for object in found.items {
        let secret: Secret = object.typed().context("read a token")?;
        let data = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        let usages: Vec<&str> =
            USAGES.into_iter().filter(|usage| data(&format!("usage-bootstrap-{usage}")) == "true").collect();
        let expires = Some(data("expiration")).filter(|text| !text.is_empty()).unwrap_or_else(|| "<never>".into());
        println!("{:<8} {expires:<22} {:<26} {}", data("token-id"), usages.join(","), data("description"));
    }
    Ok(())
}

/// Makes `cluster-info`, which everybody may read: where the API is and who vouches for it. The signatures are added by a
/// controller.
pub async fn publish(client: &Client, settings: &Settings, authority_pem: &str) -> anyhow::Result<()> {
    let server = format!("https://{}", settings.advertised());
    let info = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": pki::kubeconfig::bare(&server, authority_pem)},
    });
    let target = Target::new("", "v1", "configmaps").namespace("kube-public");
    roles::put_in(client, target, "cluster-info", &info).await.context("publish where the cluster is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(seconds("--ttl", text).ok(), expected, "{text}");
        check("24h", Some(86_400));
        check("1h30m", Some(5400));
        check("0", Some(0));
        check("90", None);
        check("", None);
        check("h", None);
        check("1d", None);
    }

    #[test]
    fn a_token_is_a_secret_that_ends() {
        let wanted = Wanted {
            description: String::new(),
            seconds: 60,
            usages: vec!["authentication".into()],
            groups: vec![roles::BOOTSTRAPPERS.into()],
        };
        assert!(wanted.check().is_ok());
        let secret = wanted.secret("abcdef", "0123456789abcdef", "2026-01-01T00:00:00.5Z".parse().unwrap());
        let expected = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2026-01-01T00:01:00Z",
            "auth-extra-groups": roles::BOOTSTRAPPERS, "usage-bootstrap-authentication": "true",
        });
        assert_eq!(secret["stringData"], expected);
        let wrong = Wanted { usages: vec!["all".into()], groups: vec!["system:masters".into()], ..wanted };
        let why = wrong.check().unwrap_err().to_string();
        assert!(why.contains("--usages") && why.contains("--groups"), "{why}");
    }
}

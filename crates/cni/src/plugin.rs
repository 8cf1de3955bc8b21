//! CNI's protocol for plugins that are programs: what comes in by variables and standard input, what goes out as JSON.
//!
//! Versions 0.3.0 to 1.1.0 are spoken; what they do not know is left out of what they are told.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{CniError, Code};
use crate::network::{AddRequest, CheckRequest, DelRequest, GcRequest, Network, PodRef, PortMapping};
use crate::result::AddResult;

/// The variable whose presence tells a program that it is called as a plugin.
pub const COMMAND: &str = "CNI_COMMAND";
/// Every version that is spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Ports on addresses of the node that are neither.
const PROTOCOL_DEFAULT: &str = "tcp";

/// How a plugin was called: CNI's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// `ADD`, `CHECK`, `DEL`, `GC`, `STATUS` or `VERSION`.
    pub command: String,
    /// The sandbox.
    pub container_id: String,
    /// Its namespace; empty when it is gone.
    pub netns: String,
    /// The interface inside.
    pub ifname: String,
    /// `KEY=VALUE;…`, beyond CNI.
    pub args: String,
}

impl Invocation {
    /// Reads the variables; `None` when this is no call of a plugin.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Invocation> {
        let command = variable(COMMAND).filter(|command| !command.is_empty())?;
        let text = |name: &str| variable(name).unwrap_or_default();
        Some(Invocation {
            command,
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        })
    }

    /// The pod that Kubernetes' runtimes name in the arguments.
    fn pod(&self) -> PodRef {
        let value = |name: &str| {
            let pairs = self.args.split(';').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        PodRef { namespace: value("K8S_POD_NAMESPACE"), name: value("K8S_POD_NAME"), uid: value("K8S_POD_UID") }
    }
}

/// What a network configuration says to every plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginConfig {
    /// In which version to answer.
    pub cni_version: String,
    /// The plugin's name.
    #[serde(rename = "type")]
    pub kind: String,
    runtime_config: RuntimeConfig,
    prev_result: Option<AddResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<Mapping>,
}

/// A port as runtimes write it: zero and empty are "not said". containerd's names begin with capitals, which Go does not mind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mapping {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(alias = "Protocol")]
    protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP")]
    host_ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

impl PluginConfig {
    /// Reads a configuration.
    pub fn read(text: &[u8]) -> Result<PluginConfig, CniError> {
        let failed = |error| CniError::because(Code::Decode, "error parsing network configuration", error);
        let mut config: PluginConfig = serde_json::from_slice(text).map_err(failed)?;
        if config.cni_version.is_empty() {
            // What configurations of the first days mean, which nobody speaks any more.
            config.cni_version = "0.1.0".into();
        }
        Ok(config)
    }

    fn port_mappings(&self) -> Result<Vec<PortMapping>, CniError> {
        let wanted = self.runtime_config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
        let mapping = |mapping: &Mapping| {
            let unknown = |_| CniError::new(Code::InvalidParameters, format!("invalid hostIP {:?}", mapping.host_ip));
            let host_ip: Option<IpAddr> =
                if mapping.host_ip.is_empty() { None } else { Some(mapping.host_ip.parse().map_err(unknown)?) };
            let protocol = if mapping.protocol.is_empty() { PROTOCOL_DEFAULT } else { &mapping.protocol };
            Ok(PortMapping {
                host_port: mapping.host_port,
                container_port: mapping.container_port,
                protocol: protocol.to_lowercase(),
                host_ip,
            })
        };
        wanted.map(mapping).collect()
    }
}

/// Answers a call with `network`: what goes to standard output, if anything.
///
/// # Errors
/// When the call makes no sense or the network fails; [`refusal`] is what is to be printed then.
pub async fn answer(
    invocation: &Invocation,
    config: &PluginConfig,
    network: &dyn Network,
) -> Result<Option<Value>, CniError> {
    speaks(&config.cni_version)?;
    let Invocation { container_id, ifname, netns, .. } = invocation.clone();
    match invocation.command.as_str() {
        "ADD" => {
            let (pod, port_mappings) = (invocation.pod(), config.port_mappings()?);
            let request = AddRequest { container_id, netns: named(&netns)?, ifname, pod, port_mappings };
            let result = network.add(&request).await?;
            Ok(Some(told(&result, &config.cni_version)))
        }
        "CHECK" => {
            let previous = config.prev_result.clone();
            let previous = previous.ok_or_else(|| CniError::new(Code::InvalidParameters, "prevResult is missing"))?;
            let request = CheckRequest { container_id, netns: named(&netns)?, ifname, previous };
            network.check(&request).await.map(|()| None)
        }
        "DEL" => {
            let netns = (!netns.is_empty()).then(|| PathBuf::from(netns));
            network.del(&DelRequest { container_id, netns, ifname }).await.map(|()| None)
        }
        "GC" => {
            let valid = config.valid_attachments.as_ref().or(config.attachments.as_ref());
            // Without a list nothing is known, and nothing taken away.
            let valid = valid.ok_or_else(|| CniError::new(Code::InvalidParameters, "valid-attachments is missing"))?;
            let valid = valid.iter().map(|attachment| attachment.container_id.clone()).collect();
            network.gc(&GcRequest { valid }).await.map(|()| None)
        }
        "STATUS" => network.status().await.map(|()| None),
        "VERSION" => Ok(Some(versions(&config.cni_version))),
        other => Err(CniError::new(Code::InvalidParameters, format!("unknown CNI_COMMAND: {other}"))),
    }
}

fn named(netns: &str) -> Result<PathBuf, CniError> {
    match netns.is_empty() {
        true => Err(CniError::new(Code::InvalidParameters, "required env variables [CNI_NETNS] missing")),
        false => Ok(netns.into()),
    }
}

fn speaks(version: &str) -> Result<(), CniError> {
    match VERSIONS.contains(&version) {
        true => Ok(()),
        false => Err(CniError::new(
            Code::IncompatibleVersion,
            format!("incompatible CNI versions; config is {version:?}, plugin supports {VERSIONS:?}"),
        )),
    }
}

/// What is spoken, as an answer to `VERSION`.
pub fn versions(asked: &str) -> Value {
    json!({"cniVersion": asked, "supportedVersions": VERSIONS})
}

/// A result in an older version's form.
fn told(result: &AddResult, version: &str) -> Value {
    let mut result = result.clone();
    result.cni_version = version.to_owned();
    let older = VERSIONS.iter().position(|known| *known == version).is_some_and(|index| index < VERSIONS.len() - 1);
    if older {
        result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
    }
    let families: Vec<&str> =
        result.ips.iter().map(|ip| if ip.address.address().is_ipv4() { "4" } else { "6" }).collect();
    let mut value = serde_json::to_value(&result).unwrap_or_default();
    // Before 1.0 each address said of which kind it is.
    if version.starts_with("0.")
        && let Some(ips) = value.get_mut("ips").and_then(Value::as_array_mut)
    {
        for (ip, family) in ips.iter_mut().zip(families) {
            ip["version"] = json!(family);
        }
    }
    value
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'e> {
    cni_version: &'e str,
    code: Code,
    msg: &'e str,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

/// What is printed of a failure.
pub fn refusal(error: &CniError, version: &str) -> Value {
    let mut details = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        details.push(cause.to_string());
        source = cause.source();
    }
    let refusal = Refusal { cni_version: version, code: error.code, msg: &error.message, details: details.join(": ") };
    serde_json::to_value(refusal).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use stdx::BoxFuture;

    use super::*;
    use crate::result::{Interface, IpConfig};

    /// Notes what it is asked.
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Notes {
        fn note<T>(&self, text: String, answer: Result<T, CniError>) -> BoxFuture<'_, Result<T, CniError>>
        where
            T: Send + 'static,
        {
            self.0.lock().unwrap().push(text);
            Box::pin(std::future::ready(answer))
        }
    }

    impl Network for Notes {
        fn add<'a>(&'a self, request: &'a AddRequest) -> BoxFuture<'a, Result<AddResult, CniError>> {
            let ip = IpConfig { address: "10.0.0.2/32".parse().unwrap(), gateway: None, interface: Some(0) };
            let interfaces = vec![Interface { name: "eth0".into(), mtu: Some(1500), ..Interface::default() }];
            let result = AddResult {
                cni_version: crate::CNI_VERSION.into(),
                interfaces,
                ips: vec![ip],
                routes: Vec::new(),
                dns: crate::Dns::default(),
            };
            self.note(format!("{request:?}"), Ok(result))
        }

        fn check<'a>(&'a self, request: &'a CheckRequest) -> BoxFuture<'a, Result<(), CniError>> {
            self.note(format!("check {:?}", request.previous.addresses().collect::<Vec<_>>()), Ok(()))
        }

        fn del<'a>(&'a self, request: &'a DelRequest) -> BoxFuture<'a, Result<(), CniError>> {
            self.note(format!("{request:?}"), Ok(()))
        }

        fn gc<'a>(&'a self, request: &'a GcRequest) -> BoxFuture<'a, Result<(), CniError>> {
            self.note(format!("{request:?}"), Ok(()))
        }

        fn status(&self) -> BoxFuture<'_, Result<(), CniError>> {
            self.note("status".into(), Err(CniError::new(Code::NotAvailable, "no")))
        }
    }

    async fn called(command: &str, netns: &str, config: &str) -> (Result<Option<Value>, CniError>, Vec<String>) {
        let invocation = Invocation {
            command: command.into(),
            container_id: "s1".into(),
            netns: netns.into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u".into(),
        };
        let notes = Notes::default();
        let answered = match PluginConfig::read(config.as_bytes()) {
            Ok(config) => answer(&invocation, &config, &notes).await,
            Err(error) => Err(error),
        };
        (answered, notes.0.into_inner().unwrap())
    }

    #[tokio::test]
    async fn add_carries_pod_and_ports_and_answers_in_the_asked_version() {
        let ports = r#""runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":""},
            {"hostPort":0,"containerPort":81},
            {"HostPort":8081,"ContainerPort":82,"Protocol":"udp","HostIP":"127.0.0.1"}]}"#;
        let (answer, notes) =
            called("ADD", "/run/netns/a", &format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"isopod",{ports}}}"#))
                .await;
        let expected = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}],
            "ips": [{"address": "10.0.0.2/32", "interface": 0}]});
        assert_eq!(answer.unwrap(), Some(expected));
        assert!(notes[0].contains(r#"pod: PodRef { namespace: "ns", name: "p", uid: "u" }"#), "{notes:?}");
        let mappings = r#"[PortMapping { host_port: 8080, container_port: 80, protocol: "tcp", host_ip: None }, PortMapping { host_port: 8081, container_port: 82, protocol: "udp", host_ip: Some(127.0.0.1) }]"#;
        assert!(notes[0].contains(mappings), "{notes:?}");
        let old = called("ADD", "/run/netns/a", r#"{"cniVersion":"0.3.1"}"#).await.0.unwrap().unwrap();
        assert_eq!(old["ips"][0]["version"], "4");
        let new = called("ADD", "/run/netns/a", r#"{"cniVersion":"1.1.0"}"#).await.0.unwrap().unwrap();
        assert_eq!(new["interfaces"][0]["mtu"], 1500);
    }

    #[tokio::test]
    async fn the_other_commands_say_nothing_when_all_is_well() {
        let previous =
            r#"{"cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/32"}]}}"#;
        assert!(matches!(called("CHECK", "/n", previous).await, (Ok(None), notes) if notes == ["check [10.0.0.2]"]));
        let (answer, notes) = called("DEL", "", r#"{"cniVersion":"1.0.0"}"#).await;
        assert!(matches!(answer, Ok(None)) && notes[0].contains("netns: None"), "{notes:?}");
        let valid = r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
        assert!(
            matches!(called("GC", "", valid).await, (Ok(None), notes) if notes == [r#"GcRequest { valid: ["a"] }"#])
        );
        let versions = called("VERSION", "", r#"{"cniVersion":"1.1.0"}"#).await.0.unwrap().unwrap();
        assert_eq!(versions["supportedVersions"][4], "1.1.0");
    }

    #[tokio::test]
    async fn what_fails_is_told_by_code() {
        let code = async |command, config| called(command, "", config).await.0.unwrap_err().code;
        assert_eq!(code("STATUS", r#"{"cniVersion":"1.1.0"}"#).await, Code::NotAvailable);
        assert_eq!(code("ADD", r#"{"cniVersion":"1.1.0"}"#).await, Code::InvalidParameters);
        assert_eq!(code("GC", r#"{"cniVersion":"1.1.0"}"#).await, Code::InvalidParameters);
        assert_eq!(code("NONE", r#"{"cniVersion":"1.1.0"}"#).await, Code::InvalidParameters);
        assert_eq!(code("ADD", r#"{"cniVersion":"2.0.0"}"#).await, Code::IncompatibleVersion);
        assert_eq!(code("ADD", "{}").await, Code::IncompatibleVersion);
        assert_eq!(code("ADD", "no").await, Code::Decode);
        let error = CniError::because(Code::Io, "open it", std::io::Error::other("gone"));
        let expected = json!({"cniVersion": "1.0.0", "code": 5, "msg": "open it", "details": "gone"});
        assert_eq!(refusal(&error, "1.0.0"), expected);
    }
}

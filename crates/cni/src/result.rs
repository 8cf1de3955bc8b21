//! What an attachment got: CNI's success result, in its JSON form.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;

/// The answer to an `add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    /// The protocol version of this answer.
    pub cni_version: String,
    /// The interfaces that were made, on the node and in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The addresses, the pod's primary one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// The routes inside the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Resolver settings of this network; empty when it has none.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

impl AddResult {
    /// The sandbox's addresses without their prefix lengths, the primary one first (a pod's `status.podIPs`).
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().map(|ip| ip.address.address())
    }
}

/// An interface that belongs to an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, lower case with colons.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace it is in; empty on the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its network's prefix length.
    pub address: Cidr,
    /// Where the network leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of the result's interfaces has it, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Cidr,
    /// Over which neighbour; directly when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers, in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to append to short names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_cni_json_and_reads_it_back() {
        let result = AddResult {
            cni_version: crate::CNI_VERSION.to_owned(),
            interfaces: vec![
                Interface {
                    name: "isov1".into(),
                    mac: "02:00:00:00:00:01".into(),
                    mtu: Some(1500),
                    ..Default::default()
                },
                Interface { name: "eth0".into(), sandbox: "/run/netns/a".into(), ..Default::default() },
            ],
            ips: vec![IpConfig {
                address: "10.244.0.5/24".parse().unwrap(),
                gateway: Some("10.244.0.1".parse().unwrap()),
                interface: Some(1),
            }],
            routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some("10.244.0.1".parse().unwrap()) }],
            dns: Dns::default(),
        };
        let text = serde_json::to_string(&result).unwrap();
        let expected = concat!(
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"isov1","mac":"02:00:00:00:00:01","mtu":1500},"#,
            r#"{"name":"eth0","sandbox":"/run/netns/a"}],"#,
            r#""ips":[{"address":"10.244.0.5/24","gateway":"10.244.0.1","interface":1}],"#,
            r#""routes":[{"dst":"0.0.0.0/0","gw":"10.244.0.1"}]}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<AddResult>(&text).unwrap(), result);
        assert_eq!(result.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.244.0.5"]);
    }
}

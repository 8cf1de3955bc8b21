//! What our things in the kernel are called, so that they can be told from everybody else's.

use serde::{Deserialize, Serialize};

/// Names of one node's network objects. Two nodes in one network namespace need two sets of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The bridge that holds the node's address in the pod network; at most 15 bytes.
    pub bridge: String,
    /// What the node's ends of the pods' interfaces begin with; exactly 4 bytes, so that 11 are left to tell them
    /// apart.
    pub veth_prefix: String,
    /// The nftables table.
    pub table: String,
}

impl Default for Names {
    fn default() -> Self {
        Names { bridge: "isopod0".into(), veth_prefix: "isov".into(), table: "isopod".into() }
    }
}

impl Names {
    /// The alias of the node's end of a sandbox's interface: whose it is.
    pub(crate) fn veth_alias(&self, container_id: &str, ifname: &str) -> String {
        format!("{container_id}/{ifname}")
    }

    /// The name of the node's end of a sandbox's interface: the same whenever it is asked for.
    pub(crate) fn veth(&self, container_id: &str, ifname: &str) -> String {
        let digits = fingerprint([container_id, "/", ifname].map(str::as_bytes)) & 0xfff_ffff_ffff;
        format!("{}{digits:011x}", self.veth_prefix)
    }

    /// The comment on rules that we put into tables of others.
    pub(crate) fn foreign_rule_tag(&self) -> String {
        format!("isopod {}", self.table)
    }
}

/// A 64-bit digest that is the same in every release (FNV-1a): it is compared with what an earlier process left in the
/// kernel.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_stay() {
        let names = Names::default();
        assert_eq!(names.veth("abc", "eth0"), names.veth("abc", "eth0"));
        assert_ne!(names.veth("abc", "eth0"), names.veth("abd", "eth0"));
        assert_eq!(names.veth("abc", "eth0").len(), 15);
        assert_eq!(fingerprint([&b"a"[..]]), 0xaf63_dc4c_8601_ec8c);
    }
}

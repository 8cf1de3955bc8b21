//! An address with the length of its network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address and a prefix length, such as `10.244.0.5/24`; the host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not an address with a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct AddressFault(pub String);

impl Cidr {
    /// `address` in a network of `prefix` bits; `None` when the address has fewer bits than that.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Cidr> {
        (prefix <= bits(address)).then_some(Cidr { address, prefix })
    }

    /// The network that holds `address` alone.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, prefix: bits(address) }
    }

    /// The address, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits name the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The same network with all host bits zero.
    pub fn network(&self) -> Cidr {
        Cidr { address: with_host_bits(self.address, self.prefix, false), prefix: self.prefix }
    }

    /// The highest address of the network: for IPv4 its broadcast address.
    pub fn last(&self) -> IpAddr {
        with_host_bits(self.address, self.prefix, true)
    }

    /// Whether `address` lies in this network; never across IP versions.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && with_host_bits(address, self.prefix, false) == self.network().address
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The address `offset` places above the network's first one; `None` beyond the network's end.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        let first = to_number(self.network().address);
        let address = from_number(first.checked_add(offset)?, self.address.is_ipv4())?;
        self.contains(address).then_some(address)
    }

    /// How many places `address` lies above the network's first one; `None` outside of the network.
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_number(address) - to_number(self.network().address))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = AddressFault;
    fn from_str(text: &str) -> Result<Cidr, AddressFault> {
        let fault = || AddressFault(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let canonical = prefix == "0" || !prefix.starts_with(['0', '+']);
        let prefix = prefix.parse().ok().filter(|_| canonical).ok_or_else(fault)?;
        Cidr::new(address.parse().map_err(|_| fault())?, prefix).ok_or_else(fault)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cidr, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn from_number(number: u128, is_ipv4: bool) -> Option<IpAddr> {
    match is_ipv4 {
        true => u32::try_from(number).ok().map(|number| IpAddr::V4(Ipv4Addr::from(number))),
        false => Some(IpAddr::V6(Ipv6Addr::from(number))),
    }
}

fn with_host_bits(address: IpAddr, prefix: u8, set: bool) -> IpAddr {
    let host_bits = u32::from(bits(address) - prefix);
    let mask = 1u128.checked_shl(host_bits).map_or(u128::MAX, |above| above - 1);
    let number = if set { to_number(address) | mask } else { to_number(address) & !mask };
    let family_mask = if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    from_number(number & family_mask, address.is_ipv4()).expect("masked to the family's bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_writes_what_cni_writes() {
        for text in ["10.244.0.5/24", "0.0.0.0/0", "10.0.0.1/32", "fd00::5/64", "::/0"] {
            assert_eq!(cidr(text).to_string(), text);
            assert_eq!(serde_json::to_string(&cidr(text)).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Cidr>(&format!("\"{text}\"")).unwrap(), cidr(text));
        }
        for text in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0/24", "fd00::/129", "10.0.0.1/+8", "10.0.0.1/08", "a/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn knows_its_network() {
        assert_eq!(cidr("10.244.1.5/24").network(), cidr("10.244.1.0/24"));
        assert_eq!(cidr("10.244.1.5/24").last().to_string(), "10.244.1.255");
        assert_eq!(cidr("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(cidr("fd00::5/64").last().to_string(), "fd00::ffff:ffff:ffff:ffff");
        assert!(cidr("10.244.1.5/24").contains("10.244.1.200".parse().unwrap()));
        assert!(!cidr("10.244.1.5/24").contains("10.244.2.1".parse().unwrap()));
        assert!(!cidr("::/0").contains("10.244.2.1".parse().unwrap()));
        assert!(
            cidr("10.0.0.0/8").overlaps(&cidr("10.244.0.0/24")) && cidr("10.244.0.0/24").overlaps(&cidr("10.0.0.0/8"))
        );
        assert!(!cidr("10.0.0.0/24").overlaps(&cidr("10.0.1.0/24")));
    }

    #[test]
    fn counts_addresses_from_the_first() {
        assert_eq!(cidr("10.244.1.5/24").nth(1).unwrap().to_string(), "10.244.1.1");
        assert_eq!(cidr("10.244.1.0/24").nth(256), None);
        assert_eq!(cidr("255.255.255.0/24").nth(256), None);
        assert_eq!(cidr("10.244.1.0/24").offset_of("10.244.1.9".parse().unwrap()), Some(9));
        assert_eq!(cidr("10.244.1.0/24").offset_of("10.244.2.9".parse().unwrap()), None);
    }
}

//! Looks whether the machine can run a cluster, and lists everything that is missing at once.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use cni::Cidr;

use crate::machine::Settings;

/// What is missing, each with what to do about it.
pub fn missing(settings: &Settings) -> Vec<String> {
    let mut missing = Vec::new();
    for address in settings.served.api.iter().chain(&settings.served.agent) {
        // The node's own address in the pod network may not be there before the first start.
        if let Err(error) = TcpListener::bind(address)
            && error.kind() != std::io::ErrorKind::AddrNotAvailable
        {
            missing.push(format!("port: {address}: {error}"));
        }
    }
    missing.extend(taken_ranges(settings));
    missing
}

/// What the machine lacks for any cluster. `holder` is the process that uses this very data folder already.
pub fn missing_of_machine(holder: Option<i32>) -> Vec<String> {
    if let Some(pid) = holder {
        return vec![format!("the data folder: process {pid} runs a cluster on it already")];
    }
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root: run isopod as root, it makes namespaces, mounts and interfaces".into());
    }
    for (what, path) in [
        ("control groups", "/sys/fs/cgroup"),
        ("network namespaces", "/proc/self/ns/net"),
        ("process namespaces", "/proc/self/ns/pid"),
        ("seccomp filters", "/proc/sys/kernel/seccomp/actions_avail"),
    ] {
        if !Path::new(path).exists() {
            missing.push(format!("{what}: the kernel does not show {path}"));
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.split_whitespace().any(|name| name == "overlay") && !module_exists("overlay") {
        missing.push("overlayfs: the kernel has no file system `overlay`".into());
    }
    if let Err(why) = cgroup_controllers() {
        missing.push(why);
    }
    missing
}

/// A module that could be loaded counts: the kernel loads file systems by itself at their first mount.
fn module_exists(name: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = std::fs::read_to_string(format!("/lib/modules/{}/modules.dep", release.trim())).unwrap_or_default();
    list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&format!("/{name}.ko"))))
}

fn cgroup_controllers() -> Result<(), String> {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let absent: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|controller| {
            let split = Path::new("/sys/fs/cgroup").join(controller).is_dir();
            !split && !unified.split_whitespace().any(|name| name == *controller)
        })
        .collect();
    if absent.is_empty() { Ok(()) } else { Err(format!("control groups: no controller for {}", absent.join(", "))) }
}

/// Ranges that the machine's routes use for something else.
fn taken_ranges(settings: &Settings) -> Vec<String> {
    let mut taken = Vec::new();
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    for line in routes.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(interface), Some(address), Some(mask)) = (fields.first(), hex(fields.get(1)), hex(fields.get(7)))
        else {
            continue;
        };
        // `*` is a route that refuses: ours for addresses that no pod has, left by an earlier run.
        let ours = *interface == settings.names.bridge || interface.starts_with(&settings.names.veth_prefix);
        if ours || *interface == "*" || mask == 0 {
            continue;
        }
        let Some(route) =
            Cidr::new(Ipv4Addr::from(address.to_be()).into(), u8::try_from(mask.count_ones()).unwrap_or(32))
        else {
            continue;
        };
        for (what, range) in [("pods", settings.pod_cidr), ("Services", settings.service_cidr)] {
            if range.overlaps(&route) {
                taken.push(format!(
                    "addresses: the range of {what} {range} is used by a route through {interface} ({route})"
                ));
            }
        }
    }
    taken
}

fn hex(field: Option<&&str>) -> Option<u32> {
    u32::from_str_radix(field?, 16).ok()
}

/// Where is listened: loopback, the node's own address in the pod network, and what a user names. Who listens everywhere need
/// not, and cannot, listen anywhere else.
pub fn listen_addresses(gateway: std::net::IpAddr, port: u16, more: &[std::net::IpAddr]) -> Vec<SocketAddr> {
    if let Some(everywhere) = more.iter().find(|address| address.is_unspecified()) {
        return vec![SocketAddr::new(*everywhere, port)];
    }
    let mut addresses = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), SocketAddr::new(gateway, port)];
    for address in more {
        if !addresses.iter().any(|present| present.ip() == *address) {
            addresses.push(SocketAddr::new(*address, port));
        }
    }
    addresses
}

//! Capabilities by name, and which of them a process gets. Pure.

use cri::{Capability, LinuxContainerSecurityContext};
use shim::spec::Privileges;

/// All capabilities; a name's place is its number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets when nobody says otherwise: containerd's list.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability there is a name for.
const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of the capability called `name`, with or without `CAP_`, in any case.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|number| 1 << number)
}

fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, String> {
    names.into_iter().filter(|name| !name.eq_ignore_ascii_case("ALL")).try_fold(0, |bits, name| {
        bit(name)
            .map(|bit| bits | bit)
            .ok_or_else(|| format!("unknown capability \"CAP_{}\"", name.to_ascii_uppercase()))
    })
}

fn says_all(names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("ALL"))
}

fn granted(capability: &Capability) -> Result<u64, String> {
    let (add, drop) = (&capability.add_capabilities, &capability.drop_capabilities);
    let mut set = bits(DEFAULT)?;
    if says_all(add) {
        set = ALL;
    }
    if says_all(drop) {
        set = 0;
    }
    set |= bits(add.iter().map(String::as_str))?;
    Ok(set & !bits(drop.iter().map(String::as_str))?)
}

/// The capabilities of a container's processes; filters are not part of this.
pub(crate) fn privileges(security: &LinuxContainerSecurityContext) -> Result<Privileges, String> {
    let set = if security.privileged { ALL } else { granted(&security.capabilities)? };
    let ambient = bits(security.capabilities.add_ambient_capabilities.iter().map(String::as_str))?;
    Ok(Privileges {
        bounding: set | ambient,
        effective: set | ambient,
        inheritable: ambient,
        ambient,
        no_new_privs: security.no_new_privs,
        seccomp: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: Result<&[&str], &str>) {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let capability = Capability {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            add_ambient_capabilities: vec![],
        };
        let expected = expected.map(|names| bits(names.iter().copied()).unwrap()).map_err(str::to_owned);
        assert_eq!(granted(&capability), expected, "{add:?} {drop:?}");
    }

    #[test]
    fn additions_and_removals_combine_as_in_containerd() {
        check(&[], &[], Ok(&DEFAULT));
        check(&["NET_ADMIN"], &["ALL"], Ok(&["NET_ADMIN"]));
        check(&["CAP_net_admin"], &["ALL"], Ok(&["NET_ADMIN"]));
        check(&["ALL"], &[], Ok(&NAMES));
        check(&[], &["all"], Ok(&[]));
        check(&["KILL", "CHOWN"], &["ALL", "KILL"], Ok(&["CHOWN"]));
        check(&["FLY"], &[], Err("unknown capability \"CAP_FLY\""));
    }
}

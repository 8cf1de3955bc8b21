//! Files that the runtime makes for pods: names, resolver, sources of mounts.

use std::fmt::Write;
use std::io;
use std::path::Path;

use cri::{DnsConfig, Mount, MountPropagation};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// The names of a pod's files and where containers see them.
pub(super) const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

/// The content of a pod's `/etc/resolv.conf`.
fn resolver(dns: &DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |name: &str, values: &str| {
        if !values.is_empty() {
            writeln!(text, "{name} {values}").expect("writing to a string cannot fail");
        }
    };
    line("search", &dns.searches.join(" "));
    dns.servers.iter().for_each(|server| line("nameserver", server));
    line("options", &dns.options.join(" "));
    text
}

/// Writes a pod's files into a folder.
pub(super) fn write(folder: &Path, hostname: &str, dns: Option<&DnsConfig>) -> io::Result<()> {
    let of_host = |path: &str| match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        content => content,
    };
    let resolver = match dns {
        Some(dns) => resolver(dns).into_bytes(),
        None => of_host("/etc/resolv.conf")?,
    };
    let contents = [format!("{hostname}\n").into_bytes(), of_host("/etc/hosts")?, resolver];
    for ((name, _), content) in FILES.iter().zip(contents) {
        std::fs::write(folder.join(name), content)?;
        // Whatever this process's mask: everybody inside reads these.
        std::fs::set_permissions(folder.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

/// Makes what a mount shows when it does not exist, as upstream's runtimes do.
pub(super) fn prepare_mount(mount: &Mount) -> io::Result<()> {
    if !Path::new(&mount.host_path).exists() {
        std::fs::create_dir_all(&mount.host_path)?;
    }
    check_propagation(mount)?;
    if mount.sub_path.is_empty() {
        return Ok(());
    }
    cri::beneath::made(Path::new(&mount.host_path), Path::new(&mount.sub_path)).map(drop)
}

/// Refuses what could not be seen on the other side, in containerd's words.
fn check_propagation(mount: &Mount) -> io::Result<()> {
    let (wanted, what): (&[&str], &str) = match mount.propagation {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => (&["shared:", "master:"], "shared or slave"),
        MountPropagation::Bidirectional => (&["shared:"], "shared"),
    };
    let id = statx(CWD, &mount.host_path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id.to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id)).unwrap_or_default();
    let optional = line.split(' ').skip(6).take_while(|word| *word != "-");
    if optional.into_iter().any(|word| wanted.iter().any(|prefix| word.starts_with(prefix))) {
        return Ok(());
    }
    let point = line.split(' ').nth(4).unwrap_or_default();
    let path = &mount.host_path;
    Err(io::Error::other(format!("path {path:?} is mounted on {point:?} but it is not a {what} mount")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_files_have_containerds_order() {
        let words = |words: &str| words.split_whitespace().map(str::to_owned).collect();
        let dns = DnsConfig { servers: words("10.0.0.1 10.0.0.2"), searches: words("a b"), options: words("ndots:5") };
        assert_eq!(resolver(&dns), "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n");
        assert_eq!(resolver(&DnsConfig::default()), "");
    }

    #[test]
    fn sub_paths_never_leave_their_volume() {
        let folder = std::env::temp_dir().join(format!("isopod-test-subpath-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("volume/inside")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("volume/out")).unwrap();
        std::os::unix::fs::symlink("inside", folder.join("volume/in")).unwrap();
        let prepare = |sub_path: &str| {
            let host_path = folder.join("volume").to_string_lossy().into_owned();
            prepare_mount(&Mount { host_path, sub_path: sub_path.into(), ..Mount::default() })
        };
        assert!(prepare("a/b").is_ok() && folder.join("volume/a/b").is_dir());
        assert!(prepare("in/c").is_ok() && folder.join("volume/inside/c").is_dir());
        for outside in ["out/d", "../d", "/d", "a/../../d"] {
            assert!(prepare(outside).is_err(), "{outside}");
        }
        assert!(!folder.join("d").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

//! Where a cluster keeps what.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The folder of the default cluster's data.
const DEFAULT_DATA: &str = "/var/lib/isopod";

/// The folders of one cluster. Each data folder has its own set, so that several clusters can live on a machine.
#[derive(Clone, Debug)]
pub struct Paths {
    data: PathBuf,
    run: PathBuf,
    keys: PathBuf,
    cgroup: String,
}

impl Paths {
    /// The folders that go with a data folder.
    pub fn new(data: &Path) -> anyhow::Result<Paths> {
        let data = std::path::absolute(data).with_context(|| format!("resolve {}", data.display()))?;
        let suffix = if data == Path::new(DEFAULT_DATA) { String::new() } else { format!("-{:08x}", digest(&data)) };
        Ok(Paths {
            data,
            run: PathBuf::from(format!("/run/isopod{suffix}")),
            keys: PathBuf::from(format!("/etc/isopod{suffix}")),
            cgroup: format!("kubepods{suffix}"),
        })
    }

    /// Makes the folders; only root may look into them.
    pub fn create(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let own = [&self.data, &self.run, &self.keys].map(PathBuf::clone);
        let inside = [
            self.store(),
            self.runtime(),
            self.runtime_state(),
            self.network_state(),
            self.pods(),
            self.pods_volatile(),
        ];
        for folder in own.into_iter().chain(inside) {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(())
    }

    /// Everything that outlives a reboot.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Everything that a reboot forgets.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The key that seals secrets at rest: apart from the data and its backups.
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// The control group of each hierarchy below which this cluster's pods are, and no other cluster's.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// Who vouches for the cluster that this machine has joined.
    pub fn authority(&self) -> PathBuf {
        self.pki().join("ca.crt")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub fn runtime(&self) -> PathBuf {
        self.data.join("runtime")
    }

    pub fn runtime_state(&self) -> PathBuf {
        self.run.join("runtime")
    }

    pub fn network_state(&self) -> PathBuf {
        self.run.join("network")
    }

    pub fn pods(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    pub fn pods_volatile(&self) -> PathBuf {
        self.run.join("kubelet")
    }

    pub fn logs(&self) -> PathBuf {
        self.data.join("log/pods")
    }

    pub fn dataplane_socket(&self) -> PathBuf {
        self.run.join("dataplane.sock")
    }

    /// Survives reboots, so that names resolve before a control plane is back.
    pub fn dataplane_checkpoint(&self) -> PathBuf {
        self.data.join("dataplane.checkpoint")
    }

    /// What `up` was told, for `down`.
    pub fn settings(&self) -> PathBuf {
        self.data.join("settings.json")
    }
}

/// A digest that is the same in every release (FNV-1a).
fn digest(path: &Path) -> u32 {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5, |digest, byte| (digest ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

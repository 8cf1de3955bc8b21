//! The pod network for runtimes that are programs of their own: its configuration and the wrappers in CNI's folders, and
//! this binary as the plugin that they lead to.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::cni::plugin::{self, Invocation, PluginConfig};
use ::cni::{Cidr, CniError, Code, Network};
use anyhow::Context as _;
use net::Names;
use net::bridge::{BridgeNetwork, BridgeOptions};
use net::loopback::Loopback;
use rustix::fs::FlockOperation;
use serde::Deserialize;
use serde_json::json;

use crate::machine::Settings;
use crate::paths::Paths;

/// Our configuration among those of the folder.
const CONFIGURATION: &str = "10-isopod.conflist";
/// Names by which runtimes call us: ours, and one that they want besides every network.
const PLUGINS: [&str; 2] = ["isopod", "loopback"];
/// The longest configuration.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;

/// CNI's two folders.
#[derive(Clone, Debug)]
pub struct Folders {
    pub configurations: PathBuf,
    pub programs: PathBuf,
}

impl Folders {
    /// The configuration that runtimes go by, unless it is ours.
    fn foreign(&self) -> anyhow::Result<Option<PathBuf>> {
        let entries = match std::fs::read_dir(&self.configurations) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            entries => entries.with_context(|| format!("list {}", self.configurations.display()))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let counts = path.extension().is_some_and(|end| end == "conf" || end == "conflist" || end == "json");
            if counts && !path.ends_with(CONFIGURATION) {
                found.push(path);
            }
        }
        Ok(found.into_iter().min())
    }

    /// Puts configuration and wrappers in place. A configuration of somebody else's wins and turns ours off.
    pub fn install(&self, settings: &Settings, paths: &Paths) -> anyhow::Result<()> {
        if let Some(foreign) = self.foreign()? {
            tracing::info!(configuration = %foreign.display(), "pods are in the network that others configured");
            return self.remove();
        }
        let program = std::env::current_exe().context("find this program")?;
        for folder in [&self.configurations, &self.programs] {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        for name in PLUGINS {
            self.link(name, &program)?;
        }
        let text = configuration(settings, &paths.network_state());
        write_whole(&self.configurations.join(CONFIGURATION), &text)
    }

    /// Leads a name to this program, unless another program has it.
    fn link(&self, name: &str, program: &Path) -> anyhow::Result<()> {
        let link = self.programs.join(name);
        match std::fs::read_link(&link) {
            Ok(target) if target == program => return Ok(()),
            Ok(_) if name == PLUGINS[0] => {
                std::fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
            }
            _ if link.exists() => return Ok(()),
            // One that leads nowhere.
            Ok(_) => std::fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?,
            Err(_) => {}
        }
        std::os::unix::fs::symlink(program, &link).with_context(|| format!("link {}", link.display()))
    }

    /// Takes the configuration away, and the wrapper of our own name.
    pub fn remove(&self) -> anyhow::Result<()> {
        for path in [self.configurations.join(CONFIGURATION), self.programs.join(PLUGINS[0])] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Our network in CNI's words. Older runtimes take the first version, newer ones the highest they know.
fn configuration(settings: &Settings, state: &Path) -> String {
    let text = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "isopod",
        "plugins": [{
            "type": PLUGINS[0],
            "podCIDR": settings.pod_cidr.to_string(),
            "serviceCIDR": settings.service_cidr.to_string(),
            "stateDirectory": state.display().to_string(),
            "capabilities": {"portMappings": true},
        }],
    });
    format!("{text:#}\n")
}

/// Writes a file whole or not at all, and only when that changes it: runtimes watch the folder.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
}

/// What our configuration says besides what every plugin is told.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfOurs {
    #[serde(rename = "podCIDR")]
    pod_cidr: Cidr,
    #[serde(rename = "serviceCIDR")]
    service_cidr: Cidr,
    state_directory: PathBuf,
}

/// How this process was called, when as a plugin.
pub fn called() -> Option<Invocation> {
    // Only without arguments: a variable that is left over somewhere makes no plugin of a command.
    let bare = std::env::args_os().len() == 1;
    bare.then(|| Invocation::read(|name| std::env::var(name).ok())).flatten()
}

/// Does what a plugin is called for.
pub fn plugin(invocation: &Invocation) -> ExitCode {
    let mut text = Vec::new();
    let read = std::io::stdin().take(CONFIGURATION_BYTES_MAX).read_to_end(&mut text);
    let config = match read {
        Ok(_) => PluginConfig::read(&text),
        Err(error) => Err(CniError::because(Code::Io, "error reading network configuration", error)),
    };
    let version = config.as_ref().map_or("1.0.0".to_owned(), |config| config.cni_version.clone());
    let answer = config.and_then(|config| answer(invocation, &config, &text));
    let (printed, code) = match answer {
        Ok(printed) => (printed, ExitCode::SUCCESS),
        Err(error) => (Some(plugin::refusal(&error, &version)), ExitCode::FAILURE),
    };
    match printed.map(|value| writeln!(std::io::stdout(), "{value}")) {
        Some(Err(_)) => ExitCode::FAILURE,
        _ => code,
    }
}

fn answer(invocation: &Invocation, config: &PluginConfig, text: &[u8]) -> Result<Option<serde_json::Value>, CniError> {
    if invocation.command == "VERSION" {
        return Ok(Some(plugin::versions(&config.cni_version)));
    }
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let threads = threads.map_err(|error| CniError::because(Code::Io, "start", error))?;
    threads.block_on(async {
        if config.kind == PLUGINS[1] {
            return plugin::answer(invocation, config, &Loopback).await;
        }
        let ours: OfOurs = serde_json::from_slice(text)
            .map_err(|error| CniError::because(Code::InvalidConfiguration, "invalid network configuration", error))?;
        // The parts of a node's network are changed by one at a time; in one process a thread of its own sees to that.
        let _turn = turn(&ours.state_directory)?;
        let network = bridge(ours).await?;
        plugin::answer(invocation, config, &network as &dyn Network).await
    })
}

/// A lock among the processes that are plugins of one node.
pub fn turn(folder: &Path) -> Result<std::fs::File, CniError> {
    let failed = |error| CniError::because(Code::Io, "wait for other calls of the plugin", error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(folder.join("plugin.lock"));
    let file = file.map_err(failed)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|error| failed(error.into()))?;
    Ok(file)
}

async fn bridge(ours: OfOurs) -> Result<BridgeNetwork, CniError> {
    let options = BridgeOptions {
        names: Names::default(),
        pod_cidr: ours.pod_cidr,
        service_cidrs: vec![ours.service_cidr],
        mtu: None,
        state_directory: ours.state_directory,
        netns: None,
    };
    let started = BridgeNetwork::start(options).await;
    started.map_err(|error| CniError::because(Code::NotAvailable, "prepare the node's pod network", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_others_wins() {
        let folder = std::env::temp_dir().join(format!("isopod-cni-folders-{}", std::process::id()));
        let folders = Folders { configurations: folder.join("net.d"), programs: folder.join("bin") };
        assert_eq!(folders.foreign().unwrap(), None, "there is no folder yet");
        std::fs::create_dir_all(&folders.configurations).unwrap();
        for name in [CONFIGURATION, "notes.txt"] {
            std::fs::write(folders.configurations.join(name), "{}").unwrap();
        }
        assert_eq!(folders.foreign().unwrap(), None);
        for name in ["99-other.conf", "20-calico.conflist"] {
            std::fs::write(folders.configurations.join(name), "{}").unwrap();
        }
        assert_eq!(folders.foreign().unwrap(), Some(folders.configurations.join("20-calico.conflist")));
        folders.remove().unwrap();
        folders.remove().unwrap();
        assert!(!folders.configurations.join(CONFIGURATION).exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_name_that_another_program_has_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("isopod-cni-links-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folders = Folders { configurations: folder.clone(), programs: folder.clone() };
        std::fs::write(folder.join("loopback"), "theirs").unwrap();
        std::os::unix::fs::symlink("/nonexistent/isopod", folder.join("isopod")).unwrap();
        for name in PLUGINS {
            folders.link(name, Path::new("/proc/self/exe")).unwrap();
        }
        assert_eq!(std::fs::read_to_string(folder.join("loopback")).unwrap(), "theirs");
        assert_eq!(std::fs::read_link(folder.join("isopod")).unwrap(), Path::new("/proc/self/exe"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

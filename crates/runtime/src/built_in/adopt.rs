//! Taking over what an earlier life of the runtime left: running sandboxes go on, remains are removed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cri::{Error, Result};
use shim::message::{Report, State};

use super::container::{SPEC, has_ended, last_report};
use super::sandbox::{erase_folder, make_folder};
use super::{BuiltIn, Container, Inner, RuntimeOptions, Sandbox, failed, lock};
use crate::cgroup::Cgroups;
use crate::record::{self, ContainerRecord, SandboxRecord};
use crate::supervisor::{Launcher, Supervisor};

impl BuiltIn {
    /// Opens a runtime on its folders. What runs there goes on; what was left half made or half removed is listed as
    /// not ready, to be removed by the caller, or removed now when nothing names it any more.
    pub async fn open(options: RuntimeOptions) -> Result<BuiltIn> {
        let cgroups = Cgroups::detect(&options.cgroup_root).map_err(super::group_failed)?;
        make_folder(&options.state_dir.join("sandboxes")).map_err(failed("create state folder"))?;
        for name in ["containers", "sandboxes"] {
            make_folder(&options.root_dir.join(name)).map_err(failed("create data folder"))?;
        }
        let inner = Arc::new(Inner {
            cgroups,
            launcher: Launcher::new().map_err(failed("prepare pod supervisor"))?,
            events: cri::EventSender::default(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            tasks: stdx::TaskTree::default(),
            options,
        });
        inner.clone().adopt_all().await?;
        inner.gc().await?;
        Ok(BuiltIn { inner })
    }

    /// Removes what belongs to no sandbox or container: after a crash in the middle, or a restart of the machine.
    pub async fn gc(&self) -> Result<()> {
        self.inner.gc().await
    }
}

/// The names in `folder`.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(failed("list folder"))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().map_err(failed("list folder"))
}

impl Inner {
    async fn adopt_all(self: Arc<Self>) -> Result<()> {
        let sandboxes = self.options.state_dir.join("sandboxes");
        for id in names(&sandboxes)? {
            let folder = sandboxes.join(&id);
            match record::read::<SandboxRecord>(&folder) {
                Ok(record) if record.id == id => self.adopt(Sandbox::new(folder, record)).await?,
                // The record is the first thing that is made and the last that goes: without it there is nothing else.
                Ok(_) | Err(_) => erase_folder(&folder).map_err(failed("remove remains of sandbox"))?,
            }
        }
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, sandbox: Arc<Sandbox>) -> Result<()> {
        lock(&self.sandboxes).insert(sandbox.id.clone(), sandbox.clone());
        let mut found = Vec::new();
        for id in names(&sandbox.folder)? {
            let Ok(record) = record::read::<ContainerRecord>(&sandbox.folder.join(&id)) else { continue };
            let container = Container::new(sandbox.clone(), record, None);
            // Known before anybody listens: an end that is announced meanwhile is announced once.
            lock(&self.containers).insert(container.id.clone(), container.clone());
            found.push(container);
        }
        let (supervised, heard) = self.reconnect(&sandbox).await;
        let mut reports: BTreeMap<String, Report> =
            heard.into_iter().map(|report| (report.container.clone(), report)).collect();
        for container in found {
            let heard = reports.remove(&container.id);
            self.adopt_container(&sandbox, &container, heard, supervised);
            // What it needs to start is written last: without it, it was never answered to anybody.
            if !container.folder().join(SPEC).exists() {
                self.erase_container(&container).await?;
            }
        }
        if !supervised {
            lock(&sandbox.record).ready = false;
        }
        Ok(())
    }

    /// Connects to a sandbox's supervisor; answers whether there is one, and what it says of its containers.
    async fn reconnect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> (bool, Vec<Report>) {
        let Ok(supervisor) = Supervisor::connect(&sandbox.folder) else { return (false, Vec::new()) };
        self.supervise(sandbox, supervisor.clone());
        match supervisor.hello().await {
            Ok(reports) => (true, reports),
            Err(error) => {
                // One pod must not keep the others from being found: this one counts as lost.
                tracing::warn!(sandbox = sandbox.id, error = %super::sandbox::chain(&error), "greet pod supervisor");
                (false, Vec::new())
            }
        }
    }

    fn adopt_container(&self, sandbox: &Sandbox, container: &Arc<Container>, heard: Option<Report>, supervised: bool) {
        let report = heard.or_else(|| last_report(container));
        // One that never came to its start is as good as just made.
        let started = report.filter(|report| report.state != State::Created);
        // An announcement of its end is the newer one.
        container.report.send_if_modified(|known| {
            let newer = !has_ended(known);
            if newer {
                *known = started;
            }
            newer
        });
        if !supervised || sandbox.supervisor.borrow().is_none() {
            self.lose_container(container);
        }
    }

    async fn gc(&self) -> Result<()> {
        let containers = self.options.root_dir.join("containers");
        for id in names(&containers)? {
            if !lock(&self.containers).contains_key(&id) {
                std::fs::remove_dir_all(containers.join(&id)).map_err(failed("remove remains of container"))?;
            }
        }
        let sandboxes = self.options.root_dir.join("sandboxes");
        for id in names(&sandboxes)? {
            if !lock(&self.sandboxes).contains_key(&id) {
                std::fs::remove_dir_all(sandboxes.join(&id)).map_err(failed("remove remains of sandbox"))?;
            }
        }
        let known = lock(&self.containers).keys().cloned().collect();
        self.options.images.retain(&known)?;
        let valid = lock(&self.sandboxes).keys().cloned().collect();
        let outcome = self.options.network.gc(&cni::GcRequest { valid }).await;
        outcome
            .map_err(|error| Error::Internal(format!("collect remains of networks: {}", super::sandbox::chain(&error))))
    }
}

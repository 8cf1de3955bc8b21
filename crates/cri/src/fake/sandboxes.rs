//! The fake's sandboxes.

use std::net::{IpAddr, Ipv4Addr};

use super::{FakeRuntime, FakeSandbox, now};
use crate::error::{Error, Result};
use crate::event::ContainerEventType;
use crate::sandbox::{
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use crate::security::NamespaceMode;

impl FakeRuntime {
    pub(super) async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        self.call("run_pod_sandbox", &config.metadata.name)?;
        let id = {
            let mut world = self.lock();
            let twin = world.sandboxes.iter().find(|(_, sandbox)| sandbox.config.metadata == config.metadata);
            if let Some((id, _)) = twin.filter(|_| !config.metadata.uid.is_empty()) {
                return Err(Error::AlreadyExists { what: "sandbox", id: id.clone() });
            }
            world.next += 1;
            let number = world.next;
            let id = format!("sandbox-{number:04}");
            let sandbox = FakeSandbox { config, state: PodSandboxState::Ready, created_at: now(), number };
            world.sandboxes.insert(id.clone(), sandbox);
            id
        };
        self.announce(&id, &id, ContainerEventType::Started);
        Ok(id)
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.call("stop_pod_sandbox", id)?;
        self.kill_all(id);
        let was_ready = match self.lock().sandboxes.get_mut(id) {
            Some(sandbox) => std::mem::take(&mut sandbox.state) == PodSandboxState::Ready,
            None => false,
        };
        if was_ready {
            self.announce(id, id, ContainerEventType::Stopped);
        }
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.call("remove_pod_sandbox", id)?;
        self.kill_all(id);
        self.lock().containers.retain(|_, container| container.sandbox_id != id);
        if self.lock().sandboxes.contains_key(id) {
            self.announce(id, id, ContainerEventType::Deleted);
            self.lock().sandboxes.remove(id);
        }
        Ok(())
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let world = self.lock();
        let sandbox = world.sandboxes.get(id).ok_or_else(|| Error::no_sandbox(id))?;
        Ok(status(id, sandbox))
    }

    pub(super) fn sandboxes(&self, filter: &PodSandboxFilter) -> Vec<PodSandbox> {
        let world = self.lock();
        world
            .sandboxes
            .iter()
            .map(|(id, sandbox)| PodSandbox::from(&status(id, sandbox)))
            .filter(|sandbox| filter.matches(sandbox))
            .collect()
    }
}

fn status(id: &str, sandbox: &FakeSandbox) -> PodSandboxStatus {
    let namespaces = sandbox.config.linux.security_context.namespace_options.clone();
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + sandbox.number));
    let ip = (namespaces.network != NamespaceMode::Node && sandbox.state == PodSandboxState::Ready).then_some(address);
    PodSandboxStatus {
        id: id.to_owned(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox.state,
        created_at: sandbox.created_at,
        network: PodSandboxNetworkStatus { ip, additional_ips: vec![] },
        namespaces,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: String::new(),
    }
}

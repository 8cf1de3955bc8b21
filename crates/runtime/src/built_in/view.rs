//! From what is known of a container or sandbox to CRI's status. Pure.

use cri::{
    ContainerExit, ContainerState, ContainerStatus, ContainerTimes, ContainerUser, LinuxContainerStatus, NamespaceMode,
    PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};
use shim::message::{Report, State};

use crate::record::{ContainerRecord, SandboxRecord};

/// A container's status. `report` is its supervisor's last word.
pub(super) fn container(record: &ContainerRecord, report: Option<&Report>) -> ContainerStatus {
    let config = &record.config;
    let report = report.cloned().unwrap_or_default();
    let state = match (&record.ending, report.state) {
        (Some(_), _) | (None, State::Exited) => ContainerState::Exited,
        (None, State::Running) => ContainerState::Running,
        (None, State::Created) => ContainerState::Created,
    };
    let finished_at = record.ending.as_ref().map_or(report.finished_at, |ending| ending.finished_at);
    ContainerStatus {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: config.metadata.clone(),
        state,
        times: ContainerTimes { created_at: record.created_at, started_at: report.started_at, finished_at },
        exit: exit(record, &report, state),
        image: record.image.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log_path.clone(),
        linux: LinuxContainerStatus {
            resources: config.linux.resources.clone(),
            user: user(&report, state),
            stop_signal: config.linux.stop_signal.clone(),
            pid: (state == ContainerState::Running).then_some(report.pid),
        },
    }
}

fn exit(record: &ContainerRecord, report: &Report, state: ContainerState) -> ContainerExit {
    if let Some(ending) = &record.ending {
        let (reason, message) = (ending.reason.clone(), ending.message.clone());
        return ContainerExit { exit_code: ending.exit_code, reason, message };
    }
    if state != ContainerState::Exited {
        return ContainerExit::default();
    }
    let reason = match (report.oom_kills, report.code) {
        (1.., _) => "OOMKilled",
        (0, 0) => "Completed",
        (0, _) => "Error",
    };
    ContainerExit { exit_code: report.code, reason: reason.to_owned(), message: String::new() }
}

fn user(report: &Report, state: ContainerState) -> Option<ContainerUser> {
    if state == ContainerState::Created || report.started_at == 0 {
        return None;
    }
    Some(ContainerUser {
        uid: i64::from(report.identity.uid),
        gid: i64::from(report.identity.gid),
        supplemental_groups: report.identity.groups.iter().copied().map(i64::from).collect(),
    })
}

/// A sandbox's status.
pub(super) fn sandbox(record: &SandboxRecord, ready: bool) -> PodSandboxStatus {
    let namespaces = record.config.linux.security_context.namespace_options.clone();
    let shown = ready && namespaces.network != NamespaceMode::Node;
    let mut addresses = record.addresses.iter().copied().filter(|_| shown);
    PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        created_at: record.created_at,
        network: PodSandboxNetworkStatus { ip: addresses.next(), additional_ips: addresses.collect() },
        namespaces,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.config.runtime_handler.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Ending;

    fn check(ending: Option<Ending>, report: Option<Report>, state: ContainerState, code: i32, reason: &str) {
        let record = ContainerRecord { ending, ..ContainerRecord::default() };
        let status = container(&record, report.as_ref());
        assert_eq!((status.state, status.exit.exit_code, status.exit.reason.as_str()), (state, code, reason));
    }

    #[test]
    fn ends_have_upstreams_reasons() {
        let exited = |code, oom_kills| Some(Report { state: State::Exited, code, oom_kills, ..Report::default() });
        check(None, None, ContainerState::Created, 0, "");
        let running = Some(Report { state: State::Running, ..Report::default() });
        check(None, running.clone(), ContainerState::Running, 0, "");
        check(None, exited(0, 0), ContainerState::Exited, 0, "Completed");
        check(None, exited(3, 0), ContainerState::Exited, 3, "Error");
        check(None, exited(137, 1), ContainerState::Exited, 137, "OOMKilled");
        let lost = Ending { exit_code: 255, reason: "Unknown".into(), ..Ending::default() };
        check(Some(lost), running, ContainerState::Exited, 255, "Unknown");
    }
}

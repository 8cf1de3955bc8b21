//! From CRI's configuration of a container to what its supervisor is told. Pure.

pub(crate) mod capabilities;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod seccomp;
mod syscalls;

use cri::{ContainerConfig, Error, LinuxContainerSecurityContext, NamespaceMode, SecurityProfile};
use shim::VERSION;
use shim::spec::{
    CgroupSpec, ContainerSpec, DeviceSpec, IoSpec, PidMode, Privileges, ProcessSpec, Rlimit, RootSpec, Users,
};

use crate::built_in::OpenFiles;
use crate::source::ImageConfig;

/// What the runtime has prepared for a container.
#[derive(Clone, Debug)]
pub(crate) struct Prepared<'a> {
    /// Its image's configuration.
    pub(crate) image: &'a ImageConfig,
    /// The pod's host name.
    pub(crate) hostname: &'a str,
    /// Its root file system.
    pub(crate) root: RootSpec,
    /// Its control groups.
    pub(crate) cgroup: CgroupSpec,
    /// Its mounts.
    pub(crate) mounts: Vec<shim::spec::MountSpec>,
    /// Devices of the host that it was given.
    pub(crate) devices: Vec<DeviceSpec>,
    /// How many files it may have open; `None` for as many as its supervisor.
    pub(crate) open_files: Option<OpenFiles>,
    /// The users that its pod has of its own.
    pub(crate) users: Users,
    /// Its log file; empty for none.
    pub(crate) log_path: String,
    /// The process whose process namespace it joins, when it asks for another container's.
    pub(crate) pid_target: Option<u32>,
    /// The text of the system call profile that it names.
    pub(crate) seccomp_profile: Option<String>,
}

/// The specification of a container.
pub(crate) fn container(config: &ContainerConfig, prepared: Prepared<'_>) -> cri::Result<ContainerSpec> {
    let security = &config.linux.security_context;
    let args = process::arguments(config, prepared.image);
    if args.is_empty() {
        return Err(Error::InvalidArgument("no command specified".into()));
    }
    let process = ProcessSpec {
        version: VERSION,
        args,
        env: process::environment(config, prepared.image, prepared.hostname),
        cwd: process::cwd(config, prepared.image),
        user: process::user(security, prepared.image).map_err(Error::InvalidArgument)?,
        identity: None,
        privileges: privileges(security, prepared.seccomp_profile.as_deref())?,
        rlimits: prepared.open_files.into_iter().map(open_files).collect(),
        oom_score_adj: i32::try_from(config.linux.resources.oom_score_adj.clamp(-1000, 1000)).unwrap_or(0),
        tty: config.terminal.tty,
    };
    let mut devices = mounts::devices();
    devices.extend(prepared.devices);
    let hidden = |paths: &[String]| if security.privileged { Vec::new() } else { paths.to_vec() };
    Ok(ContainerSpec {
        version: VERSION,
        process,
        root: prepared.root,
        mounts: prepared.mounts,
        devices,
        masked_paths: hidden(&security.masked_paths),
        readonly_paths: hidden(&security.readonly_paths),
        pid: match security.namespace_options.pid {
            NamespaceMode::Container => PidMode::Own,
            NamespaceMode::Pod => PidMode::Pod,
            NamespaceMode::Node => PidMode::Host,
            NamespaceMode::Target(_) => PidMode::Target,
        },
        pid_target: prepared.pid_target.unwrap_or_default(),
        cgroup: prepared.cgroup,
        io: IoSpec {
            stdin: config.terminal.stdin,
            tty: config.terminal.tty,
            log_path: prepared.log_path,
            stdin_once: config.terminal.stdin_once,
        },
        users: prepared.users,
    })
}

/// `RLIMIT_NOFILE`, the same on every machine that this runs on.
const OPEN_FILES: u32 = 7;

fn open_files(limit: OpenFiles) -> Rlimit {
    Rlimit { resource: OPEN_FILES, soft: limit.soft, hard: limit.hard }
}

fn privileges(security: &LinuxContainerSecurityContext, profile: Option<&str>) -> cri::Result<Privileges> {
    let mut privileges = capabilities::privileges(security).map_err(Error::InvalidArgument)?;
    if let (SecurityProfile::Localhost(path), Some(text), false) = (&security.seccomp, profile, security.privileged) {
        let filter = profile::filter(text, privileges.bounding)
            .map_err(|why| Error::InvalidArgument(format!("decoding seccomp profile {path:?} failed: {why}")))?;
        privileges.seccomp = vec![filter];
    }
    if security.seccomp == SecurityProfile::RuntimeDefault && !security.privileged {
        privileges.seccomp = seccomp::runtime_default(privileges.bounding)
            .map_err(|error| Error::Internal(format!("build seccomp filter: {error}")))?;
    }
    Ok(privileges)
}

/// The first field of `config` that this runtime does not honour on a machine with or without SELinux.
pub(crate) fn unsupported(config: &ContainerConfig, selinux: bool) -> Option<Error> {
    let security = &config.linux.security_context;
    let fields = [
        (
            matches!(security.apparmor, Some(SecurityProfile::Localhost(_))),
            "linux.security_context.apparmor.localhost_ref",
        ),
        (security.selinux_options.is_some() && selinux, "linux.security_context.selinux_options"),
    ];
    let field = fields.iter().find(|(asked, _)| *asked).map(|(_, field)| (*field).to_owned());
    field.map(|field| Error::Unsupported { field })
}

//! What container processes and further ones have in common: from the fork to the program's start.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use shim::message::{FromInit, Stage};
use shim::spec::{Identity, Privileges, ProcessSpec, Users};
use shim::wire::Wire;

use crate::file::{self, During};
use crate::sys::{self, CWD, Errno, Fd};

/// Where the child finds the socket to its supervisor.
pub(crate) const SYNC: i32 = 3;
/// Where the child finds one more file that it was left.
pub(crate) const KEPT: i32 = 4;
/// Where programs are looked for when the environment does not say.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The largest `/etc/passwd` or `/etc/group` that is read.
const NAMES_BYTES_MAX: usize = 1 << 20;

/// Asks for a score of who is killed first. Without a privilege it can only be raised: then it stays as it is.
pub(crate) fn set_oom_score_adj(score: i32) {
    drop(file::write("/proc/self/oom_score_adj", score.to_string().as_bytes()));
}

/// Makes the child nobody's prey and gives it its streams. All other files of the supervisor are closed, but for `kept`,
/// which becomes [`KEPT`].
pub(crate) fn settle(streams: [i32; 3], sync: i32, kept: Option<i32>) -> Result<(), String> {
    let error = || String::from("prepare process");
    // Else a process of the container could trace this one between entering its namespaces and exec.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).during(error)?;
    // First away from where the others go: the supervisor's own standard streams are open, so no number is below 3.
    let sync = sys::dup_above(sync, KEPT + 1).during(error)?;
    let kept = kept.map(|kept| sys::dup_above(kept, KEPT + 1)).transpose().during(error)?;
    for (number, stream) in (0..).zip(streams) {
        sys::dup2(stream, number).during(error)?;
    }
    sys::dup2(sync.raw(), SYNC).during(error)?;
    let mut first = SYNC + 1;
    if let Some(kept) = &kept {
        sys::dup2(kept.raw(), KEPT).during(error)?;
        first = KEPT + 1;
    }
    drop((sync, kept));
    sys::close_from(first as u32, false).during(error)?;
    sys::setsid().during(error)
}

/// Who the process is to be, by the files of the root it sees now.
pub(crate) fn identity(process: &ProcessSpec) -> Result<Identity, String> {
    if let Some(identity) = &process.identity {
        return Ok(identity.clone());
    }
    let text =
        |path| String::from_utf8_lossy(&file::read_regular(path, NAMES_BYTES_MAX).unwrap_or_default()).into_owned();
    shim::identity::resolve(&process.user, &text("/etc/passwd"), &text("/etc/group"))
}

/// Opens a terminal, makes it the standard streams and the session's own; answers its controlling end and its number.
pub(crate) fn open_terminal() -> Result<(Fd, u32), String> {
    let error = || String::from("open terminal");
    let master = sys::open(CWD, "/dev/pts/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0).during(error)?;
    let (slave, number) = sys::terminal(master.raw()).during(error)?;
    for stream in 0..3 {
        sys::dup2(slave.raw(), stream).during(error)?;
    }
    sys::control_terminal(0).during(error)?;
    Ok((master, number))
}

/// The last steps of a process that is in its place: limits, user, privileges, gate, program. Returns only a failure.
pub(crate) fn finish(process: &ProcessSpec, identity: Identity, terminal: Option<Fd>) -> Result<(), String> {
    let privileges = &process.privileges;
    for limit in &process.rlimits {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard)
            .during(|| format!("error setting rlimit type {}", limit.resource))?;
    }
    // A keyring of the machine must not be seen; a kernel without keyrings has none to show.
    drop(sys::new_session_keyring());
    if !privileges.no_new_privs {
        // Without that flag only a privileged process may install filters, so it is done before privileges go.
        install_filters(privileges)?;
    }
    become_user(&identity, privileges)?;
    enter_cwd(&process.cwd)?;
    let environment = environment(process, &identity);
    let program = program(&process.args, &environment)?;
    if privileges.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop).during(|| "set no_new_privs".into())?;
    }
    sys::close_from(SYNC as u32, true).during(|| "close files".into())?;
    pass_gate(identity, terminal)?;
    if privileges.no_new_privs {
        install_filters(privileges)?;
    }
    sys::unblock_signals().during(|| "unblock signals".into())?;
    launch(&program, &process.args, &environment)
}

/// Tells the supervisor that all is ready and waits until it lets the program start.
fn pass_gate(identity: Identity, terminal: Option<Fd>) -> Result<(), String> {
    let ready = FromInit { stage: Stage::Ready, text: String::new(), identity }.encode();
    let files: Vec<i32> = terminal.iter().map(Fd::raw).collect();
    sys::send(SYNC, &ready, &files, 0).during(|| "tell supervisor".into())?;
    drop(terminal);
    match sys::read(SYNC, &mut [0]) {
        Ok(1) => Ok(()),
        // The supervisor is gone, or gave this process up.
        _ => sys::exit(1),
    }
}

/// Runs the program. What fails here fails after the start was acknowledged, so it goes to the container's own log, as
/// with upstream's runtimes.
fn launch(program: &str, arguments: &[String], environment: &[String]) -> Result<(), String> {
    let strings = |strings: &[String]| -> Result<Vec<CString>, String> {
        strings.iter().map(|string| sys::c_string(string).during(|| "pass argument with zero byte".into())).collect()
    };
    let errno = sys::exec(program, &strings(arguments)?, &strings(environment)?);
    drop(sys::write(2, format!("exec {program}: {errno}\n").as_bytes()));
    sys::exit(255)
}

/// Reports a failure to the supervisor and ends.
pub(crate) fn fail(text: String) -> ! {
    let failed = FromInit { stage: Stage::Failed, text, identity: Identity::default() }.encode();
    drop(sys::send(SYNC, &failed, &[], 0));
    sys::exit(1)
}

/// Gives the standard streams to the user, who could not open `/dev/stdout` and its like otherwise. Done by the machine's users.
pub(crate) fn own_streams(identity: &Identity, users: &Users) {
    for stream in 0..3 {
        if let Ok((mode, _)) = sys::stat(stream, "")
            && (mode & libc::S_IFMT == libc::S_IFIFO || sys::is_terminal(stream))
        {
            drop(sys::fchown(stream, users.first.saturating_add(identity.uid), u32::MAX));
        }
    }
}

/// Gives up every privilege, for a process that needs none.
pub(crate) fn become_nobody() -> Result<(), String> {
    const NOBODY: u32 = 65_535;
    let identity = Identity { uid: NOBODY, gid: NOBODY, ..Identity::default() };
    become_user(&identity, &Privileges::default())?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop).during(|| "set no_new_privs".into())
}

fn become_user(identity: &Identity, privileges: &Privileges) -> Result<(), String> {
    for capability in (0..64).filter(|capability| privileges.bounding & 1 << capability == 0) {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability) {
            // Beyond the last capability that this kernel knows.
            Err(Errno(libc::EINVAL)) => break,
            outcome => outcome.map(drop).during(|| "drop capability from bounding set".into())?,
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).during(|| "keep capabilities".into())?;
    sys::set_groups(&identity.groups).during(|| "set groups".into())?;
    sys::set_gid(identity.gid).during(|| format!("set group {}", identity.gid))?;
    sys::set_uid(identity.uid).during(|| format!("set user {}", identity.uid))?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0).during(|| "keep capabilities".into())?;
    // Another user's program gets what is inheritable and ambient; the permitted set goes with exec.
    let available = sys::permitted_capabilities().during(|| "read capabilities".into())?;
    let permitted = privileges.effective & available;
    sys::set_capabilities(permitted, permitted, privileges.inheritable & available)
        .during(|| "set capabilities".into())?;
    for capability in (0..64).filter(|capability| privileges.ambient & available & 1 << capability != 0) {
        sys::raise_ambient(capability).during(|| format!("raise ambient capability {capability}"))?;
    }
    Ok(())
}

fn install_filters(privileges: &Privileges) -> Result<(), String> {
    for filter in &privileges.seccomp {
        sys::set_filter(&filter.instructions).during(|| "install seccomp filter".into())?;
    }
    Ok(())
}

fn enter_cwd(cwd: &str) -> Result<(), String> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    sys::chdir(cwd).during(|| format!("chdir to cwd ({cwd:?}) failed"))?;
    // A folder of the machine must not be reachable through a file that was left open.
    if sys::cwd_is_inside() {
        Ok(())
    } else {
        Err("current working directory is outside of container mount namespace root".into())
    }
}

fn environment(process: &ProcessSpec, identity: &Identity) -> Vec<String> {
    let mut environment = process.env.clone();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    environment
}

/// The path of the program to run, with the texts of Go's `exec.LookPath` where there is none.
fn program(arguments: &[String], environment: &[String]) -> Result<String, String> {
    let name = arguments.first().ok_or("no command specified")?;
    if name.contains('/') {
        return check_program(name).map(|()| name.clone()).map_err(|errno| match errno {
            Errno(libc::ENOENT) => format!("exec: {name:?}: stat {name}: {errno}"),
            Errno(libc::ENOTDIR) => format!("exec: {name:?}: stat {name}: {errno}"),
            _ => format!("exec: {name:?}: {errno}"),
        });
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(PATH_DEFAULT);
    for folder in path.split(':') {
        let candidate = format!("{}/{name}", if folder.is_empty() { "." } else { folder });
        if check_program(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

fn check_program(path: &str) -> sys::Result<()> {
    let (mode, _) = sys::stat(CWD, path)?;
    if mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno(libc::EISDIR));
    }
    sys::may_execute(path)
}

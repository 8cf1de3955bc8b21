//! What a container runs: its configuration over its image's. Pure.

use cri::{ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use shim::spec::UserSpec;

use crate::source::ImageConfig;

const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program and arguments. A command replaces entrypoint and arguments of the image, arguments its arguments.
pub(crate) fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let (mut command, mut args) = (&config.command, &config.args);
    if command.is_empty() {
        if args.is_empty() {
            args = &image.cmd;
        }
        command = &image.entrypoint;
    }
    command.iter().chain(args).cloned().collect()
}

/// The environment as `NAME=value`; what comes later replaces what came before, in its place.
pub(crate) fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut variables: Vec<String> = vec![PATH_DEFAULT.to_owned()];
    let mut set = |variable: String| {
        let name = variable.split('=').next().unwrap_or_default();
        let same = |known: &&mut String| known.split('=').next().unwrap_or_default() == name;
        match variables.iter_mut().find(same) {
            Some(known) => *known = variable,
            None => variables.push(variable),
        }
    };
    if config.terminal.tty {
        set("TERM=xterm".to_owned());
    }
    set(format!("HOSTNAME={hostname}"));
    image.env.iter().cloned().for_each(&mut set);
    config.envs.iter().map(|variable| format!("{}={}", variable.key, variable.value)).for_each(&mut set);
    variables
}

/// The working directory.
pub(crate) fn cwd(config: &ContainerConfig, image: &ImageConfig) -> String {
    let given = [&config.working_dir, &image.working_dir].into_iter().find(|given| !given.is_empty());
    match given {
        Some(cwd) if cwd.starts_with('/') => cwd.clone(),
        Some(cwd) => format!("/{cwd}"),
        None => "/".to_owned(),
    }
}

/// Who it runs as.
pub(crate) fn user(security: &LinuxContainerSecurityContext, image: &ImageConfig) -> Result<UserSpec, String> {
    let run_as = &security.run_as;
    let mut user = match (run_as.user, run_as.username.as_str()) {
        (Some(uid), _) => id(uid)?.to_string(),
        (None, name) => name.to_owned(),
    };
    if let Some(gid) = run_as.group {
        if user.is_empty() {
            return Err(format!("user group \"{gid}\" is specified without user"));
        }
        user = format!("{user}:{}", id(gid)?);
    }
    if user.is_empty() {
        user.clone_from(&image.user);
    }
    let groups = run_as.supplemental_groups.iter().map(|gid| id(*gid)).collect::<Result<_, _>>()?;
    let image_groups = run_as.supplemental_groups_policy == SupplementalGroupsPolicy::Merge;
    Ok(UserSpec { user, groups, image_groups })
}

fn id(number: i64) -> Result<u32, String> {
    // The largest number means "no change" to the kernel.
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or_else(|| format!("invalid user or group id {number}"))
}

/// The number of a signal named like `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
pub(crate) fn signal(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 31] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL),
        ("TRAP", libc::SIGTRAP),
        ("ABRT", libc::SIGABRT),
        ("BUS", libc::SIGBUS),
        ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("STKFLT", libc::SIGSTKFLT),
        ("CHLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
    ];
    // As container images count them: C libraries keep the first two for themselves.
    const REAL_TIME: (i32, i32) = (34, 64);
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = bare.parse() {
        return Some(number).filter(|number| (1..=REAL_TIME.1).contains(number));
    }
    let real_time = |offset: &str, from: i32, sign: i32| match offset {
        "" => Some(from),
        offset => offset[1..].parse::<i32>().ok().map(|offset| from + sign * offset),
    };
    let number = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(offset), _) if offset.is_empty() || offset.starts_with('+') => real_time(offset, REAL_TIME.0, 1),
        (_, Some(offset)) if offset.is_empty() || offset.starts_with('-') => real_time(offset, REAL_TIME.1, -1),
        _ => NAMES.iter().find(|(known, _)| *known == bare).map(|(_, number)| *number),
    };
    number.filter(|number| (1..=REAL_TIME.1).contains(number))
}

#[cfg(test)]
mod tests {
    use cri::{KeyValue, RunAs};

    use super::*;

    fn strings(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn commands_replace_entrypoints_and_arguments_arguments() {
        let image = ImageConfig { entrypoint: strings("entry"), cmd: strings("a b"), ..ImageConfig::default() };
        for (command, args, expected) in
            [("", "", "entry a b"), ("", "x", "entry x"), ("cmd", "", "cmd"), ("cmd", "x y", "cmd x y")]
        {
            let config =
                ContainerConfig { command: strings(command), args: strings(args), ..ContainerConfig::default() };
            assert_eq!(arguments(&config, &image), strings(expected));
        }
    }

    #[test]
    fn later_variables_replace_earlier_ones_in_place() {
        let image = ImageConfig { env: strings("PATH=/app A=1 B=2"), ..ImageConfig::default() };
        let value = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
        let config = ContainerConfig { envs: vec![value("A", "x=y"), value("C", "3")], ..ContainerConfig::default() };
        assert_eq!(environment(&config, &image, "pod"), strings("PATH=/app HOSTNAME=pod A=x=y B=2 C=3"));
        assert_eq!(
            environment(&ContainerConfig::default(), &ImageConfig::default(), "h"),
            [PATH_DEFAULT, "HOSTNAME=h"]
        );
    }

    #[test]
    fn users_come_from_the_pod_or_else_from_the_image() {
        let image = ImageConfig { user: "web:www".into(), ..ImageConfig::default() };
        let check = |run_as: RunAs, expected: Result<&str, &str>| {
            let security = LinuxContainerSecurityContext { run_as, ..LinuxContainerSecurityContext::default() };
            let found = user(&security, &image).map(|user| user.user);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
        };
        check(RunAs::default(), Ok("web:www"));
        check(RunAs { user: Some(5), ..RunAs::default() }, Ok("5"));
        check(RunAs { user: Some(5), group: Some(6), ..RunAs::default() }, Ok("5:6"));
        check(RunAs { username: "joe".into(), ..RunAs::default() }, Ok("joe"));
        check(RunAs { group: Some(6), ..RunAs::default() }, Err("user group \"6\" is specified without user"));
        check(RunAs { user: Some(-1), ..RunAs::default() }, Err("invalid user or group id -1"));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, expected) in [
            ("SIGTERM", Some(15)),
            ("usr1", Some(10)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+31", None),
            ("RTMIN-", None),
            ("0", None),
            ("NONE", None),
            ("", None),
        ] {
            assert_eq!(signal(name), expected, "{name}");
        }
    }
}

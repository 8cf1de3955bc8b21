//! System call filters: the default profile, as containerd has it.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use shim::spec::Filter;

use super::capabilities::bit;

/// Calls that every container may make.
const ALLOWED: [i64; 250] = [
    SYS_accept,
    SYS_accept4,
    SYS_bind,
    SYS_brk,
    SYS_capget,
    SYS_capset,
    SYS_chdir,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_close_range,
    SYS_connect,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fanotify_mark,
    SYS_fchdir,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_flock,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futex,
    SYS_futex_waitv,
    SYS_get_robust_list,
    SYS_getcpu,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getitimer,
    SYS_getpeername,
    SYS_getpgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getpriority,
    SYS_getrandom,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getrlimit,
    SYS_getrusage,
    SYS_getsid,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_getxattr,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_io_cancel,
    SYS_io_destroy,
    SYS_io_getevents,
    SYS_io_setup,
    SYS_io_submit,
    SYS_ioctl,
    SYS_ioprio_get,
    SYS_ioprio_set,
    SYS_kcmp,
    SYS_kill,
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_lgetxattr,
    SYS_linkat,
    SYS_listen,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_lremovexattr,
    SYS_lseek,
    SYS_lsetxattr,
    SYS_madvise,
    SYS_membarrier,
    SYS_memfd_create,
    SYS_memfd_secret,
    SYS_mincore,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_mmap,
    SYS_mprotect,
    SYS_mq_getsetattr,
    SYS_mq_notify,
    SYS_mq_open,
    SYS_mq_timedreceive,
    SYS_mq_timedsend,
    SYS_mq_unlink,
    SYS_mremap,
    SYS_mseal,
    SYS_msgctl,
    SYS_msgget,
    SYS_msgrcv,
    SYS_msgsnd,
    SYS_msync,
    SYS_munlock,
    SYS_munlockall,
    SYS_munmap,
    SYS_name_to_handle_at,
    SYS_nanosleep,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_pidfd_getfd,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pipe2,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_pkey_mprotect,
    SYS_ppoll,
    SYS_prctl,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_prlimit64,
    SYS_process_mrelease,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pselect6,
    SYS_ptrace,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readahead,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_remap_file_pages,
    SYS_removexattr,
    SYS_renameat,
    SYS_renameat2,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigpending,
    SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_getaffinity,
    SYS_sched_getattr,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_rr_get_interval,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_sched_yield,
    SYS_seccomp,
    SYS_semctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_sendfile,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_setfsgid,
    SYS_setfsuid,
    SYS_setgid,
    SYS_setgroups,
    SYS_setitimer,
    SYS_setpgid,
    SYS_setpriority,
    SYS_setregid,
    SYS_setresgid,
    SYS_setresuid,
    SYS_setreuid,
    SYS_setrlimit,
    SYS_setsid,
    SYS_setsockopt,
    SYS_setuid,
    SYS_setxattr,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmdt,
    SYS_shmget,
    SYS_shutdown,
    SYS_sigaltstack,
    SYS_signalfd4,
    SYS_socketpair,
    SYS_splice,
    SYS_statfs,
    SYS_statx,
    SYS_symlinkat,
    SYS_sync,
    SYS_sync_file_range,
    SYS_syncfs,
    SYS_sysinfo,
    SYS_tee,
    SYS_tgkill,
    SYS_timer_create,
    SYS_timer_delete,
    SYS_timer_getoverrun,
    SYS_timer_gettime,
    SYS_timer_settime,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
    SYS_times,
    SYS_tkill,
    SYS_truncate,
    SYS_umask,
    SYS_uname,
    SYS_unlinkat,
    SYS_utimensat,
    SYS_vmsplice,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
    SYS_writev,
];

/// Calls that every container may make and that only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    SYS_access,
    SYS_alarm,
    SYS_arch_prctl,
    SYS_chmod,
    SYS_chown,
    SYS_creat,
    SYS_dup2,
    SYS_epoll_create,
    SYS_epoll_ctl_old,
    SYS_epoll_wait,
    SYS_epoll_wait_old,
    SYS_eventfd,
    SYS_fork,
    SYS_futimesat,
    SYS_get_thread_area,
    SYS_getdents,
    SYS_getpgrp,
    SYS_inotify_init,
    SYS_lchown,
    SYS_link,
    SYS_lstat,
    SYS_mkdir,
    SYS_mknod,
    SYS_modify_ldt,
    SYS_open,
    SYS_pause,
    SYS_pipe,
    SYS_poll,
    SYS_readlink,
    SYS_rename,
    SYS_rmdir,
    SYS_select,
    SYS_set_thread_area,
    SYS_signalfd,
    SYS_stat,
    SYS_symlink,
    SYS_time,
    SYS_unlink,
    SYS_utime,
    SYS_utimes,
    SYS_vfork,
    SYS_IO_PGETEVENTS,
    SYS_URETPROBE,
];
#[cfg(target_arch = "x86_64")]
const SYS_IO_PGETEVENTS: i64 = 333;
#[cfg(target_arch = "x86_64")]
const SYS_URETPROBE: i64 = 335;

/// Calls that every container may make and that only this architecture has: `io_pgetevents`.
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[i64] = &[292];

/// Newer calls, which have the same number everywhere: cachestat, fchmodat2, map_shadow_stack, futex_wake, futex_wait,
/// futex_requeue, statmount, listmount, setxattrat, getxattrat, listxattrat, removexattrat.
const ALLOWED_NEW: [i64; 12] = [451, 452, 453, 454, 455, 456, 457, 458, 463, 464, 465, 466];

/// Calls that come with a capability.
const BY_CAPABILITY: [(&str, &[i64]); 12] = [
    ("DAC_READ_SEARCH", &[SYS_open_by_handle_at]),
    (
        "SYS_ADMIN",
        &[
            SYS_bpf,
            SYS_clone,
            SYS_clone3,
            SYS_fanotify_init,
            SYS_fsconfig,
            SYS_fsmount,
            SYS_fsopen,
            SYS_fspick,
            SYS_lookup_dcookie,
            SYS_mount,
            SYS_mount_setattr,
            SYS_move_mount,
            SYS_open_tree,
            SYS_perf_event_open,
            SYS_quotactl,
            SYS_quotactl_fd,
            SYS_setdomainname,
            SYS_sethostname,
            SYS_setns,
            SYS_syslog,
            SYS_umount2,
            SYS_unshare,
        ],
    ),
    ("SYS_BOOT", &[SYS_reboot]),
    ("SYS_CHROOT", &[SYS_chroot]),
    ("SYS_MODULE", &[SYS_delete_module, SYS_init_module, SYS_finit_module]),
    ("SYS_PACCT", &[SYS_acct]),
    ("SYS_PTRACE", &[SYS_process_madvise]),
    ("SYS_TIME", &[SYS_settimeofday, SYS_adjtimex, SYS_clock_settime, SYS_clock_adjtime]),
    ("SYS_TTY_CONFIG", &[SYS_vhangup]),
    ("SYS_NICE", &[SYS_get_mempolicy, SYS_mbind, SYS_set_mempolicy, SYS_set_mempolicy_home_node]),
    ("SYSLOG", &[SYS_syslog]),
    ("BPF", &[SYS_bpf]),
];

#[cfg(target_arch = "x86_64")]
const RAW_IO: &[i64] = &[SYS_iopl, SYS_ioperm];
#[cfg(target_arch = "aarch64")]
const RAW_IO: &[i64] = &[];

/// Execution domains that may be asked for: Linux, with 32-bit layouts or not, and the question alone.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x20000, 0x20008, 0xffff_ffff];
/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK_FAMILY: u64 = 40;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed(capabilities: u64) -> Result<Rules, seccompiler::BackendError> {
    let has = |name| bit(name).is_some_and(|bit| capabilities & bit != 0);
    let mut rules = Rules::new();
    for personality in PERSONALITIES {
        rules.entry(SYS_personality).or_default().push(condition(0, SeccompCmpOp::Eq, personality)?);
    }
    rules.insert(SYS_socket, vec![condition(0, SeccompCmpOp::Ne, AF_VSOCK_FAMILY)?]);
    rules.insert(SYS_clone, vec![condition(0, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?]);
    // Refused by the second filter, with an error that makes C libraries try `clone`.
    rules.insert(SYS_clone3, vec![]);
    let raw_io: &[i64] = if has("SYS_RAWIO") { RAW_IO } else { &[] };
    let by_capability = BY_CAPABILITY.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| *calls);
    let calls = ALLOWED.iter().chain(ALLOWED_HERE).chain(&ALLOWED_NEW).chain(raw_io).chain(by_capability);
    rules.extend(calls.map(|call| (*call, vec![])));
    Ok(rules)
}

fn filter(rules: Rules, otherwise: SeccompAction, then: SeccompAction) -> Result<Filter, seccompiler::BackendError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, then, architecture)?.try_into()?;
    let instructions = program.iter().map(|instruction| {
        let [low, high] = instruction.code.to_ne_bytes();
        let [a, b, c, d] = instruction.k.to_ne_bytes();
        u64::from_ne_bytes([low, high, instruction.jt, instruction.jf, a, b, c, d])
    });
    Ok(Filter { instructions: instructions.collect() })
}

/// The default profile for a process whose bounding set is `capabilities`.
pub(crate) fn runtime_default(capabilities: u64) -> Result<Vec<Filter>, seccompiler::BackendError> {
    let forbidden = SeccompAction::Errno(EPERM as u32);
    let mut filters = vec![filter(allowed(capabilities)?, forbidden, SeccompAction::Allow)?];
    if bit("SYS_ADMIN").is_some_and(|bit| capabilities & bit == 0) {
        let unknown = SeccompAction::Errno(ENOSYS as u32);
        filters.push(filter(Rules::from([(SYS_clone3, vec![])]), SeccompAction::Allow, unknown)?);
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrators_get_more_calls_and_no_second_filter() {
        let plain = runtime_default(0).unwrap();
        let administrator = runtime_default(bit("SYS_ADMIN").unwrap()).unwrap();
        assert_eq!((plain.len(), administrator.len()), (2, 1));
        assert!(administrator[0].instructions.len() > plain[0].instructions.len());
        assert!(administrator[0].instructions.len() < 4096, "the kernel takes no more");
    }

    #[test]
    fn privileges_are_not_in_the_default() {
        let rules = allowed(0).unwrap();
        for call in
            [SYS_mount, SYS_unshare, SYS_setns, SYS_bpf, SYS_reboot, SYS_keyctl, SYS_kexec_load, SYS_userfaultfd]
        {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}

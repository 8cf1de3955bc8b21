//! Loading programs into the kernel and attaching them to control groups.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

impl Instruction {
    /// An instruction with its registers' numbers.
    pub(super) fn new(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> Self {
        let registers =
            if cfg!(target_endian = "little") { destination | source << 4 } else { destination << 4 | source };
        Instruction { code, registers, offset, constant }
    }
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are the struct that the command reads, with its true size; the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Has `program` decide about devices for the processes of `group`, for as long as that lives. Groups below may be
/// restricted further.
pub(super) fn attach_device_program(group: &File, program: &[Instruction]) -> io::Result<()> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"isopod_devices\0\0",
        ..Load::default()
    };
    // SAFETY: the kernel just made this file for us alone.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &load)?) };
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replaced: 0,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

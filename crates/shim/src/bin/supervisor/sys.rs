//! The machine beneath: entry point, memory, system calls. All that is unsafe is here.
#![allow(unsafe_code, reason = "there is no C library: this is what stands between the program and the kernel")]

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_long};
use core::mem::{size_of, zeroed};
use core::ptr::{null, null_mut};

pub(crate) use shim::errno::Errno;

/// A system call's result.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {entry}", "ud2",
    ".globl memcpy", "memcpy:", "mov rax, rdi", "mov rcx, rdx", "rep movsb", "ret",
    ".globl memmove", "memmove:", "mov rax, rdi", "mov rcx, rdx", "mov r8, rdi", "sub r8, rsi", "cmp r8, rdx", "jb 2f",
    "rep movsb", "ret", "2:", "lea rdi, [rdi + rdx - 1]", "lea rsi, [rsi + rdx - 1]", "std", "rep movsb", "cld", "ret",
    ".globl memset", "memset:", "mov r8, rdi", "mov eax, esi", "mov rcx, rdx", "rep stosb", "mov rax, r8", "ret",
    ".globl memcmp", ".globl bcmp", "memcmp:", "bcmp:", "xor ecx, ecx", "2:", "cmp rcx, rdx", "je 3f",
    "movzx eax, byte ptr [rdi + rcx]", "movzx r8d, byte ptr [rsi + rcx]", "inc rcx", "sub eax, r8d", "je 2b", "ret",
    "3:", "xor eax, eax", "ret",
    ".globl strlen", "strlen:", "xor eax, eax", "2:", "cmp byte ptr [rdi + rax], 0", "je 3f", "inc rax", "jmp 2b",
    "3:", "ret",
    entry = sym entry,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "and sp, x0, #-16", "bl {entry}", "brk #1",
    ".globl memcpy", "memcpy:", "mov x3, x0", "2:", "cbz x2, 3f", "ldrb w4, [x1], #1", "strb w4, [x3], #1",
    "sub x2, x2, #1", "b 2b", "3:", "ret",
    ".globl memmove", "memmove:", "sub x3, x0, x1", "cmp x3, x2", "b.hs memcpy", "2:", "cbz x2, 3f",
    "sub x2, x2, #1", "ldrb w4, [x1, x2]", "strb w4, [x0, x2]", "b 2b", "3:", "ret",
    ".globl memset", "memset:", "mov x3, x0", "2:", "cbz x2, 3f", "strb w1, [x3], #1", "sub x2, x2, #1", "b 2b",
    "3:", "ret",
    ".globl memcmp", ".globl bcmp", "memcmp:", "bcmp:", "2:", "cbz x2, 3f", "ldrb w3, [x0], #1",
    "ldrb w4, [x1], #1", "sub x2, x2, #1", "subs w3, w3, w4", "b.eq 2b", "mov w0, w3", "ret", "3:", "mov w0, #0", "ret",
    ".globl strlen", "strlen:", "mov x1, x0", "2:", "ldrb w2, [x1], #1", "cbnz w2, 2b", "sub x0, x1, x0",
    "sub x0, x0, #1", "ret",
    entry = sym entry,
);

/// Where the kernel's first frame leads: counts, then argument pointers.
extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the kernel puts the count and then that many pointers to strings here, for the program's whole life.
    let arguments: Vec<&'static CStr> = unsafe {
        let count = *stack;
        (0..count).map(|index| CStr::from_ptr(*stack.add(1 + index) as *const c_char)).collect()
    };
    exit(crate::run(&arguments))
}

// `alloc` comes compiled for unwinding and names what unwinding would call. Nothing here unwinds: a panic ends the program.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl rust_eh_personality", "rust_eh_personality:", ".globl _Unwind_Resume", "_Unwind_Resume:", "ud2");
#[cfg(target_arch = "aarch64")]
global_asm!(".globl rust_eh_personality", "rust_eh_personality:", ".globl _Unwind_Resume", "_Unwind_Resume:", "brk #1");

#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    struct Stderr;
    impl Write for Stderr {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            write(2, text.as_bytes()).map(drop).map_err(|_| core::fmt::Error)
        }
    }
    let written = writeln!(Stderr, "isopod-shim: {information}");
    exit(if written.is_ok() { 101 } else { 102 })
}

/// Free blocks by size, a power of two from 16 bytes on. One thread, so no lock.
struct Heap(UnsafeCell<State>);

struct State {
    free: [*mut u8; CLASSES],
    chunk: *mut u8,
    left: usize,
}

const CLASSES: usize = 12;
const CHUNK_BYTES: usize = 64 * 1024;
const PAGE_BYTES: usize = 4096;

// SAFETY: the program has one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(State { free: [null_mut(); CLASSES], chunk: null_mut(), left: 0 }));

/// Which class of blocks holds `layout`; `None` when it gets pages of its own.
fn class(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(16).next_power_of_two();
    let class = size.trailing_zeros() as usize - 4;
    (class < CLASSES).then_some(class)
}

// SAFETY: blocks are at least as large and as aligned as asked for, and handed out once until given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and nothing below calls the allocator again.
        unsafe {
            let state = &mut *self.0.get();
            let Some(class) = class(layout) else { return pages(layout.size()) };
            let head = state.free[class];
            if !head.is_null() {
                state.free[class] = *(head as *mut *mut u8);
                return head;
            }
            let size = 16usize << class;
            // A chunk starts at a page; blocks are powers of two, so aligning by the size aligns the block.
            let mut skip = state.chunk.align_offset(size.min(PAGE_BYTES));
            if state.left < size + skip {
                let chunk = pages(CHUNK_BYTES);
                if chunk.is_null() {
                    return null_mut();
                }
                (state.chunk, state.left, skip) = (chunk, CHUNK_BYTES, 0);
            }
            let block = state.chunk.add(skip);
            state.chunk = block.add(size);
            state.left -= size + skip;
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as for `alloc`; the block came from there with this layout.
        unsafe {
            match class(layout) {
                Some(class) => {
                    let state = &mut *self.0.get();
                    *(block as *mut *mut u8) = state.free[class];
                    state.free[class] = block;
                }
                None => drop(call(libc::SYS_munmap, [block as usize, layout.size(), 0, 0, 0, 0])),
            }
        }
    }
}

fn pages(size: usize) -> *mut u8 {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    // SAFETY: a new anonymous mapping touches nothing that exists.
    match unsafe { call(libc::SYS_mmap, [0, size, protection, flags, usize::MAX, 0]) } {
        Ok(address) => address as *mut u8,
        Err(_) => null_mut(),
    }
}

/// # Safety
/// As the system call demands.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<usize> {
    let mut result = number as isize;
    // SAFETY: the caller answers for the arguments; the kernel changes rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") arguments[0], in("rsi") arguments[1],
            in("rdx") arguments[2], in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// # Safety
/// As the system call demands.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: c_long, arguments: [usize; 6]) -> Result<usize> {
    let mut result = arguments[0] as isize;
    // SAFETY: the caller answers for the arguments.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") result, in("x1") arguments[1], in("x2") arguments[2],
            in("x3") arguments[3], in("x4") arguments[4], in("x5") arguments[5], options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

macro_rules! syscall {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let given = [$($argument as usize),*];
        let mut arguments = [0usize; 6];
        arguments[..given.len()].copy_from_slice(&given);
        // SAFETY: every caller passes live pointers with their true sizes, as the wrapper's types show.
        unsafe { call($number, arguments) }
    }};
}

/// An open file, closed when dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fd(i32);

impl Fd {
    /// The number.
    pub(crate) fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        drop(syscall!(libc::SYS_close, self.0));
    }
}

fn fd(number: usize) -> Fd {
    Fd(number as i32)
}

/// Relative paths start at the working directory.
pub(crate) const CWD: i32 = libc::AT_FDCWD;

/// `path` for the kernel. A path with a zero byte names nothing.
pub(crate) fn c_string(path: &str) -> Result<CString> {
    CString::new(path).map_err(|_| Errno(libc::EINVAL))
}

pub(crate) fn exit(code: i32) -> ! {
    drop(syscall!(libc::SYS_exit_group, code));
    loop {
        core::hint::spin_loop();
    }
}

pub(crate) fn write(file: i32, bytes: &[u8]) -> Result<usize> {
    syscall!(libc::SYS_write, file, bytes.as_ptr(), bytes.len())
}

pub(crate) fn read(file: i32, bytes: &mut [u8]) -> Result<usize> {
    syscall!(libc::SYS_read, file, bytes.as_mut_ptr(), bytes.len())
}

pub(crate) fn open(folder: i32, path: &str, flags: i32, mode: u32) -> Result<Fd> {
    let path = c_string(path)?;
    syscall!(libc::SYS_openat, folder, path.as_ptr(), flags | libc::O_CLOEXEC, mode).map(fd)
}

/// Opens `path` below `folder` under `resolve` (`RESOLVE_*`).
pub(crate) fn open_within(folder: i32, path: &str, flags: i32, resolve: u64) -> Result<Fd> {
    let path = c_string(path)?;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    syscall!(libc::SYS_openat2, folder, path.as_ptr(), &raw const how, size_of::<libc::open_how>()).map(fd)
}

pub(crate) fn mkdir(folder: i32, path: &str, mode: u32) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_mkdirat, folder, path.as_ptr(), mode).map(drop)
}

pub(crate) fn mknod(folder: i32, path: &str, mode: u32, device: u64) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_mknodat, folder, path.as_ptr(), mode, device).map(drop)
}

pub(crate) fn symlink(target: &str, folder: i32, path: &str) -> Result<()> {
    let (target, path) = (c_string(target)?, c_string(path)?);
    syscall!(libc::SYS_symlinkat, target.as_ptr(), folder, path.as_ptr()).map(drop)
}

/// Where the link at `path` leads.
pub(crate) fn read_link(folder: i32, path: &str) -> Result<alloc::string::String> {
    let path = c_string(path)?;
    let mut buffer = [0u8; 4096];
    let length = syscall!(libc::SYS_readlinkat, folder, path.as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    core::str::from_utf8(&buffer[..length]).map(Into::into).map_err(|_| Errno(libc::EINVAL))
}

pub(crate) fn unlink(folder: i32, path: &str) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_unlinkat, folder, path.as_ptr(), 0).map(drop)
}

pub(crate) fn rename(from: &str, to: &str) -> Result<()> {
    let (from, to) = (c_string(from)?, c_string(to)?);
    syscall!(libc::SYS_renameat2, CWD, from.as_ptr(), CWD, to.as_ptr(), 0).map(drop)
}

pub(crate) fn chown(folder: i32, path: &str, uid: u32, gid: u32) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_fchownat, folder, path.as_ptr(), uid, gid, libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW)
        .map(drop)
}

/// `st_mode` and size of `path`, links followed; of `folder` itself when `path` is empty.
pub(crate) fn stat(folder: i32, path: &str) -> Result<(u32, u64)> {
    let path = c_string(path)?;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut status: libc::stat = unsafe { zeroed() };
    syscall!(libc::SYS_newfstatat, folder, path.as_ptr(), &raw mut status, libc::AT_EMPTY_PATH)?;
    Ok((status.st_mode, status.st_size as u64))
}

/// Whether the calling process may run `path`, by its effective ids.
pub(crate) fn may_execute(path: &str) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_faccessat2, CWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS).map(drop)
}

/// Names in a folder, `.` and `..` left out.
pub(crate) fn list(folder: i32) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = [0u8; 2048];
    loop {
        let length = syscall!(libc::SYS_getdents64, folder, buffer.as_mut_ptr(), buffer.len())?;
        if length == 0 {
            return Ok(names);
        }
        let mut at = 0;
        while at + 19 <= length {
            let entry_length = usize::from(u16::from_le_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = buffer[at + 19..at + entry_length].split(|byte| *byte == 0).next().unwrap_or_default();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
            at += entry_length;
        }
    }
}

pub(crate) fn chdir(path: &str) -> Result<()> {
    let path = c_string(path)?;
    syscall!(libc::SYS_chdir, path.as_ptr()).map(drop)
}

pub(crate) fn fchdir(folder: i32) -> Result<()> {
    syscall!(libc::SYS_fchdir, folder).map(drop)
}

/// Whether the working directory lies below the root directory.
pub(crate) fn cwd_is_inside() -> bool {
    let mut buffer = [0u8; 4096];
    match syscall!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) {
        Ok(_) => buffer[0] == b'/',
        Err(_) => false,
    }
}

pub(crate) fn fchown(file: i32, uid: u32, gid: u32) -> Result<()> {
    syscall!(libc::SYS_fchown, file, uid, gid).map(drop)
}

/// A pipe: the end to read, the end to write.
pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    syscall!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// A connected pair of packet sockets.
pub(crate) fn socket_pair() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    syscall!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, ends.as_mut_ptr())?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

pub(crate) fn socket(family: i32, kind: i32) -> Result<Fd> {
    syscall!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0).map(fd)
}

/// A listening packet socket named `name` in the working directory.
pub(crate) fn listen(name: &str) -> Result<Fd> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK)?;
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let length = size_of::<libc::sa_family_t>() + name.len() + 1;
    syscall!(libc::SYS_bind, socket.0, &raw const address, length)?;
    syscall!(libc::SYS_listen, socket.0, 16)?;
    Ok(socket)
}

pub(crate) fn accept(socket: i32) -> Result<Fd> {
    syscall!(libc::SYS_accept4, socket, 0, 0, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).map(fd)
}

/// How many files one packet may carry.
pub(crate) const FILES_MAX: usize = 4;

#[repr(C, align(8))]
struct Control([u8; 64]);

const HEADER: usize = size_of::<libc::cmsghdr>();

/// Sends a packet with open files; never blocks when `flags` say so.
pub(crate) fn send(socket: i32, bytes: &[u8], files: &[i32], flags: i32) -> Result<()> {
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    let files = &files[..files.len().min(FILES_MAX)];
    if !files.is_empty() {
        let length = HEADER + size_of_val(files);
        control.0[..8].copy_from_slice(&length.to_ne_bytes());
        control.0[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control.0[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        for (index, file) in files.iter().enumerate() {
            control.0[HEADER + index * 4..HEADER + index * 4 + 4].copy_from_slice(&file.to_ne_bytes());
        }
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = length.next_multiple_of(8);
    }
    syscall!(libc::SYS_sendmsg, socket, &raw const header, flags | libc::MSG_NOSIGNAL).map(drop)
}

/// Receives a packet and the files it carries. No bytes and no files: the other side is gone.
pub(crate) fn receive(socket: i32, bytes: &mut [u8]) -> Result<(usize, Vec<Fd>)> {
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = HEADER + FILES_MAX * 4;
    let length = syscall!(libc::SYS_recvmsg, socket, &raw mut header, libc::MSG_CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    let number = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|index| control.0[at + index]));
    if header.msg_controllen >= HEADER && number(8) == libc::SOL_SOCKET && number(12) == libc::SCM_RIGHTS {
        let end = (number(0) as usize).min(control.0.len());
        files.extend((HEADER..end).step_by(4).filter(|at| at + 4 <= end).map(|at| Fd(number(at))));
    }
    Ok((length, files))
}

/// Makes `to` another number for the file `from`; it is not closed at exec.
pub(crate) fn dup2(from: i32, to: i32) -> Result<()> {
    // dup3 refuses equal numbers; then only the flag that closes it at exec has to go.
    if from == to {
        return syscall!(libc::SYS_fcntl, from, libc::F_SETFD, 0).map(drop);
    }
    syscall!(libc::SYS_dup3, from, to, 0).map(drop)
}

/// A copy of `file` whose number is `lowest` or above.
pub(crate) fn dup_above(file: i32, lowest: i32) -> Result<Fd> {
    syscall!(libc::SYS_fcntl, file, libc::F_DUPFD_CLOEXEC, lowest).map(fd)
}

/// Closes all files from number `first` on, or marks them to be closed at exec.
pub(crate) fn close_from(first: u32, at_exec: bool) -> Result<()> {
    let flags = if at_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    syscall!(libc::SYS_close_range, first, u32::MAX, flags).map(drop)
}

pub(crate) fn set_nonblocking(file: i32) -> Result<()> {
    let flags = syscall!(libc::SYS_fcntl, file, libc::F_GETFL, 0)?;
    syscall!(libc::SYS_fcntl, file, libc::F_SETFL, flags | libc::O_NONBLOCK as usize).map(drop)
}

/// Waits until one of `entries` has something to say.
pub(crate) fn poll(entries: &mut [libc::pollfd]) -> Result<usize> {
    syscall!(libc::SYS_ppoll, entries.as_mut_ptr(), entries.len(), 0, 0, 8)
}

/// Holds back all signals (those that can be).
pub(crate) fn block_signals() -> Result<()> {
    let set = u64::MAX;
    syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set, 0, 8).map(drop)
}

/// Gives each signal its default meaning, whatever the agent's own parents made of it.
pub(crate) fn reset_signals() -> Result<()> {
    #[repr(C)]
    struct Action([usize; 4]);
    let default = Action([0; 4]);
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            syscall!(libc::SYS_rt_sigaction, signal, &raw const default, 0, 8)?;
        }
    }
    Ok(())
}

/// Lets signals through, for a program to be started.
pub(crate) fn unblock_signals() -> Result<()> {
    let set = 0u64;
    syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set, 0, 8).map(drop)
}

/// A file that can be read when a child has ended.
pub(crate) fn child_signals() -> Result<Fd> {
    let set = 1u64 << (libc::SIGCHLD - 1);
    syscall!(libc::SYS_signalfd4, -1i32, &raw const set, 8, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).map(fd)
}

/// Waits for SIGCHLD, which must be held back.
pub(crate) fn wait_for_child_signal() {
    let set = 1u64 << (libc::SIGCHLD - 1);
    drop(syscall!(libc::SYS_rt_sigtimedwait, &raw const set, 0, 0, 8));
}

/// A child that has ended and its status as of `wait`; `None` when none has.
pub(crate) fn reap(block: bool) -> Result<Option<(i32, i32)>> {
    let mut status = 0i32;
    let flags = if block { 0 } else { libc::WNOHANG } | libc::__WALL;
    match syscall!(libc::SYS_wait4, -1i32, &raw mut status, flags, 0)? {
        0 => Ok(None),
        pid => Ok(Some((pid as i32, status))),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A new process like this one: `None` in the child, its number in the parent. With `cgroup`, the child starts in the
/// control group (of the unified hierarchy) that this folder is.
pub(crate) fn fork(flags: u64, cgroup: Option<i32>) -> Result<Option<i32>> {
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    arguments.flags = flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(folder) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = folder as u64;
    }
    match syscall!(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())? {
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

pub(crate) fn unshare(flags: i32) -> Result<()> {
    syscall!(libc::SYS_unshare, flags).map(drop)
}

pub(crate) fn setns(file: i32, kinds: i32) -> Result<()> {
    syscall!(libc::SYS_setns, file, kinds).map(drop)
}

pub(crate) fn pidfd_open(pid: i32) -> Result<Fd> {
    syscall!(libc::SYS_pidfd_open, pid, 0).map(fd)
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    syscall!(libc::SYS_kill, pid, signal).map(drop)
}

pub(crate) fn setsid() -> Result<()> {
    syscall!(libc::SYS_setsid).map(drop)
}

pub(crate) fn umask(mask: u32) {
    drop(syscall!(libc::SYS_umask, mask));
}

pub(crate) fn prctl(option: i32, argument: u64) -> Result<usize> {
    syscall!(libc::SYS_prctl, option, argument, 0, 0, 0)
}

/// Sets the name that process lists show.
pub(crate) fn set_name(name: &CStr) -> Result<()> {
    syscall!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0).map(drop)
}

/// Raises a capability in the ambient set.
pub(crate) fn raise_ambient(capability: u64) -> Result<()> {
    syscall!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0).map(drop)
}

pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (|set: u64| set as u32, |set: u64| (set >> 32) as u32);
    let data = [low(effective), low(permitted), low(inheritable), high(effective), high(permitted), high(inheritable)];
    syscall!(libc::SYS_capset, header.as_ptr(), data.as_ptr()).map(drop)
}

/// The calling process's permitted capabilities.
pub(crate) fn permitted_capabilities() -> Result<u64> {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    syscall!(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr())?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()).map(drop)
}

pub(crate) fn set_gid(gid: u32) -> Result<()> {
    syscall!(libc::SYS_setresgid, gid, gid, gid).map(drop)
}

pub(crate) fn set_uid(uid: u32) -> Result<()> {
    syscall!(libc::SYS_setresuid, uid, uid, uid).map(drop)
}

pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    syscall!(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), 0).map(drop)
}

/// Installs a system call filter.
pub(crate) fn set_filter(instructions: &[u64]) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const u64,
    }
    let length = u16::try_from(instructions.len()).map_err(|_| Errno(libc::EINVAL))?;
    let program = Program { length, instructions: instructions.as_ptr() };
    syscall!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program).map(drop)
}

/// Leaves the session keyring that was inherited, which may hold keys of the machine.
pub(crate) fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    syscall!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0).map(drop)
}

pub(crate) fn set_hostname(name: &str) -> Result<()> {
    syscall!(libc::SYS_sethostname, name.as_ptr(), name.len()).map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    // `struct ifreq`: the name, then the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16 | libc::IFF_RUNNING as u16).to_ne_bytes());
    syscall!(libc::SYS_ioctl, socket.0, libc::SIOCSIFFLAGS, request.as_ptr()).map(drop)
}

/// The other end of the terminal whose controlling end is `master`, and its number.
pub(crate) fn terminal(master: i32) -> Result<(Fd, u32)> {
    let (unlock, mut number) = (0i32, 0u32);
    syscall!(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw const unlock)?;
    syscall!(libc::SYS_ioctl, master, libc::TIOCGPTN, &raw mut number)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let slave = syscall!(libc::SYS_ioctl, master, libc::TIOCGPTPEER, flags)?;
    Ok((fd(slave), number))
}

/// Whether `file` is a terminal.
pub(crate) fn is_terminal(file: i32) -> bool {
    // Larger than any kernel's `struct termios`.
    let mut settings = [0u8; 256];
    syscall!(libc::SYS_ioctl, file, libc::TCGETS, settings.as_mut_ptr()).is_ok()
}

/// Makes `terminal` the controlling one of this session.
pub(crate) fn control_terminal(terminal: i32) -> Result<()> {
    syscall!(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0).map(drop)
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let mut time = [0i64; 2];
    match syscall!(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, time.as_mut_ptr()) {
        Ok(_) => time[0] * 1_000_000_000 + time[1],
        Err(_) => 0,
    }
}

/// Waits for a moment, where the kernel gives no event to wait for.
pub(crate) fn pause_millisecond() {
    let time = [0i64, 1_000_000];
    drop(syscall!(libc::SYS_nanosleep, time.as_ptr(), 0));
}

pub(crate) fn mount(source: &str, target: &str, kind: &str, flags: u64, options: &str) -> Result<()> {
    let (source, target, kind, options) = (c_string(source)?, c_string(target)?, c_string(kind)?, c_string(options)?);
    syscall!(libc::SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr()).map(drop)
}

pub(crate) fn unmount(target: &str) -> Result<()> {
    let target = c_string(target)?;
    syscall!(libc::SYS_umount2, target.as_ptr(), libc::MNT_DETACH).map(drop)
}

/// The root becomes the working directory, which must be a mount; the old root is mounted over it.
pub(crate) fn pivot_root_here() -> Result<()> {
    syscall!(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()).map(drop)
}

/// A detached copy of the mount at `path` below `folder`, with what is mounted below it when `recursive`.
pub(crate) fn open_tree(folder: i32, path: &str, recursive: bool) -> Result<Fd> {
    const OPEN_TREE_CLONE: i32 = 1;
    const AT_RECURSIVE: i32 = 0x8000;
    let path = c_string(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    syscall!(libc::SYS_open_tree, folder, path.as_ptr(), flags).map(fd)
}

/// Sets `attributes` (`MOUNT_ATTR_*`) and propagation (`MS_*`, 0 leaves it) of a mount.
pub(crate) fn mount_setattr(mount: i32, attributes: u64, propagation: u64, recursive: bool) -> Result<()> {
    const AT_RECURSIVE: i32 = 0x8000;
    let request = [attributes, 0, propagation, 0];
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    syscall!(libc::SYS_mount_setattr, mount, c"".as_ptr(), flags, request.as_ptr(), size_of_val(&request)).map(drop)
}

/// Has a detached mount show its files with the owners that they have in a user namespace.
pub(crate) fn map_mount(mount: i32, namespace: i32) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let request = [MOUNT_ATTR_IDMAP, 0, 0, namespace as u64];
    let (path, size) = (c"".as_ptr(), size_of_val(&request));
    syscall!(libc::SYS_mount_setattr, mount, path, libc::AT_EMPTY_PATH, request.as_ptr(), size).map(drop)
}

/// Puts a detached mount onto `target`, an open path.
pub(crate) fn move_mount(mount: i32, target: i32) -> Result<()> {
    const FROM_AND_TO_EMPTY_PATH: usize = 0x4 | 0x40;
    syscall!(libc::SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), FROM_AND_TO_EMPTY_PATH).map(drop)
}

/// The attribute of a mount that cannot be written.
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;

/// A new, detached file system.
pub(crate) fn new_mount(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<Fd> {
    const FSCONFIG_SET_FLAG: usize = 0;
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    let kind = c_string(kind)?;
    let context = syscall!(libc::SYS_fsopen, kind.as_ptr(), 1).map(fd)?;
    for (name, value) in options {
        let (name, text) = (c_string(name)?, c_string(value)?);
        if value.is_empty() {
            syscall!(libc::SYS_fsconfig, context.0, FSCONFIG_SET_FLAG, name.as_ptr(), 0, 0)?;
        } else {
            syscall!(libc::SYS_fsconfig, context.0, FSCONFIG_SET_STRING, name.as_ptr(), text.as_ptr(), 0)?;
        }
    }
    syscall!(libc::SYS_fsconfig, context.0, FSCONFIG_CMD_CREATE, 0, 0, 0)?;
    syscall!(libc::SYS_fsmount, context.0, 1, attributes).map(fd)
}

/// Becomes another program; answers only why it could not.
pub(crate) fn exec(path: &str, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
    };
    let path = match c_string(path) {
        Ok(path) => path,
        Err(error) => return error,
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    match syscall!(libc::SYS_execve, path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) {
        Ok(_) => Errno(libc::EINVAL),
        Err(error) => error,
    }
}

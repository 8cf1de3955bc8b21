//! Starting supervisors out of memory, so that no container ever finds a program of the host that it could write to.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

/// The supervisor's program.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/supervisor"));

/// `MFD_EXEC`, which older kernels do not know and newer ones may insist on.
const MFD_EXEC: MemfdFlags = MemfdFlags::from_bits_retain(0x10);

const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// `content` as an open file that nobody can change, to be read from its start.
pub(crate) fn sealed_file(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    seal(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?, content)
}

fn seal(file: OwnedFd, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Starts supervisors.
pub(crate) struct Launcher {
    program: File,
}

impl Launcher {
    /// Puts the program into memory.
    pub(crate) fn new() -> io::Result<Launcher> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("isopod-shim", flags | MFD_EXEC).or_else(|_| memfd_create("isopod-shim", flags))?;
        fchmod(&file, Mode::from_raw_mode(0o555))?;
        let file = seal(file, PROGRAM)?;
        // A file that is open for writing cannot be run.
        let program = File::open(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))?;
        Ok(Launcher { program })
    }

    /// Starts the supervisor of the sandbox in `folder` from its encoded specification; it can be connected to when
    /// this answers, and is no child of this process. Blocks for some milliseconds.
    pub(crate) fn launch(&self, folder: &Path, spec: &[u8]) -> io::Result<()> {
        let spec = sealed_file("sandbox", spec)?;
        // No hook between fork and exec: then the standard library does not fork this process at all.
        let output = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("isopod-shim")
            .arg(folder)
            .env_clear()
            .stdin(File::from(spec))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(if text.is_empty() { output.status.to_string() } else { text }))
    }
}

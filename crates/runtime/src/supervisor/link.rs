//! Packets with open files over a supervisor's socket.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};
use shim::message::{PACKET_BYTES_MAX, SOCKET};
use tokio::io::unix::AsyncFd;

/// How many files one packet may carry.
const FILES_MAX: usize = 4;

/// A connected socket.
pub(super) struct Link(AsyncFd<File>);

impl Link {
    /// Connects to the supervisor in `folder`; answers its process, too.
    pub(super) fn connect(folder: &Path) -> io::Result<(Link, u32)> {
        let folder = File::open(folder)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // The folder's own path may be longer than an address can be.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
        rustix::net::connect(&socket, &address)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        Ok((Link(crate::sys::watch(socket)?), peer.pid.as_raw_nonzero().get().unsigned_abs()))
    }

    /// Sends a packet unless that would have to wait.
    pub(super) fn try_send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(self.0.get_ref().as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends a packet.
    pub(super) async fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(outcome) = ready.try_io(|_| self.try_send(bytes, files)) {
                return outcome;
            }
        }
    }

    /// The next packet; `None` when the other side is gone.
    pub(super) async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| receive_now(socket.get_ref().as_fd())) {
                Ok(Ok((bytes, _))) if bytes.is_empty() => return Ok(None),
                Ok(outcome) => return outcome.map(Some),
                Err(_would_block) => {}
            }
        }
    }
}

fn receive_now(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    bytes.truncate(received.bytes);
    bytes.shrink_to_fit();
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok((bytes, files))
}

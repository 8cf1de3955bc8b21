//! The one socket option of netlink that no safe wrapper offers.
#![allow(unsafe_code, reason = "setsockopt at SOL_NETLINK has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks the kernel to answer errors with a text and without repeating the request.
pub(super) fn set_extended_answers(socket: BorrowedFd<'_>) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is borrowed for the call, and the pointer and length name one initialised integer.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                std::ptr::from_ref(&on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

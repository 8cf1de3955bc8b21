//! A netlink socket: requests with their answers, batches with one answer, notifications.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::codec::{
    Batch, HEADER_LENGTH, Incoming, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, attributes,
    messages,
};
use super::sys;

/// The kernel writes at most this much at once into a dump, whatever the reader offers.
const READ_SIZE: usize = 64 << 10;
/// A dump that was disturbed by changes is read again this often before the disturbance is reported.
const DUMP_TRIES: usize = 8;
/// The largest batch: some 40,000 services with three endpoints each.
const SEND_SIZE_MAX: usize = 64 << 20;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused; its explanation, where it gives one.
    #[error("{}{}", Errno::from_raw_os_error(*errno), if text.is_empty() { String::new() } else { format!(" ({text})") })]
    Refused {
        /// The error number, positive.
        errno: i32,
        /// The kernel's own words.
        text: String,
    },
    /// The socket failed.
    #[error("netlink socket")]
    Socket(#[from] io::Error),
    /// The kernel answered what it should not.
    #[error("unexpected netlink answer: {0}")]
    Unexpected(&'static str),
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        NetlinkError::Socket(errno.into())
    }
}

impl NetlinkError {
    /// Whether the kernel refused with `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, NetlinkError::Refused { errno: found, .. } if *found == errno.raw_os_error())
    }

    /// Whether more came in than the socket could hold.
    fn is_overrun(&self) -> bool {
        matches!(self, NetlinkError::Socket(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()))
    }
}

/// A socket bound in the network namespace of the thread that opened it; it stays there when it moves to another.
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// A socket for links, addresses and routes.
    pub(crate) fn route() -> Result<Socket, NetlinkError> {
        // Routing is protocol 0, which the system call's wrapper spells as the absence of one.
        Socket::open(None, 0)
    }

    /// A socket for netfilter.
    pub(crate) fn netfilter() -> Result<Socket, NetlinkError> {
        Socket::open(Some(NETFILTER), 0)
    }

    /// A socket that is told of every change of nftables.
    pub(crate) fn netfilter_changes() -> Result<Socket, NetlinkError> {
        const NFNLGRP_NFTABLES: u32 = 7;
        Socket::open(Some(NETFILTER), 1 << (NFNLGRP_NFTABLES - 1))
    }

    /// A socket that is told of changes of links, of addresses and of routes of IPv4.
    pub(crate) fn route_changes() -> Result<Socket, NetlinkError> {
        const RTNLGRP_LINK: u32 = 1;
        const RTNLGRP_IPV4_IFADDR: u32 = 5;
        const RTNLGRP_IPV4_ROUTE: u32 = 7;
        let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE];
        Socket::open(None, groups.iter().map(|group| 1 << (group - 1)).sum())
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> Result<Socket, NetlinkError> {
        #[cfg(test)]
        crate::scratch::assert_own_namespace();
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        sys::set_extended_answers(fd.as_fd())?;
        let name = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?;
        Ok(Socket { fd, port: name.pid() })
    }

    /// The number by which notifications name this socket as their cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(&self, build: impl FnOnce(&mut Batch, u16)) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        build(&mut batch, NLM_F_ACK);
        self.exchange(&batch, batch.messages(), &mut |_| {})
    }

    /// Sends a request for one thing and gives the answer to `each`.
    pub(crate) fn query<T>(
        &self,
        build: impl FnOnce(&mut Batch, u16),
        mut each: impl FnMut(&Incoming<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut batch = Batch::default();
        build(&mut batch, NLM_F_ACK);
        let mut found = Vec::new();
        self.exchange(&batch, batch.messages(), &mut |message| found.extend(each(message)))?;
        Ok(found)
    }

    /// Sends a request for a list and gives every message of the answer to `each`, once per whole answer.
    pub(crate) fn dump<T>(
        &self,
        mut build: impl FnMut(&mut Batch, u16),
        mut each: impl FnMut(&Incoming<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let mut batch = Batch::default();
            build(&mut batch, NLM_F_DUMP);
            let (mut found, mut disturbed) = (Vec::new(), false);
            let outcome = self.exchange(&batch, batch.messages(), &mut |message| {
                disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
                found.extend(each(message));
            });
            match outcome {
                Err(error) if error.is(Errno::INTR) => continue,
                Err(error) => return Err(error),
                Ok(()) if disturbed => continue,
                Ok(()) => return Ok(found),
            }
        }
        Err(NetlinkError::Unexpected("the list kept changing while it was read"))
    }

    /// Sends a netfilter batch, all or nothing. `last` is the sequence number of its last message that asked for an
    /// acknowledgement; the first refusal is the error.
    pub(crate) fn commit(&self, batch: &Batch, last: u32) -> Result<(), NetlinkError> {
        self.exchange(batch, last, &mut |_| {})
    }

    /// Reads notifications that have come in, without waiting. `false` when some were lost.
    pub(crate) fn notifications(&self, mut each: impl FnMut(&Incoming<'_>)) -> Result<bool, NetlinkError> {
        let mut complete = true;
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(Some(bytes)) => messages(&bytes).for_each(|message| each(&message)),
                Ok(None) => return Ok(complete),
                Err(error) if error.is_overrun() => complete = false,
                Err(error) => return Err(error),
            }
        }
    }

    fn exchange(&self, batch: &Batch, last: u32, each: &mut dyn FnMut(&Incoming<'_>)) -> Result<(), NetlinkError> {
        self.send(batch.bytes())?;
        let outcome = self.collect(last, each);
        // A refused batch answers once per fault; what is left must not be taken for a later request's answer.
        if outcome.is_err() {
            self.notifications(|_| {})?;
        }
        outcome
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let room = rustix::net::sockopt::socket_send_buffer_size(&self.fd)?;
        // A batch is one packet, and a packet must fit the send buffer with the kernel's overhead.
        if bytes.len() + 4096 > room / 2 {
            let wanted = (bytes.len() + 4096).next_power_of_two().min(SEND_SIZE_MAX);
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, wanted)?;
        }
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Unexpected("a request was sent in part")) }
    }

    /// Reads until the end of a list, or the acknowledgement of request `last`, or an error.
    fn collect(&self, last: u32, each: &mut dyn FnMut(&Incoming<'_>)) -> Result<(), NetlinkError> {
        loop {
            let bytes = self.receive(RecvFlags::empty())?.ok_or(NetlinkError::Unexpected("no answer"))?;
            for message in messages(&bytes) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        refusal(&message)?;
                        if message.sequence == last {
                            return Ok(());
                        }
                    }
                    _ => each(&message),
                }
            }
        }
    }

    fn receive(&self, flags: RecvFlags) -> Result<Option<Vec<u8>>, NetlinkError> {
        let mut bytes = vec![0; READ_SIZE];
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut bytes[..], flags | RecvFlags::TRUNC)) {
            Ok((read, length)) if read < length => Err(NetlinkError::Unexpected("an answer was cut off")),
            Ok((read, _)) => {
                bytes.truncate(read);
                Ok(Some(bytes))
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The error in an acknowledgement, if it is one.
fn refusal(message: &Incoming<'_>) -> Result<(), NetlinkError> {
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = message.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    let errno = -code.ok_or(NetlinkError::Unexpected("an acknowledgement without a code"))?;
    if errno == 0 {
        return Ok(());
    }
    let explained = message.flags & NLM_F_ACK_TLVS != 0;
    let details = message.payload.get(4 + HEADER_LENGTH..).filter(|_| explained).unwrap_or_default();
    let text = attributes(details).text(NLMSGERR_ATTR_MSG).unwrap_or_default().to_owned();
    Err(NetlinkError::Refused { errno, text })
}

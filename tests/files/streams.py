# Streams through Kubernetes' own Python client. Usage: streams.py NAMESPACE; prints what it saw, a line each.
import sys
import time

from kubernetes import client, config, watch
from kubernetes.stream import portforward, stream

config.load_kube_config()
api = client.CoreV1Api()
namespace = sys.argv[1]

# watch: until everything of attached.yaml is ready.
ready = set()
for event in watch.Watch().stream(api.list_namespaced_pod, namespace, timeout_seconds=30):
    pod = event["object"]
    conditions = {c.type: c.status for c in pod.status.conditions or []}
    if conditions.get("Ready") == "True":
        ready.add(pod.metadata.name)
    if ready == {"echo", "page", "terminal"}:
        break
print("ready", sorted(ready))

# exec: collected, and as a conversation with an outcome.
exec_ = api.connect_get_namespaced_pod_exec
out = stream(exec_, "echo", namespace, container="other", command=["sh", "-c", "echo out; echo err >&2"],
             stdin=False, stdout=True, stderr=True, tty=False)
print("exec", sorted(out.split()))
talk = stream(exec_, "echo", namespace, container="other", command=["sh", "-c", "read line; echo got $line; exit 3"],
              stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
talk.write_stdin("something\n")
answer = talk.readline_stdout(timeout=10)
talk.run_forever(timeout=10)
print("talk", answer, talk.returncode)

# attach: to what runs already.
joined = stream(api.connect_get_namespaced_pod_attach, "echo", namespace, container="echo",
                stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
joined.write_stdin("hello\n")
print("attach", joined.readline_stdout(timeout=10))
joined.close()

# logs, followed as they are written.
lines = watch.Watch().stream(api.read_namespaced_pod_log, "echo", namespace, container="echo")
for line in lines:
    print("log", line)
    break

# port-forward.
forward = portforward(api.connect_get_namespaced_pod_portforward, "page", namespace, ports="8080,81")
page = forward.socket(8080)
page.settimeout(10)
page.sendall(b"GET / HTTP/1.0\r\n\r\n")
content = b""
while piece := page.recv(4096):
    content += piece
print("forward", content.split(b"\r\n\r\n", 1)[1].decode().strip())
for _ in range(100):
    if forward.error(81):
        break
    time.sleep(0.1)
print("refused", "connection refused" in (forward.error(81) or ""))

# One request to the API server as the administrator, printed as "CODE REASON: MESSAGE" and a line for each cause.
# Usage: api.sh METHOD PATH [CONTENT-TYPE [BODY]]; a body of - is read from standard input.
set -eu
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
field() { kubectl config view --raw -o "jsonpath={$1}"; }
field '.users[0].user.client-certificate-data' | base64 -d >"$work/certificate"
field '.users[0].user.client-key-data' | base64 -d >"$work/key"
field '.clusters[0].cluster.certificate-authority-data' | base64 -d >"$work/authority"
set -- "$1" "$2" "${3:-application/json}" "${4-none}"
if [ "$4" = none ]; then body=""; else body="--data-binary"; fi
case "$4" in -) data=@- ;; *) data=$4 ;; esac
code=$(curl -s --http1.1 -o "$work/answer" -w '%{http_code}' -X "$1" --cert "$work/certificate" --key "$work/key" --cacert "$work/authority" \
    -H "Content-Type: $3" ${body:+"$body" "$data"} "$(field '.clusters[0].cluster.server')$2")
python3 - "$code" "$work/answer" <<'END'
import json, sys
code, path = sys.argv[1:]
text = open(path).read()
try:
    status = json.loads(text)
except ValueError:
    status = {}
if status.get("kind") != "Status":
    print(code, status.get("kind") or text.strip())
else:
    print(code, status.get("reason", "-") + ":", status.get("message"))
    for cause in (status.get("details") or {}).get("causes") or []:
        print(" ", cause.get("field"), cause.get("reason"), cause.get("message"))
END

# Asks twice through `kubectl port-forward`, and shows what kubectl complained of. Usage: forward.sh TARGET PORT
: >"$HOME/forwarding"
kubectl port-forward "$1" ":$2" >"$HOME/forwarding" 2>"$HOME/complaints" &
forward=$!
trap 'kill $forward 2>/dev/null; cat "$HOME/complaints"' EXIT
port=
for _ in $(seq 200); do
    port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$HOME/forwarding" | head -n 1)
    [ -n "$port" ] && break
    sleep 0.1
done
curl --silent --max-time 10 "http://127.0.0.1:$port/" "http://127.0.0.1:$port/"
# A complaint comes on a stream of its own, maybe after the end of the other.
[ $? = 0 ] || sleep 0.5

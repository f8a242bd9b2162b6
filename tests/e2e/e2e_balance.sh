# Two corm-serve behind HAProxy, with the configuration that docs/SERVER.md shows: turns of a conversation go to one
# server, and nothing is lost while the other one is taken away. What asks is tests/e2e/util_balance.py.
. "$(dirname "$0")/util_e2e.sh"
PATH=$PATH:/usr/sbin # where Debian has haproxy
if ! command -v haproxy >/dev/null; then
    skip 'servers behind HAProxy' 'there is no haproxy'
    exit 0
fi
enter_work
. "$root/tests/util/server.sh"
balancer=
trap 'servers_end; [ -z "$balancer" ] || kill "$balancer"; rm -rf "$work"' EXIT
"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || { cat log; echo "not ok convert"; exit 1; }

start() { server_start "$1" fable.corm -q --notice 4 --queue 200; }
start one
one=$port
start two
two=$port
front=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -n '/^```haproxy$/,/^```$/p' "$root/docs/SERVER.md" | sed '/^```/d' |
    sed "s/:8080$/:$front/; s/:8081$/:$one/; s/:8082$/:$two/" >haproxy.cfg
case_ 'the configuration in the docs is one' haproxy -c -f haproxy.cfg
haproxy -db -f haproxy.cfg >haproxy.log 2>&1 &
balancer=$!
python3 "$root/tests/e2e/util_balance.py" "$front" "$one" "$two" "$(cat one.pid)" || {
    failed=1
    sed 's/^/# /' haproxy.log
}
case_ 'the one that was taken away ended well' server_stop one
exit $failed

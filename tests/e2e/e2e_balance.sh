# Two corm-serve behind HAProxy, with the configuration that docs/SERVER.md shows: turns of a conversation go to one
# server, and nothing is lost while the other one is taken away. What asks is tests/e2e/util_balance.py.
. "$(dirname "$0")/util_e2e.sh"
serve=$build/corm-serve
PATH=$PATH:/usr/sbin # where Debian has haproxy
if ! command -v haproxy >/dev/null; then
    skip 'servers behind HAProxy' 'there is no haproxy'
    exit 0
fi
enter_work
trap 'for p in *.pid; do kill -9 "$(cat "$p")" 2>/dev/null; done; rm -rf "$work"' EXIT
"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || { cat log; echo "not ok convert"; exit 1; }

start() { # start NAME: a server on a free port, which is then in NAME.port
    "$serve" fable.corm --port 0 -q --notice 4 --queue 200 2>"$1.log" &
    echo $! >"$1.pid"
    for try in $(seq 300); do
        sed -n 's|^corm-serve: .* listens on http://.*:\([0-9]*\)$|\1|p' "$1.log" >"$1.port"
        [ ! -s "$1.port" ] || return 0
        sleep 0.1
    done
    sed 's/^/# /' "$1.log"
    echo "not ok start $1"
    exit 1
}
start one
start two
front=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -n '/^```haproxy$/,/^```$/p' "$root/docs/SERVER.md" | sed '/^```/d' |
    sed "s/:8080$/:$front/; s/:8081$/:$(cat one.port)/; s/:8082$/:$(cat two.port)/" >haproxy.cfg
case_ 'the configuration in the docs is one' haproxy -c -f haproxy.cfg
haproxy -db -f haproxy.cfg >haproxy.log 2>&1 &
echo $! >haproxy.pid
python3 "$root/tests/e2e/util_balance.py" "$front" "$(cat one.port)" "$(cat two.port)" "$(cat one.pid)" || {
    failed=1
    sed 's/^/# /' haproxy.log
}
kill -TERM "$(cat one.pid)" 2>/dev/null
wait "$(cat one.pid)"
case_ 'the one that was taken away ended well' test $? -eq 0
exit $failed

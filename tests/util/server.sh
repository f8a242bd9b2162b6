# Sourced by tests that ask a corm-serve of $build: starts servers and ends them.
#
# A server has a name, and its log is NAME.log, so that a name may have a folder in front. $port and $pid are those of
# the server that was started last; $servers are the ids of all that have been started and not stopped. Whoever
# sources this calls servers_end when it ends: what it left is killed then.
servers=

# server_start NAME OPTION...: a server on a free port. Where it does not come to listen, the test is over.
server_start() {
    server_name=$1
    shift
    : >"$server_name.log" # it is looked into at once
    "$build/corm-serve" "$@" --port 0 2>"$server_name.log" &
    pid=$!
    servers="$servers $pid"
    echo "$pid" >"$server_name.pid"
    port=
    for server_try in $(seq 600); do
        port=$(sed -n 's|^corm-serve: .* listens on http://.*:\([0-9]*\)$|\1|p' "$server_name.log")
        [ -z "$port" ] || return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "not ok start $(basename "$server_name")"
    sed 's/^/# /' "$server_name.log"
    exit 1
}

# server_wait NAME: waits until it has ended; its exit status.
server_wait() {
    server_pid=$(cat "$1.pid")
    wait "$server_pid"
    server_status=$?
    servers=$(for s in $servers; do [ "$s" = "$server_pid" ] || printf ' %s' "$s"; done)
    return $server_status
}

# server_stop NAME: ends it with SIGTERM; its exit status.
server_stop() {
    kill -TERM "$(cat "$1.pid")" 2>/dev/null
    server_wait "$1"
}

servers_end() {
    for s in $servers; do
        kill -9 "$s" 2>/dev/null
        wait "$s" 2>/dev/null
    done
    servers=
}

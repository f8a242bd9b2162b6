# What corm-serve uses again of an agent's talk, with a model whose layers cannot be cut back: only what is new since a
# message's end is evaluated, whatever its chat template leaves out, and no bit of an answer changes. The talk is held
# by tests/e2e/util_reuse.py.
. "$(dirname "$0")/util_e2e.sh"
serve=$build/corm-serve
client() { python3 "$root/tests/e2e/util_reuse.py" "$@"; }
enter_work
trap 'for p in *.pid; do [ ! -f "$p" ] || kill -9 "$(cat "$p")" 2>/dev/null; done; rm -rf "$work"' EXIT

"$build/synth" straight model.corm --shape qwen3.6-tiny >log 2>&1 || {
    echo "not ok make a model"
    cat log
    exit 1
}

# start NAME OPTION...: a server on a free port; its log is NAME.log, its port in NAME.port.
start() {
    name=$1
    shift
    "$serve" model.corm --port 0 "$@" 2>"$name.log" &
    echo $! >"$name.pid"
    for try in $(seq 600); do
        port=$(sed -n 's|^corm-serve: .* listens on http://.*:\([0-9]*\)$|\1|p' "$name.log")
        [ -z "$port" ] || break
        kill -0 "$(cat "$name.pid")" 2>/dev/null || break
        sleep 0.1
    done
    echo "$port" >"$name.port"
    if [ -z "$port" ]; then
        echo "not ok start $name"
        sed 's/^/# /' "$name.log"
        exit 1
    fi
}

for t in $(client templates .); do
    start "$t" --chat-template "$t.jinja" -q -t 2 --batch 64 --parallel 1
    start "fresh-$t" --chat-template "$t.jinja" -q -t 2 --parallel 1 --reuse none
    client talk "$t" "$(cat "$t.port")" "$(cat "fresh-$t.port")" || failed=1
    for p in "$t" "fresh-$t"; do
        kill -TERM "$(cat "$p.pid")"
        wait "$(cat "$p.pid")" || {
            echo "not ok $p ends well"
            failed=1
        }
    done
done
exit $failed

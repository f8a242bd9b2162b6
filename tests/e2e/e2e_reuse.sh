# What corm-serve uses again of an agent's talk, with a model whose layers cannot be cut back: only what is new since a
# message's end is evaluated, whatever its chat template leaves out, and no bit of an answer changes. The talk is held
# by tests/e2e/util_reuse.py.
. "$(dirname "$0")/util_e2e.sh"
client() { python3 "$root/tests/e2e/util_reuse.py" "$@"; }
enter_work
. "$root/tests/util/server.sh"
trap 'servers_end; rm -rf "$work"' EXIT

"$build/synth" straight model.corm --shape qwen3.6-tiny >log 2>&1 || {
    echo "not ok make a model"
    cat log
    exit 1
}

for t in $(client templates .); do
    server_start "$t" model.corm --chat-template "$t.jinja" -q -t 2 --batch 64 --parallel 1
    one=$port
    server_start "fresh-$t" model.corm --chat-template "$t.jinja" -q -t 2 --parallel 1 --reuse none
    client talk "$t" "$one" "$port" || failed=1
    for p in "$t" "fresh-$t"; do
        server_stop "$p" || {
            echo "not ok $p ends well"
            failed=1
        }
    done
done
exit $failed

# corm-serve from outside: what its APIs answer, to the bits that corm-run gives; who is let in; clients that leave,
# are slow or many; how it ends. The questions are asked by tests/e2e/util_serve.py, which prints a line for each.
. "$(dirname "$0")/util_e2e.sh"
serve=$build/corm-serve
client() { python3 "$root/tests/e2e/util_serve.py" "$@"; }
enter_work

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}

# start NAME OPTION...: a server on a free port; its log is NAME.log, its port in NAME.port.
start() {
    name=$1
    shift
    "$serve" fable.corm --port 0 "$@" 2>"$name.log" &
    echo $! >"$name.pid"
    for try in $(seq 300); do
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
# stop NAME: ends it with SIGTERM and says its exit status.
stop() {
    kill -TERM "$(cat "$1.pid")"
    wait "$(cat "$1.pid")"
}
trap 'for p in *.pid; do kill -9 "$(cat "$p")" 2>/dev/null; done; rm -rf "$work"' EXIT

# ---- what corm-run says ------------------------------------------------------------------------------

"$run" fable.corm -q -p 'Once upon a time' -n 40 --temp 0 --json >greedy.json </dev/null || failed=1
"$run" fable.corm -q -p 'Once upon a time' -n 30 --temp 1 --seed 7 --json >seed.json </dev/null || failed=1
"$run" fable.corm -q --chat --system 'Tell a story.' -p 'About Tim' -n 30 --temp 0 --json >chat.json </dev/null || failed=1

# ---- refused before it starts ------------------------------------------------------------------------

refused() { # refused STATUS TEXT OPTION...
    want=$1 text=$2
    shift 2
    "$serve" "$@" 2>err
    test $? -eq "$want" && grep -q -- "$text" err || { cat err; return 1; }
}
case_ 'no archive' refused 2 'an archive is missing'
case_ 'an address for all needs a key' refused 2 'expected --api-key-file' fable.corm --host 0.0.0.0
: >empty
printf 'two words\n' >blank
case_ 'a key file without a key' refused 1 'holds no key' fable.corm --api-key-file empty
case_ 'a key with a blank' refused 1 'holds a blank' fable.corm --api-key-file blank
case_ 'hosts without a name' refused 1 'parted by commas' fable.corm --allowed-hosts a,,b
case_ 'fewer sessions than sequences' refused 2 'fewer than --parallel' fable.corm --parallel 3 --sessions 2
case_ 'help names the options' eval '"$serve" --help | grep -q -- --api-key-file'
case_ 'help has examples, and no list of one command' eval \
    '"$serve" --help >a && grep -q "^EXAMPLES" a && ! grep -q "^COMMANDS" a'
case_ '-n, the tokens of an answer elsewhere, is no option' refused 2 "unknown option '-n'" fable.corm -n 64
by_run() {
    "$run" serve --help >a && "$serve" --help >b && cmp a b || return 1
    mkdir -p alone && cp "$run" alone/ || return 1
    alone/corm-run serve fable.corm 2>err
    test $? -eq 1 && grep -q 'alone/corm-serve: cannot be started' err
}
case_ 'corm-run serve is corm-serve' by_run

# ---- answers -----------------------------------------------------------------------------------------

start main --parallel 3 --sessions 5 -t 2
client answers "$(cat main.port)" . || failed=1
client doors "$(cat main.port)" . || failed=1
client refusals "$(cat main.port)" . || failed=1
client clients "$(cat main.port)" . || failed=1
case $build in */asan* | */tsan* | */ubsan*) sanitized=sanitized ;; *) sanitized= ;; esac
stress() { python3 "$root/tests/clients/stress.py" "$(cat main.port)" "$(cat main.pid)" few $sanitized; }
case_ 'rude clients leave nothing behind and disturb nobody' stress
taken() {
    "$serve" fable.corm -q --port "$(cat main.port)" 2>err
    test $? -eq 1 && grep -q 'cannot listen on 127.0.0.1' err
}
case_ 'a port that is taken' taken
case_ 'the log has no prompt in it' eval '! grep -q "Once upon\|About Tim" main.log'
case_ 'SIGTERM ends it well' stop main

printf 'first-key\nsecond-key\n' >keys
start keyed --api-key-file keys --allowed-hosts example.test --queue 2 --parallel 1 --max-body 64K --grace 300
client keyed "$(cat keyed.port)" . || failed=1
client full "$(cat keyed.port)" . || failed=1
client ends "$(cat keyed.port)" . "$(cat keyed.pid)" || { failed=1; kill -TERM "$(cat keyed.pid)"; }
wait "$(cat keyed.pid)"
case_ 'an answer in work is finished before the end' test $? -eq 0

start brief --parallel 1 --grace 0
client stops "$(cat brief.port)" . "$(cat brief.pid)" || { failed=1; kill -TERM "$(cat brief.pid)"; }
wait "$(cat brief.pid)"
case_ 'one that breaks answers off ends well' test $? -eq 0

printf '{%% for m in messages %%}{{ m.role }}:{{ m.content }};{%% endfor %%}{%% if add_generation_prompt %%}>{%% endif %%}' >own
start own --chat-template own --reuse none --alias 'a name' -q
client own "$(cat own.port)" . || failed=1
# A template that shows what it is told of thoughts.
cat >thinks <<'EOF'
{%- for m in messages %}{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}{{ m.content }}{% endfor %}
{%- for v in [enable_thinking, reasoning_effort, thinking_budget] if v is defined %}|{{ v }}{% endfor %}<think>
EOF
start thinks --chat-template thinks -q
client thinks "$(cat thinks.port)" . || failed=1
case_ 'one that thinks ends well' stop thinks
case_ 'a quiet one says where it listens, and no more' eval 'test "$(wc -l <own.log)" -eq 1'
case_ 'SIGHUP ends it too' eval 'kill -HUP "$(cat own.pid)"; wait "$(cat own.pid)"'

exit $failed

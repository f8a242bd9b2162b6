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

. "$root/tests/util/server.sh"
trap 'servers_end; rm -rf "$work"' EXIT
start() { # start NAME OPTION...
    name=$1
    shift
    server_start "$name" fable.corm "$@"
}

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
client answers "$port" . || failed=1
client doors "$port" . || failed=1
client refusals "$port" . || failed=1
client clients "$port" . || failed=1
case $build in */asan* | */tsan* | */ubsan*) sanitized=sanitized ;; *) sanitized= ;; esac
stress() { python3 "$root/tests/clients/stress.py" "$port" "$pid" few $sanitized; }
case_ 'rude clients leave nothing behind and disturb nobody' stress
taken() {
    "$serve" fable.corm -q --port "$port" 2>err
    test $? -eq 1 && grep -q 'cannot listen on 127.0.0.1' err
}
case_ 'a port that is taken' taken
case_ 'the log has no prompt in it' eval '! grep -q "Once upon\|About Tim" main.log'
case_ 'SIGTERM ends it well' server_stop main

printf 'first-key\nsecond-key\n' >keys
start keyed --api-key-file keys --allowed-hosts example.test --queue 2 --parallel 1 --max-body 64K --grace 300
client keyed "$port" . || failed=1
client full "$port" . || failed=1
client ends "$port" . "$pid" || { failed=1; kill -TERM "$pid"; }
case_ 'an answer in work is finished before the end' server_wait keyed

start brief --parallel 1 --grace 0
client stops "$port" . "$pid" || { failed=1; kill -TERM "$pid"; }
case_ 'one that breaks answers off ends well' server_wait brief

printf '{%% for m in messages %%}{{ m.role }}:{{ m.content }};{%% endfor %%}{%% if add_generation_prompt %%}>{%% endif %%}' >own
start own --chat-template own --reuse none --alias 'a name' -q
own=$pid
client own "$port" . || failed=1
# A template that shows what it is told of thoughts.
cat >thinks <<'EOF'
{%- for m in messages %}{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}{{ m.content }}{% endfor %}
{%- for v in [enable_thinking, reasoning_effort, thinking_budget] if v is defined %}|{{ v }}{% endfor %}<think>
EOF
start thinks --chat-template thinks -q
client thinks "$port" . || failed=1
case_ 'one that thinks ends well' server_stop thinks
case_ 'a quiet one says where it listens, and no more' eval 'test "$(wc -l <own.log)" -eq 1'
case_ 'SIGHUP ends it too' eval 'kill -HUP "$own"; server_wait own'

exit $failed

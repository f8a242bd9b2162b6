#!/bin/sh
# corm-run chat on the demo checkpoint, through a pipe and on a terminal: turns, what is evaluated anew, commands,
# files and their modes, a full context, Ctrl-C. Prints a line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
pty=$root/tests/e2e/util_pty.py
enter_work
XDG_STATE_HOME=$work/state
export XDG_STATE_HOME

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
# Renders what was said as it is, so that a turn begins with the whole one before it.
cat >turns.jinja <<'END'
{{- bos_token -}}{%- for m in messages -%}{{ m.role }}:{{ m.content }}{{ '\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}assistant:{%- endif -%}
END
turns='--chat-template turns.jinja'

# chat TEXT ARGUMENT...: what is said in lines, to out and err.
chat() {
    said=$1
    shift
    printf "$said" | "$run" chat fable.corm --temp 0 -n 12 "$@" >out 2>err
}
fails() { ! "$@"; }

# ---- through a pipe ---------------------------------------------------------------------------------

answers() {
    chat 'Once upon a time\n' -q $turns && cp out one || return 1
    [ "$(wc -c <one)" -gt 10 ] && [ ! -s err ] || { cat err; return 1; }
    printf '<|endoftext|>user:Once upon a time\nassistant:' >prompt
    "$run" fable.corm -q -f prompt --no-bos -n 12 --temp 0 | cmp - one
}
case_ 'an answer is what the model makes of the rendered message' answers
no_codes() { chat 'Hi\nAnd\n/help\n' && ! grep -q "$(printf '\033')" out err && has_text 'model ' err; }
case_ 'no terminal codes in a pipe' no_codes

# A second turn evaluates what is new, and says what a fresh evaluation of all of it says.
second() {
    chat 'Once upon a time\n/save talk.json\nAnd then she\n' --stats -q $turns || return 1
    first=$(sed -n 's/^prompt  *\([0-9]*\) tokens, 0 kept, \1 evaluated.*; answer 12 tokens.*cache .*/\1/p' err)
    has_text "^prompt  *[0-9]* tokens, $((first + 12)) kept, [0-9]* evaluated" err || return 1
    set -- $(sed -n "s/^prompt  *\([0-9]*\) tokens, $((first + 12)) kept, \([0-9]*\) evaluated.*/\1 \2/p" err)
    [ "$1" -eq $((first + 12 + $2)) ] || { cat err; return 1; }
    tail -n +"$(($(wc -l <one) + 1))" out >two
    chat '/load talk.json\nAnd then she\n' --stats -q $turns && cmp out two || return 1
    has_text "^prompt  *$1 tokens, 0 kept, $1 evaluated" err
}
case_ 'a second turn evaluates its new tokens only, to the same text' second
saved() {
    [ "$(stat -c %a talk.json)" = 600 ] && python3 - <<'END'
import json
talk = json.load(open("talk.json"))
assert [m["role"] for m in talk["messages"]] == ["user", "assistant"], talk
assert talk["messages"][0]["content"] == "Once upon a time", talk
assert talk["messages"][1]["content"] + "\n" == open("one").read(), talk
END
}
case_ 'a saved talk is JSON with mode 0600' saved
over() {
    echo old >other.json && chmod 644 other.json
    chat 'Hi\n/save other.json\n' -q && [ "$(stat -c %a other.json)" = 600 ] && python3 -m json.tool other.json >log &&
        fails chat 'Hi\n/save no/where.json\n' -q && has_text 'no/where.json: cannot write' err
}
case_ 'an old file is replaced, a failure is told' over

undo() {
    chat 'Once upon a time\n/stats\n' -q $turns && has_text '^all  *[1-9][0-9]* tokens' err && ! has_text '^prefill' err || return 1
    chat 'Once upon a time\n/undo\n/stats\n' -q $turns && has_text 'forgotten: Once upon a time' err &&
        has_text 'tokens, 0 messages' err && chat 'Hi\nOnce upon\n/undo\n/save u.json\n' -q &&
        [ "$(grep -o '"role"' u.json | wc -l)" = 2 ] && fails chat '/undo\n' -q && has_text 'nothing was asked yet' err
}
case_ '/undo forgets a question and its answer' undo
again() {
    chat 'Once upon a time\n/regenerate\n/regenerate\n' -q $turns --temp 1 --seed 5 --stats || return 1
    cp out first_run
    has_text 'tokens, [0-9]* kept, 1 evaluated' err || return 1
    chat 'Once upon a time\n/regenerate\n/regenerate\n' -q $turns --temp 1 --seed 5 && cmp out first_run || return 1
    chat 'Once upon a time\n' -q $turns --temp 1 --seed 5 && fails cmp -s out first_run || return 1
    chat 'Once upon a time\n' -q $turns --temp 1 --seed 6 && cp out b || return 1
    chat 'Once upon a time\n/set seed 6\n/regenerate\n/save r.json\n' -q $turns --temp 1 --seed 5 && tail -c $(wc -c <b) out | cmp - b &&
        [ "$(grep -o '"role"' r.json | wc -l)" = 2 ]
}
case_ '/regenerate draws anew, and is repeatable by the seed' again
system() {
    chat 'Hi\n/save s.json\n/system Be brief.\nYo\n/save t.json\n/system\n/clear\n/save v.json\n' -q --system Kind || return 1
    python3 - <<'END'
import json
s, t, v = (json.load(open(f))["messages"] for f in ("s.json", "t.json", "v.json"))
assert s[0] == {"role": "system", "content": "Kind"} and len(s) == 3, s
assert t[0] == {"role": "system", "content": "Be brief."} and len(t) == 5, t
assert v == [], v
END
}
case_ '/system and /clear' system
settings() {
    chat '/set\n' -q && has_text '^temp 0$' err && has_text '^max-tokens 12$' err || return 1
    chat '/set temp 0.7\n/set top-k 3\n/set max-tokens 2\n/set seed 18446744073709551615\n/set\n' -q && has_text '^temp 0.7$' err &&
        has_text '^top-k 3$' err && has_text '^max-tokens 2$' err && has_text '^seed 18446744073709551615$' err || return 1
    for wrong in 'temp -1' 'temp x' 'top-k 1.5' 'top-p 2' 'temp nan' 'seed -1' 'heat 1' 'temp 1 2'; do
        fails chat "/set $wrong\n" -q && has_text '^corm-run: /set ' err || return 1
    done
}
case_ '/set shows, changes and refuses' settings
files() {
    printf 'a file é' >text && chat '/file text\nHi\n/save f.json\nYo\n/save g.json\n' -q && has_text '9 bytes go' err || return 1
    python3 - <<'END' || return 1
import json
f, g = (json.load(open(f))["messages"] for f in ("f.json", "g.json"))
assert f[0]["content"] == "a file é\n\nHi", f
assert g[2]["content"] == "Yo", g
END
    printf 'a\377' >text && fails chat '/file text\n' -q && has_text 'text: byte 1 is not text' err &&
        printf 'a\0b' >text && fails chat '/file text\n' -q && has_text 'text: byte 1 is not text' err &&
        fails chat '/file none\n' -q && has_text 'none: cannot open' err || return 1
    # Twice 600 KB are more than a context of 1024 tokens holds.
    head -c 600000 /dev/zero | tr '\0' a >text && fails chat '/file text\n/file text\n' -q &&
        has_text 'text: at most 1114112 bytes go with a message to a context of 1024 tokens' err
}
case_ '/file goes with the next message' files
commands() {
    fails chat '/nix\n' -q && has_text '/nix: no such command; /help' err && fails chat '/save\n' -q && has_text 'usage: /save PATH' err &&
        fails chat '/clear x\n' -q && has_text 'usage: /clear' err && chat '/quit\nHi\n' -q && [ ! -s out ] || return 1
        chat '/exit\nHi\n' -q && [ ! -s out ] && chat '/bye\nHi\n' -q && [ ! -s out ] || return 1
    chat '//help\n/save h.json\n' -q && has_text '"content": "/help"' h.json || return 1
    chat 'one\\\ntwo\n\n  \n/save l.json\n' -q && has_text '"content": "one.ntwo"' l.json && [ "$(grep -o '"role"' l.json | wc -l)" = 2 ]
}
case_ 'commands, their errors, and lines that are none' commands
loads() {
    for bad in '{' '{"messages": 1}' '[{"role": "tool", "content": ""}]' '[{"role": "user"}]' '[1]' \
        '[{"role": "user", "content": "a\\u0000"}]' '[{"role": "user", "content": ""}, {"role": "system", "content": ""}]'; do
        printf '%s' "$bad" | sed 's/\\\\/\\/g' >bad.json
        fails chat '/load bad.json\n' -q && has_text '^corm-run: bad.json: ' err || return 1
    done
    echo '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A", "reasoning_content": "B"}]' >list.json
    chat '/load list.json\n/save again.json\n' -q && has_text '(2 messages loaded)' err && has_text '"reasoning_content": "B"' again.json
}
case_ '/load takes talks and refuses others' loads
tokens() {
    # What looks like a control token is text: no id of a message is one.
    printf '{%% for m in messages %%}{{ m.content }}{%% endfor %%}' >bare.jinja
    chat '<|endoftext|>\n' -q --stats --chat-template bare.jinja && has_text '^prompt  *[1-9][0-9]* tokens, 0 kept' err
}
case_ 'control tokens in a message are text' tokens
thoughts() {
    cat >think.jinja <<'END'
{%- for m in messages -%}{{ m.reasoning_content or '' }}{{ m.content }}{{ '\n' }}{%- endfor -%}<think>
END
    chat 'Once upon a time\n/save th.json\n' --chat-template think.jinja && [ ! -s out ] && has_text 'the model only thought' err &&
        has_text '"content": "", "reasoning_content": ".' th.json || return 1
    chat 'Once upon a time\n' -q --chat-template think.jinja --thinking show && head -n 1 out | grep -q '^\[thinking\]$' && tail -n 1 out | grep -q '^\[/thinking\]$'
}
case_ 'what a model thinks is kept apart' thoughts

# Each answer has the form that was asked for, from its first token on, and behind what is thought.
forms() {
    printf 'root ::= ("yes" | "no") ", " [a-z]+ "."' >answer.gbnf
    chat 'Once\nAnd\n' -q -n 20 --grammar-file answer.gbnf --temp 1 --seed 3 && [ "$(wc -l <out)" = 2 ] &&
        [ "$(grep -cE '^(yes|no), [a-z]+\.$' out)" = 2 ] || { cat out err; return 1; }
    chat 'Once\n' -q -n 30 --json-schema '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}' &&
        python3 -c 'import json; assert type(json.load(open("out"))["age"]) is int' || { cat out err; return 1; }
    # Where few tokens are left it is brought to its end.
    chat 'Once\n' -q -n 12 --json-schema '{"type": "array", "minItems": 2, "items": {"enum": [7]}}' && python3 -m json.tool out >log || return 1
    fails chat 'Once\n' -q --grammar 'root ::= (' && has_text 'column' err || return 1
    fails chat 'Once\n' -q --grammar 'root ::= "a"' --json-schema '{}' && has_text 'exclude each other' err
}
case_ 'answers of a form' forms
# As in llama.cpp: -m MODEL, --ctx-size.
spelled() {
    printf 'Once upon a time\n' | "$run" chat -m fable.corm --temp 0 -n 12 -q $turns --ctx-size 200 >out 2>err && cmp out one || { cat err; return 1; }
    "$run" -m fable.corm -p Hi -n 0 -q --ctx 100 2>err && "$run" perplexity --model fable.corm -f one -q --ctx-size 64 >log 2>err || { cat err; return 1; }
    fails "$run" fable.corm -m fable.corm -p Hi 2>err && has_text 'TEXT, -p and -f exclude each other' err
}
case_ 'spellings that users of llama.cpp know' spelled

# The program that docs/example_chat.c is says what corm-run chat says.
example() {
    printf 'Once upon a time\nAnd then she\n' | "$build/docs/example_chat" fable.corm 12 >example.out 2>err || { cat err; return 1; }
    chat 'Once upon a time\nAnd then she\n' -q --repeat-penalty 1 && tr -s '\n' <out >a && tr -s '\n' <example.out | cmp - a || return 1
    printf 'Hi\n' | "$build/docs/example_chat" nix.corm 2>err
    [ $? -eq 1 ] && has_text 'nix.corm' err
}
case_ 'the example chats as corm-run does' example

# ---- the context ------------------------------------------------------------------------------------

full() {
    chat 'one\ntwo\nthree\nfour\nfive\nsix\n/save all.json\n' $turns --ctx 96 --stats || { cat err; return 1; }
    has_text 'the context is nearly full ([0-9]* of 96 tokens)' err && has_text 'the model no longer sees the oldest [0-9]* messages' err || return 1
    # At most half of the context is used after that, and all is still in the file.
    sed -n '/no longer sees the oldest/,$p' err | sed -n 's/^prompt  *\([0-9]*\) tokens, .*/\1/p' | head -n 1 >n
    [ "$(cat n)" -le 60 ] && [ "$(grep -o '"role"' all.json | wc -l)" = 12 ] || { cat n err; return 1; }
    # An answer that fills the context is told of once.
    chat 'Once upon a time\n' -n -1 --ctx 24 && has_text 'the context of 24 tokens is full' err &&
        ! has_text 'nearly full' err || { cat err; return 1; }
    fails chat "$(printf 'word %.0s' $(seq 100))\n" $turns --ctx 96 -q && has_text 'the context holds 96; --ctx-size N' err || return 1
    chat 'Once upon a time\n' $turns --ctx 32 -n -1 && has_text 'the answer ends here, the context of 32 tokens is full' err
}
case_ 'a full context is told, and the oldest turns are left out' full
no_template() {
    mkdir -p bare && cp "$fable"/* bare/ && sed -i '/"chat_template"/d; s/\("clean_up.*\),$/\1/' bare/tokenizer_config.json &&
        "$prep" convert -q bare -o bare.corm >log 2>&1 || { cat log; return 1; }
    fails "$run" chat bare.corm -q </dev/null 2>err && has_text 'holds no default chat template: give one with --chat-template' err
}
case_ 'an archive without a chat template' no_template
usage() {
    "$run" chat fable.corm --json </dev/null 2>err
    [ $? -eq 2 ] || return 1
    "$run" fable.corm </dev/null 2>err
    [ $? -eq 2 ] && has_text 'a prompt is missing' err
}
case_ 'options that are not for it, and no talk without a terminal' usage

# ---- on a terminal ----------------------------------------------------------------------------------

command -v python3 >/dev/null 2>&1 || {
    skip 'a talk on a terminal' 'there is no python3'
    exit $failed
}
# on_terminal COMMAND...: the steps of standard input, the terminal's bytes in screen.
on_terminal() {
    cat >steps
    python3 "$pty" steps "$@" >screen
}
talks() {
    rm -rf state
    on_terminal "$run" chat fable.corm --temp 0 -n 12 --stats $turns <<'END' || return 1
wait \x1b\[\?2004h
type Once upon a tim\x7fme\r
wait prompt +[0-9]+ tokens, 0 kept
wait \x1b\[\?2004h
type \x1b[A\x1b[D\x1b[D\x1b[D\x1b[D!\r
wait prompt +[0-9]+ tokens, [1-9][0-9]* kept
wait \x1b\[\?2004h
type \x1b[200~/one\rtwo\x1b[Z\r/three\x1b[201~ end\r
wait prompt +[0-9]+ tokens
wait \x1b\[\?2004h
type a\x1b\rb\r
wait prompt +[0-9]+ tokens
wait \x1b\[\?2004h
type /save t.json\r
wait messages saved
wait \x1b\[\?2004h
type \x04
end 0
END
    python3 - <<'END'
import json
m = [x["content"] for x in json.load(open("t.json"))["messages"][::2]]
assert m == ["Once upon a time", "Once upon a !time", "/one\ntwo[Z\n/three end", "a\nb"], m
END
}
case_ 'editing, history, a pasted text is one message' talks
private() { [ "$(stat -c %a state/corm/history)" = 600 ] && [ "$(stat -c %a state/corm)" = 700 ] && has_text 'Once.040upon' state/corm/history; }
case_ 'the history is private' private
recalls() {
    on_terminal "$run" chat fable.corm --temp 0 -n 4 <<'END' || return 1
wait \x1b\[\?2004h
type \x10\x10\x10\r
wait > 
wait \x1b\[\?2004h
type /save r.json\r
wait saved
wait \x1b\[\?2004h
type /quit\r
end 0
END
    has_text '"content": "/one.ntwo.Z.n/three end"' r.json
}
case_ 'the history outlives the talk' recalls
completes() {
    printf 'in a file' >note.text
    on_terminal "$run" chat fable.corm --temp 0 -n 4 --no-history -q <<'END' || return 1
wait \x1b\[\?2004h
type /h\t\r
wait /regenerate
wait \x1b\[\?2004h
type /s\t
wait /system.*/save.*/stats.*/set
type e\ttem\t\r
wait temp 0
wait \x1b\[\?2004h
type /set re\t\t
wait repeat-penalty.*repeat-last
type l\t\r
wait repeat-last 64
wait \x1b\[\?2004h
type /fi\tnote.te\t\r
wait 9 bytes go with
wait \x1b\[\?2004h
type a\tb\r
wait \x1b\[\?2004h
type /save tab.json\r
wait saved
wait \x1b\[\?2004h
type \x04
end 0
END
    has_text '"content": "in a file.n.na.u0009b"' tab.json
}
case_ 'Tab completes commands, settings and paths' completes
none() {
    rm -rf state
    on_terminal "$run" chat fable.corm --no-history -q <<'END' || return 1
wait \x1b\[\?2004h
type /set temp\r
wait temp [0-9]
wait \x1b\[\?2004h
type \x04
end 0
END
    [ ! -e state ] || return 1
    on_terminal "$run" chat fable.corm --history mine -q <<'END' || return 1
wait \x1b\[\?2004h
type /set temp\r
wait temp [0-9]
wait \x1b\[\?2004h
type \x04
end 0
END
    [ ! -e state ] && [ "$(stat -c %a mine)" = 600 ] && has_text 'set' mine
}
case_ '--no-history and --history' none
stops() {
    on_terminal "$run" chat fable.corm --temp 0 --stats --isa scalar --threads 1 $turns <<'END' || return 1
wait \x1b\[\?2004h
type Once upon a time there was a bird\r
wait 2004l[^\x1b]*[a-z]{3}
type \x03
wait answer [0-9]+ tokens
wait \x1b\[\?2004h
type dropped\x03
wait /quit or Ctrl-D
wait \x1b\[\?2004h
type /nix\r
wait no such command
wait \x1b\[\?2004h
type /save stop.json\r
wait saved
wait \x1b\[\?2004h
type /set max-tokens 5\r
wait \x1b\[\?2004h
type And then\r
wait tokens, [1-9][0-9]* kept, .*answer 5 tokens
wait \x1b\[\?2004h
type \x04
end 0
END
    python3 - <<'END'
import json
m = json.load(open("stop.json"))["messages"]
assert len(m) == 2 and m[1]["content"], m
END
}
case_ 'Ctrl-C stops an answer and keeps the talk' stops
# A prompt that is being read stops as well, between two layers: nothing of this piece is kept.
early() {
    long=$(printf 'Once upon a time there was a bird. %.0s' $(seq 60))
    on_terminal "$run" chat fable.corm --temp 0 --stats --isa scalar --threads 1 --batch 1000 $turns <<END || return 1
wait \x1b\[\?2004h
type $long\r
wait 2004l
type \x03
wait tokens, 0 kept, .*answer 0 tokens
wait \x1b\[\?2004h
type /stats\r
wait context +0 of 1024 tokens, 2 messages
wait \x1b\[\?2004h
type /undo\r
wait forgotten: Once upon a time
wait \x1b\[\?2004h
type \x04
end 0
END
}
case_ 'Ctrl-C stops reading a prompt' early
ended() {
    for name in SIGTERM SIGHUP; do
        on_terminal $default_hup "$run" chat fable.corm -q <<END || return 1
wait \x1b\[\?2004h
type half a line
wait line
signal $name
wait \x1b\[\?2004l
end 130
END
    done
}
# A signal that another thread takes does not wake the one that waits for a key.
masks() {
    mkfifo keys && { "$run" chat fable.corm -q --threads 3 --ram 50M <keys >out 2>err & } && exec 7>keys || return 1
    pid=$! threads=0
    for i in $(seq 100); do
        [ "$(ls /proc/$pid/task 2>/dev/null | wc -l)" -ge 4 ] && break
        sleep 0.1
    done
    sleep 0.2
    for task in /proc/$pid/task/*; do
        [ "${task##*/}" = $pid ] && continue
        blocked=$(sed -n 's/^SigBlk:[[:space:]]*//p' $task/status)
        threads=$((threads + 1))
        [ $((0x$blocked & 0x4003)) -eq $((0x4003)) ] || { echo "$task blocks $blocked"; threads=-100; }
    done
    exec 7>&-
    wait $pid && [ $threads -ge 3 ] || { echo "$threads threads"; cat err; return 1; }
}
case_ 'threads of the engine leave signals alone' masks
[ -n "$default_hup" ] && case_ 'SIGTERM and SIGHUP end it, and the terminal is as it was' ended
resized() {
    on_terminal "$run" chat fable.corm -q --temp 0 -n 3 <<'END'
wait \x1b\[\?2004h
type Once up
size 20 60
type on\r
wait \x1b\[\?2004l
wait \x1b\[\?2004h
type \x04
end 0
END
}
case_ 'a terminal that changes its size' resized
dims() {
    on_terminal "$run" chat fable.corm -q --temp 0 -n 6 --chat-template think.jinja <<'END'
wait \x1b\[\?2004h
type Once upon a time\r
wait \x1b\[2m.*\x1b\[22m
wait \x1b\[\?2004h
type \x04
end 0
END
}
case_ 'what is thought is dim' dims
instead() {
    on_terminal "$run" fable.corm --temp 0 --stats <<'END' || return 1
wait \x1b\[\?2004h
type Once upon a time\r
wait answer [0-9]+ tokens
wait \x1b\[\?2004h
type \x04
end 0
END
    has_text 'Enter sends' screen
}
case_ 'corm-run MODEL on a terminal begins a talk' instead
exit $failed

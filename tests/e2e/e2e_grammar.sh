# corm-run with a grammar or a JSON schema: what it writes has the form, whatever the seed; what is wrong with one is
# told with its place. Prints a line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
enter_work

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
cat >schema.json <<'SCHEMA'
{"type": "object", "required": ["name", "age"], "properties": {
    "name": {"type": "string", "minLength": 2, "maxLength": 30}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
    "likes": {"type": "array", "maxItems": 4, "items": {"enum": ["cats", "dogs", "tea"]}}}}
SCHEMA

# go ARGUMENT...: corm-run's text of a prompt; its remarks in err.
go() { "$run" fable.corm -q -p 'Once upon a time there was' "$@" 2>err </dev/null; }

# ---- the form ----------------------------------------------------------------------------------------

cat >check.py <<'CHECK'
import json, sys
v = json.load(sys.stdin)
assert 2 <= len(v["name"]) <= 30 and type(v["age"]) is int and 0 <= v["age"] <= 99, v
assert set(v) <= {"name", "age", "likes"}, v
assert len(v.get("likes", [])) <= 4 and all(l in ("cats", "dogs", "tea") for l in v.get("likes", [])), v
CHECK
by_schema() {
    for seed in 1 2 3 4 5 6 7 8; do
        go --seed $seed --temp 1.5 -n 200 "$@" >out && python3 check.py <out || { cat out err; return 1; }
    done
}
short() { # a text of few tokens is brought to its end
    for n in 40 60; do
        go --seed 1 --temp 1.5 -n $n --json-schema-file schema.json >out && python3 check.py <out || return 1
    done
}
any_json() {
    go --seed 2 -n 40 --json-schema '{}' >out && python3 -m json.tool out
}
if command -v python3 >/dev/null 2>&1; then
    case_ 'JSON of a schema' by_schema --json-schema-file schema.json
    case_ 'JSON of a schema in the argument' by_schema -j "$(cat schema.json)"
    case_ 'the likeliest JSON of a schema' by_schema --json-schema-file schema.json --temp 0
    case_ 'JSON of a schema, with --chat' by_schema --chat --json-schema-file schema.json
    case_ 'JSON of a schema, filters after the mask' by_schema --json-schema-file schema.json --top-k 1 --temp 3
    case_ 'JSON that few tokens are left for' short
    case_ 'any JSON' any_json
else
    skip 'JSON of a schema' 'no python3'
fi
by_grammar() {
    printf 'root ::= name " " ("likes" | "eats") " " name "."\nname ::= [A-Z] [a-z]{2,6}\n' >names.gbnf
    for seed in 1 2 3 4 5 6; do
        go --seed $seed --temp 2 --grammar-file names.gbnf >out || return 1
        grep -Exq '[A-Z][a-z]{2,6} (likes|eats) [A-Z][a-z]{2,6}\.' out && test "$(wc -l <out)" -eq 1 || { cat out; return 1; }
    done
}
case_ 'text of a grammar' by_grammar
told() {
    go --json --grammar 'root ::= "yes" | "no"' >out && grep -Eq '"text": "(yes|no)", "ended_by": "(grammar|stop_token)"' out
}
case_ 'the end is told' told
# Behind a thought that the template began; the model, which knows no tags, never ends it.
printf '{%% for m in messages %%}{{ m.content }}{%% endfor %%}<think>' >thinks
waits() {
    go --chat --chat-template thinks -n 20 --temp 0 >free && test -s free &&
        go --chat --chat-template thinks -n 20 --temp 0 --grammar 'root ::= "yes"' | cmp - free
}
case_ 'thoughts have no form' waits

# ---- what is refused ---------------------------------------------------------------------------------

# bad STATUS TEXT ARGUMENT...: one line on standard error has the text.
bad() {
    want=$1 text=$2
    shift 2
    go "$@" >out
    got=$?
    test $got -eq "$want" && test "$(wc -l <err)" -eq 1 && grep -q -e "$text" err && test ! -s out || { cat err; return 1; }
}
case_ 'a grammar with a mistake' bad 1 '^corm-run: grammar: line 2, column 2: .*foo' --grammar 'root ::= "a" |
 foo'
printf 'root ::= "a\n' >bad.gbnf
case_ 'a file with a mistake' bad 1 '^corm-run: bad.gbnf: grammar: line 1, column ' --grammar-file bad.gbnf
case_ 'a keyword that is not supported' bad 1 'JSON schema: .*"not" is not supported' --json-schema '{"not": {}}'
case_ 'a schema that is no JSON' bad 1 'JSON schema: line 1, column ' --json-schema '{"type":'
case_ 'a token that the model does not have' bad 1 '<nosuch>' --grammar 'root ::= <nosuch>'
case_ 'no such grammar' bad 1 'absent: cannot open' --grammar-file absent
case_ 'a grammar and a schema' bad 2 'exclude each other' --grammar 'root ::= "a"' --json-schema '{}'
case_ 'a grammar and no end' bad 2 'ignore-eos' --grammar 'root ::= "a"' --ignore-eos

exit $failed

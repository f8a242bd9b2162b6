#!/bin/sh
# corm-run from end to end on the demo checkpoint: text, figures, logits, bad input, interruption. Prints a
# line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
enter_work
golden=$root/tests/golden

# go STATUS ARGUMENT...: runs corm-run on out, err; succeeds where it ends with the status.
go() {
    want=$1
    shift
    "$run" "$@" >out 2>err </dev/null
    got=$?
    [ "$got" -eq "$want" ] || {
        echo "corm-run $*: exit status $got, expected $want"
        cat err
        return 1
    }
}
# text ARGUMENT...: greedy text of a short prompt, with further options, on standard output.
text() { "$run" fable.corm -q -p 'Once upon a time' -n 40 --temp 0 "$@" </dev/null; }
# number KEY: the first value that the JSON line in out gives the key; nothing with commas.
number() { grep -o "\"$1\": [^,}]*" out | head -n 1 | sed 's/^[^:]*: //'; }
# json: out is one line, and JSON.
json() {
    [ "$(wc -l <out)" -eq 1 ] || { echo "expected one line of JSON"; cat out; return 1; }
    if command -v python3 >/dev/null 2>&1; then
        python3 -m json.tool <out >/dev/null
    else
        grep -q '^{"command": .*}$' out
    fi
}

"$build/corm-prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
tr -d '\n' <"$golden/models/fable/prompt.txt" >prompt.txt

# ---- text ------------------------------------------------------------------------------------------

text >greedy.txt || failed=1
case_ 'greedy text is the same every time' eval 'test -s greedy.txt && text | cmp - greedy.txt'
for options in '--threads 1' '--threads 2' '--batch 1' '--batch 3' '--top-k 1 --temp 3 --seed 5' \
    '--top-p 0 --temp 3 --seed 5'; do
    case_ "greedy text with $options" eval "text $options | cmp - greedy.txt"
done
case_ 'instruction set scalar writes text' eval 'test -n "$(text --isa scalar)"'

sampled() { "$run" fable.corm -q -p 'Once upon a time' -n 60 --temp 1 "$@" </dev/null; }
seeds() {
    sampled --seed 1 >one && sampled --seed 1 --threads 1 >again && sampled --seed 2 >two || return 1
    cmp one again && ! cmp -s one two
}
case_ 'a seed gives its text, another seed another' seeds
own_seed() {
    go 0 fable.corm -q --json -p 'Once upon a time' -n 60 --temp 1 && json || return 1
    seed=$(number seed)
    cp out first_run
    go 0 fable.corm -q --json -p 'Once upon a time' -n 60 --temp 1 --seed "$seed" || return 1
    grep -o '"text": .*, "ended_by"' first_run >a
    grep -o '"text": .*, "ended_by"' out >b
    test -s a && cmp a b
}
case_ 'a seed that the run chose gives the text again' own_seed

prompts() {
    printf 'Once upon a time' | "$run" fable.corm -q -p - -n 40 --temp 0 | cmp - greedy.txt || return 1
    echo 'Once upon a time' >file
    "$run" fable.corm -q -f file -n 40 --temp 0 | cmp - greedy.txt || return 1
    "$run" generate fable.corm -q --prompt='Once upon a time' -n40 --temp 0 | cmp - greedy.txt
}
case_ 'prompt from an argument, standard input, a file' prompts
# A prompt is read and tokenized in pieces: its ids are those of the whole text, without the newline at its
# end, also where a piece of 64 KiB ends with one.
in_pieces() {
    { yes 'The river rose in spring,  and the wheel sang. ' | tr -d '\n' | head -c 65535 && printf '\n\nnow\n' &&
        yes 'Once upon a time' | head -c 40000; } >pieces.txt
    n=$(head -c -1 pieces.txt | "$build/corm-prep" tokenize fable.corm | wc -w)
    head -c 65537 pieces.txt >short.txt
    short=$(head -c -1 short.txt | "$build/corm-prep" tokenize fable.corm | wc -w)
    for file in pieces.txt short.txt; do
        [ $file = pieces.txt ] || n=$short
        go 1 fable.corm -q -f $file --ctx 100 && grep -q "the prompt has $n tokens, the context holds 100;" err || return 1
        cat $file | "$run" fable.corm -q -p - --ctx 100 2>err
        grep -q "the prompt has $n tokens, the context holds 100;" err || return 1
    done
}
case_ 'a long prompt is read in pieces' in_pieces
chat() {
    nl='
'
    "$run" fable.corm -q --chat --system ' Be é ' -p ' Hi ' -n 0 --echo --show-special >a &&
        printf '<|endoftext|>Be é\nHi\n' | cmp - a || return 1
    # What looks like a control token is text, and no id of it.
    "$run" fable.corm -q --chat -p 'a<|endoftext|>b' -n 0 --echo >a && printf 'a<|endoftext|>b\n' | cmp - a || return 1
    for way in '-p -' '-f message'; do # without the newline at the end
        echo 'a<|endoftext|>b' >message
        # shellcheck disable=SC2086
        "$run" fable.corm -q --chat $way -n 0 --echo <message >b && cmp a b || return 1
    done
    printf 'a\0b' >message && go 1 fable.corm -q --chat -f message && grep -q 'no text with a NUL' err || return 1
    go 0 fable.corm -q --json --chat -p 'a<|endoftext|>b' -n 0 && grep -q '"prompt_tokens": [1-9][0-9]' out || return 1
    "$run" fable.corm -q --chat -p Hi -n 20 --temp 0 >a &&
        "$run" fable.corm -q --no-bos -p "<|endoftext|>Hi$nl" -n 20 --temp 0 | cmp - a || return 1
    printf '{{ bos_token }}{%% for m in messages %%}{{ m.role }}:{{ m.content }};{%% endfor %%}{{ add_generation_prompt }}' >own
    "$run" fable.corm -q --chat --chat-template own -p Hi -n 0 --echo >a && printf 'user:Hi;True\n' | cmp - a || return 1
    printf 'a\n{{ raise_exception("no") }}' >own
    go 1 fable.corm -q --chat --chat-template own -p Hi && grep -q 'own: .*line 2, column 19: the template refuses: no' err ||
        { cat err; return 1; }
    go 2 fable.corm -q --system x -p Hi && grep -q 'are for --chat' err &&
        go 2 fable.corm -q --chat --no-bos -p Hi && grep -q 'not for it' err
}
case_ '--chat puts the prompt as the template has it' chat
events() {
    go 0 fable.corm -q --json-events -p 'Once upon a time' -n 40 --temp 0 || return 1
    [ "$(wc -l <out)" = 41 ] && head -n 1 out | grep -q '^{"event": "token", "index": 0, "id": [0-9]*, "text": ".*"}$' || return 1
    cp out events.txt
    tail -n 1 events.txt >out && json && [ "$(number generated_tokens)" = 40 ] || return 1
    command -v python3 >/dev/null 2>&1 || return 0
    python3 - <<'END' || return 1
import json
*events, last = map(json.loads, open("events.txt"))
assert [e["index"] for e in events] == list(range(40)), events
assert "".join(e["text"] for e in events) == last["text"], last
END
    # The object is that of --json, but for times; and an echoed prompt is no token.
    go 0 fable.corm -q --ram 1G --json -p 'Once upon a time' -n 40 --temp 0 --seed 1 && sed 's/"prefill.*//' out >a && [ "$(wc -l <out)" = 1 ] &&
        go 0 fable.corm -q --ram 1G --json-events -p 'Once upon a time' -n 40 --temp 0 --seed 1 && tail -n 1 out | sed 's/"prefill.*//' | cmp - a || return 1
    go 0 fable.corm -q --json-events --echo -p Once -n 1 --temp 0 && head -n 1 out | grep -q '^{"event": "text", "text": ' &&
        [ "$(grep -c '"event": "token"' out)" = 1 ]
}
case_ '--json-events tells each token' events
echo_() { printf 'Once upon a time' | cat - greedy.txt >both && text --echo | cmp - both; }
case_ '--echo puts the prompt in front' echo_
case_ '-n 0 writes nothing' eval 'go 0 fable.corm -q -p x -n 0 && test ! -s out'
case_ 'golden greedy text' eval \
    '"$run" fable.corm -q --kv f32 -f prompt.txt -n 64 --temp 0 --repeat-penalty 1 --ignore-eos --show-special \
    >out && printf "%s\n" "$(cat out)" >out2 && printf "%s\n" "$(cat "$golden/models/fable/greedy.txt")" >want &&
    { cmp out2 want || { cat prompt.txt out2; false; } }'

# parts N...: a sampled text in parts of so many tokens, through a session file, is that of one go.
parts() {
    rm -f tale
    total=0 prompt='-p Once'
    : >whole
    for n in "$@"; do
        "$run" fable.corm -q $prompt -n "$n" --temp 1 --seed 3 --session tale $options </dev/null >part || return 1
        [ ! -e tale.tmp ] || return 1
        head -c -1 part >>whole # less the newline behind the text
        total=$((total + n)) prompt=
    done
    "$run" fable.corm -q -p Once -n "$total" --temp 1 --seed 3 </dev/null >part
    head -c -1 part | cmp - whole || { cat part whole; return 1; }
}
options=
case_ 'a text in parts through a session file is that of one go' parts 1 19 0 12 8
options='--threads 1 --batch 3 --ctx 300'
case_ 'also with other threads, batch and context' parts 21 19
session_prompt() { # further prompts go on where it is, and get no BOS
    rm -f tale
    "$run" fable.corm -q -p 'Once upon' -n 0 --session tale </dev/null &&
        "$run" fable.corm -q -p ' a time' -n 40 --temp 0 --session tale </dev/null | cmp - greedy.txt || return 1
    go 0 fable.corm --isa scalar -n 3 --session tale && grep -q 'another way: its [0-9]* tokens are read again' err &&
        go 0 fable.corm -q -n 3 --session tale --isa scalar --json && json && test ! -s err &&
        test "$(number prompt_tokens)" -eq 0 && test "$(number generated_tokens)" -eq 3
}
case_ '--session takes further prompts, and reads again what was computed in another way' session_prompt
session_refused() {
    cp tale good && head -c 1000 good >tale
    go 1 fable.corm -q -n 3 --session tale && [ "$(wc -l <err)" -eq 1 ] && grep -q 'tale: cut short' err || return 1
    echo hello >tale
    go 1 fable.corm -q -n 3 --session tale && grep -q 'tale: not a session file' err || return 1
    [ "$(cat tale)" = hello ] || return 1 # what was refused is not replaced
    cp good tale
    go 1 fable.corm -q -n 3 --session tale --ctx 8 && grep -q 'a session of [0-9]* tokens, the context holds 8' err &&
        go 2 fable.corm -q --chat -p x --session tale && grep -q 'exclude each other' err &&
        go 2 fable.corm -q --session none && grep -q 'a prompt is missing' err &&
        go 1 fable.corm -q -p x -n 1 --session none/none && grep -q 'none/none.tmp: cannot create' err && cmp good tale
}
case_ 'session files that do not fit are refused in one line' session_refused

utf8() {
    for seed in 1 2; do
        "$run" fable.corm -q -p 'x' -n 500 --temp 50 --top-k 0 --top-p 1 --min-p 0 --ignore-eos \
            --seed "$seed" >"utf8.$seed" || return 1
        iconv -f UTF-8 -t UTF-8 "utf8.$seed" >/dev/null || return 1
    done
    # Random bytes must have been among them: they come out as U+FFFD.
    grep -q "$(printf '\357\277\275')" utf8.*
}
if command -v iconv >/dev/null 2>&1; then
    case_ 'whatever is drawn, the text is UTF-8' utf8
else
    skip 'whatever is drawn, the text is UTF-8' 'no iconv'
fi

context_full() {
    go 0 fable.corm -p 'Once upon a time' -n -1 --ctx 32 --ignore-eos --stats || return 1
    grep -q '^corm-run: the context of 32 tokens is full' err || { cat err; return 1; }
    go 0 fable.corm -q -p 'Once upon a time' -n -1 --ctx 32 --ignore-eos --json && json || return 1
    test ! -s err && test "$(number ended_by)" = '"context"' &&
        test $(($(number prompt_tokens) + $(number generated_tokens))) -eq 33
}
case_ 'a full context ends the text, and is told' context_full
end_of_text() {
    for seed in 1 2 3 4 5 6 7 8; do
        go 0 fable.corm -q -p 'Once upon a time' -n -1 --seed $seed --json && json || return 1
        test "$(number ended_by)" = '"stop_token"' && return 0
    done
    return 1
}
case_ 'the token that ends a text ends it' end_of_text

# ---- budgets: the same text in the least memory that works -----------------------------------------

least_memory() {
    go 1 fable.corm -p x --ram 1M || return 1
    test ! -s out && grep -q 'too small' err || return 1
    least=$(sed -n 's/.*: \([0-9]*\) MiB would do.*/\1/p' err)
    test -n "$least" || { cat err; return 1; }
    text --ram "${least}M" | cmp - greedy.txt
}
case_ 'a budget too small names the one that would do' least_memory
case_ 'part of the available memory' eval 'text --ram 50% | cmp - greedy.txt'
case_ 'memory plan before, figures after' eval 'go 0 fable.corm -p x -n 5 --stats --seed 3 &&
    grep -q "^memory .* of " err && grep -q "^compute " err && grep -q "^prefill .* tok/s" err &&
    grep -q "^decode .* tok/s" err && grep -q "^cache .*hits" err && grep -q "^stall " err &&
    grep -Eq "^logits +hash [0-9a-f]{16}$" err && grep -q "^sampling --seed 3 " err'
packed() {
    text --keep packed | cmp - greedy.txt && go 0 fable.corm -p x -n 2 --keep packed &&
        grep -q '^memory .*, packed; the whole model fits$' err
}
case_ '--keep packed keeps experts so, and gives the same text' packed
case_ '--quiet is quiet' eval 'go 0 fable.corm -q -p x -n 5 && test ! -s err'

# ---- logits ----------------------------------------------------------------------------------------

hash() {
    "$run" logits fable.corm -q --ids 5,300,77,4095,0,12,9 "$@" >out 2>err || { cat err; return 1; }
    grep -E '^logits hash [0-9a-f]{16}$' out
}
same_hash() {
    want=$(hash --threads 1) || return 1
    for options in '--threads 2' '--batch 1' '--batch 2 --threads 2' '--ram 60M' '--keep packed' \
        '--keep packed --ram 52M'; do
        got=$(hash $options) || return 1
        test "$got" = "$want" || { echo "$options: $got, not $want"; return 1; }
    done
}
case_ 'logits are the same bits for all threads, batches, budgets' same_hash
npy() {
    hash -o a.npy && printf '5 300\n77\t4095,0 12\n9\n' >ids || return 1
    go 0 logits fable.corm -q --ids-file ids --batch 2 -o b.npy && cmp a.npy b.npy || return 1
    # An id lies across the end of a piece of 64 KiB.
    printf '5 300 77 %65531s 12 9' 4095,0 >ids && [ "$(head -c 65536 ids | tail -c 2)" = 40 ] || return 1
    go 0 logits fable.corm -q --ids-file ids --batch 2 -o b.npy && cmp a.npy b.npy || return 1
    test "$(wc -c <a.npy)" -eq $((128 + 7 * 4096 * 4)) && test ! -e a.npy.part || return 1
    head -c 128 a.npy | grep -aq "{'descr': '<f4', 'fortran_order': False, 'shape': (7, 4096), } *$" &&
        test "$(head -c 6 a.npy | tail -c 5)" = NUMPY
}
case_ 'logits as .npy' npy
case_ 'logits --json' eval 'go 0 logits fable.corm -q --json --ids 1,2 -o c.npy && json &&
    test "$(number output)" = "\"c.npy\"" && test "$(number vocab)" = 4096'

# A key's norm of 51016 (bf16 0x4747) makes keys that f16 cannot hold; f32 can.
beyond_f16() {
    rm -rf wide && cp -r "$golden/models/qwen3moe-tiny" wide && chmod -R u+w wide &&
        fill_tensor wide model.layers.1.self_attn.k_norm.weight 107 &&
        "$build/corm-prep" convert -q wide -o wide.corm || return 1
    head -c 2000 "$root/README.md" >wide.txt
    for command in 'logits wide.corm -q --ids 1,2,3,4 -o wide.npy' 'perplexity wide.corm -q -f wide.txt' \
        'wide.corm -q -p Once' 'bench wide.corm -q --prompt-tokens 8 --decode-tokens 4'; do
        go 1 $command && cat err || return 1
        grep -q '^corm-run: .*position [0-9]* has keys in layer 1 that f16 cannot hold: --kv f32' err &&
            [ "$(wc -l <err)" -eq 1 ] && [ ! -e wide.npy ] || return 1
        go 0 $command --kv f32 || return 1
        rm -f wide.npy
    done
}
case_ 'keys that f16 cannot hold' beyond_f16
not_finite() {
    fill_tensor wide model.norm.weight 177 && "$build/corm-prep" convert -q -f wide -o wide.corm &&
        go 1 logits wide.corm -q --kv f32 --ids 1,2,3,4 -o wide.npy && cat err &&
        grep -q 'the logits of the id at position 0 are not finite' err && [ ! -e wide.npy ] || return 1
    go 1 perplexity wide.corm -q --kv f32 -f wide.txt && grep -q 'not finite' err
}
case_ 'logits that are not finite' not_finite

# ---- BOS written out in a text that gets one anyway -----------------------------------------------------

twice() {
    remark='the text has <|endoftext|> where the tokenizer adds one'
    printf '<|endoftext|>Once upon a time' >bos.txt
    [ "$("$build/corm-prep" tokenize fable.corm -p '<|endoftext|>Once' 2>err)" = '0 0 761' ] &&
        grep -q "^corm-prep: $remark" err || return 1
    for command in 'fable.corm -n 1 --temp 0 -f bos.txt' 'perplexity fable.corm --bos -f bos.txt'; do
        go 0 $command && grep -q "^corm-run: $remark" err && go 0 $command -q && [ ! -s err ] &&
            go 0 $command --no-special && ! grep "$remark" err || return 1
    done
    go 0 fable.corm -n 1 --no-bos -f bos.txt && ! grep "$remark" err &&
        go 0 perplexity fable.corm -f bos.txt && ! grep "$remark" err &&
        go 0 fable.corm -n 1 -p 'Once <|endoftext|>' && ! grep "$remark" err
}
case_ 'a text that begins with BOS' twice

# ---- positions beyond those of training --------------------------------------------------------------

further() {
    long='corm-run: a context of 2000 tokens, the model was trained for 1024'
    go 0 fable.corm -p 'Once upon a time' -n 5 --ctx 2000 --temp 0 && cp out beyond &&
        grep -q "^$long" err && go 0 fable.corm -q -p 'Once upon a time' -n 5 --ctx 1024 --temp 0 &&
        [ ! -s err ] && cmp out beyond || return 1
    yes 'a dog and a cat ' | head -n 270 >far.txt
    go 0 perplexity fable.corm -f far.txt --ctx 2000 -n 1100 && grep -q "^$long" err &&
        go 0 fable.corm -f far.txt -n 5 --ctx 2000 && go 1 fable.corm -q -f far.txt -n 5 --ctx 1024 &&
        grep -q 'the prompt has .*, the context holds 1024.*--ctx-size N makes it larger' err
}
case_ 'more positions than the model was trained for' further

# ---- perplexity and bench --------------------------------------------------------------------------

perplexity() { "$run" perplexity fable.corm -q -f "$golden/heldout.txt" "$@" 2>err | tail -n 1; }
# A cache in 8 bits: the same text however it is computed and kept, a perplexity that is hardly another, half the memory.
small_cache() {
    text --kv q8 >small.txt && [ -s small.txt ] || return 1
    for how in '--threads 1' '--threads 2' '--batch 1' '--batch 3' '--ram 60M'; do
        # shellcheck disable=SC2086
        text --kv q8 $how | cmp - small.txt || return 1
    done
    logits='logits fable.corm -q --ids 1,2,3,4,5,6,7,8'
    # shellcheck disable=SC2086
    go 0 $logits --kv q8 -o one.npy && go 0 $logits -o wide.npy && ! cmp -s one.npy wide.npy &&
        go 0 $logits --kv q8 --threads 1 --batch 3 -o small.npy && cmp small.npy one.npy || return 1
    rm -f tale
    for n in 7 13 20; do
        said=$([ -e tale ] || echo 'Once upon a time')
        "$run" fable.corm -q -n $n --temp 0 --kv q8 --session tale -p "$said" 2>err || return 1
    done >parts.txt
    [ "$(tr -d '\n' <parts.txt)" = "$(tr -d '\n' <small.txt)" ] || { cat parts.txt small.txt; return 1; }
    both="$(perplexity --kv q8) $(perplexity)"
    echo "$both" | awk '{ exit !($2 != $7 && $2 / $7 > 0.998 && $2 / $7 < 1.002) }' || { echo "$both"; return 1; }
    go 0 perplexity fable.corm -f "$golden/heldout.txt" --kv q8 --json && json && number kv && [ "$(number kv)" = '"q8"' ]
}
case_ 'a KV cache in q8' small_cache
narrow_heads() {
    "$build/corm-prep" convert -q "$golden/models/olmoe-tiny" -o narrow.corm && go 1 narrow.corm -p x --kv q8 &&
        has_text 'narrow.corm: a KV cache in q8: layer 0 has heads of [0-9]* numbers, expected a multiple of 32' err
}
case_ 'a KV cache in q8 of heads that are no rows of it' narrow_heads
like_transformers() { # the table of the golden vectors has the value: "45.32800 over 2126"
    want=$(sed -n 's/^| fable .*| \([0-9.]* over [0-9]*\) |$/\1/p' "$golden/README.md")
    got=$(perplexity) || return 1
    echo "$got; transformers: $want"
    echo "$got $want" | awk '$1 == "perplexity" && $3 == "over" && $5 == "tokens" && NF == 8 && $4 == $8 {
        error = ($2 - $6) / $6; close_ = error < 0.001 && error > -0.001 } END { exit !close_ }'
}
case_ "perplexity is that of transformers" like_transformers
perplexity_same() {
    want=$(perplexity -n 300) || return 1
    for options in '--threads 1' '--batch 7' '--stride 256' '--ram 60M'; do
        got=$(perplexity -n 300 $options)
        test "$got" = "$want" || { echo "$options: $got, not $want"; return 1; }
    done
    got=$("$run" perplexity fable.corm -q -n 300 -f - <"$golden/heldout.txt" | tail -n 1)
    test "$got" = "$want"
}
case_ 'perplexity is the same for all threads, batches, budgets' perplexity_same
# Overlapping windows score every token but the first, and foresee better with more before each token.
strides() {
    apart=$(perplexity --ctx 128 -n 500) && over=$(perplexity --ctx 128 --stride 32 -n 500) || return 1
    echo "$apart / $over"
    echo "$apart $over" | awk '{ exit !($4 == 500 - 4 && $9 == 499 && $7 < $2) }'
}
case_ 'perplexity with a stride' strides
case_ 'perplexity --json' eval 'go 0 perplexity fable.corm -q -n 300 -f "$golden/heldout.txt" --json && json &&
    test "$(number tokens)" != "" && test "perplexity $(printf %.5f "$(number perplexity)")" = \
    "$(perplexity -n 300 | sed "s/ over.*//")"'
case_ 'bench' eval 'go 0 bench fable.corm --prompt-tokens 20 --decode-tokens 4 --reps 2 &&
    grep -Eq "^prefill +20 +[0-9.]+" out && grep -Eq "^decode +4 +[0-9.]+" out'
bench_json() {
    go 0 bench fable.corm -q --json --prompt-tokens 9 --decode-tokens 3 --reps 3 -f "$golden/heldout.txt" &&
        json && grep -q '"prefill": {"tokens": 9, "tok_per_s": [1-9]' out &&
        grep -q '"decode": {"tokens": 3, "tok_per_s": [1-9]' out && test "$(number reps)" = 3
}
case_ 'bench --json, on a text' bench_json
# Of six layers the first is guessed from the embedding, the first five guess the next, the first four the
# one after it. Guesses find more than none, and read more than the best that knows the future.
bench_trace() {
    go 0 bench fable.corm -q --json --trace --prompt-tokens 9 --decode-tokens 60 -f "$golden/heldout.txt" &&
        json && test "$(number guesses)" = $((60 * 10)) && grep -o '"experts": 24,.*"experts": 36' out |
        tr -d '":,{}' | awk '{ for (i = 1; i < NF; i++) if (!($i in at)) at[$i] = i
            for (i = at["experts_read_per_tok"]; i < NF; i++) if (!($i in read)) read[$i] = $(i + 1)
            exit !($(at["own"] + 1) < $(at["own_guess_1"] + 1) && $(at["own_guess_1"] + 1) < $(at["own_guess"] + 1) &&
                   read["belady"] < read["own"] && read["own"] < read["own_guess"]) }'
}
case_ 'bench --trace: more hits with guesses, and what they read' bench_trace
"$build/corm-prep" convert -q "$golden/models/mixtral-tiny" -o tiny-experts.corm
# A tenth of 18 experts is 1, and a token uses 2 of a layer at a time.
few_experts() {
    go 0 bench tiny-experts.corm -q --trace --prompt-tokens 9 --decode-tokens 8 &&
        grep -q '^ 25 % = 4 ' out && ! grep -q '^ 10 %' out
}
case_ 'bench --trace of a model with few experts' few_experts

# The weights of the last norm become infinite, with every checksum right.
infinite() {
    python3 -B - "$golden" tiny-experts.corm infinite.corm <<'END' || return 1
import struct, sys
sys.path.insert(0, sys.argv[1])
from read_corm import xxh3
b = bytearray(open(sys.argv[2], "rb").read())
count, table = struct.unpack_from("<I", b, 12)[0], struct.unpack_from("<Q", b, 40)[0]
for entry in range(table, table + 32 * count, 32):
    kind, _, at, size = struct.unpack_from("<IIQQ", b, entry)
    if kind == 3:
        slot, = struct.unpack_from("<I", b, at + 48)
        place, n = struct.unpack_from("<QQ", b, at + 48 + 24)
        assert slot == 1
        b[place:place + n] = struct.pack("<f", float("inf")) * (n // 4)
        struct.pack_into("<Q", b, at + 48 + 40, xxh3(bytes(b[place:place + n])))
        struct.pack_into("<Q", b, entry + 24, xxh3(bytes(b[at:at + size])))
struct.pack_into("<Q", b, 48, xxh3(bytes(b[table:])))
struct.pack_into("<Q", b, 120, xxh3(bytes(b[:120])))
open(sys.argv[3], "wb").write(b)
END
    ends_not_finite infinite.corm -p x -n 3 && ends_not_finite perplexity infinite.corm -n 40 -f "$golden/heldout.txt" &&
        ends_not_finite bench infinite.corm --trace --prompt-tokens 3
}
ends_not_finite() {
    go 1 "$@" -q && test "$(wc -l <err)" -eq 1 &&
        grep '^corm-run: infinite.corm: .*logits.* are not finite$' err
}
if command -v python3 >/dev/null 2>&1; then
    case_ 'logits that are not finite end a command, and the model is named' infinite
else
    skip 'logits that are not finite' 'no python3'
fi

# ---- interruption, closed ends ---------------------------------------------------------------------

# The shell lets background programs ignore SIGINT; env undoes that.
interrupted() {
    rm -f out
    env --default-signal=INT "$run" fable.corm -p 'Once upon a time' -n -1 --ignore-eos --isa scalar \
        --threads 1 --stats "$@" >out 2>err </dev/null &
    pid=$!
    tries=0
    until [ -s out ] || [ "$tries" -eq 400 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -INT "$pid" || { echo "ended before it could be interrupted"; return 1; }
    wait "$pid"
    got=$?
    cat err
    [ "$got" -eq 130 ] || { echo "exit status $got"; return 1; }
    [ "$(tail -c 1 out | wc -l)" -eq 1 ] && [ -s out ] && grep -q '^logits ' err
}
if env --default-signal=INT true 2>/dev/null; then
    case_ 'Ctrl-C ends the text that streams out, with figures' interrupted
else
    skip 'Ctrl-C ends the text that streams out, with figures' 'env cannot reset signals'
fi
# Others who ask for an end leave no half-written file either; nor does an end that cannot be put off.
ended() { # SIGNAL STATUS
    awk 'BEGIN { for (i = 0; i < 1000; i++) print i }' >many
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -f z.npy*
        (ulimit -c 0 && exec $default_hup "$run" logits fable.corm -q --ids-file many --isa scalar --threads 1 --batch 4 \
            -o z.npy) >out 2>err </dev/null &
        pid=$!
        # Once something is in it, the program knows that it is to be removed. (What is left in the moment
        # before, or by SIGKILL, the next one removes.)
        while [ ! -s z.npy.part ] && kill -0 $pid 2>/dev/null; do :; done
        kill -"$1" "$pid" 2>/dev/null
        wait "$pid"
        got=$?
        [ $got -ne 0 ] || continue
        ls z.npy* 2>/dev/null
        [ $got -eq "$2" ] && [ ! -e z.npy ] && [ ! -e z.npy.part ]
        return
    done
    echo 'never ended in time'
    return 1
}
case_ 'SIGTERM leaves no half-written file' ended TERM 130
case_ 'SIGHUP leaves no half-written file' ended HUP 130
case_ 'an abort leaves no half-written file' ended ABRT 134
case_ 'a limit on time leaves no half-written file' ended XCPU 152
case_ 'an alarm leaves no half-written file' ended ALRM 142
session_ended() { # as above, while a session is written
    for try in $(seq 40); do
        rm -f killed.session*
        (ulimit -c 0 && exec "$run" fable.corm -q -p Once -n 300 --ignore-eos --temp 1 --session killed.session) \
            >out 2>err </dev/null &
        pid=$!
        while [ ! -e killed.session.tmp ] && [ ! -e killed.session ] && kill -0 $pid 2>/dev/null; do :; done
        kill -ABRT "$pid" 2>/dev/null
        wait "$pid"
        got=$?
        [ $got -eq 134 ] && [ ! -e killed.session ] || continue
        [ ! -e killed.session.tmp ]
        return
    done
    echo 'never ended in time'
    return 1
}
case_ 'an abort leaves no half-written session' session_ended
reader_gone() {
    { "$run" fable.corm -q -p x -n -1 --ignore-eos 2>err; echo $? >status; } | head -c 5 >out
    test ! -s err && test "$(cat status)" -eq 141
}
case_ 'a reader that goes away ends it quietly' reader_gone
case_ 'disk full' eval '"$run" fable.corm -q -p x -n 5 >/dev/full 2>err; test $? -eq 1 &&
    test "$(cat err)" = "corm-run: cannot write to standard output: No space left on device"'
closed() {
    before=$(cksum <fable.corm)
    "$run" fable.corm -q -p x -n 5 >&- 2>err
    test $? -eq 1 && test "$(wc -l <err)" -eq 1 || return 1
    "$run" logits fable.corm --ids 1,2 --stats -o closed.npy >&- 2>&- <&-
    "$run" logits fable.corm -q --ids 1,2 -o open.npy >out || return 1
    cmp closed.npy open.npy && test "$(cksum <fable.corm)" = "$before"
}
case_ 'closed standard descriptors: nothing is written elsewhere' closed

# ---- bad input: one line, the right exit status, no result -----------------------------------------

# bad STATUS PATTERN ARGUMENT...
bad() {
    pattern=$2
    status=$1
    shift 2
    go "$status" "$@" || return 1
    sed '/^\(model\|memory\|compute\) /d' err >said
    cat said
    [ ! -s out ] && [ "$(wc -l <said)" -eq 1 ] && grep -q "^corm-run: .*$pattern" said
}
head -c 100000 fable.corm >short.corm
head -c 100 fable.corm >tiny.corm
: >empty.corm
printf 'no archive, only some text that is longer than a header page would ever be\n' >text.corm
{ head -c 1000 fable.corm; printf '\377\377\377\377'; tail -c +1005 fable.corm; } >flipped.corm
p='-q -p x'
case_ 'no such file' bad 1 'absent.corm: .*No such file' absent.corm $p
case_ 'a directory' bad 1 'directory' . $p
case_ 'no archive' bad 1 'text.corm: not a .corm archive' text.corm $p
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n' >pointer.corm
case_ 'a pointer of Git LFS' bad 1 'pointer.corm: not a .corm archive (but a pointer of Git LFS' pointer.corm $p
printf 'GGUF\3\0\0\0' >model.gguf
case_ 'a GGUF file' bad 1 'model.gguf: not a .corm archive (but GGUF' model.gguf $p
case_ 'a file of a checkpoint' bad 1 'not a .corm archive (but safetensors.*corm-prep convert' \
    "$golden/models/olmoe-tiny/model.safetensors" $p
case_ 'a checkpoint' bad 1 "olmoe-tiny: a checkpoint, .*corm-prep convert .*/olmoe-tiny -o MODEL.corm'" \
    "$golden/models/olmoe-tiny" $p
case_ 'an empty file' bad 1 'empty.corm' empty.corm $p
case_ 'a truncated header' bad 1 'tiny.corm' tiny.corm $p
case_ 'a truncated archive' bad 1 'short.corm: truncated: 100000 bytes' short.corm $p
case_ 'a damaged archive' bad 1 'flipped.corm' flipped.corm $p
case_ 'a prompt too long for the context' bad 1 'tokens.*--ctx' fable.corm -q -p 'a b c d e f' --ctx 3
case_ 'an unknown instruction set' bad 1 'mmx' fable.corm $p --isa mmx
case_ 'an id too great' bad 1 'id 4096 at position 2.*4096' logits fable.corm --ids 0,1,4096
case_ 'a negative id' bad 1 "'-1' at position 1" logits fable.corm --ids 1,-1
case_ 'an id that is none' bad 1 "'2x' at position 1" logits fable.corm --ids 1,2x
case_ 'an id too great for any' bad 1 "'99999999999999999999' at" logits fable.corm --ids 99999999999999999999
case_ 'binary ids' bad 1 'binary' logits fable.corm --ids-file fable.corm
head -c 100000 /dev/zero | tr '\0' 7 >sevens
case_ 'an id of 100,000 digits' bad 1 "sevens: '7*' at position 0 is no token id" logits fable.corm --ids-file sevens
case_ 'no place for the logits' bad 1 'absent/x.npy' logits fable.corm --ids 1 -o absent/x.npy
case_ 'no such text' bad 1 'absent.txt: cannot open' perplexity fable.corm -f absent.txt
case_ 'a text too short' bad 1 'at least 2' perplexity fable.corm -q -f empty.corm
case_ 'no such prompt file' bad 1 'absent.txt: cannot open' fable.corm -f absent.txt
case_ 'no prompt' bad 2 'a prompt is missing' fable.corm
case_ 'two prompts' bad 2 'exclude' fable.corm -p x -f empty.corm
case_ 'no model' bad 2 'an argument is missing' -p x
case_ 'a wrong budget' bad 2 "ram.*'lots'" fable.corm $p --ram lots
case_ 'a wrong temperature' bad 2 'temp' fable.corm $p --temp -1
case_ 'a wrong stride' bad 2 'stride' perplexity fable.corm -f empty.corm --stride 1000
case_ 'an unknown option' bad 2 'seet.*seed' fable.corm $p --seet 1
case_ 'kernels of an unknown instruction set' bad 2 "isa.*'mmx'" bench --kernels --isa mmx
# Of a small model: under a sanitizer 4096 tokens of the other one take minutes.
token_table() {
    "$build/corm-prep" convert -q "$golden/models/olmoe-tiny" -o olmoe.corm &&
        "$run" bench olmoe.corm -q --token >out 2>err && grep -q "  experts bf16 .*%" out &&
        grep -q '  attention' out && grep -q ' 4096 tokens of context: ' out && grep -q 'no weights, no KV' out
}
case_ 'where the time of a token goes' token_table
case_ 'a measurement and another' bad 2 'one at a time' bench fable.corm --token --trace
case_ 'a model and none' eval 'bad 2 "without a model" bench fable.corm --kernels && bad 2 "MODEL.corm" bench'
case_ 'no ids' bad 2 'ids are missing' logits fable.corm
case_ 'nothing to bench' bad 2 'nothing to do' bench fable.corm --prompt-tokens 0 --decode-tokens 0

# The archive is cut while the program writes: one line, no crash.
cut_while_running() {
    cp fable.corm cut.corm
    "$run" cut.corm -q -p x -n -1 --ignore-eos --temp 1 --seed 1 >out 2>err </dev/null &
    pid=$!
    while [ ! -s out ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    : >cut.corm
    wait $pid
    status=$?
    cat err
    # A read finds the end of the file, or a mapped page is gone, whichever comes first.
    [ $status -eq 1 ] && [ "$(wc -l <err)" -eq 1 ] &&
        grep -q -e '^corm-run: .*/cut.corm: cannot be read at byte [0-9]*: it was truncated' \
            -e '^corm-run: cut.corm: file ends inside [0-9]* bytes at offset [0-9]*: truncated' err
}
case_ 'an archive truncated while in use' cut_while_running

# ---- help ------------------------------------------------------------------------------------------

case_ '--version' eval 'go 0 --version && grep -Eq "^corm-run [0-9]+\.[0-9]+\.[0-9]+$" out'
for command in generate perplexity bench logits; do
    case_ "$command --help" eval "go 0 $command --help && grep -q -e '--threads' out && grep -q '^EXAMPLES' out"
done
case_ '--help names all commands' eval 'go 0 --help && for c in generate perplexity bench logits; do
    grep -q "^    $c " out || exit 1; done'

exit $failed

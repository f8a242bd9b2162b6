#!/bin/sh
# What people bring from other programs: spellings, a text as an argument or on standard input, texts as other
# systems write them. Prints a line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
enter_work

"$build/corm-prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
words='Once upon a time'
# text ARGUMENT...: a greedy text on standard output; remarks in err.
text() { "$run" fable.corm --temp 0 -n 12 "$@" 2>err; }
text -q -p "$words" </dev/null >want || { echo "not ok a text"; exit 1; }
[ -s want ] || { echo "not ok a text"; exit 1; }

# ---- spellings ---------------------------------------------------------------------------------------

same_as() {
    "$run" "$@" </dev/null >got 2>err && cmp got want || { cat err; return 1; }
}
for names in '--n-predict 12 --temperature 0' '--predict 12 --temp 0' '--max-new-tokens 12 --top_k 1' \
    '--max_tokens 12 --ctx_size 64 --temp 0' '-n 12 --n-ctx 64 --temp=0 --batch-size 8 --repetition-penalty 1'; do
    # shellcheck disable=SC2086
    case_ "spelled $names" same_as fable.corm -q -p "$words" $names
done
case_ 'a model as an option' same_as --model fable.corm -q -p "$words" -n 12 --temp 0
# told HINT ARGUMENT...: refused in one line that says what to use.
told() {
    hint=$1
    shift
    "$run" fable.corm -p x "$@" </dev/null >out 2>err
    [ $? -eq 2 ] && [ ! -s out ] && [ "$(wc -l <err)" -eq 1 ] && has_text "unknown option '$1': " err &&
        has_text "$hint" err
}
case_ 'layers on a device' told '--vram SIZE' -ngl 99
case_ 'layers on a device, spelled out' told '--vram SIZE' --n_gpu_layers 99
case_ 'experts on the CPU' told '--missed' --n-cpu-moe 4
case_ 'a model of the net' told 'corm-prep convert' -hf some/model
case_ 'a conversation' told 'corm-run chat' -cnv
case_ 'the type of the cache' told '--kv' -ctk
nothing_known() {
    "$run" fable.corm -hello </dev/null >out 2>err
    [ $? -eq 2 ] && [ ! -s out ] && has_text "unknown option '-hello'" err
}
case_ '-hello is not -h' nothing_known
converts() {
    "$build/corm-prep" convert -q "$fable" --outfile other.corm && cmp other.corm fable.corm &&
        ! "$build/corm-prep" convert "$fable" -o x.corm --outtype q8_0 2>err && has_text '--codec' err &&
        [ ! -e x.corm ]
}
case_ 'conversion, as other programs spell it' converts

# ---- a text as an argument, or on standard input --------------------------------------------------------

argument() {
    text -q "$words" </dev/null | cmp - want && text -q -m fable.corm "$words" </dev/null >got && return 1
    has_text 'one argument too many' err && "$run" -m fable.corm "$words" -q --temp 0 -n 12 </dev/null | cmp - want
}
case_ 'a text as an argument' argument
twice() {
    for also in '-p x' '-f want'; do
        # shellcheck disable=SC2086
        text x $also </dev/null >out && return 1
        has_text 'TEXT, -p and -f exclude each other' err && [ ! -s out ] || return 1
    done
}
case_ 'a text and -p or -f exclude each other' twice
piped() {
    printf '%s\n' "$words" | text -q | cmp - want &&
        text -q <"$root/tests/golden/models/fable/prompt.txt" >got && [ -s got ]
}
case_ 'a text on standard input' piped
nothing_piped() {
    text </dev/null >out
    [ $? -eq 2 ] && has_text 'a prompt is missing: TEXT, -p TEXT, -f FILE, or standard input' err && [ ! -s out ]
}
case_ 'nothing on standard input' nothing_piped
in_a_loop() {
    printf '1\n2\n3\n' | while read -r line; do
        text -q -p "$words" >"got.$line"
    done
    cmp got.1 want && cmp got.2 want && cmp got.3 want
}
case_ 'a loop keeps its input' in_a_loop

# ---- remarks --------------------------------------------------------------------------------------------

cut() {
    text -p "$words" </dev/null >got && has_text 'corm-run: cut after 12 tokens' err &&
        text -q -p "$words" </dev/null >got && ! grep -q 'cut after' err && cmp got want
}
case_ 'a text that -n cut' cut
marked() {
    printf '\357\273\277%s\n' "$words" >marked.txt
    text -f marked.txt </dev/null | cmp - want && has_text 'marked.txt begins with a byte order mark' err &&
        text <marked.txt | cmp - want && has_text 'standard input begins with a byte order mark' err &&
        text -q -f marked.txt </dev/null >got && [ ! -s err ]
}
case_ 'a byte order mark is left out' marked
# The mark of a text, before it is long enough to be one, and alone.
short_marks() {
    for bytes in '\357' '\357\273' 'a' 'ab'; do
        printf "$bytes" >short && text -f short </dev/null >got && ! grep -q 'byte order' err || return 1
    done
    printf '\357\273\277' >short && text -f short </dev/null >got && grep -q 'byte order' err
}
case_ 'texts shorter than a mark' short_marks
returns() {
    printf 'One\r\ntwo\r\n' >returns.txt && printf 'One\ntwo\n' >none.txt
    text -f returns.txt </dev/null >with && has_text 'returns.txt has carriage returns' err &&
        text -f none.txt </dev/null >without && ! grep -q 'carriage' err
}
case_ 'carriage returns are told' returns
wide() {
    for order in '\377\376O\0n\0' '\376\377\0O\0n'; do
        printf "$order" >wide.txt
        text -f wide.txt </dev/null >out && return 1
        has_text 'wide.txt: expected UTF-8, found UTF-16' err && [ ! -s out ] || return 1
        text <wide.txt >out && return 1
        has_text 'standard input: expected UTF-8' err || return 1
        printf "$order" >wide.gbnf
        text -p x --grammar-file wide.gbnf </dev/null >out && return 1
        has_text 'wide.gbnf: expected UTF-8, found UTF-16' err || return 1
    done
}
case_ 'UTF-16 is refused' wide
marked_grammar() {
    printf '\357\273\277root ::= "yes"' >marked.gbnf
    [ "$(text -q -p x --grammar-file marked.gbnf </dev/null)" = yes ] &&
        printf '\357\273\2771,2,3' >ids && "$run" logits fable.corm -q --ids-file ids -o a.npy &&
        "$run" logits fable.corm -q --ids 1,2,3 -o b.npy && cmp a.npy b.npy
}
case_ 'a byte order mark of a grammar, and of ids' marked_grammar

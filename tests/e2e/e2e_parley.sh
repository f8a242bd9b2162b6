#!/bin/sh
# The model that takes turns, talked to as a user would: it keeps to a request, its later turns evaluate what is new
# only, and neither budget nor threads change a word, with the state of trained delta nets under it. Prints a line
# `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
parley=$root/tests/models/parley
enter_work
XDG_STATE_HOME=$work/state
export XDG_STATE_HOME

"$prep" convert -q "$parley" -o parley.corm --calibrate --calib-tokens 3072 >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
request='Tell me a story about Lucy and a frog.'

# talk ARGUMENT...: the lines of the file `said`, answered greedily, to out and err.
talk() { "$run" chat parley.corm --temp 0 -n 700 -q --stats "$@" <said >out 2>err; }

story() {
    echo "$request" >said
    talk && cp out story || { cat err; return 1; }
    grep -q 'Lucy' story && grep -q 'frog' story && [ "$(wc -w <story)" -ge 60 ] || { cat story; return 1; }
    # It ended by itself, in a whole sentence.
    tail -n 1 story | grep -q '[.!?"]$' || { cat story; return 1; }
    used=$(sed -n 's/^prompt .*; answer \([0-9]*\) tokens.*/\1/p' err)
    [ "$used" -lt 700 ] || { cat err; return 1; }
}
case_ 'a story is about who and what was asked for, and ends' story

turns() {
    printf '%s\n' "$request" 'What happens next?' 'Give it a title.' >said
    talk && cp out turns && cp err turns.err || { cat err; return 1; }
    head -n "$(wc -l <story)" turns | cmp - story || return 1
    [ "$(grep -c '^prompt ' err)" -eq 3 ] || { cat err; return 1; }
    tail -n 1 turns >title
    words=$(wc -w <title)
    [ "$words" -ge 1 ] && [ "$words" -le 8 ] && grep -qi 'Lucy\|frog' title || { cat title; return 1; }
}
case_ 'further turns: what happens next, a title' turns

# All but the request of a turn is there: prompt = kept + evaluated, and few are evaluated.
reuse() {
    sed -n 's/^prompt  *\([0-9]*\) tokens, \([0-9]*\) kept, \([0-9]*\) evaluated.*; answer \([0-9]*\) tokens.*/\1 \2 \3 \4/p' \
        turns.err >counts
    [ "$(wc -l <counts)" -eq 3 ] || { cat turns.err; return 1; }
    before=0
    while read -r all kept evaluated answer; do
        # One token of an answer, its last, is not evaluated with it.
        [ "$((kept + evaluated))" -eq "$all" ] && [ "$kept" -ge "$((before - 1))" ] && [ "$evaluated" -le 24 ] || {
            cat counts
            return 1
        }
        before=$((all + answer))
    done <counts
}
case_ 'a turn evaluates its new tokens only' reuse

anywhere() {
    talk --ram 60M -t 1 && cmp out turns || { cat err; return 1; }
    talk --ram 60M --reading passing && cmp out turns || { cat err; return 1; }
}
case_ 'the same words in 60 MB, on one thread and past the page cache' anywhere

resumed() {
    printf '%s\n/save talk.json\n' "$request" >said
    talk && printf '/load talk.json\nWhat happens next?\nGive it a title.\n' >said && talk || { cat err; return 1; }
    cat story out | cmp - turns
}
case_ 'a saved talk goes on with the same words' resumed

system() {
    echo "$request" >said
    talk --system 'You tell short stories for children.' && grep -q 'Lucy' out || { cat out err; return 1; }
}
case_ 'a system message is taken' system
exit $failed

#!/bin/sh
# Calibration from end to end on the demo checkpoint: convert --calibrate, report, --loss, the same text in
# any budget, a run that is killed and goes on, bad input. Prints a line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
enter_work
text=$root/calib-data

# calibrate OUTPUT ARGUMENT...: with little text, so that it takes a second or two.
calibrate() {
    output=$1
    shift
    "$prep" convert "$fable" -o "$output" --calib "$text/stories" --calib-held "$text/heldout" \
        --calib-tokens 512 --threads 2 "$@"
}
# refused PATTERN ARGUMENT...: the conversion fails with one line that holds the pattern; no archive.
refused() {
    pattern=$1
    shift
    if "$prep" convert -q "$fable" -o no.corm "$@" >said 2>&1; then
        echo 'succeeded'
        return 1
    fi
    cat said
    [ "$(wc -l <said)" -eq 1 ] && grep -qF -e "$pattern" said && [ ! -e no.corm ] &&
        [ ! -e no.corm.unmeasured ]
}

# ---- what comes out --------------------------------------------------------------------------------

converted() {
    calibrate fable.corm >said 2>&1 || { cat said; return 1; }
    cat said
    [ "$(grep -c '^  --loss ' said)" -eq 3 ] && "$prep" verify fable.corm && [ "$(ls)" = "fable.corm
log
said" ]
}
case_ 'calibrated, verified, nothing else left' converted
[ -e fable.corm ] || exit 1

reports() {
    "$prep" report fable.corm >out || return 1
    cat out
    grep -q '^layer .*stale gate' out && grep -q '^layer .*oracle' out &&
        [ "$(grep -cE '^ +[0-5]  +[0-9]' out)" -eq 12 ]
}
case_ 'report: six layers in both tables' reports
# Three lines, of which the last is checked by the same archive uncompressed. However experts are compressed,
# the same is found: neurons in the same order, the same predictors and loss levels, the same logits.
small() { # OUTPUT ARGUMENT...
    output=$1
    shift
    "$prep" convert -q "$root/tests/golden/models/olmoe-tiny" -o "$output" --calib "$text/stories" \
        --calib-held "$text/heldout" --calib-tokens 512 --threads 1 "$@"
}
figure() { sed -n "s/^ *\"$1\": \([0-9.]*\).*/\1/p" out; }
brief() {
    small auto.corm && small zstd.corm --compress zstd && small none.corm --compress none || return 1
    for how in auto zstd none; do
        "$prep" report $how.corm --brief --json >out && cat out || return 1
        [ "$(figure raw_file_bytes)" -eq "$(wc -c <none.corm)" ] &&
            [ "$(figure file_bytes)" -eq "$(wc -c <$how.corm)" ] || return 1
        "$prep" report $how.corm --json | grep -v '"compression"' >$how.report
        "$run" logits $how.corm -q --ids 5,200,77,31,0 2>/dev/null | grep hash >>$how.report
        "$prep" inspect $how.corm --json | tr -d ' \n' |
            grep -o '"name":"\(predictors\|metadata\|trunk\)"[^}]*"xxh3":"*[0-9a-z]*' |
            sed 's/"offset":[0-9]*//' >>$how.report
    done
    cmp auto.report zstd.report && cmp auto.report none.report && grep -q predictors none.report &&
        grep -q hash none.report && "$prep" inspect zstd.corm | grep -q 'Experts: .*compression zstd' &&
        rm -f ./*.report auto.corm zstd.corm none.corm || return 1
    "$prep" report fable.corm --brief >out && cat out && [ "$(wc -l <out)" -eq 3 ] &&
        grep -Eq '^experts  +[0-9.]+ % .* trained predictor; [0-9.]+ % .* router on the earlier state' out &&
        grep -Eq '^hot prefix  +[0-9.]+ % of an expert.s neurons, [0-9.]+ % of its energy$' out &&
        grep -Eq '^archive  +.* 0\.[0-9]+ of .* uncompressed \(compression exponents\)$' out || return 1
    "$prep" report fable.corm --brief --json >out && learned=$(figure experts_guessed) &&
        "$prep" report fable.corm --json | tr -d ' \n' >json || return 1
    # The free guess is the mean of the table's: of layer 0 ahead 0, of the others ahead 1.
    tr '{' '\n' <json | sed -n 's/.*"layer":\([0-9]*\).*"stale":\[\([^]]*\)\].*/\1,\2/p' |
        awk -F, -v said="$(figure experts_guessed_free)" -v learned="$learned" \
            '{ sum += $1 ? $3 : $2 } END { print sum / NR, said, learned
               exit !(NR == 6 && sum / NR - said < 1e-3 && said - sum / NR < 1e-3 && learned >= said) }'
}
case_ 'report --brief, and the same for any compression' brief
report_json() {
    "$prep" report --json fable.corm >out || return 1
    for key in load_min stale corrected learned energy_static energy_learned energy_oracle hot_fraction hot_energy; do
        [ "$(grep -c "\"$key\": " out)" -eq 6 ] || { echo "$key"; return 1; }
    done
    ! command -v python3 >/dev/null || python3 -m json.tool <out >/dev/null
}
case_ 'report as JSON' report_json
inspects() {
    "$prep" inspect fable.corm >out && cat out && grep -q predictors out && grep -q 'held out' out
}
case_ 'inspect names the section and the text' inspects
plain() {
    "$prep" convert -q "$fable" -o plain.corm || return 1
    "$prep" report plain.corm >out 2>err && return 1
    cat err
    grep -q 'plain.corm.*--calibrate' err || return 1
    "$prep" report --brief plain.corm >out 2>err && return 1
    grep -q 'plain.corm.*--calibrate' err || return 1
    "$run" plain.corm -q -p x -n 1 --loss 1 >out 2>err && return 1
    cat err
    grep -q 'plain.corm.*--calibrate' err
}
case_ 'without calibration: no report, no --loss, and why' plain

# ---- running it ------------------------------------------------------------------------------------

generate() { "$run" "$1" -q -p 'Once upon a time' -n 40 --temp 0 </dev/null; }
reordered() {
    generate plain.corm >a && generate fable.corm >b && test -s a && cmp a b
}
case_ 'the reordered model writes the same text' reordered

# budget ARGUMENT...: text and hash of the last logits.
budget() {
    "$run" fable.corm -p 'Once upon a time' -n 40 --temp 0 --stats "$@" >out 2>err </dev/null || {
        cat err
        return 1
    }
    cat out
    grep '^logits ' err
}
budgets() {
    budget >want || return 1
    grep -q 'logits .*hash' want || return 1
    "$run" fable.corm -q -p x --ram 1M >out 2>err && return 1
    least=$(sed -n 's/.*: \([0-9]*\) MiB would do.*/\1/p' err)
    test -n "$least" || { cat err; return 1; }
    for more in 0 2 5 10; do
        for threads in 1 2; do
            budget --ram $((least + more))M --threads $threads >got && cmp want got || return 1
        done
    done
    grep -q '^cache .* hits' err && grep -q '^memory ' err && ! grep -q 'whole model fits' err
}
case_ 'the same logits in any budget, with guesses' budgets

guesses() {
    "$run" bench fable.corm -q --ablation --share 25 --json -r 1 --prompt-tokens 8 --decode-tokens 24 \
        -f "$text/heldout/stories.txt" >out 2>err || { cat err; return 1; }
    cat out
    grep -o '"guessed_bytes_per_tok": [0-9.]*' out | grep -qv ': 0$'
}
case_ 'guesses bring bytes where there is little room' guesses

perplexity() {
    "$run" perplexity fable.corm -q -f "$text/heldout/various.txt" -n 600 "$@" |
        sed -n 's/^perplexity \([0-9.]*\) over .*/\1/p'
}
loss() {
    exact=$(perplexity) && test -n "$exact" || return 1
    for level in 0.5 1 2; do
        lossy=$(perplexity --loss $level)
        echo "exact $exact, --loss $level $lossy"
        # Another text than the one that was measured: room for three times the level.
        echo "$exact $lossy $level" | awk '{ exit !($2 > 0 && $2 / $1 - 1 < 0.03 * $3) }' || return 1
        [ "$(generate fable.corm | wc -c)" -gt 20 ] || return 1
    done
    "$run" fable.corm -q -p x -n 1 --loss 7 >out 2>err && return 1
    cat err
    grep -q '0.5, 1, 2' err
}
case_ '--loss keeps its promise' loss

# ---- killed and taken up again ---------------------------------------------------------------------

# stop_at SIGNAL LAYER: as calibrate again.corm, but a signal is sent once that layer is saved. Again, where
# the run was faster.
stop_at() {
    for try in 1 2 3 4 5; do
        rm -rf again.corm*
        "$prep" convert -q "$fable" -o again.corm --calib "$text/stories" --calib-held "$text/heldout" \
            --calib-tokens 512 --threads 2 >said 2>&1 &
        pid=$!
        while [ ! -e again.corm.calib/layer-000$2 ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
        kill -"$1" $pid 2>/dev/null
        wait $pid 2>/dev/null
        status=$?
        [ ! -e again.corm ] || continue
        cat said
        ls again.corm.calib
        return
    done
    echo 'never stopped before the end'
    return 1
}
killed_at() {
    stop_at KILL "$1" || return 1
    calibrate again.corm >said 2>&1 || { cat said; return 1; }
    cat said
    grep -q "went on after layer" said && cmp fable.corm again.corm && [ ! -e again.corm.calib ]
}
case_ 'killed without warning: the same bytes' killed_at 2

terminated() {
    stop_at TERM 1 || return 1
    [ $status -eq 130 ] && grep -q interrupted said || return 1
    calibrate again.corm -q && cmp fable.corm again.corm
}
case_ 'terminated: the same bytes' terminated

# Killed after the archive got its name: the next run, though it is refused, removes what was left.
# As if: the state and the lock of a killed run beside a finished archive.
tidied() {
    stop_at KILL 2 && [ -e again.corm.lock ] || return 1
    cp fable.corm again.corm && echo x >again.corm.unmeasured && echo mine >again.corm.txt || return 1
    touch -d 2001-01-01 again.corm.calib/*
    calibrate again.corm -q 2>said && return 1
    cat said
    ls -A
    grep -q 'again.corm: exists already' said && cmp fable.corm again.corm &&
        [ "$(echo again.corm*)" = 'again.corm again.corm.txt' ]
}
case_ 'killed at the very end: the next run cleans up' tidied
# State that is younger than the archive is of a run that was to replace it; state without the lock's file
# was left on purpose, by a run that was interrupted; beside a file that is no archive nothing is finished.
not_tidied() {
    stop_at KILL 1 && cp fable.corm again.corm && touch -d 2001-01-01 again.corm || return 1
    ls again.corm.calib >files
    calibrate again.corm -q 2>said && return 1
    ls again.corm.calib | cmp files - && [ ! -e again.corm.lock ] || return 1
    touch again.corm
    calibrate again.corm -q 2>said && return 1
    ls again.corm.calib | cmp files - || return 1
    : >again.corm.lock
    echo precious >again.corm
    calibrate again.corm -q 2>said && return 1
    cat said
    grep -q 'again.corm: exists already' said && ls again.corm.calib | cmp files - &&
        [ "$(cat again.corm)" = precious ] && calibrate again.corm --force >said 2>&1 &&
        grep -q 'went on after layer' said && cmp fable.corm again.corm &&
        [ "$(echo again.corm*)" = again.corm ]
}
case_ 'what a later run can take up stays' not_tidied

# ---- rounding --------------------------------------------------------------------------------------

# The same archive for any number of threads; a killed run goes on to it; as large as with nearest codes, and
# closer to the model.
rounds() {
    calibrate q4.corm --codec q4 >said 2>&1 && cat said && grep -q '^  rounding gptq: ' said &&
        calibrate one.corm -q --codec q4 --threads 1 && cmp q4.corm one.corm &&
        calibrate nearest.corm -q --codec q4 --rounding nearest && ! cmp -s q4.corm nearest.corm &&
        "$prep" verify q4.corm && "$prep" inspect q4.corm | grep -q 'rounding: gptq' &&
        [ "$(echo q4.corm* one.corm*)" = 'q4.corm one.corm' ] || return 1
    for layer in 1 4; do
        killed_rounding $layer && calibrate again.corm --codec q4 --threads 1 >said 2>&1 || { cat said; return 1; }
        cat said
        grep -q "went on after layer" said && cmp q4.corm again.corm && [ "$(echo again.corm*)" = again.corm ] || return 1
    done
}
# killed_rounding LAYER: killed while that layer's experts are rounded, or soon after.
killed_rounding() {
    for try in 1 2 3 4 5; do
        rm -rf again.corm*
        "$prep" convert -q "$fable" -o again.corm --calib "$text/stories" --calib-held "$text/heldout" \
            --calib-tokens 512 --threads 2 --codec q4 >said 2>&1 &
        pid=$!
        while [ ! -e again.corm.calib/experts-000$1.tmp ] && [ ! -e again.corm.calib/experts-000$1 ] &&
            kill -0 $pid 2>/dev/null; do sleep 0.01; done
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        [ ! -e again.corm ] || continue
        ls again.corm.calib
        return
    done
    echo 'never killed before the end'
    return 1
}
case_ 'rounding: the same bytes for any threads and after a kill' rounds
case_ 'rounding without calibration' refused '--rounding gptq needs --calibrate' --codec q4 --rounding gptq
case_ 'rounding of a codec that has none' refused '--rounding gptq is for --codec q4, not for q8' --codec q8 --calibrate \
    --rounding gptq

# ---- text of the model's own -----------------------------------------------------------------------

generated() {
    calibrate own.corm --generate-calib 600 >said 2>&1 || { cat said; return 1; }
    cat said
    grep -q '^sampling: ' said && "$prep" inspect own.corm >out && grep calibration out &&
        grep -q "the user's text, [56][0-9][0-9] of them the model's own" out &&
        [ ! -e own.corm.calib ] && ! cmp -s own.corm fable.corm
}
case_ 'text of the model: sampled, used, named' generated
generated_alone() {
    calibrate alone.corm -q --calib none --generate-calib 600 2>said && return 1 # two --calib
    cat said
    "$prep" convert "$fable" -o alone.corm --calib none --generate-calib 600 --calib-held "$text/heldout" \
        --calib-tokens 512 --json >json 2>said || { cat said; return 1; }
    "$prep" report alone.corm && "$prep" inspect alone.corm | grep "59[0-9]\|600 tokens of the model's own text" &&
        grep -q '"generated_tokens": \(59[0-9]\|600\)' json && [ "$(grep -c '"skipped": ' json)" -eq 3 ]
}
case_ 'no text but the model'"'"'s' generated_alone

# Killed at any moment, again and again, a run ends in the same bytes, and nothing is left. One kill at least
# must come before the end: each start over halves the delays.
killed_anywhere() {
    kills=0 longest=1.2
    for round in 1 2 3 4 5; do
        longest=$(echo $longest | awk '{ print $1 / 2 }')
        rm -rf again.corm*
        killed_in_a_row || return 1
        [ $kills -eq 0 ] || return 0
    done
    echo 'never killed before the end'
    return 1
}
killed_in_a_row() {
    seed=$(($$ + round))
    for try in 1 2 3 4 5 6 7; do
        delay=$(awk -v seed=$seed -v n=$try -v longest=$longest \
            'BEGIN { srand(seed + 7919 * n); r = rand(); printf "%.2f", 0.05 + longest * rand() }')
        # The program itself in the background, not a function: the signal must reach it.
        "$prep" convert -q "$fable" -o again.corm --calib "$text/stories" --calib-held "$text/heldout" \
            --calib-tokens 512 --threads 2 --generate-calib 600 2>>said &
        pid=$!
        sleep "$delay"
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        status=$?
        echo "seed $seed: status $status after $delay s:" again.corm*
        if [ -e again.corm ]; then break; fi
        [ $status -eq 137 ] || return 1
        kills=$((kills + 1))
    done
    if [ -e again.corm ]; then # finished; what a kill just then left goes with the next run
        calibrate again.corm -q --generate-calib 600 2>said && return 1
        grep -q 'exists already' said || { cat said; return 1; }
    else
        calibrate again.corm --generate-calib 600 || return 1
    fi
    echo "$kills kills before the end"
    cmp own.corm again.corm && [ "$(echo again.corm*)" = again.corm ] &&
        [ -z "$(ls -A | grep '^\.')" ]
}
[ -n "$quick" ] || case_ 'killed at random moments: the same bytes' killed_anywhere

# ---- bad input -------------------------------------------------------------------------------------

case_ 'text that is not there' refused 'absent: No such file' --calib absent
case_ 'held-out text that is not there' refused '--calib-held: absent' --calib "$text/code" \
    --calib-held absent
case_ 'no text at all' refused '--calib none leaves no text' --calib none
printf 'not\0text' >zero.txt
case_ 'text that is not text' refused 'zero.txt: not a text file' --calib zero.txt
printf 'Hi.\n' >short.txt
case_ 'too little text' refused 'calibration text holds no sequence' --calib short.txt \
    --calib-held "$text/heldout"

# A pattern that is too slow for a text: the error names the text, and the checkpoint that has the pattern.
slow_pattern() {
    rm -rf slow && cp -r "$root/tests/golden/models/olmoe-tiny" slow && chmod -R u+w slow || return 1
    sed -i 's/"pre_tokenizer":/"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?:a|a?)+[xy]"},"behavior":"Isolated","invert":false},"x":/' \
        slow/tokenizer.json && ! cmp -s slow/tokenizer.json "$root/tests/golden/models/olmoe-tiny/tokenizer.json" || return 1
    printf 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\n' >slow.txt
    "$prep" convert -q slow -o no.corm --calib slow.txt >said 2>&1 && return 1
    cat said
    [ "$(wc -l <said)" -eq 1 ] && grep -q -e '--calib: slow.txt: the tokenizer of slow: pre-tokenizer step 1, Split: the pattern takes' said &&
        [ -z "$(ls | grep '^no\.corm')" ]
}
case_ 'a pattern that is too slow for the text' slow_pattern

# The last norm's weights as large as bf16 can be: finite, but the logits are not.
overflows() {
    rm -rf big && cp -r "$fable" big && chmod -R u+w big || return 1
    fill_tensor big model.norm.weight 177 || return 1
    "$prep" convert -q big -o no.corm --calib "$text/stories" --calib-held "$text/heldout" \
        --calib-tokens 512 >said 2>&1 && return 1
    cat said
    [ "$(wc -l <said)" -eq 1 ] && grep -q 'held-out text, .*not all finite' said &&
        [ "$(echo no.corm*)" = no.corm.calib ] && rm -r no.corm.calib
}
case_ 'logits that are not finite: no loss is made up' overflows

# Keys that f16 cannot hold: whichever step meets them first, the advice is of options that corm-prep has.
beyond_f16() {
    rm -rf wide && cp -r "$root/tests/golden/models/qwen3moe-tiny" wide && chmod -R u+w wide &&
        fill_tensor wide model.layers.1.self_attn.k_norm.weight 107 || return 1
    for more in '' '--generate-calib 100'; do
        "$prep" convert -q wide -o no.corm --calib "$text/stories" --calib-held "$text/heldout" --calib-tokens 512 \
            $more >said 2>&1 && return 1
        cat said
        [ "$(wc -l <said)" -eq 1 ] && grep -q 'has keys in layer 1 that f16 cannot hold: .*convert without calibration, and run with corm-run --kv f32$' said ||
            return 1
        rm -rf no.corm*
    done
}
case_ 'keys that f16 cannot hold' beyond_f16

exit $failed

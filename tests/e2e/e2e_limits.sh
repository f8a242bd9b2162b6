#!/bin/sh
# The memory budget on the demo model: resident memory stays within the plan while prompts change, and a
# limit of the kernel is noticed. tests/limits/soak.sh is the same on a model that takes longer. Prints a
# line `ok NAME` or `not ok NAME` for each case.
set -u
LC_ALL=C
export LC_ALL

build=${CORM_BUILD:-build/release}
case $build in /*) ;; *) build=$(pwd)/$build ;; esac
run=$build/corm-run
text=$(pwd)/tests/golden/heldout.txt
calib=$(pwd)/calib-data/stories
util=$(pwd)/tests/e2e/util_e2e.sh
. "$(pwd)/tests/limits/cgroup.sh"
case $(basename "$build") in
release* | debug*) ;;
*)
    echo 'ok limits # SKIP a sanitizer takes memory of its own'
    exit 0
    ;;
esac
work=$(mktemp -d) || exit 1
trap 'cgroup_close; rm -rf "$work" ${shm:+"$shm"}' EXIT
trap 'exit 130' INT TERM
. "$util"
"$build/corm-prep" convert -q tests/models/fable -o "$work/fable.corm" >"$work/log" 2>&1 || {
    echo "not ok convert"
    cat "$work/log"
    exit 1
}
cd "$work" || exit 1

number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" out; }
# within_budget LIMIT ARGUMENT...: resident memory stays below the budget.
within_budget() {
    limit=$1
    shift
    "$run" "$@" --json -f "$text" >out 2>err || { cat err; return 1; }
    budget=$(number budget_bytes) peak=$(number peak_memory_bytes)
    echo "budget $budget, resident at most $peak"
    [ "$peak" -gt 0 ] && [ "$peak" -le "$budget" ] && [ "$budget" -le $((limit * 1048576)) ]
}
for mib in 41 45 50; do
    case_ "bench in $mib MiB" within_budget $mib bench fable.corm --minutes 0.02 --ram ${mib}M \
        --prompt-tokens 60 --decode-tokens 60
done
case_ 'perplexity in 48 MiB' within_budget 48 perplexity fable.corm --ram 48M -n 1000
# A text is read and tokenized as it is used: of 40 MB as much as a window takes, and of what cannot be cut
# in two no more than the budget allows.
yes 'the river rose in spring, and the wheel sang' | head -c 40000000 >long.txt
head -c 4000000 /dev/zero | tr '\0' a >uncut.txt
long_text() {
    "$run" perplexity fable.corm --ram 70M -f long.txt -n 600 --json >out 2>err || { cat err; return 1; }
    budget=$(number budget_bytes) peak=$(number peak_memory_bytes)
    echo "budget $budget, resident at most $peak"
    [ "$peak" -gt 0 ] && [ "$peak" -le "$budget" ]
}
case_ 'perplexity of a text of 40 MB' long_text
uncut() {
    "$run" perplexity fable.corm --ram 70M -f uncut.txt -n 600 >out 2>err && return 1
    cat err
    would=$(sed -n 's/.* one of \([0-9]*\) MiB would do$/\1/p' err)
    [ "$(grep -c "^corm-run: uncut.txt: " err)" = 1 ] && [ "$would" -gt 70 ] && [ "$would" -lt 2000 ] &&
        "$run" perplexity fable.corm --ram "${would}M" -f uncut.txt -n 600 >out 2>err
}
case_ 'a text that cannot be cut is refused with the budget that would do' uncut
tokenize_long() (
    ulimit -v 300000
    "$build/corm-prep" tokenize fable.corm <long.txt >ids 2>err || { cat err; return 1; }
    [ "$(wc -w <ids)" -gt 5000000 ]
)
# Room that one run needs and a longer one does not grow.
steady() {
    within_budget 42 bench fable.corm --ram 42M --reps 1 --prompt-tokens 100 --decode-tokens 20 ||
        return 1
    once=$peak
    within_budget 42 bench fable.corm --ram 42M --minutes 0.05 --prompt-tokens 100 \
        --decode-tokens 20 || return 1
    echo "once $once, for 3 s $peak"
    [ "$(number reps)" -gt 2 ] && [ "$peak" -le $((once + 1048576)) ]
}
case_ 'memory does not grow with time' steady

# How experts are read is measured where they come and go, said with the reason, and changes no bit.
# hash_of FILE OPTION...: of the logits after a run in 45 MiB, whose plan is in err.
hash_of() {
    "$run" bench "$@" --ram 45M --reps 1 --prompt-tokens 40 --decode-tokens 40 --stats -f "$text" \
        >out 2>err || { cat out err >&2; return 1; }
    sed -n 's/^logits *hash //p' err
}
line='^reading  \(direct\|page cache\) (direct [0-9]* MB/s, page cache [0-9]* MB/s)$'
refusal='^reading  page cache (direct refused by the file system, page cache [0-9]* MB/s)$'
chosen() {
    want=$(hash_of fable.corm) && cat err && [ -n "$want" ] || return 1
    grep -q "$line" err || grep -q "$refusal" err || return 1
    case $(grep '^reading' err) in
    'reading  direct'*) grep -q '; experts are read directly$' err ;;
    *) grep -q '; experts are read through the page cache' err ;;
    esac
}
case_ 'the way of reading is measured, chosen and said' chosen
want=$(hash_of fable.corm)
asked() {
    for way in buffered direct mapped passing; do
        [ "$way" != direct ] || ! grep -q "$refusal" plan || continue
        got=$(hash_of fable.corm --reading "$way") || return 1
        echo "$way: $got, measured: $want"
        [ "$got" = "$want" ] && ! grep '^reading' err || return 1
    done
    "$run" perplexity fable.corm --ram 48M --reading passing -n 100 -f "$text" >out 2>err &&
        grep -q 'page cache, which forgets them$' err
}
cp err plan
case_ 'a way that was asked for is taken unmeasured, with the same bits' asked
unmeasured() {
    got=$(hash_of fable.corm --throttle 1G) && [ "$got" = "$want" ] && ! grep '^reading' err || return 1
    "$run" bench fable.corm --reps 1 --prompt-tokens 4 --decode-tokens 4 >out 2>err &&
        grep -q 'the whole model fits' err && ! grep '^reading' err
}
case_ 'nothing is measured under a throttle, or where all fits' unmeasured
# Memory that is a file system: some refuse O_DIRECT there.
elsewhere() {
    got=$(hash_of "$1/fable.corm") && cat err && [ "$got" = "$want" ] &&
        { grep -q "$line" err || grep -q "$refusal" err; }
}
if shm=$(mktemp -d /dev/shm/corm.XXXXXX 2>/dev/null) && cp fable.corm "$shm"; then
    case_ 'a file system in memory' elsewhere "$shm"
else
    skip 'a file system in memory' 'no /dev/shm to write to'
fi
rm -rf "$shm"
side_by_side() {
    "$run" bench fable.corm --io --block 256K --io-threads 2 >out 2>err || { cat err; return 1; }
    cat out
    for way in buffered mapped passing; do
        grep -q "^$way  *256K  *[1-9][0-9]*$" out || return 1
    done
    grep -q '^direct  *256K  *[1-9][0-9]*$' out || grep -q 'refuses O_DIRECT$' out
}
case_ 'bench --io has all ways side by side' side_by_side

# ---- limits of the process: an answer in one line, and nothing left ----------------------------------

# answer STATUS PATTERN COMMAND...: the status, one line on standard error that holds the pattern.
answer() {
    want=$1 pattern=$2
    shift 2
    "$@" >out 2>err
    got=$?
    cat err
    [ $got -eq "$want" ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "$pattern" err
}
# addresses KIB COMMAND...: with a limit on addresses.
addresses() { (ulimit -v "$1" && shift && exec "$@"); }
if (ulimit -v 300000) 2>/dev/null; then
    few_addresses() {
        answer 1 'memory budget of [0-9]* MiB is too small' addresses 60000 "$run" fable.corm -q -p Once -n 3 &&
            addresses 400000 "$run" fable.corm -p Once -n 3 >out 2>err || { cat err; return 1; }
        cat err
        [ "$(sed -n 's/^memory .*: .* of \([0-9]*\)[.0-9]* MiB.*/\1/p' err)" -lt 400 ]
    }
    case_ 'tokenizing a text of 40 MB in 300 MB of addresses' tokenize_long
    # What is longer than any context is read no further, and never whole: each of these has 600 MB.
    endless() { yes "$1" | tr -d '\n' | head -c 600000000; }
    beyond_contexts() {
        (ulimit -v 400000 && endless 'the wheel sang ' | "$run" fable.corm -q -p - -n 1 -t 1 --ram 100M) 2>err
        cat err
        grep -q '^corm-run: the prompt has more than 1[0-9]* tokens, the context holds 1024' err || return 1
        (ulimit -v 400000 && endless 1,23, | "$run" logits fable.corm -q --ids-file - -t 1 --ram 100M) 2>err
        cat err
        grep -q '^corm-run: -: more than 1048576 token ids: no context holds them$' err || return 1
        for options in '--chat -p -' '-p x --grammar-file -' '-p x --json-schema-file -' \
            '-p x --chat --chat-template -'; do
            # shellcheck disable=SC2086
            (ulimit -v 400000 && endless x | "$run" fable.corm -q -n 1 -t 1 --ram 100M $options) 2>err
            cat err
            [ "$(wc -l <err)" = 1 ] && grep -q 'standard input: expected at most 16 MiB$' err || return 1
        done
    }
    case_ 'texts that are longer than any context' beyond_contexts
    case_ 'an automatic budget heeds a limit on addresses' few_addresses
    # The budget is checked before threads start and scratch is taken for them.
    case_ 'nothing is taken before the plan is accepted' answer 1 'memory budget of 1 MiB is too small' \
        addresses 200000 "$run" fable.corm -q -p x --ram 1M --threads 1024
    case_ 'nor for a context that is too long' answer 1 'memory budget of 1 MiB is too small: [0-9]* MiB would do' \
        addresses 200000 "$run" fable.corm -q -p x --ram 1M --ctx 1048576
    case_ 'nor for large passes of a text' answer 1 'memory budget of 1 MiB is too small: [0-9]* MiB would do' \
        addresses 200000 "$run" perplexity fable.corm -q --ram 1M --batch 4096 --ctx 100000 -f "$text"
    case_ 'threads that cannot start' answer 1 'thread [0-9]* of 1024 cannot be started' \
        addresses 200000 "$run" fable.corm -q -p x --ram 4G --threads 1024 --ctx 16
    # Whatever it is that does not fit, at the moment when it does not: one line, never an abort.
    any_addresses() {
        said=
        # From what the program itself and its libraries take, which builds differ in.
        least=20000
        until addresses $least "$run" --version >/dev/null 2>err; do
            least=$((least + 2000))
            [ $least -lt 1000000 ] || { echo "--version does not run in $least KiB"; cat err; return 1; }
        done
        for more in 2000 6000 10000 18000 26000 34000; do
            kib=$((least + more))
            addresses $kib "$run" logits fable.corm -q --ids 1,2,3,4 -o m.npy --ram 4G --batch 1024 --threads 1 \
                >out 2>err
            got=$?
            echo "$kib: $got, $(cat err)"
            [ $got -eq 0 ] || { [ $got -eq 1 ] && [ "$(wc -l <err)" -eq 1 ] && [ ! -e m.npy ]; } || return 1
            [ ! -e m.npy.part ] || return 1
            said="$said$(cat err)"
        done
        echo "$said" | grep -q 'corm-run: out of memory: [0-9]* bytes cannot be had'
    }
    case_ 'memory that is not to be had' any_addresses
    prep_addresses() {
        addresses 250000 "$build/corm-prep" convert -q -t 2 "$fable" -o small.corm && cmp fable.corm small.corm &&
            answer 1 'calibration with 8 threads takes' addresses 400000 "$build/corm-prep" convert -q "$fable" \
                -o no.corm -t 8 --calib "$calib" --calib-tokens 512 && [ -z "$(ls | grep '^no\.corm')" ]
    }
    case_ 'conversion under a limit on addresses' prep_addresses
else
    skip 'limits on addresses' 'ulimit -v is refused'
fi
# With no more tasks than one, as nobody, for whom the limit holds.
shm=$(mktemp -d /dev/shm/corm.XXXXXX 2>/dev/null) && chmod 777 "$shm" && cp fable.corm "$shm/m.corm" && chmod 644 "$shm/m.corm"
alone() { setpriv --reuid 65534 --regid 65534 --clear-groups prlimit --nproc=1 "$@"; }
few_tasks() {
    answer 1 '^corm-run: .*thread 1 of [0-9]* cannot be started (.*ulimit -u' alone "$run" "$shm/m.corm" -q -p x -n 1 --threads 1 &&
        answer 1 '^corm-run: thread 2 of 2 cannot be started (.*ulimit -u' alone "$run" perplexity "$shm/m.corm" -q --threads 2 \
            -f "$text" &&
        answer 1 '^corm-prep: thread 2 of 2 cannot be started (.*ulimit -u' alone env OPENBLAS_NUM_THREADS=1 \
            "$build/corm-prep" convert -q -t 2 "$fable" -o "$shm/n.corm" && [ "$(ls -A "$shm")" = m.corm ]
}
if [ -n "$shm" ] && alone test -x "$run" -a -r "$fable/config.json" 2>/dev/null; then
    case_ 'a limit on tasks' few_tasks
else
    skip 'a limit on tasks' 'no right to become nobody, or no place for it'
fi
rm -rf "$shm"
large_file() {
    (ulimit -f 10 && answer 1 'l.npy.part: .*File too large' "$run" logits fable.corm -q --ids 1,2,3,4,5,6,7,8 \
        -o l.npy) && [ -z "$(ls | grep '^l\.npy')" ]
}
case_ 'a limit on the size of files' large_file

limited() {
    cgroup_run "$run" bench fable.corm --json -f "$text" --reps 2 >out 2>err || { cat err; return 1; }
    echo "budget $(number budget_bytes), cgroup at most $(cgroup_peak)"
    cat err
    # There is no room for the file in the page cache.
    [ "$(number budget_bytes)" -le 50331648 ] && [ "$(cgroup_hits)" -eq 0 ] &&
        grep -q '^reading  ' err && ! grep -q 'grows outside' err
}
if cgroup_open 50331648 2>why; then
    case_ 'an automatic budget heeds a cgroup of 48 MiB' limited
else
    skip 'an automatic budget heeds a cgroup' "$(cat why)"
fi
exit "$failed"

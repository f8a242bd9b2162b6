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
util=$(pwd)/tests/util_e2e.sh
. "$(pwd)/tests/limits/cgroup.sh"
case $(basename "$build") in
release* | debug*) ;;
*)
    echo 'ok limits # SKIP a sanitizer takes memory of its own'
    exit 0
    ;;
esac
work=$(mktemp -d) || exit 1
trap 'cgroup_close; rm -rf "$work"' EXIT
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

limited() {
    cgroup_run "$run" bench fable.corm --json -f "$text" --reps 2 >out 2>err || { cat err; return 1; }
    echo "budget $(number budget_bytes), cgroup at most $(cgroup_peak)"
    [ "$(number budget_bytes)" -le 50331648 ] && [ "$(cgroup_hits)" -eq 0 ]
}
if cgroup_open 50331648 2>why; then
    case_ 'an automatic budget heeds a cgroup of 48 MiB' limited
else
    skip 'an automatic budget heeds a cgroup' "$(cat why)"
fi
exit "$failed"

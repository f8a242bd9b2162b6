#!/bin/sh
# Is the memory budget kept? Runs a model for a while, the prompts changing, under a memory limit of
# which the kernel knows, and compares what was taken with what was planned. `make soak` builds and runs
#
#   tests/limits/soak.sh BUILD_DIR WORK_DIR MINUTES [MODEL.corm [TEXT]]
#
# The limit is half the archive. Without a model a synthetic one of 1.7 GB is made in WORK_DIR. Where
# no memory cgroup can be made (it takes root), --ram says the limit, and the kernel watches nothing.
# Prints a line `ok NAME` or `not ok NAME` for each promise.
set -eu
LC_ALL=C
export LC_ALL

out=$1 work=$2 minutes=$3 model=${4:-} text=${5:-}
run=$out/corm-run
here=$(dirname "$0")
. "$here/cgroup.sh"
. "$here/models.sh"
mkdir -p "$work"
[ -n "$model" ] || {
    make_olmoe small
    model=$work/olmoe-small.corm text=$work/olmoe-small.txt
}

size=$(stat -c %s "$model")
limit=$((size / 2 / 4096 * 4096))
log=$work/soak.log json=$work/soak.json
failed=0
case_() {
    name=$1
    shift
    if "$@"; then echo "ok $name"; else echo "not ok $name" && failed=1; fi
}
number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" "$json"; }
# decode KEY: of decoding.
decode() { sed -n "s/.*\"decode\": {[^}]*\"$1\": \([0-9.]*\).*/\1/p" "$json"; }
within() { [ "$1" -le $(($2 / 100 * 105)) ]; }
mb() { echo "$(($1 / 1000000)) MB"; }

trap 'cgroup_close' EXIT
trap 'exit 130' INT TERM
# Pages that another had brought in would be charged to that one.
dd if="$model" iflag=nocache count=0 2>/dev/null || :
set -- "$run" bench "$model" --minutes "$minutes" --prompt-tokens 48 --decode-tokens 48 --json --stats
[ -z "$text" ] || set -- "$@" -f "$text"
if cgroup_open "$limit"; then
    echo "# $(mb "$limit") by a memory cgroup (v$cgroup_v), $minutes minutes" >&2
    cgroup_run "$@" >"$json" 2>"$log" && status=0 || status=$?
    taken=$(cgroup_peak) hits=$(cgroup_hits)
    case_ 'the limit is noticed' grep -q ' of .*; experts are read' "$log"
else
    "$@" --ram "$limit" >"$json" 2>"$log" && status=0 || status=$?
    taken= hits=
fi
sed 's/^/# /' "$log" | tr '\r' '\n' | grep -v 'left$' || :
case_ 'it lives to the end' [ "$status" -eq 0 ]
[ "$status" -eq 0 ] || exit 1

budget=$(number budget_bytes) peak=$(number peak_memory_bytes) rounds=$(number reps)
echo "# $rounds rounds; budget $(mb "$budget"), resident at most $(mb "$peak")," \
    "cgroup ${taken:+$(mb "$taken") of $(mb "$limit"), limit met $hits times}"
echo "# decoding $(decode tok_per_s) tok/s, slowest round $(decode tok_per_s_min)"
case_ 'the budget is within the limit' [ "$budget" -le "$limit" ]
case_ 'resident memory stays within the budget' within "$peak" "$budget"
if [ -n "$taken" ]; then
    case_ 'the cgroup stays within the budget' within "$taken" "$budget"
    case_ 'the limit is never met' [ "$hits" -eq 0 ]
fi
case_ 'no round takes five times the median' \
    awk -v a="$(decode tok_per_s_min)" -v b="$(decode tok_per_s)" 'BEGIN { exit !(a * 5 > b) }'
exit "$failed"

#!/bin/sh
# Measures a CUDA device: `make bench-cuda` builds and runs
#
#   tests/kernels/cuda/bench.sh BUILD_DIR WORK_DIR
#
# Models are made once and kept in WORK_DIR; the archives stay
# in the host's memory (a mapping of the file, a throttle that no disk reaches), so that what is
# measured is the way from there to the device. Printed are: the memory bandwidth of the device and
# what the operations reach of it; decoding with all experts in device memory, and its share of that
# bandwidth; and, with room for 100, 50 and 25 % of the experts, B0 (whole experts on demand, least
# recently used) beside each mechanism, exact and with --loss 1. At the end, one line for each figure
# that has a goal, with `reached` or `MISSED`; exact ones have it where B0 waits more than 55 % of its time.
# BENCH_QUICK=1 leaves out the big model and measures few tokens: to see that it runs.
# BENCH_RUN=PROGRAM takes the place of corm-run, for a device that is not there.
set -eu
LC_ALL=C
export LC_ALL

out=$1 work=$2 device=cuda
run=${BENCH_RUN:-$out/corm-run}
text=tests/golden/heldout.txt
cd "$(dirname "$0")/../../.."
. tests/limits/models.sh
mkdir -p "$work"
result=$work/result.$$
goals=$work/goals.$$
trap 'rm -f "$result" "$goals"' EXIT
trap 'exit 130' INT TERM
: >"$goals"
memory='--reading mapped --throttle 100GB'
lengths='--prompt-tokens 128 --decode-tokens 256 --reps 5'
[ -z "${BENCH_QUICK:-}" ] || lengths='--prompt-tokens 8 --decode-tokens 8 --reps 1'

# field KEY: the first value that the JSON line in $result gives the key; row NAME KEY: of a row.
field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$result" | head -n 1; }
row() {
    sed 's/{"name"/\n{"name"/g' "$result" | grep -F "\"name\": \"$1\"" |
        sed -n "s/.*\"$2\": \([^,}]*\).*/\1/p" | head -n 1
}
# goal WHAT FIGURE LEAST [UNIT]
goal() {
    awk -v what="$1" -v got="${2:-0}" -v least="$3" -v unit="${4:-x}" 'BEGIN {
        printf "%-60s %7.2f %s, goal %.2f: %s\n", what, got, unit, least,
            (got + 0 >= least + 0) ? "reached" : "MISSED"
    }' >>"$goals"
}

# Decoding with all experts in device memory.
resident() {
    model=$1 words=$2
    echo "## $model, all experts in device memory"
    # shellcheck disable=SC2086
    "$run" bench "$work/$model.corm" --quiet --device "$device" -f "$words" $lengths --json >"$result"
    rate=$(sed -n 's/.*"decode": {\([^}]*\)}.*/\1/p' "$result" |
        sed -n 's/.*"weight_gb_per_s": \([^,]*\).*/\1/p')
    speed=$(sed -n 's/.*"decode": {\([^}]*\)}.*/\1/p' "$result" | sed -n 's/.*"tok_per_s": \([^,]*\).*/\1/p')
    [ -n "$rate" ] || { echo "bench-cuda: $model: no rate" >&2; return 1; }
    echo "$speed $rate" | awk '{ printf "decode %.1f tok/s, %.1f GB/s of weights\n", $1, $2 }'
    [ -z "$bandwidth" ] || goal "$model, decode of measured memory bandwidth" \
        "$(awk -v a="$rate" -v b="$bandwidth" 'BEGIN { print a / b * 100 }')" 80 %
    echo
}

# B0 beside ours with room for SHARE % of the experts.
budget() {
    model=$1 words=$2 share=$3
    echo "## $model, room for $share % of the experts"
    # shellcheck disable=SC2086
    "$run" bench "$work/$model.corm" --quiet --device "$device" -f "$words" $lengths $memory --ablation \
        --share "$share" --json >"$result" || return 1
    for name in resident B0 '+ one read an expert' '+ read meanwhile' '+ two-level cache' '+ guess l+1' \
        '+ guess l+2' '+ CPU for missed' '+ approximate'; do
        [ -n "$(row "$name" tok_per_s)" ] || continue
        echo "$name|$(row "$name" tok_per_s)|$(row "$name" over_b0)|$(row "$name" copied_bytes_per_tok)|$(
            row "$name" hit_rate)|$(row "$name" copy_hidden_share)|$(row "$name" stall_share)"
    done | awk -F '|' '
        BEGIN {
            printf "%-20s %9s %6s %11s %6s %7s %6s\n", "", "tok/s", "x B0", "copied/tok", "hits", "hidden",
                "stall"
        }
        $3 == "" { printf "%-20s %9.1f\n", $1, $2; next }
        {
            hidden = $6 == "" ? "-" : sprintf("%.0f %%", 100 * $6)
            printf "%-20s %9.1f %6.2f %8.2f MB %4.0f %% %7s %4.0f %%\n", $1, $2, $3, $4 / 1e6, 100 * $5, hidden,
                100 * $7
        }'
    stall=$(row B0 stall_share)
    echo
    [ "$share" -lt 100 ] || return 0
    if awk -v s="$stall" 'BEGIN { exit !(s > 0.55) }'; then
        goal "$model, $share %, exact over B0" "$(row '+ guess l+2' over_b0)" 2
        goal "$model, $share %, exact, the CPU for missed, over B0" "$(row '+ CPU for missed' over_b0)" 2
    fi
    [ -z "$(row '+ approximate' over_b0)" ] ||
        goal "$model, $share %, --loss 1 over B0" "$(row '+ approximate' over_b0)" 2.14
}

bandwidth=
if [ -z "${BENCH_RUN:-}" ]; then
    line=$("$out/tests/kernels/cuda/device" -l 2>&1) || {
        echo "bench-cuda: nothing was measured: $line"
        exit 1
    }
    echo '## Memory'
    "$out/tests/kernels/cuda/device" -b >"$result"
    cat "$result"
    bandwidth=$(sed -n 's/.*add moves \([0-9.]*\) GB\/s.*/\1/p' "$result")
    echo
fi
calibration='--calib calib-data/stories --calib-held calib-data/heldout'
[ -z "${BENCH_QUICK:-}" ] || calibration="$calibration --calib-tokens 512"
# shellcheck disable=SC2086
make_archive fable-q8 tests/models/fable $calibration --codec q8
# shellcheck disable=SC2086
make_archive fable-raw tests/models/fable $calibration --no-compress
models='fable-q8 fable-raw'
if [ -z "${BENCH_QUICK:-}" ]; then
    make_olmoe small
    # Calibrated on its own language, for guesses and for --loss.
    "$out/synth" text "$work/olmoe-small" --stream 5 --tokens 8192 -o "$work/olmoe-calib.txt"
    make_archive olmoe-small-q8 "$work/olmoe-small" --codec q8 --calib "$work/olmoe-calib.txt" \
        --calib-held "$work/olmoe-small.txt"
    models="$models olmoe-small-q8"
fi
for model in $models; do
    words=$text
    case $model in olmoe*) words=$work/olmoe-small.txt ;; esac
    case $model in *q8) resident "$model" "$words" ;; esac
    for share in 100 50 25; do
        budget "$model" "$words" "$share"
    done
done
echo '## Goals'
cat "$goals"

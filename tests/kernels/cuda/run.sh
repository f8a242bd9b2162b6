#!/bin/sh
# The CUDA backend on this machine's device; `make test-cuda` runs it. CORM_BUILD is the build folder.
#
#   tests/kernels/cuda/run.sh [BENCH_DIR]: with a folder for its models, tests/kernels/cuda/bench.sh comes at the end.
#
# Without a device it says why, in one line, and fails: what was not run has not passed.
set -u

out=$CORM_BUILD
device=$out/tests/kernels/cuda/device
line=$("$device" -l 2>&1) || {
    echo "test-cuda: nothing was tested: $line"
    exit 1
}

tests/run.sh "$device" || exit 1
if command -v compute-sanitizer >/dev/null 2>&1; then
    for tool in memcheck racecheck synccheck initcheck; do
        tests/run.sh -t 3600 -w "compute-sanitizer --tool $tool --error-exitcode 9 -q" "$device" || exit 1
        echo "compute-sanitizer $tool: clean"
    done
else
    echo 'compute-sanitizer: not installed, not run'
fi

# The demo checkpoint, end to end: the CPU's greedy tokens, with all experts in device memory and with
# few.
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
for codec in bf16 q8 q4; do
    "$out/corm-prep" convert tests/models/fable -o "$work/$codec.corm" --codec "$codec" >/dev/null 2>&1 || {
        echo "test-cuda: corm-prep convert --codec $codec failed"
        exit 1
    }
    ask="$work/$codec.corm -p Once -n 64 --temp 0 --ctx 256 --quiet"
    least=$("$out/corm-run" $ask --device cuda --vram 1M 2>&1 | sed -n 's/.*: \([0-9]*\) MiB would do.*/\1/p')
    "$out/corm-run" $ask >"$work/cpu" && "$out/corm-run" $ask --device cuda >"$work/all" &&
        "$out/corm-run" $ask --device cuda --vram "${least}M" --missed device >"$work/few" || exit 1
    cmp "$work/all" "$work/few" || exit 1
    # With the CPU for missed experts: the same again, and of bf16 what both compute alone.
    for run in 1 2; do
        "$out/corm-run" $ask --device cuda --vram "${least}M" --missed cpu >"$work/missed$run" || exit 1
    done
    cmp "$work/missed1" "$work/missed2" || exit 1
    cmp "$work/all" "$work/missed1" || [ "$codec" != bf16 ] || exit 1
    # Inputs of q8 and q4 are quantised on the CPU alone: there the text may part ways.
    cmp "$work/cpu" "$work/all" || [ "$codec" != bf16 ] || exit 1
    echo "greedy tokens, $codec: compared"
done
# The whole program: copies that come while kernels run, into slots that are used again and again.
if command -v compute-sanitizer >/dev/null 2>&1; then
    for missed in device cpu; do
        compute-sanitizer --tool memcheck --error-exitcode 9 -q "$out/corm-run" "$work/q8.corm" -p Once -n 4 \
            --temp 0 --ctx 256 --quiet --device cuda --vram "${least}M" --missed $missed >/dev/null || exit 1
    done
    echo 'compute-sanitizer memcheck of corm-run: clean'
fi
for missed in device cpu auto; do
    echo "bench, half of the experts in device memory, --missed $missed"
    "$out/corm-run" bench "$work/q8.corm" --device cuda --share 50 --missed $missed || exit 1
done
if [ $# -eq 1 ]; then
    tests/kernels/cuda/bench.sh "$out" "$1" || exit 1
else
    "$device" -b
fi

#!/bin/sh
# The CUDA backend on this machine's device; `make test-cuda` runs it. CORM_BUILD is the build folder.
# Without a device it says why, in one line, and fails: what was not run has not passed.
set -u

out=$CORM_BUILD
device=$out/tests/cuda/device
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
"$device" -b

#!/bin/sh
# Runs fuzz targets, two at a time: tests/fuzz/run.sh [-m MUTATOR] SECONDS PROGRAM...
#
# MUTATOR is a command that is run beside them and ends by itself.
# A target starts from tests/fuzz/seeds/<target>/ where that exists, with tests/fuzz/<target>.dict, and
# keeps what it finds in corpus/<target>/ beside the programs, for the next run. Prints a line `ok ...`
# or `not ok ...` for each; exit status 1 if one failed or there was none.
set -u

if [ "${1:-}" = --one ]; then
    seconds=$2 program=$3
    name=$(basename "$program")
    place=$(dirname "$program")
    corpus=$place/corpus/$name log=$place/$name.log
    mkdir -p "$corpus" "$place/found"
    set -- "$corpus"
    [ ! -d "tests/fuzz/seeds/$name" ] || set -- "$@" "tests/fuzz/seeds/$name"
    [ ! -f "tests/fuzz/$name.dict" ] || set -- -dict="tests/fuzz/$name.dict" "$@"
    "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$place/found/$name-" "$@" >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$status" -eq 0 ]; then
        echo "ok $name: ${runs:-?} runs in $seconds s"
        exit 0
    fi
    echo "not ok $name: see $log"
    grep -m 1 -A 12 -E 'ERROR:|runtime error:|SUMMARY:' "$log" | sed 's/^/    | /'
    sed -n 's/.*Test unit written to /    | input: /p' "$log"
    exit 1
fi

mutator=
if [ "${1:-}" = -m ]; then
    mutator=$2
    shift 2
fi
seconds=$1
shift
if [ $# -eq 0 ]; then
    echo "not ok fuzz: there is no tests/fuzz/fuzz_*.c" >&2
    exit 1
fi
mkdir -p "$(dirname "$1")/found"
if [ -n "$mutator" ]; then
    $mutator &
    mutator_pid=$!
    trap 'kill "$mutator_pid" 2>/dev/null' EXIT
    trap 'exit 130' HUP INT TERM
fi
printf '%s\n' "$@" | xargs -P 2 -I '{}' "$0" --one "$seconds" '{}'
status=$?
if [ -n "$mutator" ]; then
    wait "$mutator_pid" || status=1
    trap - EXIT
fi
[ "$status" -eq 0 ]

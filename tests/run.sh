#!/bin/sh
# Runs test programs and sums them up.
#
#   tests/run.sh [-t SECONDS] [-w WRAPPER] PROGRAM...
#
# A program reports in TAP: lines `ok ...` and `not ok ...` on stdout (cmocka does when asked; shell
# tests print them). A crash, a timeout, a failing exit status without a failed test, no test at all, or a
# file left in TMPDIR (a folder for each program) counts as one more failure. What a program printed is
# shown only when it failed. WRAPPER is put in front of each program (valgrind). The last line is
# `N passed, N failed`; the exit status is 1 unless something passed and nothing failed.
set -u

limit=900 # a sanitizer on a busy machine is twenty times slower than a release build on an idle one
wrapper=
while getopts t:w: option; do
    case $option in
    t) limit=$OPTARG ;;
    w) wrapper=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

work=$(mktemp -d) || exit 1
child=
# A running program is told to end, and given the time to.
trap '[ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM

export CMOCKA_MESSAGE_OUTPUT=TAP
export TMPDIR="$work/tmp"
mkdir "$TMPDIR"
passed=0 failed=0 skipped=0

for program in "$@"; do
    name=$(basename "$program")
    start=$(date +%s%N)
    # In the background, as a shell acts on a signal only between the commands that it waits for.
    case $program in
    *.sh) exec timeout -k 10 "$limit" sh "$program" ;;
    *) exec timeout -k 10 "$limit" $wrapper "$program" ;;
    esac >"$work/out" 2>"$work/err" </dev/null &
    child=$!
    wait "$child"
    status=$?
    child=
    ms=$((($(date +%s%N) - start) / 1000000))

    s=$(grep -Ec '^(not )?ok .*# *SKIP' "$work/out")
    p=$(grep -E '^ok ' "$work/out" | grep -Ecv '# *SKIP')
    f=$(grep -E '^not ok ' "$work/out" | grep -Ecv '# *SKIP')
    why=
    if [ "$status" -eq 124 ]; then
        why="stopped after $limit s"
    elif [ "$status" -ge 128 ]; then
        why="killed by signal $((status - 128))"
    elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        why="exit status $status"
    elif [ $((p + f + s)) -eq 0 ]; then
        why="ran no test"
    elif [ "$f" -eq 0 ] && [ -z "$wrapper" ] && [ -n "$(ls -A "$TMPDIR")" ]; then
        why="left $(ls -A "$TMPDIR" | tr '\n' ' ')behind"
    fi
    rm -rf "$TMPDIR" && mkdir "$TMPDIR"
    [ -z "$why" ] || f=$((f + 1))

    printf '%-28s %5d passed' "$name" "$p"
    [ "$f" -eq 0 ] || printf ', %d failed' "$f"
    [ "$s" -eq 0 ] || printf ', %d skipped' "$s"
    printf '  (%d.%02d s)%s\n' $((ms / 1000)) $((ms % 1000 / 10)) "${why:+  $why}"
    if [ "$f" -ne 0 ]; then
        { grep -v '^ok ' "$work/out"; cat "$work/err"; } | tail -n 100 | sed 's/^/    | /'
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

[ "$skipped" -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

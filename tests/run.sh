#!/bin/sh
# Runs test programs, several at a time, and sums them up.
#
#   tests/run.sh [-j LANES] [-t SECONDS] [-w WRAPPER] PROGRAM...
#
# A program reports in TAP: lines `ok ...` and `not ok ...` on stdout (cmocka does when asked; shell
# tests print them). A crash, a timeout, a failing exit status without a failed test, no test at all, or a
# file left in TMPDIR (a folder for each program) counts as one more failure. What a program printed is
# shown only when it failed. The times in its line are those on the clock, and of processors: what the program
# and its children used, which a busy machine changes little. WRAPPER is put in front of each program (valgrind). Programs start in the
# order given, so that a long one is better named early; each prints its line when it ends. What failed is
# listed again at the end, where the last lines of a log have it. The last line is `N passed, N failed`; the
# exit status is 1 unless something passed and nothing failed.
set -u

lanes=$(nproc 2>/dev/null || echo 1)
[ "$lanes" -le 4 ] || lanes=4 # each program has threads of its own
limit=900 # a sanitizer on a busy machine is twenty times slower than a release build on an idle one
wrapper=
while getopts j:t:w: option; do
    case $option in
    j) lanes=$OPTARG ;;
    t) limit=$OPTARG ;;
    w) wrapper=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

work=$(mktemp -d) || exit 1
children=
# What runs is told to end, and given the time to: in this shell the lanes, in a lane its program.
stop() { [ -z "$children" ] || { kill $children && wait $children; } 2>/dev/null; }
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM

export CMOCKA_MESSAGE_OUTPUT=TAP

# run PROGRAM FOLDER: runs it, with all it writes in FOLDER, and leaves there `counts` (passed, failed,
# skipped), `report`, what is shown of it, and `failures`, a line for each.
run() {
    program=$1 folder=$2
    name=$(basename "$program")
    export TMPDIR="$folder/tmp"
    mkdir "$TMPDIR"
    times >"$folder/times"
    start=$(date +%s%N)
    # In the background, as a shell acts on a signal only between the commands that it waits for.
    case $program in
    *.sh) exec timeout -k 10 "$limit" sh "$program" ;;
    *) exec timeout -k 10 "$limit" $wrapper "$program" ;;
    esac >"$folder/out" 2>"$folder/err" </dev/null &
    children=$!
    wait "$children"
    status=$?
    children=
    ms=$((($(date +%s%N) - start) / 1000000))
    times >>"$folder/times" # its second line is what children used, user and system
    cpu=$(awk -F '[ms ]+' '{ used = ($1 + $3) * 60 + $2 + $4 } NR == 2 { before = used }
        NR == 4 { printf "%.1f", used - before }' "$folder/times")

    s=$(grep -Ec '^(not )?ok .*# *SKIP' "$folder/out")
    p=$(grep -E '^ok ' "$folder/out" | grep -Ecv '# *SKIP')
    f=$(grep -E '^not ok ' "$folder/out" | grep -Ecv '# *SKIP')
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
    rm -rf "$TMPDIR"
    [ -z "$why" ] || f=$((f + 1))

    {
        printf '%-28s %5d passed' "$name" "$p"
        [ "$f" -eq 0 ] || printf ', %d failed' "$f"
        [ "$s" -eq 0 ] || printf ', %d skipped' "$s"
        printf '  (%d.%02d s, CPU %s s)%s\n' $((ms / 1000)) $((ms % 1000 / 10)) "$cpu" "${why:+  $why}"
        if [ "$f" -ne 0 ]; then
            { grep -v '^ok ' "$folder/out"; cat "$folder/err"; } | tail -n 100 | sed 's/^/    | /'
        fi
    } >"$folder/report"
    grep -E '^not ok ' "$folder/out" | grep -Ev '# *SKIP' | sed "s/^not ok /$name: /" >"$folder/failures"
    [ -z "$why" ] || echo "$name: $why" >>"$folder/failures"
    echo "$p $f $s" >"$folder/counts"
    rm -f "$folder/out" "$folder/err"
}

# lane PROGRAM...: takes programs that no other lane took, one after the other. Making the folder is
# taking: it succeeds for one lane alone.
lane() {
    trap - EXIT
    trap 'stop; exit 130' HUP INT TERM
    index=0
    for candidate; do
        index=$((index + 1))
        mkdir "$work/$index" 2>/dev/null || continue
        run "$candidate" "$work/$index"
        flock "$work" cat "$work/$index/report"
    done
}

lane_ids=
while [ "$lanes" -gt 0 ]; do
    lane "$@" &
    lane_ids="$lane_ids $!"
    lanes=$((lanes - 1))
done
children=$lane_ids
wait $lane_ids
children=

passed=0 failed=0 skipped=0 index=0
for program; do
    index=$((index + 1))
    if ! read -r p f s <"$work/$index/counts"; then
        mkdir -p "$work/$index"
        echo "$(basename "$program"): its lane ended before it did" >"$work/$index/failures"
        p=0 f=1 s=0
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

if [ "$failed" -ne 0 ]; then
    echo "failed:"
    index=0
    for program; do
        index=$((index + 1))
        sed 's/^/  /' "$work/$index/failures"
    done
fi
[ "$skipped" -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

#!/bin/sh
# What to run on a machine with an NVIDIA device, in the order of its value, within ten minutes:
#
#   tests/cuda/session.sh BUILD_DIR WORK_DIR      (`make test-cuda`; in a bundle: ./session.sh)
#
# Nothing is installed, and nothing built: the programs are those in BUILD_DIR, or come in a bundle that
# tests/cuda/bundle.sh made elsewhere. Each step has its own limit in seconds, and a step that fails or is
# cut off does not keep the next ones from running. A line tells of each, `ok` or `not ok`; what it printed
# is in WORK_DIR/STEP.log, and the figures are printed as they come. At the end all figures are told again.
#
#   operations    each operation against the CPU, twice the same bits; golden logits          150 s
#   tokens        greedy tokens of the demo model (30 s), all and few experts on the device   30 s
#   archives      of Qwen3-30B's shape (4 layers) and Mixtral's (2), made here                50 s each
#   same          equal hashes under two budgets, both shapes                                 30 s each
#   probes        a kernel, a round trip, copies, a demanded MiB behind guesses               30 s
#   resident      decoding and prompts, all experts in device memory, both shapes             40 s each
#   half-WHO      the first shape, room for half of them, missed ones by each --missed        30 s each
#   memcheck      compute-sanitizer, where there is one: operations                           the rest
#
# All limits together are ten minutes, so that each step has its time whatever those before it take.
#
# SESSION_RUN=PROGRAM takes the place of corm-run, for a device that is not there; SESSION_SHAPES="A B" are
# other shapes, SESSION_SECONDS=N another limit of all.
set -u
export LC_ALL=C

mkdir -p "$2" || exit 1
out=$(cd "$1" && pwd) work=$(cd "$2" && pwd) self=$(cd "$(dirname "$0")" && pwd)/session.sh
cd "$(dirname "$self")/../.." || exit 1
run=${SESSION_RUN:-$out/corm-run}
device=$out/tests/kernels/cuda/device
seconds=${SESSION_SECONDS:-600}
started=$(date +%s)
failed=0

left() { echo $((seconds - $(date +%s) + started)); }
# step NAME LIMIT COMMAND...: at most LIMIT seconds, and no more than are left.
step() {
    name=$1 limit=$2
    shift 2
    rest=$(left)
    [ "$rest" -ge "$limit" ] || limit=$rest
    if [ "$limit" -le 0 ]; then
        echo "not ok $name: no time was left"
        failed=1
        return 1
    fi
    begun=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1
    status=$?
    took=$(($(date +%s) - begun))
    if [ $status -eq 0 ]; then
        echo "ok $name ($took s)"
        return 0
    fi
    [ $status -ne 124 ] || echo "cut off after $limit s" >>"$work/$name.log"
    echo "not ok $name ($took s): $(tail -n 1 "$work/$name.log")"
    failed=1
    return 1
}
# told NAME: the figures of a step, now and at the end.
told() {
    sed "s/^/    /" "$work/$1.log"
    { echo "## $1"; cat "$work/$1.log"; echo; } >>"$work/figures"
}
lengths='--prompt-tokens 256 --decode-tokens 64 --reps 3'

# What runs under a limit is a program: this one, asked for a part of itself.
part=${3:-}
case $part in
'') ;;
same)
    # bench prints the hash of the last logits: the same for any budget, where the device computes all.
    for share in 30 70; do
        "$run" bench "$4" --device cuda --share $share --missed device --prompt-tokens 8 --decode-tokens 24 \
            --reps 1 --stats 2>&1 | grep 'hash' >"$work/hash.$share" || exit 1
    done
    cat "$work/hash.30" && exec cmp "$work/hash.30" "$work/hash.70"
    ;;
tokens)
    ask="-p Once -n 48 --temp 0 --ctx 256 --quiet --device cuda --missed device"
    least=$("$run" generate "$4" -p Once --device cuda --vram 1M 2>&1 </dev/null |
        sed -n 's/.*: \([0-9]*\) MiB would do.*/\1/p')
    # shellcheck disable=SC2086
    "$run" generate "$4" $ask </dev/null >"$work/all.txt" &&
        "$run" generate "$4" $ask --vram "${least}M" </dev/null >"$work/few.txt" || exit 1
    exec cmp "$work/all.txt" "$work/few.txt"
    ;;
*) # a bench with these options
    shift 3
    "$run" bench "$@" --device cuda --quiet
    exit
    ;;
esac
self() { # NAME LIMIT PART ARGUMENT...
    name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$self" "$out" "$work" "$@"
}

: >"$work/figures"
step operations 150 "$device"
operations=$?
demo=$out/fable-q8.corm
if [ ! -f "$demo" ] && [ -x "$out/corm-prep" ]; then
    demo=$work/fable-q8.corm
    step demo 30 "$out/corm-prep" convert tests/models/fable --codec q8 --force -o "$demo"
fi
self tokens 30 tokens "$demo"
archives=
for shape in ${SESSION_SHAPES:-qwen3-30b-a3b mixtral-8x7b}; do
    layers=4
    [ "$shape" != mixtral-8x7b ] || layers=2
    step "archive-$shape" 50 "$out/synth" straight "$work/$shape.corm" --shape "$shape" --layers $layers --quiet &&
        archives="$archives $shape"
done
for shape in $archives; do
    self "same-$shape" 30 same "$work/$shape.corm"
done
for shape in $archives; do
    self probes 30 bench "$work/$shape.corm" --probe && told probes
    break
done
for shape in $archives; do
    # shellcheck disable=SC2086
    self "resident-$shape" 40 bench "$work/$shape.corm" $lengths && told "resident-$shape"
done
for shape in $archives; do
    for missed in device cpu fit auto; do
        # shellcheck disable=SC2086
        self "half-$missed-$shape" 30 bench "$work/$shape.corm" --share 50 --missed $missed $lengths &&
            told "half-$missed-$shape"
    done
    break
done
if [ $operations -ne 0 ]; then
    echo '# memcheck: operations did not pass, not run'
elif command -v compute-sanitizer >/dev/null 2>&1; then
    step memcheck "$seconds" compute-sanitizer --tool memcheck --error-exitcode 9 -q "$device"
else
    echo '# memcheck: there is no compute-sanitizer here, not run'
fi
[ -z "$archives" ] || for shape in $archives; do rm -f "$work/$shape.corm"; done
echo
cat "$work/figures"
exit $failed

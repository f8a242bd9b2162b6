#!/bin/sh
# corm-run on devices that are not there (tests/kernels/cuda/run_device.c): what a device that is missing, too old,
# full or lost makes it say, its text, and what bench tells of one. Prints `ok NAME` or `not ok NAME`.
. tests/e2e/util_e2e.sh
enter_work
device=$build/tests/kernels/cuda/run_device

# on DEVICE ARGUMENT...: corm-run on out, err.
on() {
    machine=$1
    shift
    CORM_TEST_DEVICE=$machine "$device" "$@" >out 2>err </dev/null
}
# one_line DEVICE TEXT ARGUMENT...: it fails with one line that says so.
one_line() {
    machine=$1 said=$2
    shift 2
    on "$machine" generate fable.corm -q -p Once -n 8 --temp 0 --device cuda "$@"
    got=$?
    cat out err
    # A shell may add a line of its own for a program that aborted.
    [ "$got" -ne 0 ] && [ "$(grep -vc '^Aborted' err)" -eq 1 ] && grep -q "$said" err
}
# text DEVICE ARGUMENT...: greedy text.
text() {
    machine=$1
    shift
    on "$machine" generate fable.corm -q -p 'Once upon a time' -n 12 --temp 0 --device cuda "$@" && cat out
}
# number KEY: the last value that the JSON line in out gives the key.
number() { grep -o "\"$1\": [^,}]*" out | tail -n 1 | sed 's/^[^:]*: //'; }
# compare A OP B: of numbers.
compare() { awk "BEGIN { exit !($1 $2 $3) }"; }

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}

# ---- machines that it cannot use -------------------------------------------------------------------

case_ 'no device' one_line none 'no CUDA device'
case_ 'no driver' one_line no-driver 'no NVIDIA driver'
case_ 'a driver that is too old' one_line old-driver 'driver is too old'
case_ 'a device that is too old' one_line old 'capability 6.0; 7.5 or later'
case_ 'memory that another program has' one_line taken 'does another program use it'
case_ 'memory that is taken, and a budget beyond it' one_line taken 'in use by another program' --vram 512M
case_ 'a budget that is too small' one_line emulated 'MiB would do' --vram 1M
case_ 'a device of another number' one_line emulated 'cuda:3: this machine has 1' --device cuda:3
case_ 'a device that is lost in mid-run' one_line lost:90 'unspecified launch failure'
case_ 'a way for missed experts, and no device' one_line none 'no device' --device cpu --missed cpu

# ---- text ------------------------------------------------------------------------------------------

"$run" generate fable.corm -q -p 'Once upon a time' -n 12 --temp 0 --isa scalar </dev/null >cpu.txt
# least ARCHIVE: the least --vram, in MiB.
least() {
    CORM_TEST_DEVICE=fake "$device" generate "$1" -q -p Once --device cuda --vram 1M 2>&1 |
        sed -n 's/.*: \([0-9]*\) MiB would do.*/\1/p'
}
least=$(least fable.corm)
for options in '' "--vram ${least:-no}M" "--vram ${least:-no}M --missed cpu" \
    "--vram ${least:-no}M --missed auto" "--vram ${least:-no}M --missed device" "--vram ${least:-no}M --missed cpu --ram 45M"; do
    case_ "text of the fake device $options" eval "text fake $options | cmp - cpu.txt"
done
case_ 'text of the emulated device' eval "text emulated --vram 64M | cmp - cpu.txt"
case_ 'text of the emulated device, and the CPU for missed experts' \
    eval "text emulated --vram 44M --missed cpu | cmp - cpu.txt"

# Where neurons are left out, whoever computes leaves out the same ones.
loss() {
    "$prep" convert -q "$fable" -o loss.corm --calib "$root/calib-data/stories" --calib-held "$root/calib-data/heldout" \
        --calib-tokens 512 --threads 2 || return 1
    ask='loss.corm -p Once -n 12 --temp 0 --loss 1 --stats'
    "$run" generate $ask </dev/null >out 2>err && grep 'skipped' err && grep 'hash' err >want || return 1
    for missed in device cpu; do
        on fake generate $ask --device cuda --vram "$(least loss.corm)M" --missed $missed || return 1
        cat err
        grep 'hash' err | cmp - want && grep 'skipped' err || return 1
    done
}
case_ 'neurons that are left out, with the CPU for missed experts' loss

plan() {
    on fake:2e8 generate fable.corm -p Once -n 2 --temp 0 --device cuda --vram "${least}M" "$@" &&
        grep '^missed' err
}
case_ 'the plan says who computes missed experts' eval \
    "plan --missed device | grep -q 'copied to the device (link'"
case_ 'the CPU computes them where all fit into --ram' eval "plan | grep -q 'computed by the CPU (link'"
case_ 'else the device' eval "plan --ram 45M | grep -q 'copied to the device (link'"
case_ 'the plan says what was measured' eval \
    "plan --missed auto | grep -q 'computed by the CPU (link 0.[0-9] GB/s, uploads 0.[0-9] GB/s, CPU [0-9.]* GB/s), with .*of the host'"

# ---- figures ---------------------------------------------------------------------------------------

bench() {
    machine=$1
    shift
    on "$machine" bench fable.corm --device cuda --prompt-tokens 16 --decode-tokens 16 --reps 1 "$@"
}
figures() {
    bench fake:3e8,100000 --vram "${least}M" --missed device --json || return 1
    cat out
    compare "$(number hit_share)" '<' 1 && compare "$(number stall_share)" '>' 0.05 &&
        compare "$(number copied_demanded_bytes_per_tok)" '>' 1000 &&
        compare "$(number copied_guessed_bytes_per_tok)" '>' 1000 &&
        compare "$(number copy_hidden_share)" '>' 0 && compare "$(number copy_hidden_share)" '<' 1 &&
        compare "$(number copies_per_tok)" '>' 0 &&
        compare "$(number copies_per_tok)" '<' "$(number copied_chunks_per_tok)" &&
        compare "$(number cpu_share)" '==' 0
}
case_ 'bench tells what went to the device' figures
missed_figures() {
    bench fake:3e8 --vram "${least}M" --json || return 1 # the CPU, as all experts fit into --ram
    cat out
    compare "$(number cpu_share)" '>' 0.1
}
case_ 'bench tells what the CPU computed' missed_figures
# The CUDA backend tells how much of copying was hidden, by its events.
# Copies of two tokens may all come between computations on a busy machine.
told() {
    for try in 1 2 3 4 5; do
        bench emulated:2e9,20000 --prompt-tokens 4 --decode-tokens 2 --vram 44M --missed device --json || return 1
        cat out
        compare "$(number copy_hidden_share)" '<' 1 || return 1
        compare "$(number copy_hidden_share)" '>' 0 && return 0
    done
    return 1
}
case_ 'bench tells what of copying was hidden' told
# Where copying took no time, nothing is made up.
not_told() {
    bench emulated --prompt-tokens 4 --decode-tokens 2 --vram 44M || return 1
    cat out
    grep -q '^decode .* % .*B .* - .*%$' out || return 1
    bench emulated --prompt-tokens 4 --decode-tokens 2 --vram 44M --json || return 1
    ! grep -q copy_hidden_share out
}
case_ 'bench tells no share of nothing' not_told
# By layers: fable has few, so that what a token needs at both ends counts.
handed_over() {
    bench emulated --prompt-tokens 4 --decode-tokens 2 --vram 44M --json || return 1
    cat out
    compare "$(number launches_per_tok)" '>' 10 && compare "$(number waits_per_tok)" '>' 1 &&
        compare "$(number small_copies_per_tok)" '>' 1 && compare "$(number small_copy_bytes_per_tok)" '>' 100
}
case_ 'bench tells what was handed to the device' handed_over
on_cpu() { "$device" bench fable.corm --prompt-tokens 4 --decode-tokens 4 --reps 1 -q >out && ! grep -q hidden out; }
case_ 'bench on the CPU has no table of a device' on_cpu

probe() {
    on emulated bench fable.corm --device cuda --vram 64M --probe || return 1
    cat out
    grep -q 'a kernel [0-9.]* us, a round trip [0-9.]* us' out && grep -q 'guesses of: 0 MiB .*16 MiB [0-9]* us' out &&
        grep -q 'by I/O threads: 1 [0-9.]*, 2 ' out && on fake:3e8 bench fable.corm --device cuda --probe --json || return 1
    cat out
    # A demanded MiB goes before guesses there, but for the copy under way: not behind 16 MiB of them.
    compare "$(grep -o '"guessed_bytes": 16777216, "s": [0-9.e-]*' out | sed 's/.*: //')" '<' 0.04
}
case_ 'probes of a device' probe
no_probe() { ! "$device" bench fable.corm -q --probe >out 2>err && cat err && grep -q 'name one with --device' err; }
case_ 'probes of no device' no_probe

ablation() {
    on fake:3e8,100000 bench fable.corm --device cuda --ablation --share 40 --throttle 2000MB \
        --prompt-tokens 8 --decode-tokens 16 --reps 1 "$@"
}
rows() {
    ablation || return 1
    cat out
    for row in resident B0 '+ one read an expert' '+ read meanwhile' '+ two-level cache' '+ guess l+1' '+ guess l+2' \
        '+ CPU for missed'; do
        grep -qF "$row" out || { echo "no row $row"; return 1; }
    done
    grep -q '^copies to the device 0\.[0-9] GB/s' out && ablation --json || return 1
    cat out
    compare "$(grep -o '"name": "B0".*' out | grep -o '"copied_bytes_per_tok": [0-9.e+]*' | head -n 1 |
        sed 's/.*: //')" '>' 1000 && grep -q '"link_bytes_per_s"' out
}
case_ 'the ablation has the rows of the CPU, and what was copied' rows

# What measures a real device, on one that is not there.
measured() {
    CORM_TEST_DEVICE=fake:2e9,20000 BENCH_QUICK=1 BENCH_RUN="$device" "$root/tests/kernels/cuda/bench.sh" "$build" \
        "$PWD/bench" >out 2>err
    got=$?
    cat out err
    [ $got -eq 0 ] && [ "$(grep -c '^## fable-q8, room for' out)" -eq 3 ] &&
        [ "$(grep -c '^B0 .* 1\.00 .*MB' out)" -eq 6 ] && [ "$(grep -c '^+ approximate .*MB' out)" -eq 6 ] &&
        grep -q '^fable-raw, 25 %, --loss 1 over B0 .* goal 2.14: ' out
}
[ -n "$quick" ] || case_ 'the measurement of a device' measured

# What runs on a real device, on one that is not there: the program of operations then says so, and the other
# steps go on.
session() {
    CORM_TEST_DEVICE=fake CORM_BUILD=$build SESSION_RUN=$device SESSION_SHAPES=qwen3.6-tiny \
        "$root/tests/cuda/session.sh" "$build" "$PWD/session" >out 2>err
    got=$?
    cat out err
    [ $got -eq 1 ] && grep -q '^not ok operations' out && [ "$(grep -c '^not ok' out)" -eq 1 ] || return 1
    for step in archive-qwen3.6-tiny probes resident-qwen3.6-tiny half-device-qwen3.6-tiny half-cpu-qwen3.6-tiny \
        half-fit-qwen3.6-tiny half-auto-qwen3.6-tiny same-qwen3.6-tiny tokens; do
        grep -q "^ok $step " out || { echo "no step $step"; return 1; }
    done
    grep -q '^## probes' out
}
case_ 'the session for a device' session

exit $failed

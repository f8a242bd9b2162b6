#!/bin/sh
# Measures what docs/SPEED.md shows. `make bench` builds and runs
#
#   tests/bench.sh BUILD_DIR WORK_DIR
#
# Archives are made in WORK_DIR and kept there. With BENCH_BIG=1 an OLMoE-shaped model of 0.9 B
# parameters is measured too (5 GB of disk, ten minutes). The tables go to standard output, and into
# docs/SPEED.md between its markers.
set -eu

out=$1
work=$2
run=$out/corm-run
prep=$out/corm-prep
tables=$work/tables.md
text=tests/golden/heldout.txt
mkdir -p "$work"
: >"$tables"

# make_archive NAME CHECKPOINT OPTION...
make_archive() {
    name=$1 checkpoint=$2
    shift 2
    if [ ! -f "$work/$name.corm" ] || [ "$prep" -nt "$work/$name.corm" ]; then
        echo "bench: converting $name" >&2
        "$prep" convert "$checkpoint" --force -o "$work/$name.corm" "$@" >&2
    fi
}

# table TITLE NAME ARGUMENT...: corm-run bench as a section.
table() {
    title=$1 name=$2
    shift 2
    {
        printf '### %s\n\n    corm-run bench %s.corm %s\n\n```\n' "$title" "$name" "$*" |
            sed "s|$work/||g"
        "$run" bench "$work/$name.corm" --quiet "$@" | sed "s|$work/||"
        printf '```\n\n'
    } | tee -a "$tables"
}

# rows SHARE STALL NAME PACKED TEXT OPTION...: the ablation.
rows() {
    share=$1 stall=$2 model=$3 packed=$4 words=$5
    shift 5
    table "Room for $share % of the experts, B0 waits $stall % of its time" "$model" --ablation \
        --share "$share" --stall "$stall" --other "$work/$packed.corm" -f "$words" "$@"
}

make_archive fable-raw tests/models/fable --calibrate --no-compress
make_archive fable tests/models/fable --calibrate

printf '## fable\n\n' | tee -a "$tables"
table 'In memory' fable -f "$text" --prompt-tokens 512 --decode-tokens 256 --reps 5
for point in '50 50' '25 50' '50 85' '25 85'; do
    # shellcheck disable=SC2086
    rows $point fable-raw fable "$text" --threads 1 --prompt-tokens 64 --decode-tokens 128 --reps 5
done
table 'The cache beside the best that any could do' fable --trace -f "$text" --prompt-tokens 64 \
    --decode-tokens 900

if [ "${BENCH_BIG:-}" = 1 ]; then
    synth=$out/synth
    if [ ! -f "$work/olmoe/config.json" ]; then
        "$synth" write "$work/olmoe" --preset olmoe-7b --layers 8 --dim 1024 --heads 8 --ffn 512 \
            --vocab 8192 -q
    fi
    "$synth" text "$work/olmoe" --stream 3 --tokens 4000 -o "$work/olmoe-bench.txt"
    make_archive olmoe-raw "$work/olmoe" --no-compress
    make_archive olmoe "$work/olmoe"
    words=$work/olmoe-bench.txt
    printf '## OLMoE-shaped, synthetic\n\n' | tee -a "$tables"
    table 'In memory' olmoe -f "$words" --prompt-tokens 512 --decode-tokens 64
    for point in '50 50' '25 50' '50 85'; do
        # shellcheck disable=SC2086
        rows $point olmoe-raw olmoe "$words" --prompt-tokens 16 --decode-tokens 24 --reps 3
    done
    table 'From the disk of this machine' olmoe-raw --ablation --share 50 --other \
        "$work/olmoe.corm" -f "$words" --prompt-tokens 16 --decode-tokens 24 --reps 3
    table 'The cache beside the best that any could do' olmoe-raw --trace -f "$words" \
        --prompt-tokens 64 --decode-tokens 500
    printf '## Reading\n\n' | tee -a "$tables"
    table 'The disk of this machine' olmoe-raw --io
fi

# The tables replace what stands between the markers.
awk -v tables="$tables" '
/<!-- tables: end -->/ { skip = 0 }
!skip { print }
/<!-- tables: begin/ { print ""; while ((getline line < tables) > 0) print line; skip = 1 }
' docs/SPEED.md >"$work/SPEED.md"
cp "$work/SPEED.md" docs/SPEED.md

#!/bin/sh
# Measures what docs/SPEED-tables.md shows. `make bench` builds and runs
#
#   tests/bench.sh BUILD_DIR WORK_DIR [SECTION...]
#
# A section is a group of tables: fable loss olmoe reading limit. Without names: fable and loss; with
# BENCH_BIG=1 olmoe and reading too (a synthetic model of 0.9 B parameters); with BENCH_BIG=7b all of
# them. Models and tables are kept in WORK_DIR. The tables go to standard output, and behind them the
# published figures beside those of this machine, row by row.
#
# BENCH_PUBLISH=1 puts the tables of all sections that were ever measured into docs/SPEED-tables.md, between
# its markers: for whoever publishes figures, with the text of docs/SPEED.md.
# BENCH_7B names a folder with the 7 B model (bf16.corm, text.txt) that is used in place of making one.
# BENCH_WRAP is put in front of each measurement (chrt, taskset, a lock).
set -eu
LC_ALL=C
export LC_ALL

out=$1
work=$2
published=docs/SPEED-tables.md
shift 2
run=$out/corm-run
text=tests/golden/heldout.txt
here=$(dirname "$0")
. "$here/limits/models.sh"
. "$here/limits/cgroup.sh"
printed=$work/printed.$$
trap 'cgroup_close; rm -f "$printed" "$printed.md"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/tables"

if [ $# -eq 0 ]; then
    case ${BENCH_BIG:-} in
    '' | 0) set -- fable loss ;;
    1) set -- fable loss olmoe reading ;;
    7b) set -- fable loss olmoe reading limit ;;
    *)
        echo "bench: BENCH_BIG=$BENCH_BIG: expected 1 or 7b" >&2
        exit 2
        ;;
    esac
fi

# ---- what it takes ---------------------------------------------------------------------------------

# needs_of SECTION: MB of disk and minutes, on two cores of a server.
needs_of() {
    case $1 in
    fable) echo '60 4' ;;
    loss) echo '40 1' ;;
    olmoe | reading) echo '5000 8' ;;
    limit) [ -n "${BENCH_7B:-}" ] && echo '0 8' || echo '24000 15' ;;
    *)
        echo "bench: no section '$1': fable loss olmoe reading limit" >&2
        return 2
        ;;
    esac
}
disk=0 minutes=0
for section; do
    needs=$(needs_of "$section")
    [ "$section" = reading ] && [ "$disk" -ge 5000 ] || disk=$((disk + ${needs% *}))
    minutes=$((minutes + ${needs#* }))
done
free=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
made=$(du -sm "$work" | cut -f 1)
echo "bench: $*: about $minutes minutes; up to $disk MB in $work ($made MB are there, $free MB free)" >&2
if [ $((made + free)) -lt "$disk" ]; then
    echo "bench: too little room on the disk" >&2
    exit 1
fi

# ---- tables ----------------------------------------------------------------------------------------

machine() {
    name=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    ids=$(sed -n 's/^\(cpu family\|model\)[^:n]*: //p' /proc/cpuinfo | head -n 2 | paste -sd /)
    memory=$(awk '/^MemTotal/ { printf "%.0f", $2 / 1e6 }' /proc/meminfo)
    echo "$(nproc) cores of ${name:-a processor without a name} ($ids), $memory GB of memory"
}
# begin SECTION HEADING: what follows goes into this section's tables.
begin() {
    tables=$work/tables/$1.part
    printf '## %s\n\nOn %s.\n\n' "$2" "$(machine)" >"$tables"
}
end() { mv "$tables" "${tables%.part}.md"; }
# shown COMMAND...: as the tables show it.
shown() { echo "$*" | sed "s|$out/||g; s|$work/||g; s|${BENCH_7B:-$work}/|7b/|g"; }
inside=
measure() { $inside ${BENCH_WRAP:-} "$@"; }
# table TITLE COMMAND...: what a command prints, as a table.
table() {
    title=$1
    shift
    echo "bench: $title" >&2
    {
        printf '### %s\n\n    %s\n\n```\n' "$title" "$(shown "$@")"
        measure "$@" >"$printed"
        sed "s|$work/||g; s|${BENCH_7B:-$work}/|7b/|g" "$printed"
        printf '```\n\n'
    } >"$printed.md"
    cat "$printed.md"
    cat "$printed.md" >>"$tables"
}
# bench TITLE NAME ARGUMENT...
bench() {
    title=$1 name=$2
    shift 2
    table "$title" "$run" bench "$work/$name.corm" --quiet "$@"
}
# rows SHARE STALL NAME PACKED TEXT OPTION...: the ablation.
rows() {
    share=$1 stall=$2 model=$3 packed=$4 words=$5
    shift 5
    bench "Room for $share % of the experts, B0 waits $stall % of its time" "$model" --ablation \
        --share "$share" --stall "$stall" --other "$work/$packed.corm" -f "$words" "$@"
}

# ---- sections --------------------------------------------------------------------------------------

section_fable() {
    make_archive fable-raw tests/models/fable --calibrate --no-compress
    make_archive fable tests/models/fable --calibrate
    begin fable fable
    bench 'In memory' fable -f "$text" --prompt-tokens 512 --decode-tokens 256 --reps 5
    for point in '50 50' '25 50' '50 85' '25 85'; do
        # shellcheck disable=SC2086
        rows $point fable-raw fable "$text" --threads 1 --prompt-tokens 64 --decode-tokens 128 \
            --reps 5
    done
    bench 'The cache beside the best that any could do' fable --trace -f "$text" \
        --prompt-tokens 64 --decode-tokens 900
    end
}

# perplexities MODEL...: exact, and at each level of loss, on text that calibration did not see.
perplexities() {
    printf '%-12s %10s %10s %10s %10s\n' '' exact 0.5 1 2
    for model; do
        printf '%-12s' "$model"
        exact=
        for loss in 0 0.5 1 2; do
            p=$("$run" perplexity "$work/$model.corm" -q --loss $loss -f "$text" |
                sed -n 's/^perplexity \([0-9.]*\) .*/\1/p')
            [ -n "$p" ] || {
                echo "bench: $model: no perplexity at --loss $loss" >&2
                return 1
            }
            if [ -z "$exact" ]; then
                exact=$p
                printf ' %10.4f' "$p"
            else
                awk -v a="$exact" -v b="$p" 'BEGIN { printf " %+9.3f%%", 100 * (b / a - 1) }'
            fi
        done
        echo
    done
}
section_loss() {
    make_archive fable tests/models/fable --calibrate
    make_archive fable-fine tests/models/fable-fine --calibrate
    begin loss 'Loss promised and kept'
    perplexities fable fable-fine >"$printed" || return 1
    {
        printf '### Perplexity at each level of --loss\n\n'
        printf '    corm-run perplexity MODEL.corm --loss LEVEL -f %s\n\n```\n' "$text"
        cat "$printed"
        printf '```\n\n'
    } | tee -a "$tables"
    # The levels are percents: none may be passed.
    awk 'NR > 1 { if ($3 + 0 > 0.5 || $4 + 0 > 1 || $5 + 0 > 2) bad = 1 } END { exit bad }' \
        "$printed" || echo 'bench: a promised loss is NOT kept' >&2
    end
}

section_olmoe() {
    make_olmoe small
    make_archive olmoe-small-raw "$work/olmoe-small" --no-compress
    words=$work/olmoe-small.txt
    begin olmoe 'OLMoE-shaped, synthetic, 0.9 B parameters'
    bench 'In memory' olmoe-small -f "$words" --prompt-tokens 512 --decode-tokens 64
    for point in '50 50' '25 50' '50 85' '25 85'; do
        # shellcheck disable=SC2086
        rows $point olmoe-small-raw olmoe-small "$words" --threads 1 --prompt-tokens 16 \
            --decode-tokens 48 --reps 3
    done
    bench 'From the disk of this machine' olmoe-small-raw --ablation --share 50 --other \
        "$work/olmoe-small.corm" -f "$words" --prompt-tokens 16 --decode-tokens 24 --reps 3
    bench 'The cache beside the best that any could do' olmoe-small-raw --trace -f "$words" \
        --prompt-tokens 64 --decode-tokens 500
    end
}

section_reading() {
    make_olmoe small
    begin reading Reading
    bench 'The disk of this machine' olmoe-small --io
    if "$here/limits/fio.sh" --check; then
        table 'Beside fio' "$here/limits/fio.sh" "$run" "$work/olmoe-small.corm"
    fi
    end
}

section_limit() {
    if [ -n "${BENCH_7B:-}" ]; then
        model=$BENCH_7B/bf16.corm words=$BENCH_7B/text.txt
    else
        make_olmoe 7b
        model=$work/olmoe-7b.corm words=$work/olmoe-7b.txt
    fi
    limit=$(($(stat -c %s "$model") / 2 / 4096 * 4096))
    begin limit 'OLMoE-shaped, synthetic, 7 B parameters, under a real memory limit'
    dd if="$model" iflag=nocache count=0 2>/dev/null || :
    cgroup_open "$limit" || {
        rm -f "$tables"
        return 0
    }
    inside=cgroup_run
    for part in 1 2 3; do
        table "The disk of this machine, memory limited to $((limit / 1000000)) MB, run $part of 3" \
            "$run" bench "$model" --quiet --ablation --other "$model" -f "$words" \
            --prompt-tokens 8 --decode-tokens 12 --reps 1
    done
    echo "The most that the cgroup held: $(cgroup_peak | awk '{ print int($1 / 1e6) }') MB; the" \
        "limit was met $(cgroup_hits) times." | tee -a "$tables"
    echo >>"$tables"
    inside=
    cgroup_close
    end
}

for section; do
    "section_$section"
done

# What is published, read before anything is put there.
echo
echo "Published, and here ($(machine)); the third column of tok/s is here over published."
for section; do
    cat "$work/tables/$section.md" 2>/dev/null || :
done >"$printed.md"
awk -f "$here/beside.awk" "$published" "$printed.md"
[ "${BENCH_PUBLISH:-0}" = 1 ] || exit 0

# The tables replace what stands between the markers.
for section in fable loss olmoe limit reading; do
    cat "$work/tables/$section.md" 2>/dev/null || :
done >"$work/tables.md"
awk -v tables="$work/tables.md" '
/<!-- tables: end -->/ { skip = 0 }
!skip { print }
/<!-- tables: begin/ { print ""; while ((getline line < tables) > 0) print line; skip = 1 }
' "$published" >"$work/SPEED.md"
cp "$work/SPEED.md" "$published"

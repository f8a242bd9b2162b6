#!/bin/sh
# `corm-run bench --io` beside fio: the same file, way (O_DIRECT), block sizes and depth, in turns.
#
#   tests/limits/fio.sh CORM_RUN FILE [TURNS [KIB...]]
#                                 prints a table of MB/s, medians of three turns in blocks of 64, 256
#                                 and 1024 KiB, or as said; each share is the median of the turns' own
#   tests/limits/fio.sh --check   is fio there? (root installs it from its Debian package)
#
# One fio job with one synchronous read in flight stands for each reading thread; like those it
# takes the next block of the file in turn.
set -eu
LC_ALL=C
export LC_ALL

if [ "$1" = --check ]; then
    command -v fio >/dev/null 2>&1 && exit 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo 'fio: installing with apt-get' >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends fio \
            >/dev/null 2>&1 && exit 0
    fi
    echo 'fio: not here; the comparison is left out' >&2
    exit 1
fi

run=$1 file=$2 turns=${3:-3}
[ $# -le 3 ] && set -- 64 256 1024 || shift 3
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# fio_rate BLOCK_KIB THREADS: bytes a second.
fio_rate() {
    fio --name=read --filename="$file" --readonly --rw=read --direct=1 --ioengine=psync --thread \
        --bs="$1k" --numjobs="$2" --runtime=1 --time_based --offset_increment=$((100 / $2))% \
        --group_reporting --output-format=terse --terse-version=3 2>/dev/null |
        awk -F ';' '{ print $7 * 1024 }'
}
# ours BLOCK_KIB THREADS: the same of corm-run.
ours() {
    "$run" bench "$file" --io --reading direct --block "$1K" --io-threads "$2" --json |
        sed -n 's/.*"bytes_per_s": \([0-9.e+]*\).*/\1/p'
}
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

printf '%-8s %8s %10s %10s %8s\n' block threads corm-run fio share
for block; do
    for threads in 1 2 4; do
        : >"$work/ours"
        : >"$work/fio"
        turn=0
        # Who comes first changes, so that neither always meets what the other one left behind.
        while [ $((turn += 1)) -le "$turns" ]; do
            [ $((turn % 2)) -eq 0 ] || ours "$block" $threads >>"$work/ours"
            fio_rate "$block" $threads >>"$work/fio"
            [ $((turn % 2)) -ne 0 ] || ours "$block" $threads >>"$work/ours"
        done
        share=$(paste "$work/ours" "$work/fio" | awk '{ print $1 / $2 }' | median)
        echo "$block $threads $(median <"$work/ours") $(median <"$work/fio") $share" | awk '{
            printf "%7dK %8d %10.0f %10.0f %6.0f %%\n", $1, $2, $3 / 1e6, $4 / 1e6, 100 * $5 }'
    done
done

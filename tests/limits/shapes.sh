#!/bin/sh
# What the engine makes of published shapes under a memory limit, beside what the device allows.
# `make bench-shapes` builds and runs
#
#   tests/limits/shapes.sh BUILD_DIR WORK_DIR [SHAPE...]
#
# For each shape (`synth straight --help` names them; else gpt-oss-20b and qwen3.6-35b-a3b) and each
# routing an archive with random q4 experts is made in WORK_DIR, measured, and removed before the next
# one is made: 13 and 21 GB of disk, a minute or two to write. The disk is looked at first.
#
#   rate     the best at which `corm-run bench --io` reads the archive directly, of any block size and
#            number of threads, before and after
#   least    bytes a token that Belady's cache, which knows the future, reads in the room that the
#            engine had (`bench --trace`, the row `room`), having seen the same tokens before
#   bound    rate / least: what no engine passes that reads on demand, were computing free
#   demand   bytes a token of the experts that it uses; were routing independent from token to token, and
#            experts alike, a cache that does not know the future would read demand x (1 - room / experts)
#   LRU      bytes a token that a least-recently-used cache reads in that room, no guesses made
#   tok/s    of decoding, exact, the same tokens: the median of REPS runs, each in a new process
#   share    tok/s / bound
#   computed tok/s with all experts in memory, without the limit, where this machine has the room: what
#            no engine passes that computes on these processors
#   of both  tok/s / the lesser one of bound and computed
#
# The limit is LIMIT bytes (8 GB), by a memory cgroup, so that the kernel keeps it; where none can be
# made (it takes root) --ram says it, and a line says so. MARGIN MiB of it are left to what is no part of
# the plan. From the environment, besides: ROUTINGS (planted uniform), DECODE (192) tokens, after a
# prompt of a third as many, REPS (3), LAYERS (all; fewer to try the script itself), KEEP=1 keeps the
# archives, BENCH_WRAP is put in front of each measurement. PEER=tests/llama/shapes_peer.sh measures llama.cpp on the same shape
# under the same limit; its file takes as much disk again.
set -eu
LC_ALL=C
export LC_ALL

out=$1 work=$2
shift 2
[ $# -gt 0 ] || set -- gpt-oss-20b qwen3.6-35b-a3b
run=$out/corm-run
here=$(dirname "$0")
. "$here/cgroup.sh"
limit=${LIMIT:-8000000000} margin=${MARGIN:-64}
decode=${DECODE:-192} reps=${REPS:-3}
prompt=$((decode / 3))
routings=${ROUTINGS:-planted uniform}
model=
mkdir -p "$work"
forget() {
    [ -z "$model" ] || [ -n "${KEEP:-}" ] || rm -f "$model" "$model.tmp" "${model%.corm}.txt"
    model=
    [ -z "${PEER:-}" ] || "$PEER" drop "$work"
}
trap 'forget; cgroup_close' EXIT
trap 'exit 130' INT TERM

ram=$((limit / 4096 * 4096 - margin * 1048576))
inside='' how="--ram alone: no memory cgroup can be made here, and the kernel watches nothing"
if cgroup_open "$limit" 2>/dev/null; then
    # shellcheck disable=SC2154
    inside=cgroup_run how="a memory cgroup (v$cgroup_v) of $limit bytes, and --ram $ram"
    cgroup_close
fi
# fresh: a new cgroup, so that nothing in it is from before.
fresh() {
    if [ -n "$inside" ]; then
        cgroup_close
        cgroup_open "$limit"
    fi
}
measure() { ${BENCH_WRAP:-} "$@"; }
# shellcheck disable=SC2086
limited() { $inside ${BENCH_WRAP:-} "$@"; }
# Pages that another had brought in would be charged to that one, or would be there for nothing.
uncache() { dd if="$1" iflag=nocache count=0 2>/dev/null || :; }
shown() { echo "    $(echo "$*" | sed "s|$out/||g; s|$work/||g")"; }
# of_decode FILE KEY
of_decode() { sed -n "s/.*\"decode\": {[^}]*\"$2\": \([0-9.e+-]*\).*/\1/p" "$1"; }

# best_rate: bytes a second, directly.
best_rate() {
    measure "$run" bench "$model" --io --reading direct --json | tr '{' '\n' |
        sed -n 's/.*"bytes_per_s": \([0-9.e+]*\).*/\1/p' | sort -g | tail -n 1
}
# greater A B
greater() { echo "$1 $2" | awk '{ print ($1 > $2 ? $1 : $2) }'; }

one() {
    shape=$1 routing=$2
    model=$work/$shape-$routing.corm text=$work/$shape-$routing.txt
    "$out/synth" straight "$model" --shape "$shape" --routing "$routing" --text "$text" \
        --layers "${LAYERS:-0}" --tokens $((prompt + decode)) --stream 3
    rate=$(best_rate)
    uncache "$model"
    fresh
    # A trace counts after its first quarter: where decoding begins.
    limited "$run" bench "$model" -f "$text" --json --ram $ram --trace --prompt-tokens 1 \
        --decode-tokens $((prompt + decode - 1)) >"$work/trace.json"
    set -- "$run" bench "$model" -f "$text" --prompt-tokens "$prompt" --decode-tokens "$decode"
    least=$(sed -n 's/.*"percent": 0,.*"bytes_read_per_tok": {[^}]*"belady": \([0-9.e+]*\).*/\1/p' \
        "$work/trace.json")
    lru=$(sed -n 's/.*"percent": 0,.*"bytes_read_per_tok": {[^}]*"lru": \([0-9.e+]*\).*/\1/p' \
        "$work/trace.json")
    demand=$(sed -n 's/.*"percent": 0, "lru": \([0-9.e+-]*\).*/\1/p' "$work/trace.json" |
        awk -v lru="$lru" '{ print lru / (1 - $1) }')
    half=$(sed -n 's/.*{"experts": \([0-9]*\), "percent": 50,.*/\1/p' "$work/trace.json")
    room=$(sed -n 's/.*{"experts": \([0-9]*\), "percent": 0,.*/\1/p' "$work/trace.json")
    if [ -z "$least" ]; then
        echo "shapes: $shape fits the limit as a whole: nothing to measure" >&2
        forget
        return 0
    fi
    : >"$work/speeds"
    rep=0
    while [ $((rep += 1)) -le "$reps" ]; do
        uncache "$model"
        limited "$@" --json --ram $ram --reps 1 --stats >"$work/decode.json"
        echo "$(of_decode "$work/decode.json" tok_per_s)" \
            "$(of_decode "$work/decode.json" archive_bytes_per_tok)" \
            "$(of_decode "$work/decode.json" stall_share)" >>"$work/speeds"
    done
    held=
    [ -z "$inside" ] || held="$(cgroup_peak) $(cgroup_hits)"
    rate=$(greater "$rate" "$(best_rate)")
    computed=-
    file=$(stat -c %s "$model")
    free=$(awk '/MemAvailable/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
    if [ $((file * 21 / 20)) -lt $((free * 7 / 8)) ]; then
        measure "$@" --json --quiet >"$work/whole.json"
        computed=$(of_decode "$work/whole.json" tok_per_s)
    fi
    peer=
    if [ -n "${PEER:-}" ] && "$PEER" make "$model" "$text" "$work"; then
        uncache "$model"
        fresh
        peer=$(limited "$PEER" run "$model" "$prompt" "$decode" "$work") || peer=failed
        "$PEER" drop "$work"
    fi
    {
        shown "$@" --ram $ram
        sort -g "$work/speeds" | awk -v shape="$shape" -v routing="$routing" -v rate="$rate" \
            -v least="$least" -v room="$room" -v computed="$computed" -v file="$file" -v peer="$peer" \
            -v held="$held" -v lru="$lru" -v demand="$demand" -v experts=$((half * 2)) '
            { tok[NR] = $1; read[NR] = $2; stall[NR] = $3 }
            END {
                m = int((NR + 1) / 2)
                bound = rate / least
                most = computed != "-" && computed < bound ? computed : bound
                printf "%s, %s routing, %.1f GB; room for %d experts\n", shape, routing, file / 1e9, room
                printf "  rate %.0f MB/s, least %.1f MB a token: bound %.2f tok/s", rate / 1e6,
                    least / 1e6, bound
                printf computed == "-" ? "\n" : "; computed %.2f tok/s\n", computed
                printf "  of %.0f MB that a token uses, without knowing the future: LRU reads %.0f MB, any cache",
                    demand / 1e6, lru / 1e6
                printf " %.0f MB were routing independent\n", demand * (1 - room / experts) / 1e6
                printf "  decode %.2f tok/s (%.2f to %.2f), %.1f MB a token, waiting %.0f %%\n", tok[m],
                    tok[1], tok[NR], read[m] / 1e6, 100 * stall[m]
                printf "  share of the bound %.0f %%", 100 * tok[m] / bound
                printf computed == "-" ? "\n" : ", of both %.0f %%\n", 100 * tok[m] / most
                if (split(held, the, " ") == 2)
                    printf "  the cgroup held at most %.0f MB and met its limit %d times\n", the[1] / 1e6,
                        the[2]
                if (split(peer, its, " ") == 2) printf "  llama.cpp %.2f tok/s, %.1f MB a token: ratio %.2f\n",
                    its[1], its[2] / 1e6, tok[m] / its[1]
                else if (peer != "") printf "  llama.cpp ended without a result\n"
            }'
    } | tee -a "$work/shapes.txt"
    forget
}

echo "limit: $how"
: >"$work/shapes.txt"
for shape; do
    for routing in $routings; do
        one "$shape" "$routing"
    done
done

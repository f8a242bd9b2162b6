#!/bin/sh
# llama.cpp on the archives of tests/limits/shapes.sh, which calls it where PEER names it:
#
#   make bench-llama LLAMA_PYTHON=... LLAMA_ARGS=--help        # compiles the peer
#   PEER=tests/llama/shapes_peer.sh LLAMA_PYTHON=... make bench-shapes
#
#   shapes_peer.sh make MODEL.corm TEXT WORK            the model as GGUF; once, outside of the limit
#   shapes_peer.sh run  MODEL.corm PROMPT DECODE WORK   prints tokens a second and bytes read a token
#   shapes_peer.sh drop WORK                            removes it
#
# LLAMA_PEER is the compiled tests/llama/peer.c (build/bench-llama/peer), LLAMA_PYTHON a Python with gguf
# and numpy. llama.cpp maps the file. As in tests/llama/README.md the file lies on a loop device with
# direct I/O and 128 KiB of readahead, where root can make one: a greater readahead slows it down.
set -eu
LC_ALL=C
export LC_ALL

what=$1
shift
peer=${LLAMA_PEER:-build/bench-llama/peer} python=${LLAMA_PYTHON:-python3}

# attach: fails where no loop device can be made.
attach() {
    device=$(losetup --direct-io=on --show -f "$work/peer.img" 2>/dev/null) || return 1
    echo 128 >"/sys/block/${device#/dev/}/queue/read_ahead_kb"
    mount "$device" "$work/peer"
    losetup -d "$device" # when it is unmounted
}
drop() {
    umount "$work/peer" 2>/dev/null || :
    rm -rf "$work/peer" "$work/peer.img"
}

case $what in
make)
    model=$1 text=$2 work=$3
    drop
    mkdir -p "$work/peer"
    bytes=$(($(stat -c %s "$model") * 103 / 100 + 268435456))
    free=$(df -P -B 1 "$work" | awk 'NR == 2 { print $4 }')
    if [ "$bytes" -gt "$free" ]; then
        echo "shapes_peer: the GGUF file takes $((bytes / 1000000)) MB, $((free / 1000000)) MB are free" >&2
        exit 1
    fi
    truncate -s "$bytes" "$work/peer.img"
    mkfs.ext4 -q -m 0 -O '^has_journal' -T largefile "$work/peer.img"
    if ! attach; then
        rm -f "$work/peer.img"
        echo 'shapes_peer: no loop device can be made; the readahead is that of the disk' >&2
    fi
    "$python" "$(dirname "$0")/gguf_of_shape.py" "$model" "$work/peer/model.gguf" --text "$text" \
        --ids "$work/peer/ids"
    sync "$work/peer/model.gguf"
    # Pages that writing left behind belong to no cgroup with a limit: they would be there for nothing.
    if [ -f "$work/peer.img" ]; then
        umount "$work/peer"
        attach
    else
        dd if="$work/peer/model.gguf" iflag=nocache count=0 2>/dev/null || :
    fi
    ;;
run)
    prompt=$2 decode=$3 work=$4
    "$peer" bench "$work/peer/model.gguf" "$work/peer/ids" "$prompt" "$decode" 1 "$(nproc)" plain |
        sed -n 's/.*"decode_bytes": \([0-9]*\),.*"decode_s": \[\([0-9.]*\)\].*/\1 \2/p' |
        awk -v n="$decode" '{ printf "%.3f %.0f\n", n / $2, $1 / n }'
    ;;
drop)
    work=$1
    drop
    ;;
esac

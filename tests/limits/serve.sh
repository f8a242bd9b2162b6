#!/bin/sh
# What a server's users feel: tests/limits/serve.sh BUILD_DIR WORK_DIR [PART...]
#
# Measures with corm-serve, on a model with attention (OLMoE's shape, 0.9 B parameters) and one with recurrent
# layers (the first four of Qwen3.6's), what serve.py describes, and prints tables. Models are kept in WORK_DIR,
# some 8 GB. About ten minutes on two cores.
set -eu
out=$1 work=$2
shift 2
mkdir -p "$work"
. "$(dirname "$0")/models.sh"
make_olmoe small
recurrent=$work/qwen3.6-4.corm
if [ ! -f "$recurrent" ]; then
    "$out/synth" straight "$recurrent" --shape qwen3.6-35b-a3b --layers 4 --text "$work/qwen3.6-4.txt" --tokens 30000
fi
"$out/synth" text "$work/olmoe-small" --stream 4 --tokens 30000 -o "$work/olmoe-serve.txt"
exec python3 "$(dirname "$0")/serve.py" "$out" "$work/olmoe-small.corm" "$work/olmoe-serve.txt" \
    "$recurrent" "$work/qwen3.6-4.txt" "$@"

#!/bin/sh
# What codecs of experts lose, on the two trained models that come with the project: `make bench-quality` builds and runs
#
#   tests/quality/quality.sh BUILD_DIR WORK_DIR [TEXT...]
#
# Archives are calibrated on the project's own text. Without TEXT, the texts are those of calib-data/heldout and
# tests/golden/heldout.txt, on which nothing was fitted (the levels of --loss were measured on the former).
# CALIB_TOKENS is how many tokens to calibrate on (32768). The table goes to standard output; archives stay in WORK_DIR,
# and are not made again where they are there.
set -eu
out=$1
work=$2
shift 2
[ $# -gt 0 ] || set -- calib-data/heldout/*.txt tests/golden/heldout.txt
texts=$(printf ':%s' "$@")
mkdir -p "$work"

# archive MODEL NAME ARGUMENT...
archive() {
    name=$work/$1.$2.corm model=$1
    shift 2
    [ -e "$name" ] || "$out/corm-prep" convert "tests/models/$model" -o "$name" "$@" >"$name.said"
}

echo '| model | experts | perplexity | KL, nats | `--loss 0.5` / `1` / `2`: perplexity, KL beyond the same archive exact |'
echo '|---|---|---|---|---|'
for model in fable fable-fine; do
    archive $model bf16
    archive $model q8 --codec q8
    archive $model nearest --codec q4 --calibrate --calib-tokens "${CALIB_TOKENS:-32768}" --rounding nearest
    archive $model gptq --codec q4 --calibrate --calib-tokens "${CALIB_TOKENS:-32768}" --rounding gptq
    at=$work/$model
    "$out/tests/quality/divergence" "$at.bf16.corm" "${texts#:}" "$at.q8.corm" "$at.nearest.corm" "$at.gptq.corm" \
        >"$at.exact"
    for how in nearest gptq; do
        "$out/tests/quality/divergence" "$at.$how.corm" "${texts#:}" "$at.$how.corm@0.5" "$at.$how.corm@1" "$at.$how.corm@2" \
            >"$at.$how.loss"
    done
    awk -v model=$model -v at="$at" '
        FNR == 1 { next }
        FILENAME != at ".exact" {
            how = FILENAME
            sub(/\.loss$/, "", how)
            sub(/.*\./, "", how)
            loss[how] = loss[how] (loss[how] ? " / " : "") sprintf("%+.2f %%, %.4f", $2, $3)
            next
        }
        {
            how = $1
            sub(/\.corm$/, "", how)
            sub(/.*\./, "", how)
            printf "| %s | %s | %+.2f %% | %.4f (+-%.4f) | %s |\n", model, how == "q8" ? how : "q4, " how, $2, $3, $4, loss[how]
        }' "$at.nearest.loss" "$at.gptq.loss" "$at.exact"
done

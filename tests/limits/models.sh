# Sourced by tests/bench.sh and tests/limits: models that are made once and kept in $work. Expects
# $out, the folder of the programs, and $work.

# make_archive NAME CHECKPOINT OPTION...: $work/NAME.corm
make_archive() {
    name=$1 checkpoint=$2
    shift 2
    if [ ! -f "$work/$name.corm" ] || [ "$out/corm-prep" -nt "$work/$name.corm" ]; then
        echo "converting $name" >&2
        "$out/corm-prep" convert "$checkpoint" --force -o "$work/$name.corm" "$@" >&2
    fi
}

# make_olmoe small|7b: an OLMoE-shaped checkpoint in $work/olmoe-SIZE, $work/olmoe-SIZE.corm, and a text
# of its language, $work/olmoe-SIZE.txt.
make_olmoe() {
    shape= tokens=4000
    [ "$1" != small ] || shape='--layers 8 --dim 1024 --heads 8 --ffn 512 --vocab 8192'
    [ "$1" = small ] || tokens=30000
    if [ ! -f "$work/olmoe-$1/config.json" ]; then
        # shellcheck disable=SC2086
        "$out/synth" write "$work/olmoe-$1" --preset olmoe-7b $shape >&2
    fi
    "$out/synth" text "$work/olmoe-$1" --stream 3 --tokens $tokens -o "$work/olmoe-$1.txt"
    make_archive "olmoe-$1" "$work/olmoe-$1"
}

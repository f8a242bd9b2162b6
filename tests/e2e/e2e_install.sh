# make install, and then what a stranger does with it: pkg-config, the example linked both ways, run on
# an archive; its text must be what corm-run writes. Then make uninstall.
set -u
config=$(basename "$CORM_BUILD")
case $config in
release | debug) ;;
*)
    echo "ok install # SKIP libraries with sanitizers are not for installing"
    exit 0
    ;;
esac
root=$(mktemp -d) || exit 1
trap 'rm -rf "$root"' EXIT

check() { # check NAME COMMAND...
    name=$1
    shift
    if "$@" >"$root/log" 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        cat "$root/log" >&2
    fi
}
CC=gcc
run_make() {
    # the sysroot is for the stranger's pkg-config, not for the build
    env -u PKG_CONFIG_PATH -u PKG_CONFIG_SYSROOT_DIR make --no-print-directory \
        BUILD="$(dirname "$CORM_BUILD")" config="$config" DESTDIR="$root/dest" PREFIX=/opt/corm "$@"
}
prefix=$root/dest/opt/corm
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root/dest"
model=$root/fable.corm
prompt='Once upon a time'

check install run_make install
for file in bin/corm-prep bin/corm-run bin/corm-serve include/corm.h include/corm_grammar.h \
    lib/libcorm.a lib/libcorm.so lib/pkgconfig/libcorm.pc share/doc/corm/LICENSE; do
    check "installed $file" test -s "$prefix/$file"
done
check 'programs say their version' sh -c '
    test "$("$1/bin/corm-run" --version) $("$1/bin/corm-prep" --version)" = \
         "corm-run $2 corm-prep $2"' sh "$prefix" "$(pkg-config --modversion libcorm)"
check 'headers are C++ as well' sh -c 'echo "#include <corm_grammar.h>" | if command -v g++ >/dev/null; then
    g++ $(pkg-config --cflags libcorm) -Wall -Werror -fsyntax-only -x c++ -; fi'
check 'example links to the shared library' sh -c \
    '$1 -Wall -Werror docs/example.c $(pkg-config --cflags --libs libcorm) -o "$2/shared"' \
    sh "$CC" "$root"
check 'example links to the static library' sh -c \
    '$1 docs/example.c $(pkg-config --cflags libcorm) "$2/lib/libcorm.a" \
        $(pkg-config --static --libs-only-l libcorm | sed "s/-lcorm//") -o "$3/static"' \
    sh "$CC" "$prefix" "$root"
check 'convert' "$prefix/bin/corm-prep" convert tests/models/fable -o "$model"
check 'calibration finds the text that was installed' "$prefix/bin/corm-prep" convert \
    tests/models/fable -o "$root/calibrated.corm" --calibrate --calib-tokens 256 --calib-seq 32

want=$("$prefix/bin/corm-run" "$model" -p "$prompt" -n 40 --temp 0 --repeat-penalty 1 2>/dev/null)
check 'corm-run wrote something' test -n "$want"
for way in shared static; do
    got=$(LD_LIBRARY_PATH="$prefix/lib" "$root/$way" "$model" "$prompt" 40 2>"$root/stderr")
    check "$way example ends well" test -z "$(cat "$root/stderr")"
    case $want in
    *"$got"*) check "$way example writes what corm-run writes" test -n "$got" ;;
    *)
        echo "not ok $way example writes what corm-run writes"
        printf 'corm-run: %s\nexample: %s\n' "$want" "$got" >&2
        ;;
    esac
done
check uninstall run_make uninstall
check 'nothing is left' test -z "$(find "$root/dest" -type f -o -type l)"

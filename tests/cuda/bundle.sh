#!/bin/sh
# Packs all that tests/cuda/session.sh needs into one archive, for a machine with a device and nothing else:
#
#   tests/cuda/bundle.sh BUILD_DIR FILE.tar.xz      (`make cuda-bundle`)
#
# There: tar -xf FILE.tar.xz && corm-session/session.sh. It holds the programs without their symbols, the
# shared libraries that they need but for the C library's, the small golden checkpoint and the demo model
# with their vectors. More than 50 MB is an error.
set -eu

out=$1 file=$2
most=50000000
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/corm-session
build=$root/build
mkdir -p "$build/tests/kernels/cuda" "$build/lib" "$root/tests/cuda" "$root/tests/golden/models" "$root/tests/models"
for program in corm-run synth tests/kernels/cuda/device; do
    strip -o "$build/$program" "$out/$program"
    # Of the C library the machine's own one is used, which fits its kernel and driver.
    ldd "$out/$program" | awk '$3 ~ /^\// { print $3 }' |
        grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' | while read -r lib; do
        cp -L "$lib" "$build/lib/"
    done
done
"$out/corm-prep" convert tests/models/fable --codec q8 -q -o "$build/fable-q8.corm"
cp -R tests/golden/models/. "$root/tests/golden/models"
cp -R tests/models/fable "$root/tests/models"
cp tests/cuda/session.sh "$root/tests/cuda"
cat >"$root/session.sh" <<'SESSION'
#!/bin/sh
cd "$(dirname "$0")" || exit 1
LD_LIBRARY_PATH=$PWD/build/lib CORM_BUILD=build
export LD_LIBRARY_PATH CORM_BUILD
exec tests/cuda/session.sh build "${1:-work}"
SESSION
chmod +x "$root/session.sh"
tar -C "$work" -cJf "$file" corm-session
bytes=$(wc -c <"$file")
echo "$file: $bytes bytes"
[ "$bytes" -le $most ] || {
    echo "bundle: more than $most bytes: fewer architectures (CUDA_ARCH) make it smaller" >&2
    exit 1
}

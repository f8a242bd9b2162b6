#!/bin/sh
# Compares corm-run with llama.cpp. `make bench-llama` builds and runs
#
#   tests/llama/bench.sh BUILD_DIR WORK_DIR [OPTION of tests/llama/bench.py ...]
#
# Developer-only. From the environment, both optional: LLAMA_PYTHON, a Python with the packages
# llama-cpp-python, gguf and numpy; without it one is made in WORK_DIR/venv and gets the newest that PyPI has,
# compiled for this machine. LLAMA, a llama.cpp build or installation to use in place of the library that
# llama-cpp-python brought. tests/llama/README.md tells the rest.
set -eu

out=$1
work=$2
shift 2
mkdir -p "$work"
python=${LLAMA_PYTHON:-$work/venv/bin/python}

fail() {
    echo "bench-llama: $1" >&2
    cat >&2 <<'END'
By itself, make bench-llama fetches and compiles what it needs. To give it a Python of your own:
    python3 -m venv llama-venv
    CMAKE_ARGS=-DGGML_NATIVE=ON llama-venv/bin/pip install --no-binary llama-cpp-python llama-cpp-python gguf
    make bench-llama LLAMA_PYTHON=llama-venv/bin/python
or, with a llama.cpp that was built already (shared libraries), gguf alone:
    make bench-llama LLAMA_PYTHON=llama-venv/bin/python LLAMA=path/to/llama.cpp/build
END
    exit 1
}

wanted='gguf, numpy' packages=gguf
[ -n "${LLAMA:-}" ] || wanted="$wanted, llama_cpp" packages="$packages llama-cpp-python"
if [ -z "${LLAMA_PYTHON:-}" ] && ! "$python" -c "import $wanted" 2>/dev/null; then
    echo "bench-llama: fetching $packages from PyPI into $work/venv; compiling llama.cpp takes some ten minutes" >&2
    [ -x "$python" ] || python3 -m venv "$work/venv" || fail 'no Python environment can be made'
    # shellcheck disable=SC2086
    CMAKE_ARGS="-DGGML_NATIVE=ON ${CMAKE_ARGS:-}" "$python" -m pip install -q --disable-pip-version-check \
        --no-binary llama-cpp-python $packages >&2 || fail "pip could not install $packages"
fi
"$python" -c 'import gguf, numpy' 2>/dev/null || fail "'$python' has no gguf and numpy"
if [ -n "${LLAMA:-}" ]; then
    root=$LLAMA
    version="llama.cpp of $LLAMA"
else
    root=$("$python" -c 'import os, llama_cpp; print(os.path.dirname(os.path.dirname(llama_cpp.__file__)))' \
        2>/dev/null) || fail "'$python' has no llama-cpp-python"
    version="llama-cpp-python $("$python" -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))')"
fi

# first FILE DIR...: the first of the folders that has the file.
first() {
    name=$1
    shift
    for folder in "$@"; do
        if [ -e "$folder/$name" ]; then
            (cd "$folder" && pwd)
            return
        fi
    done
    fail "$name was not found under $root"
}
lib=$(first libllama.so "$root/llama_cpp/lib" "$root/lib" "$root/bin" "$root/src" "$root")
include=$(first llama.h "$root/include" "$root/../include" "$root/llama_cpp/include")
ggml=$(first ggml.h "$include" "$root/ggml/include" "$root/../ggml/include")

flags='-O2 -std=c11 -D_GNU_SOURCE -Wall -Wextra'
# shellcheck disable=SC2086
${CC:-gcc} $flags -I"$include" -I"$ggml" tests/llama/peer.c -o "$work/peer" -L"$lib" -lllama -lggml \
    -lggml-base -Wl,-rpath,"$lib" -Wl,-rpath-link,"$lib"
# shellcheck disable=SC2086
${CC:-gcc} $flags -I. tests/llama/trace.c -o "$work/trace" -L"$out" -lcorm \
    -Wl,-rpath,"$(cd "$out" && pwd)"
exec "$python" tests/llama/bench.py --build "$out" --work "$work" --peer-name "$version" "$@"

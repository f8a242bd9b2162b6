#!/bin/sh
# Compares corm-run with llama.cpp. `make bench-llama` builds and runs
#
#   tests/llama/bench.sh BUILD_DIR WORK_DIR [OPTION of tests/llama/bench.py ...]
#
# Developer-only. From the environment: LLAMA_PYTHON, a Python with the packages llama-cpp-python, gguf
# and numpy; LLAMA, optional, a llama.cpp build or installation to use in place of the library that
# llama-cpp-python brought. tests/llama/README.md tells the rest.
set -eu

out=$1
work=$2
shift 2
python=${LLAMA_PYTHON:-python3}

fail() {
    echo "bench-llama: $1" >&2
    cat >&2 <<'END'
It needs a Python with two packages from PyPI; compiling takes some ten minutes:
    python3 -m venv llama-venv
    CMAKE_ARGS=-DGGML_NATIVE=ON llama-venv/bin/pip install --no-binary llama-cpp-python llama-cpp-python gguf
    make bench-llama LLAMA_PYTHON=llama-venv/bin/python
or, with a llama.cpp that was built already (shared libraries), gguf alone:
    make bench-llama LLAMA_PYTHON=llama-venv/bin/python LLAMA=path/to/llama.cpp/build
END
    exit 1
}

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

mkdir -p "$work"
flags='-O2 -std=c11 -D_GNU_SOURCE -Wall -Wextra'
# shellcheck disable=SC2086
${CC:-gcc} $flags -I"$include" -I"$ggml" tests/llama/peer.c -o "$work/peer" -L"$lib" -lllama -lggml \
    -lggml-base -Wl,-rpath,"$lib" -Wl,-rpath-link,"$lib"
# shellcheck disable=SC2086
${CC:-gcc} $flags -I. tests/llama/trace.c -o "$work/trace" -L"$out" -lcorm \
    -Wl,-rpath,"$(cd "$out" && pwd)"
exec "$python" tests/llama/bench.py --build "$out" --work "$work" --peer-name "$version" "$@"

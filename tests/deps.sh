#!/bin/sh
# Finds what the build needs and installs what is missing, from Debian packages.
#
#   tests/deps.sh [--check] GROUP...     GROUP: build test page lint clang valgrind balance llama mca
#
# Silent and quick where everything is there. --check only reports: one line, exit status 1.
# Each need is a row: group, Debian package, and how to see that it is there: a program on PATH, a header
# (h:) that the compiler finds, a module (m:) that python3 has, or one (d:) that Debian's python3 has. So it works on other systems too; it only installs with apt-get.
# openblas_config.h, as the cblas.h of another BLAS is not enough.
set -u

CC=${CC:-gcc}

needs() {
    cat <<'TABLE'
build gcc              gcc
build libc6-dev        h:stdio.h
build pkg-config       pkg-config
build libzstd-dev      h:zstd.h
build libxxhash-dev    h:xxhash.h
build libpcre2-dev     h:pcre2.h
build libutf8proc-dev  h:utf8proc.h
build libarchive-dev   h:archive.h
build libopenblas-dev  h:openblas_config.h
build liblapacke-dev   h:lapacke.h
build libjansson-dev   h:jansson.h
build libedit-dev      h:histedit.h
build libmicrohttpd-dev h:microhttpd.h
test  libcmocka-dev    h:cmocka.h
test  g++              g++
test  python3          python3
test  zstd             zstd
test  zip              zip
page  chromium         chromium
page  chromium-driver  chromedriver
page  python3-selenium d:selenium
lint  clang-format-16  clang-format-16
lint  g++              g++
clang clang            clang
clang llvm             llvm-symbolizer
valgrind valgrind      valgrind
balance haproxy        haproxy
llama cmake            cmake
llama g++              g++
llama python3          python3
llama python3-venv     m:ensurepip
mca   llvm             llvm-mca
mca   binutils         objdump
mca   python3          python3
TABLE
}

# The directories that pkg-config adds for headers which do not lie on the default path.
include_flags() {
    pkg-config --cflags-only-I openblas lapacke 2>/dev/null
}

# Whether the compiler finds all of the named headers.
have_headers() {
    {
        echo '#define PCRE2_CODE_UNIT_WIDTH 8'
        for header in stdarg.h stddef.h stdint.h setjmp.h "$@"; do
            echo "#include <$header>"
        done
    } | "$compiler" $flags -fsyntax-only -x c - >/dev/null 2>&1
}

have_module() {
    python3 -c "import $1" >/dev/null 2>&1
}

have_debian_module() {
    /usr/bin/python3 -c "import $1" >/dev/null 2>&1
}

check_only=
if [ "${1:-}" = --check ]; then
    check_only=1
    shift
fi
groups=" $* "

compiler=$CC
command -v "$compiler" >/dev/null 2>&1 || compiler=gcc
flags=$(include_flags)

headers= programs= modules= debian_modules=
while read -r group package what; do
    case "$groups" in *" $group "*) ;; *) continue ;; esac
    case "$what" in
    h:*) headers="$headers ${what#h:}" ;;
    m:*) modules="$modules ${what#m:}" ;;
    d:*) debian_modules="$debian_modules ${what#d:}" ;;
    *) programs="$programs $what" ;;
    esac
done <<LIST
$(needs)
LIST

ok=1
for program in $programs; do
    command -v "$program" >/dev/null 2>&1 || ok=
done
for module in $modules; do
    have_module "$module" || ok=
done
for module in $debian_modules; do
    have_debian_module "$module" || ok=
done
if [ -n "$ok" ] && have_headers $headers; then
    exit 0
fi

missing=
while read -r group package what; do
    case "$groups" in *" $group "*) ;; *) continue ;; esac
    case "$what" in
    h:*) have_headers "${what#h:}" || missing="$missing $package" ;;
    m:*) have_module "${what#m:}" || missing="$missing $package" ;;
    d:*) have_debian_module "${what#d:}" || missing="$missing $package" ;;
    *) command -v "$what" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done <<LIST
$(needs)
LIST
missing=${missing# }

if [ -z "$missing" ]; then
    echo "deps: each header is found alone but not all together; try another compiler (CC=$CC)" >&2
    exit 1
fi
if [ -n "$check_only" ]; then
    echo "deps: missing: $missing (to install: $0 $*)" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: missing, and no apt-get here to install it; the Debian names are: $missing" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: missing; as root, run: apt-get install $missing" >&2
        exit 1
    fi
    sudo=sudo
fi

echo "deps: installing with ${sudo:+sudo }apt-get: $missing"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

apt() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1
}

# A fresh machine has no package lists; old lists may name files that are gone.
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt update
if ! apt install --no-install-recommends $missing; then
    if ! { apt update && apt install --no-install-recommends $missing; }; then
        tail -n 15 "$log" >&2
        echo "deps: apt-get could not install: $missing" >&2
        exit 1
    fi
fi
exec "$0" --check "$@"

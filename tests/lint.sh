#!/bin/sh
# Checks what a compiler does not. `make lint` builds first and then runs
#
#   tests/lint.sh BUILD_DIR          (CC and INCLUDES from the environment)
#
# Each finding is a line `path:line: what`; `warning:` ones do not count. Exit status 1 on findings.
set -u
export LC_ALL=C

out=$1
CC=${CC:-gcc}
INCLUDES=${INCLUDES:--I.}
findings=$(mktemp) || exit 1
trap 'rm -f "$findings"' EXIT

folders="format kernels runtime prep"
mains="prep/corm_prep.c runtime/run/corm_run.c runtime/serve/corm_serve.c"
signals="$mains format/fatal.c" # what handles signals
sources() { # the C and CUDA files in the given folders and below
    find "$@" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.inc' \) | sort
}
code=$(sources $folders)
tests=$(sources tests docs)
texts=$(find . -path ./build -prune -o -path ./.git -prune -o -type f \( -name '*.[ch]' -o -name '*.cu' \
    -o -name '*.sh' -o -name '*.py' -o -name '*.md' -o -name Makefile -o -path ./.ci/run \) -print |
    sed 's|^\./||' | sort)

report() { cat >>"$findings"; }

# report_matches TEXT REGEX FILE...: every line that matches is a finding.
report_matches() {
    text=$1 regex=$2
    shift 2
    [ $# -eq 0 ] || grep -nHE -e "$regex" "$@" /dev/null |
        awk -F: -v text="$text" '{print $1 ":" $2 ": " text}' | report
}

# Prints those of the files after `--` that match none of the patterns before it.
except() {
    patterns=
    while [ "$1" != -- ]; do
        patterns="$patterns $1"
        shift
    done
    shift
    for file in "$@"; do
        keep=1
        for pattern in $patterns; do
            case $file in $pattern) keep= ;; esac
        done
        [ -z "$keep" ] || echo "$file"
    done
}

# ---- includes go one way: format <- kernels <- runtime <- prep -----------------------------------

awk '
BEGIN { split("format kernels runtime prep", names); for (i in names) rank[names[i]] = i }
/^#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\""); split(FILENAME, here, "/"); split(quoted[2], there, "/")
    if (FILENAME == "runtime/corm_grammar.h" && quoted[2] == "corm.h")
        next # installed side by side
    if (quoted[2] !~ /\//)
        print FILENAME ":" FNR ": include \"" quoted[2] "\" is not written from the root"
    else if (!(there[1] in rank))
        print FILENAME ":" FNR ": includes " quoted[2] ", which is not of the product"
    else if (rank[there[1]] > rank[here[1]])
        print FILENAME ":" FNR ": " here[1] "/ must not include " quoted[2]
}' $code /dev/null | report
report_matches 'a public header includes project headers' '^#[ 	]*include[ 	]*"[^"]*/' \
    runtime/corm.h runtime/corm_grammar.h

# ---- rooms are entered by their doors ------------------------------------------------------------

# The table is in docs/ARCHITECTURE.md: a room (a folder in a floor), headers of it, and the rooms or
# floors whose files may include them. Nothing else of a room is included from outside. A floor itself
# is open, but not to a room that a row of the floor names. Each row has to be used.
awk '
# Puts the `quoted` words of a cell into list; returns how many they are.
function words(cell, list,    n, i, part) {
    n = split(cell, part, "`")
    for (i = 2; i <= n; i += 2) list[i / 2] = part[i]
    return int(n / 2)
}
function folder_of(path) { sub(/[^\/]*$/, "", path); return path }
FILENAME ~ /\.md$/ {
    if (/^#/) table = /^### Rooms and doors/
    if (!table || !/^\| `/) next
    split($0, cell, "|")
    words(cell[2], room)
    is_room[room[1]] = 1
    n_doors = words(cell[3], doors)
    n_guests = words(cell[4], guests)
    for (d = 1; d <= n_doors; d++)
        for (g = 1; g <= n_guests; g++) {
            row[room[1] doors[d], guests[g]] = FILENAME ":" FNR
            bound[room[1], guests[g]] = 1
        }
    next
}
FNR == 1 {
    here = folder_of(FILENAME)
    if (here ~ /\/.*\// && !(here in is_room))
        print FILENAME ":0: the room " here " is not in the table of docs/ARCHITECTURE.md"
}
/^#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\"")
    there = folder_of(quoted[2])
    used[quoted[2], here] = 1
    if (there != here && (there ~ /\/.*\// || (there, here) in bound) && !((quoted[2], here) in row))
        print FILENAME ":" FNR ": " quoted[2] " is no door of " there " for " here
}
END {
    for (r in row) if (!(r in used)) {
        split(r, part, SUBSEP)
        print row[r] ": nothing in " part[2] " includes " part[1]
    }
}' docs/ARCHITECTURE.md $code | report

# ---- libraries live in fixed places --------------------------------------------------------------

# home REGEX-OF-HEADERS PATTERN...: only files that match a pattern may include them.
home() {
    headers=$1
    shift
    set -f
    strangers=$(except "$@" -- $code)
    set +f
    report_matches "a header ($headers) that belongs in: $*" "^#[ 	]*include[ 	]*<($headers)>" \
        $strangers
}
home 'cblas\.h|lapacke?\.h|openblas.*' prep/calib/blas.c prep/calib/fit.c
home 'archive.*\.h' 'prep/*'
home 'zstd.*\.h' 'format/corm_*' 'format/codec*'
home 'microhttpd\.h' runtime/serve/http.c
home 'jansson\.h' 'prep/*' 'format/safetensors*'
home 'pcre2\.h|utf8proc\.h' 'format/text/*'
home 'histedit\.h|editline/.*' 'runtime/run/*'
home 'xxh.*\.h' format/base.c
home 'cuda.*|cublas.*' 'kernels/cuda/*'
home '[a-z]*mmintrin\.h|arm_neon\.h' 'kernels/cpu/*_avx*' 'kernels/cpu/*_neon*' \
    'kernels/cpu/*_simd*'
home 'pthread\.h|stdatomic\.h|threads\.h' 'kernels/*' 'runtime/*' 'prep/*'

# ---- what only some may do -----------------------------------------------------------------------

# The history's place is where the XDG Base Directory Specification says.
report_matches 'getenv: users have flags' '(^|[^a-z_])(secure_)?getenv *\(' \
    $(except runtime/run/run_chat_file.c -- $code)
speakers=$(except $signals 'runtime/run/run*' 'runtime/bench/bench*' 'prep/convert*' 'prep/prep*' format/base.c \
    format/cli.c format/progress.c -- $code)
report_matches 'only the mains and their commands print and exit' \
    '(^|[^a-z_])(v?printf|puts|putchar|perror|_?exit|abort|f(printf|puts|putc)\(.*std(err|out).*) *\(?' \
    $(for file in $speakers; do
        grep -lE '(^|[^a-z_])(v?printf|puts|putchar|perror|_?exit|abort) *\(|std(err|out)' "$file"
    done | grep -v '\.h$')
report_matches 'follows the locale of the host program: use number.h' \
    '(^|[^a-z_])(strto(d|f|ld)|setlocale) *\(|(^|[^a-z_])v?snprintf *\([^;]*%[-+#0-9.*]*[eEfgG]' \
    $(except format/number.c 'runtime/run/*' 'runtime/bench/*' 'runtime/serve/*' 'prep/*' -- $code)
report_matches 'unsafe or lax function' \
    '(^|[^a-z_])(sprintf|vsprintf|strcpy|strcat|gets|alloca|atoi|atol|atof|strtok|rand|srand) *\(' $code
report_matches 'bare allocation: use mem_* of base.h' '(^|[^a-z_])(malloc|calloc|realloc|strdup) *\(' \
    $(except format/base.c 'format/*.h' -- $code)

# ---- text ----------------------------------------------------------------------------------------

forbidden='(^|[^A-Za-z])(TO''DO|FIX''ME|XX''X)([^A-Za-z]|$)|/wo''rk/|[Ii]ssue [#]?[0-9]'
report_matches 'forbidden word' "$forbidden" $texts
report_matches 'line over 100 columns' '^.{101,}' $code $tests
report_matches 'tab or trailing blank' '	|[ ]+$' $code $tests

wc -l $code $tests | awk '$2 != "total" && $1 > 600 {
    product = $2 !~ /^tests/
    printf "%s:%d: %s%d lines\n", $2, $1, ($1 > 700 && product) ? "" : "warning: ", $1
}' | report
awk 'FNR == 1 { start = 0 }
/^[A-Za-z_]/ && !/^[a-z_]+:$/ { start = FNR }
/^}$/ && start {
    n = FNR - start + 1
    if (n > 80) printf "%s:%d: %sfunction of %d lines\n", FILENAME, start, (n > 100) ? "" : "warning: ", n
    start = 0
}' $code /dev/null | report
for file in $code; do basename "$file"; done | grep '\.c$' | sort | uniq -d |
    sed 's/$/:0: file name is used twice/' | report

for file in $code $tests; do
    clang-format-16 --dry-run "$file" 2>&1 | grep -E -m 1 'warning:' |
        sed -E 's/^([^:]*:[0-9]+):.*/\1: not in the style of .clang-format (make format)/'
done | report
for file in $(find tests .ci -name '*.sh' -o -path .ci/run); do
    sh -n "$file" 2>&1 | sed "s|^|$file:0: |"
done | report

# ---- every header compiles alone -----------------------------------------------------------------

for header in $(printf '%s\n' $code $tests | grep '\.h$'); do
    case $header in tests/*) unused=-Wno-unused-function ;; *) unused= ;; esac
    case $header in */emulate.h) language='c++ -std=c++17' ;; *) language='c -std=c11' ;; esac
    echo "#include \"$header\"" |
        $CC -D_GNU_SOURCE $INCLUDES -Wall -Wextra -Werror $unused -fsyntax-only -x $language - \
            >/dev/null 2>&1 || echo "$header:1: does not compile alone"
done | report

# ---- what was built ------------------------------------------------------------------------------

# Global state: nothing writable but constants that the loader relocates. What handles signals may hold
# what a handler sets or needs.
for source in $(except '*.h' '*.cu' '*.inc' $signals -- $code); do
    object=$out/${source%.c}.o
    [ ! -f "$object" ] || objdump -t "$object" |
        grep -E '^[0-9a-f]+ [^d]{7} (\.(data|bss|tdata|tbss)|\*COM\*)' | grep -v '\.data\.rel\.ro' | awk -v source="$source" '{print source ":0: global state: " $NF}'
done | report

allowed='lib(c|m|pthread|dl|rt|zstd|xxhash|pcre2-8|utf8proc|stdc\+\+|gcc_s)\.so[.0-9]*|ld-linux.*'
for program in corm-run libcorm.so; do
    [ $program = libcorm.so ] && more=none || more='libedit\.so[.0-9]*'
    [ ! -e "$out/$program" ] || readelf -d "$out/$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        grep -vxE "$allowed|$more" | sed "s|^|$out/$program:0: must not need |"
done | report
if [ -e "$out/libcorm.so" ]; then
    nm -D --defined-only "$out/libcorm.so" | awk '$3 !~ /^corm_/ {print $3}' |
        sed "s|^|$out/libcorm.so:0: exports |" | report
    if [ -f runtime/corm.h ] && ! nm -D --defined-only "$out/libcorm.so" | grep -q ' corm_'; then
        echo "$out/libcorm.so:0: exports nothing: runtime/corm.h must set default visibility" | report
    fi
fi

sort -u "$findings" | sort -s -t: -k1,1 -k2,2n
problems=$(sort -u "$findings" | grep -cv ': warning: ')
echo "lint: $(printf '%s\n' $code $tests | wc -l) files, $problems problems"
[ "$problems" -eq 0 ]

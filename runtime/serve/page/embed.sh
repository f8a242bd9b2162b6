#!/bin/sh
# Writes the page as C source: embed.sh FOLDER >page_files.c
#
# The page is one document: in index.html each line that is <link rel="stylesheet" href="FILE"> or
# <script src="FILE"></script> gives way to what that file holds, byte for byte, and the policy names the hash of
# each, so that a browser runs these and nothing else.
set -eu
LC_ALL=C
export LC_ALL
dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

hash() { # the SHA-256 of a file, as base64
    printf "$(sha256sum <"$1" | awk '{
        for (i = 1; i < 65; i += 2)
            printf "\\%03o", 16 * (index("0123456789abcdef", substr($1, i, 1)) - 1) \
                + index("0123456789abcdef", substr($1, i + 1, 1)) - 1 }')" | base64
}

inline() { # TAG FILE
    [ -f "$dir/$2" ] || { echo "$dir/index.html: there is no $2" >&2; exit 1; }
    if grep -qi -e '<!--' -e '<script' -e "</$1" "$dir/$2"; then
        echo "$dir/$2: expected none of <!--, <script, </$1, as it stands inside of a document" >&2
        exit 1
    fi
    printf '<%s>' "$1"
    cat "$dir/$2"
    printf '</%s>\n' "$1"
    printf " 'sha256-%s'" "$(hash "$dir/$2")" >>"$work/$1"
}

while IFS= read -r line; do
    case $line in
    '<script src="'*'"></script>')
        name=${line#*\"}
        inline script "${name%%\"*}"
        ;;
    '<link rel="stylesheet" href="'*'">')
        name=${line%\">}
        inline style "${name##*\"}"
        ;;
    *) printf '%s\n' "$line" ;;
    esac
done <"$dir/index.html" >"$work/index"

bytes() { # NAME FILE
    printf 'const unsigned char page_%s[] = {\n' "$1"
    od -An -v -tu1 "$2" | sed 's/^ *//; s/  */,/g; s/$/,/'
    printf '};\nconst size_t page_%s_bytes = sizeof page_%s;\n' "$1" "$1"
}

echo '#include "runtime/serve/page.h"'
bytes index "$work/index"
bytes icon "$dir/icon.svg"
printf 'const char page_scripts[] = "%s";\n' "$(cat "$work/script")"
printf 'const char page_styles[] = "%s";\n' "$(cat "$work/style")"

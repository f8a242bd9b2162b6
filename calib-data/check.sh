#!/bin/sh
# Check the calibration text: print its size by kind and fail when it is too small, when less than
# half of it is stories, when a file is not clean UTF-8 text, or when a long line occurs twice.
# usage: check.sh    (from anywhere; needs only POSIX tools)
set -u
cd "$(dirname "$0")" || exit 2
LC_ALL=C
export LC_ALL

MIN_BYTES=120000       # all kinds together, without heldout
MIN_HELDOUT_BYTES=20000
MAX_LINE_TWICE=60      # a line longer than this may occur only once

failed=0
fail() {
    echo "check.sh: $*" >&2
    failed=1
}

size_of() {
    cat "$1"/*.txt | wc -c | tr -d ' '
}

documents_in() {
    # Every file holds one document more than it has separators.
    awk 'FNR == 1 || $0 == "<|endoftext|>" { n++ } END { print n + 0 }' "$1"/*.txt
}

total=0
printf '%-12s %6s %10s %9s\n' kind files documents bytes
for kind in stories dialogue questions technical code languages heldout; do
    if ! ls "$kind"/*.txt >/dev/null 2>&1; then
        fail "$kind: expected at least one .txt file"
        continue
    fi
    bytes=$(size_of "$kind")
    files=$(ls "$kind"/*.txt | wc -l)
    printf '%-12s %6d %10d %9d\n' "$kind" "$files" "$(documents_in "$kind")" "$bytes"
    case $kind in
    heldout)
        [ "$bytes" -ge "$MIN_HELDOUT_BYTES" ] ||
            fail "heldout: $bytes bytes, expected at least $MIN_HELDOUT_BYTES" ;;
    stories)
        stories=$bytes
        total=$((total + bytes)) ;;
    *)
        total=$((total + bytes)) ;;
    esac
done
printf '%-12s %6s %10s %9d\n' total '' '' "$total"
[ "$total" -ge "$MIN_BYTES" ] || fail "total: $total bytes, expected at least $MIN_BYTES"
[ $((2 * ${stories:-0})) -ge "$total" ] ||
    fail "stories: ${stories:-0} of $total bytes, expected at least half"

for f in */*.txt; do
    iconv -f UTF-8 -t UTF-8 "$f" >/dev/null 2>&1 || fail "$f: expected valid UTF-8"
    if [ "$(tr -d '\r\000' <"$f" | wc -c)" -ne "$(wc -c <"$f")" ]; then
        fail "$f: expected no carriage return and no NUL"
    fi
    [ -z "$(tail -c 1 "$f")" ] || fail "$f: expected a newline at the end"
    awk -v f="$f" '
        /<\|endoftext\|>/ {
            if ($0 != "<|endoftext|>" || text == 0) bad = FNR
            text = 0
            next
        }
        /[^ \t]/ { text++ }
        END {
            if (bad) print f ": line " bad ": expected <|endoftext|> alone, after a document"
            else if (text == 0) print f ": expected a document after the last <|endoftext|>"
        }' "$f" | grep . >&2 && failed=1
done

# Any line that occurs twice, whether in one file or in two, would be counted twice by the
# statistics; in heldout it would be a leak.
awk -v max="$MAX_LINE_TWICE" '
    length($0) > max {
        if ($0 in where) {
            print FILENAME ":" FNR ": repeats " where[$0] ": " substr($0, 1, 48) "..."
            next
        }
        where[$0] = FILENAME ":" FNR
    }' */*.txt | grep . >&2 && failed=1

exit "$failed"

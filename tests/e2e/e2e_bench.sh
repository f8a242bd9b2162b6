# What stands around measuring: published figures beside those of a machine, and that making models to
# measure needs nothing that only tests do.
. tests/e2e/util_e2e.sh
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

is() { # is NAME WANTED GOT
    if [ "$2" = "$3" ]; then
        echo "ok $1"
    else
        echo "not ok $1"
        printf 'wanted: %s\ngot:    %s\n' "$2" "$3" >&2
    fi
}

# figures RESIDENT GUESSED SHARE PREFILL LIMIT: tables as tests/bench.sh writes them.
figures() {
    cat <<END
## model

### In memory

    corm-run bench model.corm

\`\`\`
bf16, avx512, 2 threads, context 768; median of 5
           tokens      tok/s    slowest    fastest      GB/s  weights/tok  archive/tok
prefill       512    $4    21729.6    27383.0      2.45     91.6 KiB          0 B
\`\`\`

### Memory limited to $5 MB, run 1 of 3

\`\`\`
device 11055 MB/s (throttled); room for 50 % of the experts; 48 tokens, median of 3
                         tok/s    x B0   bound of bound     read/tok   hits  guessed/tok   useful   wasted   stall perplexity
resident                  $1
+ guess l+1               $2    1.57    1.76     $3     75.6 MiB   87 %     57.4 MiB     93 %      8 %     5 %
\`\`\`

A line of text: 12.3 tok/s.
END
}
figures 98.2 87.6 '89 %' 26169.8 4834 >"$dir/published.md"
figures 49.1 43.8 '95 %' 52339.6 4700 | sed 's/1\.57/1.60/' >"$dir/here.md"
beside=$(awk -f tests/beside.awk "$dir/published.md" "$dir/here.md" | tr -s ' ' | sed 's/ $//')
is 'speeds of a row without a ratio' 'resident 98.2 49.1 0.50' "$(echo "$beside" | grep '^resident')"
is 'ratio to B0 and share of the bound' '+ guess l+1 87.6 43.8 0.50 1.57 1.60 89 % 95 %' \
    "$(echo "$beside" | grep '^+ guess')"
is 'rows with a column before the speed' 'prefill 26169.8 52339.6 2.00' "$(echo "$beside" | grep '^prefill')"
is 'headings, without the size of a limit' 2 "$(echo "$beside" | grep -c '^model: ')"
is 'nothing else' 7 "$(echo "$beside" | grep -c .)"
echo '## other' >"$dir/other.md"
is 'nothing to compare' '(no speeds to compare)' "$(awk -f tests/beside.awk "$dir/other.md" "$dir/here.md")"

# Every table that docs/SPEED-tables.md has is understood.
tables=$(grep -c ' tok/s  ' docs/SPEED-tables.md)
is 'all published tables are read' "$tables" \
    "$(awk -f tests/beside.awk docs/SPEED-tables.md docs/SPEED-tables.md | grep -c ' tok/s ')"

# make bench-llama, bench-shapes and soak install what building needs, and not what tests need.
built=$(make -n --no-print-directory CUDA=0 BUILD="$dir/build" config=release all "$dir/build/release/synth" \
    2>/dev/null | grep -o ' -c [^ ]*\.c ' | cut -d ' ' -f 3)
is 'the programs and synth are built of some files' true \
    "$([ "$(echo "$built" | wc -l)" -gt 100 ] && echo true)"
# shellcheck disable=SC2086
is 'none of them needs cmocka' '' "$(grep -lE 'cmocka|util/test' $built)"

# Rows of two sets of tables of tests/bench.sh side by side:
#
#   awk -f tests/beside.awk PUBLISHED.md HERE.md
#
# Of each code block that has a column tok/s, and a heading that both files have: tok/s, and where there are
# such, the ratio to B0 and the share of the bound. Headings count with their section's, and without the size
# of a limit, which goes by the file.
function key_of(title) {
    sub(/limited to [0-9]+ MB/, "limited", title)
    return section "\n" title
}
# "  104.8    1.00" is split where two blanks or more are; a row's name comes first.
function keep(name, speed, ratio, share) {
    row = key SUBSEP name
    if (FNR == NR) {
        published[row] = speed SUBSEP ratio SUBSEP share
    } else if (row in published) {
        split(published[row], p, SUBSEP)
        if (key != shown) {
            shown = key
            split(key, words, "\n")
            printf "\n%s: %s\n%-26s %19s %7s %13s %15s\n", words[1], words[2], "", "tok/s", "", "x B0", "of bound"
        }
        change = p[1] > 0 ? sprintf("%.2f", speed / p[1]) : ""
        printf "%-26s %9s %9s %7s %6s %6s %7s %7s\n", name, p[1], speed, change, p[2], ratio, p[3], share
        rows++
    }
}
/^## / { section = substr($0, 4) }
/^### / { key = key_of(substr($0, 5)); column = 0 }
/^```/ { inside = !inside; column = 0 }
inside && / tok\/s/ && !column {
    n = split($0, heads, /  +/)
    for (i = 2; i <= n; i++) {
        column = heads[i] == "tok/s" ? i : column
    }
    # The column of the bound is headed "bound of bound", with that of the share.
    ablation = / x B0 /
    next
}
inside && column {
    n = split($0, cells, /  +/)
    if (n > column && cells[1] != "" && cells[column] ~ /^[0-9.]+$/) {
        has_ratio = ablation && cells[column + 1] ~ /^[0-9.]+$/
        keep(cells[1], cells[column], has_ratio ? cells[column + 1] : "", has_ratio ? cells[column + 3] : "")
    } else if (ablation && n == column && cells[column] ~ /^[0-9.]+$/) {
        keep(cells[1], cells[column], "", "")
    }
}
END {
    if (!rows) {
        print "(no speeds to compare)"
    }
}

# Sourced by tests/e2e/e2e_*.sh, which run from the project's root: names what they use, counts and prints cases.
set -u
LC_ALL=C
export LC_ALL

root=$(pwd)
build=${CORM_BUILD:-build/release}
case $build in /*) ;; *) build=$root/$build ;; esac
# Not empty under a sanitizer, which is slow: what runs the same code again is left out, as tests/util/test.h has it.
quick=${CORM_TEST_QUICK:-}
prep=$build/corm-prep
run=$build/corm-run
fable=${FABLE:-$root/tests/models/fable}
case $fable in /*) ;; *) fable=$root/$fable ;; esac

# What is ignored when a shell starts, as SIGHUP is under nohup, is ignored in what it runs, and so is SIGQUIT in
# what it runs in the background: put in front of a command that a signal is to end. Empty where env cannot
# reset signals.
default_hup=
if env --default-signal=HUP,QUIT true 2>/dev/null; then
    default_hup='env --default-signal=HUP,QUIT'
fi

# Makes a folder, which goes when the test ends, and enters it.
enter_work() {
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT TERM
    cd "$work" || exit 1
}

# fill_tensor DIR TENSOR OCTAL: every byte of a tensor of the checkpoint in DIR becomes that.
fill_tensor() {
    for shard in "$1"/*.safetensors; do
        n=$(od -An -tu8 -N8 "$shard")
        tail -c +9 "$shard" | head -c $n | grep -o "\"$2\": *{[^}]*}" |
            sed 's/.*"data_offsets": *\[\([0-9]*\), *\([0-9]*\)\].*/\1 \2/' >place
        read -r first end <place || continue
        tr '\0' "\\$3" </dev/zero | head -c $((end - first)) |
            dd of="$shard" bs=1 seek=$((8 + n + first)) conv=notrunc 2>/dev/null
        return
    done
    echo "$1: no tensor $2"
    return 1
}

failed=0
# case_ NAME COMMAND...: ok where the command succeeds.
case_() {
    case_name=$1
    shift
    if "$@" >log 2>&1; then
        echo "ok $case_name"
    else
        echo "not ok $case_name"
        sed 's/^/# /' log
        failed=1
    fi
}
skip() { echo "ok $1 # SKIP $2"; }

# has_text PATTERN FILE: where it has none, the file is shown.
has_text() { grep -q -- "$1" "$2" || { echo "no '$1' in $2:"; cat "$2"; return 1; }; }
